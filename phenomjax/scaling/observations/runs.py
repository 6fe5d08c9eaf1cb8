"""Runs as laws of scaling see them: how large a model, how much data, how low the loss."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.cluster.hierarchy import fcluster, linkage

Values = Float64[np.ndarray, " runs"]
COLUMNS = ("params", "seen", "unique", "flops", "loss")
ONE_BUDGET = 1.4  # runs within this factor of FLOPs are of one budget


@dataclass(frozen=True)
class Curve:
    """The validation loss of a run while it trained.

    Attributes:
      fraction: of the run's steps, ascending, above 0 to 1.
      loss: there.
      schedule: shape of the learning rate over the run: name, warm-up share, final share; () where
        unknown. Normalised curves of one shape collapse.
    """

    fraction: Float64[np.ndarray, " evaluations"]
    loss: Float64[np.ndarray, " evaluations"]
    schedule: tuple[str, float, float] | tuple[()] = ()


@dataclass(frozen=True)
class Observations:
    """Finished runs of one kind; the arrays are parallel.

    Attributes:
      names: what each run is called in messages: its folder, or "FILE, line 7".
      params: trainable parameters, N.
      seen: units that training read, D.
      unique: units of the training split, each once; NaN where unknown.
      flops: model FLOPs of the run, C; NaN where unknown.
      loss: of validation at the end, nats per unit.
      unit: what `seen` counts, "residues"; "" where unknown.
      metrics: {name: of the runs, NaN where one has none}.
      curves: of the runs that were read from folders.
      facts: what all runs have in common, {"task": …, "data": …}; {} of a table.
      left_out: runs that were given and are not here, a sentence each.
    """

    names: tuple[str, ...]
    params: Values
    seen: Values
    unique: Values
    flops: Values
    loss: Values
    unit: str = ""
    metrics: Mapping[str, Values] = field(default_factory=dict)
    curves: tuple[Curve | None, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.names)

    @property
    def cost(self) -> Values:
        """FLOPs, 6 N D where they are not known."""
        return np.where(np.isfinite(self.flops), self.flops, 6 * self.params * self.seen)

    def take(self, which: Bool[np.ndarray, " runs"] | Int[np.ndarray, " taken"]) -> "Observations":
        """Some of the runs, by a mask or by their numbers (a run may come several times)."""
        places = np.arange(len(self))[which]
        return dataclasses.replace(
            self,
            names=tuple(self.names[place] for place in places),
            metrics={name: values[places] for name, values in self.metrics.items()},
            curves=tuple(self.curves[place] for place in places) if self.curves else (),
            **{name: getattr(self, name)[places] for name in COLUMNS},
        )


def budget_of(flops: Values) -> Int[np.ndarray, " runs"]:
    """The budget of each run, 0 for the smallest: those within a factor of `ONE_BUDGET` are one."""
    if len(flops) < 2:
        return np.zeros(len(flops), np.int64)
    tree = linkage(np.log(flops)[:, None], "complete")
    clusters = fcluster(tree, np.log(ONE_BUDGET), "distance")
    smallest = [flops[clusters == cluster].min() for cluster in range(1, clusters.max() + 1)]
    return np.argsort(np.argsort(smallest))[clusters - 1]

"""Runs as laws of scaling see them: how large a model, how much data, how low the loss.

They come from the folders of runs (`of_workdirs`) or from anyone's table (`of_csv`), and are
checked here, so that what is fitted to them need not ask again.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int

from phenomjax.system.errors import UserError, did_you_mean

Values = Float64[np.ndarray, " runs"]


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

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.names)

    def take(self, which: Bool[np.ndarray, " runs"] | Int[np.ndarray, " taken"]) -> "Observations":
        """Some of the runs, by a mask or by their numbers (a run may come several times)."""
        places = np.arange(len(self))[which]
        return dataclasses.replace(
            self,
            names=tuple(self.names[place] for place in places),
            metrics={name: values[places] for name, values in self.metrics.items()},
            curves=tuple(self.curves[place] for place in places) if self.curves else (),
            **{name: getattr(self, name)[places] for name in ARRAYS},
        )


ARRAYS = ("params", "seen", "unique", "flops", "loss")


def of_csv(path: Path, columns: Mapping[str, str]) -> Observations:
    """The runs of a table.

    Args:
      path: CSV.
      columns: {"params", "loss", and "tokens" or "flops": name of the column}.

    Raises:
      UserError: no such file or column.
    """
    import pandas as pd

    if not path.is_file():
        raise UserError(f"The table {path} of `runs` is not there. Correct the path.")
    table = pd.read_csv(path)
    for what, name in columns.items():
        if name not in table:
            raise UserError(
                f"{path} has no column '{name}', which `columns` names as {what}."
                f"{did_you_mean(name, map(str, table.columns))}"
            )
    arrays = {what: table[name].to_numpy(float) for what, name in columns.items()}
    unknown = np.full(len(table), np.nan)
    params, flops = arrays["params"], arrays.get("flops", unknown)
    seen = arrays["tokens"] if "tokens" in arrays else flops / 6 / params
    names = tuple(f"row {row + 2}" for row in range(len(table)))
    return Observations(
        names, params, seen, unknown, flops, arrays["loss"], curves=(None,) * len(table)
    )

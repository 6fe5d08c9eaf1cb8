"""Features and labels of a dataset as batches of one shape for heads: proteins, or the residues of
chains that lie one after the other.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

from phenomjax.probes.features.table import FeatureTable
from phenomjax.probes.methods.heads import GAP, Target
from phenomjax.probes.metrics import Predictions
from phenomjax.probes.suites.dataset import TRAIN, Dataset, Labels
from phenomjax.probes.suites.suite import MULTILABEL, RESIDUE, VALUE
from phenomjax.system.errors import UserError

Anything = np.ndarray | jax.Array  # of NumPy when it is read, of JAX when it is computed with


class PackedRows(NamedTuple):
    """Rows of one shape.

    Attributes:
      x: standardised features; zeros where there is no row.
      mask: where there is one.
      truths: of each label, as heads.losses takes them.
    """

    x: Float[Anything, "size dim"]
    mask: Bool[Anything, " size"]
    truths: tuple[Shaped[Anything, "size *classes"], ...]


class Packing:
    """Reads batches of a dataset's rows.

    Features are standardised by the mean and deviation of the training rows (residues), values by
    those of the training values.

    Args:
      features: of all rows.
      dataset: the labels.
      batch_size: proteins a batch; of residues on average, as many as fit into `size`.

    Attributes:
      targets: one of each label.
      size: rows (residues) of a batch.
      train: training rows with a label, int64.

    Raises:
      UserError: labels of residues and of proteins in one task, or a label without a training row.
    """

    def __init__(self, features: FeatureTable, dataset: Dataset, batch_size: int):
        self._features, self._labels = features, list(dataset.labels.values())
        kinds = {labels.kind == RESIDUE for labels in self._labels}
        if len(kinds) > 1:
            raise UserError(
                f"Task '{dataset.name}' has labels of residues and labels of whole proteins. One"
                " head cannot predict both: make two tasks of it."
            )
        self.per_residue = kinds.pop()
        if (features.per == "residue") != self.per_residue:
            raise ValueError(f"features per {features.per} for labels that are not")
        self.targets = tuple(
            Target(labels.kind, max(1, len(labels.classes))) for labels in self._labels
        )
        known = [labels.known() for labels in self._labels]
        train = dataset.rows(TRAIN)
        for name, of_label in zip(dataset.labels, known, strict=True):
            if not of_label[train].any():
                raise UserError(
                    f"Task '{dataset.name}': no training row has a known label '{name}', so nothing"
                    " can be learned. Check the label's column, `unknown` and the split."
                )
        self.train = train[np.any(known, 0)[train]]
        self.lengths = features.lengths if self.per_residue else np.ones(len(dataset), np.int64)
        self.gap = GAP if self.per_residue else 0
        self.size = self._size(batch_size)
        self._mean, self._scale = self._moments()
        self._value_scale = [_value_moments(labels, train) for labels in self._labels]
        self._empty = [_empty(labels, self.size) for labels in self._labels]

    def _size(self, batch_size: int) -> int:
        steps = -(-len(self.train) // batch_size)
        taken = self.lengths + self.gap
        return (
            int(max(-(-taken[self.train].sum() // steps), taken.max()))
            if self.per_residue
            else -(-len(self.train) // steps)
        )

    def _moments(self) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, " dim"]]:
        count, total, squares = 0, np.zeros(self._features.dim), np.zeros(self._features.dim)
        origin = self._vectors(self.train[:1]).mean(0)  # squares about it lose no digits
        for group in self.groups(self.train):
            x = self._vectors(group) - origin
            count += len(x)
            total += x.sum(0, dtype=np.float64)
            squares += np.square(x).sum(0, dtype=np.float64)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        deviation[deviation < 1e-6 * max(1e-30, deviation.max())] = 1  # a constant column
        return (origin + mean).astype(np.float32), (1 / deviation).astype(np.float32)

    def _vectors(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "vectors dim"]:
        """Of residues or proteins, float32."""
        if not self.per_residue:
            return self._features.take(rows)
        return np.concatenate(
            [self._features.batch([row], int(self.lengths[row]))[0] for row in rows.tolist()]
        )

    def groups(self, rows: Int[np.ndarray, " rows"]) -> list[Int[np.ndarray, " _"]]:
        """Rows in their order, cut into batches."""
        groups, begin, filled = [], 0, 0
        for i, taken in enumerate((self.lengths[rows] + self.gap).tolist()):
            if filled + taken > self.size:
                groups.append(rows[begin:i])
                begin, filled = i, 0
            filled += taken
        return [*groups, rows[begin:]] if len(rows) else []

    def _places(self, group: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " vectors"]:
        """Where in a batch each vector of its rows lies."""
        ends = np.cumsum(self.lengths[group] + self.gap)
        first = ends - self.lengths[group] - self.gap
        return np.concatenate(
            [
                np.arange(start, start + size)
                for start, size in zip(first, self.lengths[group], strict=True)
            ]
        )

    def read(self, group: Int[np.ndarray, " rows"]) -> PackedRows:
        """One batch."""
        places = self._places(group)
        x, mask = np.zeros((self.size, self._features.dim), np.float32), np.zeros(self.size, bool)
        x[places], mask[places] = (self._vectors(group) - self._mean) * self._scale, True
        truths = []
        for labels, empty, (mean, scale) in zip(
            self._labels, self._empty, self._value_scale, strict=True
        ):
            truth = empty.copy()
            values = (
                np.concatenate([labels.values[row] for row in group])
                if self.per_residue
                else labels.values[group]
            )
            truth[places] = (values - mean) / scale if labels.kind == VALUE else values
            truths.append(truth)
        return PackedRows(x, mask, tuple(truths))

    def unpack(
        self,
        number: int,
        group: Int[np.ndarray, " rows"],
        values: Num[np.ndarray, "size *classes"],
    ) -> list[np.ndarray]:
        """What a head predicts of one label (its number) in a batch as one array for each row, in
        the label's own unit.
        """
        mean, scale = self._value_scale[number]
        values = values[self._places(group)] * np.float32(scale) + np.float32(mean)
        if self.per_residue:
            return np.split(values, np.cumsum(self.lengths[group])[:-1])
        return [np.asarray(value) for value in values]


def _value_moments(labels: Labels, train: np.ndarray) -> tuple[float, float]:
    if labels.kind != VALUE:
        return 0.0, 1.0
    values = labels.values[train]
    return float(np.nanmean(values)), float(np.nanstd(values)) or 1.0


def _empty(labels: Labels, size: int) -> Shaped[np.ndarray, "{size} *classes"]:
    """Labels of a batch of which nothing is known."""
    if labels.kind == MULTILABEL:
        return np.zeros((size, len(labels.classes)), bool)
    return (
        np.full(size, np.nan, np.float32) if labels.kind == VALUE else np.full(size, -1, np.int32)
    )


def as_scores(parts: list[np.ndarray], kind: str) -> Predictions:
    """Predictions of rows in the form that metrics.evaluate takes."""
    return parts if kind == RESIDUE else np.stack(parts)

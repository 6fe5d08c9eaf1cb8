"""Features that are read, changed and written block by block, so that a method needs no second copy
of a table that may be larger than memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from phenomjax.maps.tables import scratch
from phenomjax.system.log import Progress

Rows: TypeAlias = Int[np.ndarray, " some"]
Values: TypeAlias = Float64[np.ndarray, "some dim"]
Step: TypeAlias = Callable[[Values, Rows], Values]


@dataclass(frozen=True)
class Stream:
    """Rows of features with the steps that they go through as they are read, float64.

    Attributes:
      features: float [rows, columns], in memory or mapped.
      dim: numbers of a row after all steps.
      steps: functions of some rows' values and of which rows they are.
    """

    features: Float[np.ndarray, "rows columns"]
    dim: int
    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, features: Float[np.ndarray, "rows columns"]) -> "Stream":
        """The features as they are."""
        return cls(features, features.shape[1])

    def __len__(self) -> int:
        return len(self.features)

    def then(self, step: Step, dim: int | None = None) -> "Stream":
        """The stream with one more step, that leaves rows of `dim` numbers (as before if None)."""
        return replace(self, dim=dim or self.dim, steps=(*self.steps, step))

    def at(self, rows: Rows) -> Values:
        """Some rows, float64 [rows, dim], which have to fit memory."""
        values = scratch.gather(self.features, rows).astype(np.float64)
        for step in self.steps:
            values = step(values, rows)
        return values

    def blocks(self, rows: Rows | None = None, label: str = "") -> Iterator[tuple[Rows, Values]]:
        """Blocks of rows and their values, in the given order; of all rows where None.

        Args:
          rows: which.
          label: of what is done with them, for the progress of a large table.
        """
        rows = np.arange(len(self)) if rows is None else rows
        bar = Progress(label, len(rows), "rows") if label and self.is_large else None
        for some in scratch.blocks(len(rows), max(self.features.shape[1], self.dim)):
            yield rows[some], self.at(rows[some])
            if bar:
                bar.update(some.stop - some.start)

    @property
    def is_large(self) -> bool:
        """Whether the features are not in memory."""
        return scratch.is_mapped(self.features)

    def array(self) -> Float64[np.ndarray, "rows dim"]:
        """All rows after all steps in memory, float64 [rows, dim]."""
        return self.at(np.arange(len(self)))

    def collect(self, order: Rows | None = None) -> Float32[np.ndarray, "rows dim"]:
        """All rows after all steps, float32 [rows, dim], mapped where they are large; worked on in
        `order`, a permutation.
        """
        out = scratch.beside(self.features, len(self), self.dim)
        for rows, values in self.blocks(order, "align"):
            out[rows] = values
            scratch.release(out)
        return out

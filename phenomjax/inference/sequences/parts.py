"""Features of some neighbouring sequences in the order of work, in memory; and how the batches of
a plan are divided into units of work.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int, Num

UNIT_BATCHES = 64  # seconds to a minute of work
UNIT_BYTES = 128 << 20  # of features that a worker holds


class Part:
    """Features of sequences, filled by `embed.fill`.

    Args:
      features: to fill.
      rows: of each sequence.
      first: the place of the first sequence in the order of work.

    Attributes:
      starts: the first row of each sequence, and the end.
    """

    def __init__(
        self,
        features: Num[np.ndarray, "rows dim"],
        rows: Int[np.ndarray, " sequences"],
        first: int = 0,
    ):
        self.features, self._first = features, first
        self.starts = np.concatenate([[0], np.cumsum(rows)])

    def write(
        self,
        group: int,
        columns: slice,
        start: int,
        values: Float[np.ndarray, "residues columns"],
    ) -> None:
        """Sets features of a sequence from residue `start` on."""
        place = self.starts[group - self._first] + start
        self.features[place : place + len(values), columns] = values

    def wrote(self, batch: int) -> None:
        """Memory keeps no account."""

    def save(self) -> None:
        """Memory forgets all or nothing."""


def units(sizes: Sequence[int] | Int[np.ndarray, " batches"]) -> Iterator[range]:
    """Neighbouring batches that are a unit of work, a function of the argument alone.

    Args:
      sizes: bytes of the features of each batch.
    """
    start, held = 0, 0
    for number, size in enumerate(sizes):
        if number > start and (number - start == UNIT_BATCHES or held + size > UNIT_BYTES):
            yield range(start, number)
            start, held = number, 0
        held += int(size)
    yield range(start, len(sizes))

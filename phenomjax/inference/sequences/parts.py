"""Features of some neighbouring sequences in the order of work, in memory; and how the batches of
a plan are divided into units of work.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Num

from phenomjax.engine.units import Unit
from phenomjax.inference.sequences.batches import SequenceBatch
from phenomjax.system import files

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

    def units(self, plan: Sequence[SequenceBatch]) -> list[Unit[range]]:
        """The units of work of a plan, and their batches."""
        return named_units(plan, self.starts, self.features[:1].nbytes)

    def take(self, path: Path, plan: Sequence[SequenceBatch]) -> None:
        """Brings what a worker computed to its place."""
        for group, features in read_unit(path, plan, self.starts, self.features.dtype):
            self.write(group, slice(None), 0, features)
        for batch in batches_of(path.name):
            self.wrote(batch)
        files.remove(path)


def named_units(
    plan: Sequence[SequenceBatch], starts: Int[np.ndarray, " sequences_and_end"], row_bytes: int
) -> list[Unit[range]]:
    """The units of work of a plan, and their batches.

    Args:
      plan: of the batches.
      starts: first row of each sequence in the order of work, and the end.
      row_bytes: of the features.
    """
    sizes = np.diff(starts[[batch.stop for batch in plan]], prepend=starts[0]) * row_bytes
    return [Unit(f"{numbers.start}-{numbers.stop}", numbers) for numbers in units(sizes)]


def batches_of(name: str) -> range:
    """The batches of a unit."""
    return range(*map(int, name.split("-")))


def read_unit(
    path: Path,
    plan: Sequence[SequenceBatch],
    starts: Int[np.ndarray, " sequences_and_end"],
    dtype: np.dtype,
) -> Iterator[tuple[int, Num[np.ndarray, "rows dim"]]]:
    """(place in the order of work, features) of each sequence that a worker computed, from the file
    with the name of its unit.
    """
    numbers = batches_of(path.name)
    first, stop = plan[numbers.start].start, plan[numbers.stop - 1].stop
    ends = starts[first : stop + 1] - starts[first]
    values = np.fromfile(path, dtype).reshape(int(ends[-1]), -1)
    yield from enumerate(np.split(values, ends[1:-1]), first)


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

"""Features of sequences as one table, in memory or mapped from disk."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Num

from phenomjax.inference.sequences.parts import Part

PER = ("protein", "residue")  # what a vector stands for


class FeatureTable:
    """Features of n sequences; nothing big is read before it is asked for.

    Args:
      arrays: in memory or mapped.
      where: the array that holds a sequence.
      firsts: its first row there.
      lengths: its residues.
      per: a name in PER; a protein has one row, or as many as residues.

    Attributes:
      dim: of a vector.
      per, lengths: as above.
    """

    def __init__(
        self,
        arrays: Sequence[Num[np.ndarray, "_ dim"]],
        where: Int[np.ndarray, " sequences"],
        firsts: Int[np.ndarray, " sequences"],
        lengths: Int[np.ndarray, " sequences"],
        per: str,
    ):
        self._arrays, self._where, self._firsts = list(arrays), where, firsts
        self.lengths, self.per = np.asarray(lengths, np.int64), per
        self.dim = int(arrays[0].shape[1])

    @classmethod
    def of_arrays(
        cls,
        arrays: Num[np.ndarray, "sequences dim"] | Sequence[Num[np.ndarray, "_ dim"]],
        lengths: Int[np.ndarray, " sequences"] | None = None,
    ) -> "FeatureTable":
        """From memory: one array of proteins (whose `lengths` are 1 unless they are given), or one
        array of residues for each sequence.
        """
        n = len(arrays)
        if isinstance(arrays, np.ndarray):
            lengths = np.ones(n, np.int64) if lengths is None else lengths
            return cls([arrays], np.zeros(n, int), np.arange(n), lengths, "protein")
        lengths = np.array([len(array) for array in arrays])
        return cls(arrays, np.arange(n), np.zeros(n, int), lengths, "residue")

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows dim"]:
        """Vectors of proteins, float32."""
        assert self.per == "protein", "a residue's vectors come in batches"
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), self.dim), np.float32)
        for number in np.unique(self._where[rows]):
            mine = self._where[rows] == number
            out[mine] = self._arrays[number][self._firsts[rows[mine]]]
        return out

    def batch(
        self, rows: Sequence[int] | Int[np.ndarray, " rows"], length: int
    ) -> Float[np.ndarray, "rows {length} dim"]:
        """Vectors of residues, float32; zeros behind the end of a sequence, cut at `length`."""
        assert self.per == "residue", "a protein's vector is taken"
        out = np.zeros((len(rows), length, self.dim), np.float32)
        for i, row in enumerate(rows):
            size, first = min(int(self.lengths[row]), length), int(self._firsts[row])
            out[i, :size] = self._arrays[self._where[row]][first : first + size]
        return out


class FeatureStore(Part):
    """Rows that a model fills sequence by sequence; in memory, unless a subclass maps them."""

    def write(
        self,
        group: int,
        columns: slice,
        start: int,
        values: Float[np.ndarray, "residues columns"],
    ) -> None:
        """Sets features of a sequence from residue `start` on.

        Raises:
          FloatingPointError: a number is infinite, or none.
        """
        if not np.isfinite(values).all():
            raise FloatingPointError
        super().write(group, columns, start, values)

"""Which profiles a profile should find (its positives), and among which (its negatives): columns
that two profiles must share, and columns in which they must differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int, Shaped

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Conditions:
    """When two rows are a pair: all that is in `same` agrees, and nothing that is in `differ`.

    Attributes:
      same, differ: codes of the rows' values, one int64 [rows] a column.
      among: bool [rows], which rows can be found; None for all.
    """

    same: tuple[Int[np.ndarray, " rows"], ...] = ()
    differ: tuple[Int[np.ndarray, " rows"], ...] = ()
    among: Bool[np.ndarray, " rows"] | None = None

    def partners(
        self, rows: Int[np.ndarray, " some"], others: Int[np.ndarray, " others"]
    ) -> Bool[np.ndarray, "some others"]:
        """Which of others are a pair with each of some rows, where `same` and `among` hold already
        (`groups`); none is with itself.
        """
        pair = rows[:, None] != others
        for codes in self.differ:
            pair &= codes[rows, None] != codes[others]
        return pair

    def groups(self, count: int) -> "Groups":
        """All `count` rows by what is in `same`."""
        joint = np.zeros(count, np.int64)
        for codes in self.same:
            joint = codes_of(joint * (int(codes.max(initial=0)) + 1) + codes)
        return Groups(joint, np.ones(count, bool) if self.among is None else self.among)


class Groups:
    """Rows that share a code, of those that can be found.

    Args:
      codes: from 0, int64 [rows].
      among: bool [rows], which can be found.
    """

    def __init__(self, codes: Int[np.ndarray, " rows"], among: Bool[np.ndarray, " rows"]):
        self.codes = codes
        found = np.flatnonzero(among)
        self._rows = found[np.argsort(codes[found], kind="stable")]
        sizes = np.bincount(codes[found], minlength=int(codes.max(initial=-1)) + 1)
        self._ends = np.concatenate([[0], np.cumsum(sizes)])

    def of(self, code: int) -> Int[np.ndarray, " some"]:
        """Rows with a code, in rising order."""
        return self._rows[self._ends[code] : self._ends[code + 1]]


def codes_of(values: "Shaped[np.ndarray, ' rows'] | pd.Series") -> Int[np.ndarray, " rows"]:
    """Equal values, equal numbers from 0; what is missing is equal to what is missing."""
    import pandas as pd

    return pd.factorize(values, use_na_sentinel=False)[0].astype(np.int64)


def conditions(
    metadata: "pd.DataFrame", sameby: Sequence[str], diffby: Sequence[str]
) -> Conditions:
    """Of two lists of columns, as copairs has them: a pair agrees in every column of `sameby` and
    differs in every column of `diffby`.
    """
    return Conditions(
        tuple(codes_of(metadata[name]) for name in sameby),
        tuple(codes_of(metadata[name]) for name in diffby),
    )

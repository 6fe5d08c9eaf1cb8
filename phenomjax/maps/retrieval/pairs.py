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
        self, rows: Int[np.ndarray, " some"], count: int
    ) -> Bool[np.ndarray, "some {count}"]:
        """Which of all `count` rows are a pair with each of some; none is with itself."""
        pair = np.ones((len(rows), count), bool)
        for codes in self.same:
            pair &= codes[rows, None] == codes
        for codes in self.differ:
            pair &= codes[rows, None] != codes
        if self.among is not None:
            pair &= self.among
        pair[np.arange(len(rows)), rows] = False
        return pair


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

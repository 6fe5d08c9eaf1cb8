"""Ties of computed numbers: which of them are equal, whatever the machine rounded.

Two cosines that are equal on paper are rarely equal in a computer: a product of matrices adds up in
an order that depends on the block, the number of threads and the processor, and each order rounds
otherwise. Counts, ranks and thresholds that compare them bit by bit therefore differ between
machines, and by much where ties are many. Two mechanisms make them the same everywhere:

* Comparisons with a tolerance, `TIED`, which is far above the error of float32 and far below what
  anybody reads. No rounding to a grid: a tie at the edge of a cell would be split again. With a
  tolerance a tie is never split, because its members lie within the error of each other, and the
  error is within the tolerance; and a difference is mistaken only if it is as small as `TIED` to
  within that error, which concerns single values, never a whole tie.
* `cosines.exact_cosines`, where an order is asked for (a tolerance orders nothing): sums of
  products that are exact, so that they are the same bits in every order of adding.
"""

import numpy as np
from jaxtyping import Int, Num

# Errors of float32 cosines grow like the square root of the dimension: 1e-7 at 128 numbers a
# profile, and under a third of this at 4,000.
TIED = 2.0**-18


def less(
    null: Num[np.ndarray, " n"], values: Num[np.ndarray, "..."], tied: float = TIED
) -> Int[np.ndarray, "..."]:
    """How many of a sorted null are less than each value, those that tie with it not."""
    return np.searchsorted(null, values - np.asarray(tied, values.dtype), "left")


def at_most(
    null: Num[np.ndarray, " n"], values: Num[np.ndarray, "..."], tied: float = TIED
) -> Int[np.ndarray, "..."]:
    """How many of a sorted null are less than each value or tie with it."""
    return np.searchsorted(null, values + np.asarray(tied, values.dtype), "right")

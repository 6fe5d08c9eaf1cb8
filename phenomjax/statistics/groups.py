"""Rows that belong together."""

import numpy as np
from jaxtyping import Int


def rows_of_groups(
    codes: Int[np.ndarray, " rows"], groups: int = 0
) -> list[Int[np.ndarray, " some"]]:
    """The rows of each group, in rising order.

    Args:
      codes: group of each row, from 0.
      groups: at least so many, of which some may be empty.
    """
    counts = np.bincount(codes, minlength=groups)
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])

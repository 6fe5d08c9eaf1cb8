"""Doses that are meant to be one: 10 µM, of which a well got 9.98 and another 10.01 (as LINCS tells
them), or 0.3 that one file holds in 32 bits and another in 64. Else each well would be a dose of
its own, without a replicate.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

NEAR = 1.02  # doses of a design are further apart than by this factor
WIDEST = 1.1  # of doses that are one; more is a dose that varies on purpose


def as_meant(doses: "pd.Series") -> tuple["pd.Series", dict[float, int]]:
    """Doses, of which those that are meant to be one are: the roundest number among them.

    Args:
      doses: of each row; whole numbers and texts stay as they are.

    Returns:
      doses: the same rows.
      one: {dose: how many values it stands for}.
    """
    if doses.dtype.kind != "f":
        return doses, {}
    known = np.unique(doses[doses > 0].to_numpy(np.float64))
    starts = np.flatnonzero(known[1:] > NEAR * known[:-1]) + 1
    one: dict[float, int] = {}
    meant: dict[float, float] = {}
    for group in np.split(known, starts):
        if len(group) < 2 or group[-1] > WIDEST * group[0] or (group % 1 == 0).all():
            continue
        middle = float(np.median(group))
        rounded = (float(f"{middle:.{digits}g}") for digits in range(1, 17))
        dose = next(value for value in (*rounded, middle) if group[0] <= value <= group[-1])
        one[dose] = len(group)
        meant |= dict.fromkeys(group.tolist(), dose)
    return doses.map(lambda value: meant.get(value, value)), one

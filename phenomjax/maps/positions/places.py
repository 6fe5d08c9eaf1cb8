"""The position of a row on its plate: A01, …, in whatever way the table spells wells; with its row
and column.
"""

import re
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int, Shaped

from phenomjax.data.images.wells import normalise_well
from phenomjax.maps.tables.columns import as_texts

if TYPE_CHECKING:
    import pandas as pd

WELL = re.compile(r"([A-Z]{1,2})(\d\d)")


def position_of(text: str) -> str:
    """A well as a position: "a1", "r01c01" and "plate7_A01" are A01; what names no place of a plate
    stays as it is.
    """
    text = text.strip()
    whole = normalise_well(text)
    if WELL.fullmatch(whole):
        return whole
    last = normalise_well(re.split(r"[\s_:/|.-]", text)[-1])
    return last if WELL.fullmatch(last) else text


def positions_of(metadata: "pd.DataFrame", well: str) -> Shaped[np.ndarray, " rows"]:
    """Position of each row, object [rows]; "" where it is unknown.

    Args:
      well: column of the wells' names; a table without it knows no positions.
    """
    if well not in metadata.columns:
        return np.full(len(metadata), "", object)
    texts = as_texts(metadata[well])
    names = {text: position_of(text) for text in texts.unique()}
    return texts.map(names).to_numpy(object)


def rows_and_columns(
    positions: Shaped[np.ndarray, " rows"],
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Row and column of each position from 1, int64 [rows]; 0 where it names none."""
    names, codes = np.unique(positions.astype(str), return_inverse=True)
    found = np.zeros((len(names), 2), np.int64)
    for k, name in enumerate(names.tolist()):
        if match := WELL.fullmatch(name):
            row = 0
            for letter in match[1]:
                row = 26 * row + ord(letter) - ord("A") + 1
            found[k] = row, int(match[2])
    return found[codes, 0], found[codes, 1]

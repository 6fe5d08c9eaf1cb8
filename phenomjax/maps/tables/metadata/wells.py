"""Wells of tables that name a row and a column of the plate and no well: C and 5, or 3 and 5, is
C05.
"""

import re
from typing import TYPE_CHECKING

import numpy as np

from phenomjax.maps.tables.columns import prefix_of
from phenomjax.maps.tables.metadata.detection import NAMES, plain

if TYPE_CHECKING:
    import pandas as pd

ROWS = ("wellrow", "row", "platerow", "rowindex", "rowid")
COLUMNS = ("wellcolumn", "wellcol", "column", "col", "platecolumn", "columnindex", "columnid")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST_ROWS = 32  # of a plate of 1536 wells: A … Z, AA … AF


def with_wells(metadata: "pd.DataFrame") -> tuple["pd.DataFrame", tuple[str, ...]]:
    """The same metadata with a column of wells, where it has none but a row and a column each.

    Returns:
      The metadata, and the columns that name its wells (() where nothing was added).
    """
    import pandas as pd

    called = {plain(name): str(name) for name in reversed(metadata.columns)}
    if any(name in called for tier in NAMES["well"] for name in tier):
        return metadata, ()
    row = next((called[name] for name in ROWS if name in called), None)
    column = next((called[name] for name in COLUMNS if name in called), None)
    if row is None or column is None:
        return metadata, ()
    numbers = pd.to_numeric(metadata[column], errors="coerce").to_numpy(np.float64)
    letters = [_letters(value) for value in metadata[row]]
    good = np.isfinite(numbers) & (numbers == np.round(numbers)) & (numbers >= 0)
    named = good & np.array([bool(letter) for letter in letters], bool)
    if not named.any():
        return metadata, ()
    wells = [
        f"{letter}{number:02.0f}" if there else None
        for letter, number, there in zip(letters, numbers, named, strict=True)
    ]
    name = "Metadata_Well" if prefix_of(metadata.columns) else "well"
    return metadata.assign(**{name: wells}), (row, column)


def _letters(value: object) -> str:
    """A row's letters: "c" or 3 is "C"; "" of what names no row."""
    text = str(value).strip()
    if re.fullmatch(r"[A-Za-z]|A[A-Fa-f]", text):
        return text.upper()
    if not re.fullmatch(r"\d{1,2}(?:\.0+)?", text) or not 0 < float(text) <= MOST_ROWS:
        return ""
    first, second = divmod(int(float(text)) - 1, len(LETTERS))
    return ("A" if first else "") + LETTERS[second]

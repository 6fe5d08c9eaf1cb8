"""A table of what wells, plates or perturbations are, in any format: CSV, TSV, Parquet, .xlsx."""

from pathlib import Path
from typing import TYPE_CHECKING

from phenomjax.data.tables import plain_name, read_table
from phenomjax.maps.tables.frames import read_frame
from phenomjax.maps.tables.metadata.tidying import tidied
from phenomjax.maps.tables.metadata.wells import with_wells
from phenomjax.maps.tables.sources import DAMAGE
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def read_annotations(path: Path) -> "pd.DataFrame":
    """A table, tidied, with a column of wells; nameless columns are left out.

    Raises:
      UserError: no such table, nothing in it, two columns of one name, or it is damaged.
    """
    import pandas as pd

    if not path.is_file() and "#" not in path.name:
        raise UserError(f"`metadata`: there is no table at {path}.")
    name = plain_name(path)
    if name.endswith(".parquet"):
        try:
            frame = pd.read_parquet(path)
        except DAMAGE as error:
            raise UserError(f"`metadata` {path} cannot be read ({str(error)[:150]}).") from None
    elif ".xls" in name:
        sheet = read_table(path)
        frame = pd.DataFrame(sheet.rows, columns=list(sheet.columns), dtype=object)
        for column in frame:
            if not frame[column].dropna().str.fullmatch(r"0\d+").any():
                numbers = pd.to_numeric(frame[column], errors="coerce")
                whole = numbers.notna().sum() == frame[column].notna().sum()
                frame[column] = numbers if whole else frame[column]
    else:
        frame = read_frame(path)
    named = [c for c in frame.columns if str(c).strip() and not str(c).startswith("Unnamed:")]
    frame = frame.loc[:, named]
    if frame.columns.duplicated().any():
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"`metadata` {path}: two columns are named {twice!r}. Rename one of them.")
    if frame.empty:
        raise UserError(f"`metadata` {path} has no rows or no named columns.")
    return with_wells(tidied(frame.rename(columns=str)))[0]

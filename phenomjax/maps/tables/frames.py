"""Tables as pandas reads them, once data/tables knows how they are written: compression, encoding,
separator and decimal commas are told by the bytes.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phenomjax.data import separators, tables, text_files
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("phenomjax")


def read_frame(path: Path) -> "pd.DataFrame":
    """A table of text as a frame; plates keep their leading zeros ("007" and "7" are two plates).

    Raises:
      UserError: no such file, or it is no text.
      ValueError: pandas cannot read it.
    """
    import pandas as pd

    contents = text_files.look(path)
    if contents.kind != "text":
        raise text_files.no_text(contents, "a table (CSV or TSV)")
    form = separators.find_form(contents.head, whole=contents.whole, name=tables.plain_name(path))
    if not form.columns:
        raise UserError(f"{path} is empty: it has no line that names columns.")
    said = [part for part in (contents.said, *form.said) if part not in ("", "gzip")]
    if said:
        log.info("%s: %s", path, ", ".join(said))
    plates = [name for name in form.columns if _names_plates(name)]
    options: dict[str, Any] = {
        "sep": form.separator,
        "decimal": "," if form.decimal_comma else ".",
        "low_memory": False,
        "converters": dict.fromkeys(plates, str),
    }
    if form.first_row != 1 or form.width != len(form.columns):
        options |= {"header": None, "skiprows": form.first_row, "names": list(form.columns)}
    with text_files.open_text(contents) as text:
        frame = pd.read_csv(text, **options)
    for name in plates:
        if name in frame:
            frame[name] = _as_numbers(frame[name])
    return frame


def _names_plates(column: str) -> bool:
    return "plate" in column.lower() or "barcode" in column.lower()


def _as_numbers(texts: "pd.Series") -> "pd.Series":
    """What pandas would have made of a column, unless a name in it begins with a zero."""
    import pandas as pd

    known = texts.where(~texts.isin(tables.MISSING))
    if known.dropna().str.fullmatch(r"0\d+").any():
        return known
    try:
        return pd.to_numeric(known)
    except (ValueError, TypeError):
        return known

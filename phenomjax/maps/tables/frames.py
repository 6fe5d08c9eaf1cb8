"""Tables as pandas reads them, once data/tables knows how they are written: compression, encoding,
separator and decimal commas are told by the bytes.
"""

import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phenomjax.data import separators, tables, text_files
from phenomjax.maps.tables.scratch import rows_of_a_block
from phenomjax.maps.tables.sources import apart
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

TAIL = 2**20  # bytes in which a last line is looked for
log = logging.getLogger("phenomjax")


@dataclass(frozen=True)
class Written:
    """How a table of text is written.

    Attributes:
      contents: of the file.
      columns: their names, each once: a second "A" is called "A#2".
      doubles: {"A#2": "A"}.
      options: of pandas.read_csv.
    """

    contents: text_files.Contents
    columns: tuple[str, ...]
    doubles: dict[str, str]
    options: dict[str, Any]


def look(path: Path) -> Written:
    """Tells how a table is written.

    Raises:
      UserError: no such file, or it is no text, or empty.
    """
    contents = text_files.look(path)
    if contents.kind != "text":
        raise text_files.no_text(contents, "a table (CSV or TSV)")
    form = separators.find_form(contents.head, whole=contents.whole, name=tables.plain_name(path))
    if not form.columns:
        raise UserError(f"{path} is empty: it has no line that names columns.")
    said = [part for part in (contents.said, *form.said) if part not in ("", "gzip")]
    if said:
        log.info("%s: %s", path, ", ".join(said))
    names, first_row = form.columns, form.first_row
    if below := _named_below(contents.head, form):
        names, first_row = below, first_row + 1
    # pandas' word for a column without a name, as it writes its index
    names = tuple(name or f"Unnamed: {k}" for k, name in enumerate(names))
    columns = apart(names)
    options: dict[str, Any] = {
        "sep": form.separator,
        "decimal": "," if form.decimal_comma else ".",
        "low_memory": False,
        "converters": dict.fromkeys(filter(_names_plates, columns), str),
    }
    if first_row != 1 or form.width != len(form.columns) or columns != form.columns:
        options |= {"header": None, "skiprows": first_row, "names": list(columns)}
    doubles = {new: old for new, old in zip(columns, names, strict=True) if new != old}
    return Written(contents, columns, doubles, options)


def _named_below(head: str, form: separators.Form) -> tuple[str, ...]:
    """Names of a table of CellProfiler whose first line names the objects and its second the
    measurements ("Image,Cells,Cells" above "ImageNumber,ObjectNumber,AreaShape_Area"); () of
    others.
    """
    lines = head.splitlines()
    if len(lines) <= form.first_row or len(set(form.columns)) > len(form.columns) / 2:
        return ()
    names = lines[form.first_row].split(form.separator)
    if len(names) != len(form.columns) or not {"ImageNumber", "ObjectNumber"} & set(names):
        return ()
    return tuple(
        name if re.fullmatch("(Image|Object)Number|Metadata_.*", name) else f"{owner}_{name}"
        for owner, name in zip(form.columns, names, strict=True)
    )


def is_cut_off(written: Written) -> bool:
    """Whether the last line of a table has fewer columns than its header, as of a file whose copy
    was broken off. Of a packed file, whose damage is an error, nothing is told.
    """
    contents = written.contents
    if contents.compression or contents.encoding not in ("utf-8", "cp1252"):
        return False
    with contents.path.open("rb") as file:
        file.seek(max(0, contents.path.stat().st_size - TAIL))
        last = file.read().rstrip(b"\r\n").split(b"\n")[-1].decode(contents.encoding, "replace")
    told = len(last) < TAIL and '"' not in last  # a quoted cell may be of many lines
    return told and last.count(written.options["sep"]) < len(written.columns) - 1


def read_frame(path: Path, only: Collection[str] | None = None) -> "pd.DataFrame":
    """A table of text as a frame; plates keep their leading zeros ("007" and "7" are two plates).

    Args:
      path: of the table.
      only: names of the columns that are read; all of them where None.

    Raises:
      UserError: no such file, or it is no text.
      ValueError: pandas cannot read it.
    """
    import pandas as pd

    written = look(path)
    with text_files.open_text(written.contents) as text:
        frame = pd.read_csv(text, usecols=None if only is None else list(only), **written.options)
    return with_plates(frame)


def chunks(written: Written, only: Collection[str] | None = None) -> Iterator["pd.DataFrame"]:
    """A table of text as frames of a bounded number of rows; plates are texts in them (see
    `with_plates`).
    """
    import pandas as pd

    size = rows_of_a_block(len(written.columns))
    usecols = None if only is None else list(only)
    with text_files.open_text(written.contents) as text:
        yield from pd.read_csv(text, usecols=usecols, chunksize=size, **written.options)


def with_plates(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A frame whose plates are numbers where all of them are and none begins with a zero."""
    for name in filter(_names_plates, map(str, frame.columns)):
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

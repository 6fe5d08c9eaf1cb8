"""Tables that are no text: Parquet (pyarrow) and Excel workbooks (openpyxl, of the extra `excel`);
their cells as the texts that a CSV would have.
"""

import datetime
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from phenomjax.data.compressed import Damaged, Stream
from phenomjax.data.text_files import Contents
from phenomjax.system.errors import UserError, did_you_mean

BATCH_ROWS = 2**16


class Opened(NamedTuple):
    """Columns, (line, values) of each row, and what to say of it."""

    columns: tuple[str, ...]
    cells: Iterator[tuple[int, list[str | None]]]
    said: str


def open_parquet(contents: Contents) -> Opened:
    """Opens a Parquet table; rows are counted from 1.

    Raises:
      UserError: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(_file(contents))
        columns = tuple(file.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(contents, error) from None

    def cells() -> Iterator[tuple[int, list[str | None]]]:
        number = 0
        with file:
            try:
                for batch in file.iter_batches(BATCH_ROWS):
                    values = [[_text(v) for v in column.to_pylist()] for column in batch.columns]
                    for row in zip(*values, strict=True):
                        number += 1
                        yield number, list(row)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise _damaged(contents, error) from None

    return Opened(columns, cells(), contents.compression)


def open_workbook(contents: Contents, sheet: str | None) -> Opened:
    """Opens a sheet of an Excel workbook; rows are those of the sheet, counted from 1.

    Args:
      contents: of the file.
      sheet: its name; None: the first one that shows and is not empty.

    Raises:
      UserError: openpyxl is not installed, the file is damaged, there is no such sheet, nothing in
        it, or a formula without its value.
    """
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            f"{contents.path} is an Excel workbook, and openpyxl, which reads it, is not installed:"
            " pip install 'phenomjax[excel]', or save the sheet as CSV UTF-8."
        ) from None
    try:
        book = openpyxl.load_workbook(_file(contents), data_only=True)
        formulas = functools.cache(lambda: openpyxl.load_workbook(_file(contents)))
    except Exception as error:  # openpyxl lets through whatever its parsers raise
        raise _damaged(contents, error) from None
    sheets = {one.title: one for one in book.worksheets}
    if sheet is not None and sheet not in sheets:
        raise UserError(
            f"{contents.path} has no sheet {sheet!r}.{did_you_mean(sheet, sheets)} It has:"
            f" {', '.join(sheets)}."
        )
    shown = [one.title for one in book.worksheets if one.sheet_state == "visible"]
    for title in [sheet] if sheet is not None else shown:
        rows = _sheet_rows(contents, sheets[title], formulas)
        if rows:
            break
    else:
        raise UserError(
            f"{contents.path}{'#' + sheet if sheet else ''} is empty: no cell of"
            f" {'it' if sheet else 'its sheets'} holds anything."
        )
    said = []
    while len(rows) > 2 and len(_filled(rows[0])) == 1 and " " in _filled(rows[0])[0]:
        said.append(f"title {_filled(rows.pop(0))[0]!r}")
    others = [f"'{one}'" for one in sheets if one != title]
    if others or sheet is not None:
        said.insert(0, f"sheet '{title}'" + (f" (not {', '.join(others)})" if others else ""))
    columns = [(value or "").strip() for value in rows[0][1]]
    return Opened(tuple(columns), iter(rows[1:]), ", ".join(said))


def _sheet_rows(
    contents: Contents, sheet: Any, formulas: Callable[[], Any]
) -> list[tuple[int, list]]:
    """The rows that hold anything, from the first column that does.

    Cells that are merged downwards (one plate beside all its wells) have their value in each row.
    """
    below: dict[tuple[int, int], object] = {}
    for merged in sheet.merged_cells.ranges:
        if merged.min_col == merged.max_col:
            value = sheet.cell(merged.min_row, merged.min_col).value
            below |= {cell: value for cell in merged.cells}
    rows = []
    for number, cells in enumerate(sheet.iter_rows(), 1):
        values = [
            _text(below.get((number, column), cell.value)) for column, cell in enumerate(cells, 1)
        ]
        if any(cell.value is not None for cell in cells):
            for cell in cells:
                if cell.value is None:
                    _check_formula(contents, cell, formulas()[sheet.title])
        if any(value is not None and value.strip() for value in values):
            rows.append((number, values))
    if not rows:
        return []
    used = [i for i in range(len(rows[0][1])) if any(r[i] is not None for _, r in rows)]
    return [(number, values[used[0] : used[-1] + 1]) for number, values in rows]


def _check_formula(contents: Contents, cell: Any, sheet: Any) -> None:
    """A formula that a program wrote and none has computed reads like an empty cell."""
    if sheet[cell.coordinate].data_type == "f":
        raise UserError(
            f"{contents.path}, sheet '{sheet.title}', cell {cell.coordinate} holds a formula"
            f" ({sheet[cell.coordinate].value}) whose value was never computed. Open the workbook"
            " in Excel or LibreOffice, and save it."
        )


def _filled(row: tuple[int, list[str | None]]) -> list[str]:
    return [value for value in row[1] if value is not None and value.strip()]


def _file(contents: Contents) -> Any:
    """What the libraries open: the path, or the decompressed bytes."""
    if not contents.compression:
        return contents.path
    parts = []
    try:
        with Stream(contents.path) as stream:
            buffer = bytearray(2**20)
            while count := stream.readinto(memoryview(buffer)):
                parts.append(bytes(buffer[:count]))
    except Damaged as error:
        raise _damaged(contents, error) from None
    return io.BytesIO(b"".join(parts))


def _damaged(contents: Contents, error: Exception) -> UserError:
    """What to say of a file that its library cannot read."""
    message = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"{contents.path} begins like {contents.described}, but cannot be read as one ({message})."
        " It is damaged or cut off: copy or download it again, or save it as CSV UTF-8."
    )


def _text(value: object) -> str | None:
    """A value as a CSV would have it; pandas and Excel turn plates into 1.0."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value)

"""Any table as published: CSV, TSV, semicolons, `sep=;`; any encoding, compressed; Parquet; .xlsx.

`read_table` reads one whole, `open_rows` row by row at constant memory. Values are texts, without
the blanks around them, or None where they are missing as R, Excel or pandas write that.
"""

import csv
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import text_files
from phenomjax.data.compressed import SUFFIXES
from phenomjax.data.numbers import decimal_sign
from phenomjax.data.separators import Form, find_form
from phenomjax.data.text_files import Contents
from phenomjax.system.errors import UserError, did_you_mean

WANTED = "a table (CSV, TSV, Parquet or .xlsx)"
QUOTED_LINES = 1000  # the most lines of one quoted field
LONGEST_FIELD = 2**26
_ERRORS_OF_EXCEL = ("#N/A", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#NULL!")
# R's NA, pandas' own list, Excel's errors. Not "-", which is a strand or a gap elsewhere.
MISSING = frozenset(
    {
        *("", "NA", "<NA>", "N/A", "n/a", "#NA", "#N/A N/A", "NaN", "nan", "NAN", "-NaN", "-nan"),
        *("NULL", "null", "Null", "None", "none", "NONE", "NaT"),
        *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", *_ERRORS_OF_EXCEL),
    }
)
Value = str | None


class Row(NamedTuple):
    """One row of a table, or what is wrong with it.

    Attributes:
      line: where it begins: of a text its line, of a sheet its row, both counted from 1; of Parquet
        the row, counted from 1.
      values: in the order of the columns; () of a faulty row.
      fault: what is wrong with it, a sentence; '' of a good row.
    """

    line: int
    values: tuple[Value, ...]
    fault: str = ""


@dataclass(frozen=True)
class Rows:
    """A table that is read row by row, once.

    Attributes:
      path: the file.
      columns: their names; a name may be there twice.
      rows: in order, the faulty ones too. The file is closed when they end or are closed.
      kind: 'text', 'parquet' or 'xlsx'.
      separator: of a text; else ''.
      decimal_comma: whether its first numbers are written 1,5.
      said: what was detected, "gzip, Windows-1252, separated by semicolons"; '' of a plain CSV.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Iterator[Row]
    kind: str
    separator: str
    decimal_comma: bool
    said: str

    def place(self, column: str) -> int:
        """Where a column stands.

        Raises:
          UserError: it does not, or twice.
        """
        return _place(self.path, self.columns, column)

    def where(self, line: int) -> str:
        """ "FILE, line 7", for errors."""
        return f"{self.path}, {'line' if self.kind == 'text' else 'row'} {line}"


@dataclass(frozen=True)
class PublishedTable:
    """A table in memory.

    Attributes:
      path: the file (of a workbook with '#Sheet' where that was named).
      columns: their names; a name may be there twice.
      rows: their values, in the order of the columns.
      lines: of each row, where it stands in the file (see `Row`).
      kind, separator, said: see `Rows`.
      missing: by column, how many values are missing though something is written there: {text:
        count}.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]
    lines: list[int]
    kind: str
    separator: str
    said: str
    missing: dict[str, dict[str, int]]

    def column(self, name: str) -> list[Value]:
        """The values of a column.

        Raises:
          UserError: there is none of that name, or two.
        """
        place = _place(self.path, self.columns, name)
        return [row[place] for row in self.rows]

    def decimal_sign(self, name: str) -> str:
        """How the numbers of a column are written, for `numbers.parse_number`."""
        return decimal_sign(value for value in self.column(name) if value is not None)

    def where(self, number: int) -> str:
        """ "FILE, line 7" of a row counted from 0, for errors."""
        return f"{self.path}, {'line' if self.kind == 'text' else 'row'} {self.lines[number]}"


def file_of(path: Path) -> tuple[Path, str | None]:
    """The file and the sheet of "BOOK.xlsx#Sheet"; the sheet is None where none is named."""
    if "#" in str(path) and not path.exists():
        name, _, sheet = str(path).rpartition("#")
        if Path(name).is_file():
            return Path(name), sheet
    return path, None


def read_table(
    path: Path, *, missing: Collection[str] = MISSING, header: bool = True
) -> PublishedTable:
    """Reads a table whole.

    Args:
      path: CSV, TSV, any text with separators, Parquet or .xlsx ("FILE.xlsx#Sheet" chooses a sheet,
        else the first one that is not empty is read, and `said` names it), compressed or not.
      missing: texts that are no value.
      header: whether the first line names the columns; else they are called "1", "2", ...

    Raises:
      UserError: no such file, no table, nothing in it, or a faulty row; names the line.
    """
    read = _open(path, missing=frozenset(), header=header, whole=True)
    rows, lines = [], []
    counts: dict[str, dict[str, int]] = {}
    try:
        for row in read.rows:
            if row.fault:
                raise UserError(f"{read.where(row.line)}: {row.fault}")
            rows.append(_without(row.values, read.columns, missing, counts))
            lines.append(row.line)
    finally:
        _close(read.rows)
    columns = read.columns
    ghosts = [i for i, name in enumerate(columns) if not name and all(r[i] is None for r in rows)]
    if ghosts:  # columns that Excel remembers and nobody filled
        keep = [i for i in range(len(columns)) if i not in ghosts]
        columns = tuple(columns[i] for i in keep)
        rows = [tuple(row[i] for i in keep) for row in rows]
    return PublishedTable(path, columns, rows, lines, read.kind, read.separator, read.said, counts)


def open_rows(path: Path, *, missing: Collection[str] = MISSING, header: bool = True) -> Rows:
    """Opens a table that is read row by row, of any length.

    Args: as of `read_table`.

    Raises:
      UserError: no such file, no table, or nothing in it. While reading: the file is damaged.
    """
    return _open(path, missing=missing, header=header, whole=False)


def _open(path: Path, *, missing: Collection[str], header: bool, whole: bool) -> Rows:
    file, sheet = file_of(path)
    contents = text_files.look(file, whole=whole)
    if contents.kind in ("parquet", "xlsx"):
        from phenomjax.data import table_files

        opened = (
            table_files.open_parquet(contents)
            if contents.kind == "parquet"
            else table_files.open_workbook(contents, sheet)
        )
        columns, cells, said = opened
        values = (
            Row(line, tuple(_known(_strip(value), missing) for value in row)) for line, row in cells
        )
        return Rows(path, columns, values, contents.kind, "", False, said)
    if contents.kind != "text":
        raise text_files.no_text(contents, WANTED)
    if sheet is not None:
        raise UserError(f"{path}: {file} is no workbook, so it has no sheet {sheet!r}.")
    if other := _other_text(contents.head):
        raise UserError(f"{file} is {other}, not {WANTED}. Name the table, or save it as CSV.")
    form = find_form(contents.head, whole=contents.whole, name=plain_name(file), header=header)
    if not form.columns:
        raise UserError(f"{file} is empty: it has no line that names columns.")
    rows = _text_rows(contents, form, missing)
    said = ", ".join(part for part in (contents.said, *form.said) if part)
    return Rows(path, form.columns, rows, "text", form.separator, form.decimal_comma, said)


def _text_rows(contents: Contents, form: Form, missing: Collection[str]) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    source = text_files.lines(contents, tolerant=True)
    try:
        feed = _Feed(source, form.first_row)
        reader = csv.reader(
            feed, delimiter=form.separator, strict=True, skipinitialspace=form.separator == " "
        )
        width = form.width
        while True:
            line, feed.taken = feed.number + 1, []
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                feed.give_back()
                yield Row(line, (), _fault_of_row(error))
                continue
            if not fields or not any(map(str.strip, fields)) or fields == ["\x1a"]:
                if wrong := _undecoded(feed.taken, contents.encoding):
                    yield Row(line, (), wrong)
                continue
            if wrong := _undecoded(feed.taken, contents.encoding):
                yield Row(line, (), wrong)
            elif len(fields) != width:
                yield Row(line, (), _ragged(fields, form))
            else:
                kept = fields[: len(form.columns)]
                yield Row(line, tuple(_known(_bare(value.strip()), missing) for value in kept))
    finally:
        source.close()  # type: ignore[attr-defined]


class _Feed:
    """Lines for csv.reader, which can be given back when a quote that was never closed took them.

    Attributes:
      taken: lines of the present row.
      number: lines that were taken so far and not given back.
    """

    def __init__(self, source: Iterator[str], skipped: int):
        self._source, self._waiting = source, deque[str]()
        self.taken: list[str] = []
        self.number = 0
        for _ in range(skipped):
            next(source, None)
            self.number += 1

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        if len(self.taken) >= QUOTED_LINES:
            raise StopIteration
        line = self._waiting.popleft() if self._waiting else next(self._source)
        self.taken.append(line)
        self.number += 1
        return line

    def give_back(self) -> None:
        """All lines of the row but its first: the quote is the fault of that one alone."""
        more = self.taken[1:]
        self._waiting.extendleft(reversed(more))
        self.number -= len(more)


def _fault_of_row(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return (
            'a quote (") is opened and not closed. Write a quote inside a field twice, and the'
            " field in quotes, or remove it."
        )
    if "expected after" in text:
        return (
            'a quote (") is closed in the middle of a field. Write a quote inside a field twice,'
            " and the field in quotes, or remove it."
        )
    return f"it cannot be read ({text})."


def _undecoded(taken: Sequence[str], encoding: str) -> str:
    for line in taken:
        if (not line.isascii() or "\0" in line) and (wrong := text_files.fault(line, encoding)):
            return wrong
    return ""


def _ragged(fields: Sequence[str], form: Form) -> str:
    return (
        f"{len(fields)} field{'s' * (len(fields) != 1)} where the first line names {form.width}"
        f" columns (separated by {form.separator_name}). A field that has the separator in it must"
        " stand in quotes."
    )


def _known(value: Value, missing: Collection[str]) -> Value:
    return None if not value or value in missing else value


def _without(
    values: Sequence[Value],
    columns: Sequence[str],
    missing: Collection[str],
    counts: dict[str, dict[str, int]],
) -> tuple[Value, ...]:
    """A row without what is missing, which is counted."""
    for name, value in zip(columns, values, strict=True):
        if value and value in missing:
            column = counts.setdefault(name, {})
            column[value] = column.get(value, 0) + 1
    return tuple(_known(value, missing) for value in values)


def _strip(value: Value) -> Value:
    return _bare(value.strip()) if value else value


def _bare(text: str) -> str:
    """Without the ="007" in which some programs wrap texts, so that Excel keeps their zeros."""
    return text[2:-1] if text.startswith('="') and text.endswith('"') and len(text) > 2 else text


def _place(path: Path, columns: Sequence[str], name: str) -> int:
    found = [place for place, column in enumerate(columns) if column == name]
    if not found:
        raise UserError(
            f"{path} has no column {name!r}.{did_you_mean(name, columns)} It has:"
            f" {', '.join(columns)}."
        )
    if len(found) > 1:
        raise UserError(
            f"{path} has {len(found)} columns named {name!r}. Rename or remove all but one."
        )
    return found[0]


def _other_text(head: str) -> str:
    """What a text is that surely is no table; '' of any other."""
    begin = head.lstrip()[:200]
    if begin.startswith(">") and "\t" not in begin.split("\n")[0]:
        return "FASTA"
    if begin.startswith(("{", "[{")):
        return "JSON"
    return "XML" if begin.startswith("<?xml") else ""


def plain_name(path: Path) -> str:
    """A file's name, in lower case, without the suffix of its compression."""
    name = path.name.lower()
    return next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)


def _close(rows: Iterator[Row]) -> None:
    close = getattr(rows, "close", None)
    if close:
        close()

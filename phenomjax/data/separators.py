"""What separates the fields of a text, told by its first lines; and where its header stands."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data.numbers import decimal_sign

NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars (|)", " ": "blanks"}
CANDIDATES = ("\t", ",", ";", "|")
LOOKED_AT = 200  # rows
_BY_SUFFIX = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
_SEP_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)


class Form(NamedTuple):
    """How a text is a table.

    Attributes:
      columns: their names; () of a text without one.
      separator: one character.
      separator_name: "semicolons".
      first_row: lines before the first row of values.
      width: fields of each row; one more than there are columns where each row ends with a
        separator.
      decimal_comma: whether its first numbers are written 1,5.
      said: what is not usual, in words.
    """

    columns: tuple[str, ...]
    separator: str
    separator_name: str
    first_row: int
    width: int
    decimal_comma: bool
    said: tuple[str, ...]


def find_form(head: str, *, whole: bool, name: str, header: bool = True) -> Form:
    """Tells the separator, the header, and where the rows begin.

    The separator is the one of tab, comma, semicolon and bar that splits all lines of the head into
    the same number of fields, more than one; of two that do, the one that the suffix means, or
    that makes more fields. Where none does, the one that splits the header into most fields, and
    the line that differs is named when it is read. Blanks only where the header has no other.

    Args:
      head: beginning of the text.
      whole: whether that is all of it; else its last line is cut.
      name: of the file, without a suffix of compression, in lower case.
      header: whether the first line names the columns.
    """
    lines = head.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not whole and len(lines) > 1:
        lines.pop()
    usual = _BY_SUFFIX.get(Path(name).suffix, ",")
    said: list[str] = []
    skipped = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    forced = _SEP_LINE.fullmatch(lines[skipped].strip()) if skipped < len(lines) else None
    skipped += forced is not None
    comments = 0
    while header and _is_comment(lines, skipped + comments):
        comments += 1
    if comments and skipped + comments < len(lines):
        said.append(f"{_count(comments, 'line')} of comments before the header")
        skipped += comments
    lines = lines[skipped:]
    separator = forced[1] if forced else _choose(lines, usual, whole, header)
    shown = NAMES.get(separator, repr(separator))
    rows = _rows(lines, separator, whole)
    if not rows:
        return Form((), separator, shown, 0, 0, False, ())
    if header and (titles := _titles(rows)):
        said.append(f"{_count(titles, 'line')} of title before the header")
        rows = rows[titles:]
    columns = [field.strip() for field in rows[0].fields]
    if columns[0].startswith("#") and len(columns) > 1:
        columns[0] = columns[0].lstrip("# ")
    width, values = len(columns), [row.fields for row in rows[1:]]
    if not header:
        columns, values = [str(i + 1) for i in range(width)], [row.fields for row in rows]
    elif _has_row_names(rows, separator):
        width += 1
        if any(fields[-1].strip() for fields in values):
            columns.insert(0, "")
            said.append("a first column without a name: row names")
    comma = separator != "," and decimal_sign(f.strip() for v in values for f in v) == ","
    if forced or separator != usual:
        said.insert(0, f"separated by {shown}")
    if comma:
        said.append("decimal commas")
    first = skipped + (rows[0].stop if header else rows[0].start)
    return Form(tuple(columns), separator, shown, first, width, comma, tuple(said))


class _HeadRow(NamedTuple):
    start: int  # its first line
    stop: int  # the line after its last
    fields: list[str]


def _rows(lines: Sequence[str], separator: str, whole: bool) -> list[_HeadRow]:
    """The first rows, without empty ones, and without the last where the head may cut it."""
    found, start = [], 0
    reader = csv.reader(
        (line + "\n" for line in lines), delimiter=separator, skipinitialspace=separator == " "
    )
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                found.append(_HeadRow(start, reader.line_num, fields))
            start = reader.line_num
            if len(found) == LOOKED_AT:
                return found
    except csv.Error:  # a field too long: the reader of the rows names it
        return found
    return found if whole or len(found) < 3 else found[:-1]


def _choose(lines: Sequence[str], usual: str, whole: bool, header: bool) -> str:
    """The separator that makes a table of the lines."""
    best, chosen = (0, 0, False), ""
    for separator in CANDIDATES:
        rows = _rows(lines, separator, whole)
        rows = rows[_titles(rows) if header else 0 :]
        if not rows or len(rows[0].fields) < 2:
            continue
        fits = 1
        if all(len(row.fields) == len(rows[0].fields) for row in rows):
            fits = 3
        elif header and _has_row_names(rows, separator):
            fits = 2
        score = (fits, len(rows[0].fields), separator == usual)
        if score > best:
            best, chosen = score, separator
    if chosen:
        return chosen
    rows = _rows(lines, " ", whole)
    even = {len(row.fields) for row in rows} == {len(rows[0].fields)} if rows else False
    split = len(rows) > 1 and len(rows[0].fields) > 1 and (even or _has_row_names(rows, " "))
    return " " if split else usual


def _has_row_names(rows: Sequence[_HeadRow], separator: str) -> bool:
    """Whether each row has one field more than the header.

    R's write.table leaves out the name of its first column, row names, which all differ; some
    programs end each row with a separator. With commas (where R names the column "") it would
    rather be a comma within a field, in each row, and that is an error.
    """
    width, fields = len(rows[0].fields), [row.fields for row in rows[1:]]
    if width < 2 or not fields or any(len(one) != width + 1 for one in fields):
        return False
    names = {one[0] for one in fields}
    ended = not any(one[-1].strip() for one in fields)
    return ended or (separator in "\t " and len(names) == len(fields))


def _titles(rows: Sequence[_HeadRow]) -> int:
    """How many rows before the header hold one phrase only, where the header has several names."""
    count = 0
    while count < len(rows) - 2:
        filled = [field for field in rows[count].fields if field.strip()]
        if len(filled) != 1 or " " not in filled[0].strip():
            break
        count += 1
    return count if count and len([f for f in rows[count].fields if f.strip()]) > 1 else 0


def _is_comment(lines: Sequence[str], at: int) -> bool:
    """Whether a line is a comment; "#CHROM" right before the rows is a header."""
    if at >= len(lines) or not lines[at].startswith("#"):
        return False
    if at + 1 >= len(lines) or lines[at + 1].startswith("#") or lines[at][1:2] in ("#", " ", ""):
        return True
    pairs = [(lines[at].count(one), lines[at + 1].count(one)) for one in CANDIDATES]
    return not any(mine == other > 0 for mine, other in pairs)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"

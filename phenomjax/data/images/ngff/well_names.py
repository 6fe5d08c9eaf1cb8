"""Which well an entry of an OME-Zarr plate is: its path, its row and column numbers, and the
plate's own lists of rows and columns say it three times, and not always the same.

By NGFF 0.4 `rowIndex` and `columnIndex` count from 0 in the plate's lists `rows` and `columns`, and
the path is ROW/COLUMN of their names. In the wild, names count from 0 ("0/0" is A01), writers
leave the lists out, give numbers of the physical plate where rows are left out of the lists, or 0
for every well. What can be read in one way alone is read so; the rest is named.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from phenomjax.data.images.wells import normalise_well


class WellEntry(NamedTuple):
    """A well as the plate lists it.

    Attributes:
      path: of its folder in the plate.
      row, column: numbers that count from 0; None where they are not given.
    """

    path: str
    row: int | None
    column: int | None


class WellName(NamedTuple):
    """Its name (None: it says two different things), and what is odd ("" where nothing is)."""

    name: str | None
    odd: str = ""


class _Place(NamedTuple):
    """Where on an axis a well is: counted from 0, or a name that is no place; with what is odd."""

    number: int | None
    name: str
    odd: str = ""
    unclear: bool = False


def name_wells(
    entries: Sequence[WellEntry], rows: Sequence[str], columns: Sequence[str]
) -> list[WellName]:
    """The names of wells, spelt A01.

    Args:
      entries: all wells of a plate.
      rows, columns: the plate's lists of names, () where it has none.
    """
    parts = [entry.path.strip("/").split("/") for entry in entries]
    tokens = [part if len(part) == 2 else _split_well(part) for part in parts]
    zero = counts_from_zero(entries, rows, columns)
    down = _places("row", [t[0] for t in tokens], [e.row for e in entries], rows, zero[0])
    across = _places(
        "column", [t[1] for t in tokens], [e.column for e in entries], columns, zero[1]
    )
    found = []
    for row, column in zip(down, across, strict=True):
        odd = "; ".join(text for text in (row.odd, column.odd) if text)
        if row.unclear or column.unclear:
            found.append(WellName(None, odd))
        elif row.number is None or column.number is None:
            name = normalise_well(f"{row.name}/{column.name}")
            plain = re.fullmatch(r"[A-Z]{1,2}[0-9]{2}", name)
            strange = "" if plain else f"it is called {name}, which is no letter and number"
            found.append(WellName(name, "; ".join(text for text in (odd, strange) if text)))
        else:
            found.append(WellName(normalise_well(f"{row.number + 1}/{column.number + 1}"), odd))
    return found


def counts_from_zero(
    entries: Sequence[WellEntry], rows: Sequence[str], columns: Sequence[str]
) -> tuple[bool, bool]:
    """Whether the names of rows, and of columns, are numbers that count from 0. Where both are
    numbers, one tells of both.
    """
    parts = [entry.path.strip("/").split("/") for entry in entries]
    tokens = [part for part in parts if len(part) == 2]
    down, across = [part[0] for part in tokens], [part[1] for part in tokens]
    zero_rows = _counts_from_zero(down, [e.row for e in entries], rows)
    zero_columns = _counts_from_zero(across, [e.column for e in entries], columns)
    if tokens and all(text.isdecimal() for text in (*down, *across)):
        return (zero_rows or zero_columns,) * 2
    return zero_rows, zero_columns


def _split_well(parts: list[str]) -> list[str]:
    """["A1"] -> ["A", "1"]; ["", ""] where the path names no well."""
    match = re.fullmatch(r"([A-Za-z]{1,2})0*([0-9]{1,2})", parts[0]) if len(parts) == 1 else None
    return [match[1], match[2]] if match else ["", ""]


def _places(
    axis: str,
    tokens: Sequence[str],
    numbers: Sequence[int | None],
    names: Sequence[str],
    zero: bool,
) -> list[_Place]:
    positions = [_position(token, axis, zero) for token in tokens]
    given = [(p, n) for p, n in zip(positions, numbers, strict=True) if n is not None]
    physical = bool(given) and all(position == number for position, number in given)
    return [
        _place(axis, token, position, number, names, zero, physical)
        for token, position, number in zip(tokens, positions, numbers, strict=True)
    ]


def _place(
    axis: str,
    token: str,
    position: int | None,
    number: int | None,
    names: Sequence[str],
    zero: bool,
    physical: bool,
) -> _Place:
    """Where one well is.

    Args:
      axis: "row" or "column".
      token: of its path.
      position: that token counted from 0, None where it is no plain name.
      number: rowIndex or columnIndex.
      names: of the plate's list.
      zero: names that are numbers count from 0.
      physical: number and position agree in all wells of the plate.
    """
    index = f"{axis}Index"
    inside = number is not None and 0 <= number < len(names)
    listed = (names[number] or None) if number is not None and inside else None
    if listed is not None and (not token or _same(listed, token)):
        return _Place(_position(listed, axis, zero), listed)
    if listed is None:
        if position is None and number is not None and not names:
            return _Place(number, token)
        if position is None and not token:
            return _Place(None, token, f"its path names no {axis}", True)
        if number is not None and number != position:
            if inside:  # the list has no name there
                return _Place(position, token)
            what = "counts past the plate's list" if names else f"says another {axis}"
            return _Place(position, token, f"its {index} {number} {what}, its path decides")
        return _Place(position, token)
    by_list = _position(listed, axis, zero)
    if position is None or (physical and any(_same(name, token) for name in names)):
        return _Place(by_list if position is None else position, listed)
    if by_list == position:
        return _Place(position, listed)
    if by_list is None:
        odd = f"the plate's list calls its {axis} {listed!r}, its path {token!r}, which decides"
        return _Place(position, token, odd)
    counts = token.isdecimal() and not listed.isdecimal()
    if number is not None and counts and int(token) - number in (0, 1):
        return _Place(by_list, listed)  # the path counts what the list names
    odd = f"its path says {axis} {token!r}, its {index} {number} says {axis} {listed!r}"
    return _Place(None, token, odd, True)


def _counts_from_zero(
    tokens: Sequence[str], numbers: Sequence[int | None], names: Sequence[str]
) -> bool:
    """Whether names that are numbers count from 0: one of them is 0, or they are what the index
    says although that is no place in the list.
    """
    if any(text.isdecimal() and int(text) == 0 for text in (*tokens, *names)):
        return True
    given = [
        (int(token), number)
        for token, number in zip(tokens, numbers, strict=False)
        if token.isdecimal() and number is not None
    ]
    in_list = any(number < len(names) for _, number in given)
    return bool(given) and not in_list and all(token == number for token, number in given)


def _position(text: str, axis: str, zero: bool) -> int | None:
    if re.fullmatch(r"[0-9]{1,3}", text):
        return int(text) - (0 if zero else 1)
    if axis == "row" and re.fullmatch(r"[A-Za-z]{1,2}", text):
        number = 0
        for letter in text.upper():
            number = number * 26 + ord(letter) - ord("A") + 1
        return number - 1
    return None


def _same(one: str, other: str) -> bool:
    if one.isdecimal() and other.isdecimal():
        return int(one) == int(other)
    return one.strip().lower() == other.strip().lower()

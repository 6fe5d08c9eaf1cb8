"""Several tables of one experiment put together: plate maps, the barcodes of their plates, and what
is known of each compound or guide, joined on the columns that they share.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.prepare.images.annotation.names import KEYS, find_columns
from phenomjax.prepare.images.annotation.sheet import Sheet, number_of, plain, well_of
from phenomjax.prepare.images.annotation.sheet import rename as flag
from phenomjax.system.errors import UserError

Cells = tuple[str | None, ...]
# What a table of plates adds to a plate map: then one row becomes many.
OF_MANY = ("plate", "experiment")


class Merged(NamedTuple):
    """The tables as one, and what to say of how they were joined."""

    sheet: Sheet
    told: list[str]


def merge(sheets: Sequence[Sheet], rename: Mapping[str, str]) -> Merged:
    """Joins tables. The first one with wells is the base; others with wells and the same columns
    are put below it; each of the rest is joined on what it shares with what is there.

    Args:
      sheets: in the order of the command line.
      rename: {column: name of names.TARGETS}.

    Raises:
      UserError: none has wells; a table shares no column or no value with the others; two different
        rows for one key; two tables that say different things of one row.
    """
    if len(sheets) == 1:
        return Merged(sheets[0], [])
    with_wells = [sheet for sheet in sheets if find_columns(sheet, rename).has_well]
    if not with_wells:
        described = "; ".join(f"{sheet.name} has {', '.join(sheet.columns)}" for sheet in sheets)
        raise UserError(
            f"None of the tables has a column 'well': {described}. Name the one that holds the"
            " wells: --rename Position=well, for instance."
        )
    base, told = with_wells[0], list[str]()
    rest = [sheet for sheet in sheets if sheet is not base]
    names = _names(base, rename)
    for sheet in with_wells[1:]:
        if set(_names(sheet, rename)) == set(names):
            base, rest = _stack(base, sheet, rename), [one for one in rest if one is not sheet]
            told.append(f"{sheet.name}: put below, its columns are the same")
    while rest:
        shared = [(sheet, _shared(base, sheet, rename)) for sheet in rest]
        joined = next(((one, keys) for one, keys in shared if keys), None)
        if joined is None:
            columns = "; ".join(f"{one.name} has {', '.join(one.columns)}" for one in rest)
            raise UserError(
                f"{columns}: no column is shared with {base.name}, which has"
                f" {', '.join(base.columns)}, so the tables cannot be joined. Give the column that"
                " joins them one name in both."
            )
        base, said = _join(base, *joined, rename)
        told.append(said)
        rest = [one for one in rest if one is not joined[0]]
    return Merged(base, told)


def _names(sheet: Sheet, rename: Mapping[str, str]) -> list[str]:
    """The columns as they are compared between tables: the bank's name of a key, else plainly."""
    found = find_columns(sheet, rename).places
    keys = {place: name for name, place in found.items() if name in KEYS}
    return [keys.get(place, plain(column)) for place, column in enumerate(sheet.columns)]


def _stack(base: Sheet, sheet: Sheet, rename: Mapping[str, str]) -> Sheet:
    names = _names(sheet, rename)
    order = [names.index(name) for name in _names(base, rename)]
    rows = [tuple(row[place] for place in order) for row in sheet.rows]
    name = f"{_short(base)} and {_short(sheet)}"
    return Sheet(name, base.columns, base.rows + rows, base.where + sheet.where)


def _shared(base: Sheet, sheet: Sheet, rename: Mapping[str, str]) -> list[tuple[int, int]]:
    """Places of the columns that both have: (in the base, in the other)."""
    there = _names(base, rename)
    return [
        (there.index(name), place)
        for place, name in enumerate(_names(sheet, rename))
        if name and name in there
    ]


def _join(
    base: Sheet, sheet: Sheet, shared: list[tuple[int, int]], rename: Mapping[str, str]
) -> tuple[Sheet, str]:
    names, there = _names(sheet, rename), _names(base, rename)
    as_key = [_key_of(name) for name in there]
    choices = [shared] + [[pair] for pair in shared if len(shared) > 1]
    counts = [_matches(base, sheet, choice, as_key) for choice in choices]
    best = max(range(len(choices)), key=lambda i: counts[i])  # the first of equals: all of them
    keys = choices[best]
    called = ", ".join(base.columns[place] for place, _ in keys)
    if not counts[best]:
        mine, other = (
            next((v for v in one.values(place) if v is not None), None)
            for one, place in ((base, keys[0][0]), (sheet, keys[0][1]))
        )
        raise UserError(
            f"{sheet.name} shares the column {called} with {base.name}, but no value of it: there"
            f" {mine!r}, here {other!r}, for instance. Correct one of the tables, or leave the"
            " table out."
        )
    added = [p for p in range(len(names)) if names[p] not in there]
    overlap = [(b, p) for b, p in shared if (b, p) not in keys]
    many = any(names[place] in OF_MANY for place in added)
    lookup: dict[Cells, list[tuple[Cells, str]]] = {}
    for row, where in zip(sheet.rows, sheet.where, strict=True):
        key = _key(row, [p for _, p in keys], [as_key[b] for b, _ in keys])
        if None in key:
            continue
        held = tuple(row[place] for place in [*added, *(p for _, p in overlap)])
        entries = lookup.setdefault(key, [])
        if held in (cells for cells, _ in entries):
            continue
        if entries and not many:
            raise UserError(
                f"{where}: a second, different row for {called} {', '.join(map(str, key))} (the"
                f" first: {entries[0][1]}). Remove one, or leave out the column in which they"
                " differ: --rename COLUMN=ignore."
            )
        entries.append((held, where))
    rows, places, matched = [], [], 0
    for row, where in zip(base.rows, base.where, strict=True):
        key = _key(row, [b for b, _ in keys], [as_key[b] for b, _ in keys])
        entries = lookup.get(key, [])
        matched += bool(entries)
        for held, other in entries or [((None,) * (len(added) + len(overlap)), "")]:
            cells = list(row)
            for (place, _), value in zip(overlap, held[len(added) :], strict=True):
                cells[place] = _agreed(cells[place], value, base.columns[place], where, other)
            rows.append((*cells, *held[: len(added)]))
            places.append(where)
    columns = (*base.columns, *(sheet.columns[place] for place in added))
    joined = Sheet(f"{_short(base)} with {_short(sheet)}", columns, rows, places)
    grown = f", {len(rows)} rows in all" if len(rows) != len(base.rows) else ""
    return joined, (
        f"{sheet.name}: joined by {called}; {matched} of {len(base.rows)} rows of {_short(base)}"
        f" have an entry{grown}"
    )


def _short(sheet: Sheet) -> str:
    """A table's name without its folder."""
    return Path(sheet.name).name


def _key_of(name: str) -> Callable[[str], str]:
    return well_of if name == "well" else number_of


def _key(row: Cells, places: Sequence[int], ways: Sequence[Callable[[str], str]]) -> Cells:
    return tuple(
        None if (text := row[place]) is None else way(text)
        for place, way in zip(places, ways, strict=True)
    )


def _matches(
    base: Sheet, sheet: Sheet, keys: list[tuple[int, int]], as_key: Sequence[Callable[[str], str]]
) -> int:
    """How many rows of the base have an entry."""
    ways = [as_key[place] for place, _ in keys]
    there = {_key(row, [place for _, place in keys], ways) for row in sheet.rows}
    mine = [_key(row, [place for place, _ in keys], ways) for row in base.rows]
    return sum(key in there and None not in key for key in mine)


def _agreed(mine: str | None, other: str | None, column: str, where: str, there: str) -> str | None:
    """What two tables say of one row in one column."""
    if mine is None or other is None or number_of(mine) == number_of(other):
        return other if mine is None else mine
    raise UserError(
        f"{where} and {there} say different things of the same row: {column} is {mine!r} and"
        f" {other!r}. Correct one of the tables, or leave the column out:"
        f" {flag(column, 'ignore')}."
    )

"""Several tables of one experiment put together: plate maps, the barcodes of their plates, and what
is known of each compound or guide, joined on the columns that they share.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data.images.wells import number_of, well_of
from phenomjax.data.images.words import plain
from phenomjax.prepare.images.annotation.names import KEYS, find_columns
from phenomjax.prepare.images.annotation.sheet import Sheet
from phenomjax.prepare.images.annotation.sheet import rename as flag
from phenomjax.system.errors import UserError

Cells = tuple[str | None, ...]
# What a table of plates adds to a plate map: then one row becomes many.
OF_MANY = ("plate", "experiment")
PLATE_MAPS = ("platemapname", "platemap")


class Merged(NamedTuple):
    """The tables as one, and what to say of how they were joined."""

    sheet: Sheet
    told: list[str]


class _Keys(NamedTuple):
    """On what two tables are joined: places of the columns in the base and in the other."""

    mine: list[int]
    others: list[int]
    ways: list[Callable[[str], str]]  # how the values are compared


def merge(sheets: Sequence[Sheet], rename: Mapping[str, str]) -> Merged:
    """Joins tables. The first one with wells is the base; others with wells are put below it where
    they tell of other wells, and beside it where they tell more of the same; each of the rest is
    joined on what it shares with what is there.

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
    rest = [sheet for sheet in sheets if not any(sheet is one for one in with_wells)]
    told: list[str] = []
    named = [_with_map(sheet, rest, rename, told) for sheet in with_wells]
    base, *more = [_with_well(sheet, rename) for sheet in named]
    for sheet in more:
        if set(_names(sheet, rename)) == set(_names(base, rename)):
            base = _stack(base, sheet, rename)
            told.append(f"{sheet.name}: put below, its columns are the same")
        else:
            base, said = _join_wells(base, sheet, rename)
            told.append(said)
    while rest:
        shared = [(sheet, _shared(base, sheet, rename)) for sheet in rest]
        joined = next(((one, pairs) for one, pairs in shared if pairs), None)
        if joined is None:
            columns = "; ".join(f"{one.name} has {', '.join(one.columns)}" for one in rest)
            raise UserError(
                f"{columns}: no column is shared with {base.name}, which has"
                f" {', '.join(base.columns)}, so the tables cannot be joined. Give the column that"
                f" joins them one name in both{_as_called(rest)}."
            )
        base, said = _join(base, joined[0], _choose(base, *joined, rename), rename)
        told.append(said)
        rest = [one for one in rest if one is not joined[0]]
    return Merged(base, told)


def _with_map(
    sheet: Sheet, others: Sequence[Sheet], rename: Mapping[str, str], told: list[str]
) -> Sheet:
    """A plate map with its name in a column, where another table names the file: JUMP's
    barcode_platemap.csv says which plates have the map "C-1", and C-1.txt holds its wells.
    """
    places = find_columns(sheet, rename).places
    if "plate" in places or any(plain(column) in PLATE_MAPS for column in sheet.columns):
        return sheet
    file, _, page = _short(sheet).partition("#")
    own = {text.casefold() for text in (page, file, *_stems(file)) if text}
    for other in others:
        for place, column in enumerate(other.columns):
            if plain(column) not in PLATE_MAPS:
                continue
            fits = {text for text in other.values(place) if text and text.casefold() in own}
            if len(fits) == 1:
                name = fits.pop()
                told.append(
                    f"{sheet.name}: plate map {name} of {_short(other)}, by its file's name"
                )
                rows = [(*row, name) for row in sheet.rows]
                return sheet._replace(columns=(*sheet.columns, column), rows=rows)
    return sheet


def _stems(file: str) -> list[str]:
    """A file's name without its suffixes, one after another: "C-1.csv.gz" is C-1.csv and C-1."""
    return [file[: match.start()] for match in re.finditer(r"\.\w{1,7}(?=$|\.)", file)]


def _with_well(sheet: Sheet, rename: Mapping[str, str]) -> Sheet:
    """A table whose wells are rows and columns, with a column of wells too."""
    found = find_columns(sheet, rename).places
    if "well" in found:
        return sheet
    row, column = found["row"], found["column"]
    wells = [
        well_of(f"{number_of(cells[row] or '')}/{number_of(cells[column] or '')}")
        for cells in sheet.rows
    ]
    rows = [(*cells, well) for cells, well in zip(sheet.rows, wells, strict=True)]
    return sheet._replace(columns=(*sheet.columns, "well"), rows=rows)


def _as_called(sheets: Sequence[Sheet]) -> str:
    """ ", or call the file of the plate map as barcodes.csv does: C-1.csv" where one has names."""
    for sheet in sheets:
        for place, column in enumerate(sheet.columns):
            name = next((text for text in sheet.values(place) if text), None)
            if plain(column) in PLATE_MAPS and name:
                return (
                    f", or call the file of each plate map as {_short(sheet)} does: {name}.csv,"
                    " for instance"
                )
    return ""


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


def _keys(base: Sheet, pairs: Sequence[tuple[int, int]], rename: Mapping[str, str]) -> _Keys:
    names = _names(base, rename)
    return _Keys(
        [mine for mine, _ in pairs],
        [other for _, other in pairs],
        [well_of if names[mine] == "well" else number_of for mine, _ in pairs],
    )


def _choose(
    base: Sheet, sheet: Sheet, shared: list[tuple[int, int]], rename: Mapping[str, str]
) -> _Keys:
    """Those of the shared columns on which most rows meet: all together, or one."""
    choices = [shared] + [[pair] for pair in shared if len(shared) > 1]
    keys = [_keys(base, choice, rename) for choice in choices]
    counts = [_matches(base, sheet, one) for one in keys]
    best = keys[counts.index(max(counts))]
    if not max(counts):
        mine, other = (
            next((v for v in one.values(place) if v is not None), None)
            for one, place in ((base, best.mine[0]), (sheet, best.others[0]))
        )
        raise UserError(
            f"{sheet.name} shares the column {base.columns[best.mine[0]]} with {base.name}, but no"
            f" value of it: there {mine!r}, here {other!r}, for instance. Correct one of the"
            " tables, or leave the table out."
        )
    return best


def _matches(base: Sheet, sheet: Sheet, keys: _Keys) -> int:
    """How many rows of the base have an entry."""
    there = {_key(row, keys.others, keys.ways) for row in sheet.rows}
    mine = [_key(row, keys.mine, keys.ways) for row in base.rows]
    return sum(key in there and None not in key for key in mine)


def _join_wells(base: Sheet, sheet: Sheet, rename: Mapping[str, str]) -> tuple[Sheet, str]:
    """Joins two tables of wells. Wells that only the second has are put below, unless it has no
    plates and so tells of wells of all plates.
    """
    mine, others = _names(base, rename), _names(sheet, rename)
    pairs = [pair for pair in _shared(base, sheet, rename) if mine[pair[0]] in (*KEYS, *PLATE_MAPS)]
    keys = _keys(base, pairs, rename)
    joined, said = _join(base, sheet, keys, rename)
    own = {name for name in mine if name in KEYS}
    if own != {name for name in others if name in KEYS}:
        return joined, said
    there = {_key(row, keys.mine, keys.ways) for row in base.rows}
    names = _names(joined, rename)
    places = [others.index(name) if name in others else None for name in names]
    below = [
        (tuple(None if p is None else row[p] for p in places), where)
        for row, where in zip(sheet.rows, sheet.where, strict=True)
        if _key(row, keys.others, keys.ways) not in there
    ]
    rows, where = [row for row, _ in below], [where for _, where in below]
    added = f"; {len(rows)} rows of other wells put below" if rows else ""
    return joined._replace(rows=joined.rows + rows, where=joined.where + where), said + added


def _join(base: Sheet, sheet: Sheet, keys: _Keys, rename: Mapping[str, str]) -> tuple[Sheet, str]:
    names, there = _names(sheet, rename), _names(base, rename)
    called = ", ".join(base.columns[place] for place in keys.mine)
    added = [place for place, name in enumerate(names) if name not in there]
    pairs = set(zip(keys.mine, keys.others, strict=True))
    overlap = [pair for pair in _shared(base, sheet, rename) if pair not in pairs]
    many = any(names[place] in OF_MANY for place in added)
    lookup: dict[Cells, list[tuple[Cells, str]]] = {}
    for row, where in zip(sheet.rows, sheet.where, strict=True):
        key = _key(row, keys.others, keys.ways)
        held = tuple(row[place] for place in [*added, *(p for _, p in overlap)])
        entries = lookup.setdefault(key, [])
        if held in (cells for cells, _ in entries):
            continue
        if entries and not many and None not in key:
            raise UserError(
                f"{where}: a second, different row for {called} {', '.join(map(str, key))} (the"
                f" first: {entries[0][1]}). Remove one, or leave out the column in which they"
                " differ: --rename COLUMN=ignore."
            )
        entries.append((held, where))
    # CPJUMP1: DMSO is the row without a name, in the plate map as among the compounds
    nameless = (None,) if len(keys.mine) == 1 and len(lookup.get((None,), [])) == 1 else None
    rows, places, matched, empty = [], [], 0, 0
    for row, where in zip(base.rows, base.where, strict=True):
        key = _key(row, keys.mine, keys.ways)
        entries = lookup.get(key, []) if None not in key or key == nameless else []
        matched += bool(entries)
        empty += bool(entries) and key == nameless
        for held, other in entries or [((None,) * (len(added) + len(overlap)), "")]:
            cells = list(row)
            for (place, _), value in zip(overlap, held[len(added) :], strict=True):
                cells[place] = _agreed(cells[place], value, base.columns[place], where, other)
            rows.append((*cells, *held[: len(added)]))
            places.append(where)
    columns = (*base.columns, *(sheet.columns[place] for place in added))
    joined = Sheet(f"{_short(base)} with {_short(sheet)}", columns, rows, places)
    grown = f", {len(rows)} rows in all" if len(rows) != len(base.rows) else ""
    without = f"; {empty} of them, without {called}, its row without one" if empty else ""
    return joined, (
        f"{sheet.name}: joined by {called}; {matched} of {len(base.rows)} rows of {_short(base)}"
        f" have an entry{without}{grown}"
    )


def _short(sheet: Sheet) -> str:
    """A table's name without its folder."""
    return Path(sheet.name).name


def _key(row: Cells, places: Sequence[int], ways: Sequence[Callable[[str], str]]) -> Cells:
    return tuple(
        None if (text := row[place]) is None else way(text)
        for place, way in zip(places, ways, strict=True)
    )


def _agreed(mine: str | None, other: str | None, column: str, where: str, there: str) -> str | None:
    """What two tables say of one row in one column."""
    if mine is None or other is None or number_of(mine) == number_of(other):
        return other if mine is None else mine
    raise UserError(
        f"{where} and {there} say different things of the same row: {column} is {mine!r} and"
        f" {other!r}. Correct one of the tables, or leave the column out:"
        f" {flag(column, 'ignore')}."
    )

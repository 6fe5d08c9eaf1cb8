"""The tables of --metadata, read and put together, and the bank's values of each of their rows."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import tables, text_files
from phenomjax.data.images.wells import looks_like_well, number_of
from phenomjax.data.images.words import role_of
from phenomjax.data.numbers import decimal_sign
from phenomjax.prepare.images.annotation import grids, merging, names, roles, values
from phenomjax.prepare.images.annotation.names import KEYS, VALUES, Columns
from phenomjax.prepare.images.annotation.sheet import Sheet
from phenomjax.prepare.images.annotation.sheet import rename as flag
from phenomjax.prepare.images.annotation.values import Value
from phenomjax.system.errors import UserError, did_you_mean

# in a plate map a dash is an empty well; the Connectivity Map (LINCS) writes -666 for no value
MISSING = tables.MISSING | {
    *("-", "--", "\N{EN DASH}", "\N{EM DASH}"),
    *("-666", "-666.0", "-666.000000", "-12345", "-12345.0"),
}

log = logging.getLogger("phenomjax")


class Annotations(NamedTuple):
    """What tables say of wells.

    Attributes:
      name: of the tables, for messages.
      keys: which of KEYS they have.
      values: which of VALUES they have.
      texts: of each row, the texts of its keys, in the order of `keys`; '' where empty.
      described: of each row, {column: value}.
      where: of each row, "FILE, line 7".
      told: sentences for the screen: what was taken for what.
      warned: those that want a second look.
      site_by_synonym: whether the sites come from a column that is not called so.
      plate_maps: whether a column names the plate map of each row.
      columns: {name of KEYS or VALUES: how the table calls the column}.
      sheet: the table, as it was put together.
    """

    name: str
    keys: list[str]
    values: list[str]
    texts: list[tuple[str, ...]]
    described: list[dict[str, Value]]
    where: list[str]
    told: list[str]
    warned: list[str]
    site_by_synonym: bool
    plate_maps: bool
    columns: dict[str, str]
    sheet: Sheet


def read(paths: Sequence[Path], rename: Mapping[str, str]) -> Annotations:
    """Reads tables and puts them together.

    Args:
      paths: of the tables, in any form that `data.tables` reads; BOOK.xlsx#Sheet names a sheet.
      rename: {column of a table: name of names.TARGETS}.

    Raises:
      UserError: a table cannot be read or joined, a column is missing, unknown or there twice, or a
        value is none.
    """
    told: list[str] = []
    sheets = []
    seen: set[str] = set()
    renames = dict(rename)
    for path in paths:
        sheet, said = _read_sheet(path)
        told += said
        seen.update(sheet.columns)
        if grids.is_grid(sheet):
            sheet, shape = grids.melt(sheet, rename.get(grids.VALUE))
            renames.setdefault(grids.VALUE, "perturbation")
            seen.add(grids.VALUE)
            told.append(shape)
        sheets.append(_without_ignored(sheet, rename))
    _check_renames(paths, sheets, seen, rename)
    sheet, joins = merging.merge(sheets, renames)
    told += joins
    found = names.find_columns(sheet, renames)
    if not found.has_well:
        raise _no_well(sheet, paths)
    if taken := names.said(sheet, found):
        told.append(f"{sheet.name}: taken {taken}")
    warned = []
    if found.unused:
        warned.append(
            f"{sheet.name}: columns not used: {_some(found.unused)} (map one with --rename"
            f" NAME={VALUES[1]})"
        )
    there = [name for name in VALUES if name in found.places]
    if found.roles and "is_control" not in there:
        there.append("is_control")
    if not there:
        unused = sorted(found.unused, key=lambda name: _is_of_place(sheet, name))
        raise UserError(
            f"{sheet.name} has none of the columns {', '.join(VALUES)}; it has:"
            f" {_some(sheet.columns)}. Map at least one with --rename, for instance"
            f" {flag(unused[0] if unused else 'NAME', 'perturbation')}."
        )
    kinds: list[roles.Role | None] = []
    if "is_control" not in there:
        told.append(
            f"{sheet.name}: no column says which wells are controls, is_control is not set"
            + _named_like_controls(sheet, found)
        )
    if found.roles:
        kinds, words = roles.find_roles(sheet, found.roles)
        (warned if "UNKNOWN" in words or "no word tells" in words else told).append(words)
    described = _described(sheet, found, there, kinds)
    for name in ("gene", "perturbation"):
        if name in found.places and (odd := values.dates(sheet.values(found.places[name]))):
            warned.append(
                f"{sheet.name}: {len(odd)} names in {sheet.columns[found.places[name]]} look like"
                f" dates that Excel made of genes ({', '.join(odd[:5])}): correct them in the table"
            )
    keys = [key for key in KEYS if key in found.places or key == "well"]
    texts = [_key_texts(row, keys, found) for row in sheet.rows]
    warned += _nameless(sheet, found, keys, texts)
    site = found.places.get("site")
    return Annotations(
        sheet.name,
        keys,
        there,
        texts,
        described,
        sheet.where,
        told,
        warned,
        site is not None and names.plain(sheet.columns[site]) != "site",
        any(names.plain(column) in merging.PLATE_MAPS for column in sheet.columns),
        _called(sheet, found),
        sheet,
    )


def _nameless(
    sheet: Sheet, found: Columns, keys: Sequence[str], texts: Sequence[tuple[str, ...]]
) -> list[str]:
    """Rows that leave a key empty describe no image; as below a cell that was merged."""
    told = []
    for place, key in enumerate(keys):
        rows = [number for number, one in enumerate(texts) if one[place] in ("", "/")]
        if rows:
            column = sheet.columns[found.places[key]] if key in found.places else ""
            mend = f", or where all images have one {key}: {flag(column, 'ignore')}"
            told.append(
                f"{sheet.name}: {len(rows)} rows name no {key}, so they describe no image (the"
                f" first: {sheet.where[rows[0]]}); fill the cells"
                f"{mend if column and key != 'well' else ''}"
            )
    return told


def _named_like_controls(sheet: Sheet, found: Columns) -> str:
    """ " ('DMSO' in Compound, 16 rows, may be some: add ...)" where a perturbation sounds so."""
    for name in ("perturbation", "gene"):
        texts = sheet.values(found.places[name]) if name in found.places else []
        for text in dict.fromkeys(texts):
            if text is not None and role_of(text) == "negative":
                return (
                    f" ({text!r} in {sheet.columns[found.places[name]]}, {texts.count(text)} rows,"
                    " may be some: add a column is_control, true or false)"
                )
    return ""


def _some(columns: Sequence[str]) -> str:
    """Up to 20 names of columns."""
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    return ", ".join(columns[:20]) + more


def _is_of_place(sheet: Sheet, column: str) -> bool:
    """Whether a column rather counts or places than names what a well holds."""
    held = [v for v in sheet.values(sheet.columns.index(column)) if v is not None]
    words = ("plate", "well", "row", "col", "barcode", "platte", "plaque", "placa", "piastra")
    placed = any(word in names.plain(column) for word in words)
    return placed or all(value.replace(".", "").isdecimal() for value in held)


def _called(sheet: Sheet, found: Columns) -> dict[str, str]:
    called = {name: sheet.columns[place] for name, place in found.places.items()}
    return {"is_control": sheet.columns[found.roles[0]], **called} if found.roles else called


def _read_sheet(path: Path) -> tuple[Sheet, list[str]]:
    """One table, and what was detected."""
    text_files.check_file(tables.file_of(path)[0], "metadata table")
    table = tables.read_table(path, missing=MISSING)
    if not table.rows:
        sheets = (
            f" It is {table.said}: name another as {path}#SHEET." if table.kind == "xlsx" else ""
        )
        raise UserError(
            f"The metadata table {path} has a header ({', '.join(table.columns)}) and no"
            f" rows.{sheets}"
        )
    told = [f"{path}: {len(table.rows)} rows{', ' if table.said else ''}{table.said}"]
    if table.missing:
        counted = [
            f"{name} ({', '.join(f'{text} {count}' for text, count in texts.items())})"
            for name, texts in table.missing.items()
        ]
        told.append(f"{path}: no value, by what is written there: {', '.join(counted)}")
    where = [table.where(number) for number in range(len(table.rows))]
    return Sheet(str(path), table.columns, table.rows, where), told


def _without_ignored(sheet: Sheet, rename: Mapping[str, str]) -> Sheet:
    keep = [p for p, column in enumerate(sheet.columns) if rename.get(column) != "ignore"]
    if len(keep) == len(sheet.columns):
        return sheet
    columns = tuple(sheet.columns[place] for place in keep)
    return sheet._replace(
        columns=columns, rows=[tuple(row[place] for place in keep) for row in sheet.rows]
    )


def _check_renames(
    paths: Sequence[Path], sheets: Sequence[Sheet], seen: set[str], rename: Mapping[str, str]
) -> None:
    for name, target in rename.items():
        if name not in seen:
            there = [column for sheet in sheets for column in sheet.columns if column]
            raise UserError(
                f"--rename {name}={target}: {' and '.join(map(str, paths))} has no column"
                f" {name!r}.{did_you_mean(name, there)} It has: {_some(there)}."
            )


def _no_well(sheet: Sheet, paths: Sequence[Path]) -> UserError:
    """The error of a table without wells: it names the column that holds some, if there is one."""
    holders = [
        column
        for place, column in enumerate(sheet.columns)
        if (held := [value for value in sheet.values(place) if value is not None])
        and all(map(looks_like_well, held))
    ]
    holders.sort(key=lambda column: "well" not in names.plain(column))
    start = (
        f"{sheet.name} has no column 'well' (nor 'row' and 'column'); it has:"
        f" {_some(sheet.columns)}."
    )
    if any(map(looks_like_well, sheet.columns)):
        return UserError(
            f"{start} The first line seems to hold values and no names: write a line above it that"
            " names the columns, such as plate,well,gene."
        )
    if holders:
        return UserError(
            f"{start} Name the one that holds the well: {flag(holders[0], 'well')}, for instance."
        )
    return UserError(
        f"{start} None of them holds wells such as A01. If it tells of plates, compounds or guides,"
        f" give the table that has the wells too: --metadata WELLS.csv --metadata {paths[0]}. Else"
        " name the column: --rename COLUMN=well."
    )


def _described(
    sheet: Sheet, found: Columns, there: Sequence[str], kinds: Sequence[roles.Role | None]
) -> list[dict[str, Value]]:
    """The bank's values of each row."""
    place = found.places.get("concentration")
    sign = ""
    if place is not None:
        texts = (values.number_part(text) for text in sheet.values(place) if text is not None)
        sign = decimal_sign(texts)
    described, united = [], False
    for number, (row, where) in enumerate(zip(sheet.rows, sheet.where, strict=True)):
        told: dict[str, Value] = {}
        for name in there:
            text = row[found.places[name]] if name in found.places else None
            if name == "concentration" and text is not None:
                unit = _unit(row, found, where, sheet)
                column = sheet.columns[found.places[name]]
                told[name] = values.concentration(text, where, sign, unit, column)
                united |= unit is not None or values.number_part(text) != text.strip()
            elif name == "is_control" and text is not None and (role := role_of(text)):
                told[name] = role in ("negative", "control")
            else:
                told[name] = values.check_value(name, text, where)
        if kinds and (kind := kinds[number]):
            if told["is_control"] is None:
                told["is_control"] = kind == "negative"
            elif kind == "negative" and not told["is_control"]:
                raise UserError(
                    f"{where}: the well is a negative control by"
                    f" {', '.join(sheet.columns[p] for p in found.roles)} and none by is_control."
                    " Correct the table, or leave one out:"
                    f" {flag(sheet.columns[found.roles[0]], 'ignore')}."
                )
            if kind == "positive" and told.get("perturbation_type") is None:
                told["perturbation_type"] = "control"
        described.append(told)
    if place is not None:
        how = "in uM" if united else "as it stands, for no unit is said (with one it is in uM)"
        log.info("%s: %s is kept %s", sheet.name, sheet.columns[place], how)
    return described


def _unit(row: Sequence[str | None], found: Columns, where: str, sheet: Sheet) -> str | None:
    if found.unit_column is None:
        return found.unit
    text = row[found.unit_column]
    if text is None:
        return None
    unit = values.unit_of(text)
    if unit is None:
        raise UserError(
            f"{where}: the unit {text!r} of a concentration is unknown; there are pM, nM, uM, mM"
            " and M. Correct it, or leave the concentrations out:"
            f" {flag(sheet.columns[found.places['concentration']], 'ignore')}."
        )
    return unit


def _key_texts(row: Sequence[str | None], keys: Sequence[str], found: Columns) -> tuple[str, ...]:
    """What a row says of its keys; the well from row and column where it is not there."""
    texts = []
    for key in keys:
        text = row[found.places[key]] if key in found.places else None
        if key == "well" and not text:
            parts = [row[found.places[n]] if n in found.places else None for n in ("row", "column")]
            text = "/".join(number_of(part or "") for part in parts)
        texts.append(text or "")
    return tuple(texts)

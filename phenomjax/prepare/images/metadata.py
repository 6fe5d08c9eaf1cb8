"""Joins a table of the experiment (CSV or Parquet) to images, by plate and well; checks its columns
and values.
"""

import csv
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from phenomjax.data.images import wells
from phenomjax.data.images.bank import PERTURBATION_TYPES
from phenomjax.system.errors import UserError, did_you_mean

log = logging.getLogger("phenomjax")
VALUES = ("cell_type", "perturbation", "perturbation_type", "gene", "concentration", "is_control")
KEYS = ("experiment", "plate", "well", "site")
_TRUE, _FALSE = (
    {"1", "1.0", "-1", "-1.0", "true", "yes", "t", "y"},
    {
        "0",
        "0.0",
        "false",
        "no",
        "f",
        "n",
    },
)
Value = str | float | bool | None
Key = tuple[str | None, str | None, str, str]  # experiment, plate, well, site


def parse_pairs(pairs: Sequence[str], flag: str, known: Iterable[str]) -> dict[str, str]:
    """Parses repeated NAME=VALUE arguments; for --rename the known name is on the right, else on
    the left.
    """
    parsed, known = {}, list(known)
    for pair in pairs:
        left, sign, right = pair.partition("=")
        name = right if flag == "--rename" else left
        if not (left and sign and right):
            raise UserError(f"{flag} {pair!r} is not understood; write {flag} NAME=VALUE.")
        if name not in known:
            raise UserError(
                f"{flag} {pair}: {name!r} is unknown.{did_you_mean(name, known)} There are:"
                f" {', '.join(known)}."
            )
        parsed[left] = right
    return parsed


def check_value(column: str, text: str | None, where: str) -> Value:
    """Converts one text to the column's type: float, bool or string; None for an empty one."""
    text = (text or "").strip()
    if not text or text.lower() in ("nan", "null", "none"):
        return None
    if column == "concentration":
        try:
            return float(text)
        except ValueError as error:
            raise UserError(
                f"{where}: concentration {text!r} is not a number. Strip units from the column."
            ) from error
    if column == "is_control":
        if text.lower() not in _TRUE | _FALSE:
            raise UserError(
                f"{where}: is_control {text!r} is neither true (1, -1, true, yes) nor false (0,"
                " false, no)."
            )
        return text.lower() in _TRUE
    if column == "perturbation_type" and text not in PERTURBATION_TYPES:
        hint = did_you_mean(text, PERTURBATION_TYPES)
        raise UserError(
            f"{where}: perturbation_type {text!r} is unknown.{hint} There are:"
            f" {', '.join(PERTURBATION_TYPES)}."
        )
    return text


class Joiner:
    """Rows of a metadata table by experiment, plate, well and site, whichever of them the table
    has.

    Args:
      path: CSV (first line names the columns) or Parquet.
      rename: {column of the file: column of the bank or key}.

    Raises:
      UserError: no such file, a missing or unknown column, a value of the wrong type, two rows for
        one well that differ.
    """

    def __init__(self, path: Path, rename: dict[str, str]):
        self.path = path
        columns, rows = _read(path)
        for name in rename:
            if name not in columns:
                raise UserError(
                    f"--rename {name}={rename[name]}: {path} has no column"
                    f" {name!r}.{did_you_mean(name, columns)} It has: {', '.join(columns)}."
                )
        names = [rename.get(name, name) for name in columns]
        doubled = {name for name in names if names.count(name) > 1 and name in KEYS + VALUES}
        if doubled:
            raise UserError(
                f"{path}: two columns are named {sorted(doubled)[0]!r} after --rename. Leave one of"
                " them out."
            )
        if "well" not in names and not {"row", "column"} <= set(names):
            known = (*KEYS, "row", "column")
            alike = [(n, n.lower().removeprefix("metadata_")) for n in columns]
            renames = " ".join(
                f"--rename {name}={key}" for name, key in alike if key in known and key != name
            )
            raise UserError(
                f"{path} has no column 'well' (nor 'row' and 'column'); it has:"
                f" {', '.join(columns)}. Name the one that holds the well:"
                f" {renames or '--rename Metadata_Well=well, for instance'}."
            )
        self.keys = [key for key in KEYS if key in names or key == "well"]
        self.values = [name for name in VALUES if name in names]
        unused = [
            name
            for name in columns
            if rename.get(name, name) not in (*KEYS, *VALUES, "row", "column")
        ]
        if unused:
            log.warning(
                "%s: columns not used: %s (map one with --rename NAME=%s)",
                path,
                ", ".join(unused),
                VALUES[1],
            )
        if not self.values:
            raise UserError(
                f"{path} has none of the columns {', '.join(VALUES)}; it has: {', '.join(columns)}."
                " Map at least one with --rename, for instance --rename"
                f" {unused[0] if unused else 'NAME'}=perturbation."
            )
        self.rows: dict[tuple[str, ...], dict] = {}
        for number, row in enumerate(rows, start=2):
            self._add(dict(zip(names, row, strict=False)), f"{path}, line {number}")

    def _add(self, row: dict[str, str | None], where: str) -> None:
        if not row.get("well"):
            row["well"] = f"{row.get('row') or ''}/{row.get('column') or ''}"
        key = self._key([row.get(name) or "" for name in self.keys])
        values = {name: check_value(name, row.get(name), where) for name in self.values}
        if self.rows.setdefault(key, values) != values:
            described = ", ".join(
                f"{name} {part}" for name, part in zip(self.keys, key, strict=True)
            )
            raise UserError(
                f"{where}: a second, different row for {described}. One row a well is joined: add"
                " the column that tells the rows apart (experiment, plate, site), or remove one."
            )

    def _key(self, parts: Sequence[str]) -> tuple[str, ...]:
        return tuple(
            wells.normalise_well(part) if name == "well" else wells.normalise_number(part)
            for name, part in zip(self.keys, parts, strict=True)
        )

    def check(self, keys: Sequence[Key]) -> None:
        """Before any work: a table without plates describes one plate only, and some row must fit
        some image.
        """
        plates = {key[:2] for key in keys}
        if "plate" not in self.keys and len(plates) > 1:
            raise UserError(
                f"{self.path} has no column 'plate' but the images come from {len(plates)} plates,"
                " so a well is ambiguous. Add the column, or name it with --rename, for instance"
                " --rename Metadata_Plate=plate."
            )
        if keys and all(self.find(key) is None for key in keys):
            rows = ", ".join("/".join(key) for key in list(self.rows)[:2])
            raise UserError(
                f"No row of {self.path} fits an image: its keys ({', '.join(self.keys)}) are like"
                f" {rows}, the images' like {'/'.join(part for part in keys[0] if part)}"
                " (experiment, plate, well, site). Correct the table, or give the plate's name"
                " with --default plate=NAME."
            )

    def find(self, key: Key) -> dict | None:
        """The values for one image, None when the table has no row for it."""
        return self.rows.get(self.row_key(key))

    def row_key(self, key: Key) -> tuple[str, ...]:
        """The part of an image's key that the table has."""
        named = dict(zip(KEYS, key, strict=True))
        return self._key([named[name] or "" for name in self.keys])


def describe(
    keys: Iterable[Key], joiner: Joiner | None, constants: dict
) -> tuple[dict[str, list], list[Key]]:
    """The columns that describe images, from the table first, then from constants (--set).

    Returns:
      columns: {name: values in the order of keys} for VALUES.
      unmatched: the images without a row in the table.
    """
    columns: dict[str, list] = {name: [] for name in VALUES}
    unmatched = []
    for key in keys:
        row = joiner.find(key) if joiner else {}
        if row is None:
            unmatched.append(key)
            row = {}
        values = {
            name: row[name] if row.get(name) is not None else constants.get(name) for name in VALUES
        }
        # A control is one whatever the library is made of; only a type that its own row names
        # stands.
        if values["is_control"] and row.get("perturbation_type") is None:
            values["perturbation_type"] = "control"
        for name, value in values.items():
            columns[name].append(value)
    return columns, unmatched


def _text(value) -> str | None:
    """A value of a Parquet table as a CSV would have it; pandas turns plates into 1.0 when one is
    missing.
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)


def _read(path: Path) -> tuple[list[str], list]:
    if not path.is_file():
        near = (
            did_you_mean(path.name, (p.name for p in path.parent.glob("*")))
            if path.parent.is_dir()
            else ""
        )
        raise UserError(f"There is no metadata table at {path}.{near}")
    if path.suffix.lower() in (".parquet", ".pq"):
        table = pq.read_table(path)
        columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
        return table.column_names, list(zip(*columns, strict=True))
    with path.open(newline="", encoding="utf-8-sig") as file:
        separator = "\t" if path.suffix.lower() in (".tsv", ".txt") else ","
        rows = [row for row in csv.reader(file, delimiter=separator) if row]
    if not rows:
        raise UserError(f"The metadata table {path} is empty.")
    short = next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if short is not None:
        raise UserError(
            f"{path}, line {short + 1}: {len(rows[short])} fields where the first line names"
            f" {len(rows[0])} columns. The table must be separated by commas (tabs for .tsv),"
            " fields with commas in quotes."
        )
    return [name.strip() for name in rows[0]], rows[1:]

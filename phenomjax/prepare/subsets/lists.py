"""Tables in which a user lists what is wanted of banks: by row, or by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from phenomjax.data.images.wells import normalise_number, normalise_well
from phenomjax.data.selections import KEYS, Bank, Selection, is_selection, parts_of
from phenomjax.data.tables import PublishedTable, read_table
from phenomjax.system.errors import UserError

MISSED = 5  # entries of a list that are named in an error
_SPELT: dict[str, Callable[[str], str]] = {
    "well": normalise_well,
    "site": normalise_number,
    "time": normalise_number,
}


class Listed:
    """A list of rows or names that are wanted of some banks.

    Args:
      path: CSV, TSV, Parquet, … with a column `row` (and `bank` where there are several), or with
        columns of KEYS; or a selection of these banks or of others.
      kind: "images" or "sequences".
      banks: what is chosen of.

    Attributes:
      columns: those of the metadata that it must see.

    Raises:
      UserError: no such table, or it has none of these columns.
    """

    def __init__(self, path: Path, kind: str, banks: list[Bank]):
        self.path = path
        self.columns: tuple[str, ...] = ()
        self._rows: list[np.ndarray] | None = None
        self._names: dict[str, list[int]] = {}
        self._met = set[str]()
        if is_selection(path) and (found := _of_these(Selection(path), kind, banks)):
            self._rows = found
            return
        table = read_table(path)
        if is_selection(path) and Selection(path).judges:
            table = _kept(table)
        names = [str(name) for name in KEYS[kind] if name in table.columns]
        if "row" in table.columns and not is_selection(path):
            self._rows, self._places = _numbered(table, banks)
        elif not names:
            raise UserError(
                f"`selection` {path} has no column that says which {kind} are wanted: give `row`"
                f" (counted from 0), or some of {', '.join(KEYS[kind])}. It has:"
                f" {', '.join(table.columns)}."
            )
        if names:
            self.columns = tuple(names)
            columns = {name: [_spell(name, v) for v in table.column(name)] for name in names}
            self._spelt = pa.table({n: pa.array(v, pa.string()) for n, v in columns.items()})
        if self._rows is None:
            for place, key in enumerate(_joined(self._spelt, self.columns).to_pylist()):
                self._names.setdefault(key, []).append(place)
        self._table, self._wanted = table, pa.array(self._names, pa.string())
        if not table.rows:
            raise UserError(f"`selection` {path} has no row: nothing would be chosen.")

    def mask(self, number: int, first: int, batch: pa.RecordBatch) -> np.ndarray:
        """For each row of a batch of a bank, which begins with the row `first`, whether it is
        wanted.
        """
        if self._rows is not None:
            wanted = self._rows[number]
            begin, end = np.searchsorted(wanted, (first, first + len(batch)))
            mask = np.zeros(len(batch), bool)
            mask[wanted[begin:end] - first] = True
            if self.columns and end > begin:
                there = batch.filter(pa.array(mask))
                self._check_names(there, wanted[begin:end], self._places[number][begin:end])
            return mask
        keys = _joined(batch, self.columns)
        hits = pc.is_in(keys, value_set=self._wanted)
        self._met.update(pc.unique(keys.filter(hits)).to_pylist())
        return hits.to_numpy(zero_copy_only=False)

    def _check_names(self, there: pa.RecordBatch, rows: np.ndarray, places: np.ndarray) -> None:
        """Raises UserError where a row of the list has other names than that row of the bank."""
        for name in self.columns:
            listed = self._spelt[name].take(pa.array(places))
            same = pc.fill_null(pc.equal(listed, there[name].cast(pa.string())), False)
            bad = pc.and_(pc.invert(same), pc.is_valid(listed)).to_numpy(zero_copy_only=False)
            if bad.any():
                first = int(np.flatnonzero(bad)[0])
                raise UserError(
                    f"{self._table.where(int(places[first]))}: {name} is {listed[first].as_py()!r},"
                    f" and row {rows[first]} of the bank has {there[name][first].as_py()!r}."
                    " The rows are of another bank, or of before it was made again: without the"
                    " column row the names say what is wanted."
                )

    def missed(self) -> list[dict[str, str | None]]:
        """Entries that are in no bank, as the table has them, with where they stand in it."""
        places = sorted(
            place for key, at in self._names.items() if key not in self._met for place in at
        )
        found: list[dict[str, str | None]] = []
        for place in places:
            found.append({"list": self._table.where(place)})
            found[-1].update(zip(self._table.columns, self._table.rows[place], strict=True))
        return found


def _kept(table: PublishedTable) -> PublishedTable:
    """What a selection that judges keeps."""
    kept = [
        place for place, value in enumerate(table.column("kept")) if str(value).lower() == "true"
    ]
    rows, lines = [table.rows[place] for place in kept], [table.lines[place] for place in kept]
    return replace(table, rows=rows, lines=lines)


def _joined(table: pa.Table | pa.RecordBatch, columns: tuple[str, ...]) -> pa.Array:
    """The columns of each row as one text; a missing value is another one than an empty text."""
    parts = [pc.fill_null(table[name].cast(pa.string()), "\0") for name in columns]
    return pc.binary_join_element_wise(*parts, "\x1f")


def _of_these(selection: Selection, kind: str, banks: list[Bank]) -> list[np.ndarray] | None:
    """The rows of each bank, if the selection was made of all of these; None if its names must
    say what is meant.
    """
    if selection.kind != kind:
        raise UserError(
            f"`selection` {selection.path} is one of {selection.kind}, and these banks hold {kind}."
        )
    known = [source.parts for source in selection.banks]
    if all(any(parts_of(bank)[: len(one)] == one for one in known) for bank in banks):
        return [chosen.rows for chosen in selection.of(banks)]
    return None


def _numbered(
    table: PublishedTable, banks: list[Bank]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of each bank, of a table of row numbers, and where each stands in the table."""
    numbers = ["0"] * len(table.rows)
    if "bank" in table.columns:
        numbers = [str(value) for value in table.column("bank")]
    elif len(banks) > 1:
        raise UserError(
            f"`selection` {table.path} has a column row and none called bank, and there are"
            f" {len(banks)} banks: add `bank`, 0 for the first, or make a selection of each."
        )
    found = [dict[int, int]() for _ in banks]
    for place, (number, row) in enumerate(zip(numbers, table.column("row"), strict=True)):
        names = [str(place) for place in range(len(banks))] + [str(bank.path) for bank in banks]
        if number not in names:
            raise UserError(
                f"{table.where(place)}: there is no bank {number!r}. Say 0 to {len(banks) - 1}."
            )
        bank = names.index(number) % len(banks)
        if not (row or "").isdecimal() or int(row or "") >= len(banks[bank]):
            raise UserError(
                f"{table.where(place)}: {row!r} is no row of {banks[bank].path}, which has 0 to"
                f" {len(banks[bank]) - 1}."
            )
        found[bank].setdefault(int(row or ""), place)
    sorted_rows = [np.array(sorted(rows), np.int64) for rows in found]
    places = [
        np.array([rows[row] for row in one.tolist()], np.int64)
        for rows, one in zip(found, sorted_rows, strict=True)
    ]
    return sorted_rows, places


def _spell(name: str, value: str | None) -> str | None:
    """A part of a name as banks spell it."""
    return _SPELT[name](value) if value is not None and name in _SPELT else value

"""Measures of runs that stand elsewhere: a table of one row a run, such as recall of complexes."""

import dataclasses
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from phenomjax.data.numbers import decimal_sign, parse_number
from phenomjax.data.tables import PublishedTable, read_table
from phenomjax.scaling.observations.runs import COLUMNS, Observations
from phenomjax.system.errors import UserError, did_you_mean, first_of

log = logging.getLogger("phenomjax")
NAMED_BY = ("workdir", "run", "name")
ENDS = ("_low", "_high")  # of intervals, which are no measures


def is_table(word: str) -> bool:
    """Whether a word of `metrics` is FILE or FILE:COLUMN and not the name of a metric."""
    return any(
        Path(part).suffix and Path(part).is_file() for part in (word, word.rpartition(":")[0])
    )


def chosen(runs: Observations, names: Sequence[str]) -> Observations:
    """The runs with these metrics alone.

    Raises:
      UserError: no run has one.
    """
    for name in names:
        if name not in runs.metrics:
            raise UserError(
                f"`metrics` names {name}, which no run has at its end, and there is no table of"
                f" that name.{did_you_mean(name, runs.metrics)} There are:"
                f" {first_of(runs.metrics, 20) or 'none'}."
            )
    return dataclasses.replace(runs, metrics={name: runs.metrics[name] for name in names})


def of_table(runs: Observations, word: str) -> Observations:
    """The runs with the measures of a table besides.

    Args:
      runs: as they are called in the table's column `workdir`, `run` or `name`.
      word: FILE, all its columns of numbers; or FILE:COLUMN.

    Raises:
      UserError: no such table or column, or none of its runs is among these.
    """
    path, column = (Path(word), "") if Path(word).is_file() else _parted(word)
    table = read_table(path)
    key = next((name for name in NAMED_BY if name in table.columns), "")
    if not key:
        raise UserError(
            f"{path} of `metrics` does not say which run a row is of: it has"
            f' {", ".join(table.columns)}. Call the column that does "run".'
        )
    skipped = {*NAMED_BY, *COLUMNS, "tokens"}
    columns = [column] if column else [
        name for name in table.columns if name not in skipped and not name.endswith(ENDS)
    ]  # fmt: skip
    places = _places(runs, table.column(key))
    strange = [table.where(row) for row, place in enumerate(places) if place is None]
    if len(strange) == len(places):
        raise UserError(
            f"None of the runs in {path} (column '{key}': {first_of(table.column(key), 3)}) is"
            f" among the runs that are fitted ({first_of(runs.names, 3)}). Give the table of these"
            " runs."
        )
    if strange:
        log.warning("no fitted run is that of: %s; they are passed over", first_of(strange))
    found = dict(runs.metrics)
    for name in columns:
        values = numbers(table, name, range(len(table.rows)), required=bool(column))
        if values is None:
            continue
        found[name] = np.full(len(runs), np.nan)
        for value, place in zip(values, places, strict=True):
            if place is not None:
                found[name][place] = value
    return dataclasses.replace(runs, metrics=found)


def _parted(word: str) -> tuple[Path, str]:
    file, _, column = word.rpartition(":")
    return Path(file), column


def _places(runs: Observations, called: Sequence[str | None]) -> list[int | None]:
    """Which run each row is of: the same name, or path that ends so, and of that one alone."""
    names = [name.split(" (")[0] for name in runs.names]
    found = list[int | None]()
    for one in called:
        tail = Path(one or "-").parts
        fits = [
            place
            for place, name in enumerate(names)
            if (parts := Path(name).parts)[-len(tail) :] == tail or tail[-len(parts) :] == parts
        ]
        found.append(fits[0] if len(fits) == 1 else None)
    return found


def numbers(
    table: PublishedTable, name: str, rows: Iterable[int], required: bool = True
) -> list[float] | None:
    """The numbers of a column in some rows, NaN where nothing is there; None where it is one of
    texts.

    Raises:
      UserError: a text in a column that is `required`.
    """
    column = table.column(name)
    sign = decimal_sign(value for value in column if value is not None)
    values = list[float]()
    for row in rows:
        try:
            value = column[row]
            values.append(math.nan if value is None else parse_number(value, sign))
        except ValueError as error:
            if required:
                raise UserError(
                    f"{table.where(row)}, column '{name}' of `metrics`: {error}."
                ) from None
            return None
    return values

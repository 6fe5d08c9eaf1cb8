"""Runs from anyone's table: CSV, TSV, Parquet or .xlsx, one row a run; numbers as people write them
(1.4B, 1,000,000, 3e21), each fault named with its row.
"""

import dataclasses
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from phenomjax.data.numbers import decimal_sign
from phenomjax.data.tables import PublishedTable, open_rows, read_table
from phenomjax.scaling.observations import checks, doubts, measures
from phenomjax.scaling.observations.doubts import LossUnit
from phenomjax.scaling.observations.quantities import header_scale, number
from phenomjax.scaling.observations.runs import Observations
from phenomjax.system.errors import UserError, did_you_mean, first_of

log = logging.getLogger("phenomjax")
OnBad = Literal["error", "skip", "keep"]
EXAMPLE = "params=COLUMN,tokens=COLUMN,loss=COLUMN"
MOST = 20_000  # rows: more are a log of steps
MOST_OF_ALL = 1e40  # parameters, units, FLOPs
ROLES = {  # what a column can be, and what such columns are called
    "params": (
        "params",
        "parameters",
        "n params",
        "num params",
        "model size",
        "size",
        "n",
        "model",
    ),
    "tokens": (
        "tokens",
        "training tokens",
        "d",
        "num tokens",
        "residues",
        "images",
        "seen",
        "data",
    ),
    "flops": ("flops", "training flop", "training flops", "compute", "c", "flop", "budget"),
    "loss": ("loss", "val loss", "validation loss", "final loss", "test loss", "val/loss", "eval"),
    "unique": ("unique", "unique tokens", "dataset size", "train tokens"),
    "name": ("run", "name", "id", "run name"),
}
# Columns in which one law has one value: first those in which losses mean different things.
JUDGED = (
    *("vocab", "vocabulary", "vocab_size", "tokenizer", "tokeniser", "alphabet", "loss_unit"),
    *("unit", "units", "task", "objective", "channels", "validation", "val_set", "eval_set"),
)
TRAINED = ("dataset", "data", "corpus", "train_set", "training_data", "data_mix", "architecture")


def columns_of(text: str) -> dict[str, str]:
    """{"params": COLUMN, …} of "params=COLUMN,tokens=COLUMN,loss=COLUMN"; a column's name may have
    commas, and a factor behind it (tokens=COLUMN*1e9).

    Raises:
      UserError: it is not of that form, or names something else.
    """
    parts = re.split(r"(?:^|,)\s*([A-Za-z_]+)\s*=", text)
    pairs = [
        (name.lower(), column.strip())
        for name, column in zip(parts[1::2], parts[2::2], strict=True)
    ]
    pairs = [({"seen": "tokens"}.get(name, name), column) for name, column in pairs]
    if parts[0].strip() or not pairs:
        raise UserError(f"`columns` is '{text}', and not of the form {EXAMPLE}.")
    for name, column in pairs:
        if name not in ROLES:
            raise UserError(
                f"`columns` names {name}={column}, and there is no"
                f" {name}.{did_you_mean(name, ROLES)} There are {', '.join(ROLES)}. Write"
                f" {EXAMPLE}."
            )
        if not column:
            raise UserError(f"`columns` names no column for {name}. Write {EXAMPLE}.")
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(
            name for name, count in Counter(name for name, _ in pairs).items() if count > 1
        )
        raise UserError(f"`columns` names {twice} twice. Write {EXAMPLE}.")
    return found


def of_csv(
    path: Path,
    columns: Mapping[str, str],
    *,
    loss_unit: LossUnit = "",
    on_bad_run: OnBad = "error",
    only: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> Observations:
    """The runs of a table, one a row.

    Args:
      path: CSV, TSV, Parquet or .xlsx, compressed or not; "FILE.xlsx#Sheet".
      columns: {"params", "loss", "tokens" or "flops" or both, "unique", "name": name of the
        column}; with flops alone D = C / 6N. {}: an error that proposes them.
      loss_unit: of the loss: bits and perplexities are made nats; "nats": taken as it is, even if
        it looks like something else.
      on_bad_run: "skip": rows with a fault are left out, and named; "keep": losses that are far
        from those of the runs around them stay.
      only: "COLUMN=VALUE", rows that are read.
      metrics: columns of further measures.

    Raises:
      UserError: a table, column, row or number that cannot be; see `checks`.
    """
    table = _read(path)
    columns = _check_columns(table, columns)
    keep = _only(table, only)
    _check_one_kind(table, keep, set(columns.values()))
    found, faults = dict[str, Float64[np.ndarray, " runs"]](), dict[int, str]()
    for role in [role for role in ROLES if role in columns and role != "name"]:
        found[role] = _values(table, role, columns[role], keep, faults)
    unit = doubts.loss_unit(columns["loss"], loss_unit)
    if unit == "bits":
        found["loss"] = found["loss"] / checks.BITS
    if unit == "perplexity":
        found["loss"] = np.log(np.maximum(found["loss"], 1 + 1e-12))
    found_metrics = {name: np.array(measures.numbers(table, name, keep)) for name in metrics}
    good = np.array([row not in faults for row in keep], bool)
    params, loss = found["params"], found["loss"]
    unknown = np.full(len(keep), np.nan)
    flops = found.get("flops", unknown)
    seen = found["tokens"] if "tokens" in found else flops / (6 * params)
    doubts.check_scales(path, columns, params[good], seen[good], flops[good], loss[good], loss_unit)
    if on_bad_run != "keep":
        odd = doubts.odd(params, seen, flops, loss, good)
        faults |= {keep[place]: why for place, why in odd.items()}
    names = [table.where(row) for row in keep]
    if "name" in columns:
        called = table.column(columns["name"])
        names = [f"{called[row] or '?'} ({table.where(row)})" for row in keep]
    told = [f"{names[place]}: {faults[row]}" for place, row in enumerate(keep) if row in faults]
    if told and on_bad_run == "error":
        listed = first_of([one.rstrip(".") for one in told])
        mend = "Mend the rows, or leave them out with `on_bad_run` skip"
        if len(keep) - len(told) < checks.FEWEST:
            mend = f"Mend the rows: fewer than {checks.FEWEST} would be left without them"
        if sum("log-likelihood" in one for one in told) > len(keep) / 2:
            mend = f"If these are log-likelihoods, write loss={columns['loss']}*-1 in `columns`"
        raise UserError(f"{len(told)} of {len(keep)} runs cannot be fitted: {listed}. {mend}.")
    if told:
        log.warning("%d of %d runs are left out: %s", len(told), len(keep), first_of(told, 20))
    runs = Observations(
        names=tuple(names),
        params=params,
        seen=seen,
        unique=found.get("unique", unknown),
        flops=flops,
        loss=loss,
        metrics=found_metrics,
        curves=(None,) * len(keep),
    )
    good = np.array([row not in faults for row in keep], bool)
    return checks.checked(dataclasses.replace(runs.take(good), left_out=tuple(told)), str(path))


def _read(path: Path) -> PublishedTable:
    """The table.

    Raises:
      UserError: there is none, it is empty, or so long that its rows are no runs.
    """
    if path.is_dir():
        raise UserError(
            f"{path} is a folder, and `runs` a table of runs. Give the folder of a ladder as it is:"
            f" python -m phenomjax.scaling fit {path} --out forecast/"
        )
    rows = open_rows(path)
    count = 0
    for _ in rows.rows:
        count += 1
        if count > MOST:
            raise UserError(
                f"{path} has more than {MOST:,} rows: it looks like a log of steps. One row a run"
                " is wanted, its loss at the end."
            )
    if not count:
        raise UserError(
            f"{path} names columns ({first_of(rows.columns)}) and has no row below them: no run is"
            " in it."
        )
    return read_table(path)


def _check_columns(table: PublishedTable, columns: Mapping[str, str]) -> dict[str, str]:
    """The columns as the table has them.

    Raises:
      UserError: one is missing or not there; proposes what fits by name.
    """
    names = [name for name in table.columns if name]
    missing = [role for role in ("params", "loss") if role not in columns]
    if "tokens" not in columns and "flops" not in columns:
        missing.append("tokens or flops")
    if missing:
        guessed = _guess(names)
        roles = ("params", "tokens" if guessed.get("tokens") else "flops", "loss")
        words = ",".join(
            f"{role}={named if named in names else guessed.get(role, 'COLUMN')}"
            for role in roles
            for named in (columns.get(role),)
        )
        raise UserError(
            f"`columns` does not say which column is {' and which is '.join(missing)}. {table.path}"
            f' has: {", ".join(names)}. Give `columns` "{words}"'
            + (", if that is what they are." if guessed else ".")
        )
    for role, name in columns.items():
        plain = _factor(table, name)[0]
        if plain not in table.columns:
            guess = did_you_mean(plain, names)
            fits = _guess(names).get(role)
            guess = guess or (f" Did you mean '{fits}'?" if fits else "")
            raise UserError(
                f"{table.path} has no column '{plain}', which `columns` names as {role}.{guess} It"
                f" has: {', '.join(names)}."
            )
        table.column(plain)  # there twice
    for name, count in Counter(columns[role] for role in columns if role != "name").items():
        if count > 1:
            taken = [role for role in columns if columns[role] == name]
            raise UserError(
                f"`columns` takes '{name}' of {table.path} for {' and for '.join(taken)}. Name a"
                f" column of its own for each; it has: {', '.join(names)}."
            )
    return dict(columns)


def _guess(names: Sequence[str]) -> dict[str, str]:
    """{role: column} by the names of columns."""
    plain = {re.sub(r"[\W_]+", " ", name).strip().lower(): name for name in reversed(names)}
    found = dict[str, str]()
    for role, known in ROLES.items():
        exact = [plain[one] for one in known if one in plain]
        within = [name for text, name in plain.items() for one in known[:2] if one in text]
        if best := [name for name in exact + within if name not in found.values()]:
            found[role] = best[0]
    return found


def _factor(table: PublishedTable, name: str) -> tuple[str, float]:
    """Column and factor of "COLUMN*1e9"."""
    if name not in table.columns and "*" in name:
        plain, _, factor = name.rpartition("*")
        try:
            if (value := float(factor)) and math.isfinite(value):
                return plain.strip(), value
        except ValueError:
            pass
        raise UserError(
            f"`columns` has '{name}', whose factor is no number but 0. Write COLUMN*1e9."
        )
    return name, 1.0


def _only(table: PublishedTable, only: Sequence[str]) -> list[int]:
    """The rows that are read."""
    keep = list(range(len(table.rows)))
    for word in only:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"`only` is '{word}', and not of the form COLUMN=VALUE.")
        column = table.column(name.strip())
        there = sorted({one for one in column if one is not None})
        keep = [row for row in keep if column[row] == value.strip()]
        if not keep:
            raise UserError(
                f"`only` {word}: no row of {table.path} has that.{did_you_mean(value, there)} There"
                f" are: {first_of(there)}."
            )
    return keep


def _check_one_kind(table: PublishedTable, keep: Sequence[int], used: set[str]) -> None:
    """Looks for columns that say that the runs are of several kinds.

    Raises:
      UserError: losses of several vocabularies, units, tasks.
    """
    for name in table.columns:
        plain = re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")
        if plain not in JUDGED + TRAINED or name in used or table.columns.count(name) > 1:
            continue
        column = table.column(name)
        kinds = Counter(column[row] or "(none)" for row in keep)
        if len(kinds) < 2 or (plain in TRAINED and len(kinds) > len(keep) / 2):
            continue
        told = ", ".join(f"{kind} ({count} runs)" for kind, count in kinds.most_common(4))
        best = kinds.most_common(1)[0][0]
        said = f"The runs of {table.path} are of several kinds by the column '{name}': {told}."
        mend = f'Fit one of them with `only` "{name}={best}"'
        if plain in JUDGED:
            raise UserError(
                f"{said} Their losses mean different things, and no law has them in common. {mend}."
            )
        log.warning("%s One law is fitted to all. %s", said, mend.replace("`only`", "--only"))


def _values(
    table: PublishedTable, role: str, name: str, keep: Sequence[int], faults: dict[int, str]
) -> Float64[np.ndarray, " runs"]:
    """The numbers of a column; adds to `faults` the rows in which there is none."""
    name, factor = _factor(table, name)
    column, count = table.column(name), role != "loss"
    if factor == 1.0 and count and (scale := header_scale(name)) != 1.0:
        factor = scale
        log.info("the column '%s' is read as times %g", name, scale)
    texts = [column[row] for row in keep]
    sign = decimal_sign(text for text in texts if text is not None)
    values = np.full(len(keep), np.nan)
    for place, (row, text) in enumerate(zip(keep, texts, strict=True)):
        try:
            values[place] = factor * number(text, sign, count)
            if not 0 < values[place] < MOST_OF_ALL:
                raise ValueError(_impossible(role, text, values[place]))
        except ValueError as error:
            values[place] = np.nan
            faults.setdefault(row, f"{role} ('{name}'): {error}.")
    return values


def _impossible(role: str, text: str | None, value: float) -> str:
    if not math.isfinite(value):
        return f"{text}: the run diverged" if role == "loss" else f"{text} is no finite number"
    if role == "loss":
        return f"{text} is not above 0" + (
            f": a log-likelihood? Its loss is {-value:g}" if value < 0 else ""
        )
    return f"{text} is not above 0" if value <= 0 else f"{text} is more than there can be"

"""Forecast a run before it starts, and write the forecast down:

python -m phenomjax.scaling forecast --fit runs/fit --config configs/phenom1_vit_l8.py
python -m phenomjax.scaling forecast --fit runs/fit --params 1e9 --tokens 2e10
python -m phenomjax.scaling forecast --fit runs/fit --budget 1e21
python -m phenomjax.scaling forecast --fit runs/fit --run runs/large

With a configuration: its parameters, data and FLOPs are counted by the task itself, without
training; val/loss at its end with a 90 % interval, its course, how far it lies beyond the fitted
runs, the best size for its FLOPs (or those of `--budget`), hours and price on `--devices` of
`--device` at an MFU. All of it goes into a dated file, DIR/forecast_YYYYMMDDTHHMMSSZ.json, which is
never written again. A run that is given that file (--config.scaling.forecast=FILE) shows the band
beside val/loss, says when it leaves it, and is judged by it at the end.

With `--params` and `--tokens` (units of data: tokens, residues, images): one line of JSON with
loss, low and high. With `--budget` alone: the best size for so many FLOPs. With `--run`, another
line of JSON: the end of a run that trains, from its own curve so far and, with `--fit`, from those
of the fitted runs of its schedule.

A forecast of more than 1,000 times the FLOPs of the largest fitted run is refused.
"""

import dataclasses
import json
import logging
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import tyro
from ml_collections import ConfigDict

from phenomjax import tasks
from phenomjax.config import keys
from phenomjax.config.experiment import read_config
from phenomjax.scaling.costs import cost_of, count_on_cpu
from phenomjax.scaling.fit import downstream, law
from phenomjax.scaling.fit.law import Fit
from phenomjax.scaling.forecast import ending, expense, record, sizes, telling
from phenomjax.scaling.forecast.curves import course, schedule_of
from phenomjax.scaling.forecast.record import Forecast
from phenomjax.scaling.observations import workdirs
from phenomjax.system import ending as last_words
from phenomjax.system import files
from phenomjax.system.errors import UserError
from phenomjax.training.size import Size

log = logging.getLogger("phenomjax")
FARTHEST = 1000.0  # times the largest fitted FLOPs


@dataclass(frozen=True)
class Options:
    """Of `python -m phenomjax.scaling forecast`."""

    GROUPS: ClassVar[dict[str, str]] = {"devices": "cost", "level": ""}

    fit: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """folder that `python -m phenomjax.scaling fit` wrote"""
    config: str = ""
    """experiment file of the run, FILE or FILE:ARG"""
    params: float = 0.0
    """without `config`: trainable parameters"""
    tokens: float = 0.0
    """without `config`: units of data that training reads"""
    unique: float = 0.0
    """units of data of its training split, where `tokens` repeat them"""
    budget: float = 0.0
    """model FLOPs that the best size is told for (0: those of the configuration)"""
    run: Annotated[Path | None, tyro.conf.arg(metavar="WORKDIR")] = None
    """folder of a run that trains, whose end is told"""
    devices: int = 0
    """that it runs on, for hours and price"""
    device: str = ""
    """their kind, such as H100"""
    mfu: float = 0.4
    """of their peak that model FLOPs reach: perf/mfu of your runs on them"""
    rate: float = 0.0
    """model FLOP/s of one device as measured, in place of `device` and `mfu`"""
    price_per_device_hour: float = 0.0
    """in any currency"""
    level: float = 0.9
    """of the interval"""
    out: Path | None = None
    """folder of the forecast; that of the fit, if not given"""
    overrides: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """--config.KEY=VALUE of the run"""


def run(options: Options) -> None:
    """Forecasts.

    Raises:
      UserError: a mistake on the command line, in the fit, the configuration or its data; a
        forecast that is too far.
    """
    _check(options)
    if options.run:
        count_on_cpu()
        fit = law.load(options.fit) if options.fit else None
        print(json.dumps(dataclasses.asdict(ending.end_of(options.run, fit, options.level))))
        return
    assert options.fit
    fit = law.load(options.fit)
    if options.config:
        of_config(options, fit)
    elif options.params:
        print(json.dumps(of_numbers(options, fit)))
    else:
        _reach(options.budget, fit, options)
        cost = expense.expense(_devices(options), options.budget)
        unique = options.unique or math.nan
        best = sizes.best(fit, options.budget, sizes.unit_cost(fit), unique)
        print(telling.best_size(best, fit.runs.unit or "units of data"))
        if cost:
            print(expense.told(cost))


def _check(options: Options) -> None:
    """Raises UserError for options that do not go together, or cannot be."""
    for name in ("params", "tokens", "unique", "budget"):
        value = getattr(options, name)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"`{name}` is {value:g}; it must be a number above 0.")
    if not 0.5 <= options.level < 1:
        raise UserError(
            f"`level` is {options.level:g}; it is the share of runs that fall into the interval,"
            " such as 0.9."
        )
    numbers = options.params or options.tokens
    if options.run:
        _refuse(options, "run", "the end of a run that trains", "run", "fit", "level")
    if not (options.fit or options.run):
        raise UserError(
            "`fit` is missing: the folder that `python -m phenomjax.scaling fit RUNS --out DIR`"
            " wrote."
        )
    if options.config and numbers:
        raise UserError(
            "`params` and `tokens` are those of the configuration where `config` is given. Give"
            " one or the other."
        )
    if bool(options.params) != bool(options.tokens):
        missing = "tokens" if options.params else "params"
        raise UserError(
            f"`{missing}` is missing: a loss is forecast for so many parameters and so much data."
            " For the best size of a budget of FLOPs give `budget` alone."
        )
    if options.config:
        _refuse(options, "config", "the data are its own", *_others("unique"))
    elif numbers:
        _refuse(options, "params", "the loss of such a run, in one line", *_others("budget", "out"))
    elif options.budget:
        _refuse(options, "budget", "the best size and a 90 % interval", *_others("level", "out"))
    if options.overrides and not options.config:
        raise UserError(f"{options.overrides[0]} is a value of a configuration; give `config`.")
    if not (options.config or numbers or options.budget or options.run):
        raise UserError(
            "Say what is to be forecast: `config` FILE, or `params` N and `tokens` D, or `budget`"
            " FLOPS, or `run` WORKDIR."
        )


def _others(*names: str) -> list[str]:
    """All options but these."""
    return [one.name for one in dataclasses.fields(Options) if one.name not in names]


def _refuse(options: Options, asked: str, what: str, *read: str) -> None:
    """Raises UserError for an option that would not be read: nothing is ignored in silence."""
    for one in dataclasses.fields(Options):
        if one.name not in (*read, "overrides") and getattr(options, one.name) != one.default:
            raise UserError(
                f"`{one.name}` has no meaning beside `{asked}`: {what}. Leave it out, or ask for"
                " that in a command of its own."
            )


def of_numbers(options: Options, fit: Fit) -> dict[str, object]:
    """The forecast for so many parameters and so much data, for scripts."""
    params, seen = np.array([options.params]), np.array([options.tokens])
    flops = float(sizes.unit_cost(fit).of(params)[0]) * options.tokens
    reach = _reach(flops, fit, options)
    cost = expense.expense(_devices(options), flops)
    unique = np.array([options.unique or math.nan])
    said = fit.predict(params, seen, options.level, unique)
    for remark in telling.remarks(
        fit, options.params, options.tokens, options.tokens / float(unique[0])
    ):
        log.warning("%s", remark)
    metrics = downstream.forecast(fit.runs, said, options.level)
    return {
        "loss": float(said.loss[0]),
        "low": float(said.low[0]),
        "high": float(said.high[0]),
        "level": options.level,
        "params": options.params,
        "seen": options.tokens,
        "flops": flops,
        "extrapolation": reach,
        "unit": fit.runs.unit,
        **({"metrics": metrics} if metrics else {}),
        **({"cost": cost} if cost else {}),
    }


def of_config(options: Options, fit: Fit) -> None:
    """The forecast of a configuration: printed, and written to a dated file.

    Raises:
      UserError: the configuration is wrong, is not of the fitted kind of runs, or too far from
        them.
    """
    assert options.fit is not None
    count_on_cpu()
    out = options.out or options.fit
    config = keys.finalize(read_config(options.config, options.overrides))
    resolved = tasks.resolve(config, out)
    size = cost_of(resolved, out)
    _check_kind(resolved, size, fit, options)
    seen = float(config.num_steps * size.units_per_step)
    flops = config.num_steps * size.flops_per_step
    reach = _reach(flops, fit, options)
    cost = expense.expense(_devices(options), flops)
    unique = np.array([float(size.units_per_epoch)])
    said = fit.predict(np.array([float(size.params)]), np.array([seen]), options.level, unique)
    values = json.loads(files.json_text(config.to_dict()))
    forecast = Forecast(
        written=record.now(),
        config=values,
        config_sha256=record.digest(values),
        params=size.params,
        seen=seen,
        flops=flops,
        unit=size.unit,
        data=size.data,
        loss=float(said.loss[0]),
        low=float(said.low[0]),
        high=float(said.high[0]),
        level=options.level,
        floor=fit.values["E"] if fit.identified else None,
        extrapolation=reach,
        fit={
            "folder": str(options.fit),
            "sha256": files.sha256(options.fit / law.JSON),
            "law": fit.values,
            "form": fit.form,
            "forecaster": dict(zip((*law.NAMES, "D0"), map(float, fit.forecaster), strict=True)),
            "runs": int(fit.used.sum()),
        },
        curve=course(fit, flops, said, schedule_of(config), options.level),
        cost=cost,
        metrics=downstream.forecast(fit.runs, said, options.level),
    )
    best: sizes.Best | str
    try:
        of_unit = sizes.unit_cost(fit, size)
        best = sizes.best(fit, options.budget or flops, of_unit, float(unique[0]))
    except UserError as error:  # the loss is forecast all the same
        best = str(error)
    path = forecast.write(out)
    last_words.note_written(path)
    print(telling.told(forecast, fit, size, best, leave_out_of(options.fit)))
    given = shlex.join([options.config, *options.overrides])
    print(
        f"wrote {path}\nnext: python -m phenomjax.main --config {given} --workdir runs/NAME"
        f" --config.scaling.forecast={path}",
        flush=True,
    )


def _devices(options: Options) -> expense.Devices:
    return expense.Devices(
        options.devices,
        options.device,
        options.mfu,
        options.rate,
        options.price_per_device_hour,
    )


def leave_out_of(folder: Path) -> list[dict[str, float]]:
    """What the fit measured of its own forecasts."""
    return list(files.read_json(folder / law.JSON).get("leave_out") or [])


def _reach(flops: float, fit: Fit, options: Options) -> float:
    """FLOPs over those of the largest fitted run.

    Raises:
      UserError: more than `FARTHEST`.
    """
    largest = fit.domain["flops"][1]
    if not math.isfinite(flops):
        raise UserError(
            f"`params` {options.params:g} and `tokens` {options.tokens:g} are no run: their FLOPs"
            " are more than a number can hold."
        )
    if flops > FARTHEST * largest:
        of = options.config or "FILE"
        raise UserError(
            f"A run of {flops:.3g} FLOPs is {flops / largest:,.0f} x the largest that was fitted"
            f" ({largest:.3g}); no forecast is given beyond {FARTHEST:,.0f} x, for nobody has shown"
            " one to hold. Extend the ladder to larger budgets, `python -m phenomjax.scaling"
            f" ladder --config {of} --budgets {flops / FARTHEST:.2g} --out DIR`, and fit it again."
        )
    return flops / largest


def _check_kind(config: ConfigDict, size: Size, fit: Fit, options: Options) -> None:
    """Raises UserError where the fitted runs are of another task, unit or data."""
    mend = (
        f"Fit runs of this configuration: `python -m phenomjax.scaling ladder --config"
        f" {options.config} --budgets C,C --out DIR`, then `python -m phenomjax.scaling fit DIR"
        " --out FIT`."
    )
    mine, fitted = workdirs.facts_of(config, size, options.config), dict(fit.runs.facts)
    rows = fitted.pop(workdirs.ROWS, None)
    for name, fact in fitted.items():
        if mine.get(name, fact) != fact:
            raise UserError(
                f"The fit in {options.fit} is of other runs than {options.config}, {name}:"
                f" {fact or 'the defaults'} there, {mine[name] or 'the defaults'} here. Their"
                f" losses are not of one kind. {mend}"
            )
    if rows not in (None, mine[workdirs.ROWS]):
        log.warning(
            "The fitted runs were judged on %s, this one will be on %s: give it the"
            " --config.eval.num_batches, --config.eval.batch_size and --config.eval.seed of those"
            " runs, or part of the error is of the rows",
            rows,
            mine[workdirs.ROWS],
        )
    if fit.runs.unit and fit.runs.unit != size.unit:
        raise UserError(
            f"The fit in {options.fit} counts data in {fit.runs.unit}, and {options.config} reads"
            f" {size.unit}. {mend}"
        )

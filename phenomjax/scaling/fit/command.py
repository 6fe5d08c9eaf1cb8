"""Fit the law L(N, D) = E + A / N^alpha + B / D^beta to the runs of a ladder, or of anyone's table:

  python -m phenomjax.scaling fit runs/ladder --out forecast/
  python -m phenomjax.scaling fit --runs FILE.csv \\
      --columns params=COLUMN,tokens=COLUMN,loss=COLUMN --out DIR

Of folders, all runs at or below them that finished are read; those that diverged or are not at
their end are named and left out. A table (CSV, TSV, Parquet, .xlsx) has one row a run; it may give
`flops=COLUMN` in place of `tokens=`: then D = C / 6N. Writes DIR/fit.json and
DIR/fit.npz, which `python -m phenomjax.scaling forecast --fit DIR` reads.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from threadpoolctl import threadpool_limits

from phenomjax.scaling import observations
from phenomjax.scaling.fit import comparisons, downstream, estimate, leave_out, repeated
from phenomjax.scaling.fit.law import STABLE, Fit
from phenomjax.system import ending
from phenomjax.system.errors import UserError, first_of
from phenomjax.system.outputs import Overwrite


@dataclass(frozen=True)
class Options(Overwrite):
    """Options of `python -m phenomjax.scaling fit`."""

    MAKES: ClassVar[tuple[str, ...]] = ("fit.json",)

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """folder of the fit"""
    folders: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUNS")]] = ()
    """folders of a ladder or of runs"""
    runs: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """a table of runs in place of folders"""
    columns: str = ""
    """of the table: params=COLUMN,tokens=COLUMN,loss=COLUMN, or flops= in place of tokens= (or
    beside it, to be checked); unique= and name= if there are any; COLUMN*1e9 counts in billions"""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN=VALUE")] = ()
    """rows of the table that are read"""
    loss_unit: observations.LossUnit = ""
    """of the table's loss: bits and perplexity are made nats; nats takes it as it is ("": nats, if
    nothing speaks against it)"""
    on_bad_run: observations.OnBad = "error"
    """a row of the table that cannot be fitted: skip leaves it out and names it; keep takes losses
    that are far from those of the runs around them"""
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """downstream metrics that are linked with the loss: columns of the table; of folders those that
    a run logs at its end (val/accuracy, probe/…); or FILE or FILE:COLUMN, a table with a column
    `run`, such as that of `scaling recall`"""
    delta: float = 1e-3
    """beyond which an error of log(loss) counts linearly"""
    bootstraps: int = 400
    """draws over the runs"""
    edge: float = estimate.EDGE
    """runs of the fewest units a parameter are left out while the law of the others misses them by
    more than so many robust standard deviations; 0 keeps all"""
    form: Literal["", "plain", "one_exponent", "offset", "one_exponent_offset"] = ""
    """of the law that forecasts; the runs choose it if not given"""
    seed: int = 0
    """of the draws"""


def run(options: Options) -> None:
    """Fits, prints the law and writes it."""
    _check(options)
    runs = read(options)
    settings = estimate.Settings(
        delta=options.delta,
        bootstraps=options.bootstraps,
        edge=options.edge,
        form=options.form,
        seed=options.seed,
    )
    with threadpool_limits(1):  # of small problems threads wait for each other, minutes when busy
        fit = repeated.fit(runs, settings, profiles=True)
        left_out = leave_out.of_fit(fit, settings)
        others = comparisons.beside(fit)
        links = downstream.links(fit.runs)
    fit.save(
        options.out,
        {
            "leave_out": [dataclasses.asdict(one) for one in left_out],
            "comparisons": others,
            "metrics": {name: one.report() for name, one in links.items()},
        },
    )
    parts = [described(fit), repeated.described(fit), leave_out.described(left_out)]
    parts.append(downstream.described(links, list(runs.metrics)))
    print("\n".join([*filter(None, parts), comparisons.described(others)]))
    ending.wrote(options.out)
    ending.then(
        "draw it", "python -m phenomjax.scaling figure --fit {} --out pictures/", options.out
    )


def _check(options: Options) -> None:
    """Raises UserError for numbers that cannot be."""
    for name, low, example in (("delta", 1e-9, 1e-3), ("bootstraps", 20, 400), ("edge", 0, 10)):
        value = getattr(options, name)
        if not low <= value < math.inf:
            raise UserError(f"`{name}` is {value:g}; it must be at least {low:g}, as {example:g}.")


def read(options: Options) -> observations.Observations:
    """The runs that a command line names.

    Raises:
      UserError: none, a folder and a table together, or runs that no law can be fitted to.
    """
    tables = [path for path in options.folders if path.is_file()]
    tables += [options.runs] if options.runs and not options.runs.is_dir() else []
    folders = [path for path in options.folders if path not in tables]
    folders += [options.runs] if options.runs and options.runs.is_dir() else []
    if len(tables) + bool(folders) != 1:
        given = " and ".join(map(str, (*folders, *tables))) or "nothing"
        raise UserError(
            f"Runs are read from folders, or from one table, and {given} is given. Write `python -m"
            " phenomjax.scaling fit LADDER --out DIR`, or `python -m phenomjax.scaling fit --runs"
            " FILE.csv --columns params=COLUMN,tokens=COLUMN,loss=COLUMN --out DIR`."
        )
    files = [word for word in options.metrics if observations.is_table(word)]
    names = [word for word in options.metrics if word not in files]
    if folders:
        if options.columns or options.only or options.loss_unit:
            raise UserError(
                f"`columns`, `only` and `loss_unit` are of a table, and {folders[0]} is a folder of"
                " runs, which says itself what it is. Leave them away."
            )
        runs = observations.chosen(observations.of_workdirs(folders), names)
        return functools.reduce(observations.of_table, files, runs)
    runs = observations.of_csv(
        tables[0],
        observations.columns_of(options.columns) if options.columns else {},
        loss_unit=options.loss_unit,
        on_bad_run=options.on_bad_run,
        only=options.only,
        metrics=names,
    )
    return functools.reduce(observations.of_table, files, runs)


def described(fit: Fit) -> str:
    """The law for a reader: first what is stable."""
    report = fit.report()
    out = [name for name, used in zip(fit.runs.names, fit.used, strict=True) if not used]
    lines = [f"{report['fitted']} of {report['runs']} runs fitted; intervals are 90 %."]
    if out:
        lines.append(
            f"Left out, for they saw too little to obey the law of the others: {first_of(out)}"
            " (`edge` 0 keeps them)."
        )
    lines.append("L(N, D) = E + A / N^alpha + B / D^beta         by bootstrap     by likelihood")
    for name in ("ratio", "alpha", "beta", "E", "A", "B"):
        one = report[name]
        profile = one["profile"]
        likely = "" if profile is None else f"{profile[0]:.4g} to {profile[1]:.4g}"
        drawn = f"{one['low']:.4g} to {one['high']:.4g}"
        label = "beta / (alpha + beta)" if name == "ratio" else name
        lines.append(f"  {label:<22}{one['value']:>10.5g}  {drawn:>22}  {likely:>16}")
    if not fit.identified:
        lines.append(
            "E is not identified by these runs: do not lean on it, nor on what is left above it."
        )
    explained = fit.explained
    if explained < 0.5:
        lines.append(
            f"The law explains {max(explained, 0):.0%} of the differences in log(loss): these"
            " losses hardly follow size and data. Are the columns the right ones, and the runs of"
            " one recipe?"
        )
    low, high = fit.interval("ratio")
    lines.append(
        f"The best N grows as C to the power beta / (alpha + beta), {low:.2f} to {high:.2f}"
        + (": the stable part of the law." if high - low < STABLE else ", which is not known.")
    )
    if len(fit.basins) > 1:
        lines.append("Other optima of the objective (objective, share of the grid, E, exponents):")
        cells = sum(basin["cells"] for basin in fit.basins)
        lines += [
            f"  {basin['objective']:.4g}  {basin['cells'] / cells:.0%}  E {basin['E']:.4g}"
            f"  alpha {basin['alpha']:.3g}  beta {basin['beta']:.3g}"
            for basin in fit.basins
        ]
    forecast = report["forecast"]
    numbers = "  ".join(
        f"{name} {forecast[name]:.4g}"
        for name in ("E", "A", "B", "alpha", "beta", "D0")
        if name != "D0" or "D0" in forecast["law"]
    )
    chosen = "as given" if not fit.scores else "the form that forecasts these runs best"
    lines.append(f"Forecasts by {forecast['law']} ({chosen}): {numbers}.")
    return "\n".join(lines)

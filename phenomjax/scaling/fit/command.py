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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from phenomjax.scaling import observations
from phenomjax.scaling.fit import comparisons, estimate, leave_out, repeated
from phenomjax.scaling.fit.law import Fit
from phenomjax.system.errors import UserError, check_folder_of


@dataclass(frozen=True)
class Options:
    """Options of `python -m phenomjax.scaling fit`."""

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
    delta: float = 1e-3
    """beyond which an error of log(loss) counts linearly"""
    bootstraps: int = 400
    """draws over the runs"""
    least_units_per_parameter: float = 0.0
    """leave out runs of fewer units of data a parameter"""
    seed: int = 0
    """of the draws"""


def run(options: Options) -> None:
    """Fits, prints the law and writes it."""
    check_folder_of(options.out)
    runs = read(options)
    settings = estimate.Settings(
        options.delta, options.bootstraps, options.least_units_per_parameter, options.seed
    )
    fit = repeated.fit(runs, settings)
    left_out = leave_out.of_fit(fit, settings)
    others = comparisons.beside(fit)
    fit.save(
        options.out,
        {"leave_out": [dataclasses.asdict(one) for one in left_out], "comparisons": others},
    )
    parts = described(fit), repeated.described(fit), leave_out.described(left_out)
    print("\n".join([*filter(None, parts), comparisons.described(others)]))


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
    if folders:
        if options.columns or options.only or options.loss_unit:
            raise UserError(
                f"`columns`, `only` and `loss_unit` are of a table, and {folders[0]} is a folder of"
                " runs, which says itself what it is. Leave them away."
            )
        return observations.of_workdirs(folders)
    return observations.of_csv(
        tables[0],
        observations.columns_of(options.columns) if options.columns else {},
        loss_unit=options.loss_unit,
        on_bad_run=options.on_bad_run,
        only=options.only,
    )


def described(fit: Fit) -> str:
    """The law for a reader."""
    report = fit.report()
    lines = [f"{report['fitted']} of {report['runs']} runs fitted; intervals are 90 %."]
    for name in ("ratio", "alpha", "beta", "E", "A", "B"):
        one = report[name]
        lines.append(f"  {name:<6}{one['value']:>12.5g}  {one['low']:.5g} to {one['high']:.5g}")
    return "\n".join(lines)

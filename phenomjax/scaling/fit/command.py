"""Fit the law L(N, D) = E + A / N^alpha + B / D^beta to runs, or to anyone's table of runs.

  python -m phenomjax.scaling fit --runs FILE.csv \\
      --columns params=COLUMN,tokens=COLUMN,loss=COLUMN --out DIR

A table may give `flops=COLUMN` in place of `tokens=`: then D = C / 6N. Writes DIR/fit.json and
DIR/fit.npz, which `python -m phenomjax.scaling forecast --fit DIR` reads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from phenomjax.scaling import observations
from phenomjax.scaling.fit import estimate
from phenomjax.scaling.fit.law import Fit
from phenomjax.system.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of `python -m phenomjax.scaling fit`."""

    runs: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """a table of runs"""
    columns: str
    """params=COLUMN,tokens=COLUMN,loss=COLUMN, or flops= in place of tokens="""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """folder of the fit"""
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
    columns = dict(_pair(word) for word in options.columns.split(","))
    runs = observations.of_csv(options.runs, columns)
    fit = estimate.fit(
        runs,
        estimate.Settings(
            options.delta, options.bootstraps, options.least_units_per_parameter, options.seed
        ),
    )
    fit.save(options.out, {"leave_out": []})
    print(described(fit))


def _pair(word: str) -> tuple[str, str]:
    what, equals, name = word.partition("=")
    if not equals:
        raise UserError(
            f"'{word}' of `columns` is not NAME=COLUMN. Write"
            " params=COLUMN,tokens=COLUMN,loss=COLUMN."
        )
    return what.strip(), name.strip()


def described(fit: Fit) -> str:
    """The law for a reader."""
    report = fit.report()
    lines = [f"{report['fitted']} of {report['runs']} runs fitted; intervals are 90 %."]
    for name in ("ratio", "alpha", "beta", "E", "A", "B"):
        one = report[name]
        lines.append(f"  {name:<6}{one['value']:>12.5g}  {one['low']:.5g} to {one['high']:.5g}")
    return "\n".join(lines)

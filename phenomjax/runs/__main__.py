"""Lists and compares the runs under some folders:

  python -m phenomjax.runs runs/
  python -m phenomjax.runs runs/ --sort val/loss --html runs.html

A run is a folder with the config.json that training writes. Columns: state, step of num_steps,
metrics of validation and probes where checkpoint.best_metric (the lowest val/loss by default) was
best, the last train/loss, goodput (productive step time over wall time, all starts), the forecast
of val/loss at the end and whether it held, where a run was given one (config.scaling.forecast), the
run and the step that it goes on from, where there is one (config.continue_from), and every key of
the configuration in which the runs differ. The page draws a forecast's band behind the curve of
val/loss, and begins the curves of a run that goes on from another where that one was.

The state is read from what the run left, in this order: the last start in logs/process_000.log
ended with "done" or "stopped" (saved, to be continued), or with an error (failed); it said nothing
of an end, and its process lives on this machine, or on another one whose files changed in the last
15 minutes (running), or not (failed: it was killed). Without that log: done at num_steps, else
stopped.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from phenomjax.runs.page import page
from phenomjax.runs.reading import Run, find
from phenomjax.system import ending, files
from phenomjax.system.errors import EXIT_DONE, UserError, did_you_mean, exit_on_user_error
from phenomjax.system.options import run_command
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")
HAVE_COLUMNS = {
    *("num_steps", "stop_at_step", "scaling.forecast", "continue_from", "batches_before"),
}


@dataclass(frozen=True)
class Options(Overwrite):
    """Of `python -m phenomjax.runs`."""

    RESULT: ClassVar[str] = "html"

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR …")]
    """searched for runs, with all folders below"""
    sort: str = "name"
    """a column, with a - in front for the largest first"""
    html: str = ""
    """also write the table with curves as one page, for any browser"""


def run(options: Options) -> int:
    """Prints the table and writes the page.

    Raises:
      UserError: no run is there, `sort` is no column, or the page cannot be written.
    """
    if not options.folders:
        raise UserError("No folder was named: python -m phenomjax.runs runs/")
    runs = find(options.folders)
    header, rows = table(runs, options.sort)
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *texts, strict=True)]
    for first, *others in [header, *texts]:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))
    ending.note(runs=[dict(zip(header, row, strict=True)) for row in rows])
    if not options.html:
        folders = " ".join("{}" for _ in options.folders)
        command = f"python -m phenomjax.runs {folders} --html runs.html"
        ending.then("see their curves", command, *options.folders)
    else:
        by_name = {run.name: run for run in runs}
        text = page(header, texts, [by_name[row[0]] for row in texts])
        _write_page(Path(options.html), text)
    return EXIT_DONE


def _write_page(path: Path, text: str) -> None:
    if not path.absolute().parent.is_dir():
        reason = "No such file or directory"
    else:
        try:
            files.write_text(path, text)
            ending.wrote(path, "open it in a browser")
            return
        except OSError as error:
            reason = error.strerror or str(error)
    raise UserError(
        f"`html` {path} cannot be written: {reason}. Give a file in a folder that exists."
    )


def table(runs: list[Run], sort: str) -> tuple[list[str], list[list[object]]]:
    """Header and rows.

    Raises:
      UserError: `sort` is no column.
    """
    metrics = sorted(
        {name for run in runs for name in run.best}, key=lambda name: (name != "val/loss", name)
    )
    keys = sorted({key for run in runs for key in run.config} - HAVE_COLUMNS)
    differ = [key for key in keys if len({repr(run.config.get(key)) for run in runs}) > 1]
    forecast = ["forecast"] * any(run.forecast for run in runs)
    origin = ["goes on from"] * any(run.origin for run in runs)
    header = ["name", "state", "step", *origin]
    header += [*metrics, "train/loss", "goodput", *forecast, *differ]
    rows: list[list[object]] = []
    for run in runs:
        train = run.series.get("train/loss")
        rows.append(
            [
                run.name,
                run.state,
                (run.step, run.num_steps),
                *([run.origin or None] if origin else []),
                *(run.best.get(name) for name in metrics),
                train[-1][1] if train else None,
                run.goodput,
                *([run.forecast or None] if forecast else []),
                *(run.config.get(key) for key in differ),
            ]
        )
    column, down = sort.removeprefix("-"), sort.startswith("-")
    if column not in header:
        raise UserError(
            f"`sort` {column} is not a column.{did_you_mean(column, header)} Columns:"
            f" {', '.join(header)}."
        )
    at = header.index(column)
    there = [row for row in rows if row[at] is not None and row[at] == row[at]]
    try:
        there.sort(key=itemgetter(at), reverse=down)
    except TypeError:  # values of several types
        there.sort(key=lambda row: str(row[at]), reverse=down)
    return header, there + [row for row in rows if row[at] is None or row[at] != row[at]]


def _text(cell: object) -> str:
    """A cell as it is shown."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    if isinstance(cell, tuple) and len(cell) == 2 and all(type(c) is int for c in cell):
        return f"{cell[0]}/{cell[1]}"
    return str(cell)


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command line."""
    return run_command(Options, run, "python -m phenomjax.runs", __doc__ or "", argv)


if __name__ == "__main__":
    exit_on_user_error(main)

"""python -m phenomjax.runs DIR… [--sort val/loss] [--html runs.html]: lists and compares the runs
under some folders.

A run is a folder with the config.json that training writes. Columns: state, step of num_steps,
metrics of validation and probes where checkpoint.best_metric (the lowest val/loss by default) was
best, the last train/loss, goodput (productive step time over wall time, all starts), and every key
of the configuration in which the runs differ.

The state is read from what the run left, in this order: the last start in logs/process_000.log
ended with "done" or "stopped" (saved, to be continued), or with an error (failed); it said nothing
of an end, and its process lives on this machine, or on another one whose files changed in the last
15 minutes (running), or not (failed: it was killed). Without that log: done at num_steps, else
stopped.
"""

import argparse
import logging
from operator import itemgetter
from pathlib import Path
from typing import Any

from phenomjax.runs.reading import Run, find
from phenomjax.system.errors import UserError, did_you_mean, exit_on_user_error
from phenomjax.system.log import log_to_stderr

log = logging.getLogger("phenomjax")


def main(arguments: list[str] | None = None) -> int:
    """Prints the table and writes the page."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m phenomjax.runs",
        description=__doc__,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="searched for runs, with all folders below",
    )
    parser.add_argument(
        "--sort",
        default="name",
        help="a column, with a - in front for the largest first (default name)",
    )
    parser.add_argument(
        "--html", type=Path, help="also write the table with curves as one page, for any browser"
    )
    args = parser.parse_args(arguments)
    log_to_stderr()
    runs = find(args.folders)
    header, rows = table(runs, args.sort)
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *texts, strict=True)]
    for row in [header, *texts]:
        print(
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
                ]
            )
        )
    if args.html:
        from phenomjax.runs.page import page

        order = {run.name: run for run in runs}
        try:
            args.html.write_text(page(header, texts, [order[row[0]] for row in rows]))
        except OSError as error:
            raise UserError(
                f"--html {args.html} cannot be written: {error.strerror}. Give a file in a folder"
                " that exists."
            ) from None
        log.info("wrote %s", args.html)
    return 0


def table(runs: list[Run], sort: str) -> tuple[list[str], list[list[Any]]]:
    """Header and rows.

    Raises:
      UserError: `sort` is no column.
    """
    metrics = sorted(
        {name for run in runs for name in run.best}, key=lambda name: (name != "val/loss", name)
    )
    keys = sorted({key for run in runs for key in run.config} - {"num_steps", "stop_at_step"})
    differ = [key for key in keys if len({repr(run.config.get(key)) for run in runs}) > 1]
    header = ["name", "state", "step", *metrics, "train/loss", "goodput", *differ]
    rows: list[list[Any]] = []
    for run in runs:
        train = run.series.get("train/loss")
        rows.append(
            [
                run.name,
                run.state,
                (run.step, int(run.config["num_steps"])),
                *(run.best.get(name) for name in metrics),
                train[-1][1] if train else None,
                run.goodput,
                *(run.config.get(key) for key in differ),
            ]
        )
    column, down = sort.removeprefix("-"), sort.startswith("-")
    if column not in header:
        raise UserError(
            f"--sort {column} is not a column.{did_you_mean(column, header)} Columns:"
            f" {', '.join(header)}."
        )
    at = header.index(column)
    there: list[list[Any]] = [row for row in rows if row[at] is not None and row[at] == row[at]]
    try:
        there.sort(key=itemgetter(at), reverse=down)
    except TypeError:  # values of several types
        there.sort(key=lambda row: str(row[at]), reverse=down)
    return header, there + [row for row in rows if row[at] is None or row[at] != row[at]]


def _text(cell: Any) -> str:
    """A cell as it is shown."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    if isinstance(cell, tuple) and len(cell) == 2 and all(type(c) is int for c in cell):
        return f"{cell[0]}/{cell[1]}"
    return str(cell)


if __name__ == "__main__":
    exit_on_user_error(main)

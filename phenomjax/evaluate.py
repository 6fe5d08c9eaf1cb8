"""Judges what frozen language models know: structure, function, localization and mutation effects,
beside baselines on the same splits.

python -m phenomjax.evaluate --checkpoint runs/txl --suite configs/eval/protein.py --out report/
python -m phenomjax.evaluate --checkpoint runs/txl runs/elmo --suite configs/eval/protein.py:full --tasks secondary_structure --out report/
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from phenomjax.probes import job
from phenomjax.system import errors
from phenomjax.system.log import log_to_stderr


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m phenomjax.evaluate",
        description=__doc__.split("\n")[0],
        epilog=(
            "Each finished method of each task is kept in OUT/parts and each embedding in the"
            " cache, so the command can be killed at any time and run again, and another checkpoint"
            " added to the same report. Exit codes: 0 done; 1 done, but some tasks could not be"
            " read; 2 a mistake in the arguments or the input; 75 stopped by a signal."
        ),
    )
    add = p.add_argument
    add(
        "--checkpoint",
        required=True,
        nargs="+",
        metavar="DIR",
        help=(
            "workdirs of runs (their newest checkpoints), or WORKDIR/checkpoints/STEP folders;"
            " several are compared"
        ),
    )
    add(
        "--names",
        nargs="+",
        metavar="NAME",
        help="of the checkpoints in the report (default: of their workdirs)",
    )
    add(
        "--suite",
        default="configs/eval/protein.py",
        metavar="FILE[:ARG]",
        help=(
            "tasks: a file of configs/eval (default %(default)s; :full = all of the data, :quick ="
            " a few hundred proteins)"
        ),
    )
    add(
        "--data",
        default="",
        metavar="DIR",
        help="folder of the suite's files (default: the one that the suite names)",
    )
    add("--tasks", nargs="+", metavar="TASK", help="only these of the suite")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the report: results.json, report.md, figures/",
    )
    add(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder of embeddings and alignments, which reports may share (default OUT/cache)",
    )
    add(
        "--bank",
        type=Path,
        nargs="+",
        metavar="ZARR",
        help=(
            "pretraining banks, searched for sequences of the tests (default: those that the runs"
            " name, where they still are)"
        ),
    )
    add(
        "--compute_dtype",
        choices=("auto", "float32", "bfloat16"),
        default="",
        help="of the embeddings' computation (default: as in the run)",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and evaluates; returns the exit code.

    Raises:
      UserError: a mistake in the arguments or the input.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    log_to_stderr()
    return job.run(args, f"python -m phenomjax.evaluate {shlex.join(argv)}")


if __name__ == "__main__":
    errors.exit_on_user_error(lambda: main(sys.argv[1:]))

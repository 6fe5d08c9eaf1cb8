"""Judges what frozen language models know: structure, function, localization and mutation effects,
beside baselines on the same splits.

python -m phenomjax.evaluate --checkpoint runs/txl --suite configs/eval/protein.py --out report/
python -m phenomjax.evaluate --checkpoint runs/txl runs/elmo --suite configs/eval/protein.py:full
  --tasks secondary_structure --out report/

With the word `perturbations` it judges weakly supervised models of images instead:

python -m phenomjax.evaluate perturbations --checkpoint runs/wilds_0 runs/wilds_1 --out report/

Each finished method of each task is kept in OUT/parts and each embedding in the cache, so the
command can be killed at any time and run again, and another checkpoint added to the same report.

Exit codes: 0 done; 1 done, but some tasks could not be read; 2 a mistake in the options or the
input; 75 stopped by a signal.
"""

import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from phenomjax.probes import job
from phenomjax.probes.options import Options
from phenomjax.system.errors import UserError, did_you_mean, exit_on_user_error
from phenomjax.system.options import run_command

PERTURBATIONS = "perturbations"


def main(argv: Sequence[str] | None = None) -> int | None:
    """Reads the options and evaluates; returns the exit code.

    Raises:
      UserError: a mistake in the options or the input.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    prog = "python -m phenomjax.evaluate"
    command = f"{prog} {shlex.join(words)}"
    if words and not words[0].startswith("-"):
        name, *rest = words
        if name != PERTURBATIONS:
            if Path(name).is_dir():
                raise UserError(
                    f"'{name}' stands without its flag. Did you mean '--checkpoint {name}'? Models"
                    f" of images are judged by {prog} {PERTURBATIONS} --checkpoint {name}."
                )
            raise UserError(
                f"{prog} has no command '{name}'.{did_you_mean(name, [PERTURBATIONS])} It has"
                f" {PERTURBATIONS}, for models of images; without a word it judges models of"
                " sequences."
            )
        perturbations = importlib.import_module("phenomjax.probes.perturbations.command")
        return run_command(
            perturbations.Options,
            lambda options: perturbations.run(options, command),
            f"{prog} {name}",
            perturbations.__doc__ or "",
            rest,
        )
    return run_command(
        Options, lambda options: job.run(options, command), prog, __doc__ or "", words
    )


if __name__ == "__main__":
    exit_on_user_error(main)

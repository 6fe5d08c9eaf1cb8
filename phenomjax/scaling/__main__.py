"""A ladder of small runs, a law fitted to them, the forecast of a large run written down before it
starts, and pictures of all three.

python -m phenomjax.scaling ladder --config configs/mae_demo.py --budgets 1e11,3e11,1e12
  --sizes 32x1,64x1,64x2 --out runs/ladder
python -m phenomjax.scaling fit runs/ladder --out runs/fit
"""

from collections.abc import Sequence

from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.options import run_chosen

COMMANDS = {  # name: (module, what it does)
    "ladder": (
        "phenomjax.scaling.ladder.command",
        "plan small runs at rising budgets of FLOPs, and train them (here, or as a SLURM array)",
    ),
    "fit": (
        "phenomjax.scaling.fit.command",
        "the law of loss against parameters and data, of runs or of anyone's table, with intervals",
    ),
    "forecast": (
        "phenomjax.scaling.forecast.command",
        "the loss, the best size, the hours and the cost of a run, in a dated file, before it",
    ),
    "recall": (
        "phenomjax.scaling.recall",
        "embed and map one screen with each of some runs: recall of complexes beside the loss",
    ),
    "figure": (
        "phenomjax.scaling.figure.command",
        "loss against FLOPs with law, band and outcome; what is known; recall of complexes",
    ),
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Imports the module of the command that was asked for, and runs it."""
    return run_chosen(COMMANDS, "python -m phenomjax.scaling", __doc__ or "", argv)


if __name__ == "__main__":
    exit_on_user_error(main)

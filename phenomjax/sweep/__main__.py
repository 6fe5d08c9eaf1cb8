"""Varies what search_space() in a config file names (phenomjax/sweep/space.py) and looks for the
lowest val/loss; or, with --vary, trains one model for each value, and for each combination of
values, all to their ends.

python -m phenomjax.sweep --config configs/mae_demo.py --study runs/sweep
python -m phenomjax.sweep --config configs/mae_demo.py --study runs/seeds --vary seed=0,1,2

Each trial is a run of `python -m phenomjax.main` in STUDY/trials/NNNN. --config.KEY=VALUE holds for
all trials. The sweep can be stopped or killed at any time; the same command continues it, and more
--trials extend it. At the end: a table, figures in STUDY/figures, and the command that trains the
winner.

Exit codes: 0 done, 1 no trial succeeded, 2 a mistake in configuration or input, 75 stopped after
saving (run the same command again).
"""

import dataclasses
import functools
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from phenomjax.config import checks
from phenomjax.config.experiment import read_config
from phenomjax.sweep import halving
from phenomjax.sweep import space as space_lib
from phenomjax.sweep.optional import with_optuna
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError, exit_on_user_error
from phenomjax.system.options import run_command

if TYPE_CHECKING:
    from phenomjax.sweep import study  # needs Optuna


@dataclass(frozen=True)
class Options:
    """Of `python -m phenomjax.sweep`."""

    GROUPS: ClassVar[dict[str, str]] = {
        "launcher": "machine",
        "trials": "search",
        "storage": "machine",
        "report": "",
        "worker": "worker",
    }

    study: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """folder of the sweep, on a file system that all workers share"""
    config: str = ""
    """experiment file with a search_space(), FILE or FILE:ARG"""
    vary: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=A,B …")] = ()
    """instead of search_space(): a trial for each combination of these values, to its end, as by
    `sampler` grid and `pruner` none"""
    launcher: Literal["local", "slurm"] = "local"
    """where workers run"""
    workers: int = 2
    """trials that run at once"""
    trials: int = 0
    """how many trials (0: 20, of a grid all points)"""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """how values are proposed"""
    pruner: Literal["asha", "none"] = "asha"
    """asha: asynchronous successive halving"""
    eta: int = 4
    """asha: of those at a rung 1/eta go on, eta times as far"""
    min_steps: int = 0
    """asha: step of the lowest rung (0: num_steps / eta^2)"""
    seed: int = 0
    """of the sampler"""
    storage: str = ""
    """postgresql://user@host/database; a journal in the folder without"""
    gpus_per_worker: int = 0
    """local: share out this machine's GPUs (0: do not)"""
    sbatch: str = ""
    """slurm: options of each worker's job, e.g. "--gpus-per-node=1 --time=4:00:00\""""
    report: bool = False
    """only print the table and draw the figures of what is there"""
    worker: bool = False
    """be one worker of a sweep that is there; the launchers start these"""
    workdir: str = ""
    """of a worker: where it counts its rungs for launch/supervise.py"""
    overrides: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """--config.KEY=VALUE of all trials"""


def main(argv: Sequence[str] | None = None) -> int | None:
    """The front door of sweeps, and of their workers.

    Raises:
      UserError: a mistake, Optuna is missing, or its storage does not answer.
    """
    return run_command(
        Options,
        lambda options: with_optuna(functools.partial(run, options)),
        "python -m phenomjax.sweep",
        __doc__ or "",
        argv,
    )


def run(options: Options) -> int:
    """Does what the command line asks for; returns the exit code."""
    from phenomjax.sweep import launchers, study
    from phenomjax.sweep.worker import Worker

    if options.worker:
        opened = study.Study(study.load(options.study))
        return Worker(opened, Path(options.workdir) if options.workdir else None).run()
    from phenomjax.sweep.report import report, tell  # loads matplotlib, which workers do not need

    if options.report:
        opened = study.Study(study.load(options.study))
        print(report(opened))
        tell(opened)
        return EXIT_DONE
    opened = study.Study(settings(options), create=True)
    code = launchers.work(
        opened, options.launcher, options.workers, options.gpus_per_worker, options.sbatch
    )
    print(report(opened), flush=True)
    ending.note_written(options.study)
    tell(opened)
    if code != EXIT_DONE:
        return code
    if not opened.done():
        raise UserError(
            f"The workers ended before the sweep was done: see {options.study}/workers. Run the"
            " same command again to continue it.",
            EXIT_FAILED,
        )
    return EXIT_DONE if any(e.losses for e in opened.standings()) else EXIT_FAILED


def settings(options: Options) -> "study.SweepSettings":
    """Checks the command line, the configuration and the search space.

    Raises:
      UserError: a mistake in one of them.
    """
    from phenomjax.sweep import sampling, study

    if not options.config:
        raise UserError(
            "`config` is missing: python -m phenomjax.sweep --config configs/mae_demo.py --study"
            " runs/sweep"
        )
    for name, value, low in (
        ("workers", options.workers, 1),
        ("trials", options.trials, 0),
        ("eta", options.eta, 2),
        ("min_steps", options.min_steps, 0),
        ("gpus_per_worker", options.gpus_per_worker, 0),
    ):
        if value < low:
            raise UserError(f"`{name}` is {value}; it must be at least {low}.")
    overrides = list(options.overrides)
    config = read_config(options.config, overrides)
    if options.vary:
        options = dataclasses.replace(options, sampler="grid", pruner="none")
        space, source = space_lib.of_words(options.vary, config), "`vary`"
    else:
        space, source = space_lib.of_config(options.config), options.config
    space_lib.check(space, config, source)
    _check_overrides(overrides, space)
    if not config.eval.every_steps:
        raise UserError(
            "config.eval.every_steps is 0, so that no trial has the val/loss by which they are"
            " compared. Set --config.eval.every_steps."
        )
    if config.lr_find:
        raise UserError(
            "config.lr_find is True, so that no trial would train. Find the rate by `python -m"
            " phenomjax.main` with --config.lr_find=true, and set --config.lr_find=false here."
        )
    if config.stop_early.metric:
        raise UserError(
            f"config.stop_early.metric is '{config.stop_early.metric}', but trials are compared at"
            " the same steps, where the sweep itself ends those that are worse. Set"
            " --config.stop_early.metric=''."
        )
    trials = options.trials or 20
    if options.sampler == "grid":
        count = len(sampling.points(space, options.seed))
        trials = min(options.trials or count, count)
    rungs = [config.num_steps]
    if options.pruner == "asha":
        rungs = halving.rungs(
            config.num_steps, config.eval.every_steps, options.eta, options.min_steps
        )
    program = shlex.split(os.environ.get("PHENOMJAX_MAIN", ""))
    return study.SweepSettings(
        folder=str(options.study.absolute()),
        config=options.config,
        overrides=overrides,
        space=space_lib.to_json(space),
        sampler=options.sampler,
        pruner=options.pruner,
        rungs=rungs,
        eta=options.eta,
        seed=options.seed,
        num_trials=trials,
        program=program or [sys.executable, "-m", "phenomjax.main"],
        storage=options.storage,
        directory=os.getcwd(),
        recipe=checks.flatten(config),
    )


def _check_overrides(overrides: list[str], space: dict[str, space_lib.Axis]) -> None:
    """Raises UserError for a value of all trials whose key the sweep sets."""
    for word in overrides:
        key = word.removeprefix("--config.").split("=")[0]
        if key in space or key == "stop_at_step":
            raise UserError(
                f"{word} holds for all trials, but that key is the sweep's to set: leave it out,"
                " here or in search_space()."
            )


if __name__ == "__main__":
    exit_on_user_error(main)

"""python -m phenomjax.sweep --config configs/mae_demo.py --study runs/sweep [--trials 20]
[--launcher slurm] [--config.KEY=VALUE …]

Varies what search_space() in the config file names (phenomjax/sweep/space.py) and looks for the
lowest val/loss. Each trial is a run of `python -m phenomjax.main` in STUDY/trials/NNNN.
--config.KEY=VALUE holds for all trials. The sweep can be stopped or killed at any time; the same
command continues it, and more --trials extend it. At the end: a table, figures in STUDY/figures,
and the command that trains the winner.

Exit codes: 0 done, 1 no trial succeeded, 2 a mistake in configuration or input, 75 stopped after
saving (run the same command again).
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from phenomjax.cluster.flags import explained
from phenomjax.sweep import halving
from phenomjax.sweep import space as space_lib
from phenomjax.system.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    UserError,
    did_you_mean,
    exit_on_user_error,
)
from phenomjax.system.log import log_to_stderr


def main(arguments: list[str] | None = None) -> int:
    """The front door of sweeps, and of their workers."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m phenomjax.sweep",
        description=__doc__,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--study",
        type=Path,
        required=True,
        help="folder of the sweep, on a file system that all workers share",
    )
    parser.add_argument("--config", help="experiment file with a search_space(), FILE or FILE:ARG")
    parser.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="where workers run (default local)",
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="trials that run at once (default 2)"
    )
    parser.add_argument(
        "--trials", type=int, default=0, help="how many trials (default 20; of a grid all points)"
    )
    parser.add_argument(
        "--sampler", choices=("tpe", "random", "grid"), default="tpe", help="(default tpe)"
    )
    parser.add_argument(
        "--pruner",
        choices=("asha", "none"),
        default="asha",
        help="asha: asynchronous successive halving (default)",
    )
    parser.add_argument(
        "--eta",
        type=int,
        default=4,
        help="asha: of those at a rung 1/eta go on, eta times as far (default 4)",
    )
    parser.add_argument(
        "--min_steps",
        type=int,
        default=0,
        help="asha: step of the lowest rung (default num_steps / eta^2)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampler (default 0)")
    parser.add_argument(
        "--storage",
        default="",
        help="postgresql://user@host/database (default: a journal in the folder)",
    )
    parser.add_argument(
        "--gpus_per_worker",
        type=int,
        default=0,
        help="local: share out this machine's GPUs (default: do not)",
    )
    parser.add_argument(
        "--sbatch",
        default="",
        help='slurm: options of each worker\'s job, e.g. "--gpus-per-node=1 --time=4:00:00"',
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="only print the table and draw the figures of what is there",
    )
    parser.add_argument(
        "--worker",
        action="store_true",
        help="be one worker of a sweep that is there; the launchers start these",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        help="of a worker: where it notes its progress for launch/supervise.py",
    )
    args, overrides = parser.parse_known_args(arguments)
    known = [word for action in parser._actions for word in action.option_strings]
    for word in overrides:
        if not word.startswith("--config.") or "=" not in word:
            raise UserError(
                f"'{word}' is not an option.{did_you_mean(word.split('=')[0], known)} Values of all"
                " trials are given as --config.KEY=VALUE."
            )
    log_to_stderr()
    try:
        import optuna
    except ImportError:
        raise UserError(
            "Sweeps need Optuna, which is not installed. Run `pip install -e"
            " '.[sweep]'` in the checkout."
        ) from None
    try:
        return run(args, overrides)
    except optuna.exceptions.StorageInternalError as error:
        first = " ".join(str(error.__cause__ or error).partition("(Background")[0].split())[:300]
        raise UserError(
            f"The storage of the study does not answer any more ({first}). What the trials saved is"
            " there: run the same command again when the storage is back.",
            EXIT_FAILED,
        ) from None


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Does what the command line asks for; returns the exit code."""
    from phenomjax.sweep import launchers, study
    from phenomjax.sweep.worker import Worker

    if args.worker:
        return Worker(study.Study(study.load(args.study)), args.workdir).run()
    from phenomjax.sweep.report import report  # loads matplotlib, which workers do not need

    if args.report:
        print(report(study.Study(study.load(args.study))))
        return EXIT_DONE
    opened = study.Study(settings(args, overrides), create=True)
    if opened.done():
        code = EXIT_DONE
    elif args.launcher == "local":
        code = launchers.local(opened, args.workers, args.gpus_per_worker)
    else:
        code = launchers.slurm(opened, args.workers, args.sbatch)
    print(report(opened), flush=True)
    if code != EXIT_DONE:
        return code
    if not opened.done():
        raise UserError(
            f"The workers ended before the sweep was done: see {args.study}/workers. Run the same"
            " command again to continue it.",
            EXIT_FAILED,
        )
    return EXIT_DONE if any(e.losses for e in opened.entries()) else EXIT_FAILED


def settings(args: argparse.Namespace, overrides: list[str]):
    """Checks the command line, the configuration and the search space.

    Returns:
      study.Settings.

    Raises:
      UserError: a mistake in one of them.
    """
    from phenomjax.sweep import sampling, study

    if args.config is None:
        raise UserError(
            "--config is missing: python -m phenomjax.sweep --config configs/mae_demo.py --study"
            " runs/sweep"
        )
    for name, low in (
        ("workers", 1),
        ("trials", 0),
        ("eta", 2),
        ("min_steps", 0),
        ("gpus_per_worker", 0),
    ):
        if getattr(args, name) < low:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least {low}.")
    config = read_config(args.config, overrides)
    space = space_lib.of_config(args.config)
    space_lib.check(space, config, args.config)
    for word in overrides:
        key = word.removeprefix("--config.").split("=")[0]
        if key in space or key == "stop_at_step":
            raise UserError(
                f"{word} holds for all trials, but that key is the sweep's to set: leave it out,"
                " here or in search_space()."
            )
    if not config.eval.every_steps:
        raise UserError(
            "config.eval.every_steps is 0, so that no trial has the val/loss by which they are"
            " compared. Set --config.eval.every_steps."
        )
    trials = args.trials or 20
    if args.sampler == "grid":
        count = len(sampling.points(space, args.seed))
        trials = min(args.trials or count, count)
    rungs = [config.num_steps]
    if args.pruner == "asha":
        rungs = halving.rungs(config.num_steps, config.eval.every_steps, args.eta, args.min_steps)
    program = shlex.split(os.environ.get("PHENOMJAX_MAIN", "")) or [
        sys.executable,
        "-m",
        "phenomjax.main",
    ]
    return study.Settings(
        folder=str(args.study.absolute()),
        config=args.config,
        overrides=overrides,
        space=space_lib.to_json(space),
        sampler=args.sampler,
        pruner=args.pruner,
        rungs=rungs,
        eta=args.eta,
        seed=args.seed,
        num_trials=trials,
        program=program,
        storage=args.storage,
        directory=os.getcwd(),
    )


def read_config(text: str, overrides: list[str]) -> ConfigDict:
    """The configuration of a command line, read as phenomjax.main reads it.

    Raises:
      UserError: a file that cannot be read, an unknown key, a value of another type.
    """
    values = flags.FlagValues()
    words = ["sweep", f"--config={text}", *overrides]
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=True, sys_argv=words
    )
    with explained():
        values(words)
        holder.value.keys()
        return ConfigDict(holder.value.to_dict())


if __name__ == "__main__":
    exit_on_user_error(main)

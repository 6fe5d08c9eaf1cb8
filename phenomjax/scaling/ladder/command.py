"""Plans a ladder of small runs at rising budgets of FLOPs, prints it, and trains it:

python -m phenomjax.scaling ladder --config configs/mae_demo.py --budgets 1e11,3e11,1e12 \
    --sizes 32x1,64x1,64x2 --out DIR
python -m phenomjax.scaling fit DIR --out forecast/

At each budget (`--budgets`, FLOPs of a whole run by the task's own count) models of several sizes
are trained, each as long as the budget pays for: by `--tokens_per_parameter`, C / 6 N^2 of C FLOPs
and N parameters, on a grid of the widths of the configuration's model; or those of `--sizes`. Batch
and learning rate follow data and width by rules that are printed and kept in DIR/ladder.json; the
configuration's own values hold at its own size and length. All runs read one and the same data and
are judged on the same held-out rows.

`--plan` prints runs, FLOPs and hours, and trains nothing. Each run is `python -m phenomjax.main` in
DIR/trials/NNNN. The ladder can be stopped or killed at any time; the same command continues it,
and the same command with more budgets, sizes, seeds or subsets extends it. --config.KEY=VALUE holds
for all runs.

Exit codes: 0 all runs are complete, 1 some diverged or failed, 2 a mistake in configuration or
input, 75 stopped after saving (run the same command again).
"""

import dataclasses
import logging
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro
from ml_collections import ConfigDict

from phenomjax import tasks
from phenomjax.config import keys
from phenomjax.config.checks import flatten
from phenomjax.config.experiment import read_config
from phenomjax.models import parametrisation
from phenomjax.scaling.costs import count_on_cpu
from phenomjax.scaling.ladder import record, rules, running, telling
from phenomjax.scaling.ladder.plan import Planner, Run, Wanted
from phenomjax.scaling.ladder.record import Ladder
from phenomjax.scaling.ladder.running import Program, Rate
from phenomjax.sweep.optional import with_optuna
from phenomjax.system import files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from phenomjax.system.log import log_to_stderr
from phenomjax.system.processes import run_tasks

if TYPE_CHECKING:
    from phenomjax.sweep import study  # needs Optuna

log = logging.getLogger("phenomjax")
# How runs of a ladder are judged and kept, unless the user says otherwise.
MANNERS = {
    "figures.num_images": 0,
    "checkpoint.keep_best": 0,
    "checkpoint.keep_latest": 1,
    "stop_early.metric": "",
}


@dataclass(frozen=True)
class Options:
    """Of `python -m phenomjax.scaling ladder`."""

    GROUPS: ClassVar[dict[str, str]] = {
        "budgets": "ladder",
        "batch_exponent": "training",
        "flops_per_second": "",
        "launcher": "machine",
    }

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """folder of the ladder, on a file system that all workers share"""
    config: str = ""
    """experiment file, FILE or FILE:ARG"""
    budgets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="C,C …")] = ()
    """model FLOPs of a run, such as 1e15,3e15,1e16"""
    sizes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SIZE …")] = ()
    """at each budget these models: WIDTH, WIDTHxDEPTH, or KEY=VALUE,KEY=VALUE"""
    tokens_per_parameter: Annotated[tuple[str, ...], tyro.conf.arg(metavar="X,X …")] = (
        "5,10,20,40,80",
    )
    """without `sizes`: at each budget the models nearest to C / 6 N^2 = X"""
    seeds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="N,N …")] = ()
    """each run once for each seed; () = that of the configuration"""
    subsets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="X,X …")] = ("1",)
    """each run once on each share of the training data; what is in 0.1 is in 0.3"""
    depth: Literal["auto", "aspect", "fixed"] = "auto"
    """aspect: the depth follows the width; fixed: that of the configuration; auto: fixed with
    model.parametrisation mup, which carries a learning rate over widths alone, else aspect"""
    batch_exponent: float = 0.4
    """the batch follows the data with it; 0: one batch for all"""
    rate_exponent: float = 0.3
    """the learning rate falls with the data with it"""
    width_exponent: float | None = None
    """and with the width; None: 0.5, with another model.parametrisation than standard 0"""
    reference_seen: float = 0.0
    """units of data at which the configuration's batch and learning rate hold (0: of its run)"""
    min_steps: int = 100
    """shorter runs are left out"""
    evaluations: int = 10
    """of each run; the curves from which a run's course is forecast"""
    flops_per_second: float = 0.0
    """of one worker, for the hours of the plan (0: a few steps of the smallest and the largest
    model are timed on this machine)"""
    target: Annotated[str, tyro.conf.arg(metavar="C[:SIZE]")] = ""
    """print, too, the commands that forecast and train a large run of so many FLOPs by the same
    rules, such as 3e13:256x8; without SIZE of all sizes"""
    plan: bool = False
    """print the plan and train nothing"""
    launcher: Literal["local", "slurm"] = "local"
    """where workers run"""
    workers: int = 1
    """runs at once"""
    gpus_per_worker: int = 0
    """local: share out this machine's GPUs (0: do not)"""
    sbatch: str = ""
    """slurm: options of each worker's job, e.g. "--gpus-per-node=1 --time=4:00:00\""""
    storage: str = ""
    """postgresql://user@host/database; a journal in the folder without"""
    overrides: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """--config.KEY=VALUE of all runs"""


def run(options: Options) -> int:
    """Plans, prints, and unless only that is wanted trains; returns the exit code.

    Raises:
      UserError: a mistake on the command line, in the configuration or its data.
    """
    # apart, since shapes start JAX, whose threads are none for a process that forks workers
    ((ladder, left_out, large),) = run_tasks(_planned_apart, [options], 2, threading.Event())
    print(telling.plan(ladder, rates_of(ladder, options), left_out), flush=True)
    if options.plan:
        print("next: the same command without --plan trains them", flush=True)
        code = EXIT_DONE
    else:
        ladder.save(options.out)
        code = with_optuna(lambda: trained(ladder, options))
    for one in large:
        print(telling.large(ladder, one), flush=True)
    return code


def _planned_apart(options: Options) -> tuple[Ladder, list[str], list[Run]]:
    log_to_stderr()
    count_on_cpu()
    return planned(options)


def planned(options: Options) -> tuple[Ladder, list[str], list[Run]]:
    """The ladder that a command line asks for, with the runs that the folder has already; what was
    left out of it; and the large runs that it is for.

    Raises:
      UserError: a mistake in the command line, the configuration or its data.
    """
    config, wanted, overrides = _read(options)
    own = [word.removeprefix("--config.").split("=")[0] for word in options.overrides]
    planner = Planner(config, wanted, options.out, own)
    runs = planner.runs()
    ladder = Ladder(
        config=options.config,
        overrides=tuple(overrides),
        values=flatten(config),
        told=tuple(
            rules.told(wanted.exponents, wanted.depth, parametrisation.kind_of(config.model))
        ),
        depth=wanted.depth,
        exponents=wanted.exponents,
        reference=planner.reference,
        unit=planner.unit,
        data=planner.data,
        runs=tuple(runs),
        trials=tuple(range(len(runs))),
    )
    before = record.load(options.out)
    large = list[Run]()
    if options.target:
        budget, _, size = options.target.partition(":")
        aim = dataclasses.replace(
            wanted,
            budgets=tuple(_numbers("target", (budget,))),
            sizes=(size,) if size else wanted.sizes,
            seeds=wanted.seeds[:1],
            subsets=wanted.subsets[-1:],
        )
        large = Planner(config, aim, options.out, own).runs()
    whole = before.grown(ladder, options.out) if before else ladder
    return whole, planner.left_out, large


def _read(options: Options) -> tuple[ConfigDict, Wanted, list[str]]:
    """The configuration of all runs, what the ladder is to have, and all overrides."""
    _check(options)
    budgets = sorted(_numbers("budgets", options.budgets, 1e30))
    ratios = sorted(_numbers("tokens_per_parameter", options.tokens_per_parameter))
    subsets, seeds = sorted(_numbers("subsets", options.subsets, 1.0)), _whole(options.seeds)
    config = read_config(options.config, options.overrides)
    own = {word.removeprefix("--config.").split("=")[0] for word in options.overrides}
    manners = {
        **MANNERS,
        # the same held-out rows, whatever the batch and the seed of a run
        "eval.batch_size": config.eval.batch_size or config.global_batch_size,
        "eval.seed": config.seed if config.eval.seed < 0 else config.eval.seed,
    }
    overrides = list(options.overrides)
    overrides += [f"--config.{key}={value}" for key, value in manners.items() if key not in own]
    config = read_config(options.config, overrides)
    for key in ("continue_from", "batch_ramp", "optimizer.schedule_from"):
        if value := flatten(config)[key]:
            raise UserError(
                f"config.{key} is {value}, and the runs of a ladder have batches, steps and"
                f" schedules of their own, from their beginning. Set it to"
                f" {type(value)()!r}, as it is in the files of configs/."
            )
    resolved = tasks.resolve(keys.finalize(config), options.out)
    if not config.data.banks:  # simulated, once for all runs
        banks = tuple(str(Path(bank).absolute()) for bank in resolved.data.banks)
        overrides.append(f"--config.data.banks={banks}")
        config = read_config(options.config, overrides)
    if tasks.make(resolved).loader("val", 0, 1) is None:
        raise UserError(
            "Nothing is held out, so that no run of the ladder has a val/loss. Hold out groups of"
            " images with --config.data.val_fraction=0.1 or --config.data.val_groups; of sequences,"
            " prepare the bank with a validation split."
        )
    depth = options.depth
    if depth == "auto":
        depth = "fixed" if parametrisation.kind_of(config.model) == "mup" else "aspect"
    width = options.width_exponent
    if width is None:
        width = 0.5 if parametrisation.kind_of(config.model) == "standard" else 0.0
    wanted = Wanted(
        budgets=tuple(budgets),
        sizes=_words(options.sizes),
        tokens_per_parameter=tuple(ratios),
        seeds=tuple(seeds) or (config.seed,),
        subsets=tuple(subsets),
        depth=depth,
        exponents=rules.Exponents(options.batch_exponent, options.rate_exponent, width),
        reference_seen=options.reference_seen,
        devices=options.gpus_per_worker,
        min_steps=options.min_steps,
        evaluations=options.evaluations,
    )
    return config, wanted, overrides


def _check(options: Options) -> None:
    """Checks the command line.

    Raises:
      UserError: a setting that cannot be.
    """
    if not options.config or not _words(options.budgets):
        missing = "config" if not options.config else "budgets"
        raise UserError(
            f"`{missing}` is missing: python -m phenomjax.scaling ladder --config"
            " configs/mae_demo.py --budgets 3e11,1e12,3e12 --out runs/ladder"
        )
    for name, value, low in (
        ("workers", options.workers, 1),
        ("gpus_per_worker", options.gpus_per_worker, 0),
        ("min_steps", options.min_steps, 1),
        ("evaluations", options.evaluations, 1),
        ("reference_seen", options.reference_seen, 0),
        ("flops_per_second", options.flops_per_second, 0),
    ):
        if not low <= value < math.inf:
            raise UserError(f"`{name}` is {value}; it must be at least {low}.")
    for name in ("batch_exponent", "rate_exponent", "width_exponent"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 2:
            raise UserError(f"`{name}` is {value}; it must lie between 0 and 2.")


def _words(words: Sequence[str]) -> tuple[str, ...]:
    """Words that commas or spaces part; settings (KEY=VALUE,KEY=VALUE) stay whole."""
    parts = [part for word in words for part in ([word] if "=" in word else word.split(","))]
    return tuple(part for part in parts if part)


def _numbers(name: str, words: Sequence[str], most: float = math.inf) -> list[float]:
    found = list[float]()
    for word in _words(words):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not 0 < value <= most or math.isinf(value):
            limit = "above 0" + (f" and at most {most:g}" if most < math.inf else "")
            example = {"budgets": "1e15,3e15,1e16", "subsets": "0.1,0.3,1"}.get(name, "5,10,20")
            raise UserError(
                f"`{name}` has '{word}'. Give numbers {limit}, parted by commas, such as {example}."
            )
        found.append(value)
    return list(dict.fromkeys(found))


def _whole(seeds: Sequence[str]) -> list[int]:
    found = _words(seeds)
    if bad := [word for word in found if not word.isdigit()]:
        raise UserError(f"`seeds` has '{bad[0]}'. Give whole numbers from 0 on, such as 0,1.")
    return list(dict.fromkeys(map(int, found)))


def rates_of(ladder: Ladder, options: Options) -> list[Rate]:
    """The rates by which hours are told: given, or those of the smallest and the largest model,
    which DIR/rates.json keeps.
    """
    if options.flops_per_second:
        return [Rate(1.0, options.flops_per_second)]
    if options.launcher == "slurm":  # the nodes are not this machine
        return []
    program, path = Program(ladder.config, ladder.overrides), options.out / "rates.json"
    known = {
        float(cost): rate for cost, rate in (files.read_json(path) if path.exists() else {}).items()
    }
    by_cost = sorted(ladder.runs, key=lambda run: run.flops_per_step)
    for size in dict.fromkeys((by_cost[0].size, by_cost[-1].size)):
        first = next(one for one in by_cost if one.size == size)
        if first.flops_per_step not in known:
            log.info("timing a few steps of the model %s", size)
            known[first.flops_per_step] = running.measure(program, first, options.out)
            files.write_json(path, {str(cost): rate for cost, rate in known.items()})
    return [Rate(*one) for one in known.items()]


def trained(ladder: Ladder, options: Options) -> int:
    """Trains what is left of a ladder; returns the exit code."""
    from phenomjax.sweep import launchers, study  # needs Optuna

    opened = study.Study(_settings(ladder, options), create=True)
    ends = _ends(opened)
    counts = {ladder.trial_of(number) for number in range(len(ladder.runs))}
    if failed := [t for t in sorted(counts) if ends.get(t, "").startswith("failed")]:
        log.info("trying again what failed: %s", ", ".join(f"trial {t:04d}" for t in failed))
        ladder = ladder.again(failed)
        ladder.save(options.out)
        for trial in failed:
            set_aside = options.out / ".failed" / f"{trial:04d}"
            set_aside.parent.mkdir(exist_ok=True)
            if (workdir := opened.settings.workdir(trial)).exists():
                workdir.rename(set_aside)
        opened = study.Study(_settings(ladder, options), create=True)
    code = launchers.work(
        opened, options.launcher, options.workers, options.gpus_per_worker, options.sbatch
    )
    text, complete = telling.outcome(ladder, options.out, _ends(opened))
    print(text, flush=True)
    if code != EXIT_DONE or complete:
        return code
    if not opened.done():
        raise UserError(
            f"The workers ended before the ladder was done: see {options.out}/workers. Run the same"
            " command again to continue it.",
            EXIT_FAILED,
        )
    return EXIT_FAILED


def _ends(opened: "study.Study") -> dict[int, str]:
    """{trial: "complete" or what went wrong} of those that have ended."""
    return {t.number: str(t.user_attrs.get("outcome", "")) for t in opened.trials()}


def _settings(ladder: Ladder, options: Options) -> "study.SweepSettings":
    """The sweep that trains a ladder."""
    from phenomjax.sweep import study

    folder = options.out.absolute()
    return study.SweepSettings(
        folder=str(folder),
        config=ladder.config,
        overrides=list(ladder.overrides),
        space={},
        sampler="given",
        pruner="none",
        rungs=[],
        eta=2,
        seed=0,
        num_trials=len(ladder.trials),
        program=Program(ladder.config, ladder.overrides).words,
        storage=options.storage,
        directory=os.getcwd(),
        points=[dict(ladder.runs[number].settings) for number in ladder.trials],
    )

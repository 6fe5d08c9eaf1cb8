"""What a ladder says: its plan before it is trained, and what became of it."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from phenomjax.scaling.ladder import running
from phenomjax.scaling.ladder.plan import LOOKS, Run
from phenomjax.scaling.ladder.record import Ladder
from phenomjax.scaling.ladder.running import Rate
from phenomjax.scaling.observations import checks
from phenomjax.system.log import counted, duration, table

FAR = 10.0  # batch or learning rate so many times the configuration's own are told


def plan(ladder: Ladder, rates: Sequence[Rate], left_out: Sequence[str]) -> str:
    """The plan.

    Args:
      ladder: as planned.
      rates: by which hours are told.
      left_out: what is not planned, and why.
    """
    header = ["run", "budget", "size", "params", ladder.unit, "epochs", "C/6N^2", "steps"]
    header += ["batch", "rate", "warm-up", "FLOPs", "hours"]
    several = {
        "seed": len({r.seed for r in ladder.runs}),
        "subset": len({r.subset for r in ladder.runs}),
    }
    extra = [name for name, count in several.items() if count > 1]
    rows = []
    for number, one in enumerate(ladder.runs):
        spent = running.seconds(one, rates)
        rows.append(
            [
                ladder.workdir(number)[-4:],
                f"{one.budget:.3g}",
                one.size,
                f"{one.params:,}",
                f"{one.seen:,}",
                f"{one.epochs:.2g}",
                f"{one.flops / (6 * one.params**2):.2g}",
                str(one.steps),
                str(one.batch),
                f"{one.rate:.3g}",
                str(one.warmup),
                f"{one.flops:.3g}",
                "?" if math.isnan(spent) else duration(spent),
                *(str(getattr(one, name)) for name in extra),
            ]
        )
    total = sum(one.flops for one in ladder.runs)
    spent = sum(running.seconds(one, rates) for one in ladder.runs)
    reference = ladder.reference
    lines = [table([*header, *extra], rows)]
    lines += [f"rule: {line}" for line in ladder.told]
    lines.append(
        f"reference (D0): {reference.seen:,.0f} {ladder.unit}, batch {reference.batch}, learning"
        f" rate {reference.rate:g}"
    )
    far = [
        one
        for one in ladder.runs
        if not 1 / FAR <= one.rate / reference.rate <= FAR
        or not 1 / FAR <= one.batch / reference.batch <= FAR
    ]
    if far:
        lines.append(
            f"{len(far)} of the runs have a batch or a learning rate more than {FAR:g} times away"
            " from the configuration's own, farther than a rule should be trusted: give values"
            " that hold for short runs, --config.optimizer.learning_rate=… and"
            " --config.global_batch_size=…, with --reference_seen=… where they hold"
        )
    if left_out:
        lines.append(f"left out, shorter than --min_steps: {'; '.join(dict.fromkeys(left_out))}")
    repeated = [one for one in ladder.runs if one.epochs > 4]
    if repeated:
        lines.append(
            f"{counted(len(repeated), 'run')} of more than four epochs: repeats teach less than new"
            " data; how much less the fit can tell of several --subsets alone"
        )
    if len(ladder.runs) < checks.FEWEST:
        lines.append(
            f"{counted(len(ladder.runs), 'run')}, and `scaling fit` wants {checks.FEWEST} or more: "
            "give more --budgets, or --sizes, such as 64,96,128"
        )
    hours = (
        "hours are not known: the nodes are not this machine; give --flops_per_second"
        if math.isnan(spent)
        else f"{duration(spent)} (h:mm:ss) on one worker, without start, compilation and validation"
    )
    lines.append(f"{counted(len(ladder.runs), 'run')}, {total:.3g} FLOPs; {hours}")
    return "\n".join(lines)


def large(ladder: Ladder, run: Run) -> str:
    """A large run that a ladder is for, and the commands that forecast and train it."""
    # how often it looks is its own matter
    settings = {key: value for key, value in run.settings.items() if key not in LOOKS}
    words = running.Program(ladder.config, ladder.overrides).flags(settings)
    forecast = "--config.scaling.forecast=FILE"
    return (
        f"large run {run.size}: {run.params:,} parameters, {run.seen:,} {ladder.unit}, {run.steps}"
        f" steps of {run.batch}, learning rate {run.rate:.3g}, {run.flops:.3g} FLOPs\n"
        "  python -m phenomjax.scaling forecast --fit forecast/"
        f" {shlex.join(words)}\n"
        f"  python -m phenomjax.main {shlex.join(words)} {forecast} --workdir runs/large"
    )


def outcome(ladder: Ladder, folder: Path, ends: Mapping[int, str]) -> tuple[str, bool]:
    """What became of the runs, and whether all are complete.

    Args:
      ladder: as planned.
      folder: of it.
      ends: {trial: "complete" or what went wrong} of those that have ended.
    """
    rows, bad, complete = [], [], 0
    for number, one in enumerate(ladder.runs):
        state, loss = running.outcome(folder / ladder.workdir(number), one)
        end = ends.get(ladder.trial_of(number), "")
        if end.startswith(("diverged", "failed")):
            state = end.partition(":")[0]
            bad.append(f"{ladder.workdir(number)} ({one.size} at {one.budget:.3g} FLOPs) {end}")
        complete += state == "complete"
        told = "-" if math.isnan(loss) else f"{loss:.4f}"
        rows.append(
            [
                ladder.workdir(number)[-4:],
                f"{one.flops:.3g}",
                one.size,
                f"{one.params:,}",
                f"{one.seen:,}",
                str(one.seed),
                state,
                told,
            ]
        )
    lines = [
        table(["run", "FLOPs", "size", "params", ladder.unit, "seed", "state", "val/loss"], rows)
    ]
    lines += bad
    if any(" diverged" in line for line in bad):
        lines.append(
            "a fit leaves out what diverged, and names it. If many do, the learning rate is too"
            " high: make another ladder (another --out) with a lower"
            " --config.optimizer.learning_rate"
        )
    if any(" failed" in line for line in bad):
        lines.append("mend what failed, and run the same command again: it tries these anew")
    lines.append(f"{complete} of {len(ladder.runs)} runs complete")
    lines.append(f"wrote {folder}: ladder.json, trials/NNNN")
    if complete:
        lines.append(f"next: python -m phenomjax.scaling fit {_short(folder)} --out forecast/")
    return "\n".join(lines), complete == len(ladder.runs)


def _short(path: Path) -> str:
    """A path below the present folder without that folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

"""How runs of a ladder are started, how fast they are, and what their folders say of them."""

import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from phenomjax.config.experiment import without
from phenomjax.scaling.ladder.plan import Run
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.processes import die_with_parent
from phenomjax.training import metrics

LAPS, LAP_STEPS = 4, 5  # of a measurement: the first lap compiles


@dataclass(frozen=True)
class Rate:
    """How fast a worker computes a model.

    Attributes:
      flops_per_step: of the model, by which others are told from it.
      flops_per_second: measured, or given.
    """

    flops_per_step: float
    flops_per_second: float


@dataclass(frozen=True)
class Program:
    """What starts a run.

    Attributes:
      config: FILE or FILE:ARG.
      overrides: `--config.KEY=VALUE` of all runs.
    """

    config: str
    overrides: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """As sweeps start their trials."""
        program = shlex.split(os.environ.get("PHENOMJAX_MAIN", ""))
        return program or [sys.executable, "-m", "phenomjax.main"]

    def flags(self, settings: Mapping[str, object]) -> list[str]:
        """The configuration of a run with settings of its own."""
        own = [f"--config.{key}={value}" for key, value in settings.items()]
        return ["--config", self.config, *without(self.overrides, settings), *own]


def measure(program: Program, run: Run, folder: Path) -> float:
    """FLOP/s of a model, by a few of its steps, started as the ladder will start them.

    Args:
      program: that starts it.
      run: whose model.
      folder: for its workdir, which is removed.

    Raises:
      UserError: it does not run.
    """
    workdir = folder / f".rate_{run.size.replace('/', '_')}"  # no run, to those who look for runs
    shutil.rmtree(workdir, ignore_errors=True)
    steps = min(LAPS * LAP_STEPS, run.steps)
    settings = {
        **run.settings,
        "stop_at_step": steps if steps < run.steps else 0,
        "log.every_steps": max(steps // LAPS, 1),
        "eval.every_steps": 0,
        "eval.at_start": False,
        "stop_early.metric": "",
        "checkpoint.keep_best": 0,
        "checkpoint.every_steps": run.steps,
    }
    done = subprocess.run(
        [*program.words, *program.flags(settings), "--workdir", str(workdir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    lines, _ = metrics.read_metrics(workdir / metrics.FILE)
    found = [
        value
        for line in lines[1:] or lines
        for name, value in line.values.items()
        if name.startswith("perf/") and name.endswith("_per_s")
    ]
    if done.returncode not in (EXIT_DONE, EXIT_STOPPED) or not found:
        last = " ".join((done.stdout.strip().splitlines() or ["no output"])[-1].split())[:400]
        raise UserError(
            f"The model {run.size} does not run: a few of its steps ended with code"
            f" {done.returncode} ({last}). Mend that first; or leave the model out with `sizes`, or"
            " give `flops_per_second`, and nothing is measured.",
            EXIT_FAILED,
        )
    shutil.rmtree(workdir, ignore_errors=True)
    units_per_step = run.seen / run.steps
    return median(found) / units_per_step * run.flops_per_step


def seconds(run: Run, rates: Sequence[Rate]) -> float:
    """How long the steps of a run take, by the rates of models below and above it; NaN where none
    is known.
    """
    if not rates:
        return math.nan
    known = sorted(rates, key=lambda rate: rate.flops_per_step)
    at = np.log([rate.flops_per_step for rate in known])
    per_second = np.log([rate.flops_per_second for rate in known])
    return run.flops / math.exp(np.interp(math.log(run.flops_per_step), at, per_second))


def outcome(workdir: Path, run: Run) -> tuple[str, float]:
    """What became of a run: ("complete", loss at its end), ("running" or "waiting", its newest
    loss).
    """
    losses = metrics.val_losses(workdir)
    if not losses:
        return ("running" if (workdir / metrics.FILE).exists() else "waiting"), math.nan
    last = max(losses)
    return ("complete" if last >= run.steps else "running"), losses[last]

"""Reads the workdir of a run: state, metrics, goodput, configuration."""

import calendar
import json
import logging
import math
import os
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phenomjax.checkpoints.workdir import saved_step
from phenomjax.config.checks import flatten
from phenomjax.config.stored import rank
from phenomjax.data import store
from phenomjax.scaling.forecast.record import OUTCOME
from phenomjax.system import owners
from phenomjax.system.errors import UserError
from phenomjax.system.user_files import at_step
from phenomjax.training import metrics
from phenomjax.training.goodput import summary

log = logging.getLogger("phenomjax")
QUIET_SECONDS = 900.0  # without a changed file: a run on another machine has ended
# lines of logs/process_000.log
BEGAN = re.compile(r"^(\S+ \S+) process 0 of \d+ on (\S+) \(pid (\d+)\)")
ENDED = re.compile(r"^\S+ \S+ (done|stopped) at step \d+")
BROKE = re.compile(
    r"^\S+ \S+ (error: .*|Traceback .*|leaving with exit code .*|interrupted twice.*|.*watchdog.*)",
    re.DOTALL,
)


@dataclass
class Run:
    """One run, as far as it got.

    Attributes:
      path: its folder.
      name: the folder, from the one that all runs have in common.
      num_steps: of the whole run.
      config: {dotted key: value}; paths into the folder begin with WORKDIR.
      state: "done", "running", "stopped" or "failed".
      step: of the newest metrics line or checkpoint.
      series: {metric: [(step, value), …]}.
      best: metrics of validation and probes at the step that is best by `checkpoint.best_metric`,
        the lowest val/loss by default.
      goodput: share of the wall time, or None.
      forecast: what a forecast said and what came of it, or nothing.
      origin: the run that it goes on from and the step, "NAME@STEP", or nothing.
      begins: {metric: (step, value)}, where that run was then.
      problems: what could not be read.
    """

    path: Path
    name: str
    num_steps: int
    config: dict[str, object]
    state: str = ""
    step: int = 0
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    goodput: float | None = None
    forecast: str = ""
    origin: str = ""
    begins: dict[str, tuple[int, float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def find(folders: Sequence[Path]) -> list[Run]:
    """All runs at or below some folders; what cannot be read is named in the log and skipped.

    Raises:
      UserError: a folder does not exist, or no run is in any.
    """
    runs = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"There is no folder {folder}.{store.beside(folder)} Give folders that hold runs,"
                " such as runs/."
            )
        for place, names, files in os.walk(folder):
            if "config.json" in files and (run := read(Path(place))):
                runs.append(run)
                names.clear()  # what is below belongs to it
            names[:] = sorted(n for n in names if not n.endswith(".zarr") and not n.startswith("."))
    if not runs:
        raise UserError(
            f"No run is in {', '.join(map(str, folders))}: a run is a folder with the config.json"
            " that training writes."
        )
    runs = list({run.path.resolve(): run for run in runs}.values())
    above = os.path.commonpath([run.path.resolve().parent for run in runs])
    for run in runs:
        run.name = os.path.relpath(run.path.resolve(), above)
    _find_origins(runs)
    return runs


def _find_origins(runs: Sequence[Run]) -> None:
    """Fills in which runs go on from which, and where those were; one need not be in the list."""
    known = {run.path.resolve(): run for run in runs}
    for run in runs:
        folder, step = at_step(str(run.config.get("continue_from", "")))
        if step is None:
            continue
        before = known.get(Path(folder)) or (read(Path(folder)) if Path(folder).is_dir() else None)
        run.origin = f"{before.name if before else folder}@{step}"
        for name, points in before.series.items() if before else ():
            if earlier := [point for point in points if point[0] <= step]:
                run.begins[name] = earlier[-1]


def read(path: Path) -> Run | None:
    """Reads a run; None, and a line in the log, when the folder holds none that can be read."""
    try:
        stored = json.loads((path / "config.json").read_text())
        config = flatten(stored)
        num_steps = int(config["num_steps"])
        config["task"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        log.warning(
            "skipped %s: its config.json is not that of a run, or is damaged (%s)",
            path,
            " ".join(repr(error).split())[:100],
        )
        return None
    here = str(path.absolute())
    values = {key: _replace(value, here) for key, value in config.items()}
    run = Run(path, str(path), num_steps, values)
    _read_metrics(run)
    run.step = max(run.step, saved_step(path))
    run.goodput = _goodput(run)
    run.state = state(path, run.step, num_steps)
    run.forecast = _forecast(run)
    for problem in run.problems:
        log.warning("%s: %s", path, problem)
    return run


def _replace(value: object, here: str) -> object:
    """Simulated data lies in the run's own folder: that is no difference between runs."""
    if isinstance(value, tuple):
        return tuple(_replace(v, here) for v in value)
    return value.replace(here, "WORKDIR") if isinstance(value, str) else value


def _read_metrics(run: Run) -> None:
    """Series, best and newest step; damaged lines are counted."""
    try:
        lines, damaged = metrics.read_metrics(run.path / metrics.FILE)
    except OSError:
        return
    measured = dict[int, dict[str, float]]()
    for line in lines:
        run.step = max(run.step, line.step)
        for name, value in line.values.items():
            run.series.setdefault(name, []).append((line.step, value))
            # ends of intervals
            if name.startswith(("val/", "probe/")) and not name.endswith(("_low", "_high")):
                measured.setdefault(line.step, {})[name] = value
    metric = str(run.config.get("checkpoint.best_metric", "val/loss"))
    ranks = {step: rank(values, metric) for step, values in measured.items()}
    known = [
        (value, step) for step, value in ranks.items() if value is not None and math.isfinite(value)
    ]
    run.best = measured[min(known)[1]] if known else {}
    if damaged:
        run.problems.append(
            f"{len(damaged)} damaged line{'s' * (len(damaged) > 1)} of {metrics.FILE} left out (the"
            f" first is line {damaged[0]})"
        )


def _goodput(run: Run) -> float | None:
    """Of goodput.json, else of the newest metrics line that has it."""
    try:
        return summary(json.loads((run.path / "goodput.json").read_text())["starts"])["goodput"]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        run.problems.append("goodput.json is damaged")
    series = run.series.get("perf/goodput")
    return series[-1][1] if series else None


def _forecast(run: Run) -> str:
    """Of forecast.json: the interval, and whether the loss at the end lay in it."""
    try:
        content = json.loads((run.path / OUTCOME).read_text())
        forecast, outcome = content["forecast"], content["outcome"]
        loss, low, high = (float(forecast[name]) for name in ("loss", "low", "high"))
        text = f"{loss:.4g} ({low:.4g} to {high:.4g})"
        if outcome:
            text += " held" if outcome["held"] else f" off by {100 * outcome['error']:+.1f} %"
        elif content["outside"] and content["outside"][-1] == content["val_loss"][-1][0]:
            text += " outside now"
        return text if content["written_before_the_run"] else text + ", written later"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, LookupError, TypeError):
        run.problems.append(f"{OUTCOME} is damaged")
        return ""


def state(path: Path, step: int, num_steps: int) -> str:
    """State of a run, as the first lines of this file say."""
    owner = owners.owner_of(path)
    lives = owners.lives(owner) if owner else False
    if lives:
        return "running"
    try:
        lines = (path / "logs" / "process_000.log").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    last = max((i for i, line in enumerate(lines) if BEGAN.match(line)), default=None)
    if last is None:
        return "done" if step >= num_steps else "stopped"
    for line in lines[last + 1 :]:
        if ended := ENDED.match(line):
            return ended[1]
        if BROKE.match(line):
            return "failed"
    began = BEGAN.match(lines[last])
    assert began
    if owner and lives is False:
        return "failed"
    if began[2] == socket.gethostname() and Path("/proc/self").exists():
        try:  # a process that began after that line is another one with the same number
            process = Path(f"/proc/{began[3]}").stat().st_ctime
            return "running" if process < _seconds(began[1]) + 2 else "failed"
        except OSError:
            return "failed"
    names = ("metrics.jsonl", "progress", "goodput.json", owners.FILE)
    files = [*path.glob("logs/*"), *(path / name for name in names)]
    newest = max((f.stat().st_mtime for f in files if f.exists()), default=0.0)
    return "running" if time.time() - newest < QUIET_SECONDS else "failed"


def _seconds(written: str) -> float:
    """When a line of a log was written, in seconds since the epoch; logs of older versions are in
    the time of the place.
    """
    clock = time.strptime(written.rstrip("Z"), "%Y-%m-%d %H:%M:%S")
    return calendar.timegm(clock) if written.endswith("Z") else time.mktime(clock)

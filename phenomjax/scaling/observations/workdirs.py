"""Runs of a ladder, or any others, from their folders: config.json, size.json and metrics.jsonl."""

import dataclasses
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from phenomjax.config import schedules
from phenomjax.config.checks import flatten
from phenomjax.scaling.observations import checks
from phenomjax.scaling.observations.runs import COLUMNS, Curve, Observations
from phenomjax.system.errors import UserError, first_of
from phenomjax.training import metrics
from phenomjax.training.size import Size

log = logging.getLogger("phenomjax")
LOSS = "val/loss"
ROWS = "rows of validation"
# {fact: keys that it consists of}: runs that differ in one of them are judged by other losses.
FACTS = {
    "task": ("task",),
    "training data": ("data.selection",),  # and the checksums of size.json
    "validation": (
        *("data.split_by", "data.val_groups", "data.val_fraction", "data.protocol"),
        *("model.mem_len", "model.eval_mem_len"),
    ),
    "vocabulary": ("model.alphabet", "model.vocab_size", "model.boundary", "model.rare"),
    "channels": ("model.channels", "model.channel_agnostic"),
    "classes": ("model.classes",),
    "what is predicted": (
        *("data.crop_size", "model.patch_size", "model.mask_ratio", "data.segment_len"),
        *("data.eval_segment_len", "model.num_predict"),
    ),
    "start": ("init_from", "init_new", "init_fresh", "freeze", "continue_from"),
}
# What a ladder may vary, or what changes no loss.
VARIES = (
    *("num_steps", "stop_at_step", "global_batch_size", "seed", "data.subset", "optimizer"),
    *("model", "mesh", "log", "eval.", "figures", "probes", "checkpoint", "watchdog", "divergence"),
    *("scaling", "data.banks", "data.threads", "data.prefetch_batches", "data.staging"),
    *("data.cache", "data.on_bad_image", "data.max_bad_images", "data.simulate"),
)
ONE_RECIPE = ("optimizer.name", "optimizer.schedule", "optimizer.final_fraction")


@dataclass(frozen=True)
class Read:
    """One finished run."""

    path: Path
    config: Mapping[str, Any]
    size: Mapping[str, Any]
    steps: int
    losses: Mapping[int, float]
    scores: Mapping[str, float]

    @property
    def numbers(self) -> dict[str, float]:
        """N, D, U, C and the loss at the end, by the names of `Observations`."""
        size = self.size
        return {
            "params": float(size["params"]),
            "seen": self.steps * float(size["units_per_step"]),
            "unique": float(size["units_per_epoch"]),
            "flops": self.steps * float(size["flops_per_step"]),
            "loss": self.losses[self.steps],
        }

    @property
    def data(self) -> str:
        """The checksums of what it read."""
        return " ".join(sorted(self.size["data"].values()))

    def fact(self, name: str) -> str:
        """What the run is in one respect."""
        config = self.config
        # each task has keys of its own, and a run of before may lack newer ones
        parts = [f"{key}={config[key]}" for key in FACTS[name] if config.get(key)]
        if name == "training data":
            sets = (f"{key.split(' ', 1)[-1]} ({v[:8]})" for key, v in self.size["data"].items())
            parts = [*sets, *parts]
        return ", ".join(parts)

    @property
    def judged_on(self) -> str:
        """Which rows of the validation split."""
        batches, get = self.config.get("eval.num_batches", 0), self.config.get
        if not batches:
            return "all"
        rows = batches * (get("eval.batch_size") or get("global_batch_size", 1))
        seed = get("eval.seed", -1)
        return f"{rows} rows, seed {get('seed') if seed < 0 else seed}"


def facts_of(config: ConfigDict, size: Size, name: str) -> dict[str, str]:
    """The facts of a run that is yet to be trained, as `Observations.facts` has them.

    Args:
      config: resolved.
      size: of it.
      name: what it is called in messages.
    """
    run = Read(Path(name), flatten(config), dataclasses.asdict(size), config.num_steps, {}, {})
    facts = {fact: run.fact(fact) for fact in FACTS}
    return facts | {ROWS: run.judged_on}


def of_workdirs(folders: Sequence[Path]) -> Observations:
    """The finished runs at or below some folders, such as that of a ladder.

    Runs that diverged, failed or are not at their end are left out; each is named in the log, and
    in `left_out`.

    Raises:
      UserError: no run, fewer than six that finished, or runs that no law has in common: of other
        tasks, data, vocabularies, channels, validation.
    """
    left_out, runs = list[str](), list[Read]()
    for path in _folders(folders):
        found = read(path)
        if isinstance(found, str):
            left_out.append(found)
            log.warning("left out: %s", found)
        else:
            runs.append(found)
    where = first_of(folders, 3)
    if not runs:
        told = first_of([one.rstrip(".") for one in left_out], 3)
        said = f" {told}." if left_out else ""
        raise UserError(
            f"No finished run is in {where}: a run is a folder with the config.json, size.json and"
            f" metrics.jsonl that training writes.{said} Train some: `python -m phenomjax.scaling"
            " ladder --config FILE --budgets 1e12,3e12,1e13 --out DIR`."
        )
    facts = _same(runs)
    above = Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
    names = tuple(os.path.relpath(run.path.resolve(), above) for run in runs)
    scores = sorted(set().union(*(run.scores for run in runs)))
    numbers = [run.numbers for run in runs]
    finished = checks.checked(
        Observations(
            names=names,
            **{name: np.array([one[name] for one in numbers]) for name in COLUMNS},
            unit=str(runs[0].size["unit"]),
            metrics={
                name: np.array([run.scores.get(name, math.nan) for run in runs]) for name in scores
            },
            curves=tuple(map(_curve, runs)),
            facts=facts,
            left_out=tuple(left_out),
        ),
        where,
    )
    for row in np.flatnonzero(
        away := checks.outliers(finished.params, finished.seen, finished.loss)
    ):
        log.warning(
            "the loss of %s, %.4g, is %.3g x that of runs around it: if its training went wrong,"
            " give the other folders one by one, without it",
            *(finished.names[row], finished.loss[row], np.exp(away[row])),
        )
    return finished


def _folders(folders: Sequence[Path]) -> Iterator[Path]:
    """Folders of runs, each once."""
    known = set[Path]()
    for folder in folders:
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise UserError(
                f"{folder} {what}. Give the folder of a ladder or of runs; a table of runs goes"
                " with `runs` FILE and `columns` params=COLUMN,tokens=COLUMN,loss=COLUMN."
            )
        for place, below, there in os.walk(folder):
            path = Path(place)
            if "config.json" in there:
                below.clear()  # what is below belongs to it
                if path.resolve() not in known:
                    known.add(path.resolve())
                    yield path
            below[:] = sorted(n for n in below if not n.endswith(".zarr") and not n.startswith("."))


def read(path: Path) -> Read | str:
    """A finished run; else why it is left out."""
    try:
        config = flatten(json.loads((path / "config.json").read_text("utf-8")))
        steps, _ = int(config["num_steps"]), config["task"]
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{path}: its config.json is not that of a run, or is damaged ({_short(error)})."
    lines, damaged = metrics.read_metrics(path / metrics.FILE)
    if damaged:
        log.warning("%s: %d damaged lines of metrics.jsonl were passed over", path, len(damaged))
    losses = {line.step: line.values[LOSS] for line in lines if LOSS in line.values}
    last = max((line.step for line in lines), default=0)
    own = f"`python -m phenomjax.main --config FILE --workdir {path}`"
    same = f"run the same command again (that of its ladder, or {own})"
    if bad := [step for step, loss in losses.items() if not math.isfinite(loss)]:
        return (
            f"{path} diverged: its {LOSS} is {losses[bad[0]]} at step {bad[0]}; train it again with"
            " a lower --config.optimizer.learning_rate."
        )
    if steps in losses and losses[steps] <= 0:
        return (
            f"{path} has a {LOSS} of {losses[steps]:g} at its end, and a law has losses above 0:"
            " its metrics.jsonl is damaged, or this is no loss."
        )
    if steps not in losses:
        if last >= steps:
            return (
                f"{path} has no {LOSS} at its end (step {steps}): nothing was held out, or"
                " --config.eval.every_steps=0."
            )
        return f"{path} is not finished: step {last} of {steps}; {same} to continue it."
    try:
        size = json.loads((path / "size.json").read_text("utf-8"))
        numbers = ("params", "flops_per_step", "units_per_step", "units_per_epoch")
        if not all(0 < float(size[name]) < math.inf for name in numbers):
            raise ValueError("a number that is none above 0")
        if not all(isinstance(one, str) for one in (*dict(size["data"]).values(), size["unit"])):
            raise ValueError("a checksum or a unit that is no text")
        size["data"].items()
    except FileNotFoundError:
        return (
            f"{path} has no size.json, which says what it cost: it was trained by an earlier"
            f" version; {same}, which writes it."
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{path}: its size.json is damaged ({_short(error)}); {same}."
    end = max(line.step for line in lines if LOSS in line.values)
    scores = {
        name: value
        for line in lines
        if line.step == end
        for name, value in line.values.items()
        if name.startswith(("val/", "probe/")) and name != LOSS
        if not name.endswith(("_low", "_high"))
    }
    return Read(path, config, size, steps, losses, scores)


def _short(error: Exception) -> str:
    return " ".join(repr(error).split())[:100]


def _curve(run: Read) -> Curve | None:
    steps = np.array(sorted(step for step in run.losses if 0 < step <= run.steps))
    if len(steps) < 2:
        return None
    return Curve(
        steps / run.steps,
        np.array([run.losses[int(step)] for step in steps]),
        schedules.shape(run.config),
    )


def _same(runs: Sequence[Read]) -> dict[str, str]:
    """The facts that all runs have in common.

    Raises:
      UserError: they differ in one.
    """
    facts = dict[str, str]()
    for name in FACTS:
        said = {run.path: run.fact(name) for run in runs}
        kinds = Counter(said.values())
        facts[name] = next(iter(kinds))
        if len(kinds) > 1:
            raise _different(name, said, kinds)
    for what in ("unit", "task"):
        values = {
            run.path: str(run.size["unit"] if what == "unit" else run.config["task"])
            for run in runs
        }
        if len(kinds := Counter(values.values())) > 1:
            raise _different(what, values, kinds)
    recipe = {
        key: Counter(str(run.config.get(key)) for run in runs)
        for key in {*ONE_RECIPE, *(k for run in runs for k in run.config)}
        if key in ONE_RECIPE or not key.startswith(VARIES)
    }
    recipe["validation"] = Counter(run.judged_on for run in runs)
    for key, kinds in sorted(recipe.items()):
        if len(kinds) > 1:
            told = ", ".join(f"{value} ({count} runs)" for value, count in kinds.most_common(4))
            log.warning(
                "the runs differ in %s: %s. A law holds for one recipe; the fit takes it as noise",
                *(key, told),
            )
    if len(recipe["validation"]) == 1:
        facts[ROWS] = runs[0].judged_on
    return facts


def _different(name: str, said: Mapping[Path, str], kinds: Counter[str]) -> UserError:
    """The error that names what differs, with a run of each kind."""
    told = list[str]()
    for kind, count in kinds.most_common(4):
        one = next(path for path, text in said.items() if text == kind)
        told.append(f"{count} like {one}: {kind or 'none'}")
    most = kinds.most_common(1)[0][0]
    fewer = [path for path, text in said.items() if text != most]
    return UserError(
        f"The runs are of different kinds, and one law has one {name}: {'; '.join(told)}. Their"
        f" losses cannot be compared. Fit those of one kind: give their folders one by one, without"
        f" {first_of(fewer, 4)}."
    )

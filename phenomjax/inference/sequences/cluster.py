"""Embeds sequences on an engine: the driver needs no device, and the workers hold the model."""

import functools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from phenomjax.engine.units import Executor, Note, Unit
from phenomjax.inference.sequences import embed as here
from phenomjax.inference.sequences import queries, segments
from phenomjax.inference.sequences.batches import SequenceBatch
from phenomjax.inference.sequences.parts import Part
from phenomjax.inference.sequences.store import PARTS, FeatureStore
from phenomjax.inference.workers import (
    ONE_AT_A_TIME,
    begun,
    check_begun,
    check_precision,
    differs,
)
from phenomjax.system import files
from phenomjax.system.errors import UserError
from phenomjax.system.log import Progress
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel

GROUPS = "groups.npy"  # where each different sequence begins in the tokens, and its length


class Task(NamedTuple):
    """An embedding as a worker gets it; a worker keeps what it made for an equal one.

    Attributes:
      checkpoint, compute_dtype: absolute, and as in the options.
      model: fingerprint.
      layer, pool, dtype: of `SegmentFeatures`.
      devices: how many; 0: all.
      precision, begun: of the work, once it has begun.
    """

    checkpoint: str
    compute_dtype: str
    model: str
    layer: int | None
    pool: str | None
    dtype: str
    devices: int
    precision: str = ""
    begun: str = ""


def machine(model: SequenceModel, devices: int) -> Note:
    """What decides the numbers, and only the machine knows that computes."""
    return {
        "batch_tokens": segments.default_batch_tokens(),
        "devices": len(chosen_devices(devices)),
        "compute_dtype": np.dtype(model.task.dtype).name,
    }


def chosen_devices(count: int) -> list[jax.Device]:
    """The first devices of this machine; 0: all.

    Raises:
      UserError: there are not so many.
    """
    devices = jax.local_devices()
    if count > len(devices):
        raise UserError(
            f"`devices` {count}: this machine has {len(devices)} ({devices[0].device_kind})."
        )
    return devices[: count or None]


def look(executor: Executor, work: Path, task: Task, stop: threading.Event) -> Note | None:
    """`machine` of a worker; None when stopped."""
    files.remove(work / "units" / "look.json")
    units = [Unit("look", task)]
    return next((note for _, note in executor.run(work, look_unit, units, stop)), None)


def look_unit(work: Path, task: Task) -> Note:
    """The unit of `look`."""
    with ONE_AT_A_TIME:
        return machine(_load(task.checkpoint, task.compute_dtype, task.model), task.devices)


def embed(
    executor: Executor,
    work: Path,
    task: Task,
    found: queries.Queries,
    store: FeatureStore | Part,
    plan: Sequence[SequenceBatch],
    stop: threading.Event,
) -> bool:
    """Fills the store as `embed.embed` does, by workers; False if it was stopped.

    Raises:
      UserError: of the engine or its workers, or the disk fails.
    """
    with files.replacing(work / GROUPS, shared=True) as partial, partial.open("wb") as file:
        np.save(file, np.stack([found.starts[found.order], found.lengths[found.order]], axis=1))
    task = task._replace(begun=begun(work))
    here.tell(found, plan)
    residues = here.residues(found, plan)
    left = store.units(plan)
    missing = {name: int(residues[batches].sum()) for name, batches in left}
    total = int(residues.sum())
    bar = Progress("embed", total, "residues", total - sum(missing.values()))
    units = (Unit(name, (task, name, tuple(plan[i] for i in batches))) for name, batches in left)
    saved = time.monotonic()
    for name, _ in executor.run(work, embed_unit, units, stop):
        store.take(work / PARTS / name, plan)
        bar.update(missing[name])
        if time.monotonic() - saved > here.SAVE_SECONDS:
            store.save()
            saved = time.monotonic()
    store.save()
    return not stop.is_set()


def embed_unit(work: Path, argument: tuple[Task, str, tuple[SequenceBatch, ...]]) -> Note:
    """The unit that embeds some batches."""
    task, name, plan = argument
    with ONE_AT_A_TIME:
        features = _features(task)
        tokens, groups = _sequences(work, task.begun)
        first = plan[0].start
        lengths = np.asarray(groups[first : plan[-1].stop, 1])
        rows = np.ones_like(lengths) if task.pool else lengths
        values = np.empty((int(rows.sum()), features.dim), np.dtype(task.dtype).newbyteorder("<"))
        part = Part(values, rows, first)

        def sequence(group: int) -> np.ndarray:
            start, length = groups[group]
            return tokens[start : start + length]

        for _ in here.fill(sequence, features, part, plan, range(len(plan))):
            pass
    check_begun(work, task.begun)
    files.write_bytes(work / PARTS / name, values.tobytes(), shared=True, flush=True)
    return {}


@functools.lru_cache(maxsize=1)
def _load(checkpoint: str, compute_dtype: str, fingerprint: str) -> SequenceModel:
    model = opening.load_sequences(checkpoint, compute_dtype)
    if model.fingerprint != fingerprint:
        raise differs(checkpoint, "checkpoint")
    return model


@functools.lru_cache(maxsize=2)
def _features(task: Task) -> segments.SegmentFeatures:
    model = _load(task.checkpoint, task.compute_dtype, task.model)
    check_precision(np.dtype(model.task.dtype).name, task.precision, Path(task.checkpoint))
    devices = chosen_devices(task.devices)
    return segments.SegmentFeatures(model, task.layer, task.pool, task.dtype, devices)


@functools.lru_cache(maxsize=2)
def _sequences(work: Path, begun: str) -> tuple[np.ndarray, np.ndarray]:
    return np.memmap(work / "tokens", np.uint8, "r"), np.load(work / GROUPS, mmap_mode="r")

"""Embeds images on an engine: the driver needs no device, and the workers hold the model."""

import dataclasses
import functools
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import store
from phenomjax.engine import choose
from phenomjax.engine.units import Executor, Note, Unit
from phenomjax.inference.images import stages, worker
from phenomjax.inference.images.blocks import Block, commit, measure
from phenomjax.inference.images.crops import CropLoader
from phenomjax.inference.images.job import BankEmbedding, Runtimes
from phenomjax.inference.images.moments import DomainStatistics
from phenomjax.inference.images.options import Options
from phenomjax.inference.images.plan import WorkLayout
from phenomjax.inference.runtimes.choose import JaxRuntime
from phenomjax.inference.workers import ONE_AT_A_TIME, check_precision, differs
from phenomjax.system import files, locks
from phenomjax.system.errors import EXIT_STOPPED
from phenomjax.system.log import Progress
from phenomjax.trained.model import ImageModel
from phenomjax.trained.twin import load_images

log = logging.getLogger("phenomjax")


class Task(NamedTuple):
    """The embedding of a bank as a worker gets it. Two are equal only where all is the same, so
    that a worker may keep what it made for one.

    Attributes:
      options: of the command, all paths absolute.
      path, out: of bank and result.
      model, bank: fingerprints.
      statistics: folder of the statistics of domains; None: running ones are used.
      precision, layout, begun: of the work, once it has begun.
    """

    options: Options
    path: Path
    out: Path
    model: str
    bank: str
    statistics: Path | None
    precision: str = ""
    layout: WorkLayout | None = None
    begun: str = ""


def run(
    options: Options,
    jobs: list[BankEmbedding],
    statistics: DomainStatistics | None,
    stop: threading.Event,
) -> int:
    """Does the jobs on the engine; returns the exit code.

    Raises:
      UserError: of `stages.begin`, of the engine or its workers, or the disk fails.
    """
    assert options.out is not None
    folder = options.out.with_name(options.out.name + ".engine")
    codes, begun, fresh = list[int](), list[BankEmbedding](), list[BankEmbedding]()

    def begin(job: BankEmbedding, seen: Note) -> None:
        if (code := stages.begin(job, seen)) is None:
            begun.append(job)
        else:
            codes.append(code)

    for job in jobs:
        if (seen := stages.recorded(job)) is not None:
            begin(job, seen)
        else:
            fresh.append(job)
    busy = f"Another process embeds into {options.out} now. Wait for it, or give another `out`."
    with locks.hold(folder, busy):
        if fresh or any(job.uncommitted() for job in begun):
            files.remove(folder / "units")  # the notes that count are those of each bank
            with choose.executor(options, folder) as executor:
                looks = (
                    Unit(f"look-{i}", _task(options, job, statistics))
                    for i, job in enumerate(fresh)
                )
                for name, seen in executor.run(folder, look, looks, stop):
                    begin(fresh[int(name.removeprefix("look-"))], seen)
                if statistics and begun:
                    _take(options, statistics, jobs, begun, executor, stop)
                if not stop.is_set():
                    _embed(options, begun, statistics, executor, folder, stop)
        if stop.is_set():
            log.info("stopped; the same command goes on from here")
            return EXIT_STOPPED
        files.remove(folder)
    return max([*codes, *(stages.finish(job, statistics=statistics) for job in begun)])


def _take(
    options: Options,
    statistics: DomainStatistics,
    jobs: list[BankEmbedding],
    begun: list[BankEmbedding],
    executor: Executor,
    stop: threading.Event,
) -> None:
    """The statistics of the domains of the banks that are begun; others may have images of them."""
    statistics.begin()
    tasks = [_task(options, job, statistics) for job in jobs]
    parts = {part.name: part for part in statistics.left(begun)}
    progress = Progress(
        "statistics", sum(part.images for part in parts.values()), "images", 0, every_seconds=10.0
    )
    units = (
        Unit(part.name, (tasks[part.bank], part.name, part.blocks, statistics.settings.batch))
        for part in parts.values()
    )
    for name, _ in executor.run(statistics.work, take, units, stop):
        progress.update(parts[name].images)


def _embed(
    options: Options,
    jobs: list[BankEmbedding],
    statistics: DomainStatistics | None,
    executor: Executor,
    folder: Path,
    stop: threading.Event,
) -> None:
    tasks = [
        _task(options, job, statistics)._replace(
            precision=job.settings.precision, layout=job.layout, begun=job.begun
        )
        for job in jobs
    ]
    by_out = {task.out: job for task, job in zip(tasks, jobs, strict=True)}
    # names mean the same in a command that was killed, whose workers may live
    left = {
        f"{job.out.stem}-{number}": (task, number)
        for task, job in zip(tasks, jobs, strict=True)
        for number in job.uncommitted()
    }
    total = sum(len(job.bank) * len(job.grid) for job in jobs)
    crops = {
        name: by_out[task.out].layout.crops_of(number) for name, (task, number) in left.items()
    }
    label = f"embed {jobs[0].bank.path.stem}" if len(jobs) == 1 else f"embed {len(jobs)} banks"
    progress = Progress(label, total, "crops", total - sum(crops.values()), every_seconds=10.0)
    units = (Unit(name, argument) for name, argument in left.items())

    def aside(unit: Unit[tuple[Task, int]], reason: str) -> Note:
        task, number = unit.argument
        return worker.UnitRows(by_out[task.out], number).reject(reason)

    for name, _ in executor.run(folder, embed, units, stop, aside=aside):
        progress.update(crops[name])


def _task(options: Options, job: BankEmbedding, statistics: DomainStatistics | None) -> Task:
    """What the workers are told of a job."""
    plain = dataclasses.replace(
        options,
        checkpoint=str(store.absolute(options.checkpoint)),
        bank=(store.absolute(options.bank[0]),),  # with which some runtimes are made, for all banks
        out=None,
        engine="local",
        engine_option=(),
    )
    path, out = store.absolute(job.bank.path), store.absolute(job.out)
    known = job.model.fingerprint, job.bank.fingerprint
    work = store.absolute(statistics.work) if statistics else None
    return Task(plain, path, out, *known, work)


def look(folder: Path, task: Task) -> Note:
    """The unit that says how this worker would do a job."""
    with ONE_AT_A_TIME:
        return _open(task)[0].look()


def take(folder: Path, argument: tuple[Task, str, Sequence[Block], int]) -> Note:
    """The unit that takes the moments of some images."""
    task, name, blocks, batch = argument
    with ONE_AT_A_TIME:
        job, _ = _open(task)
        runtime = job.make_runtime()
        assert isinstance(runtime, JaxRuntime)
        found = measure(job, runtime, blocks, batch, threading.Event())
    assert found is not None  # nothing stops it
    commit(folder, name, found, runtime.features)
    return {}


def embed(folder: Path, argument: tuple[Task, int]) -> Note:
    """The unit that embeds a unit of images; its rows and its own note are in the bank's work
    folder, where every way of embedding finds them.
    """
    task, number = argument
    with ONE_AT_A_TIME:
        job, loader = _open(task)
        for _ in worker.compute(job, loader, iter([number]), threading.Event()):
            pass
    return {}


@functools.lru_cache(maxsize=4)
def _open(task: Task) -> tuple[BankEmbedding, CropLoader]:
    shown = task.options
    model, made = _load(shown.checkpoint, shown.compute_dtype, shown.random_weights, task.model)
    job = BankEmbedding(task.options, model, task.path, task.out, made)
    if job.bank.fingerprint != task.bank:
        raise differs(task.path, "bank")
    if task.statistics:
        job.use_statistics(task.statistics, {})
    precision = job.look()["precision"]
    if task.layout is not None:
        job.layout, job.begun = task.layout, task.begun
        check_precision(precision, task.precision, task.out)
    return job, job.loader()


@functools.lru_cache(maxsize=1)
def _load(
    checkpoint: str, compute_dtype: str, random_weights: int | None, fingerprint: str
) -> tuple[ImageModel, Runtimes]:
    model = load_images(checkpoint, compute_dtype, random_weights)
    if model.fingerprint != fingerprint:
        raise differs(checkpoint, "checkpoint")
    return model, {}

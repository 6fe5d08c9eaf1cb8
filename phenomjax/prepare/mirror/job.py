"""A mirror from plan to manifest; what the command does, and other commands for their outputs."""

import collections
import contextlib
import functools
import logging
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phenomjax.data import store
from phenomjax.engine import work_folder
from phenomjax.engine.units import Executor, Note, Notes, Unit
from phenomjax.prepare.mirror import checks, copying, manifest, planning
from phenomjax.prepare.mirror.copying import Ends
from phenomjax.prepare.mirror.ends.digests import Digests
from phenomjax.prepare.mirror.ends.local import LocalPlace
from phenomjax.prepare.mirror.ends.opening import open_place
from phenomjax.prepare.mirror.ends.places import WHOLE
from phenomjax.prepare.mirror.planning import PlanGroup
from phenomjax.system import files, locks
from phenomjax.system.errors import UserError
from phenomjax.system.log import counted, duration

log = logging.getLogger("phenomjax")
TOLD = 5  # objects that are named on the screen


@dataclass
class Outcome:
    """What a mirror has done.

    Attributes:
      manifest: where it is; "" if the work was stopped.
      objects, bytes: of the source, as far as wanted.
      whole: objects that were there and verified before.
      copied, copied_bytes: what went over the line.
      seconds: of copying.
      states: number of objects by state, other than verified.
      first_bad: (state, key, detail) of some of them.
    """

    manifest: str = ""
    objects: int = 0
    bytes: int = 0
    whole: int = 0
    copied: int = 0
    copied_bytes: int = 0
    seconds: float = 0.0
    states: Counter[str] = field(default_factory=Counter)
    first_bad: list[tuple[str, str, str]] = field(default_factory=list)


def manifest_path(target: Path) -> Path:
    """Where the manifest of a destination lies: beside it; of a whole bucket in it."""
    if store.is_remote(target) and not store.place(target)[2]:
        return target / f"{store.place(target)[1]}.manifest.parquet"
    return target.with_name(f"{target.name}.manifest.parquet")


def default_work(target: Path) -> Path:
    """The work folder that the same command finds again: beside a destination on a disk; in the
    present folder for one in a store.
    """
    if store.is_remote(target):
        digest = files.sha256_json(store.url(target))[:8]
        return Path(f"{target.name}-{digest}.mirror").absolute()
    return target.with_name(f"{target.name}.mirror")


def mirror(
    ends: Ends,
    executor: Executor,
    stop: threading.Event,
    *,
    work: Path | None = None,
    settings: dict[str, Any] | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> Outcome:
    """Copies what is missing in the target, and verifies all of it.

    Args:
      ends: source and target.
      executor: what copies.
      stop: ends the work when set; the same call goes on.
      work: the work folder, seen by all who copy; `default_work` if None.
      settings: more that decides what is copied, recorded in the work folder.
      wanted: which keys are copied; all if None.

    Raises:
      UserError: of a place as a whole; what is copied is kept.
    """
    work = work or default_work(ends.target)
    checks.check(ends, work)
    with hold(work, ends, settings or {}):
        counts = plan(work, ends, wanted)
        checks.check_room(ends, counts["copy_bytes"])
        outcome = _copy(work, ends, executor, stop, counts)
        if stop.is_set():
            return outcome
        outcome.manifest = _assemble(work, ends, outcome)
        ends.open()[1].tidy()
    files.remove(work)
    return outcome


@contextlib.contextmanager
def hold(work: Path, ends: Ends, settings: dict[str, Any]) -> Iterator[None]:
    """Keeps the work folder to this process, begun for these ends.

    Raises:
      UserError: another process has it, or it was begun for others.
    """
    busy = (
        f"Another process copies to {store.url(ends.target)} now (it works in {work}). Wait for it,"
        " or give another destination."
    )
    between = {"source": store.url(ends.source), "target": store.url(ends.target)}
    with locks.hold(work, busy):
        try:
            work_folder.begin(work, between | settings)
        except work_folder.OtherSettings as error:
            raise UserError(str(error).replace("another `out`", "another `work`")) from None
        try:
            yield
        except UserError:
            if not (work / "plan.json").is_file():  # nothing was done yet
                files.remove(work)
            raise


def plan(work: Path, ends: Ends, wanted: Callable[[str], bool] | None) -> dict[str, Any]:
    """The plan of a work folder, made if it is not there; its counts."""
    source, target = ends.open()
    if (work / "plan.json").is_file():
        log.info("mirror: the work in %s goes on", work)
    else:
        log.info("listing %s", source.name)
    before = _fetched(manifest_path(ends.target), work / "before.parquet")
    return planning.make(
        work,
        source,
        target,
        wanted=wanted,
        before=before,
        # two sources may show the same time or ETag for what is not the same
        same_source=before is not None and manifest.source(before) == store.url(ends.source),
        promised=_fetched(manifest_path(ends.source), work / "promised.parquet"),
    )


def left(ends: Ends, wanted: Callable[[str], bool] | None) -> int:
    """How many objects a mirror would have to look at now."""
    with tempfile.TemporaryDirectory() as folder:
        counts = plan(Path(folder), ends, wanted)
    return int(counts["copy"] + counts["bad"])


def _fetched(path: Path, to: Path) -> Path | None:
    """A manifest on a disk; None where there is none."""
    if not store.is_file(path):
        return None
    if store.is_remote(path):
        with files.replacing(to) as partial, partial.open("wb") as file:
            store.fetch(path, file)
    else:
        to = path
    manifest.check(to, store.url(path))
    return to


def _copy(
    work: Path, ends: Ends, executor: Executor, stop: threading.Event, counts: dict[str, Any]
) -> Outcome:
    """Runs the units, those of the descriptions last."""
    outcome = Outcome(objects=counts["objects"], bytes=counts["bytes"], whole=counts["whole"])
    progress = Throughput(counts["copy"], counts["copy_bytes"])
    notes = Notes(work)
    function = functools.partial(copying.copy_group, ends)
    for last in (False, True):
        units = 0
        for group in planning.groups(work, last):
            units += 1
            if notes.is_committed(group.name):
                progress.done_before(notes.read(group.name))
        found = (Unit(group.name, group) for group in planning.groups(work, last))
        for _, note in executor.run(
            work, function, found, stop, aside=_aside, at_most=max(units, 1)
        ):
            outcome.copied += note.get("copied", 0)
            outcome.copied_bytes += note.get("copied_bytes", 0)
            progress.add(note)
        if stop.is_set():
            break
    outcome.seconds = progress.seconds()
    return outcome


def _aside(unit: Unit[PlanGroup], reason: str) -> Note:
    return {"aside": reason}


def _assemble(work: Path, ends: Ends, outcome: Outcome) -> str:
    """Writes the manifest; counts what is not verified."""
    streams = [manifest.rows(work / "kept.parquet")]
    streams += [_results(work, last) for last in (False, True)]
    path = manifest_path(ends.target)
    local = work / "manifest.parquet" if store.is_remote(path) else path
    others = manifest.rows(work / "others.parquet")
    manifest.write(
        local, [others, *(_telling(stream, outcome) for stream in streams)], store.url(ends.source)
    )
    if store.is_remote(path):
        size = local.stat().st_size
        place = open_place(path, path.name)
        source = LocalPlace(local, path.name)
        entry = source.entry(path.name)
        assert entry is not None
        if size > WHOLE:
            place.write_large(entry, lambda at: source.blocks(entry, at), [], True)
        else:
            data = local.read_bytes()
            digests = Digests([0])
            digests.update(data)
            collections.deque(place.write(path.name, data, digests, True), 0)
    return store.url(path)


def _results(work: Path, last: bool) -> Iterator[tuple]:
    notes = Notes(work)
    for group in planning.groups(work, last):
        if reason := notes.read(group.name).get("aside"):
            for row in copying.planned(work, group):
                yield manifest.Row(row.key, row.bytes, "", "failed", reason, row.stamp)
        else:
            yield from manifest.rows(copying.results(work, group))


def _telling(stream: Iterator[tuple], outcome: Outcome) -> Iterator[tuple]:
    for row in map(manifest.Row._make, stream):
        if row.state != manifest.VERIFIED:
            outcome.states[row.state] += 1
            if len(outcome.first_bad) < TOLD:
                outcome.first_bad.append((row.state, row.key, row.detail))
        yield row


class Throughput:
    """Log lines of a copy: share, MB/s, objects/s, time left.

    Args:
      objects, total: of all that is to copy, and their bytes.
    """

    def __init__(self, objects: int, total: int, every_seconds: float = 5.0):
        self.objects, self.total, self.every_seconds = objects, total, every_seconds
        self.start = self.last = time.monotonic()
        self.done = self.done_bytes = self.new = self.new_bytes = self.bad = 0

    def done_before(self, note: Note) -> None:
        """Counts a unit of an earlier run."""
        self.done += note.get("objects", 0)
        self.done_bytes += note.get("bytes", 0)

    def seconds(self) -> float:
        """Since the start."""
        return max(time.monotonic() - self.start, 1e-9)

    def add(self, note: Note) -> None:
        """Counts a unit; logs at most every few seconds, and at the end."""
        self.done_before(note)
        self.new += note.get("objects", 0)
        self.new_bytes += note.get("bytes", 0)
        self.bad += note.get("bad", 0)
        now = time.monotonic()
        if now - self.last < self.every_seconds and self.done < self.objects:
            return
        self.last, seconds = now, self.seconds()
        left = (self.total - self.done_bytes) / (self.new_bytes / seconds) if self.new_bytes else 0
        log.info(
            "mirror: %d/%d objects, %.2f/%.2f GB (%.0f %%), %.1f MB/s, %.0f objects/s, ETA %s%s",
            self.done,
            self.objects,
            self.done_bytes / 1e9,
            self.total / 1e9,
            100 * self.done / max(self.objects, 1),
            self.new_bytes / seconds / 1e6,
            self.new / seconds,
            duration(left),
            f"; {counted(self.bad, 'problem')}" if self.bad else "",
        )

"""A unit of a mirror: some hundred MB of objects, copied and verified; in any process that sees the
work folder.
"""

import contextlib
import functools
import itertools
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq

from phenomjax.engine.units import Note
from phenomjax.prepare.mirror import manifest, planning
from phenomjax.prepare.mirror.ends.digests import Digests
from phenomjax.prepare.mirror.ends.opening import open_place
from phenomjax.prepare.mirror.ends.places import (
    WHOLE,
    Buffer,
    Content,
    Entry,
    Place,
    Steps,
    Taken,
    Trouble,
    check_name,
)
from phenomjax.prepare.mirror.planning import PlanGroup, Planned
from phenomjax.prepare.mirror.rate import Turns

THREADS = 16  # bundles of small objects at a time in a process
BUNDLE = 1 << 20  # bytes of small objects that a thread brings to a disk together
LARGE_THREADS = 2
READS = 4  # of an object over a line that shows no checksum, until two agree


@dataclass(frozen=True)
class Ends:
    """What a mirror goes between.

    Attributes:
      source, target: folders, or files where `single` is the key.
      single: the name of a single file in the manifest.
      overwrite: what differs in the target is replaced.
      rate: bytes a second over all workers; 0: no bound.
    """

    source: Path
    target: Path
    single: str = ""
    overwrite: bool = False
    rate: float = 0.0

    def open(self) -> tuple[Place, Place]:
        """Both places."""
        return open_place(self.source, self.single), open_place(self.target, self.single)


def copy_group(ends: Ends, work: Path, group: PlanGroup) -> Note:
    """Copies the objects of a row group of the plan; what became of each is in
    `results/NAME.parquet`.
    """
    begun = work / "begun" / group.name
    before = _journals(begun)
    begun.mkdir(parents=True, exist_ok=True)
    with (begun / f"{socket.gethostname()}-{os.getpid()}").open("a") as journal:
        copy = _Copy(ends, work, before, journal)
        rows = [*copy.all(planned(work, group))]
    copy.target.flush()
    rows.sort(key=lambda row: row.key)
    with manifest.Writer(results(work, group)) as writer:
        for row in rows:
            writer.add(row)
    bad = [row for row in rows if row.state != manifest.VERIFIED]
    return {
        "objects": len(rows),
        "bytes": sum(row.bytes for row in rows),
        "copied": copy.copied["objects"],
        "copied_bytes": copy.copied["bytes"],
        "bad": len(bad),
    }


def _journals(folder: Path) -> dict[str, manifest.Row] | None:
    """What earlier tries of a unit have verified; None where there were none."""
    if not folder.is_dir():
        return None
    found = dict[str, manifest.Row]()
    for path in folder.iterdir():
        for line in path.read_text("utf-8", errors="replace").splitlines(keepends=True):
            with contextlib.suppress(ValueError, TypeError):  # cut off by a kill
                row = manifest.Row(*json.loads(line))
                found[row.key] = row
    return found


def planned(work: Path, group: PlanGroup) -> list[Planned]:
    """What a unit has to copy."""
    with pq.ParquetFile(work / "plan" / group.file) as file:
        return [Planned(*row) for row in manifest.group_rows(file, group.group, planning.SCHEMA)]


def results(work: Path, group: PlanGroup) -> Path:
    """Where the rows of a unit are."""
    return work / "results" / f"{group.name}.parquet"


class _Copy:
    """One try of a unit.

    Args:
      ends: of the mirror.
      work: the work folder.
      before: what earlier tries have verified; None for the first.
      journal: what this one does, for later ones.
    """

    def __init__(
        self, ends: Ends, work: Path, before: dict[str, manifest.Row] | None, journal: IO[str]
    ):
        self.ends, self.again, self.before, self.journal = ends, before is not None, before, journal
        self.source, self.target = ends.open()
        self.turns = Turns(work, ends.rate)
        self.copied, self._lock = Counter[str](), threading.Lock()

    def all(self, rows: list[Planned]) -> Iterator[manifest.Row]:
        small, large, room = list[list[Planned]](), list[list[Planned]](), 0
        for one in rows:
            if one.bytes > WHOLE:
                large.append([one])
            elif small and one.bytes <= room and len(small[-1]) < self.target.together:
                small[-1].append(one)
                room -= one.bytes
            else:
                small.append([one])
                room = BUNDLE - one.bytes
        for bundles, threads in ((small, THREADS), (large, LARGE_THREADS)):
            if not bundles:
                continue
            pool = ThreadPoolExecutor(min(threads, len(bundles)))
            try:
                yield from itertools.chain.from_iterable(pool.map(self._bundle, bundles))
            finally:  # an error of the whole place ends the rest
                pool.shutdown(cancel_futures=True)

    def _bundle(self, bundle: list[Planned]) -> list[manifest.Row]:
        """What becomes of some objects, each a step after the other."""
        left, rows = [self._steps(one) for one in bundle], list[manifest.Row]()
        try:
            while left:
                left = [steps for steps in left if not self._is_done(steps, rows)]
            with self._lock:
                self.journal.flush()
        finally:
            for steps in left:
                steps.close()
        return rows

    def _is_done(self, steps: Steps[manifest.Row], rows: list[manifest.Row]) -> bool:
        """Takes a step of an object; adds its row after the last."""
        try:
            next(steps)
            return False
        except StopIteration as end:
            rows.append(end.value)
        if rows[-1].state == manifest.VERIFIED:
            with self._lock:
                self.journal.write(json.dumps(rows[-1]) + "\n")
        return True

    def _verified_before(self, entry: Entry) -> manifest.Row | None:
        """The row of an earlier try, if the target is still as that left it."""
        row = (self.before or {}).get(entry.key)
        if row is None or row.source != entry.stamp:
            return None
        there = self.target.entry(entry.key)
        same = there is not None and (there.bytes, there.stamp) == (row.bytes, row.target)
        return row if same else None

    def _steps(self, planned: Planned) -> Steps[manifest.Row]:
        entry = Entry(planned.key, planned.bytes, planned.stamp)
        row = manifest.Row(entry.key, entry.bytes, source=entry.stamp)
        there = Entry(entry.key, planned.there, planned.there_stamp)
        ours = planned.ours
        try:
            check_name(entry.key, self.target.has_folders)
            if (known := self._verified_before(entry)) is not None:
                return known
            if planned.there < 0:
                found = self.target.entry(entry.key) if self.again or entry.bytes > WHOLE else None
                if found is None:
                    try:
                        return (yield from self._copy(row, entry, planned.sha256, replace=False))
                    except Taken:
                        found = self.target.entry(entry.key)
                # what has come since the plan, with this size, is of a copy that was killed
                there = found or there
                ours = self.again and there.bytes == entry.bytes
            return (yield from self._compare(row, entry, planned.sha256, there, ours))
        except Trouble as trouble:
            return row._replace(state=trouble.state, detail=trouble.detail, target=trouble.target)

    def _copy(
        self, row: manifest.Row, entry: Entry, sha256: str, *, replace: bool
    ) -> Steps[manifest.Row]:
        if entry.bytes <= WHOLE:
            data, digests = self._read(entry, sha256)
            stamp = yield from self.target.write(entry.key, data, digests, replace)
        else:
            stamp, digests = self._copy_large(entry, sha256, replace)
        with self._lock:
            self.copied["objects"] += 1
            self.copied["bytes"] += entry.bytes
        return row._replace(sha256=digests.sha256.hexdigest(), target=stamp)

    def _copy_large(self, entry: Entry, sha256: str, replace: bool) -> tuple[str, Digests]:
        etags, came = self._stamps(entry, sha256), set[str]()
        for _ in range(READS):
            blocks = functools.partial(self._blocks, entry)
            stamp, digests = self.target.write_large(entry, blocks, etags, replace)
            if self._is_right(entry, digests, sha256, set()):
                return stamp, digests
            if not sha256:
                came.add(self._digests(self.source, entry).sha256.hexdigest())
                if digests.sha256.hexdigest() in came:
                    return stamp, digests
            replace = True  # what is there is ours, and not what is in the source
        raise _damaged(sha256, stamp)

    def _blocks(self, entry: Entry, start: int = 0) -> Iterator[Buffer]:
        for block in self.source.blocks(entry, start):
            self.turns.take(len(block))
            yield block

    def _read(self, entry: Entry, sha256: str) -> tuple[Content, Digests]:
        """A small object, as it is in the source whatever the line did to it."""
        if entry.stamp == "folder":
            return b"", Digests()
        seen = set[str]()
        for _ in range(READS):
            self.turns.take(entry.bytes)
            data = self.source.read(entry)
            digests = Digests.proving(
                self._stamps(entry, sha256), entry.bytes, self.target.parts(entry.bytes)
            )
            digests.update(data)
            if self._is_right(entry, digests, sha256, seen):
                return data, digests
        raise _damaged(sha256)

    def _is_right(self, entry: Entry, digests: Digests, sha256: str, seen: set[str]) -> bool:
        """Whether bytes are those of the source: by its manifest, by its ETag, by TLS, or because
        they came twice.
        """
        digest = digests.sha256.hexdigest()
        if sha256:
            return digest == sha256
        if self.source.sure or digests.prove(entry.stamp) or digest in seen:
            return True
        seen.add(digest)
        return False

    def _stamps(self, entry: Entry, sha256: str) -> list[str]:
        """ETags that are needed to know the bytes of the source."""
        return [] if self.source.sure or sha256 else [entry.stamp]

    def _digests(self, place: Place, entry: Entry, stamps: Iterable[str] = ()) -> Digests:
        digests = Digests.proving(stamps, entry.bytes)
        for block in [place.read(entry)] if entry.bytes <= WHOLE else place.blocks(entry):
            self.turns.take(len(block))
            digests.update(block)
        return digests

    def _compare(
        self, row: manifest.Row, entry: Entry, sha256: str, there: Entry, ours: bool
    ) -> Steps[manifest.Row]:
        """Verifies what is in the target already, or replaces it."""
        if (entry.stamp == "folder") != (there.stamp == "folder"):
            return row._replace(state="failed", detail="is a file here and a folder there")
        if there.bytes == entry.bytes:
            if entry.stamp == "folder":
                return row._replace(target="folder")
            digests = self._source_digests(entry, sha256, there)
            same = digests.prove(there.stamp)
            if not same:
                same = self._digests(self.target, there).sha256.digest() == digests.sha256.digest()
            if same:
                return row._replace(sha256=digests.sha256.hexdigest(), target=there.stamp)
        if self.ends.overwrite or ours:
            return (yield from self._copy(row, entry, sha256, replace=True))
        detail = f"{there.bytes:,} bytes there, {entry.bytes:,} here"
        if there.bytes == entry.bytes:
            detail = f"other content of the same size, {entry.bytes:,} bytes"
        return row._replace(state=manifest.DIFFERS, detail=f"is there already: {detail}")

    def _source_digests(self, entry: Entry, sha256: str, there: Entry) -> Digests:
        """Digests of the source that may prove the ETag of the target."""
        seen = set[str]()
        for _ in range(READS):
            stamps = [*self._stamps(entry, sha256), there.stamp]
            digests = self._digests(self.source, entry, stamps)
            if self._is_right(entry, digests, sha256, seen):
                return digests
        raise _damaged(sha256)


def _damaged(sha256: str, target: str = "") -> Trouble:
    text = f"came with other bytes each of {READS} times"
    if sha256:
        text = f"is not what the manifest of the source says (sha256 {sha256[:12]})"
    return Trouble("damaged", text, target)

"""What a mirror has to copy: source, destination and manifests are passed through once, side by
side, in the order of their keys; nothing is held but a row group.

WORK/plan/NNNNN.parquet    objects to copy; a row group is a unit
WORK/plan/last.parquet     the descriptions at the top of banks, which come when all else is there
WORK/kept.parquet          rows of the manifest for what is whole, or cannot be copied
WORK/others.parquet        rows of the earlier manifest for what this copy does not mean
WORK/plan.json             the counts; the plan is whole. A killed one is made again
"""

import fnmatch
import functools
import heapq
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.prepare.mirror import manifest
from phenomjax.prepare.mirror.ends.in_order import sorted_runs
from phenomjax.prepare.mirror.ends.places import Entry, Place
from phenomjax.system import files
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
OURS = ("failed", "damaged")  # of what we wrote ourselves, and wrong
UNIT_BYTES, UNIT_ROWS = 128 << 20, 2048  # of the first units; they double
DOUBLINGS, UNITS_OF_A_SIZE = 6, 512
GROUPS = 256  # units in a file of the plan
# What is looked at first in a bank or any Zarr: with it the copy is there.
DESCRIPTIONS = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("bytes", pa.int64()),
        ("stamp", pa.string()),
        ("sha256", pa.string()),
        ("there", pa.int64()),
        ("there_stamp", pa.string()),
        ("ours", pa.bool_()),
    ]
)


class Planned(NamedTuple):
    """An object to copy.

    Attributes:
      key, bytes, stamp: of the source.
      sha256: what the manifest of the source says it is, or "".
      there: bytes of what the target has by this name; -1: nothing.
      there_stamp: of that.
      ours: an earlier copy wrote it, and nobody since.
    """

    key: str
    bytes: int
    stamp: str
    sha256: str
    there: int
    there_stamp: str
    ours: bool


class PlanGroup(NamedTuple):
    """A unit: a row group of a file of the plan."""

    file: str
    group: int

    @property
    def name(self) -> str:
        return f"{self.file.removesuffix('.parquet')}-{self.group:03d}"


class OutOfOrder(Exception):
    """A listing is not sorted."""


class Patterns:
    """Keys that fit one of these patterns, in which "*" is any text.

    Attributes:
      unused: patterns that no key fitted so far.
    """

    def __init__(self, patterns: Sequence[str]):
        self.patterns, self.unused = tuple(patterns), set(patterns)

    def __call__(self, key: str) -> bool:
        fits = [one for one in self.patterns if fnmatch.fnmatchcase(key, one)]
        self.unused.difference_update(fits)
        return bool(fits)


def make(
    work: Path,
    source: Place,
    target: Place,
    *,
    wanted: Callable[[str], bool] | None,
    before: Path | None,
    same_source: bool,
    promised: Path | None,
) -> dict[str, Any]:
    """Writes the plan, if it is not there.

    Args:
      work: the work folder.
      source, target: the ends.
      wanted: which keys are copied; all if None.
      before: the manifest of an earlier copy to the target.
      same_source: that was from this source.
      promised: the manifest of the source.

    Returns:
      Counts: objects and bytes of the source, of what is to copy, and of what is whole already.
    """
    done = work / "plan.json"
    if done.is_file():
        return files.read_json(done)
    for in_any_order in (False, True):
        for old in ("plan", "results", "begun", "units"):
            files.remove(work / old)
        try:
            counts = _make(
                work, source, target, wanted, before, same_source, promised, in_any_order
            )
            files.write_json(done, counts, flush=True)
            return counts
        except OutOfOrder:
            log.info("a listing comes in no order: it is sorted on the disk")
    raise AssertionError("sorted runs are sorted")


def groups(work: Path, last: bool) -> Iterator[PlanGroup]:
    """The units in the order of their keys; those of the descriptions if `last`."""
    for name in files.names(work / "plan"):
        if name.endswith(".parquet") and (name == "last.parquet") == last:
            with pq.ParquetFile(work / "plan" / name) as file:
                count = file.num_row_groups
            yield from (PlanGroup(name, group) for group in range(count))


def _make(
    work: Path,
    source: Place,
    target: Place,
    wanted: Callable[[str], bool] | None,
    before: Path | None,
    same_source: bool,
    promised: Path | None,
    in_any_order: bool,
) -> dict[str, Any]:
    counts = {
        name: 0 for name in ("objects", "bytes", "copy", "copy_bytes", "whole", "folders", "bad")
    }
    check = functools.partial(_sorted_on_disk, scratch=work) if in_any_order else _sorted
    empty: Iterable[Any] = ()
    listed = source.entries(work) if source.lists or not promised else _promised(promised)
    sides = (
        check(_counted(listed)),
        check(target.entries(work)),
        map(manifest.Row._make, manifest.rows(before)) if before else empty,
        map(manifest.Row._make, manifest.rows(promised)) if promised else empty,
    )
    with (
        manifest.Writer(work / "kept.parquet") as kept,
        manifest.Writer(work / "others.parquet") as others,
        _PlanWriter(work / "plan") as plan,
    ):
        for key, (here, there, old, promise) in _side_by_side(*sides):
            meant = wanted is None or wanted(key)
            if here is None or not meant:
                # Of another selection, or gone from the source: what was verified stays so.
                if old is not None and (not meant or old.state == manifest.VERIFIED):
                    others.add(old)
                continue
            counts["objects"] += 1
            counts["bytes"] += here.bytes
            if here.state:
                counts["bad"] += 1
                kept.add(manifest.Row(key, here.bytes, "", here.state, here.detail))
            elif here.stamp == "folder" and not target.has_folders:
                counts["folders"] += 1
            elif old is not None and same_source and _is_whole(old, here, there, promise):
                counts["whole"] += 1
                kept.add(old)
            else:
                counts["copy"] += 1
                counts["copy_bytes"] += here.bytes
                plan.add(_planned(here, there, old, promise))
    if isinstance(wanted, Patterns) and wanted.unused:
        raise UserError(
            f"Nothing in {source.name} fits {' '.join(sorted(wanted.unused))} of `only`. Correct"
            " the pattern (names below the source, '*' is any text, '/' too), or leave it out."
        )
    if not counts["objects"]:
        raise UserError(
            f"There is nothing to copy in {source.name}: it is empty. Is it the right name, and is"
            " its disk there?"
        )
    return counts


def _promised(path: Path) -> Iterator[Entry]:
    """What a source has by its manifest."""
    for row in map(manifest.Row._make, manifest.rows(path)):
        if row.state == manifest.VERIFIED and not row.key.endswith("/"):
            yield Entry(row.key, row.bytes, "")


def _is_whole(
    old: manifest.Row, here: Entry, there: Entry | None, promise: manifest.Row | None
) -> bool:
    return (
        old.state == manifest.VERIFIED
        and there is not None
        and (old.bytes, old.source) == (here.bytes, here.stamp)
        and (old.bytes, old.target) == (there.bytes, there.stamp)
        # of sources that show no version
        and (promise is None or here.stamp != "" or old.sha256 == promise.sha256)
    )


def _planned(
    here: Entry, there: Entry | None, old: manifest.Row | None, promise: manifest.Row | None
) -> Planned:
    # A manifest of the source holds as long as the source is as it was when that was written.
    holds = (
        promise is not None
        and promise.state == manifest.VERIFIED
        and promise.bytes == here.bytes
        and here.stamp in (promise.target, "")
    )
    return Planned(
        here.key,
        here.bytes,
        here.stamp,
        promise.sha256 if promise is not None and holds else "",
        there.bytes if there else -1,
        there.stamp if there else "",
        bool(there and old and old.target and old.target == there.stamp and old.state in OURS),
    )


class _PlanWriter:
    """Divides rows into units and files."""

    def __init__(self, folder: Path):
        self.folder, self.units, self.bytes = folder, 0, 0
        self._file: manifest.Writer | None = None
        self._last = list[Planned]()

    def add(self, row: Planned) -> None:
        if row.key in DESCRIPTIONS:
            self._last.append(row)
            return
        if self._file is None:
            name = f"{self.units // GROUPS:07d}.parquet"
            self._file = manifest.Writer(self.folder / name, SCHEMA, 1 << 30).__enter__()
        self._file.add(row)
        self.bytes += row.bytes
        larger = 2 ** min(DOUBLINGS, self.units // UNITS_OF_A_SIZE)
        if self.bytes >= UNIT_BYTES * larger or len(self._file.held) >= UNIT_ROWS * larger:
            self._file.end_group()
            self.units, self.bytes = self.units + 1, 0
            if self.units % GROUPS == 0:
                self._close(None)

    def _close(self, error: BaseException | None) -> None:
        if self._file is not None:
            self._file.__exit__(type(error) if error else None, error, None)
            self._file = None

    def __enter__(self) -> "_PlanWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._close(error)
        if error is None and self._last:
            with manifest.Writer(self.folder / "last.parquet", SCHEMA) as last:
                for row in self._last:
                    last.add(row)


def _side_by_side(*sides: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    """(key, [item of each side or None]) for each key of sorted sides."""
    tagged = [_tagged(number, side) for number, side in enumerate(sides)]
    merged = heapq.merge(*tagged, key=itemgetter(0, 1))
    for key, items in itertools.groupby(merged, itemgetter(0)):
        found: list[Any] = [None] * len(sides)
        for _, number, item in items:
            found[number] = item
        yield key, found


def _tagged(number: int, side: Iterable[Any]) -> Iterator[tuple[str, int, Any]]:
    return ((item.key, number, item) for item in side)


def _sorted(entries: Iterator[Entry]) -> Iterator[Entry]:
    before = ""
    for entry in entries:
        if entry.key < before:
            raise OutOfOrder
        before = entry.key
        yield entry


def _sorted_on_disk(entries: Iterator[Entry], scratch: Path) -> Iterator[Entry]:
    return sorted_runs(entries, itemgetter(0), scratch)


def _counted(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Tells every few seconds how far a long listing is."""
    last, total = time.monotonic(), 0
    for number, entry in enumerate(entries, 1):
        total += entry.bytes
        yield entry
        if number % 1000 == 0 and time.monotonic() - last > 5.0:
            last = time.monotonic()
            log.info("listing: %d objects, %.1f GB so far", number, total / 1e9)

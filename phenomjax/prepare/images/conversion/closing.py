"""The end of a job: the images that are finished get their numbers and become a bank, by units.

A unit closes a plate: its finished images, with what the tables say of them, as rows of the bank's
metadata, and what was found. What is global then are counts of plates. Units pack shards of several
images, give shards their places in the bank, and delete what was staged. The driver holds plates,
and copies tables from file to file.
"""

import collections
import functools
import hashlib
import itertools
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data.images import bank
from phenomjax.data.images.metadata import METADATA_SCHEMA
from phenomjax.data.images.shards import Stored, pack
from phenomjax.data.zarr_files import Attributes
from phenomjax.engine import work_folder
from phenomjax.engine.units import REJECTED, Executor, Note, Notes, Unit
from phenomjax.prepare.images import findings, metadata, staleness
from phenomjax.prepare.images.conversion import job as jobs
from phenomjax.prepare.images.conversion.job import ImageJob, Target
from phenomjax.prepare.images.findings import Found
from phenomjax.prepare.images.metadata import Joiner, Value
from phenomjax.prepare.images.pixels import eight_bit
from phenomjax.prepare.images.pixels.percentiles import Plates, label
from phenomjax.prepare.images.pixels.raw_images import Numbers
from phenomjax.prepare.images.plan import read_images
from phenomjax.prepare.images.records import Finding, ImageKey
from phenomjax.system import files

log = logging.getLogger("phenomjax")
END = "end"  # folder of it in the work folder, with notes of its own; made anew at every end
IMAGES = 4096  # of a unit that packs shards, or gives them their places
WORTH = 10_000  # images that are worth another process of this machine
# of a row of a closed plate, behind what the bank keeps
_STORED = [("shard", pa.string()), ("place", pa.int64()), ("images", pa.int64())]
_SCHEMA = pa.schema([*METADATA_SCHEMA, *_STORED, ("stamp", pa.string())])


class Closing(NamedTuple):
    """A plate to close.

    Attributes:
      name: of its files.
      table: its images, relative to the work folder.
      images: how many.
      numbers: of its percentiles.
      joiner: of the tables that describe it.
      constants: of --set.
    """

    name: str
    table: str
    images: int
    numbers: Numbers
    joiner: Joiner | None
    constants: Mapping[str, Value]


@dataclass(frozen=True)
class Closed:
    """All that is finished.

    Attributes:
      plates: names of the files of each plate, and how many images are in it.
      rejected: all that is bad, in the order of the plan.
      remarks: what else is to be known, in the order of the plan.
    """

    plates: dict[str, int]
    rejected: Found
    remarks: Found

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(self.plates.values())


def close(
    job: ImageJob, numbers: Plates, joiner: Joiner | None, constants: Mapping[str, Value]
) -> Closed | None:
    """Closes all plates; None after a stop.

    Args:
      job: all of whose units are committed.
      numbers: of its percentiles.
      joiner: of the tables that describe wells.
      constants: what holds for all images of which the tables say nothing.
    """
    end = job.work / END
    files.remove(end)
    plates = {f"plate-{i}": plate for i, plate in enumerate(job.plan.plates)}

    def units() -> Iterator[Unit[Closing]]:
        for name, plate in plates.items():
            table = job.plan.path(plate).relative_to(job.work).as_posix()
            own = joiner.of_plate(plate.place) if joiner else None
            numbered = numbers[plate.place]
            yield Unit(name, Closing(name, table, plate.images, numbered, own, constants))

    images: dict[str, int] = {}
    constant: collections.Counter[str] = collections.Counter()
    used: set[tuple[str, ...]] = set()
    places: set[tuple[str, ...]] = set()
    for name, note in job.executor.run(
        end,
        functools.partial(close_plate, job.target, job.work),
        units(),
        job.stop,
        at_most=1 + job.plan.count // WORTH,
    ):
        images[name] = note["images"]
        constant.update(note["constant"])
        used.update(map(tuple, note["rows"]))
        places.update(map(tuple, note["places"]))
    if job.stop.is_set():
        return None

    def tables(kind: str) -> list[Path]:
        paths = (end / f"{name}.{kind}" for name in plates)
        return [path for path in paths if path.is_file()]

    count = sum(images.values())
    empty = list(_empty_channels(job, constant, count))
    remarks = job.plan.remarks.plus(job.ranges.flat, *tables(findings.REMARKS), empty)
    if joiner and count:
        no_row = Found(*tables("no_row.parquet"))
        _tell(joiner, used, no_row, count)
        remarks = remarks.plus(*no_row.parts, joiner.without_images(used, places))
    return Closed(
        {name: images[name] for name in plates},
        job.plan.rejected.plus(*tables(findings.REJECTED)),
        remarks,
    )


def _tell(joiner: Joiner, used: set[tuple[str, ...]], no_row: Found, count: int) -> None:
    log.info("%s: %d of %d rows have images", joiner.path, len(used), len(joiner.rows))
    if no_row:
        names = ", ".join("/".join(part for part in one.key if part) for one in no_row.first(3))
        log.warning(
            "%d of %d images have no row in %s, e.g. %s; their columns stay empty",
            len(no_row),
            count,
            joiner.path,
            names,
        )


def _empty_channels(job: ImageJob, constant: Mapping[str, int], count: int) -> Iterator[Finding]:
    """Channels that have one value in each of all images."""
    for channel in job.plan.channels:
        if count and constant.get(channel) == count:
            detail = (
                f"channel {channel} has one value everywhere in each of the {count} images of"
                " the bank: there is nothing to learn from it. Look at its files, or leave it"
                " out with --channels and another --out"
            )
            yield Finding(findings.CONSTANT_CHANNEL, detail, "")


def close_plate(target: Target, work: Path, end: Path, plate: Closing) -> Note:
    """Writes the rows of the finished images of a plate, and what was found (a unit function)."""
    notes, table = Notes(work), work / plate.table
    images = read_images(table, 0, plate.images)
    rejected: list[Finding] = []
    remarks: list[Finding] = []
    constant: collections.Counter[str] = collections.Counter()
    keys: list[ImageKey] = []
    columns: dict[str, list] = {name: [] for name in _SCHEMA.names}
    for unit in jobs.units_of(target, work, table, plate.numbers):
        note = notes.read(unit.name)
        checksums = note[jobs.CHECKSUMS]
        rejected.extend(map(Finding.from_json, note[REJECTED]))
        remarks.extend(map(Finding.from_json, note.get(jobs.REMARKS, [])))
        constant.update(note.get(jobs.CONSTANT, {}))
        places = jobs.stored([*checksums], note.get(jobs.STAGED, target.staged))
        where = dict(zip(checksums, places, strict=True))
        for entry in itertools.islice(images, unit.argument.images):
            row = jobs.row_of(target, entry.stamp, plate.numbers)
            if row not in checksums:
                continue
            keys.append(entry.key)
            columns["source"].append(";".join(entry.files))
            columns["checksum"].append(checksums[row])
            columns["shard"].append(str(where[row].shard))
            columns["place"].append(where[row].place)
            columns["images"].append(where[row].images)
            columns["stamp"].append(entry.stamp)
    described, _ = metadata.describe(keys, plate.joiner, plate.constants)
    columns |= described | {n: [key[i] for key in keys] for i, n in enumerate(ImageKey._fields)}
    path = end / f"{plate.name}.parquet"
    with files.replacing(path, shared=True) as partial:
        pq.write_table(pa.table(columns, schema=_SCHEMA), partial)
    joiner = plate.joiner
    for kind, found in (
        (findings.REJECTED, rejected),
        (findings.REMARKS, remarks),
        ("no_row.parquet", joiner.no_rows(keys) if joiner else []),
    ):
        findings.write_some(end / f"{plate.name}.{kind}", found)
    rows = {joiner.row_key(key) for key in keys} if joiner else set()
    return {
        "images": len(keys),
        "constant": dict(constant),
        "rows": sorted(map(list, rows & joiner.rows.keys())) if joiner else [],
        "places": sorted({joiner.place(row) for row in rows}) if joiner else [],
    }


def assemble(job: ImageJob, closed: Closed, numbers: Plates, attributes: Attributes) -> bool:
    """Makes the bank in the work folder; may be killed and repeated. False after a stop.

    Args:
      job: the job.
      closed: of `close`.
      numbers: of its percentiles, recorded.
      attributes: more to record in the bank.
    """
    end, room = job.work / END, job.target.images_per_shard
    recorded = {"intensity": _recorded_intensity(job, numbers)} | attributes
    if room > 1:
        pack_all = functools.partial(pack_shards, job.work, room, job.chunks_per_image)
        _run(job, end, pack_all, _units("pack", closed, room))
    if job.stop.is_set():
        return False

    def make(path: Path) -> None:
        job.create(path, closed.count, recorded, room)
        place = functools.partial(place_shards, job.work, room, path)
        _run(job, end, place, _units("place", closed, room))
        if job.stop.is_set():
            raise _Stopped
        bank.write_metadata(path, _tables(end, closed, METADATA_SCHEMA.names))
        if closed.rejected:
            findings.write(path / findings.REJECTED, closed.rejected)
        if closed.remarks:
            findings.write(path / findings.REMARKS, closed.remarks)
        stamps = (table["stamp"].to_pylist() for table in _tables(end, closed, ["stamp"]))
        staleness.record(path, itertools.chain.from_iterable(stamps))

    try:
        work_folder.assemble(job.work, make, job.out)
    except _Stopped:
        return False
    return True


def hand_over(job: ImageJob, closed: Closed, here: Executor) -> None:
    """Gives the bank its name; may be killed and repeated.

    Args:
      job: the job, whose executor is closed: what it has moves.
      closed: of `close`.
      here: deletes what was staged, in this machine.
    """

    def empty(left: Path) -> None:
        if closed.count > WORTH:
            units = (Unit(f"clear-{digit:x}", f"{digit:x}") for digit in range(16))
            for _ in here.run(left, clear, units, job.stop):
                pass

    work_folder.hand_over(job.work, job.out, empty=empty)


class _Stopped(Exception):
    pass


def _run(job: ImageJob, work: Path, function, units: Iterator[Unit]) -> None:
    at_most = 1 + job.plan.count // WORTH
    for _ in job.executor.run(work, function, units, job.stop, at_most=at_most):
        pass


def _tables(end: Path, closed: Closed, columns: Sequence[str]) -> Iterator[pa.Table]:
    for name, count in closed.plates.items():
        if count:
            yield pq.read_table(end / f"{name}.parquet", columns=list(columns))


class Rows(NamedTuple):
    """Rows of closed plates that follow each other in the bank.

    Attributes:
      shard: number of the shard that the first of them begins.
      parts: (name of the plate, first row, count) of each.
    """

    shard: int
    parts: list[tuple[str, int, int]]


def _units(kind: str, closed: Closed, room: int) -> Iterator[Unit[Rows]]:
    """All rows, the shards of some thousand images a unit."""
    shards = max(IMAGES // room, 1)
    parts: list[tuple[str, int, int]] = []
    number, left = 0, shards * room
    for name, rows in closed.plates.items():
        first = 0
        while first < rows:
            count = min(rows - first, left)
            parts.append((name, first, count))
            first, left = first + count, left - count
            if not left:
                yield Unit(f"{kind}-{number}", Rows(number * shards, parts))
                number, left, parts = number + 1, shards * room, []
    if parts:
        yield Unit(f"{kind}-{number}", Rows(number * shards, parts))


def _shards(end: Path, rows: Rows, room: int) -> Iterator[tuple[int, list[Stored]]]:
    """Number of each shard of the bank, and where its images are staged."""
    images: list[Stored] = []
    number = rows.shard
    for name, first, count in rows.parts:
        table = pq.read_table(end / f"{name}.parquet", columns=["shard", "place", "images"])
        columns = [column.to_pylist() for column in table.slice(first, count).columns]
        for shard, place, held in zip(*columns, strict=True):
            images.append(Stored(Path(shard), place, held))
            if len(images) == room:
                yield number, images
                number, images = number + 1, []
    if images:
        yield number, images


def _packed(images: Sequence[Stored], room: int) -> Path:
    """The file of a shard of several images, by what is in it."""
    name = hashlib.sha256(repr((room, images)).encode()).hexdigest()[:32]
    return Path("packed", name[:2], name)


def pack_shards(work: Path, room: int, chunks: int, end: Path, rows: Rows) -> Note:
    """Packs the shards of some images (a unit function)."""
    for _, images in _shards(end, rows, room):
        target = work / _packed(images, room)
        if target.is_file():
            continue
        staged = [one._replace(shard=work / one.shard) for one in images]
        with files.replacing(target, shared=True, flush=True) as partial:
            pack(partial, staged, room, chunks)
    return {}


def place_shards(work: Path, room: int, path: Path, end: Path, rows: Rows) -> Note:
    """Gives the shards of some images their places in a bank (a unit function)."""
    for number, images in _shards(end, rows, room):
        shard = images[0].shard if room == 1 else _packed(images, room)
        files.link(work / shard, bank.shard_path(path, number))
    return {}


def clear(work: Path, digit: str) -> Note:
    """Deletes a sixteenth of what was staged and packed (a unit function)."""
    for kind in ("staged", "packed"):
        for folder in (work / kind).glob(f"{digit}*"):
            shutil.rmtree(folder, ignore_errors=True)
    return {}


def _recorded_intensity(job: ImageJob, numbers: Plates) -> Attributes:
    rule = job.target.rule
    recorded: Attributes = {
        "rule": eight_bit.text(rule),
        "source_dtype": job.target.source.dtype,
    }
    if job.plan.largest_value is not None:
        recorded["source_largest_value"] = job.plan.largest_value
    if rule.kind != "keep":
        recorded["numbers"] = {
            label(place): dict(zip(job.plan.channels, pairs, strict=True))
            for place, pairs in numbers.items()
            if pairs
        }
    return recorded

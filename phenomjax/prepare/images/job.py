"""The work between a plan and a bank: percentiles, shards, and the end; can be killed at any time
and run again.

It works in OUT/.prepare. A unit (phenomjax.engine) is the images of a well. Each image is a shard
of the bank `staged`, whose row there is a digest of its files and of what was done to them; the
unit's note has the checksums. In the end the shards get the numbers of the bank's order, so a
rejected image leaves no hole, and the folder is the same however often the job was interrupted.
"""

import functools
import hashlib
import itertools
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from phenomjax.data.images import bank
from phenomjax.data.zarr_files import Attributes
from phenomjax.engine import work_folder
from phenomjax.engine.units import REJECTED, Executor, Note, Notes, Unit
from phenomjax.prepare.images import eight_bit, metadata, raw_images
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan, RejectedImage
from phenomjax.prepare.images.raw_images import BadFile, Numbers, RawImages
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
BLOCK = 32  # images whose histograms are added up before they are written down
LARGEST_UNIT = 16  # images
STAGED_ROWS = 2**60  # rows of the staging array
Plate = tuple[str | None, ...]
Plates = dict[Plate, Numbers]
Known = Mapping[str, Mapping[str, tuple[int, int]]]  # by label of the plate, and by channel


class Conversion(NamedTuple):
    """An image to convert.

    Attributes:
      row: where it goes in the staging array.
      files: of the image.
      numbers: (low, high) of each channel, None when pixels are kept.
    """

    row: int
    files: ImageFiles
    numbers: Numbers


class Block(NamedTuple):
    """Images whose histograms are added up, and the name of that unit."""

    name: str
    images: list[ImageFiles]


class Finished(NamedTuple):
    """What the notes of all units say.

    Attributes:
      checksums: {row in the staging array: checksum of the sources}, in the order of the plan.
      rejected: all that is bad, in the order of the plan.
    """

    checksums: dict[int, str]
    rejected: list[RejectedImage]


class ImageJob:
    """One run of the work.

    Args:
      out: the bank's folder.
      work: the work folder in it, begun.
      plan: what there is to do.
      source: where images come from; size and dtype are those of the bank.
      rule: how pixels become 8-bit.
      chunk: height and width of the inner chunks.
      codec: one of bank.CODECS.
      executor: what does the units.
      strict: raise at the first bad image.
      stop: ends the work early when set.
    """

    def __init__(
        self,
        out: Path,
        work: Path,
        plan: ImagePlan,
        source: RawImages,
        rule: eight_bit.Rule,
        *,
        chunk: int,
        codec: str,
        executor: Executor,
        strict: bool,
        stop: threading.Event,
    ):
        self.out, self.work, self.plan, self.source, self.rule = out, work, plan, source, rule
        self.chunk, self.codec, self.executor = chunk, codec, executor
        self.strict, self.stop, self.notes = strict, stop, Notes(work)
        self.dtype = source.dtype if rule.kind == "keep" else "uint8"
        self._create(work / "staged", STAGED_ROWS, {})
        # of an end that was killed: the source may have changed since, and the order with it
        files.remove(work_folder.result_path(work, out))
        for name in ("images", "metadata.parquet", "rejected.parquet", "zarr.json"):
            files.remove(out / name)

    def _create(self, path: Path, count: int, attributes: Attributes) -> None:
        shape = (count, *self.source.size, len(self.plan.channels))
        bank.create_bank(
            path,
            shape,
            self.dtype,
            self.plan.channels,
            attributes=attributes,
            chunk=self.chunk,
            codec=self.codec,
        )

    def intensity_numbers(self, known: Known) -> Plates:
        """The numbers of the rule for each (experiment, plate); {} after a stop.

        Args:
          known: percentiles of an earlier bank, {plate label: {channel: (low, high)}}; those plates
            are not counted again.
        """
        plates: dict[Plate, list[ImageFiles]] = {}
        for entry in self.plan.entries:
            plates.setdefault(entry.key[:2], []).append(entry)
        if self.rule.kind == "keep":
            return dict.fromkeys(plates)
        if self.rule.kind == "range":
            numbers = [(int(self.rule.low), int(self.rule.high))] * len(self.plan.channels)
            return dict.fromkeys(plates, numbers)
        found: Plates = {}
        waiting: dict[Plate, tuple[Path, list[Unit[Block]]]] = {}
        for plate, entries in plates.items():
            before = known.get(_label(plate), {})
            if set(self.plan.channels) <= before.keys():
                pairs = (before[channel] for channel in self.plan.channels)
                found[plate] = [(low, high) for low, high in pairs]
                continue
            units = []
            for images in (entries[i : i + BLOCK] for i in range(0, len(entries), BLOCK)):
                name = f"histogram-{self._digest([image.stamp for image in images])}"
                units.append(Unit(name, Block(name, images)))
            name = self._digest([unit.name for unit in units])
            waiting[plate] = (self.work / "percentiles" / f"{name}.json", units)
        left = (units for path, units in waiting.values() if not path.is_file())
        self._count(list(itertools.chain.from_iterable(left)))
        if self.stop.is_set():
            return {}
        return found | {plate: self._percentiles(*made) for plate, made in waiting.items()}

    def _count(self, units: list[Unit[Block]]) -> None:
        sizes = {unit.name: len(unit.argument.images) for unit in units}
        for name in sizes:
            if not histogram_path(self.work, name).is_file():  # the plate was other images then
                self.notes.forget(name)
        done = sum(size for name, size in sizes.items() if self.notes.is_committed(name))
        progress = Progress("intensity percentiles", sum(sizes.values()), "images", done)
        count = functools.partial(count_pixels, self.source)
        for name, note in self.executor.run(self.work, count, units, self.stop):
            self._check_strict(note)
            progress.update(sizes[name])

    def _percentiles(self, path: Path, units: list[Unit[Block]]) -> Numbers:
        blocks = [histogram_path(self.work, unit.name) for unit in units]
        if not path.is_file():
            total = np.zeros((len(self.plan.channels), 65536), np.int64)
            for block in blocks:
                with np.load(block) as file:
                    total += file["counts"]
            files.write_text(
                path,
                json.dumps([eight_bit.percentile_range(counts, self.rule) for counts in total]),
            )
        for block in blocks:
            block.unlink(missing_ok=True)
        return [(low, high) for low, high in json.loads(path.read_text())]

    def _digest(self, parts: list[object]) -> str:
        described = (parts, self.source.size, self.source.dtype, self.source.planes, self.rule)
        return hashlib.sha256(repr(described).encode()).hexdigest()

    def conversions(self, numbers: Plates) -> list[Conversion]:
        """All images, in the order of the plan."""
        found = []
        for entry in self.plan.entries:
            plate = numbers[entry.key[:2]]
            row = int(self._digest([entry.stamp, plate])[:15], 16)
            found.append(Conversion(row, entry, plate))
        return found

    def write_images(self, wanted: Sequence[Conversion]) -> Finished:
        """Converts what is not finished yet."""
        done = sum(map(self._begin, units_of(wanted)))
        progress = Progress("prepare images", len(wanted), "images", done)
        write = functools.partial(write_shards, self.source)
        for _, note in self.executor.run(self.work, write, units_of(wanted), self.stop):
            self._check_strict(note)
            progress.update(len(note["checksums"]) + len(note[REJECTED]))
        found = Finished({}, list(self.plan.rejected))
        for unit in units_of(wanted):
            if self.notes.is_committed(unit.name):
                note = self.notes.read(unit.name)
                found.checksums.update((int(row), text) for row, text in note["checksums"].items())
                found.rejected.extend(RejectedImage.from_json(bad) for bad in note[REJECTED])
        return found

    def _begin(self, unit: Unit[list[Conversion]]) -> int:
        """Images of a unit that are finished; one with bad images is done again, for they may have
        been mended.
        """
        if not self.notes.is_committed(unit.name):
            return 0
        if self.notes.read(unit.name)[REJECTED]:
            self.notes.forget(unit.name)
            return 0
        return len(unit.argument)

    def _check_strict(self, note: Note) -> None:
        if self.strict and note[REJECTED]:
            bad = RejectedImage.from_json(note[REJECTED][0])
            raise UserError(f"{bad}. (`strict` stops at the first bad image.)", EXIT_FAILED)

    def finish(
        self, finished: Finished, numbers: Plates, table: pa.Table, attributes: Attributes
    ) -> None:
        """Puts the shards into the order of the bank and writes what describes them; may be killed
        and repeated.

        Args:
          finished: of `write_images`.
          numbers: of `intensity_numbers`, recorded.
          table: metadata of the finished images.
          attributes: more to record in the bank.
        """
        recorded = {"intensity": self._recorded_intensity(numbers)} | attributes

        def make(path: Path) -> None:
            self._create(path, len(finished.checksums), recorded)
            for index, row in enumerate(finished.checksums):
                shard = bank.shard_path(self.work / "staged", row)
                files.link(shard, bank.shard_path(path, index))
            bank.write_metadata(path, table)
            if finished.rejected:
                write_rejected(path, finished.rejected)

        work_folder.finish(self.work, make, self.out)

    def _recorded_intensity(self, numbers: Plates) -> Attributes:
        text = (
            "keep"
            if self.rule.kind == "keep"
            else f"{self.rule.kind}:{self.rule.low:g}:{self.rule.high:g}"
        )
        recorded: Attributes = {"rule": text, "source_dtype": self.source.dtype}
        if self.rule.kind != "keep":
            recorded["numbers"] = {
                _label(plate): dict(zip(self.plan.channels, pairs or [], strict=True))
                for plate, pairs in numbers.items()
            }
        return recorded


def units_of(wanted: Sequence[Conversion]) -> Iterator[Unit[list[Conversion]]]:
    """The images of each well, so that a file that is added or mended changes one unit alone."""
    for _, images in itertools.groupby(wanted, lambda one: one.files.key[:3]):
        while part := list(itertools.islice(images, LARGEST_UNIT)):
            rows = repr([one.row for one in part])
            yield Unit(f"images-{hashlib.sha256(rows.encode()).hexdigest()[:32]}", part)


def write_shards(source: RawImages, work: Path, wanted: list[Conversion]) -> Note:
    """Converts images and writes their shards (a unit function).

    Args:
      source: where they come from.
      work: the work folder; its bank `staged` is written to.
      wanted: the images.

    Raises:
      UserError: the disk is full, or fails.
    """
    checksums, rejected = {}, []
    for row, entry, numbers in wanted:
        try:
            image, checksum = raw_images.load_image(source, entry)
        except BadFile as error:
            bad = RejectedImage(error.reason, error.detail, error.file, entry.key)
            rejected.append(bad._asdict())
            continue
        try:
            pixels = image if numbers is None else eight_bit.to_8_bit(image, numbers)
            bank.write_image(work / "staged", row, pixels)
        except (ValueError, OSError) as error:
            raise UserError(
                f"Cannot write to {work.parent}: {str(error).splitlines()[0][:200]}. Is the disk"
                " full? What is finished is kept: make room, then run the same command again.",
                EXIT_FAILED,
            ) from error
        checksums[str(row)] = checksum
    return {"checksums": checksums, REJECTED: rejected}


def histogram_path(work: Path, name: str) -> Path:
    """Where `count_pixels` writes the histograms of a block."""
    return work / "histograms" / f"{name}.npz"


def count_pixels(source: RawImages, work: Path, block: Block) -> Note:
    """Adds up the exact histograms of images in a file, int64 [channels, 65536]; bad images do not
    count (a unit function).
    """
    counts: Int64[np.ndarray, "channels 65536"] = np.zeros((1, 65536), np.int64)
    rejected = []
    for entry in block.images:
        try:
            image, _ = raw_images.load_image(source, entry)
        except BadFile as error:  # rejected by name when it is its turn to be written
            bad = RejectedImage(error.reason, error.detail, error.file, entry.key)
            rejected.append(bad._asdict())
            continue
        counts = counts + np.stack(
            [np.bincount(plane.ravel(), minlength=65536) for plane in np.moveaxis(image, -1, 0)]
        )
    with (
        files.replacing(histogram_path(work, block.name), shared=True) as partial,
        partial.open("wb") as output,
    ):
        np.savez_compressed(output, counts=counts)
    return {REJECTED: rejected}


def _label(plate: Plate) -> str:
    return "/".join(part for part in plate if part)


def write_rejected(folder: Path, rejected: Sequence[RejectedImage]) -> Path:
    """Writes rejected.parquet: experiment, plate, well, site, file, reason, detail of each bad
    image.
    """
    columns = {name: [bad.key[i] for bad in rejected] for i, name in enumerate(metadata.KEYS)}
    columns |= {
        name: [getattr(bad, name) for bad in rejected] for name in ("file", "reason", "detail")
    }
    schema = pa.schema([(name, pa.string()) for name in columns])
    with files.replacing(folder / "rejected.parquet") as partial:
        pq.write_table(pa.table(columns, schema=schema), partial)
    return folder / "rejected.parquet"

"""The work between a plan and a bank: percentiles, shards, and the end; can be killed at any time
and run again.

It works in OUT/.prepare. A unit (phenomjax.engine) is the images of a well. Each image is a shard
of the bank `staged`, whose row there is a digest of its files and of what was done to them; the
unit's note has the checksums. In the end the shards get the numbers of the bank's order, so a
rejected image leaves no hole, and the folder is the same however often the job was interrupted.
"""

import collections
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
from jaxtyping import Int64

from phenomjax.data.images import bank
from phenomjax.data.zarr_files import Attributes
from phenomjax.engine import work_folder
from phenomjax.engine.units import REJECTED, Executor, Note, Notes, Unit
from phenomjax.prepare.images import eight_bit, findings, raw_images, sameness
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan
from phenomjax.prepare.images.raw_images import BadFile, Numbers, RawImages
from phenomjax.prepare.images.records import Finding
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
# In the note of a unit, beside REJECTED: what went in with a remark, a list of Finding as JSON.
REMARKS = "remarks"
# In the note of a unit: {channel: images in which it has one value everywhere}.
CONSTANT = "constant"


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
      remarks: what else is to be known, in the order of the plan.
      constant: {channel: images in which it has one value everywhere}.
    """

    checksums: dict[int, str]
    rejected: list[Finding]
    remarks: list[Finding]
    constant: collections.Counter[str]


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
        self.out, self.work, self.plan, self.rule = out, work, plan, rule
        self.source = source._replace(channels=plan.channels)
        self.chunk, self.codec, self.executor = chunk, codec, executor
        self.strict, self.stop, self.notes = strict, stop, Notes(work)
        self.dtype = eight_bit.bank_dtype(rule, source.dtype)
        self.flat: list[Finding] = []  # plates whose percentiles are one value
        self._create(work / "staged", STAGED_ROWS, {})
        # of an end that was killed: the source may have changed since, and the order with it
        files.remove(work_folder.result_path(work, out))
        described = ("metadata.parquet", findings.REJECTED, findings.REMARKS, "zarr.json")
        for name in ("images", *described):
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
        """The numbers of the rule for each (experiment, plate); {} after a stop. A plate without an
        image that can be read has no percentiles: [].

        Args:
          known: percentiles of an earlier bank, {plate label: {channel: (low, high)}}, of plates
            of which it has images; those plates are not counted again.
        """
        plates: dict[Plate, list[ImageFiles]] = {}
        for entry in self.plan.entries:
            plates.setdefault(entry.key[:2], []).append(entry)
        if self.rule.kind == "keep":
            return dict.fromkeys(plates)
        if self.rule.kind == "range":
            pair = (eight_bit.number(self.rule.low), eight_bit.number(self.rule.high))
            return dict.fromkeys(plates, [pair] * len(self.plan.channels))
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
        return found | {plate: self._percentiles(plate, *made) for plate, made in waiting.items()}

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

    def _percentiles(self, plate: Plate, path: Path, units: list[Unit[Block]]) -> Numbers:
        blocks = [histogram_path(self.work, unit.name) for unit in units]
        if not path.is_file():
            total = np.zeros((len(self.plan.channels), 65536), np.int64)
            for block in blocks:
                with np.load(block) as file:
                    total += file["counts"]
            if total.any():
                ranges = [eight_bit.percentile_range(counts, self.rule) for counts in total]
                # after the range, of a plate that is one value there: its lowest and highest value
                lines = [
                    [*pair, *eight_bit.extremes(counts)]
                    if eight_bit.is_flat(counts, self.rule)
                    else [*pair]
                    for pair, counts in zip(ranges, total, strict=True)
                ]
                files.write_text(path, json.dumps(lines))
        for block in blocks:
            block.unlink(missing_ok=True)
        if not path.is_file():  # no image could be read: each is named when it is its turn
            return []
        found = []
        for channel, (low, high, *rest) in zip(
            self.plan.channels, json.loads(path.read_text()), strict=True
        ):
            found.append((low, high))
            if rest:
                self.flat.append(self._flat(plate, channel, low, *rest))
        return found

    def _flat(self, plate: Plate, channel: str, value: int, lowest: int, highest: int) -> Finding:
        where = f"channel {channel} of plate {_label(plate) or '(unnamed)'}"
        shares = f"{eight_bit.number(self.rule.low)} and {eight_bit.number(self.rule.high)}"
        detail = (
            f"{where} is {lowest} in every pixel"
            if lowest == highest
            else f"{where}: percentiles {shares} are the same value, {value}, and its pixels go"
            f" from {lowest} to {highest}; all above {value} became 255. If that is signal:"
            f" --intensity range:{lowest}:{highest} and another --out"
        )
        return Finding("flat_range", detail, "", (*plate, None, None))

    def _digest(self, parts: list[object]) -> str:
        described = (parts, self.source.size, self.source.dtype, self.source.projection, self.rule)
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
        found = Finished(
            {}, list(self.plan.rejected), [*self.plan.remarks, *self.flat], collections.Counter()
        )
        for unit in units_of(wanted):
            if self.notes.is_committed(unit.name):
                note = self.notes.read(unit.name)
                found.checksums.update((int(row), text) for row, text in note["checksums"].items())
                found.rejected.extend(Finding.from_json(bad) for bad in note[REJECTED])
                found.remarks.extend(map(Finding.from_json, note.get(REMARKS, [])))
                found.constant.update(note.get(CONSTANT, {}))
        found.remarks.extend(self._empty_channels(found))
        return found

    def _empty_channels(self, found: Finished) -> Iterator[Finding]:
        """Channels that have one value in each of all images."""
        count = len(found.checksums)
        for channel in self.plan.channels:
            if count and found.constant[channel] == count:
                detail = (
                    f"channel {channel} has one value everywhere in each of the {count} images of"
                    " the bank: there is nothing to learn from it. Look at its files, or leave it"
                    " out with --channels and another --out"
                )
                yield Finding(findings.CONSTANT_CHANNEL, detail, "")

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
            bad = Finding.from_json(note[REJECTED][0])
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
                findings.write(path / findings.REJECTED, finished.rejected)
            if finished.remarks:
                findings.write(path / findings.REMARKS, finished.remarks)

        work_folder.finish(self.work, make, self.out)

    def _recorded_intensity(self, numbers: Plates) -> Attributes:
        recorded: Attributes = {
            "rule": eight_bit.text(self.rule),
            "source_dtype": self.source.dtype,
        }
        if self.rule.kind != "keep":
            recorded["numbers"] = {
                _label(plate): dict(zip(self.plan.channels, pairs, strict=True))
                for plate, pairs in numbers.items()
                if pairs
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
    remarks: list[Finding] = []
    constant: collections.Counter[str] = collections.Counter()
    for row, entry, numbers in wanted:
        try:
            image, checksum = raw_images.load_image(source, entry)
            pixels = _converted(image, numbers)
        except BadFile as error:
            bad = Finding(error.reason, error.detail, error.file, tuple(entry.key))
            rejected.append(bad._asdict())
            continue
        try:
            bank.write_image(work / "staged", row, pixels)
        except (ValueError, OSError) as error:
            raise UserError(
                f"Cannot write to {work.parent}: {str(error).splitlines()[0][:200]}. Is the disk"
                " full? What is finished is kept: make room, then run the same command again.",
                EXIT_FAILED,
            ) from error
        checksums[str(row)] = checksum
        for channel, name in enumerate(source.channels):
            if sameness.is_constant(pixels[..., channel]):
                constant[name] += 1
                remarks.append(_constant(source, entry, image, channel, numbers))
    note: Note = {"checksums": checksums, REJECTED: rejected}
    if constant:
        note[CONSTANT] = dict(constant)
    if remarks:
        note[REMARKS] = [one._asdict() for one in remarks]
    return note


def _converted(image: np.ndarray, numbers: Numbers) -> np.ndarray:
    if numbers is not None:
        if not numbers:  # none could be read when the plate was counted
            raise BadFile(
                "no_range",
                "could not be read when the percentiles of its plate were counted, and can be now:"
                " prepare it into a second bank",
            )
        return eight_bit.to_8_bit(image, numbers)
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype == bool:
        return image.astype(np.uint8)
    lowest, highest = int(image.min()), int(image.max())
    if lowest < 0 or highest > 65535:
        raise BadFile(
            "pixel_range",
            f"has values from {lowest} to {highest}, and a bank keeps 0 to 65535: declare what"
            f" becomes 0 and 255, --intensity range:{lowest}:{highest}",
        )
    return image.astype(np.uint16)


def _constant(
    source: RawImages, entry: ImageFiles, image: np.ndarray, channel: int, numbers: Numbers
) -> Finding:
    plane, name = image[..., channel], source.channels[channel]
    lowest, highest = (eight_bit.number(value) for value in (plane.min(), plane.max()))
    if lowest == highest or not numbers:
        detail = (
            f"channel {name} is {lowest} in every pixel: no light (a shutter, an empty well), or"
            " the picture was lost when the file was written"
        )
    else:
        low, high = numbers[channel]
        detail = (
            f"channel {name} goes from {lowest} to {highest}, all of which the range {low} to"
            f" {high} makes one value: give a wider one, --intensity range:LOW:HIGH"
        )
    file = entry.files[min(channel, len(entry.files) - 1)]
    return Finding("constant", detail, file, tuple(entry.key))


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
            bad = Finding(error.reason, error.detail, error.file, tuple(entry.key))
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

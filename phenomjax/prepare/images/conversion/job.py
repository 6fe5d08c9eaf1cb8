"""The work between a plan and the shards of its images: percentiles, and pixels converted; can be
killed at any time and run again. closing.py makes the bank of them.

It works in OUT/.prepare. A unit (phenomjax.engine) is the images of a well. They are written to
shards that are named after what is in them (the digest of files and of what was done to them), and
the unit's note has the checksums. In the end the shards get the numbers of the bank's order, so a
rejected image leaves no hole, and the folder is the same however often the job was interrupted.
"""

import collections
import functools
import hashlib
import itertools
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from phenomjax.data.images import bank
from phenomjax.data.images.encoding import encode
from phenomjax.data.images.shards import Stored
from phenomjax.data.zarr_files import Attributes
from phenomjax.engine import work_folder
from phenomjax.engine.units import REJECTED, Executor, Note, Notes, Unit
from phenomjax.prepare.images import findings, poison
from phenomjax.prepare.images.pixels import eight_bit, raw_images, sameness
from phenomjax.prepare.images.pixels.percentiles import Known, PlateRanges, Plates, digest
from phenomjax.prepare.images.pixels.raw_images import BadFile, Numbers, RawImages
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan, read_images
from phenomjax.prepare.images.records import Finding
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
LARGEST_UNIT = 16  # images
TINY_UNIT = 2**17  # bytes of pixels; of images so small that it holds more than LARGEST_UNIT
STAGED_ROWS = 2**60  # of the bank that says how staged images are encoded
# In the note of a unit, beside REJECTED: what went in with a remark, a list of Finding as JSON.
REMARKS = "remarks"
# In the note of a unit: {channel: images in which it has one value everywhere}.
CONSTANT = "constant"
# In the note of a unit: {row, a digest in hexadecimals: checksum of its sources} of its images.
CHECKSUMS = "checksums"
# In the note of a unit that was done image by image: 1, how many of them are in a staged shard.
STAGED = "staged"


class Target(NamedTuple):
    """What images become.

    Attributes:
      source: where they come from; size and dtype are those of the bank.
      rule: how pixels become 8-bit.
      images_per_shard: of the bank.
    """

    source: RawImages
    rule: eight_bit.Rule
    images_per_shard: int = 1

    @property
    def unit(self) -> int:
        """How many images a unit has at most."""
        pixels = self.source.size[0] * self.source.size[1] * len(self.source.channels)
        return max(LARGEST_UNIT, TINY_UNIT // max(2 * pixels, 1))

    @property
    def staged(self) -> int:
        """How many images are staged in one shard."""
        return min(self.images_per_shard, self.unit)


class Part(NamedTuple):
    """Images to convert: rows of the table of a plate.

    Attributes:
      table: relative to the work folder.
      start: the first row.
      images: how many.
      numbers: (low, high) of each channel, None when pixels are kept.
    """

    table: str
    start: int
    images: int
    numbers: Numbers


class ImageJob:
    """One run of the work.

    Args:
      out: the bank's folder.
      work: the work folder in it, begun.
      plan: what there is to do; its folder is in the work folder.
      target: what images become.
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
        target: Target,
        *,
        chunk: int,
        codec: str,
        executor: Executor,
        strict: bool,
        stop: threading.Event,
    ):
        self.out, self.work, self.plan, self.target = out, work, plan, target
        self.chunk, self.codec, self.executor = chunk, codec, executor
        self.strict, self.stop, self.notes = strict, stop, Notes(work)
        self.ranges = PlateRanges(
            work,
            plan,
            target.source,
            target.rule,
            executor=executor,
            check=self._check_strict,
            stop=stop,
        )
        self.create(work / "staged", STAGED_ROWS, {}, 1)
        # of an end that was killed: the source may have changed since, and the order with it
        files.remove(work_folder.result_path(work, out))
        described = ("metadata.parquet", findings.REJECTED, findings.REMARKS, "zarr.json")
        for name in ("images", *described):
            files.remove(out / name)

    def create(self, path: Path, count: int, attributes: Attributes, images_per_shard: int) -> None:
        """Describes a bank of such images."""
        bank.create_bank(
            path,
            (count, *self.target.source.size, len(self.plan.channels)),
            eight_bit.bank_dtype(self.target.rule, self.target.source.dtype),
            self.plan.channels,
            attributes=attributes,
            chunk=self.chunk,
            codec=self.codec,
            images_per_shard=images_per_shard,
        )

    @property
    def chunks_per_image(self) -> int:
        """Chunks that an image is divided into."""
        height, width = self.target.source.size
        return -(-height // self.chunk) * -(-width // self.chunk)

    def intensity_numbers(self, known: Known) -> Plates:
        """The numbers of the rule for each (experiment, plate): `PlateRanges.numbers`."""
        return self.ranges.numbers(known)

    def units(self, numbers: Plates) -> Iterator[Unit[Part]]:
        """Those of all images, in the order of the plan."""
        for plate in self.plan.plates:
            yield from units_of(self.target, self.work, self.plan.path(plate), numbers[plate.place])

    def write_images(self, numbers: Plates) -> int:
        """Converts what is not finished yet; returns how many images are finished."""
        total, done = self.plan.count, 0
        if any((self.work / "units").glob("images-*")):
            done = sum(map(self._begin, self.units(numbers)))
        progress = Progress("prepare images", total, "images", done)
        for _, note in poison.run(
            self.executor,
            self.work,
            functools.partial(write_shards, self.target),
            self.units(numbers),
            self.stop,
            divide=self._divided,
            reject=self._killed,
            join=lambda _, single, notes: _joined(notes),
            at_most=total,
        ):
            self._check_strict(note)
            images = len(note[CHECKSUMS]) + len(note[REJECTED])
            progress.update(images)
            done += images
        return done

    def _begin(self, unit: Unit[Part]) -> int:
        """Images of a unit that are finished; one with bad images is done again, for they may have
        been mended.
        """
        if not self.notes.is_committed(unit.name):
            return 0
        if self.notes.read(unit.name)[REJECTED]:
            self.notes.forget(unit.name)
            return 0
        return unit.argument.images

    def _check_strict(self, note: Note) -> None:
        if self.strict and note[REJECTED]:
            bad = Finding.from_json(note[REJECTED][0])
            raise UserError(f"{bad}. (`strict` stops at the first bad image.)", EXIT_FAILED)

    def _divided(self, unit: Unit[Part]) -> list[Unit[Part]]:
        table, start, count, numbers = unit.argument
        images = read_images(self.work / table, start, count)
        return [
            Unit(unit_name([row_of(self.target, one.stamp, numbers)]), Part(table, i, 1, numbers))
            for i, one in enumerate(images, start)
        ]

    def _killed(self, unit: Unit[Part], reason: str) -> Note:
        table, start, count, _ = unit.argument
        (image,) = read_images(self.work / table, start, count)
        bad = poison.finding(image.files[0], image.key, reason)
        return {CHECKSUMS: {}, REJECTED: [bad._asdict()]}


def row_of(target: Target, stamp: str, numbers: Numbers) -> str:
    """A digest of an image's files and of what is done to them."""
    return digest([stamp, numbers], target.source, target.rule)[:20]


def unit_name(rows: Sequence[str]) -> str:
    """Of the unit of some images."""
    return f"images-{hashlib.sha256(repr(rows).encode()).hexdigest()[:32]}"


def units_of(target: Target, work: Path, table: Path, numbers: Numbers) -> Iterator[Unit[Part]]:
    """The images of each well of a plate, so that a file that is added or mended changes one unit
    alone; of tiny ones, those of several.
    """
    read = pq.read_table(table, columns=["well", "stamp"])
    rows = [row_of(target, stamp, numbers) for stamp in read["stamp"].to_pylist()]
    place, start, most = table.relative_to(work).as_posix(), 0, target.unit
    wells = read["well"].to_pylist() if most == LARGEST_UNIT else [""] * len(rows)
    for _, well in itertools.groupby(wells):
        count = len(list(well))
        for first in range(start, start + count, most):
            last = min(first + most, start + count)
            yield Unit(unit_name(rows[first:last]), Part(place, first, last - first, numbers))
        start += count


def stored(rows: Sequence[str], staged: int) -> list[Stored]:
    """Where images of a unit are staged, some in a shard; paths are relative to the work folder."""
    found = []
    for first in range(0, len(rows), staged):
        part = rows[first : first + staged]
        name = part[0] if len(part) == 1 else hashlib.sha256(repr(part).encode()).hexdigest()[:20]
        path = Path("staged", name[:2], name)  # a folder with millions of files is slow
        found += [Stored(path, place, len(part)) for place in range(len(part))]
    return found


def write_shards(target: Target, work: Path, part: Part) -> Note:
    """Converts images and writes their shards (a unit function).

    Args:
      target: what they become.
      work: the work folder; the bank `staged` in it says how they are encoded.
      part: the images.

    Raises:
      UserError: the disk is full, or fails.
    """
    checksums, rejected = {}, []
    remarks: list[Finding] = []
    constant: collections.Counter[str] = collections.Counter()
    waiting: dict[str, np.ndarray] = {}
    for entry in read_images(work / part.table, part.start, part.images):
        try:
            image, checksum = raw_images.load_image(target.source, entry)
            pixels = _converted(image, part.numbers)
        except BadFile as error:
            rejected.append(raw_images.rejected(target.source, entry, error)._asdict())
            continue
        row = row_of(target, entry.stamp, part.numbers)
        waiting[row], checksums[row] = pixels, checksum
        if len(waiting) == target.staged:
            _write(work, waiting)
        for channel, name in enumerate(target.source.channels):
            if sameness.is_constant(pixels[..., channel]):
                constant[name] += 1
                remarks.append(_constant(target.source, entry, image, channel, part.numbers))
    if waiting:
        _write(work, waiting)
    for folder in {one.shard.parent for one in stored([*checksums], target.staged)}:
        files.flush_path(work / folder)
    note: Note = {CHECKSUMS: checksums, REJECTED: rejected}
    if constant:
        note[CONSTANT] = dict(constant)
    if remarks:
        note[REMARKS] = [one._asdict() for one in remarks]
    return note


def _write(work: Path, waiting: dict[str, np.ndarray]) -> None:
    """Writes images to a shard, which is on the disk then, and forgets them."""
    path = work / stored([*waiting], len(waiting))[0].shard
    try:
        content = encode(work / "staged", [*waiting.values()])
        with files.replacing(path, shared=True) as partial, partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except (ValueError, OSError) as error:
        raise UserError(
            f"Cannot write to {work.parent}: {str(error).splitlines()[0][:200]}. Is the disk full?"
            " What is finished is kept: make room, then run the same command again.",
            EXIT_FAILED,
        ) from error
    waiting.clear()


def _joined(notes: Sequence[Note]) -> Note:
    """The note of a unit, of those of its images."""
    joined: Note = {CHECKSUMS: {}, REJECTED: [], REMARKS: [], STAGED: 1}
    constant: collections.Counter[str] = collections.Counter()
    for note in notes:
        joined[CHECKSUMS] |= note[CHECKSUMS]
        joined[REJECTED] += note[REJECTED]
        joined[REMARKS] += note.get(REMARKS, [])
        constant.update(note.get(CONSTANT, {}))
    return joined | {CONSTANT: dict(constant)}


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
            f"has one value, {lowest}, in every pixel of channel {name}: no light (a shutter, an"
            " empty well), or the picture was lost when the file was written"
        )
    else:
        low, high = numbers[channel]
        detail = (
            f"goes from {lowest} to {highest} in channel {name}, all of which the range {low} to"
            f" {high} makes one value: give a wider one, such as --intensity"
            f" range:{lowest}:{highest} with another --out"
        )
    file = entry.files[entry.channels[channel][0][0]]
    return Finding("constant", detail, file, tuple(entry.key))

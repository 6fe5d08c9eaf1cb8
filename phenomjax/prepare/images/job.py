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
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from phenomjax.data.images import bank
from phenomjax.data.zarr_files import Attributes
from phenomjax.engine import work_folder
from phenomjax.engine.units import REJECTED, Executor, Note, Notes, Unit
from phenomjax.prepare.images import findings, poison, staleness
from phenomjax.prepare.images.pixels import eight_bit, raw_images, sameness
from phenomjax.prepare.images.pixels.percentiles import Known, PlateRanges, Plates, label
from phenomjax.prepare.images.pixels.raw_images import BadFile, Numbers, RawImages
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan
from phenomjax.prepare.images.records import Finding
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
LARGEST_UNIT = 16  # images
STAGED_ROWS = 2**60  # rows of the staging array
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
        self.ranges = PlateRanges(
            work,
            plan,
            self.source,
            rule,
            executor=executor,
            check=self._check_strict,
            stop=stop,
        )
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
        """The numbers of the rule for each (experiment, plate): `PlateRanges.numbers`."""
        return self.ranges.numbers(known)

    def conversions(self, numbers: Plates) -> list[Conversion]:
        """All images, in the order of the plan."""
        found = []
        for entry in self.plan.entries:
            plate = numbers[entry.key[:2]]
            row = int(self.ranges.digest([entry.stamp, plate])[:15], 16)
            found.append(Conversion(row, entry, plate))
        return found

    def write_images(self, wanted: Sequence[Conversion]) -> Finished:
        """Converts what is not finished yet."""
        done = sum(map(self._begin, units_of(wanted)))
        progress = Progress("prepare images", len(wanted), "images", done)
        for _, note in poison.run(
            self.executor,
            self.work,
            functools.partial(write_shards, self.source),
            units_of(wanted),
            self.stop,
            divide=lambda unit: [_unit([one]) for one in unit.argument],
            reject=_killed,
            join=lambda _, single, notes: _joined(notes),
            at_most=len(wanted),
        ):
            self._check_strict(note)
            progress.update(len(note["checksums"]) + len(note[REJECTED]))
        found = Finished(
            {},
            list(self.plan.rejected),
            [*self.plan.remarks, *self.ranges.flat],
            collections.Counter(),
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
        self,
        finished: Finished,
        images: Sequence[ImageFiles],
        numbers: Plates,
        table: pa.Table,
        attributes: Attributes,
    ) -> None:
        """Puts the shards into the order of the bank and writes what describes them; may be killed
        and repeated.

        Args:
          finished: of `write_images`.
          images: the finished ones, in the order of the bank.
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
            staleness.record(path, images)

        work_folder.finish(self.work, make, self.out)

    def _recorded_intensity(self, numbers: Plates) -> Attributes:
        recorded: Attributes = {
            "rule": eight_bit.text(self.rule),
            "source_dtype": self.source.dtype,
        }
        if self.plan.largest_value is not None:
            recorded["source_largest_value"] = self.plan.largest_value
        if self.rule.kind != "keep":
            recorded["numbers"] = {
                label(plate): dict(zip(self.plan.channels, pairs, strict=True))
                for plate, pairs in numbers.items()
                if pairs
            }
        return recorded


def units_of(wanted: Sequence[Conversion]) -> Iterator[Unit[list[Conversion]]]:
    """The images of each well, so that a file that is added or mended changes one unit alone."""
    for _, images in itertools.groupby(wanted, lambda one: one.files.key[:3]):
        while part := list(itertools.islice(images, LARGEST_UNIT)):
            yield _unit(part)


def _unit(part: list[Conversion]) -> Unit[list[Conversion]]:
    rows = repr([one.row for one in part])
    return Unit(f"images-{hashlib.sha256(rows.encode()).hexdigest()[:32]}", part)


def _killed(unit: Unit[list[Conversion]], reason: str) -> Note:
    """The note of one image that ends its processes."""
    (image,) = unit.argument
    bad = poison.finding(image.files.files[0], image.files.key, reason)
    return {"checksums": {}, REJECTED: [bad._asdict()]}


def _joined(notes: Sequence[Note]) -> Note:
    """The note of a unit, of those of its images."""
    joined: Note = {"checksums": {}, REJECTED: [], REMARKS: []}
    constant: collections.Counter[str] = collections.Counter()
    for note in notes:
        joined["checksums"] |= note["checksums"]
        joined[REJECTED] += note[REJECTED]
        joined[REMARKS] += note.get(REMARKS, [])
        constant.update(note.get(CONSTANT, {}))
    return joined | {CONSTANT: dict(constant)}


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

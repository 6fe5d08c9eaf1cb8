"""Percentiles of plates: the exact histograms of a plate's images are added up block by block, in
units that can be killed and done again.
"""

import functools
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from phenomjax.engine.units import REJECTED, Executor, Note, Notes, Unit
from phenomjax.prepare.images import poison
from phenomjax.prepare.images.pixels import eight_bit, raw_images
from phenomjax.prepare.images.pixels.raw_images import BadFile, Numbers, RawImages
from phenomjax.prepare.images.plan import ImagePlan, Place, Plate, read_images
from phenomjax.prepare.images.records import Finding
from phenomjax.system import files
from phenomjax.system.log import Progress

BLOCK = 32  # images whose histograms are added up before they are written down
Plates = dict[Place, Numbers]
Known = Mapping[str, Mapping[str, tuple[int, int]]]  # by label of the plate, and by channel


class Block(NamedTuple):
    """Images of a plate whose histograms are added up, and the name of that unit."""

    name: str
    table: str
    start: int
    images: int


class Counts(NamedTuple):
    """The histograms of a plate, to be added up."""

    path: str
    blocks: list[str]


class PlateRanges:
    """What the rule of intensity makes of each plate.

    Args:
      work: the work folder.
      plan: the images; its folder is in the work folder.
      source: where they come from.
      rule: of intensity.
      executor: what does the units.
      check: sees the note of each unit.
      stop: ends the work early when set.

    Attributes:
      flat: after `numbers`, plates and channels whose two percentiles are one value.
    """

    def __init__(
        self,
        work: Path,
        plan: ImagePlan,
        source: RawImages,
        rule: eight_bit.Rule,
        *,
        executor: Executor,
        check: Callable[[Note], None],
        stop: threading.Event,
    ):
        self.work, self.plan, self.source, self.rule = work, plan, source, rule
        self.executor, self.check, self.stop = executor, check, stop
        self.notes, self.flat = Notes(work), list[Finding]()

    def numbers(self, known: Known) -> Plates:
        """The numbers of the rule for each (experiment, plate); {} after a stop. A plate without an
        image that can be read has no percentiles: [].

        Args:
          known: percentiles of an earlier bank, {plate label: {channel: (low, high)}}, of plates
            of which it has images; those plates are not counted again.
        """
        places = [plate.place for plate in self.plan.plates]
        if self.rule.kind == "keep":
            return dict.fromkeys(places)
        if self.rule.kind == "range":
            pair = (eight_bit.number(self.rule.low), eight_bit.number(self.rule.high))
            return dict.fromkeys(places, [pair] * len(self.plan.channels))
        found: Plates = {}
        waiting: dict[Place, str] = {}
        left: list[Plate] = []
        for plate in self.plan.plates:
            before = known.get(label(plate.place), {})
            if set(self.plan.channels) <= before.keys():
                pairs = (before[channel] for channel in self.plan.channels)
                found[plate.place] = [(low, high) for low, high in pairs]
                continue
            names = [unit.name for unit in self._blocks(plate)]
            path = f"percentiles/{digest(names, self.source, self.rule)}.json"
            waiting[plate.place] = path
            if not (self.work / path).is_file():
                left.append(plate)
        self._count(left)
        if not self.stop.is_set():
            self._add_up([(waiting[plate.place], plate) for plate in left])
        if self.stop.is_set():
            return {}
        return found | {place: self._percentiles(place, path) for place, path in waiting.items()}

    def _blocks(self, plate: Plate) -> Iterator[Unit[Block]]:
        table = self.plan.path(plate).relative_to(self.work).as_posix()
        stamps = self.plan.stamps(plate)
        for start in range(0, len(stamps), BLOCK):
            part = stamps[start : start + BLOCK]
            name = f"histogram-{digest(part, self.source, self.rule)}"
            yield Unit(name, Block(name, table, start, len(part)))

    def _count(self, plates: Sequence[Plate]) -> None:
        done, total = 0, sum(plate.images for plate in plates)
        for unit in (unit for plate in plates for unit in self._blocks(plate)):
            if not histogram_path(self.work, unit.name).is_file():  # it was of other images then
                self.notes.forget(unit.name)
            elif self.notes.is_committed(unit.name):
                done += unit.argument.images
        progress = Progress("intensity percentiles", total, "images", done)
        for _, note in poison.run(
            self.executor,
            self.work,
            functools.partial(count_pixels, self.source),
            (unit for plate in plates for unit in self._blocks(plate)),
            self.stop,
            divide=_divided,
            reject=self._killed,
            join=self._joined,
            at_most=total,
        ):
            self.check(note)
            progress.update(note["images"])

    def _killed(self, unit: Unit[Block], reason: str) -> Note:
        (image,) = read_images(self.work / unit.argument.table, *unit.argument[2:])
        _write_counts(self.work, unit.name, np.zeros((1, 65536), np.int64))
        bad = poison.finding(image.files[0], image.key, reason)
        return {REJECTED: [bad._asdict()], "images": 1}

    def _joined(
        self, unit: Unit[Block], single: Sequence[Unit[Block]], notes: Sequence[Note]
    ) -> Note:
        _write_counts(self.work, unit.name, _sum(self.work, [one.name for one in single]))
        for one in single:
            histogram_path(self.work, one.name).unlink()
        rejected = [bad for note in notes for bad in note[REJECTED]]
        return {REJECTED: rejected, "images": len(single)}

    def _add_up(self, plates: Sequence[tuple[str, Plate]]) -> None:
        def units() -> Iterator[Unit[Counts]]:
            for path, plate in plates:
                name = f"percentiles-{Path(path).stem}"
                yield Unit(name, Counts(path, [unit.name for unit in self._blocks(plate)]))

        for path, _ in plates:
            self.notes.forget(f"percentiles-{Path(path).stem}")
        add_up = functools.partial(write_percentiles, self.rule)
        images = sum(plate.images for _, plate in plates)
        for _ in self.executor.run(
            self.work, add_up, units(), self.stop, at_most=1 + images // 10_000
        ):
            pass

    def _percentiles(self, place: Place, path: str) -> Numbers:
        if not (self.work / path).is_file():  # no image can be read: each is named when its turn
            return []  # comes
        found = []
        lines = json.loads((self.work / path).read_text())
        for channel, (low, high, *rest) in zip(self.plan.channels, lines, strict=True):
            found.append((low, high))
            if rest:
                self.flat.append(self._flat(place, channel, low, *rest))
        return found

    def _flat(self, place: Place, channel: str, value: int, lowest: int, highest: int) -> Finding:
        where = f"channel {channel} of plate {label(place) or '(unnamed)'}"
        shares = f"{eight_bit.number(self.rule.low)} and {eight_bit.number(self.rule.high)}"
        detail = (
            f"{where} is {lowest} in every pixel"
            if lowest == highest
            else f"{where}: percentiles {shares} are the same value, {value}, and its pixels go"
            f" from {lowest} to {highest}; all above {value} became 255. If that is signal:"
            f" --intensity range:{lowest}:{highest} and another --out"
        )
        return Finding("flat_range", detail, "", (*place, None, None))


def digest(parts: Sequence[object], source: RawImages, rule: eight_bit.Rule) -> str:
    """A name for what is done to some images."""
    described = (parts, source.size, source.dtype, source.projection, rule)
    return hashlib.sha256(repr(described).encode()).hexdigest()


def histogram_path(work: Path, name: str) -> Path:
    """Where `count_pixels` writes the histograms of a block."""
    return work / "histograms" / f"{name}.npz"


def count_pixels(source: RawImages, work: Path, block: Block) -> Note:
    """Adds up the exact histograms of images in a file, int64 [channels, 65536]; bad images do not
    count (a unit function).
    """
    counts: Int64[np.ndarray, "channels 65536"] = np.zeros((1, 65536), np.int64)
    rejected = []
    for entry in read_images(work / block.table, block.start, block.images):
        try:
            image, _ = raw_images.load_image(source, entry)
        except BadFile as error:  # rejected by name when it is its turn to be written
            rejected.append(raw_images.rejected(source, entry, error)._asdict())
            continue
        counts = counts + np.stack(
            [np.bincount(plane.ravel(), minlength=65536) for plane in np.moveaxis(image, -1, 0)]
        )
    _write_counts(work, block.name, counts)
    return {REJECTED: rejected, "images": block.images}


def write_percentiles(rule: eight_bit.Rule, work: Path, plate: Counts) -> Note:
    """Writes the percentiles of a plate, a pair a channel, and deletes its histograms; nothing
    where no image could be read (a unit function).
    """
    try:
        total = _sum(work, plate.blocks)
    except FileNotFoundError:  # another worker has done it
        return {}
    if total.any():
        ranges = [eight_bit.percentile_range(counts, rule) for counts in total]
        # after the range, of a plate that is one value there: its lowest and highest value
        lines = [
            [*pair, *eight_bit.extremes(counts)] if eight_bit.is_flat(counts, rule) else [*pair]
            for pair, counts in zip(ranges, total, strict=True)
        ]
        files.write_text(work / plate.path, json.dumps(lines), shared=True)
    for block in plate.blocks:
        histogram_path(work, block).unlink(missing_ok=True)
    return {}


def label(place: Place) -> str:
    """What a plate is called in the record of a bank."""
    return "/".join(part for part in place if part)


def _divided(unit: Unit[Block]) -> list[Unit[Block]]:
    block = unit.argument
    names = [f"{unit.name}-{number}" for number in range(block.images)]
    return [
        Unit(name, Block(name, block.table, block.start + number, 1))
        for number, name in enumerate(names)
    ]


def _write_counts(work: Path, name: str, counts: Int64[np.ndarray, "channels 65536"]) -> None:
    with (
        files.replacing(histogram_path(work, name), shared=True) as partial,
        partial.open("wb") as output,
    ):
        np.savez_compressed(output, counts=counts)


def _sum(work: Path, names: Sequence[str]) -> Int64[np.ndarray, "channels 65536"]:
    """Of images that cannot be read there is one row of zeros, whatever the channels."""
    total: Int64[np.ndarray, "channels 65536"] = np.zeros((1, 65536), np.int64)
    for name in names:
        with np.load(histogram_path(work, name)) as file:
            total = total + file["counts"]
    return total

"""Percentiles of plates: the exact histograms of a plate's images are added up block by block, in
units that can be killed and done again.
"""

import functools
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from phenomjax.engine.units import REJECTED, Executor, Note, Notes, Unit
from phenomjax.prepare.images import poison
from phenomjax.prepare.images.pixels import eight_bit, raw_images
from phenomjax.prepare.images.pixels.raw_images import BadFile, Numbers, RawImages
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan
from phenomjax.prepare.images.records import Finding
from phenomjax.system import files
from phenomjax.system.log import Progress

BLOCK = 32  # images whose histograms are added up before they are written down
Plate = tuple[str | None, ...]
Plates = dict[Plate, Numbers]
Known = Mapping[str, Mapping[str, tuple[int, int]]]  # by label of the plate, and by channel


class Block(NamedTuple):
    """Images whose histograms are added up, and the name of that unit."""

    name: str
    images: list[ImageFiles]


class PlateRanges:
    """What the rule of intensity makes of each plate.

    Args:
      work: the work folder.
      plan: the images.
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

    def digest(self, parts: list[object]) -> str:
        """A name for what is done to some images."""
        described = (parts, self.source.size, self.source.dtype, self.source.projection, self.rule)
        return hashlib.sha256(repr(described).encode()).hexdigest()

    def numbers(self, known: Known) -> Plates:
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
            before = known.get(label(plate), {})
            if set(self.plan.channels) <= before.keys():
                pairs = (before[channel] for channel in self.plan.channels)
                found[plate] = [(low, high) for low, high in pairs]
                continue
            units = []
            for images in (entries[i : i + BLOCK] for i in range(0, len(entries), BLOCK)):
                name = f"histogram-{self.digest([image.stamp for image in images])}"
                units.append(Unit(name, Block(name, images)))
            name = self.digest([unit.name for unit in units])
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
        for name, note in poison.run(
            self.executor,
            self.work,
            functools.partial(count_pixels, self.source),
            units,
            self.stop,
            divide=self._divided,
            reject=self._killed,
            join=self._joined,
            at_most=sum(sizes.values()),
        ):
            self.check(note)
            progress.update(sizes[name])

    def _divided(self, unit: Unit[Block]) -> list[Unit[Block]]:
        names = [f"{unit.name}-{number}" for number in range(len(unit.argument.images))]
        images = zip(names, unit.argument.images, strict=True)
        return [Unit(name, Block(name, [image])) for name, image in images]

    def _killed(self, unit: Unit[Block], reason: str) -> Note:
        (image,) = unit.argument.images
        _write_counts(self.work, unit.name, np.zeros((1, 65536), np.int64))
        return {REJECTED: [poison.finding(image.files[0], image.key, reason)._asdict()]}

    def _joined(
        self, unit: Unit[Block], single: Sequence[Unit[Block]], notes: Sequence[Note]
    ) -> Note:
        counts = np.zeros((1, 65536), np.int64)
        for one in single:
            counts = counts + _read_counts(self.work, one.name)
        _write_counts(self.work, unit.name, counts)
        for one in single:
            histogram_path(self.work, one.name).unlink()
        return {REJECTED: [bad for note in notes for bad in note[REJECTED]]}

    def _percentiles(self, plate: Plate, path: Path, units: list[Unit[Block]]) -> Numbers:
        blocks = [unit.name for unit in units]
        if not path.is_file():
            total = np.zeros((len(self.plan.channels), 65536), np.int64)
            for block in blocks:
                total += _read_counts(self.work, block)
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
            histogram_path(self.work, block).unlink(missing_ok=True)
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
        where = f"channel {channel} of plate {label(plate) or '(unnamed)'}"
        shares = f"{eight_bit.number(self.rule.low)} and {eight_bit.number(self.rule.high)}"
        detail = (
            f"{where} is {lowest} in every pixel"
            if lowest == highest
            else f"{where}: percentiles {shares} are the same value, {value}, and its pixels go"
            f" from {lowest} to {highest}; all above {value} became 255. If that is signal:"
            f" --intensity range:{lowest}:{highest} and another --out"
        )
        return Finding("flat_range", detail, "", (*plate, None, None))


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
    _write_counts(work, block.name, counts)
    return {REJECTED: rejected}


def _write_counts(work: Path, name: str, counts: Int64[np.ndarray, "channels 65536"]) -> None:
    with (
        files.replacing(histogram_path(work, name), shared=True) as partial,
        partial.open("wb") as output,
    ):
        np.savez_compressed(output, counts=counts)


def _read_counts(work: Path, name: str) -> Int64[np.ndarray, "channels 65536"]:
    with np.load(histogram_path(work, name)) as file:
        return file["counts"]


def label(plate: Plate) -> str:
    """What a plate is called in the record of a bank."""
    return "/".join(part for part in plate if part)

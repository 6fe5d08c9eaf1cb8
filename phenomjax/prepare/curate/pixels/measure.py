"""Measures of the pixels of every image of banks, by which `gates` drops what shows nothing.

Of each channel:

  sharpness    slope of the power spectrum over spatial frequency, both in logarithms: no unit, less
               is blurred. The power-law slope of Field & Brady (1997), which Bray et al. (2012)
               found to tell fields out of focus best, made blind to noise: see `sharpness`
  contrast     range of the values (99.5th less 0.5th percentile) over the standard deviation of
               the noise: no unit; of noise alone 5.2
  background   0.5th percentile, grey levels
  saturated    % of pixels at the largest value of the image where they are a heap there

and of each image how many nuclei there are and how much of it they cover
(`phenomjax.data.images.nuclei`). They are written as one Parquet file, a row an image in the order
of banks and images. The work is units (phenomjax.engine) that can be killed and continued; gates
are tried with other limits on the same measures, in seconds.
"""

import functools
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from phenomjax.data.images import nuclei
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.metadata import write_table
from phenomjax.data.images.nuclei import MIN_AREA
from phenomjax.data.images.opening import open_unchanged
from phenomjax.engine import choose, work_folder
from phenomjax.engine.options import EngineOptions
from phenomjax.engine.units import REJECTED, Note, Notes, Unit
from phenomjax.prepare.curate.pixels.image import measures_of
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError, first_of
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
FORMAT, VERSION = "measures", 1
DESCRIPTION = b"phenomjax"  # key of the description in the file
OF_CHANNELS = {  # name: unit
    "sharpness": "slope of the log-log power spectrum",
    "contrast": "standard deviations of the noise",
    "background": "grey levels",
    "saturated": "% of the pixels",
}
OF_IMAGES = {"cells": "nuclei / field", "covered": "% of the field, by nuclei"}
OTHERS = {"banks": "the banks are others, or have changed since"}
UNIT_BYTES, UNIT_IMAGES = 2**27, 2**12  # of a unit, at most


class Settings(NamedTuple):
    """What decides the measures beside the images.

    Attributes:
      nuclei: the channel that shows them; None: the one whose stain is known for it, and where a
        bank has none its cells are not counted.
      min_area: of a nucleus, pixels.
    """

    nuclei: str | None = None
    min_area: int = MIN_AREA


class Part(NamedTuple):
    """Images of a bank."""

    bank: Path
    fingerprint: str
    number: int
    start: int
    stop: int


def columns_of(channels: Sequence[str]) -> list[str]:
    """Names of what `measures_of` finds: "sharpness/Hoechst", …, "cells", "covered"."""
    return [f"{name}/{channel}" for channel in channels for name in OF_CHANNELS] + [*OF_IMAGES]


def measure_part(settings: Settings, work: Path, part: Part) -> Note:
    """Measures some images (a unit function). One that cannot be read has no measures; it is listed
    in the note.

    Raises:
      UserError: the bank is another one than when the work began, or the disk fails.
    """
    bank = open_unchanged(part.bank, part.fingerprint)
    channels = bank.channels
    nuclear = _nuclear(channels, settings)
    rows, rejected = list[np.ndarray](), list[list[Any]]()
    for index in range(part.start, part.stop):
        try:
            image = _checked(bank, index)
        except UserError as error:
            rejected.append([str(bank.path), index, str(error)])
            rows.append(np.full(len(columns_of(channels)), np.nan, np.float32))
            continue
        rows.append(measures_of(image, nuclear, settings.min_area))
    arrays = [pa.array(column) for column in np.stack(rows, 1)]
    table = pa.table(dict(zip(columns_of(channels), arrays, strict=True)))
    try:
        with files.replacing(_part_path(work, part), shared=True, flush=True) as partial:
            pq.write_table(table, partial)
    except OSError as error:
        raise UserError(
            f"Cannot write to {work}: {error.strerror}. Is the disk full? What is finished is kept:"
            " make room, then run the same command again.",
            EXIT_FAILED,
        ) from error
    return {"images": part.stop - part.start, REJECTED: rejected}


def _checked(bank: ImageBank, index: int) -> np.ndarray:
    image = bank.read(index)
    if image.dtype == bool:
        return image.astype(np.uint8)
    if image.dtype.kind == "f" and not np.isfinite(image).all():  # of a plate read in place
        raise UserError(
            f"Image {index} of the bank {bank.path} has pixels that are no numbers.", EXIT_FAILED
        )
    return image


def _nuclear(channels: Sequence[str], settings: Settings) -> int | None:
    if settings.nuclei is None and nuclei.known_nuclear(channels) is None:
        return None
    return nuclei.nuclear_channel(channels, settings.nuclei)


def _part_path(work: Path, part: Part) -> Path:
    return work / "parts" / str(part.number) / f"{part.start}.parquet"


def units_of(banks: Sequence[ImageBank]) -> Iterator[Unit[Part]]:
    """The images of banks, some at a time; whole shards where a shard has several."""
    for number, bank in enumerate(banks):
        shard = bank.images_per_shard if bank.attributes else 1
        image = int(np.prod(bank.shape[1:])) * bank.dtype.itemsize
        size = max(1, min(UNIT_IMAGES, UNIT_BYTES // image) // shard) * shard
        for start in range(0, len(bank), size):
            stop = min(start + size, len(bank))
            part = Part(bank.path, bank.fingerprint, number, start, stop)
            yield Unit(f"{number}-{start}-{stop}", part)


class Measures:
    """Measures in their file.

    Attributes:
      path: of the file.
      described: {"settings", "banks": of each {fingerprint, images, channels, nuclei, height,
        width, pixel_size_um}, "unreadable": how many images}.

    Raises:
      UserError: it is something else, or damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._footer = pq.read_metadata(path)
            described = json.loads(self._footer.metadata[DESCRIPTION])
            if described["format"] != FORMAT or described["version"] != VERSION:
                raise ValueError(f"format {described['format']} {described['version']}")
            self.described: dict[str, Any] = described
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"{path} are no measures of images that this phenomjax made ({first}). Delete it to"
                " measure again, or give another name."
            ) from error

    def __len__(self) -> int:
        return self._footer.num_rows

    @property
    def channels(self) -> list[str]:
        """Of all banks, each once."""
        return list(dict.fromkeys(c for bank in self.described["banks"] for c in bank["channels"]))

    def column(self, name: str) -> Float[np.ndarray, " images"]:
        """A measure of all images, float32; NaN of those that cannot be read or have no such
        channel.
        """
        with pq.ParquetFile(self.path) as file:
            if name not in file.schema_arrow.names:
                return np.full(len(self), np.nan, np.float32)
            parts = [batch[name].to_numpy() for batch in file.iter_batches(columns=[name])]
        return np.concatenate([np.zeros(0, np.float32), *parts])


def run(
    banks: Sequence[ImageBank],
    path: Path,
    settings: Settings,
    engine: EngineOptions,
    stop: threading.Event,
) -> Measures | None:
    """Measures all images, or takes what was measured before of the same banks.

    Args:
      banks: at least one.
      path: of the file, NAME.parquet; the work is done in NAME.parquet.partial beside it.
      settings: what decides the measures.
      engine: who does it.
      stop: ends it early when set; None comes back, and the same call goes on.

    Raises:
      UserError: the file or work that was begun is of other banks or settings; most images cannot
        be read.
    """
    described = _describe(banks, settings)
    if path.exists():
        before = Measures(path)
        made = {name: before.described[name] for name in described}
        now = json.loads(json.dumps(described))
        mend = f"Give another `out`, or delete {path} to measure again."
        work_folder.check_same(f"{path} was measured", made, now, mend, OTHERS)
        log.info("measure: %s is there, of the same banks: reused", path)
        if unreadable := before.described["unreadable"]:
            log.warning(
                "%d images could not be read when they were measured. Where they can be read now,"
                " delete %s to measure again.",
                unreadable,
                path,
            )
        return before
    work, total = path.with_name(path.name + ".partial"), sum(map(len, banks))
    with work_folder.hold(work):
        work_folder.begin(work, described, words=OTHERS)
        notes = Notes(work)
        done = 0
        for unit in units_of(banks):
            if notes.is_committed(unit.name):
                note = notes.read(unit.name)
                done += note["images"]
                if note[REJECTED]:  # it may have been mended
                    notes.forget(unit.name)
                    done -= note["images"]
        progress = Progress("measure", total, "images", done)
        function = functools.partial(measure_part, settings)
        with choose.executor(engine, work) as executor:
            units, at_most = units_of(banks), sum(1 for _ in units_of(banks))
            for _, note in executor.run(work, function, units, stop, at_most=at_most):
                progress.update(note["images"])
        if stop.is_set():
            return None
        names = (unit.name for unit in units_of(banks))
        rejected = list(notes.rejected(names))
        if 2 * len(rejected) > total:
            raise UserError(
                f"{len(rejected)} of {total} images cannot be read. The first:"
                f" {rejected[0][2]} Then run the same command again: the others are measured.",
                EXIT_FAILED,
            )
        if rejected:
            log.error(
                "%d images cannot be read: %s",
                len(rejected),
                first_of(f"{bank} image {index}" for bank, index, _ in rejected),
            )
        whole = described | {"unreadable": len(rejected)}
        work_folder.finish(work, functools.partial(_assemble, work, banks, whole), path)
    return Measures(path)


def _describe(banks: Sequence[ImageBank], settings: Settings) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings._asdict(),
        "banks": [
            {
                "fingerprint": bank.fingerprint,
                "images": len(bank),
                "channels": list(bank.channels),
                "nuclei": None
                if (n := _nuclear(bank.channels, settings)) is None
                else bank.channels[n],
                "height": bank.shape[1],
                "width": bank.shape[2],
                "pixel_size_um": bank.attributes.get("pixel_size_um"),
            }
            for bank in banks
        ],
    }


def _assemble(
    work: Path, banks: Sequence[ImageBank], described: dict[str, Any], path: Path
) -> None:
    """Joins the parts; a measure that a bank has not is NaN there."""
    channels = list(dict.fromkeys(name for bank in banks for name in bank.channels))
    names = columns_of(channels)
    schema = pa.schema([(name, pa.float32()) for name in names])
    schema = schema.with_metadata({DESCRIPTION: json.dumps(described)})

    def parts() -> Iterator[pa.Table]:
        for unit in units_of(banks):
            found = pq.read_table(_part_path(work, unit.argument))
            nothing = pa.array(np.full(len(found), np.nan, np.float32))
            columns = [found[n] if n in found.column_names else nothing for n in names]
            yield pa.table(columns, schema=schema)

    write_table(path, parts())

"""An image bank of images that other banks hold: all of several, or what is chosen.

Nothing is decoded where the banks store images alike: a shard becomes a second name of the same
file (a copy on another file system), or chunks are taken over as they are into shards of several
images. The work is units in OUT/.prepare, each some shards, which may be killed and repeated; a
source that is damaged is found when its shard is taken over.
"""

import functools
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from phenomjax import __version__
from phenomjax.data import node_cache, store
from phenomjax.data.images import bank as image_bank
from phenomjax.data.images import shards
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.codecs import CODECS, sharding
from phenomjax.data.images.metadata import METADATA_SCHEMA, ROW_GROUP
from phenomjax.data.images.opening import open_bank, open_unchanged
from phenomjax.data.images.rows import Rows
from phenomjax.data.zarr_files import NAME, Attributes
from phenomjax.engine import choose, work_folder
from phenomjax.engine.options import EngineOptions
from phenomjax.engine.units import Note, Notes, Unit
from phenomjax.prepare import growing, next_steps
from phenomjax.prepare.opening import writing
from phenomjax.system import ending, files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.log import Progress, counted
from phenomjax.system.processes import stop_on_signals

log = logging.getLogger("phenomjax")
UNIT_IMAGES = 256
SEVERAL = "several"  # the rule of intensity of banks that were made by different ones


class Form(NamedTuple):
    """How a bank stores its images.

    Attributes:
      codec: one of CODECS; None of a bank that another program wrote.
      chunk: height and width of the inner chunks.
      images_per_shard: in a file.
    """

    codec: str | None
    chunk: int
    images_per_shard: int


class Joined(NamedTuple):
    """A bank to be.

    Attributes:
      out: its folder.
      banks: what its images are of, each with its fingerprint.
      form: how it stores them.
    """

    out: Path
    banks: tuple[tuple[Path, str], ...]
    form: Form


Part = tuple[int, list[int]]  # which of the banks, and rows of it


def form_of(bank: ImageBank) -> Form:
    """How a bank stores its images."""
    if not bank.attributes:
        return Form(None, 128, 1)
    stored, (height, width, depth) = bank.stored["codecs"], bank.chunk_shape
    alike = [
        name
        for name in CODECS
        if height == width and stored == [sharding(name, bank.dtype, (1, height, width, depth))]
    ]
    return Form(alike[0] if alike else None, height, bank.images_per_shard)


def join(
    out: Path,
    banks: Sequence[ImageBank],
    rows: Sequence[Rows],
    arguments: growing.Arguments,
    options: EngineOptions,
    images_per_shard: int | None = None,
) -> int:
    """Makes the bank, or goes on with it; returns the exit code.

    Args:
      out: its folder.
      banks: of one size, type and set of channels (`check_alike`).
      rows: what is taken of each.
      arguments: all that decides the result; they are recorded in it.
      options: who does the units.
      images_per_shard: in a file; None = as the first bank.

    Raises:
      UserError: the disk is full, an image of a bank is missing or damaged, or something else is at
        `out`.
    """
    recorded = lambda path: open_bank(path).attributes.get("prepare")  # noqa: E731
    if growing.is_finished(out, arguments, "image bank", recorded):
        log.info("%s is finished already: %d images. Nothing to do.", out, len(open_bank(out)))
        return EXIT_DONE
    first = form_of(banks[0])
    form = Form(first.codec or "blosc-lz4", first.chunk, images_per_shard or first.images_per_shard)
    count = sum(map(len, rows))
    joined = Joined(out, tuple((bank.path, bank.fingerprint) for bank in banks), form)
    begun = ("images", NAME)
    with (
        writing(out),
        growing.at_work(out, arguments, begun=begun) as work,
        stop_on_signals() as stop,
    ):
        files.remove(out / "metadata.parquet")  # of an end that was killed
        image_bank.create_bank(
            out,
            (count, *banks[0].shape[1:]),
            banks[0].dtype,
            banks[0].channels,
            attributes=_attributes(banks, rows, arguments),
            chunk=form.chunk,
            codec=form.codec or "",
            images_per_shard=form.images_per_shard,
        )
        units = functools.partial(units_of, rows, form.images_per_shard)
        notes = Notes(work)
        done = sum(_images(unit) for unit in units() if notes.is_committed(unit.name))
        progress = Progress("copy images", count, "images", done)
        with choose.executor(options, work) as executor:
            for _, note in executor.run(work, functools.partial(copy, joined), units(), stop):
                progress.update(note["images"])
        if stop.is_set():
            log.warning("stopped. Run the same command again to continue.")
            return EXIT_STOPPED
        image_bank.write_metadata(out, metadata(banks, rows))
        os.replace(work, out / work_folder.DONE)
    work_folder.tidy(out)
    ending.wrote(out, counted(count, "image"))
    ending.note(images=count)
    next_steps.look(out)
    return EXIT_DONE


def units_of(
    rows: Sequence[Rows], images_per_shard: int, first: int = 0
) -> Iterator[Unit[tuple[int, list[Part]]]]:
    """Some shards each: the number of the first, and what is in them."""
    size = max(1, UNIT_IMAGES // images_per_shard) * images_per_shard
    places = ((bank, row) for bank, part in enumerate(rows) for row in part)
    while block := list(itertools.islice(places, size)):
        parts = [
            (bank, [row for _, row in group])
            for bank, group in itertools.groupby(block, key=lambda place: place[0])
        ]
        yield Unit(f"shards-{first}", (first, parts))
        first += size // images_per_shard


def _images(unit: Unit[tuple[int, list[Part]]]) -> int:
    return sum(len(rows) for _, rows in unit.argument[1])


def copy(joined: Joined, work: Path, argument: tuple[int, list[Part]]) -> Note:
    """Takes some shards over (a unit function).

    Raises:
      UserError: an image is missing or damaged, or the disk is full.
    """
    shard, parts = argument
    places = [(bank, row) for bank, rows in parts for row in rows]
    room = joined.form.images_per_shard
    try:
        for first in range(0, len(places), room):
            _write_shard(joined, shard + first // room, places[first : first + room])
    except (OSError, ValueError) as error:
        raise UserError(
            f"Cannot write to {joined.out}: {str(error).splitlines()[0][:200]}. Is the disk full?"
            " What is finished is kept: make room, then run the same command again.",
            EXIT_FAILED,
        ) from error
    return {"images": len(places)}


def _write_shard(joined: Joined, shard: int, places: list[tuple[int, int]]) -> None:
    banks = [(open_unchanged(*joined.banks[number]), row) for number, row in places]
    form, target = joined.form, image_bank.shard_path(joined.out, shard)
    if any(form_of(bank)[:2] != form[:2] for bank, _ in banks):
        images = np.stack([bank.read(row) for bank, row in banks])
        image_bank.write_block(joined.out, shard * form.images_per_shard, images)
        return
    stored = [bank.where(row) for bank, row in banks]
    chunks = banks[0][0].chunks_per_image
    if is_whole(banks, stored, form):
        shards.check(stored, chunks)
        with files.replacing(target, shared=True) as partial:
            if store.is_remote(stored[0].shard):
                with os.fdopen(node_cache.open_file(stored[0].shard), "rb") as found:
                    partial.write_bytes(found.read())
            else:
                files.link(stored[0].shard, partial)
    else:
        shards.pack(target, stored, form.images_per_shard, chunks)


def is_whole(
    banks: Sequence[tuple[ImageBank, int]], stored: Sequence[shards.Stored], form: Form
) -> bool:
    """Whether images are all that a shard of their bank holds, in its order."""
    bank, row = banks[0]
    end = min(row + form.images_per_shard, len(bank))
    return (
        stored[0].images == form.images_per_shard
        and stored[0].place == 0
        and len(banks) == end - row
        and all(one.shard == stored[0].shard for one in stored)
    )


def metadata(banks: Sequence[ImageBank], rows: Sequence[Rows]) -> Iterator[pa.Table]:
    """What describes the images, part by part."""
    for bank, part in zip(banks, rows, strict=True):
        wanted = part.array()
        for first in range(0, len(wanted), ROW_GROUP):
            yield bank.rows(wanted[first : first + ROW_GROUP], METADATA_SCHEMA.names)


def check_alike(banks: Sequence[ImageBank]) -> None:
    """Raises a UserError for banks whose images do not fit into one."""
    first = banks[0]
    for bank in banks[1:]:
        for what, mine, theirs, mend in (
            (
                "channels",
                ", ".join(first.channels),
                ", ".join(bank.channels),
                "Prepare one of them again with `python -m phenomjax.prepare images --channels`,"
                " which gives both the same names and order",
            ),
            (
                "images of",
                f"{first.shape[1]} x {first.shape[2]} pixels",
                f"{bank.shape[1]} x {bank.shape[2]} pixels",
                "An image bank has one size",
            ),
            (
                "pixels of",
                first.dtype.name,
                bank.dtype.name,
                "Prepare one of them again with `python -m phenomjax.prepare images --intensity`,"
                " as the other",
            ),
        ):
            if mine != theirs:
                raise UserError(
                    f"{first.path} has {what} {mine}, and {bank.path} {theirs}: they do not fit"
                    f" into one bank. {mend}; or leave them apart: a run reads several banks, which"
                    " may differ."
                )


def _attributes(
    banks: Sequence[ImageBank], rows: Sequence[Rows], arguments: growing.Arguments
) -> Attributes:
    """What the bank records: where its images are from, and their numbers of intensity."""
    sources = [
        {
            "bank": str(bank.path),
            "fingerprint": bank.fingerprint,
            "images": len(part),
            "of": len(bank),
            "intensity": bank.attributes.get("intensity"),
        }
        for bank, part in zip(banks, rows, strict=True)
    ]
    sizes = {bank.attributes.get("pixel_size_um") for bank in banks}
    if len(sizes) > 1:
        told = ", ".join(f"{bank.path}: {bank.attributes.get('pixel_size_um')}" for bank in banks)
        log.warning("the sizes of a pixel differ (%s), so the bank records none", told)
    return {
        "pixel_size_um": sizes.pop() if len(sizes) == 1 else None,
        "intensity": join_intensity([bank.attributes.get("intensity") or {} for bank in banks]),
        "sources": sources,
        "prepare": arguments | {"phenomjax": __version__},
    }


def join_intensity(recorded: Sequence[Attributes]) -> Attributes:
    """What banks record of intensity, together. Of a plate of which they have different numbers
    none are kept: they are under `sources`.
    """
    joined: Attributes = {}
    for name in dict.fromkeys(itertools.chain(*recorded)):
        values = [one.get(name) for one in recorded]
        if name == "numbers":
            continue
        same = all(value == values[0] for value in values)
        joined[name] = values[0] if same else SEVERAL if name == "rule" else None
    if joined.get("rule") == SEVERAL:
        rules = ", ".join(str(one.get("rule")) for one in recorded)
        log.warning("the banks were made with different rules of intensity: %s", rules)
    numbers: dict[str, list[Attributes]] = {}
    for one in recorded:
        for plate, pairs in (one.get("numbers") or {}).items():
            numbers.setdefault(plate, []).append(pairs)
    if numbers:
        joined["numbers"] = {p: n[0] for p, n in numbers.items() if all(x == n[0] for x in n)}
    return joined

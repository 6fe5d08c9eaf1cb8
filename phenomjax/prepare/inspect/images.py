"""What is in a bank of images or of sequences, and whether all of it can be read; how the images
look. Of a source file of sequences it says what would be read.

python -m phenomjax.prepare inspect plates.zarr
python -m phenomjax.prepare inspect plates.zarr --quick
python -m phenomjax.prepare inspect uniref50.fasta.gz

Exit codes: 0 all can be read; 1 some is damaged or missing; 2 that is no bank.
"""

import functools
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tyro.conf import Positional

from phenomjax.data import node_cache, selections, store, zarr_files
from phenomjax.data.images import archive
from phenomjax.data.images.bank import APPENDING, ImageBank
from phenomjax.data.images.loading.reader import BadImageError, CropReader
from phenomjax.data.images.metadata import METADATA_SCHEMA, UNIQUE
from phenomjax.data.images.opening import open_bank
from phenomjax.data.images.shards import MISSING
from phenomjax.prepare import next_steps
from phenomjax.prepare.images import findings
from phenomjax.prepare.images.pixels import sameness
from phenomjax.prepare.images.plan import sample
from phenomjax.prepare.inspect import looks, sequences, source_files, suspicions
from phenomjax.system import ending, processes
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED
from phenomjax.system.files import save_figure
from phenomjax.system.log import Progress
from phenomjax.system.processes import core_count

log = logging.getLogger("phenomjax")
BLOCK = 16  # images a task
SHEET_DPI = 110
QUICK_IMAGES = 16  # images that the histograms of --quick come from


class Counted(NamedTuple):
    """What some images hold.

    Attributes:
      images: how many.
      counts: pixels of each value, int64 [channels, values].
      damaged: what is wrong with the others.
      constant: (image, channel) that is one value everywhere.
      same: (image, channel, channel) with the same pixels.
    """

    images: int
    counts: np.ndarray | None
    damaged: list[tuple[int, str]]
    constant: list[tuple[int, int]]
    same: list[tuple[int, int, int]]


@dataclass(frozen=True)
class Options:
    """The bank, and how closely to look."""

    bank: Positional[Path]
    """the bank, NAME.zarr, any other Zarr array with `axes`, a selection of `prepare subset`, or a
    file of sequences to see what it is"""

    axes: str | None = None
    """for an array that is no bank: its axes in order, for instance NCHW"""

    out: Path | None = None
    """images: folder for contact_sheet.png and histograms.png (None: NAME_inspect beside the
    bank)"""

    rows: int = 8
    """images: how many are on the contact sheet"""

    quick: bool = False
    """skip the integrity check; histograms of 16 images, composition of 16 million tokens"""

    jobs: int = 0
    """images: processes (0: number of cores)"""


def run(options: Options) -> int:
    """Prints the description, writes the figures; returns 1 when an image is damaged or a channel
    is empty.
    """
    if store.is_remote(options.bank):
        with node_cache.afresh():
            return _inspect(options)
    return _inspect(options)


def _inspect(options: Options) -> int:
    if sequences.is_token_bank(options.bank):
        return sequences.inspect(options.bank, options.quick)
    if archive.is_index(options.bank) and archive.describes_banks(options.bank):
        print(archive.describe(archive.read_index(options.bank)))
        return EXIT_DONE
    if selections.is_selection(options.bank):
        print(selections.Selection(options.bank).describe())
        return EXIT_DONE
    if source_files.is_source(options.bank):
        return source_files.inspect(options.bank)
    bank = open_bank(options.bank, options.axes)
    with zarr_files.opening(bank.path):
        print(describe(bank))
    indices = sample(range(len(bank)), QUICK_IMAGES if options.quick else len(bank))
    jobs = options.jobs or core_count()
    counted = _count_all(bank, indices, 1 if len(indices) <= BLOCK else jobs)
    counts, damaged = counted.counts, counted.damaged
    if bank.attributes:
        damaged += _strays(bank) + _other_tables(bank)
    whole = [index for index in indices if index not in {bad for bad, _ in damaged}]
    if whole:
        print(looks.histogram_text(bank, counts, len(whole)))
        # beside the bank, not in it, where it is called "."
        path = bank.path if bank.path.name not in ("", "..") else bank.path.resolve()
        path = Path(path.name) if store.is_remote(path) else path
        folder = options.out or path.parent / (path.stem + "_inspect")
        sheet = looks.contact_sheet(bank, sample(whole, options.rows), counts)
        save_figure(sheet, folder / "contact_sheet.png", dpi=SHEET_DPI)
        save_figure(
            looks.histogram_figure(bank, counts), folder / "histograms.png", dpi=looks.HISTOGRAM_DPI
        )
        print(f"figures: {folder}/contact_sheet.png, {folder}/histograms.png")
        for name in ("contact_sheet.png", "histograms.png"):
            ending.note_written(folder / name)
    for text in bank.remarks:
        print(f"remark: {text}")
    copies = suspicions.copies(bank)
    suspect = suspicions.constant(bank, whole, counted.constant)
    for text in [*suspect, *suspicions.same_channels(bank, whole, counted.same), *copies]:
        print(text)
    for index, detail in damaged[:20]:
        print(f"damaged: {suspicions.image_name(bank, index) if index >= 0 else ''}{detail}")
    ending.note(images=len(bank), shape=bank.shape, channels=bank.channels, damaged=len(damaged))
    if damaged:
        more = f" ({len(damaged) - 20} more are not shown)" if len(damaged) > 20 else ""
        print(
            f"{len(damaged)} problems{more}. Copy those files again from where the bank came from,"
            " or delete the bank and prepare it again; training can pass over them with"
            " --config.data.on_bad_image=skip."
        )
        return EXIT_FAILED
    checked = (
        f"{len(indices)} of {len(bank)} images" if options.quick else f"all {len(bank)} images"
    )
    missing = f"{len(bank.remarks)} remarks, see above" if bank.remarks else "nothing missing"
    print(f"integrity: {checked} decoded, {missing}")
    empty = suspicions.empty_channels(bank, whole, counted.constant)
    if empty:
        print(
            f"{', '.join(empty)} {'has' if len(empty) == 1 else 'have'} one value everywhere in"
            " every image: there is nothing to learn from. Look at the files that the bank was"
            " made of, or prepare them again without, with --channels."
        )
        return EXIT_FAILED
    next_steps.train([bank])
    return EXIT_DONE


def describe(bank: ImageBank) -> str:
    """Shape, channels, chunks, compression, rule of intensity and metadata, as lines."""
    count, height, width, depth = bank.shape
    # a web server does not say
    there = store.list_files(bank.array_path) if store.has_lists(bank.path) else ()
    stored = sum(file.bytes for file in there)
    raw = int(np.prod(bank.shape)) * bank.dtype.itemsize
    attributes = bank.attributes
    lines = {
        "bank": f"{store.url(bank.path)}, fingerprint {bank.fingerprint[:12]}",
        "images": f"{count} of {height} x {width} pixels, {depth} channels, {bank.dtype}",
        "channels": ", ".join(bank.channels),
        "chunks": (
            f"{' x '.join(map(str, bank.chunk_shape))} (height x width x channels),"
            f" {_codec(bank.stored)}"
        ),
        "size": (
            f"{_mebibytes(stored)} stored, {_mebibytes(raw)} decoded, compression"
            f" {raw / max(stored, 1):.2f}"
        ),
    }
    if attributes:
        recorded = {
            key: value
            for key, value in (attributes["intensity"] or {}).items()
            if not isinstance(value, dict)
        }
        lines["intensity"] = (
            ", ".join(f"{key} {value}" for key, value in recorded.items()) or "not recorded"
        )
        size = attributes["pixel_size_um"]
        lines["pixel size"] = f"{size} micrometres" if size else "not recorded"
        for name in (findings.REJECTED, findings.REMARKS):
            if listed := findings.reasons(bank.path / name):
                lines[name.removesuffix(".parquet")] = f"{findings.counted(listed)} ({name})"
        if len(bank.tables) > 1:
            parts = " + ".join(str(table.rows) for table in bank.tables)
            lines["appended"] = f"{parts} images in {len(bank.tables)} tables"
        for source in attributes.get("sources", ()):
            lines[f"of {source['bank']}"] = f"{source['images']} of {source['of']} images"
        if (bank.path / APPENDING).is_dir():
            lines["append"] = "begun and not finished: run the same command again"
    metadata = {}
    for name in METADATA_SCHEMA.names:
        if name in UNIQUE:
            continue
        column = bank.column(name)
        if column.null_count < count:
            values = [str(value) for value in column.unique().to_pylist() if value is not None]
            shown = ", ".join(values[:4]) + (", ..." if len(values) > 4 else "")
            empty = f", empty for {column.null_count} images" if column.null_count else ""
            metadata[name] = f"{len(values)} different ({shown}){empty}"
    lines |= metadata or {"metadata": "none"}
    return "\n".join(f"{name + ':':19}{text}" for name, text in lines.items())


def check_image(bank: ImageBank, index: int) -> tuple[np.ndarray | None, str]:
    """Decodes one image; returns it and "", or None and what is wrong with it."""
    if bank.attributes:
        shard = bank.shard_path(index)
        if store.is_remote(shard):  # once, through the cache
            return _check_fetched(bank, index)
        if not shard.is_file():
            return None, "the file is missing"
        if fault := _index_fault(bank, index):
            return None, fault
    try:
        return bank.array[index].read().result(), ""
    except (ValueError, OSError) as error:
        return (
            None,
            "does not decode: " + str(error).split(" [source locations")[0].splitlines()[0][:300],
        )


def _check_fetched(bank: ImageBank, index: int) -> tuple[np.ndarray | None, str]:
    image = np.empty(bank.shape[1:], bank.dtype)
    try:
        CropReader(bank).read_into(image, index, 0, 0)
    except BadImageError as error:
        return None, error.what
    return image, ""


def _index_fault(bank: ImageBank, index: int) -> str:
    """What the index at the end of its shard says is wrong with an image; TensorStore would read a
    chunk that is not there as zeros.
    """
    shard, place, images = bank.where(index)
    grid, size = bank.chunks_per_image, shard.stat().st_size
    length = images * grid * 16 + 4
    if size < length:
        return f"is truncated ({size} bytes, less than its index)"
    with shard.open("rb") as file:
        file.seek(size - length + 16 * grid * place)
        entries = np.frombuffer(file.read(16 * grid), "<u8").reshape(grid, 2)
    missing = int((entries == MISSING).all(axis=1).sum())
    if missing:
        return f"{missing} of {grid} chunks are missing"
    if (entries.astype(float).sum(axis=1) > size - length).any():
        return f"is truncated or overwritten ({size} bytes; its index points past its end)"
    return ""


def _count_block(bank: ImageBank, indices: list[int]) -> Counted:
    values = (
        1 << 8 * bank.dtype.itemsize if bank.dtype.kind == "u" and bank.dtype.itemsize < 3 else 0
    )
    counts, damaged = np.zeros((bank.shape[3], values), np.int64), []
    constant, same = [], []
    for index in indices:
        image, fault = check_image(bank, index)
        if image is None:
            damaged.append((index, fault))
            continue
        constant += [
            (index, channel)
            for channel in range(image.shape[2])
            if sameness.is_constant(image[..., channel])
        ]
        same += [(index, *pair) for pair in sameness.same_planes(image)]
        if values:
            counts += np.stack(
                [
                    np.bincount(plane.ravel(), minlength=values)
                    for plane in np.moveaxis(image, -1, 0)
                ]
            )
    return Counted(len(indices), counts if values else None, damaged, constant, same)


def _count_all(bank: ImageBank, indices: list[int], jobs: int) -> Counted:
    blocks = [indices[i : i + BLOCK] for i in range(0, len(indices), BLOCK)]
    progress = Progress("decode", len(indices), "images")
    total = Counted(0, None, [], [], [])
    for block in processes.run_tasks(
        functools.partial(_count_block, bank), blocks, jobs, threading.Event()
    ):
        progress.update(block.images)
        counts = block.counts if total.counts is None else total.counts + block.counts
        total = Counted(
            total.images + block.images,
            counts,
            sorted(total.damaged + block.damaged),
            sorted(total.constant + block.constant),
            sorted(total.same + block.same),
        )
    return total


def _strays(bank: ImageBank) -> list[tuple[int, str]]:
    if (bank.path / APPENDING).is_dir():  # shards that are not the bank's yet
        return []
    firsts = range(0, len(bank), bank.images_per_shard)
    known = {bank.shard_path(index).name for index in firsts} | {"zarr.json"}
    names = store.names(bank.array_path)
    return [
        (-1, f"{bank.array_path / name} is no image of this bank: delete it")
        for name in sorted(names)
        if name not in known
    ]


def _other_tables(bank: ImageBank) -> list[tuple[int, str]]:
    """Tables of metadata that are not what the bank recorded when they were written."""
    return [
        (-1, f"{bank.path / one['file']} is not as it was written: edited since, or damaged")
        for one in bank.attributes.get("tables", ())
        if store.sha256(bank.path / one["file"]) != one["sha256"]
    ]


def _codec(stored: dict) -> str:
    if not stored:
        return "OME-Zarr"
    if stored.get("zarr_format") == 2:
        return f"Zarr v2, {(stored.get('compressor') or {}).get('id', 'no compression')}"
    codecs = stored["codecs"]
    sharded = codecs[0]["name"] == "sharding_indexed"
    inner = codecs[0]["configuration"]["codecs"] if sharded else codecs
    names = []
    for codec in inner:
        configuration = codec.get("configuration", {})
        parts = [
            str(configuration[key])
            for key in ("cname", "clevel", "level", "shuffle")
            if key in configuration
        ]
        names += ["-".join([codec["name"], *parts])] if codec["name"] != "bytes" else []
    images = stored["chunk_grid"]["configuration"]["chunk_shape"][0]
    shards = "one shard an image" if images == 1 else f"{images} images a shard"
    return f"Zarr v3, {', '.join(names) or 'no compression'}{f', {shards}' if sharded else ''}"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"

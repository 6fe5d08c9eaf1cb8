"""The result of an embedding of images: rows of crops, sites or wells, made from the committed
units.

NAME.zarr/zarr.json          group; attributes["phenomjax"] = format, version, digest, level,
                             checkpoint, bank, crop_size, …
NAME.zarr/embeddings/c.K.0   [rows, dim], uncompressed chunks; of several blocks
                             `embeddings_block_15`, …
NAME.zarr/metadata.parquet   row i describes embedding i: METADATA, and time where images have it
NAME.zarr/statistics.parquet the groups whose statistics were used, their images and controls; only
                             where they are no running ones
NAME.zarr/rejected.parquet   image, name, reason; only where images could not be read
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Integer

from phenomjax.data import zarr_files
from phenomjax.data.images.bank import ImageBank
from phenomjax.inference.images.job import BankEmbedding
from phenomjax.inference.images.plan import EmbeddingSettings, Grid, WorkLayout
from phenomjax.inference.rows import FORMAT, VERSION, Rows
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.files import link

COPIED = (
    "experiment",
    "plate",
    "well",
    "site",
    "cell_type",
    "perturbation",
    "perturbation_type",
    "gene",
    "concentration",
    "is_control",
)
WELL = ("experiment", "plate", "well")  # what makes a well
METADATA = (*COPIED, "num_crops", "num_images", "image")
REJECTED = pa.schema([("image", pa.int64()), ("name", pa.string()), ("reason", pa.string())])


class Rejected(TypedDict):
    """An image that could not be read."""

    image: int
    name: str
    reason: str


# of images, wells or rows
Numbers: TypeAlias = Integer[np.ndarray, " number"]
ROWS = 1 << 16  # rows that are in memory at a time


def unit_dtype(settings: EmbeddingSettings) -> str:
    """Type of the rows in the work folder: wells are means of float32 sites."""
    return "float32" if settings.level == "well" else settings.dtype


def unit_rows(settings: EmbeddingSettings, layout: WorkLayout) -> int:
    """Rows of a full unit in the work folder: its crops, or else its images."""
    return layout.unit_images * (layout.crops_per_image if settings.level == "crop" else 1)


def write(
    folder: Path,
    job: BankEmbedding,
    rejected: Sequence[Rejected],
    statistics: pa.Table | None = None,
) -> None:
    """Writes the result of complete units.

    Args:
      folder: that is made.
      job: whose units are committed.
      rejected: images that could not be read; their rows are left out.
      statistics: the groups whose statistics were used, if they are no running ones.

    Raises:
      UserError: no image could be read.
    """
    bank, settings, layout = job.bank, job.settings, job.layout
    bad = {entry["image"] for entry in rejected}
    if len(bad) == len(bank):
        raise UserError(
            f"None of the {len(bank)} images of {bank.path} could be read: {rejected[0]['name']}:"
            f" {rejected[0]['reason']}. Probably the bank was copied without its images. Mend it,"
            f" remove {job.work}, and run the same command again.",
            EXIT_FAILED,
        )
    folder.mkdir()
    good = np.setdiff1d(np.arange(len(bank)), list(bad))
    per_image = layout.crops_per_image if settings.level == "crop" else 1
    width = job.dim * np.dtype(unit_dtype(settings)).itemsize
    for name in settings.arrays():
        units = Rows(
            job.work / name,
            len(bank) * per_image,
            job.dim,
            unit_dtype(settings),
            unit_rows(settings, layout) * width,
        )
        if settings.level == "well":
            _write_means(folder / name, units, good, _wells(bank, good)[0], settings.dtype)
        elif settings.level == "crop" and not bad:
            _link(folder / name, job.work / name, units, layout)
        else:
            _copy(folder / name, units, good, per_image, settings)
    _write_metadata(folder / "metadata.parquet", bank, job.grid, settings.level, good)
    if rejected:
        pq.write_table(
            pa.Table.from_pylist(list(rejected), schema=REJECTED), folder / "rejected.parquet"
        )
    if statistics is not None:
        pq.write_table(statistics, folder / "statistics.parquet")
    zarr_files.write_group(folder, {"format": FORMAT, "version": VERSION, **job.recorded})


def _wells(bank: ImageBank, good: Numbers) -> tuple[Numbers, Numbers]:
    """For each good image the number of its well, in the order in which wells first come; and the
    first image of each well.
    """
    runs = bank.runs([*WELL, "time"])  # time points are not averaged
    codes = runs.spread(np.arange(runs.codes.shape[1]), len(bank))[good]
    _, first, found = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[found], good[first[order]]


def num_wells(bank: ImageBank) -> int:
    """Different wells of a bank."""
    return len(_wells(bank, np.arange(len(bank)))[1])


def _write_means(path: Path, units: Rows, good: Numbers, wells: Numbers, dtype: str) -> None:
    """Rows of wells: the mean over the images of each, in the order of the bank."""
    order = np.argsort(wells, kind="stable")
    starts = np.searchsorted(wells[order], np.arange(wells.max() + 2))
    rows = Rows(path, len(starts) - 1, units.shape[1], dtype)
    rows.create("well")
    first = 0
    while first < rows.shape[0]:
        last = max(int(np.searchsorted(starts, starts[first] + ROWS, side="right")) - 1, first + 1)
        values = _take(units, good[order[starts[first] : starts[last]]])
        sums = np.add.reduceat(
            values.astype(np.float64), starts[first:last] - starts[first], axis=0
        )
        counts = np.diff(starts[first : last + 1])[:, None]
        rows.write(first, slice(None), (sums / counts).astype(dtype))
        first = last
    rows.flush()


def _copy(
    path: Path, units: Rows, good: Numbers, per_image: int, settings: EmbeddingSettings
) -> None:
    """The rows of good images, as they are."""
    rows = Rows(path, len(good) * per_image, units.shape[1], settings.dtype)
    rows.create("crop" if settings.level == "crop" else "site")
    for first in range(0, len(good), max(ROWS // per_image, 1)):
        images = good[first : first + max(ROWS // per_image, 1)]
        rows.write(
            first * per_image,
            slice(None),
            _take(units, (images[:, None] * per_image + np.arange(per_image)).ravel()),
        )
    rows.flush()


def _link(path: Path, stored: Path, units: Rows, layout: WorkLayout) -> None:
    """The units' files themselves, which are chunks of this array: a big archive of crops is not
    written twice.
    """
    rows = Rows(path, *units.shape, units.dtype.name, units.chunk_bytes)
    rows.describe("crop")
    for unit in range(layout.units):
        link(stored / f"c.{unit}.0", path / f"c.{unit}.0")


def _take(units: Rows, rows: Numbers) -> Float[np.ndarray, "rows dim"]:
    """Rows by rising number, not all neighbours."""
    if not len(rows):
        return np.zeros((0, units.shape[1]), units.dtype)
    if rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return units.read(int(rows[0]), int(rows[-1]) + 1)
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return np.concatenate(
        [units.read(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, breaks)]
    )


def _write_metadata(path: Path, bank: ImageBank, grid: Grid, level: str, good: Numbers) -> None:
    tables = _metadata(bank, grid, level, good)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _metadata(bank: ImageBank, grid: Grid, level: str, good: Numbers) -> Iterator[pa.Table]:
    """The metadata of the rows, some at a time."""
    place = COPIED.index("site") + 1
    times = ["time"] if bank.column("time").null_count < len(bank) else []
    copied = [*COPIED[:place], *times, *COPIED[place:]]
    crops = len(grid)
    if level == "well":
        wells, first = _wells(bank, good)
        images = np.bincount(wells)
        table = bank.rows(first, copied)
        table = table.set_column(COPIED.index("site"), "site", pa.nulls(len(first), pa.string()))
        yield _counted(table, images * crops, images, pa.nulls(len(first), pa.int64()))
        return
    step = max(16 * ROWS // (crops if level == "crop" else 1), 1)
    for begin in range(0, len(good), step):
        images = good[begin : begin + step]
        if level == "site":
            ones = np.ones(len(images), np.int64)
            yield _counted(
                bank.rows(images, copied), ones * crops, ones, pa.array(images, pa.int64())
            )
            continue
        rows = np.repeat(images, crops)
        ones = np.ones(len(rows), np.int64)
        table = _counted(bank.rows(rows, copied), ones, ones, pa.array(rows, pa.int64()))
        for name, values in (("y", grid.ys), ("x", grid.xs)):
            table = table.append_column(name, pa.array(np.tile(values, len(images)), pa.int32()))
        yield table


def _counted(
    table: pa.Table, num_crops: np.ndarray, num_images: np.ndarray, image: pa.Array
) -> pa.Table:
    table = table.append_column("num_crops", pa.array(num_crops, pa.int64())).append_column(
        "num_images", pa.array(num_images, pa.int64())
    )
    return table.append_column("image", image).combine_chunks()

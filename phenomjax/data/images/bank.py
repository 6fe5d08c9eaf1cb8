"""The image bank: a Zarr v3 array of images, one or more a shard, and Parquet tables of one row an
image.

    NAME.zarr/zarr.json            group; attributes["phenomjax"] = format, version, channels,
                                   bit_depth, intensity, ..., and `tables`: file, rows, sha256 and
                                   bytes of each table of metadata. It says how many images there
                                   are: while some are appended, images/zarr.json has more
    NAME.zarr/images/zarr.json     array [image, y, x, channel], sharding_indexed
    NAME.zarr/images/c.S.0.0.0     the images S * K to S * K + K - 1, all of them, where a shard has
                                   K images (flat names: one inode a shard)
    NAME.zarr/metadata.parquet     METADATA_SCHEMA, row I describes image I
    NAME.zarr/metadata-1.parquet   the same, of images that were appended, and so on

Any other Zarr v2 or v3 array is read through the same interface by naming its axes,
`open_bank("x.zarr", axes="NCHW")`, and an OME-Zarr plate as it is, `open_bank("plate.zarr")`
(foreign.py).
"""

import functools
import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorstore as ts
from jaxtyping import Shaped

from phenomjax.data import store, zarr_files
from phenomjax.data.images.codecs import CODECS, sharding
from phenomjax.data.images.metadata import (
    Metadata,
    Runs,
    Table,
    conform_metadata,
    other_rows,
    read_tables,
    write_table,
)
from phenomjax.data.images.rows import Rows
from phenomjax.data.images.shards import Stored
from phenomjax.data.zarr_files import Attributes, open_array
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError, did_you_mean
from phenomjax.system.files import read_json

# Version 2 has several tables, or shards of several images; a bank that needs neither stays 1.
FORMAT, VERSION = "image_bank", 2
DTYPES = {"uint8": 8, "uint16": 16}
APPENDING = ".append"  # a folder in a bank that `prepare append` is making longer


def create_bank(
    path: str | Path,
    shape: Sequence[int],
    dtype: str | np.dtype,
    channels: Sequence[str],
    *,
    attributes: dict | None = None,
    chunk: int = 128,
    codec: str = "blosc-lz4",
    images_per_shard: int = 1,
) -> None:
    """Writes the two zarr.json files of a bank, no pixels and no metadata.

    Args:
      path: the folder, `NAME.zarr`; made if it is not there.
      shape: [images, height, width, channels].
      dtype: uint8 or uint16.
      channels: one name a channel, in the order of the last axis.
      attributes: more entries for `attributes["phenomjax"]`, such as "intensity" and
        "pixel_size_um".
      chunk: height and width of the inner chunks in pixels.
      codec: one of CODECS.
      images_per_shard: images in a file; more than one makes a bank that phenomjax before version 2
        of the format cannot read.

    Raises:
      UserError: a dtype, codec, chunk or list of channels that no bank can have.
    """
    dtype = np.dtype(dtype)
    _, height, width, depth = (int(size) for size in shape)
    if dtype.name not in DTYPES:
        raise UserError(
            f"An image bank holds uint8 or uint16 pixels, not {dtype.name} ({path}). Convert them"
            " first."
        )
    if codec not in CODECS:
        raise UserError(
            f"Unknown codec {codec!r}.{did_you_mean(codec, CODECS)} There are: {', '.join(CODECS)}."
        )
    if chunk < 1:
        raise UserError(
            f"The chunk must be at least 1 pixel, not {chunk}. Leave it at its default of 128."
        )
    if images_per_shard < 1:
        raise UserError(
            f"A shard has at least 1 image, not {images_per_shard}. Leave that at its default of 1."
        )
    if len(channels) != depth or len(set(channels)) != depth:
        raise UserError(
            f"{path}: the images have {depth} channels, but the names given are {list(channels)}."
            " Give one different name for each channel, in the order of the last axis."
        )
    height, width = (-(-size // chunk) * chunk for size in (height, width))
    shard = (images_per_shard, height, width, depth)
    path, dimensions = Path(path), ("image", "y", "x", "channel")
    _writer.cache_clear()
    zarr_files.write_array(
        path / "images",
        shape,
        dtype,
        dimensions,
        shard,
        [sharding(codec, dtype, (1, chunk, chunk, depth))],
    )
    entry = {
        "format": FORMAT,
        "version": 1 if images_per_shard == 1 else VERSION,
        "channels": list(channels),
        "bit_depth": DTYPES[dtype.name],
        "intensity": None,
        "pixel_size_um": None,
    }
    zarr_files.write_group(path, entry | (attributes or {}))


def write_image(path: str | Path, index: int, image: Shaped[np.ndarray, "y x channels"]) -> None:
    """Writes one whole image, atomically: TensorStore writes a lock file, syncs it, and renames it
    to the shard's name.

    Where a shard has several images it is written anew with each: make shards of one image, and
    `shards.pack` them.

    Args:
      path: a folder made by `create_bank`.
      index: row of the image.
      image: [height, width, channels] of the bank's dtype.
    """
    array = _writer(str(path))
    if image.dtype != array.dtype.numpy_dtype or image.shape != array.shape[1:]:
        raise ValueError(
            f"{path} takes {array.dtype.name} {array.shape[1:]}, not {image.dtype} {image.shape}"
        )
    array[index].write(image).result()


def write_block(
    path: str | Path, first: int, images: Shaped[np.ndarray, "images y x channels"]
) -> None:
    """Writes all images of one shard, or the first of the last one, at once; see `write_image`."""
    _writer(str(path))[first : first + len(images)].write(images).result()


def shard_path(path: str | Path, shard: int) -> Path:
    """The file of a shard of the bank at `path`; where each has one image, that of the image."""
    return Path(path) / "images" / f"c.{shard}.0.0.0"


def write_bank(
    path: str | Path,
    images: Iterable[np.ndarray],
    metadata: pa.Table,
    channels: Sequence[str],
    *,
    attributes: dict | None = None,
    chunk: int = 128,
    codec: str = "blosc-lz4",
    images_per_shard: int = 1,
) -> None:
    """Writes a whole bank from images in memory (simulators, tests); big jobs go through
    `phenomjax.prepare`.

    Args:
      images: [height, width, channels] arrays, all of one shape and dtype; may be a generator.
      metadata: one row an image; columns of METADATA_SCHEMA, those that are missing become null.
      path, channels, attributes, chunk, codec, images_per_shard: of `create_bank`.
    """
    metadata, count, waiting = conform_metadata(metadata), 0, iter(images)
    while block := list(itertools.islice(waiting, images_per_shard)):
        if not count:
            create_bank(
                path,
                (metadata.num_rows, *block[0].shape),
                block[0].dtype,
                channels,
                attributes=attributes,
                chunk=chunk,
                codec=codec,
                images_per_shard=images_per_shard,
            )
        if count + len(block) <= len(metadata):
            write_block(path, count, np.stack(block))
        count += len(block)
    if count != metadata.num_rows or not count:
        raise ValueError(f"{path}: {count} images but {metadata.num_rows} rows of metadata")
    write_metadata(path, metadata)


def write_metadata(path: str | Path, metadata: pa.Table | Iterable[pa.Table]) -> None:
    """Writes metadata.parquet of a bank and records it in the bank's zarr.json.

    Args:
      path: the bank.
      metadata: one row an image; or its parts, one after the other.
    """
    _write_table(Path(path), [], metadata)


def append_metadata(
    path: str | Path, metadata: pa.Table | Iterable[pa.Table], attributes: Attributes | None = None
) -> None:
    """Adds images whose shards are there already to a bank; it has them when its zarr.json is
    written, which comes last.

    Args:
      path: the bank.
      metadata: one row for each new image; or its parts, one after the other.
      attributes: what else the bank records from then on.
    """
    path, tables = Path(path), ImageBank(path).tables
    if not tables[0].sha256:  # of before zarr.json named tables
        file = path / tables[0].file
        tables[0] = tables[0]._replace(sha256=files.sha256(file), bytes=file.stat().st_size)
    _record(path, tables)  # from now on images/zarr.json may have more images
    _write_table(path, tables, metadata, attributes)


def _write_table(
    path: Path,
    tables: Sequence[Table],
    metadata: pa.Table | Iterable[pa.Table],
    attributes: Attributes | None = None,
) -> None:
    target = path / (f"metadata-{len(tables)}.parquet" if tables else "metadata.parquet")
    with files.replacing(target) as partial:
        parts = [metadata] if isinstance(metadata, pa.Table) else metadata
        rows = write_table(partial, parts)
        table = Table(target.name, rows, files.sha256(partial), partial.stat().st_size)
        if not tables:  # an unfinished bank is one without the file, which its zarr.json may name
            _record(path, [table])
    if tables:
        stored = read_json(path / "images" / zarr_files.NAME)
        stored["shape"][0] = sum(one.rows for one in tables) + rows
        files.write_json(path / "images" / zarr_files.NAME, stored)
        _record(path, [*tables, table], attributes)


def _record(path: Path, tables: Sequence[Table], attributes: Attributes | None = None) -> None:
    entry = zarr_files.read_entry(path) | (attributes or {})
    entry["tables"] = [table._asdict() for table in tables]
    if len(tables) > 1:
        entry["version"] = 2
    zarr_files.write_group(path, entry)


class ImageBank:
    """Images with named channels and one row of metadata each. Opens its files lazily, pickles as
    its path.

    Attributes:
      path: the folder.
      shape: (images, height, width, channels).
      dtype: NumPy dtype of the pixels.
      channels: names, in the order of the last axis.
      attributes: what `attributes["phenomjax"]` says (bit_depth, intensity, ...); {} for a foreign
        array.
      tables: of the metadata, which has METADATA_SCHEMA, one row an image; all null for a foreign
        array.
      fingerprint: sha256 of the files that describe the bank; changes when its images are others.
      axes: the axes of the stored array, "NHWC" for a bank.
      chunk_shape: (height, width, channels) of the smallest piece that can be decoded.
      images_per_chunk: how many images that piece reaches into, 1 but for some foreign arrays.
      images_per_shard: images in a file (banks only).
      array_path: folder of the stored array.
      stored: the metadata of the array as its zarr.json (v3) or .zarray (v2) has it.
      remarks: what is to be known of a plate that is read in place, a sentence each.
    """

    axes = "NHWC"
    remarks: tuple[str, ...] = ()
    shape: tuple[int, ...]
    _copies: tuple[Path, Rows] | None = None

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.array_path = self.path / "images"
        self.attributes = zarr_files.read_entry(self.path)
        with zarr_files.opening(self.path):
            zarr_files.expect(
                self.attributes, channels=list, intensity=dict, pixel_size_um=(int, float)
            )
            zarr_files.expect(self.attributes, tables=list)
            stored = store.read_json(self.array_path / "zarr.json")
            self._describe(stored, self.attributes["channels"])
            self.tables = read_tables(self.path, self.attributes.get("tables") or ())
            images, count = self.shape[0], sum(table.rows for table in self.tables)
            if count > images or (count < images and "tables" not in self.attributes):
                raise other_rows(self.path, f"{images} images", "its metadata.parquet", count)
            self.shape = (count, *self.shape[1:])
            self.fingerprint = self._fingerprint()

    def _describe(self, stored: dict, channels: Sequence[str]) -> None:
        """Takes what the zarr.json of the array says."""
        self.stored, self.shape = stored, tuple(stored["shape"])
        self.dtype, self.channels = np.dtype(stored["data_type"]), tuple(channels)
        self.chunk_shape = tuple(stored["codecs"][0]["configuration"]["chunk_shape"][1:])
        self.images_per_chunk = 1
        self.images_per_shard = stored["chunk_grid"]["configuration"]["chunk_shape"][0]
        numbers = (*self.shape, *self.chunk_shape, self.images_per_shard)
        if [type(size) for size in numbers] != [int] * 8:
            raise ValueError(f"a shape of {self.shape} in chunks of {self.chunk_shape}")
        if [type(c) for c in self.channels] != [str] * self.shape[3]:
            raise ValueError(f"{self.shape[3]} channels that are called {self.channels}")

    def _fingerprint(self) -> str:
        described = store.read_bytes(self.array_path / zarr_files.NAME)
        if self.stored["shape"][0] != self.shape[0]:  # images that are being appended
            described = files.json_text(self.stored | {"shape": list(self.shape)}).encode()
        digests = [store.sha256(self.path / zarr_files.NAME), hashlib.sha256(described).hexdigest()]
        digests += [one.sha256 or store.sha256(self.path / one.file) for one in self.tables]
        return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()

    @functools.cached_property
    def described(self) -> Metadata:
        """What describes the images, to be read column by column."""
        return Metadata(self.path, self.tables)

    @functools.cached_property
    def metadata(self) -> pa.Table:
        """All that describes the images, METADATA_SCHEMA: a GiB for 2 million of them."""
        return self.described.read()

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the metadata; texts that repeat are dictionary-encoded."""
        return self.described.column(name)

    def rows(self, indices: Sequence[int] | np.ndarray, columns: Sequence[str]) -> pa.Table:
        """The metadata of some images, in the order in which they are asked for."""
        return self.described.rows(indices, columns)

    def runs(self, columns: Sequence[str]) -> Runs:
        """Columns of the metadata together, as runs of images that have the same in all of them."""
        return self.described.runs(columns)

    def check(self) -> None:
        """Called before the first image is read; an index's bank may be another one by then."""

    @functools.cached_property
    def array(self) -> ts.TensorStore:
        """The pixels as a lazy TensorStore array with axes [image, y, x, channel]."""
        with zarr_files.opening(self.path):
            # a shard that is not there, of a part that was copied alone, is no black image
            return open_array(self.array_path, self.stored, fill_missing_data_reads=False)

    def read(self, index: int) -> Shaped[np.ndarray, "y x channels"]:
        """Decodes image `index` whole: [height, width, channels].

        Raises:
          UserError: it is missing or damaged.
        """
        try:
            return self.array[index].read().result()
        except (ValueError, OSError) as error:
            raise UserError(
                f"Image {index} of the bank {store.url(self.path)} cannot be read"
                f" ({str(error).split(' [')[0].splitlines()[0][:200]}). Find all such images with"
                f" `python -m phenomjax.prepare inspect {store.url(self.path)}` and copy them"
                " again.",
                EXIT_FAILED,
            ) from error

    def shard_of(self, index: int) -> int:
        """Number of the shard that holds image `index`."""
        return index // self.images_per_shard

    def shard_path(self, index: int) -> Path:
        """The file that holds image `index` (banks only)."""
        shard = self.shard_of(index)
        if self._copies is not None and shard in self._copies[1]:
            return shard_path(self._copies[0], shard)
        return shard_path(self.path, shard)

    def read_from(self, folder: Path, shards: Rows) -> None:
        """Crops of these shards are read from copies in a folder from now on."""
        self._copies = folder, shards

    def where(self, index: int) -> Stored:
        """Where image `index` is stored (banks only)."""
        images = self.images_per_shard
        return Stored(self.shard_path(index), index % images, images)

    @property
    def chunks_per_image(self) -> int:
        """Chunks that an image is divided into (banks only)."""
        rows, columns, _ = self.chunk_shape
        return -(-self.shape[1] // rows) * -(-self.shape[2] // columns)

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self):
        return type(self), (self.path,)


@functools.lru_cache(maxsize=8)
def _writer(path: str) -> ts.TensorStore:
    # Chunks of zeros are stored too: then a chunk that is not there is always damage.
    images = os.path.join(path, "images")
    return open_array(
        images, read_json(Path(images) / "zarr.json"), store_data_equal_to_fill_value=True
    )

"""The image bank: a Zarr v3 array of images, one shard an image, and a Parquet table of one row an
image.

    NAME.zarr/zarr.json            group; attributes["phenomjax"] = format, version, channels,
                                   bit_depth, intensity, ...
    NAME.zarr/images/zarr.json     array [image, y, x, channel], sharding_indexed
    NAME.zarr/images/c.I.0.0.0     image I, all of it (flat names: one inode an image)
    NAME.zarr/metadata.parquet     METADATA_SCHEMA, row I describes image I

Any other Zarr v2 or v3 array is read through the same interface by naming its axes,
`open_bank("x.zarr", axes="NCHW")`, and an OME-Zarr plate as it is, `open_bank("plate.zarr")`
(foreign.py).
"""

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts
from jaxtyping import Shaped

from phenomjax.data import zarr_files
from phenomjax.system import files
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.files import read_json

FORMAT, VERSION = "image_bank", 1
METADATA_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("experiment", "plate", "well", "site", "time", "cell_type", "perturbation")
    ]
    + [("perturbation_type", pa.string()), ("gene", pa.string()), ("concentration", pa.float64())]
    + [("is_control", pa.bool_()), ("source", pa.string()), ("checksum", pa.string())]
)
PERTURBATION_TYPES = ("crispr", "sirna", "compound", "orf", "control")
DTYPES = {"uint8": 8, "uint16": 16}
# Bitshuffle makes lz4 as small as zstd on microscopy, at a third of the decoding time.
CODECS: dict[str, dict | None] = {
    "blosc-lz4": {
        "name": "blosc",
        "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"},
    },
    "blosc-zstd": {
        "name": "blosc",
        "configuration": {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle"},
    },
    "zstd": {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
    "none": None,
}


def create_bank(
    path: str | Path,
    shape: Sequence[int],
    dtype: str | np.dtype,
    channels: Sequence[str],
    *,
    attributes: dict | None = None,
    chunk: int = 128,
    codec: str = "blosc-lz4",
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
    if len(channels) != depth or len(set(channels)) != depth:
        raise UserError(
            f"{path}: the images have {depth} channels, but the names given are {list(channels)}."
            " Give one different name for each channel, in the order of the last axis."
        )
    inner = [zarr_files.bytes_codec(dtype)]
    compression = CODECS[codec]
    if compression:
        step = {"name": compression["name"], "configuration": dict(compression["configuration"])}
        if step["name"] == "blosc":
            # 2 for uint8 too: a typesize of 1 falls into blosc's scalar code, 1.4 times slower to
            # decode, and compresses less.
            step["configuration"] |= {"typesize": 2, "blocksize": 0}
        inner.append(step)
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, chunk, chunk, depth],
            "codecs": inner,
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "index_location": "end",
        },
    }
    shard = (1, _round_up(height, chunk), _round_up(width, chunk), depth)
    path, dimensions = Path(path), ("image", "y", "x", "channel")
    _writer.cache_clear()
    zarr_files.write_array(path / "images", shape, dtype, dimensions, shard, [sharding])
    entry = {
        "format": FORMAT,
        "version": VERSION,
        "channels": list(channels),
        "bit_depth": DTYPES[dtype.name],
        "intensity": None,
        "pixel_size_um": None,
    }
    zarr_files.write_group(path, entry | (attributes or {}))


def write_image(path: str | Path, index: int, image: Shaped[np.ndarray, "y x channels"]) -> None:
    """Writes one whole image, atomically: TensorStore writes a lock file, syncs it, and renames it
    to the shard's name.

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


def shard_path(path: str | Path, index: int) -> Path:
    """The file that holds image `index` of the bank at `path`."""
    return Path(path) / "images" / f"c.{index}.0.0.0"


def write_bank(
    path: str | Path,
    images: Iterable[np.ndarray],
    metadata: pa.Table,
    channels: Sequence[str],
    *,
    attributes: dict | None = None,
    chunk: int = 128,
    codec: str = "blosc-lz4",
) -> None:
    """Writes a whole bank from images in memory (simulators, tests); big jobs go through
    `phenomjax.prepare`.

    Args:
      images: [height, width, channels] arrays, all of one shape and dtype; may be a generator.
      metadata: one row an image; columns of METADATA_SCHEMA, those that are missing become null.
    """
    metadata, count = conform_metadata(metadata), 0
    for count, image in enumerate(images, start=1):
        if count == 1:
            shape, dtype = (metadata.num_rows, *image.shape), image.dtype
            create_bank(
                path, shape, dtype, channels, attributes=attributes, chunk=chunk, codec=codec
            )
        write_image(path, count - 1, image)
    if count != metadata.num_rows or not count:
        raise ValueError(f"{path}: {count} images but {metadata.num_rows} rows of metadata")
    write_metadata(path, metadata)


def conform_metadata(table: pa.Table) -> pa.Table:
    """Casts a table to METADATA_SCHEMA; missing columns become null, unknown ones are an error."""
    for name in table.column_names:
        if name not in METADATA_SCHEMA.names:
            hint = did_you_mean(name, METADATA_SCHEMA.names)
            known = ", ".join(METADATA_SCHEMA.names)
            raise UserError(f"Metadata column {name!r} is unknown.{hint} A bank has: {known}.")
    columns = [
        (
            table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
        )
        for field in METADATA_SCHEMA
    ]
    return pa.table(columns, schema=METADATA_SCHEMA)


def _with_time(table: pa.Table) -> pa.Table:
    """Metadata of a bank; those written before there was a column `time` get it, empty."""
    if "time" in table.column_names or "site" not in table.column_names:
        return table
    place = table.column_names.index("site") + 1
    return table.add_column(place, METADATA_SCHEMA.field("time"), pa.nulls(len(table), pa.string()))


def write_metadata(path: str | Path, metadata: pa.Table) -> None:
    """Writes metadata.parquet of a bank, atomically."""
    with files.replacing(Path(path) / "metadata.parquet") as partial:
        pq.write_table(metadata, partial, compression="zstd")


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
      metadata: METADATA_SCHEMA, one row an image; all null for a foreign array.
      fingerprint: sha256 of the files that describe the bank; changes when its images are others.
      axes: the axes of the stored array, "NHWC" for a bank.
      chunk_shape: (height, width, channels) of the smallest piece that can be decoded.
      images_per_chunk: how many images that piece reaches into, 1 but for some foreign arrays.
      array_path: folder of the stored array.
      stored: the metadata of the array as its zarr.json (v3) or .zarray (v2) has it.
      remarks: what is to be known of a plate that is read in place, a sentence each.
    """

    axes = "NHWC"
    remarks: tuple[str, ...] = ()

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.array_path = self.path / "images"
        self.attributes = zarr_files.read_entry(self.path)
        self.images_per_chunk = 1
        with zarr_files.opening(self.path):
            self.stored = read_json(self.array_path / "zarr.json")
            self.shape, self.dtype = tuple(self.stored["shape"]), np.dtype(self.stored["data_type"])
            zarr_files.expect(
                self.attributes, channels=list, intensity=dict, pixel_size_um=(int, float)
            )
            self.channels = tuple(self.attributes["channels"])
            self.chunk_shape = tuple(self.stored["codecs"][0]["configuration"]["chunk_shape"][1:])
            sizes = all(isinstance(size, int) for size in (*self.shape, *self.chunk_shape))
            if not sizes or len(self.shape) != 4 or len(self.chunk_shape) != 3:
                raise ValueError(f"a shape of {self.shape} in chunks of {self.chunk_shape}")
            if [type(c) for c in self.channels] != [str] * self.shape[3]:
                raise ValueError(f"{self.shape[3]} channels that are called {self.channels}")
            self.metadata = _with_time(pq.read_table(self.path / "metadata.parquet"))
            described = ("zarr.json", "images/zarr.json", "metadata.parquet")
            self.fingerprint = zarr_files.fingerprint([self.path / name for name in described])
        if self.metadata.num_rows != self.shape[0]:
            raise UserError(
                f"The bank {self.path} has {self.shape[0]} images but its metadata.parquet has"
                f" {self.metadata.num_rows} rows: one of the two was replaced. Copy the bank again,"
                " or prepare it again."
            )

    @functools.cached_property
    def array(self) -> ts.TensorStore:
        """The pixels as a lazy TensorStore array with axes [image, y, x, channel]."""
        with zarr_files.opening(self.path):
            return open_array(self.array_path, self.stored)

    def read(self, index: int) -> Shaped[np.ndarray, "y x channels"]:
        """Decodes image `index` whole: [height, width, channels]."""
        return self.array[index].read().result()

    def shard_path(self, index: int) -> Path:
        """The file that holds image `index` (banks only)."""
        return shard_path(self.path, index)

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


def open_array(path: str | Path, stored: dict, **options) -> ts.TensorStore:
    """Opens a Zarr v2 or v3 array lazily; `stored` is its metadata, `options` go into TensorStore's
    spec.
    """
    driver = "zarr" if stored.get("zarr_format") == 2 else "zarr3"
    spec = {
        "driver": driver,
        # TensorStore takes no path with "..".
        "kvstore": {"driver": "file", "path": os.path.realpath(path) + "/"},
        "recheck_cached_data": "open",
    }
    return ts.open(spec | options, open=True).result()


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step

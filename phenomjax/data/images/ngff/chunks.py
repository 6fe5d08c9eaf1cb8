"""The stored pieces of a Zarr v2 or v3 array on disk: what its metadata say of them, and which of
them are there.

A chunk that is not there reads as the fill value by the standard, without a word; here it is
counted. Shards are looked into: a chunk may be absent from the index of a shard that is there.
"""

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from phenomjax.data import store
from phenomjax.data.images.ngff.metadata_files import as_list, as_map, as_whole, read_object
from phenomjax.system.errors import UserError

MISSING = 2**64 - 1  # offset and length of a chunk that a shard's index does not have
MOST = 2**26  # chunks of an array
Whole = tuple[int, ...]
Files = dict[str, tuple[int, int]]  # by path: bytes, and ns of the last change


class StoredArray(NamedTuple):
    """What .zarray (v2) or zarr.json (v3) says.

    Attributes:
      folder: of the array.
      version: 2 or 3.
      shape: of the array.
      dtype: name of the pixels' type, as NumPy spells it in this machine's byte order.
      chunk: shape of what one file holds.
      inner: shape of the chunks in a shard; `chunk` where there are no shards.
      key: how the name of a file begins, and what stands between its numbers.
      inferred: the metadata of v2 do not say what stands between them; the files do.
      shard_index: (size in bytes, at the end) of the index of a shard; None where there is none,
        or one that only TensorStore reads.
      fill: the fill value, as the metadata spell it.
      dimensions: names of the axes (v3), () where there are none.
    """

    folder: Path
    version: int
    shape: Whole
    dtype: str
    chunk: Whole
    inner: Whole
    key: tuple[str, str]
    inferred: bool = False
    shard_index: tuple[int, bool] | None = None
    fill: str = "0"
    dimensions: tuple[str, ...] = ()

    def file(self, number: Whole) -> str:
        """The file of a chunk (or shard), relative to the folder."""
        prefix, between = self.key
        return prefix + between.join(map(str, number))

    def number(self, file: str) -> Whole | None:
        """The chunk (or shard) that a file is, None for a file that is none."""
        prefix, between = self.key
        parts = file.removeprefix(prefix).split(between)
        if not file.startswith(prefix) or not all(part.isdecimal() for part in parts):
            return None
        number = tuple(map(int, parts))
        inside = len(number) == len(self.shape) and all(map(int.__lt__, number, self.grid))
        return number if inside else None

    @property
    def grid(self) -> Whole:
        """How many files there are along each axis."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.chunk, strict=True))


def is_array(folder: Path) -> bool:
    """Whether a folder holds a Zarr array (and not a group, or nothing)."""
    if store.is_file(folder / ".zarray"):
        return True
    file = folder / "zarr.json"
    return store.is_file(file) and read_object(file).get("node_type") == "array"


def read_array(folder: Path) -> StoredArray:
    """Reads the metadata of an array.

    Raises:
      UserError: there is none, or it is damaged; one sentence with the file.
    """
    file = folder / "zarr.json"
    if store.is_file(file) and "node_type" in (found := read_object(file)):
        version = 3
        encoding = as_map(found.get("chunk_key_encoding"))
        grid = as_map(as_map(found.get("chunk_grid")).get("configuration"))
        between = as_map(encoding.get("configuration")).get("separator")
        if encoding.get("name") == "v2":
            key = ("", "/" if between == "/" else ".")
        else:
            between = "." if between == "." else "/"
            key = (f"c{between}", between)
        chunk, dtype, inferred = grid.get("chunk_shape"), found.get("data_type"), False
    else:
        file, version = folder / ".zarray", 2
        if not store.is_file(file):
            raise UserError(
                f"There is no array at {folder}: it has no .zarray and no zarr.json. The plate was"
                " not copied whole; copy it again."
            )
        found = read_object(file)
        between, inferred = found.get("dimension_separator"), False
        if between not in (".", "/"):
            # Old writers of nested folders do not say so, and readers then see fill alone.
            inferred = _has_numbered_folder(folder)
            between = "/" if inferred else "."
        key, chunk, dtype = ("", between), found.get("chunks"), found.get("dtype")
    shape, step = _sizes(found.get("shape")), _sizes(chunk)
    if shape is None or step is None or len(shape) != len(step) or 0 in step:
        raise UserError(
            f"{file} does not describe an array of regular chunks: its shape is"
            f" {found.get('shape')!r}, its chunks are {chunk!r}. It is damaged, or of a kind that"
            " is not read. Copy it again."
        )
    dimensions = tuple(str(name) for name in as_list(found.get("dimension_names")))
    stored = StoredArray(
        folder,
        version,
        shape,
        _type_name(dtype),
        step,
        step,
        key,
        inferred,
        None,
        str(found.get("fill_value") or 0),
        dimensions if len(dimensions) == len(shape) else (),
    )
    if version == 3:
        stored = _with_shards(stored, as_list(found.get("codecs")))
    if math.prod(-(-size // one) for size, one in zip(shape, stored.inner, strict=True)) > MOST:
        raise UserError(
            f"{file} describes an array of shape {shape} in chunks of {stored.inner}, more than"
            f" {MOST} of them: it is damaged, or no image. Copy it again."
        )
    return stored


def _with_shards(stored: StoredArray, codecs: list[object]) -> StoredArray:
    first = as_map(codecs[0]) if codecs else {}
    if first.get("name") != "sharding_indexed":
        return stored
    settings = as_map(first.get("configuration"))
    inner = _sizes(settings.get("chunk_shape"))
    if inner is None or len(inner) != len(stored.chunk) or 0 in inner:
        return stored
    if any(outer % step for outer, step in zip(stored.chunk, inner, strict=True)):
        return stored  # an error when the pixels are read
    stored = stored._replace(inner=inner)
    names = [as_map(codec).get("name") for codec in as_list(settings.get("index_codecs"))]
    if len(codecs) > 1 or names not in (["bytes"], ["bytes", "crc32c"]):
        return stored
    count = math.prod(outer // step for outer, step in zip(stored.chunk, stored.inner, strict=True))
    size = 16 * count + (4 if len(names) == 2 else 0)
    return stored._replace(shard_index=(size, settings.get("index_location") != "start"))


def list_files(folder: Path) -> Files:
    """All files below a folder: {path relative to it, "/" between folders: (bytes, ns of the last
    change)}; what cannot be listed is left out.
    """
    if store.is_remote(folder):
        return {listed.name: (listed.bytes, 0) for listed in store.list_files(folder)}
    found: Files = {}
    waiting = [("", str(folder))]
    while waiting:
        prefix, place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir():
                        waiting.append((f"{prefix}{entry.name}/", entry.path))
                    elif entry.is_file():
                        status = entry.stat()
                        found[prefix + entry.name] = status.st_size, status.st_mtime_ns
        except OSError:
            continue
    return found


def chunks_there(stored: StoredArray, files: Files) -> tuple[Bool[np.ndarray, "..."], Whole]:
    """Which chunks are stored.

    Args:
      stored: the array.
      files: of `list_files(stored.folder)`.

    Returns:
      True or False at each place of the grid of (inner) chunks, and the shape of those.
    """
    steps = tuple(outer // inner for outer, inner in zip(stored.chunk, stored.inner, strict=True))
    if stored.shard_index is None or math.prod(steps) == 1:
        steps = (1,) * len(steps)
    piece = tuple(size // step for size, step in zip(stored.chunk, steps, strict=True))
    there = np.zeros(
        [-(-size // step) for size, step in zip(stored.shape, piece, strict=True)], bool
    )
    for name in files:
        number = stored.number(name)
        if number is None:
            continue
        where = tuple(
            slice(place * step, (place + 1) * step)
            for place, step in zip(number, steps, strict=True)
        )
        part = there[where]
        part[...] = _shard_index(stored, name, steps)[tuple(map(slice, part.shape))]
    return there, piece


def files_of_planes(stored: StoredArray, ranges: list[list[int]], files: Files) -> Iterator[str]:
    """The files, of those that are there, that hold some positions along each axis; what is no
    chunk (the metadata) comes first.
    """
    numbers = [
        sorted({place // step for place in places})
        for places, step in zip(ranges, stored.chunk, strict=True)
    ]
    yield from sorted(name for name in (".zarray", ".zattrs", "zarr.json") if name in files)
    wanted = (stored.file(number) for number in itertools.product(*numbers))
    yield from sorted(name for name in wanted if name in files)


def _shard_index(stored: StoredArray, name: str, steps: Whole) -> Bool[np.ndarray, "..."]:
    """True where a shard has a chunk. All True for a file that is no shard, or whose index is
    damaged: that is an error when the pixels are read.
    """
    all_there = np.ones(steps, bool)
    if stored.shard_index is None or math.prod(steps) == 1:
        return all_there
    size, at_end = stored.shard_index
    try:
        place = stored.folder / name
        content = store.read_bytes(place, -size) if at_end else store.read_bytes(place, 0, size)
    except OSError:
        return all_there
    if len(content) != size:
        return all_there
    index = np.frombuffer(content[: 16 * math.prod(steps)], "<u8").reshape(*steps, 2)
    return (index != MISSING).any(axis=-1)


def _has_numbered_folder(folder: Path) -> bool:
    return any(name.isdecimal() for name in store.folders(folder))


def _sizes(value: object) -> Whole | None:
    items = [as_whole(item) for item in as_list(value)]
    # larger ones fit no array of NumPy
    sizes = tuple(item for item in items if item is not None and 0 <= item < 2**48)
    return sizes if sizes and len(sizes) == len(items) else None


def _type_name(value: object) -> str:
    try:
        return np.dtype(value).newbyteorder("=").name if isinstance(value, str) else str(value)
    except TypeError:
        return str(value)

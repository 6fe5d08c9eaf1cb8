"""A shard: one file with the compressed chunks of an image, or of several, and at its end the index
of where each lies (sharding_indexed of Zarr v3).
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from phenomjax.data import node_cache
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError

MISSING = 2**64 - 1  # offset of a chunk that was never written
ENTRY_BYTES = 400  # what an index takes in memory beside its numbers


class Stored(NamedTuple):
    """Where an image is stored.

    Attributes:
      shard: the file.
      place: which of the shard's images it is.
      images: for how many the shard has room.
    """

    shard: Path
    place: int = 0
    images: int = 1


class IndexCache:
    """Indices of shards that were read, the newest of them; safe to use from many threads.

    An index belongs to a file as it was: one that took its place (the last shard of a bank that was
    appended to) has another.

    Args:
      limit: bytes of memory.
    """

    def __init__(self, limit: int):
        self._limit, self._bytes, self._lock = limit, 0, threading.Lock()
        self._known: dict[str, tuple[tuple[int, int, int], memoryview]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, path: str, file: int, entries: int) -> memoryview:
        """`read_index` of a file that was opened as `path`."""
        status = os.fstat(file)
        identity = status.st_ino, status.st_size, status.st_mtime_ns
        known = self._known.get(path)
        if known and known[0] == identity:
            return known[1]
        index = read_index(file, entries)
        with self._lock:
            self._forget(path)
            self._bytes += index.nbytes + ENTRY_BYTES
            self._known[path] = identity, index
            while self._bytes > self._limit and len(self._known) > 1:
                # the oldest: random crops have no favourites
                self._forget(next(iter(self._known)))
        return index

    def _forget(self, path: str) -> None:
        if known := self._known.pop(path, None):
            self._bytes -= known[1].nbytes + ENTRY_BYTES


def read_index(file: int, entries: int) -> memoryview:
    """Offset and size of each chunk of a shard, one after the other.

    Args:
      file: descriptor of the shard.
      entries: chunks that it has room for.

    Raises:
      ValueError: the index is not whole.
    """
    length = 16 * entries + 4
    content = os.pread(file, length, max(os.fstat(file).st_size - length, 0))
    checksum = int.from_bytes(content[-4:], "little")
    if len(content) != length or google_crc32c.value(content[:-4]) != checksum:
        raise ValueError(
            "the index at the end of its file is damaged: the file is truncated or overwritten"
        )
    return memoryview(content)[:-4].cast("Q")


def pack(target: Path, images: Sequence[Stored], images_per_shard: int, chunks: int) -> None:
    """Writes a shard of images that other shards hold, each chunk as it is there.

    The bytes depend on the images alone, and are those that writing them at once gives. Images of
    all shards must have one shape, one type and one codec.

    Args:
      target: the new file, whole or not there.
      images: at most `images_per_shard`.
      images_per_shard: for how many images the new one has room.
      chunks: of one image.

    Raises:
      UserError: a shard is missing or damaged.
    """
    if len(images) > images_per_shard:
        raise ValueError(f"{len(images)} images for a shard of {images_per_shard}")
    index = np.full((images_per_shard, chunks, 2), MISSING, "<u8")
    end = 0
    with files.replacing(target, shared=True) as partial, partial.open("wb") as out:
        for entry, stored in zip(index, images, strict=False):
            for number, chunk in enumerate(_chunks(stored, chunks)):
                out.write(chunk)
                entry[number] = end, len(chunk)
                end += len(chunk)
        content = index.tobytes()
        out.write(content + google_crc32c.value(content).to_bytes(4, "little"))


def check(images: Sequence[Stored], chunks: int) -> None:
    """Looks whether all chunks of images are there, as far as the indices of their shards say it.

    Args:
      images: of one shard.
      chunks: of one image.

    Raises:
      UserError: the shard is missing, cut short, or has no such image.
    """
    stored = images[0]
    try:
        with os.fdopen(node_cache.open_file(stored.shard), "rb") as file:
            index = read_index(file.fileno(), stored.images * chunks)
            size = os.fstat(file.fileno()).st_size - index.nbytes - 4
        for stored in images:
            entries = index[2 * stored.place * chunks : 2 * (stored.place + 1) * chunks]
            for offset, length in zip(entries[::2], entries[1::2], strict=True):
                if offset == MISSING:
                    raise ValueError("a chunk is missing from its file")
                if offset + length > size:
                    raise ValueError("its file is truncated")
    except (ValueError, OSError) as error:
        raise _unreadable(stored, error) from error


def _unreadable(stored: Stored, error: Exception) -> UserError:
    return UserError(
        f"Image {stored.place} of the shard {stored.shard} cannot be read: {error}. Copy the bank"
        " that it is of again, or prepare it again.",
        EXIT_FAILED,
    )


def _chunks(stored: Stored, chunks: int) -> list[memoryview]:
    """The compressed chunks of an image, in order."""
    try:
        file = node_cache.open_file(stored.shard)
        try:
            index = read_index(file, stored.images * chunks)
            entries = index[2 * stored.place * chunks : 2 * (stored.place + 1) * chunks]
            offsets, sizes = entries[::2].tolist(), entries[1::2].tolist()
            if MISSING in offsets:
                raise ValueError("a chunk is missing from its file")
            start = min(offsets)
            end = max(offset + size for offset, size in zip(offsets, sizes, strict=True))
            content = memoryview(os.pread(file, end - start, start))
            if len(content) != end - start:
                raise ValueError("its file is truncated")
        finally:
            os.close(file)
    except (ValueError, OSError) as error:
        raise _unreadable(stored, error) from error
    return [
        content[offset - start : offset - start + size]
        for offset, size in zip(offsets, sizes, strict=True)
    ]

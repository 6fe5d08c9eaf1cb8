"""Rows of an embedding on disk: a Zarr v3 array that grows by whole chunks."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from phenomjax.data import zarr_files

FORMAT, VERSION = "embeddings", 1
CHUNK_BYTES = 2**26


class Rows:
    """A Zarr v3 array [rows, dim] of uncompressed chunks, written in any order.

    Args:
      path: its folder.
      rows, dim, dtype: of it.
      chunk_bytes: about the size of a chunk file.
    """

    def __init__(self, path: Path, rows: int, dim: int, dtype: str, chunk_bytes: int = CHUNK_BYTES):
        self.path, self.shape, self.dtype = path, (rows, dim), np.dtype(dtype).newbyteorder("<")
        self.row_bytes = dim * self.dtype.itemsize
        self._chunk = min(max(chunk_bytes // self.row_bytes, 1), rows)
        self.chunk_bytes = self._chunk * self.row_bytes
        self._open = functools.lru_cache(maxsize=64)(self._map)
        self._dirty: set[int] = set()

    def create(self, name: str) -> None:
        """Makes the files, zeros that take no room yet; `name` is of the rows' dimension."""
        self.describe(name)
        for chunk in range(-(-self.shape[0] // self._chunk)):
            with (self.path / f"c.{chunk}.0").open("ab") as file:
                file.truncate(self.chunk_bytes)

    def describe(self, name: str) -> None:
        """Makes the folder and its zarr.json alone."""
        zarr_files.write_array(
            self.path, self.shape, self.dtype, (name, "feature"), (self._chunk, self.shape[1])
        )

    def write(self, start: int, columns: slice, values: Float[np.ndarray, "rows columns"]) -> None:
        """Sets rows from `start` on."""
        for chunk, first, part in self._parts(start, len(values)):
            self._open(chunk)[first : first + len(part), columns] = values[part.start : part.stop]
            self._dirty.add(chunk)

    def read(self, start: int, stop: int) -> Float[np.ndarray, "rows dim"]:
        """Rows start to stop as a fresh array."""
        parts = [
            self._open(chunk)[first : first + len(part)]
            for chunk, first, part in self._parts(start, stop - start)
        ]
        return np.concatenate([np.zeros((0, self.shape[1]), self.dtype), *parts])

    def flush(self) -> None:
        """Returns when what was written is on the disk."""
        for chunk in self._dirty:
            self._open(chunk).flush()
        self._dirty.clear()

    def _parts(self, start: int, count: int) -> Iterator[tuple[int, int, range]]:
        """(chunk, its first row that is meant, which of the rows asked for)."""
        place = 0
        while place < count:
            chunk, first = divmod(start + place, self._chunk)
            size = min(self._chunk - first, count - place)
            yield chunk, first, range(place, place + size)
            place += size

    def _map(self, chunk: int) -> np.memmap:
        return np.memmap(
            self.path / f"c.{chunk}.0", self.dtype, "r+", shape=(self._chunk, self.shape[1])
        )

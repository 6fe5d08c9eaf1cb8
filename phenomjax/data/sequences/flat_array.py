"""One-dimensional arrays of a bank, in uncompressed chunks that are mapped into memory."""

import hashlib
import itertools
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Shaped

from phenomjax.data import node_cache, store, zarr_files
from phenomjax.system import files
from phenomjax.system.errors import UserError

CHUNK_BYTES = 2**26


class FlatArray:
    """A one-dimensional Zarr v3 array of uncompressed chunks, mapped into memory: any range is a
    copy away.

    Attributes:
      dtype, size: of the array.
    """

    def __init__(self, path: Path, opener: node_cache.Opener = node_cache.open_file):
        stored = store.read_json(path / "zarr.json")
        self.path, self.dtype, (self.size,) = path, np.dtype(stored["data_type"]), stored["shape"]
        (self._chunk,) = stored["chunk_grid"]["configuration"]["chunk_shape"]
        self._maps: dict[int, np.ndarray] = {}
        self._open, self._most = opener, 0
        if store.is_remote(path):  # what is mapped stays on the disk when it leaves the cache
            room = node_cache.shared().limit // 8
            self._most = max(room // (self._chunk * self.dtype.itemsize), 4)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: slice | int) -> Any:
        """A range without step as a fresh array (a view where it lies in one chunk), or one
        element.
        """
        if isinstance(key, slice):
            start, stop, _ = key.indices(self.size)
            first, last = start // self._chunk, max(stop - 1, start) // self._chunk
            if first == last:
                return self._map(first)[start - first * self._chunk : stop - first * self._chunk]
            edges = [start, *range((first + 1) * self._chunk, stop, self._chunk), stop]
            return np.concatenate([self[a:b] for a, b in itertools.pairwise(edges)])
        number, place = divmod(int(key), self._chunk)
        return self._map(number)[place]

    def _map(self, number: int) -> np.ndarray:
        mapped = self._maps.get(number)
        if mapped is None:
            file = self.path / f"c.{number}"
            try:
                handle = self._open(file)
            except (FileNotFoundError, IsADirectoryError):
                raise self._bad(file, "missing") from None
            with os.fdopen(handle, "rb") as opened:
                if os.fstat(handle).st_size != self._chunk * self.dtype.itemsize:
                    raise self._bad(file, "cut short")
                while self._most and len(self._maps) >= self._most:
                    self._maps.pop(next(iter(self._maps)), None)
                # A plain view: np.memmap's own slices cost a microsecond more each.
                mapped = np.asarray(np.memmap(opened, self.dtype, "r"))
                self._maps[number] = mapped
        return mapped

    def _bad(self, file: Path, what: str) -> UserError:
        return UserError(
            f"{store.url(file)} is {what}: the bank was not copied whole. Copy it again, or run the"
            " command that prepared it again; `python -m phenomjax.prepare inspect` lists every"
            " damaged file."
        )

    def __reduce__(self):
        return type(self), (self.path,)


def write_flat_description(
    path: Path, size: int, dtype: np.dtype, chunk: int, name: str
) -> dict[str, str]:
    """Writes the zarr.json of a FlatArray; returns its {file: sha256}, relative to the bank.

    Args:
      path: the array's folder.
      size: its elements.
      dtype: of them.
      chunk: elements of a chunk file; the last file is filled up with zeros.
      name: of its dimension.
    """
    described = zarr_files.write_array(path, [size], dtype, [name], [chunk])
    return {f"{path.name}/zarr.json": files.sha256(described)}


class FlatWriter:
    """Writes a FlatArray piece by piece, at one chunk's memory.

    Args:
      path: the array's folder; made here.
      dtype: uint8, int64, …
      chunk_bytes: size of a chunk file; an array that is shorter is one chunk of its own length.
    """

    def __init__(self, path: Path, dtype: str, chunk_bytes: int = CHUNK_BYTES):
        self.path, self.dtype, self._chunk = (
            path,
            np.dtype(dtype),
            chunk_bytes // np.dtype(dtype).itemsize,
        )
        self.size = 0
        self.checksums: dict[str, str] = {}
        self._file: BinaryIO | None = None
        path.mkdir(parents=True, exist_ok=True)

    def write(self, array: Shaped[np.ndarray, "values"]) -> None:
        """Appends values of the array's dtype."""
        array = np.ascontiguousarray(array, self.dtype)
        while len(array):
            room = self._chunk - self.size % self._chunk
            part, array = array[:room], array[room:]
            self._append(part)
            self.size += len(part)
            if self.size % self._chunk == 0:
                self._close()

    def finish(self, name: str = "token") -> dict[str, str]:
        """Writes what is left and zarr.json; returns {file: sha256}, relative to the bank. `name`
        is the dimension's.
        """
        chunk = self._chunk
        if self.size < self._chunk:
            chunk = max(self.size, 1)
            if not self.size:
                self._append(np.zeros(1, self.dtype))
        elif left := -self.size % self._chunk:
            self._append(np.zeros(left, self.dtype))
        self._close()
        return self.checksums | write_flat_description(
            self.path, self.size, self.dtype, chunk, name
        )

    def _append(self, part: np.ndarray) -> None:
        if self._file is None:
            self._hash = hashlib.sha256()
            self._file = (self.path / f"c.{self.size // self._chunk}").open("wb")
        data = part.astype(self.dtype.newbyteorder("<"), copy=False).tobytes()
        self._hash.update(data)
        self._file.write(data)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self.checksums[f"{self.path.name}/{Path(self._file.name).name}"] = (
                self._hash.hexdigest()
            )
            self._file = None

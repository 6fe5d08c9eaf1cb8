"""Room for features that are larger than memory should hold: a file without a name, mapped, so that
an array of it is used as any other; the system frees it when the process ends, however it ends.
"""

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Float32, Int

from phenomjax.system.errors import UserError
from phenomjax.system.files import in_units

IN_MEMORY = 2**27  # bytes of an array; a larger one is mapped
BLOCK_VALUES = 2**20  # numbers of a block that is worked on at once: 8 MiB of float64
BLOCK_ROWS = 2**16
TOUCHED_ROWS = 16  # scattered ones before their pages are let go, which may be of 2 MiB each
_NOT_OFFERED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # by some file systems


class _Mapping(mmap.mmap):
    """Pages of a file in a folder, where arrays that are made of it find room as well."""

    folder: Path


def empty(rows: int, dim: int, folder: Path | None) -> Float32[np.ndarray, "{rows} {dim}"]:
    """An array to be filled: in memory, or mapped where it is larger than IN_MEMORY.

    Args:
      rows, dim: its shape.
      folder: for the file of a large one, made if need be; always in memory where None.

    Raises:
      UserError: the disk has not as much room.
    """
    size = rows * dim * np.dtype(np.float32).itemsize
    if folder is None or size <= IN_MEMORY:
        return np.empty((rows, dim), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file, size)
            mapping = _Mapping(file.fileno(), size)
    except OSError as error:
        raise UserError(
            f"{rows} rows of {dim} features are more than is held in memory, and {folder} cannot"
            f" lend the {in_units(size)} of disk that they need ({error.strerror or error}). It is"
            " used while the command runs only. Make room there, or write the output to a disk that"
            " has it (a command that writes none takes the folder that TMPDIR names)."
        ) from None
    mapping.folder = folder
    return np.ndarray((rows, dim), np.float32, buffer=mapping)


def _reserve(file: BinaryIO, size: int) -> None:
    """Takes the room at once: a full disk would later kill the process without a word."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NOT_OFFERED:
            raise
        zeros = bytes(2**20)
        for start in range(0, size, len(zeros)):
            file.write(zeros[: size - start])
        file.flush()


def beside(
    features: Float[np.ndarray, "rows dim"], rows: int, dim: int
) -> Float32[np.ndarray, "{rows} {dim}"]:
    """An array to be filled that is made of `features`: mapped where they are and it is large."""
    mapping = _mapping_of(features)
    return empty(rows, dim, mapping.folder if mapping else None)


def take(
    features: Float32[np.ndarray, "rows dim"],
    rows: Int[np.ndarray, " some"] | slice = slice(None),
    columns: Int[np.ndarray, " kept"] | slice = slice(None),
) -> Float32[np.ndarray, "some kept"]:
    """A copy of some rows and columns, mapped where `features` are and it is large."""
    place, kept = np.arange(len(features))[rows], np.arange(features.shape[1])[columns]
    out = beside(features, len(place), len(kept))
    for some in blocks(len(place), features.shape[1]):
        out[some] = gather(features, place[some])[:, kept]
        release(out)
    return out


def gather(
    features: Float[np.ndarray, "rows dim"],
    rows: Int[np.ndarray, " some"],
    columns: slice = slice(None),
) -> Float[np.ndarray, "some kept"]:
    """A copy of some rows and columns in memory. Of a mapped array few rows are touched at once:
    with each the system maps what lies around it.
    """
    if _mapping_of(features) is None:
        return features[rows, columns]
    width = len(range(features.shape[1])[columns])
    out = np.empty((len(rows), width), features.dtype)
    in_a_row = bool((np.diff(rows) == 1).all())
    step = max(1, len(rows)) if in_a_row else TOUCHED_ROWS
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        chosen = slice(some[0], some[-1] + 1) if in_a_row else some
        out[start : start + step] = features[chosen, columns]
        release(features)
    return out


def rows_of_a_block(dim: int) -> int:
    """How many rows are worked on at once."""
    return min(max(1, BLOCK_VALUES // max(1, dim)), BLOCK_ROWS)


def blocks(rows: int, dim: int) -> Iterator[slice]:
    """Consecutive rows of a bounded size that together are all."""
    step = rows_of_a_block(dim)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def release(*arrays: Float[np.ndarray, "..."]) -> None:
    """Takes the pages of mapped arrays out of memory; their values stay, in the file."""
    for array in arrays:
        if mapping := _mapping_of(array):
            mapping.madvise(mmap.MADV_DONTNEED)


def is_mapped(array: Float[np.ndarray, "..."]) -> bool:
    """Whether an array is in a file of `empty`."""
    return _mapping_of(array) is not None


def _mapping_of(array: object) -> _Mapping | None:
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, _Mapping) else None

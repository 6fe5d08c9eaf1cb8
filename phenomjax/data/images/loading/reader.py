"""Random crops of a bank's images: a direct reader of its shards, and TensorStore for every other
array.

The direct road costs about half of TensorStore's CPU time: the index of a shard is kept,
neighbouring chunks come with one pread into a buffer that is used again, they are decoded without
the GIL, and only the wanted pixels are copied.
"""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import imagecodecs
import numpy as np
import tensorstore as ts
from jaxtyping import Shaped

from phenomjax.data import node_cache, store
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.shards import MISSING, IndexCache
from phenomjax.system.errors import UserError

# 15,000 images of 256 chunks; a bank of 100 million images must not fill the memory
INDEX_CACHE_BYTES = 64 << 20
# the longest single read: larger ones leave the second-level cache before they are decoded
RUN_BYTES = 1 << 20
DECODERS: dict[str, Callable[..., Any]] = {
    "blosc": imagecodecs.blosc_decode,
    "zstd": imagecodecs.zstd_decode,
}


class BadImageError(UserError):
    """An image that cannot be read: its file is missing, truncated or damaged; `what` says it in a
    few words.
    """

    what = ""


class CropReader:
    """Reads crops of one bank into buffers that the caller owns. Safe to use from many threads.

    Args:
      bank: what to read.
      indices: keeps the indices of shards; one for the readers of many banks bounds their memory.

    Attributes:
      bank: what it reads.
      direct: whether the direct road is taken; False for arrays that are not a phenomjax bank.
    """

    def __init__(self, bank: ImageBank, indices: IndexCache | None = None):
        self.bank = bank
        bank.check()
        _, self._height, self._width, depth = bank.shape
        # all channels of a pixel as one item
        self._pixel = np.dtype((np.void, depth * bank.dtype.itemsize))
        self.direct = bool(bank.attributes) and _has_known_codecs(bank.stored)
        self._scratch = threading.local()
        if self.direct:
            self._rows, self._columns = bank.chunk_shape[:2]
            self._grid = (-(-self._height // self._rows), -(-self._width // self._columns))
            self._chunk_bytes = self._rows * self._columns * self._pixel.itemsize
            inner = bank.stored["codecs"][0]["configuration"]["codecs"]
            self._decode = DECODERS[inner[1]["name"]] if len(inner) > 1 else None
            self._indices = indices or IndexCache(INDEX_CACHE_BYTES)
            self._open = node_cache.Files(bank.path, bank.fingerprint)

    def read_into(
        self, out: Shaped[np.ndarray, "y x channels"], image: int, y: int, x: int
    ) -> None:
        """Fills `out` [h, w, channels] with the pixels of `image` from row y and column x on.

        `out` may be a flipped or rotated view, as long as the channels of a pixel lie side by side.

        Raises:
          BadImageError: the image is missing, truncated or damaged; names bank, image, file and the
            mend.
        """
        self.read_crops([out], image, [y], [x])

    def read_crops(
        self, outs: Sequence[np.ndarray], image: int, ys: Sequence[int], xs: Sequence[int]
    ) -> None:
        """`read_into` for several crops of one image: no chunk is decoded twice."""
        for out, y, x in zip(outs, ys, xs, strict=True):
            inside = 0 <= y <= self._height - out.shape[0] and 0 <= x <= self._width - out.shape[1]
            if not inside or not 0 <= image < len(self.bank) or out.dtype != self.bank.dtype:
                raise ValueError(
                    f"no crop {out.shape} {out.dtype} at image {image}, y {y}, x {x} in"
                    f" {self.bank.path}"
                )
        try:
            if self.direct:
                try:
                    self._read_direct(outs, image, ys, xs)
                except BadImageError:  # in the store, or only where this machine keeps it?
                    if not self._open.forget(str(self.bank.shard_path(image))):
                        raise
                    self._read_direct(outs, image, ys, xs)
            else:
                self._read_tensorstore(outs, image, ys, xs)
        except FileNotFoundError as error:
            raise self._bad(image, "its file is not there") from error
        except OSError as error:
            # too many open files, no permission, ...: not the fault of this image
            if error.errno != errno.EIO:
                raise
            raise self._bad(image, "the disk reports an input/output error") from error

    def _read_tensorstore(self, outs, image, ys, xs) -> None:
        try:
            size = outs[0].shape[0]
            apart = amplification(self.bank, size)
            if len(outs) > 1 and amplification(self.bank, size, len(outs)) < apart:
                whole = self.bank.array[image].read().result()
                for out, y, x in zip(outs, ys, xs, strict=True):
                    out[...] = whole[y : y + out.shape[0], x : x + out.shape[1]]
                return
            writes = [
                ts.array(out, copy=False).write(
                    self.bank.array[image, y : y + out.shape[0], x : x + out.shape[1]]
                )
                for out, y, x in zip(outs, ys, xs, strict=True)
            ]
            for write in writes:
                write.result()
        # what TensorStore raises for data it cannot read or decode
        except (ValueError, RuntimeError) as error:
            raise self._bad(image, f"TensorStore says {str(error).split(' [')[0]}") from error

    def _read_direct(self, outs, image, ys, xs) -> None:
        copies: dict[int, list] = {}  # chunk number -> (part of a crop, where it lies in the chunk)
        for out, y, x in zip(outs, ys, xs, strict=True):
            view = out.view(self._pixel)[..., 0]
            across = _overlaps(x, view.shape[1], self._columns)
            for row, in_crop_y, in_chunk_y in _overlaps(y, view.shape[0], self._rows):
                for column, in_crop_x, in_chunk_x in across:
                    part = view[in_crop_y, in_crop_x], (in_chunk_y, in_chunk_x)
                    copies.setdefault(row * self._grid[1] + column, []).append(part)
        decoded = self._buffer("decoded", self._chunk_bytes)
        chunks, images = self._grid[0] * self._grid[1], self.bank.images_per_shard
        first, path = 2 * (image % images) * chunks, str(self.bank.shard_path(image))
        file = self._open(path)
        try:
            try:
                index = self._indices.of(path, file, images * chunks)[first : first + 2 * chunks]
            except ValueError as error:
                raise self._bad(image, str(error)) from None
            for start, end, run in self._runs(image, index, sorted(copies)):
                stored = self._buffer("stored", end - start)
                if os.preadv(file, [stored.data], start) != end - start:
                    raise self._bad(image, "its file is truncated")
                for number, offset, size in run:
                    chunk = self._decoded(image, number, stored[offset : offset + size], decoded)
                    for part, where in copies[number]:
                        part[...] = chunk[where]
        finally:
            os.close(file)

    def _runs(self, image: int, index: memoryview, numbers: Sequence[int]):
        """Yields (start, end, [(chunk number, offset, size)]) for chunks that follow each other in
        the file.
        """
        run: list[tuple[int, int, int]] = []
        start = end = 0
        for number in numbers:
            offset, size = index[2 * number], index[2 * number + 1]
            if offset == MISSING:
                raise self._bad(
                    image, f"chunk {divmod(number, self._grid[1])} is missing from its file"
                )
            if run and (offset != end or end + size - start > RUN_BYTES):
                yield start, end, run
                run = []
            if not run:
                start = offset
            run.append((number, offset - start, size))
            end = offset + size
        yield start, end, run

    def _decoded(
        self, image: int, number: int, stored: np.ndarray, decoded: np.ndarray
    ) -> np.ndarray:
        """The pixels of a chunk, valid until the next one is decoded."""
        if self._decode is None:
            decoded = stored
        else:
            try:
                stored = self._decode(stored, out=decoded)
            except RuntimeError as error:  # imagecodecs' own errors derive from it
                where = f"chunk {divmod(number, self._grid[1])} of its file does not decode"
                raise self._bad(image, f"{where} ({error})") from error
        if len(stored) != self._chunk_bytes:
            raise self._bad(
                image, f"chunk {divmod(number, self._grid[1])} of its file has {len(stored)} bytes"
            )
        return decoded.view(self._pixel).reshape(self._rows, self._columns)

    def _buffer(self, name: str, size: int) -> np.ndarray:
        """`size` bytes of this thread's buffer of that name; a fresh one each time would cost page
        faults.
        """
        buffer = getattr(self._scratch, name, None)
        if buffer is None or len(buffer) < size:
            buffer = np.empty(size + size // 4, np.uint8)
            setattr(self._scratch, name, buffer)
        return buffer[:size]

    def _bad(self, image: int, what: str) -> BadImageError:
        place = self.bank.shard_path(image) if self.bank.attributes else self.bank.path
        shown = store.url(place)
        error = BadImageError(
            f"{image_name(self.bank, image)} (image {image} of the bank {self.bank.path}) cannot be"
            f" read: {what}. File: {shown}. Probably the bank was not copied whole, or the disk is"
            " failing. Find all such images with `python -m phenomjax.prepare inspect"
            f" {self.bank.path}` and copy or prepare them again; or leave them out with"
            " --config.data.on_bad_image=skip."
        )
        error.what = what
        return error


def _overlaps(start: int, size: int, step: int) -> list[tuple[int, slice, slice]]:
    """Along one axis, for each chunk that a crop touches: its number, and the overlap as slices of
    crop and chunk.
    """
    pieces = []
    for number in range(start // step, (start + size - 1) // step + 1):
        first, last = max(start, number * step), min(start + size, (number + 1) * step)
        pieces.append(
            (
                number,
                slice(first - start, last - start),
                slice(first - number * step, last - number * step),
            )
        )
    return pieces


def amplification(bank: ImageBank, crop_size: int, crops_per_image: int = 1) -> float:
    """Expected bytes decoded for one byte delivered, for square crops at positions that are all
    equally likely.
    """
    chunk, (_, height, width, depth) = bank.chunk_shape, bank.shape
    decoded, whole = 1.0, 1.0
    for size, step in ((height, chunk[0]), (width, chunk[1])):
        starts = np.arange(size - crop_size + 1)
        decoded *= np.mean((starts + crop_size - 1) // step - starts // step + 1) * step
        whole *= -(-size // step) * step
    channels = -(-depth // chunk[2]) * chunk[2] / depth
    least = min(decoded, whole / crops_per_image)
    return float(bank.images_per_chunk * channels * least / crop_size**2)


def image_name(bank: ImageBank, image: int) -> str:
    """What a biologist calls the image, "BANK PLATE/WELL/SITE" and "/TIME" where there are several,
    or "BANK #7" where the metadata do not say.
    """
    return image_names(bank, [image])[0]


def image_names(bank: ImageBank, images: Sequence[int]) -> list[str]:
    """`image_name` of several."""
    rows = bank.rows(images, ["plate", "well", "site", "time"]).to_pylist()
    known = [[str(value) for value in row.values() if value is not None] for row in rows]
    return [
        f"{bank.path.stem} {'/'.join(parts) if parts else f'#{image}'}"
        for image, parts in zip(images, known, strict=True)
    ]


def _has_known_codecs(stored: dict) -> bool:
    """Whether an array is laid out as by `bank.create_bank`, with a codec of DECODERS or none."""
    _, height, width, depth = stored["shape"]
    _, *shard = stored["chunk_grid"]["configuration"]["chunk_shape"]
    if [codec["name"] for codec in stored["codecs"]] != ["sharding_indexed"]:
        return False
    sharding = stored["codecs"][0]["configuration"]
    inner = sharding["codecs"]
    return (
        shard[0] >= height
        and shard[1] >= width
        and sharding["chunk_shape"][0] == 1
        and sharding["chunk_shape"][3] == depth
        and sharding.get("index_location") == "end"
        and [codec["name"] for codec in sharding["index_codecs"]] == ["bytes", "crc32c"]
        and inner[0]["name"] == "bytes"
        and inner[0].get("configuration", {}).get("endian", "little") == "little"
        and [codec["name"] in DECODERS for codec in inner[1:]] in ([], [True])
    )

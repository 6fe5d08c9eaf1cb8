"""The planes of pixels that a TIFF holds, in their order, and their decoding.

A plane is one page, or one sample of a page of several (colour, or channels that were written as
samples). Thumbnails, masks and the smaller copies of a pyramid, which the format marks as such, are
no planes; a page of another size or type that is not marked is a fault.
"""

import contextlib
import functools
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import tifffile

from phenomjax.data import store
from phenomjax.prepare.images.records import BadFile

# A file that claims so many pixels, and so many for each of its bytes, is damaged or made to fill
# the memory: no compression of images comes near.
MOST_PIXELS, MOST_PIXELS_A_BYTE = 2**28, 20_000


@dataclass(frozen=True)
class TiffPlanes:
    """An open TIFF.

    Attributes:
      tiff: the file.
      pages: those that hold planes.
      per_page: planes in each page: its samples, and all of a stack whose pages are not listed.
      stored_apart: the planes lie after the only page, which stands for all of them (ImageJ above 4
        GB, MetaMorph).
    """

    tiff: tifffile.TiffFile
    pages: list[tifffile.TiffPage]
    per_page: int
    stored_apart: bool

    @property
    def count(self) -> int:
        """Planes in the file."""
        return len(self.pages) * self.per_page


@contextlib.contextmanager
def opened(file: Path | BinaryIO, size: int) -> Iterator[TiffPlanes]:
    """Opens a TIFF and lists its planes.

    Args:
      file: the path, or its bytes.
      size: bytes of the file.

    Raises:
      BadFile: it is cut, or its pages are of several sizes or types.
    """
    # These three speak of sibling files; a file counts here for the pages it holds itself.
    alone = functools.partial(tifffile.TiffFile, is_ome=False, is_mmstack=False, is_ndtiff=False)
    if isinstance(file, Path) and store.is_remote(file):
        file = cast(BinaryIO, store.open_input(file))
    with _listening() as heard, alone(file) as tiff:
        # those that are TiffFrame know what their first page knows
        pages = cast(list[tifffile.TiffPage], list(tiff.pages))
        # A TIFF that points past its own end was cut; tifffile would fill the hole with zeros.
        cut = not pages or any(
            "invalid value offset" in message or "invalid offset" in message for message in heard
        )
        for page in pages:
            ends = (a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=False))
            cut |= max(ends, default=0) > size
        if cut:
            raise BadFile(
                "truncated", f"ends after {size} bytes, before its TIFF data end: copy it again"
            )
        yield _planes(tiff, pages, size)


def _planes(tiff: tifffile.TiffFile, pages: list[tifffile.TiffPage], size: int) -> TiffPlanes:
    full = [page for page in pages if not page.is_reduced and not page.is_mask] or pages[:1]
    first = full[0]
    height, width = first.imagelength, first.imagewidth
    kinds = {(page.shape, str(page.dtype)): page for page in full}
    if len(kinds) > 1:
        listed = " and ".join(f"{_size(page)} {page.dtype}" for page in kinds.values())
        raise BadFile(
            "planes",
            f"holds {len(full)} pages of several kinds ({listed}), none marked as a thumbnail:"
            " write those of one kind into a file of their own, or leave the file out with"
            " --exclude 'PATTERN'",
        )
    if 0 in first.shape or not first.shape or first.dtype is None:
        raise BadFile(
            "shape", f"has shape {first.shape}: expected planes of height x width, copy it again"
        )
    per_page, stored_apart = max(1, int(np.prod(first.shape)) // (height * width)), False
    said = _said_by_imagej(tiff)
    if len(pages) == 1 and (tiff.is_stk or said > per_page or _is_shaped_as_more(first)):
        whole = tiff.series[0]
        if int(np.prod(whole.shape)) > int(np.prod(first.shape)):
            per_page, stored_apart = int(np.prod(whole.shape)) // (height * width), True
    if said > len(full) * per_page:
        raise BadFile(
            "truncated",
            f"holds {len(full) * per_page} of the {said} planes that its ImageJ metadata speak of:"
            " the copy or the export was interrupted, do it again",
        )
    claimed = height * width * per_page * len(full)
    if claimed > MOST_PIXELS and claimed > MOST_PIXELS_A_BYTE * size:
        raise BadFile(
            "undecodable",
            f"claims {len(full) * per_page} planes of {height} x {width} pixels in {size} bytes: it"
            " is damaged, copy it again",
        )
    return TiffPlanes(tiff, full, per_page, stored_apart)


def _is_shaped_as_more(page: tifffile.TiffPage) -> bool:
    """Whether tifffile's description of a page speaks of more than the page."""
    text = page.shaped_description
    if not text:
        return False
    try:
        return json.loads(text)["shape"] != list(page.shape)
    except (ValueError, KeyError, TypeError):  # as its first versions wrote it
        return True


def _said_by_imagej(tiff: tifffile.TiffFile) -> int:
    if not tiff.is_imagej:
        return 0
    metadata = tiff.imagej_metadata or {}
    sizes = [metadata.get(name, 1) for name in ("channels", "slices", "frames")]
    return int(np.prod(sizes)) if all(isinstance(size, int) for size in sizes) else 0


def decode(planes: TiffPlanes, wanted: Sequence[int]) -> np.ndarray:
    """Decodes some planes.

    Returns:
      [wanted, height, width], in the type of the file.
    """
    if planes.stored_apart:
        series = planes.tiff.series[0]
        return _planes_first(series.asarray(squeeze=False), series.get_axes(squeeze=False))[
            list(wanted)
        ]
    found: dict[int, np.ndarray] = {}
    for index in sorted({plane // planes.per_page for plane in wanted}):
        page = planes.pages[index]
        found[index] = _planes_first(page.asarray(), page.axes)
    if len(found) == 1 and list(wanted) == [*range(len(wanted))] == [*range(planes.per_page)]:
        return found[0]
    parts = [found[plane // planes.per_page][plane % planes.per_page] for plane in wanted]
    return np.stack(parts)


def _planes_first(pixels: np.ndarray, axes: str) -> np.ndarray:
    rest = [i for i, axis in enumerate(axes) if axis not in "YX"]
    pixels = pixels.transpose([*rest, axes.index("Y"), axes.index("X")])
    return pixels.reshape(-1, *pixels.shape[-2:])


def file_size(path: Path) -> int:
    """Bytes of a file, for `opened`."""
    return store.size(path)


def _size(page: tifffile.TiffPage) -> str:
    samples = f" x {page.samplesperpixel} samples" if page.samplesperpixel > 1 else ""
    return f"{page.imagelength} x {page.imagewidth}{samples}"


class _Listener(logging.Handler):
    """Keeps what a library logs in this thread."""

    def __init__(self):
        super().__init__()
        self.thread, self.heard = threading.get_ident(), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.heard.append(record.getMessage())


_lock, _listeners = threading.Lock(), list[_Listener]()


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """What tifffile logs goes to the list that is yielded, and not to the screen."""
    logger, listener = logging.getLogger("tifffile"), _Listener()
    with _lock:
        _listeners.append(listener)
        logger.propagate = False
        logger.addHandler(listener)
    try:
        yield listener.heard
    finally:
        with _lock:
            _listeners.remove(listener)
            logger.propagate = not _listeners
            logger.removeHandler(listener)

"""The raw images of a source folder: read, and checked against what the bank holds."""

import collections
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from phenomjax.data import store
from phenomjax.prepare.images.formats import readers
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan
from phenomjax.prepare.images.records import BadFile, Finding
from phenomjax.prepare.images.sources import ome_plates
from phenomjax.system.errors import EXIT_FAILED, UserError

# (low, high) of each channel, None when pixels are kept, [] of a plate that could not be counted
Numbers = list[tuple[int | float, int | float]] | None


class RawImages(NamedTuple):
    """Where images come from and what they must be.

    Attributes:
      folder: the source folder.
      is_ome: files are arrays of OME-Zarr plates.
      single: each file holds one plane, and another is an error.
      projection: how several planes of a channel become one, "max" or "mean".
      size: (height, width) of the bank's images.
      dtype: name of the type of the source's pixels.
      channels: names of the channels of an image.
    """

    folder: Path
    is_ome: bool
    single: bool = False
    projection: str | None = None
    size: tuple[int, int] = (0, 0)
    dtype: str = ""
    channels: tuple[str, ...] = ()


def probe(source: RawImages, plan: ImagePlan) -> tuple[RawImages, list[Finding]]:
    """Fills in size and dtype: those of most of 16 images spread over the plan, so one odd image
    decides nothing.

    Returns:
      The source, its dtype "" when none of them can be read, and those that cannot.
    """
    found: collections.Counter[tuple] = collections.Counter()
    bad = []
    for entry in plan.sample(16):
        try:
            planes = _read(source, entry, 0, hashlib.sha256())
            found[planes.shape[1:], planes.dtype.name] += 1
        except BadFile as error:
            bad.append(rejected(source, entry, error))
    if found:
        size, dtype = found.most_common(1)[0][0]
        source = source._replace(size=size, dtype=dtype)
    return source, bad


def load_image(source: RawImages, entry: ImageFiles) -> tuple[np.ndarray, str]:
    """Reads the files of one image.

    Returns:
      image: [height, width, channels] in the type of the source.
      checksum: sha256 of all its files one after the other, as `cat FILES | sha256sum` prints.

    Raises:
      BadFile: anything that keeps it out of the bank.
    """
    checksum = hashlib.sha256()
    read = []
    for number in range(len(entry.files)):
        found = _read(source, entry, number, checksum)
        read.append(dict(zip(_pages(entry, number), found, strict=True)))
    first = read[0][_pages(entry, 0)[0]]
    for file, pages in zip(entry.files, read, strict=True):
        for plane in pages.values():
            _check_plane(source, plane, file, first, entry.files[0])
    if first.shape != source.size:
        detail = (
            f"is {_pixels(first.shape)}, most of the source is {_pixels(source.size)}: a bank"
            " has one size"
        )
        raise BadFile(
            "size", detail + "; prepare the others into a bank of their own", entry.files[0]
        )
    planes = [
        _project([read[file][page] for file, page in channel], source.projection)
        for channel in entry.channels
    ]
    return np.stack(planes, axis=-1), checksum.hexdigest()


def rejected(source: RawImages, entry: ImageFiles, error: BadFile) -> Finding:
    """What is said of an image that cannot go into the bank.

    Raises:
      UserError: it is the whole source that is not there any more.
    """
    if not store.is_dir(source.folder) or not store.names(source.folder):
        raise UserError(
            f"The source {store.url(source.folder)} is not there any more, or is empty: was a disk"
            " or a share taken away? What is finished is kept: bring it back, and run the same"
            " command again.",
            EXIT_FAILED,
        )
    return Finding(error.reason, error.detail, error.file, tuple(entry.key))


def _check_plane(
    source: RawImages, plane: np.ndarray, file: str, first: np.ndarray, first_file: str
) -> None:
    if plane.shape != first.shape:
        detail = (
            f"is {_pixels(plane.shape)}, channel file {first_file} is {_pixels(first.shape)}:"
            " channels of one image must have one size; export it again"
        )
        raise BadFile("channel_sizes", detail, file)
    if plane.dtype.name != source.dtype:
        detail = (
            f"has {plane.dtype} pixels, most of the source has {source.dtype}: prepare those into a"
            " bank of their own"
        )
        raise BadFile("pixel_type", detail, file)


def _project(planes: list[np.ndarray], projection: str | None) -> np.ndarray:
    """One plane of several: their highest values, or their mean, to the nearest whole number."""
    if len(planes) == 1:
        return planes[0]
    if projection == "max":
        return np.maximum.reduce(planes)
    if planes[0].dtype.kind == "f":
        return np.mean(planes, axis=0, dtype=np.float64).astype(planes[0].dtype)
    total = np.sum(planes, axis=0, dtype=np.int64)
    return ((2 * total + len(planes)) // (2 * len(planes))).astype(planes[0].dtype)


def _pages(entry: ImageFiles, number: int) -> list[int]:
    """The pages of one of the files that the image needs."""
    return sorted({page for channel in entry.channels for file, page in channel if file == number})


def _read(
    source: RawImages, entry: ImageFiles, number: int, checksum: "hashlib._Hash"
) -> np.ndarray:
    """The needed pages of a file of the image."""
    file, pages = entry.files[number], _pages(entry, number)
    if source.is_ome:
        return ome_plates.read_pixels(source.folder, file, pages, checksum)
    count = 1 if source.single else None
    return readers.read_planes(source.folder, file, checksum, pages, count)


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} pixels"

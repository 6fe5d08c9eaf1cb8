"""The raw images of a source folder: read, and checked against what the bank holds."""

import collections
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from phenomjax.data.images import ome
from phenomjax.prepare.images import readers
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan, RejectedImage, sample
from phenomjax.prepare.images.readers import BadFile
from phenomjax.system.errors import UserError

# (low, high) of each channel, None when pixels are kept, [] of a plate that could not be counted
Numbers = list[tuple[int | float, int | float]] | None


class RawImages(NamedTuple):
    """Where images come from and what they must be.

    Attributes:
      folder: the source folder.
      is_ome: files are arrays of OME-Zarr plates.
      planes: the plane of each channel in a file that holds all; None with one file a channel.
      size: (height, width) of the bank's images.
      dtype: name of the type of the source's pixels.
      channels: names of the channels of an image.
    """

    folder: Path
    is_ome: bool
    planes: tuple[int, ...] | None
    size: tuple[int, int] = (0, 0)
    dtype: str = ""
    channels: tuple[str, ...] = ()


def probe(source: RawImages, plan: ImagePlan) -> tuple[RawImages, list[RejectedImage]]:
    """Fills in size and dtype: those of most of 16 images spread over the plan, so one odd image
    decides nothing.

    Returns:
      The source, its dtype "" when none of them can be read, and those that cannot.
    """
    found: collections.Counter[tuple] = collections.Counter()
    bad = []
    for entry in sample(plan.entries, 16):
        try:
            planes = _read(source, entry.files[0], hashlib.sha256())
            found[planes.shape[1:], planes.dtype.name] += 1
        except BadFile as error:
            bad.append(RejectedImage(error.reason, error.detail, error.file, entry.key))
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
    checksum, planes = hashlib.sha256(), []
    for file in entry.files:
        found = _read(source, file, checksum)
        if source.planes is None:
            if len(found) != 1:
                detail = (
                    f"holds {len(found)} planes where one channel a file is expected: a colour"
                    " image or a stack"
                )
                raise BadFile(
                    "planes",
                    detail + "; convert it to grey, or use a pattern without the group 'channel'",
                    file,
                )
            planes.append(found[0])
        elif len(found) <= max(source.planes):
            raise BadFile(
                "missing_channel",
                f"holds {len(found)} planes, channel {max(source.planes) + 1} is missing",
                file,
            )
        else:
            planes.extend(found[plane] for plane in source.planes)
    for file, plane in zip(entry.files, planes, strict=False):
        if plane.shape != planes[0].shape:
            detail = (
                f"is {_pixels(plane.shape)}, channel file {entry.files[0]} is"
                f" {_pixels(planes[0].shape)}: channels of one "
            )
            raise BadFile(
                "channel_sizes", detail + "image must have one size; export it again", file
            )
        if plane.dtype.name != source.dtype:
            detail = (
                f"has {plane.dtype} pixels, most of the source has {source.dtype}: prepare those"
                " into a bank of their own"
            )
            raise BadFile("pixel_type", detail, file)
    if planes[0].shape != source.size:
        detail = (
            f"is {_pixels(planes[0].shape)}, most of the source is {_pixels(source.size)}: a bank"
            " has one size"
        )
        raise BadFile(
            "size", detail + "; prepare the others into a bank of their own", entry.files[0]
        )
    return np.stack(planes, axis=-1), checksum.hexdigest()


def _read(source: RawImages, file: str, checksum) -> np.ndarray:
    if not source.is_ome:
        return readers.read_planes(source.folder, file, checksum)
    folder = source.folder / file
    try:
        planes = ome.open_field(folder).read().result().transpose(2, 0, 1)
    except UserError as error:
        raise BadFile("planes", str(error).removeprefix(f"{folder} "), file) from error
    except (ValueError, OSError) as error:
        raise BadFile(
            "undecodable",
            f"does not decode ({str(error).splitlines()[0][:200]}): copy it again",
            file,
        ) from error
    for part in sorted(path for path in folder.rglob("*") if path.is_file()):
        checksum.update(part.read_bytes())
    return planes


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} pixels"

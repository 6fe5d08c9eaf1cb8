"""Images made of the planes of a source: channels, planes along z, time points, duplicates."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data.images import wells
from phenomjax.prepare.images.naming import channels
from phenomjax.prepare.images.plan import ImageFiles
from phenomjax.prepare.images.planning.axes import (
    Axes,
    Image,
    Wanted,
    axes_of,
    fewer_planes,
    stack_at,
    typical_depths,
    wanted_times,
)
from phenomjax.prepare.images.planning.faults import LEFT_OUT, fault, unnamed_channels
from phenomjax.prepare.images.records import (
    FileStatus,
    Finding,
    ImageKey,
    Listing,
    Plane,
)

log = logging.getLogger("phenomjax")
PROJECTIONS = ("max", "mean")


class _Grouped(NamedTuple):
    images: dict[ImageKey, Image]
    doubled: dict[tuple[ImageKey, str], tuple[Plane, Plane]]


class Made(NamedTuple):
    """Images of some planes.

    Attributes:
      images: in the order of the bank.
      rejected, remarks: what else there is to say.
      axes: of the images.
      keys: how many different ones there are, whether or not images could be made.
      examples: two of them.
      alone: none has a second channel.
      stacked: planes are projected.
    """

    images: list[ImageFiles]
    rejected: list[Finding]
    remarks: list[Finding]
    axes: Axes
    keys: int
    examples: list[ImageKey]
    alone: bool
    stacked: bool


def make_images(
    source: Path,
    listing: Listing,
    planes: Sequence[Plane],
    wanted: Wanted,
    chosen: channels.Chosen,
    several_times: bool | None = None,
) -> Made:
    """Sorts planes into images.

    Args:
      source: the folder.
      listing: status of its files; those that are not in it are looked at.
      planes: of whole plates, with completed keys.
      wanted: what to make of them.
      chosen: the channels of the bank.
      several_times: an image of the source has several time points; None: look at these.
    """
    grouped = _group(planes, chosen)
    axes = axes_of(grouped.images.values())
    status = _Status(source, listing)
    typical = typical_depths(grouped.images)
    several = axes.several if several_times is None else several_times
    several = several and wanted.t == "all"
    images: list[ImageFiles] = []
    rejected: list[Finding] = []
    remarks: list[Finding] = []
    for key in sorted(grouped.images, key=order):
        image = grouped.images[key]
        bad = fault(key, image, chosen, grouped.doubled)
        if bad:
            (remarks if bad.reason == LEFT_OUT else rejected).append(bad)
            continue
        remarks += fewer_planes(key, image, typical)
        for time in wanted_times(image, wanted.t):
            one = key._replace(time=str(time)) if several and time is not None else key
            picked = _pick(one, image, time, chosen, wanted.z)
            if isinstance(picked, Finding):
                rejected.append(picked)
            else:
                images.append(_entry(one, picked, status))
    return Made(
        images,
        rejected,
        remarks,
        axes,
        len(grouped.images),
        list(grouped.images)[:2],
        all(len(image) == 1 for image in grouped.images.values()),
        any(len(planes) > 1 for image in images for planes in image.channels),
    )


def choose(facts: channels.Facts, wanted: Wanted) -> tuple[channels.Chosen, list[Finding]]:
    """The channels of the bank, and what is to be said of others.

    Raises:
      UserError: channels that cannot be told apart.
    """
    chosen = channels.choose(facts, wanted.channels, wanted.names)
    planes = [(chosen.of(plane), count) for plane, count in facts.kinds.values()]
    left_out = sorted({name for name, _ in planes} - chosen.names.keys())
    if left_out:
        log.info("channels left out: %s (--channels chooses)", ", ".join(left_out))
    if wanted.channels or not chosen.set:
        return chosen, []
    return chosen, unnamed_channels(planes, chosen, left_out)


def projection(stacked: bool, wanted: Wanted) -> str | None:
    """How several planes of a channel become one."""
    return ("mean" if wanted.z == "mean" else "max") if stacked else None


def _group(planes: Sequence[Plane], chosen: channels.Chosen) -> _Grouped:
    grouped = _Grouped({}, {})
    for plane in planes:
        name = chosen.of(plane)
        image = grouped.images.setdefault(plane.key, {})
        stack = image.setdefault(name, {}).setdefault(plane.t, {})
        if plane.z in stack:
            grouped.doubled.setdefault((plane.key, name), (stack[plane.z], plane))
        else:
            stack[plane.z] = plane
    # Channels that were left out are kept in name alone: nothing that they lack is a fault.
    for image in grouped.images.values():
        for name in image.keys() - chosen.names.keys():
            image[name] = {}
    return grouped


def _pick(
    key: ImageKey, image: Image, time: int | None, chosen: channels.Chosen, z: str | None
) -> list[list[Plane]] | Finding:
    """The planes of each channel of the bank, at one time."""
    picked = []
    for name in chosen.names:
        stack = stack_at(image[name], time)
        if not stack:
            there = ", ".join(str(one) for one in sorted(one or 0 for one in image[name]))
            first = next(iter(next(iter(image[name].values())).values())).file
            detail = f"has no time point {time} in channel {name} (it has {there}): copy the file"
            return Finding("missing_time", detail, first, key)
        planes = [stack[position] for position in sorted(stack, key=lambda one: one or 0)]
        if len(planes) > 1 and z == "middle":
            planes = [planes[(len(planes) - 1) // 2]]
        elif len(planes) > 1 and z not in PROJECTIONS:
            at = [plane for plane in planes if str(plane.z) == z]
            if not at:
                there = ", ".join(str(plane.z) for plane in planes)
                detail = f"has no plane {z} in channel {name} (it has {there}): copy the file"
                return Finding("missing_plane", detail, planes[0].file, key)
            planes = at
        picked.append(planes)
    return picked


class _Status:
    """Size and time of a file, or of the files in the folder of an array."""

    def __init__(self, source: Path, listing: Listing):
        self.source, self.listing = source, listing

    def __call__(self, file: str) -> object:
        if file in self.listing:
            return tuple(self.listing[file])
        path = self.source / file
        parts = sorted(path.glob("*")) if path.is_dir() else [path]
        found = [(part.name, part.stat()) for part in parts if part.is_file()]
        return [(name, tuple(FileStatus(one.st_size, one.st_mtime_ns))) for name, one in found]


def _entry(key: ImageKey, picked: list[list[Plane]], status: _Status) -> ImageFiles:
    files = tuple(dict.fromkeys(plane.file for planes in picked for plane in planes))
    number = {file: i for i, file in enumerate(files)}
    pages = tuple(tuple((number[plane.file], plane.page) for plane in planes) for planes in picked)
    described = (tuple(key), pages, [(file, status(file)) for file in files])
    return ImageFiles(key, files, pages, hashlib.sha256(repr(described).encode()).hexdigest())


def order(key: Sequence[str | None]) -> list:
    """How images, and plates, are sorted in a bank."""
    return [(wells.natural(part or ""), part or "") for part in key]

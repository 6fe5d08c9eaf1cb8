"""Images made of the planes of a source: channels, planes along z, time points, duplicates."""

import collections
import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from phenomjax.data.images import wells
from phenomjax.prepare.images.naming import channels, measurements
from phenomjax.prepare.images.naming.listing import quoted
from phenomjax.prepare.images.plan import ImageFiles
from phenomjax.prepare.images.records import (
    FileStatus,
    Finding,
    ImageKey,
    Listing,
    Plane,
)
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
PROJECTIONS = ("max", "mean")
LEFT_OUT = "channels_left_out"
Stack = dict[int | None, Plane]  # by z
Image = dict[str, dict[int | None, Stack]]  # by channel and time


class Wanted(NamedTuple):
    """What to make of the planes.

    Attributes:
      channels: items of --channels.
      names: the layout's names of channels by number.
      z: of --z: max, mean, middle or a number; None for images of one plane.
      t: of --t: all or a number; None for images of one time point.
      defaults: values for parts of the key that the source does not say.
      overrides: values for parts of the key whatever the source says.
    """

    channels: Sequence[str] = ()
    names: Mapping[str, str] = {}
    z: str | None = None
    t: str | None = None
    defaults: Mapping[str, str] = {}
    overrides: Mapping[str, str] = {}


class _Grouped(NamedTuple):
    images: dict[ImageKey, Image]
    doubled: dict[tuple[ImageKey, str], tuple[Plane, Plane]]


class Axes(NamedTuple):
    """What axes images have.

    Attributes:
      deep: the planes along z of each channel that has several.
      long: the time points of each channel that has several.
      times: all time points.
      several: an image has several time points.
    """

    deep: dict[str, list[int | None]]
    long: dict[str, list[int]]
    times: list[int]
    several: bool

    @classmethod
    def merged(cls, parts: Iterable["Axes"]) -> "Axes":
        """Those of the parts of a source."""
        found = cls({}, {}, [], False)
        for part in parts:
            for mine, its in ((found.deep, part.deep), (found.long, part.long)):
                for name, values in its.items():
                    mine[name] = [*dict.fromkeys([*mine.get(name, []), *values])]
            times = [*dict.fromkeys([*found.times, *part.times])]
            found = found._replace(times=times, several=found.several or part.several)
        return found


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
    axes = _axes_of(grouped)
    status = _Status(source, listing)
    typical = _typical_depths(grouped)
    several = axes.several if several_times is None else several_times
    several = several and wanted.t == "all"
    images: list[ImageFiles] = []
    rejected: list[Finding] = []
    remarks: list[Finding] = []
    for key in sorted(grouped.images, key=order):
        image = grouped.images[key]
        bad = _fault(key, image, chosen, grouped.doubled)
        if bad:
            (remarks if bad.reason == LEFT_OUT else rejected).append(bad)
            continue
        remarks += _fewer_planes(key, image, typical)
        for time in _wanted_times(image, wanted.t):
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
    return chosen, _unnamed_channels(planes, chosen, left_out)


def projection(stacked: bool, wanted: Wanted) -> str | None:
    """How several planes of a channel become one."""
    return ("mean" if wanted.z == "mean" else "max") if stacked else None


def check_apart(keys: int, examples: Sequence[ImageKey], chosen: channels.Chosen) -> None:
    """Whether names that give each image one channel of several can be right.

    Args:
      keys: how many images there would be, none with a second channel.
      examples: two of them.
      chosen: the channels of the bank.

    Raises:
      UserError: they cannot.
    """
    if keys < 2 or len(chosen.names) < 2:
        return
    names = list(chosen.names.values())
    one, other = ("/".join(part for part in key if part) for key in examples[:2])
    raise UserError(
        f"Each of the {keys} images, such as {one} and {other}, has one channel only,"
        f" and together they have {len(names)}: {', '.join(names)}. What tells channels apart was"
        " probably read as the site or the well. Correct the groups of --pattern (or take another"
        f" --layout); where images do have one channel, choose it with --channels '{names[0]}'."
    )


def _unnamed_channels(
    planes: Iterable[tuple[str, int]], chosen: channels.Chosen, left_out: Sequence[str]
) -> list[Finding]:
    """Channels that the layout does not name, and nobody asked for."""
    of_plates = {name for names in chosen.sets.values() for name in names}
    counts: collections.Counter[str] = collections.Counter()
    for name, count in planes:
        counts[name] += count
    return [
        Finding(
            LEFT_OUT,
            f"channel {name} ({counts[name]} planes) has no name in this layout and was left out;"
            f" to have it too: --channels {_items([*chosen.names, name], chosen)}",
            "",
        )
        for name in left_out
        if name not in of_plates  # those are rejected, plate by plate
    ]


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


def _times(image: Image) -> list[int]:
    return sorted({time for stacks in image.values() for time in stacks if time is not None})


def _wanted_times(image: Image, t: str | None) -> Sequence[int | None]:
    """The time points to take; None for the only one that each channel has."""
    if t is None:
        return (None,)
    return (_times(image) or (None,)) if t == "all" else (int(t),)


def _at(stacks: dict[int | None, Stack], time: int | None) -> Stack:
    if time is None:
        return next(iter(stacks.values()))
    return stacks.get(time) or stacks.get(None, {})


def _axes_of(grouped: _Grouped) -> Axes:
    deep: dict[str, dict[int | None, None]] = collections.defaultdict(dict)
    long: dict[str, dict[int, None]] = collections.defaultdict(dict)
    for image in grouped.images.values():
        for name, stacks in image.items():
            for stack in stacks.values():
                if len(stack) > 1:
                    deep[name].update(dict.fromkeys(stack))
            if len(stacks) > 1:
                long[name].update(dict.fromkeys(time or 0 for time in stacks))
    times = dict.fromkeys(time for image in grouped.images.values() for time in _times(image))
    return Axes(
        {name: [*values] for name, values in deep.items()},
        {name: [*values] for name, values in long.items()},
        [*times],
        any(len(_times(image)) > 1 for image in grouped.images.values()),
    )


def check_axes(axes: Axes, wanted: Wanted, chosen: channels.Chosen) -> list[str]:
    """What to say of planes and times.

    Raises:
      UserError: there are several and no word of which to take, or none has the number wanted.
    """
    deep, long, times = axes.deep, axes.long, set(axes.times)
    missing = []
    if deep and wanted.z is None:
        flat = [name for name in chosen.names if name not in deep]
        without = f", or leave such channels out: --channels {_items(flat, chosen)}" if flat else ""
        missing.append(
            f"{_axes(deep, 'planes along z')}, and a bank holds one a channel. Add --z max or --z"
            f" mean to project them, --z middle or --z N to take one plane{without}."
        )
    if long and wanted.t is None:
        first = min(min(times) for times in long.values())
        missing.append(
            f"{_axes(long, 'time points')}. Add --t {first} to take one (any number of them), or"
            " --t all to make an image of each, told apart by the column `time`."
        )
    if missing:
        raise UserError(" ".join(missing))
    planes = set[int | None]().union(*deep.values())
    if planes and wanted.z and wanted.z.isdecimal() and int(wanted.z) not in planes:
        raise UserError(f"`z` {wanted.z}: {_axes(deep, 'planes along z')}. Give one of them.")
    if times and wanted.t and wanted.t != "all" and int(wanted.t) not in times:
        raise UserError(
            f"`t` {wanted.t}: no image has that time point; there are"
            f" {', '.join(map(str, sorted(times)[:8]))}. Give one of them, or --t all."
        )
    if wanted.z and not deep:
        return ["no channel has several planes along z: --z changes nothing"]
    return []


def _axes(found: Mapping[str, Collection[int | None]], what: str) -> str:
    name = next(iter(found))
    values = sorted(value or 0 for value in found[name])
    which = ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")
    rest = len(found) - 1
    others = f" ({rest} other channel{'s' * (rest > 1)} too)" if rest else ""
    return f"Channel {name} has {len(values)} {what}: {which}{others}"


def _typical_depths(grouped: _Grouped) -> dict[tuple[channels.Place, str], int]:
    """How many planes most images of a plate have in a channel."""
    counts: dict[tuple[channels.Place, str], collections.Counter[int]]
    counts = collections.defaultdict(collections.Counter)
    for key, image in grouped.images.items():
        for name, stacks in image.items():
            counts[key[:2], name].update(len(stack) for stack in stacks.values())
    return {place: count.most_common(1)[0][0] for place, count in counts.items() if count}


def _fewer_planes(key: ImageKey, image: Image, typical: Mapping) -> list[Finding]:
    found = []
    for name, stacks in image.items():
        for stack in stacks.values():
            usual = typical[key[:2], name]
            if len(stack) < usual:
                there = ", ".join(map(str, sorted(z or 0 for z in stack)))
                detail = (
                    f"is of a stack of {len(stack)} in channel {name}, where most images of the"
                    f" plate have {usual}: it went in with {there}"
                )
                found.append(Finding("fewer_planes", detail, next(iter(stack.values())).file, key))
    return found


def _fault(
    key: ImageKey, image: Image, chosen: channels.Chosen, doubled: Mapping
) -> Finding | None:
    """What keeps an image out whatever is said of planes and times."""
    for name, title in chosen.names.items():
        if (key, name) in doubled:
            return _duplicate(key, name, title, *doubled[key, name])
    files = (
        plane.file for stacks in image.values() for one in stacks.values() for plane in one.values()
    )
    first = next(files, "")
    own = chosen.sets[key[:2]]
    differs = set(own) != set(chosen.set) if chosen.set else not set(chosen.names) <= set(own)
    if differs:
        both = [name for name in chosen.names if name in own]
        detail = (
            f"is of a plate with the channels {', '.join(own)}, the bank has"
            f" {', '.join(chosen.names)}. Of such plates a bank can be made with"
            f" --channels {_items(own, chosen)} and another --out"
        )
        if both and set(both) != set(own):
            detail += f", of all plates with --channels {_items(both, chosen)}"
        return Finding("channel_set", detail, first, key)
    if not first:
        detail = f"has none of the channels {', '.join(chosen.names)}: it was left out with its own"
        return Finding(LEFT_OUT, detail, "", key)
    absent = [name for name in chosen.names if name not in image]
    if absent:
        missing = ", ".join(
            f"{name} ({chosen.names[name]})" if name != chosen.names[name] else name
            for name in absent
        )
        others = [name for name in chosen.names if name in image]
        detail = (
            f"has no file for channel {missing} beside it: copy the file, or leave the channel out"
            f" with --channels {_items(others, chosen)}"
        )
        return Finding("missing_channel", detail, first, key)
    return None


def _items(names: Sequence[str], chosen: channels.Chosen) -> str:
    """A value of --channels, with the names that the bank gives them."""
    titles = {name: chosen.names.get(name, name) for name in names}
    return quoted(",".join(n if n == title else f"{n}={title}" for n, title in titles.items()))


def _duplicate(key: ImageKey, name: str, title: str, one: Plane, other: Plane) -> Finding:
    called = f"channel {name} ({title})" if name != title else f"channel {name}"
    if one.file == other.file:
        detail = f"has two planes that say they are {called} of this image"
        return Finding("duplicate", detail, one.file, key)
    first, second = measurements.apart(one.file, other.file)
    beside = PurePosixPath(one.file).parent == PurePosixPath(other.file).parent
    apart = (
        "; or give --layout generic and a --pattern with a group for what tells them apart"
        " (channel, site, z, t)"
        if beside
        else ""
    )
    detail = (
        f"and {one.file} both say they are {called} of this image:"
        f" {measurements.mend(first, second, key.plate)}{apart}"
    )
    return Finding("duplicate", detail, other.file, key)


def _pick(
    key: ImageKey, image: Image, time: int | None, chosen: channels.Chosen, z: str | None
) -> list[list[Plane]] | Finding:
    """The planes of each channel of the bank, at one time."""
    picked = []
    for name in chosen.names:
        stack = _at(image[name], time)
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

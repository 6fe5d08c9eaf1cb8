"""Planes along z and time points: what axes images have, and what is wanted of them."""

import collections
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from phenomjax.prepare.images.naming.channels import Chosen, Place, items_of
from phenomjax.prepare.images.records import Finding, ImageKey, Plane
from phenomjax.system.errors import UserError

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


def times_of(image: Image) -> list[int]:
    """The time points of an image."""
    return sorted({time for stacks in image.values() for time in stacks if time is not None})


def wanted_times(image: Image, t: str | None) -> Sequence[int | None]:
    """The time points to take; None for the only one that each channel has."""
    if t is None:
        return (None,)
    return (times_of(image) or (None,)) if t == "all" else (int(t),)


def stack_at(stacks: dict[int | None, Stack], time: int | None) -> Stack:
    """The planes along z of a channel at a time point; None: the only one."""
    if time is None:
        return next(iter(stacks.values()))
    return stacks.get(time) or stacks.get(None, {})


def axes_of(images: Collection[Image]) -> Axes:
    """The axes of images."""
    deep: dict[str, dict[int | None, None]] = collections.defaultdict(dict)
    long: dict[str, dict[int, None]] = collections.defaultdict(dict)
    for image in images:
        for name, stacks in image.items():
            for stack in stacks.values():
                if len(stack) > 1:
                    deep[name].update(dict.fromkeys(stack))
            if len(stacks) > 1:
                long[name].update(dict.fromkeys(time or 0 for time in stacks))
    times = dict.fromkeys(time for image in images for time in times_of(image))
    return Axes(
        {name: [*values] for name, values in deep.items()},
        {name: [*values] for name, values in long.items()},
        [*times],
        any(len(times_of(image)) > 1 for image in images),
    )


def check_axes(axes: Axes, wanted: Wanted, chosen: Chosen) -> list[str]:
    """What to say of planes and times.

    Raises:
      UserError: there are several and no word of which to take, or none has the number wanted.
    """
    deep, long, times = axes.deep, axes.long, set(axes.times)
    missing = []
    if deep and wanted.z is None:
        flat = [name for name in chosen.names if name not in deep]
        items = items_of(flat, chosen)
        without = f", or leave such channels out: --channels {items}" if flat else ""
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


def typical_depths(images: Mapping[ImageKey, Image]) -> dict[tuple[Place, str], int]:
    """How many planes most images of a plate have in a channel."""
    counts: dict[tuple[Place, str], collections.Counter[int]]
    counts = collections.defaultdict(collections.Counter)
    for key, image in images.items():
        for name, stacks in image.items():
            counts[key[:2], name].update(len(stack) for stack in stacks.values())
    return {place: count.most_common(1)[0][0] for place, count in counts.items() if count}


def fewer_planes(key: ImageKey, image: Image, typical: Mapping) -> list[Finding]:
    """Stacks of fewer planes than most of the plate have."""
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

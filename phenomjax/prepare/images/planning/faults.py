"""What keeps an image out of the bank, as far as its planes say it."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from phenomjax.prepare.images.naming import measurements
from phenomjax.prepare.images.naming.channels import Chosen, items_of
from phenomjax.prepare.images.planning.axes import Image
from phenomjax.prepare.images.records import Finding, ImageKey, Plane
from phenomjax.system.errors import UserError

LEFT_OUT = "channels_left_out"


def check_apart(keys: int, examples: Sequence[ImageKey], chosen: Chosen) -> None:
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


def unnamed_channels(
    planes: Iterable[tuple[str, int]], chosen: Chosen, left_out: Sequence[str]
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
            f" to have it too: --channels {items_of([*chosen.names, name], chosen)}",
            "",
        )
        for name in left_out
        if name not in of_plates  # those are rejected, plate by plate
    ]


def fault(key: ImageKey, image: Image, chosen: Chosen, doubled: Mapping) -> Finding | None:
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
            f" --channels {items_of(own, chosen)} and another --out"
        )
        if both and set(both) != set(own):
            detail += f", of all plates with --channels {items_of(both, chosen)}"
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
            f" with --channels {items_of(others, chosen)}"
        )
        return Finding("missing_channel", detail, first, key)
    return None


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

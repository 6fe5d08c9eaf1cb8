"""A plate that was measured twice, or two plates of one name: planes are never put together."""

import glob
import shlex
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from phenomjax.prepare.images.naming.listing import quoted
from phenomjax.prepare.images.records import Finding, ImageKey, Plane


def clashes(measurements: Iterable[Sequence[Plane]]) -> dict[ImageKey, Finding]:
    """Images of which planes come from several measurements, though channels, planes along z and
    time points may differ.

    Args:
      measurements: the planes of each.
    """
    first: dict[ImageKey, tuple[int, Plane]] = {}
    found: dict[ImageKey, Finding] = {}
    numbered = ((i, plane) for i, planes in enumerate(measurements) for plane in planes)
    for number, plane in numbered:
        other, twin = first.setdefault(plane.key, (number, plane))
        if other == number or plane.key in found:
            continue
        one, two = apart(twin.file, plane.file)
        detail = (
            f"and {twin.file} both say they are this image, and are of two measurements: of a plate"
            " that was measured twice or of two plates of one name:"
            f" {mend(one, two, plane.key.plate)}"
        )
        found[plane.key] = Finding("duplicate", detail, plane.file, tuple(plane.key))
    return found


def mend(one: str, two: str, plate: str | None) -> str:
    """What can be done about two places, given by their patterns of --exclude."""
    first, second, name = quoted(one), quoted(two), shlex.quote(f"plate={plate}b")
    return (
        f"leave one out with --exclude {second}; or make two banks, one with --exclude {second} and"
        f" one with --exclude {first} --set {name}"
    )


def apart(one: str, other: str) -> tuple[str, str]:
    """Patterns of --exclude that fit one of two files each: the folders in which they differ, or
    the suffixes, or the files themselves.
    """
    first, second = PurePosixPath(one), PurePosixPath(other)
    suffixes = (first.suffix, second.suffix)
    if first.with_suffix("") == second.with_suffix("") and len({*map(str.lower, suffixes)}) > 1:
        return f"*{suffixes[0]}", f"*{suffixes[1]}"  # all are there in two formats
    left, right = first.parts, second.parts
    same = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)) - 1,
    )

    def pattern(parts: tuple[str, ...]) -> str:
        head = glob.escape("/".join(parts[: same + 1]))
        return head if same + 1 >= len(parts) else f"{head}/*"

    return pattern(left), pattern(right)

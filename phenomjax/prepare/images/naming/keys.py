"""Where planes are in the screen: what a source leaves out is filled in, what --set says holds."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from phenomjax.data.images import wells
from phenomjax.prepare.images.naming import names
from phenomjax.prepare.images.records import Plane


def complete(
    source: Path,
    planes: Sequence[Plane],
    defaults: Mapping[str, str],
    overrides: Mapping[str, str],
) -> tuple[list[Plane], list[str]]:
    """Completes the key of every plane.

    Args:
      source: the folder.
      planes: as a reader gives them; what it does not know is None or "".
      defaults: values of --default for what the source does not say; a folder names the plate
        otherwise, and the only site is 1.
      overrides: values of --set, whatever the source says.

    Returns:
      The planes, and sentences for the screen.
    """
    above = os.path.abspath(source).rstrip("/") + "/"
    placed = []
    after_folders = dict[str, None]()
    for plane in planes:
        key = plane.key
        gaps = {name: value for name, value in defaults.items() if name != "channel"}
        if key.plate is None:
            folder = names.plate_name(str(PurePosixPath(above + plane.file).parent))
            after_folders.setdefault(folder)
            gaps.setdefault("plate", folder)
        gaps = {name: value for name, value in gaps.items() if not getattr(key, name)}
        gaps.setdefault("site", key.site or "1")
        placed.append(plane._replace(key=key._replace(**gaps | dict(overrides))))
    told = _overridden(planes, overrides)
    shown = ", ".join(list(after_folders)[:4]) + (", ..." if len(after_folders) > 4 else "")
    given = overrides.get("plate") or defaults.get("plate")
    if after_folders and given is None:
        told.append(f"plates are called after their folders: {shown}")
    elif len(after_folders) > 1:
        told.append(f"plate {given} has images from {len(after_folders)} folders: {shown}")
    return placed, told


def _overridden(planes: Sequence[Plane], overrides: Mapping[str, str]) -> list[str]:
    """What --set makes one of."""
    told = []
    for name, value in overrides.items():
        there = sorted({str(getattr(plane.key, name)) for plane in planes}, key=wells.natural)
        if len(there) > 1:
            shown = ", ".join(there[:4]) + (", ..." if len(there) > 4 else "")
            told.append(f"--set {name}={value} is one name for {len(there)}: {shown}")
    return told

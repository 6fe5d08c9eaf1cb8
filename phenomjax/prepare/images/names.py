"""A source of which file names say everything: plate, well, site, channel, plane and time."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from phenomjax.data.images import wells
from phenomjax.prepare.images import layouts, readers
from phenomjax.prepare.images.listing import is_image, suffixes
from phenomjax.prepare.images.records import Finding, ImageKey, Listing, Plane, Understood
from phenomjax.system.errors import UserError

# Folders that instruments make inside that of a plate.
_TECHNICAL = re.compile(
    r"images?|timepoint[-_ ]?[0-9]+|zstep[-_ ]?[0-9]+|measurement[-_ ]?[0-9]*", re.IGNORECASE
)
_HARMONY_DATE = re.compile(r"__(?:[0-9]{4}-|Measurement).*")
_FORMAT = re.compile(r"(?:\.ome)?\.(?:zarr|tiff?)$", re.IGNORECASE)


def plate_folder(folder: str) -> str:
    """The folder of the plate: the nearest that instruments do not make in it (Images,
    TimePoint_1); `folder` is absolute.
    """
    parts = folder.rstrip("/").split("/")
    while len(parts) > 2 and _TECHNICAL.fullmatch(parts[-1]):
        parts.pop()
    return "/".join(parts)


def plate_name(folder: str) -> str:
    """What the folder of a plate says it is called: without Harmony's date and the suffix of a
    format.
    """
    name = _FORMAT.sub("", plate_folder(folder).rsplit("/", 1)[-1])
    return _HARMONY_DATE.sub("", name) or name or "1"


def read(
    source: Path,
    listing: Listing,
    layout: layouts.FileLayout,
    pattern: str | None,
    defaults: Mapping[str, str],
    *,
    needed: bool = True,
) -> Understood:
    """Reads the names of all images in a listing.

    Args:
      source: the folder.
      listing: of it.
      layout: how files are named.
      pattern: the expression of the generic layout.
      defaults: values for what names leave out; a plate's folder names it otherwise.
      needed: nothing else is known of the source.

    Raises:
      UserError: no image, or none with a name that fits.
    """
    patterns = layouts.compile_patterns(layout, pattern)
    images = [file for file in listing if is_image(file)]
    above = os.path.abspath(source).rstrip("/") + "/"
    found: dict[str, layouts.Name] = {}
    for file in images:
        name = next(
            filter(None, (layouts.parse(path, patterns) for path in _paths(file, above, layout))),
            None,
        )
        if name:
            found[file] = name
    unknown = [file for file in images if file not in found]
    if not found and needed:
        raise UserError(_nothing_matched(source, listing, layout, pattern, unknown))
    detail = (
        f"has a name that layout {layout.name} does not know (expected"
        f" {pattern or layout.example}): rename it, or leave it out with --exclude"
    )
    rejected = [Finding("unknown_name", f"{detail} '{file}'", file) for file in unknown]
    plates, told = _plates(found, above, defaults)
    times = _times(found)
    planes = []
    for file, name in found.items():
        key = ImageKey(
            name.experiment or defaults.get("experiment"),
            name.plate or plates[file],
            name.well,
            name.site or defaults.get("site", "1"),
        )
        z = int(name.z) if name.z else None
        channel = name.channel or defaults.get("channel", "1")
        plane = Plane(file, 0, key, channel, None, z, times.get(name.t or ""))
        planes.append(plane)
    return Understood(planes, rejected, told=told)


def _paths(file: str, above: str, layout: layouts.FileLayout) -> Iterator[str]:
    """The paths to compare: from the root for layouts that we know, so that it does not matter
    which folder is the source; else as short as fits.
    """
    if layout.patterns:
        yield above + file
        return
    yield file
    folders = above.strip("/").split("/")
    for i in range(len(folders) - 1, -1, -1):
        yield "/".join([*folders[i:], file])


def _plates(
    found: Mapping[str, layouts.Name], above: str, defaults: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The plate of each file whose name leaves it out, and what to say of that.

    A folder names the plate; --default names it where all images lie in one folder, for one name
    given to several folders would mix plates.
    """
    folders = {}
    for file, name in found.items():
        if not name.plate:
            before = name.before if name.before.startswith("/") else above + name.before
            folders[file] = plate_folder(before)
    given = defaults.get("plate")
    if given is None:
        return {file: plate_name(folder) for file, folder in folders.items()}, ()
    different = sorted(set(folders.values()))
    if len(different) == 1:
        return dict.fromkeys(folders, given), ()
    what = "all names say their plate"
    if different:
        what = f"{len(different)} folders name the plates ({_some(map(plate_name, different))})"
    told = f"--default plate={given} is not used: {what}. --set plate={given} overrides them."
    return {file: plate_name(folder) for file, folder in folders.items()}, (told,)


def _times(found: Mapping[str, layouts.Name]) -> dict[str, int]:
    """Number of each time point; those of slow and fast kinetics are counted through."""
    texts = {name.t for name in found.values() if name.t}
    if all(text.isdecimal() for text in texts):
        return {text: int(text) for text in texts}
    return {text: i for i, text in enumerate(sorted(texts, key=wells.natural), start=1)}


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _nothing_matched(
    source: Path,
    listing: Listing,
    layout: layouts.FileLayout,
    pattern: str | None,
    unknown: list[str],
) -> str:
    if not unknown:
        return (
            f"There are no images in {source}: looked for {', '.join(readers.SUFFIXES)} in it and"
            f" the folders below, found {suffixes(listing)}. Check --source; OME-Zarr plates want"
            " --layout ome-zarr."
        )
    above = os.path.abspath(source).rstrip("/") + "/"
    fits = [
        other.name
        for other in layouts.LAYOUTS.values()
        if other.patterns
        and other != layout
        and any(
            layouts.parse(above + file, layouts.compile_patterns(other, None))
            for file in unknown[:20]
        )
    ]
    hint = f"They fit --layout {' or '.join(fits)}."
    if not fits and layout.patterns:
        hint = "Give --layout generic and a --pattern for them."
    elif not fits:
        hint = "Correct the --pattern."
    return (
        f"None of the {len(unknown)} images in {source} has a name of layout {layout.name}, for"
        f" instance {unknown[0]!r}; expected {pattern or layout.example}. {hint}"
    )

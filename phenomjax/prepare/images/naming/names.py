"""A source of which file names say everything: plate, well, site, channel, plane and time."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from phenomjax.data.images import wells
from phenomjax.prepare.images.formats import readers
from phenomjax.prepare.images.naming import layouts
from phenomjax.prepare.images.naming.listing import (
    is_image,
    kinds_of_names,
    quoted,
    sidecar,
    suffixes,
)
from phenomjax.prepare.images.records import Finding, ImageKey, Listing, Plane, Understood
from phenomjax.system.errors import UserError

# Folders that instruments make inside that of a plate.
TECHNICAL = re.compile(
    r"images?|tiffs?|(?:time[-_ ]?point|z[-_ ]?step|measurement)[-_ ]?[0-9]+|projections?"
    r"|flex|index|hs|[{(]?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}[)}]?",
    re.IGNORECASE,
)
_COLUMNS = {6: 3, 12: 4, 24: 6, 48: 8, 96: 12, 384: 24, 1536: 48}  # by number of wells
_DATE_AND_NUMBER = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}/[0-9]+")  # of MetaXpress
_HARMONY_DATE = re.compile(r"__(?:[0-9]{4}-|Measurement).*")
_FORMAT = re.compile(r"(?:\.ome)?\.(?:zarr|tiff?)$", re.IGNORECASE)


def plate_folder(folder: str) -> str:
    """The folder of the plate: the nearest that instruments do not make in it (Images,
    TimePoint_1); `folder` is absolute.
    """
    parts = folder.rstrip("/").split("/")
    while len(parts) > 2 and TECHNICAL.fullmatch(parts[-1]):
        parts.pop()
    if len(parts) > 3 and _DATE_AND_NUMBER.fullmatch("/".join(parts[-2:])):
        del parts[-2:]
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
    plate_wells: int | None = None,
    needed: bool = True,
) -> Understood:
    """Reads the names of all images in a listing.

    Args:
      source: the folder.
      listing: of it.
      layout: how files are named.
      pattern: the expression of the generic layout.
      defaults: values for what names leave out; a plate's folder names it otherwise.
      plate_wells: how many wells a plate has, for names that number them.
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
    remarks = _projections(found) if layout.name == "imagexpress" else []
    for remark in remarks:
        del found[remark.file]
    left_out = {remark.file for remark in remarks}
    unknown = [file for file in images if file not in found and file not in left_out]
    if not found and needed:
        raise UserError(_nothing_matched(source, listing, layout, pattern, unknown))
    sidecars = {file: kind for file in unknown if (kind := sidecar(file))}
    remarks += [
        Finding(kind, f"is none of the screen's images, by its name ({kind}): left out", file)
        for file, kind in sidecars.items()
    ]
    unknown = [file for file in unknown if file not in sidecars]
    detail = (
        f"has a name that layout {layout.name} does not know (expected"
        f" {pattern or layout.example}): rename it, or leave it out with --exclude"
    )
    rejected = [
        Finding("unknown_name", f"{detail} {quoted(glob.escape(file))}", file) for file in unknown
    ]
    plates, told = _plates(found, above, defaults)
    if unknown:
        text = f"{len(unknown)} images have names that layout {layout.name} does not know"
        told = (*told, f"{text}: {kinds_of_names(unknown)}")
    told = (*told, *_unused_defaults(found, defaults))
    times = _times(found)
    if any("." in text for text in times):
        shown = ", ".join(f"{i} = sk{t.replace('.', 'fk')}" for t, i in list(times.items())[:4])
        told = (*told, f"time points of fast kinetics are counted through: {shown}, ...")
    _check_numbers(found)
    planes = []
    for file, name in found.items():
        key = ImageKey(
            name.experiment or defaults.get("experiment"),
            name.plate or plates[file],
            _numbered_well(name.well, plate_wells)
            if re.fullmatch("W[0-9]{4}", name.well)
            else name.well,
            name.site or defaults.get("site", "1"),
        )
        z = int(name.z) if name.z else None
        channel = name.channel or defaults.get("channel", "1")
        plane = Plane(file, 0, key, channel, None, z, times.get(name.t or ""))
        planes.append(plane)
    assumed: dict[str, object] = {}
    if times:
        assumed["times"] = times if any("." in text for text in times) else None
    if "plate" in defaults:  # which is used where all images lie in one folder
        assumed["folders"] = sorted({os.path.dirname(file) for file in found})
    return Understood(planes, rejected, remarks, told, assumed=assumed)


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


def _numbered_well(text: str, plate_wells: int | None) -> str:
    """W0013 is B01 of 96 wells, and A13 of 384: they are counted row by row."""
    if plate_wells is None:
        raise UserError(
            f"The names number the wells ({text}), row by row, and do not say how many a plate has."
            " Give --plate_wells 96, or 6, 12, 24, 48, 384, 1536."
        )
    if plate_wells not in _COLUMNS:
        raise UserError(
            f"`plate_wells` {plate_wells} is no plate: there are {', '.join(map(str, _COLUMNS))}."
        )
    number = int(text[1:])
    if not 1 <= number <= plate_wells:
        raise UserError(
            f"The names have a well {text}, and `plate_wells` says that a plate has {plate_wells}."
        )
    row, column = divmod(number - 1, _COLUMNS[plate_wells])
    return wells.normalise_well(f"{row + 1}/{column + 1}")


def _projections(found: Mapping[str, layouts.Name]) -> list[Finding]:
    """MetaXpress writes the projection of a stack as plane 0 of it; beside other planes it is left
    out.
    """

    def stack(name: layouts.Name) -> tuple[str | None, ...]:
        return (name.before, name.plate, name.t)

    stacks = {stack(name) for name in found.values() if name.z and name.z != "0"}
    detail = (
        "is the projection that the instrument made (ZStep_0), left out beside the planes; to take"
        " it in their place: --exclude '*ZStep_[1-9]*'"
    )
    return [
        Finding("projection", detail, file)
        for file, name in found.items()
        if name.z == "0" and stack(name) in stacks
    ]


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
    different = sorted(set(folders.values()))
    if given is not None and len(different) == 1:
        return dict.fromkeys(folders, given), ()
    told = []
    if given is not None:
        what = "all names say their plate"
        if different:
            what = f"{len(different)} folders name the plates ({_some(map(plate_name, different))})"
        told = [f"--default plate={given} is not used: {what}. --set plate={given} overrides them"]
    by_name: dict[str, list[str]] = {}
    for folder in different:
        by_name.setdefault(plate_name(folder), []).append(folder)
    if different:
        told.append(f"plates are called after their folders: {_some(by_name)}")
    for plate, same in by_name.items():
        if len(same) > 1:
            told.append(f"plate {plate} has images from {len(same)} folders: {_some(same)}")
    return {file: plate_name(folder) for file, folder in folders.items()}, tuple(told)


def _check_numbers(found: Mapping[str, layouts.Name]) -> None:
    for file, name in found.items():
        for group, text in (("z", name.z), ("t", (name.t or "").replace(".", "", 1))):
            if text and not (text.isascii() and text.isdecimal()):
                raise UserError(
                    f"--pattern's group {group!r} is {text!r} for {file}, and it must be a number:"
                    f" write letters outside of the group, such as {group.upper()}(?P<{group}>"
                    "[0-9]+)."
                )


def _unused_defaults(found: Mapping[str, layouts.Name], defaults: Mapping[str, str]) -> list[str]:
    return [
        f"--default {group}={defaults[group]} is not used: all names say their {group}"
        + (f". --set {group}={defaults[group]} overrides them" if group != "channel" else "")
        for group in ("experiment", "well", "site", "channel")
        if group in defaults and all(getattr(name, group) for name in found.values())
    ]


def _times(found: Mapping[str, layouts.Name]) -> dict[str, int]:
    """Number of each time point; those of slow and fast kinetics are counted through."""
    texts = {name.t for name in found.values() if name.t}
    if all(text.isdecimal() for text in texts):
        return {text: int(text) for text in texts}
    ordered = sorted(texts, key=lambda text: [int(part) for part in f"{text}.1".split(".")[:2]])
    return {text: i for i, text in enumerate(ordered, start=1)}


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
    if any(re.search(r"\.ome\.tiff?$", file.lower()) for file in unknown):
        fits.append("ome-tiff")
    hint = f"They fit --layout {' or '.join(fits)}."
    if not fits and layout.patterns:
        hint = "Give --layout generic and a --pattern for them."
    elif not fits:
        hint = "Correct the --pattern."
    return (
        f"None of the {len(unknown)} images in {source} has a name of layout {layout.name}"
        f" ({kinds_of_names(unknown)}), for instance {unknown[0]!r}; expected"
        f" {pattern or layout.example}. {hint}"
    )

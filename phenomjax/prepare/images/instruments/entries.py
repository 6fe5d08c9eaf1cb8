"""What every index of an instrument comes to: entries, one a plane, and how they meet the files."""

import collections
import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from phenomjax.data.images import wells
from phenomjax.prepare.images import readers
from phenomjax.prepare.images.records import Finding, ImageKey, Plane, Understood
from phenomjax.system.errors import UserError

# Folders that instruments make inside the folder of a plate.
_TECHNICAL = re.compile(
    r"images?|tiffs?|(?:time[-_ ]?point|z[-_ ]?step|measurement)[-_ ]?[0-9]+|flex|index|hs|tables?"
    r"|projections?|[{(]?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}[)}]?",
    re.IGNORECASE,
)
_GUID = re.compile(r"[{(]?[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}[)}]?", re.IGNORECASE)
# Corrections of a camera that a CellVoyager stores among the images.
_SHADING = re.compile(r"(?:SC|DC)_.*|.*(?:flat-?field|shading|_illum)[^/]*", re.IGNORECASE)


class Entry(NamedTuple):
    """What an index says of one plane; see records.Plane for the meanings.

    Attributes:
      url: where its file lies, as the index says it.
    """

    url: str
    plate: str
    well: str
    site: str
    channel: str
    label: str | None = None
    z: int | None = None
    t: int | None = None
    page: int = 0


class Images:
    """The image files that one index may speak of: those in its folder and below.

    Attributes:
      folder: relative to the source folder, "" for that itself.
      files: the paths, relative to the source folder.
    """

    def __init__(self, folder: str, files: Sequence[str], others: Collection[str]):
        """`others`: images outside the folder that no other index speaks of."""
        self.folder, self.files = folder, files
        self._there = {*files, *others}
        self._by_path = {file.lower(): file for file in files}
        self._by_stem: dict[str, list[str]] = collections.defaultdict(list)
        for file in files:
            self._by_stem[_stem(file)].append(file)

    def find(self, urls: Sequence[str]) -> list[str | None]:
        """The file that each URL of an index means: the one at that place, in any case and with
        escapes undone. Where that finds none at all, the plate was moved or packed anew: then the
        only one in the folder with that name, another suffix included.
        """
        found = [self._at(url) for url in urls]
        return found if any(found) else [self._named(url) for url in urls]

    def _at(self, url: str) -> str | None:
        for text in (url, unquote(url)):
            path = posixpath.normpath(posixpath.join(self.folder, text.replace("\\", "/")))
            if path in self._there:
                return path
            if found := self._by_path.get(path.lower()):
                return found
        return None

    def _named(self, url: str) -> str | None:
        for text in (url, unquote(url)):
            named = self._by_stem.get(_stem(text.replace("\\", "/")), [])
            if len(named) == 1:
                return named[0]
        return None


def readable(file: str) -> bool:
    """Whether the suffix is that of an image that is read, in any case."""
    return file.lower().endswith(readers.SUFFIXES)


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path.lower()))[0]


def plate_folder(source: Path, folder: str) -> str:
    """Name of the nearest folder that is no technical one, without what Harmony appends
    (`__2020-11-08T18_16_30-Measurement1`); it never depends on where the source folder stands.

    Args:
      source: the source folder.
      folder: relative to it, "" for the source folder itself.
    """
    for name in reversed(Path(os.path.abspath(source / folder)).parts):
        if not _TECHNICAL.fullmatch(name):
            return re.sub(r"__[0-9]{4}-[0-9]{2}-[0-9]{2}T.*$", "", name) or name
    return "plate"


def plate_root(file: str) -> str:
    """The folder of the plate of a file, relative to the source folder, "" for that itself."""
    folder = posixpath.dirname(file)
    while folder and _TECHNICAL.fullmatch(posixpath.basename(folder)):
        folder = posixpath.dirname(folder)
    return folder


def given_name(*names: str | None) -> str | None:
    """The first that a person gave: neither empty nor a number of a database (a GUID)."""
    for name in names:
        if name and name.strip() and not _GUID.fullmatch(name.strip()):
            return name.strip()
    return None


def number(
    text: str | None, what: str, file: str, at_least: int = 0, at_most: int = 1_000_000
) -> int:
    """A whole number that an index must have, or a UserError that says where."""
    try:
        value = int(text or "")
    except ValueError:
        value = -1
    if not at_least <= value <= at_most:
        raise UserError(
            f"{file} says {what} {text!r}, which cannot be: the file is damaged or was edited."
            f" Copy it again, or leave it out with `exclude` '*{posixpath.basename(file)}'."
        )
    return value


def row_and_column(row: str | None, column: str | None, what: str, file: str) -> tuple[int, int]:
    """Where a well is, from 1, on plates of up to 52 rows, AA to AZ included."""
    return (
        number(row, f"for the row {what}", file, 1, 52),
        number(column, f"for the column {what}", file, 1, 99),
    )


def well_name(row: int, column: int) -> str:
    """Row and column from 1 as A01."""
    return wells.normalise_well(f"{row}/{column}")


def micrometres(text: str | None, factor: float | None = 1.0) -> float | None:
    """The size of a pixel, None when it is none: no number, 0, or larger than a well."""
    try:
        size = float(text or "") * (factor or 0)
    except ValueError:
        return None
    return size if 0 < size < 1e4 else None


def only(values: Iterable[float | None]) -> float | None:
    """The value when all agree, else None."""
    different = set(values)
    return different.pop() if len(different) == 1 else None


def meet(
    index: str,
    entries: Sequence[Entry],
    images: Images,
    *,
    told: Sequence[str] = (),
    says: Callable[[str, Entry], str | None] | None = None,
    remarks: Sequence[Finding] = (),
    pixel_sizes: Mapping[str, float] | None = None,
    largest_values: Mapping[str, int] | None = None,
) -> Understood:
    """Makes planes of the entries whose files are there; counts what is missing.

    Args:
      index: path of the index, for messages.
      entries: all that it lists.
      images: the files around it.
      told: what else is to be said when the index decides.
      says: what is odd about a file's name for its entry, or None.
      remarks: what else is known.
      pixel_sizes: micrometres by channel.
      largest_values: by channel.
    """
    found = list(zip(entries, images.find([entry.url for entry in entries]), strict=True))
    planes: list[Plane] = []
    rejected: list[Finding] = []
    taken: dict[tuple[str, int], Plane] = {}
    odd: list[str] = []
    for entry, file in found:
        if file is None:
            continue
        key = ImageKey(None, entry.plate, entry.well, entry.site)
        plane = Plane(file, entry.page, key, entry.channel, entry.label, entry.z, entry.t)
        if (other := taken.get((file, entry.page))) is not None:
            if other != plane:
                rejected.append(_twice(index, other, plane))
            continue
        taken[file, entry.page] = plane
        planes.append(plane)
        if says and (text := says(file, entry)):
            odd.append(text)
    count = f"{len(entries)} image{'' if len(entries) == 1 else 's'}"
    if not planes:
        return Understood((), told=(_contradicts(index, count, entries, images),))
    missing = _missing(index, found)
    sentences = [
        f"{index} decides: plate {_names({entry.plate for entry in entries})}, channels"
        f" {_names(_channels(entries))}",
        *told,
    ]
    if absent := sum(file is None for _, file in found):
        sentences.append(f"{absent} of the {count} that {index} lists are not there")
    if odd:
        sentences.append(
            f"{index} and the names of {len(odd)} files disagree, for instance {odd[0]}; the index"
            " decides"
        )
    used = {plane.channel for plane in planes}
    sizes = [size for channel, size in (pixel_sizes or {}).items() if channel in used]
    highest = [value for channel, value in (largest_values or {}).items() if channel in used]
    largest = only(highest)
    return Understood(
        planes,
        rejected,
        [*remarks, *missing],
        tuple(sentences),
        only(round(size, 6) for size in sizes),
        None if largest is None else int(largest),
    )


def leftovers(index: str, understood: Iterable[Understood], files: Iterable[str]) -> list[Finding]:
    """A remark for each of the files that no entry of these indexes speaks of."""
    spoken: set[str] = set()
    for part in understood:
        spoken |= {plane.file for plane in part.planes}
        spoken |= {finding.file for finding in (*part.rejected, *part.remarks)}
    return [_leftover(index, file) for file in files if file not in spoken]


def _leftover(index: str, file: str) -> Finding:
    if _SHADING.fullmatch(posixpath.basename(file)):
        return Finding("shading", "is a correction of the camera, by its name: left out", file)
    detail = (
        f"is not listed in {index} and was left out; if it belongs to the plate, leave the index"
        f" out with --exclude '*{posixpath.basename(index)}': then the names decide"
    )
    return Finding("not_in_index", detail, file)


def _twice(index: str, one: Plane, other: Plane) -> Finding:
    detail = (
        f"is listed twice in {index}, also as well {one.key.well}, site {one.key.site}, channel"
        f" {one.channel}: the index was edited or is damaged; copy it again"
    )
    return Finding("duplicate", detail, other.file, tuple(other.key))


def _contradicts(index: str, count: str, entries: Sequence[Entry], images: Images) -> str:
    example = f", such as {entries[0].url}" if entries else ""
    if not images.files:
        return f"{index} lists {count}{example}, and there is none in its folder: copy them"
    return (
        f"{index} lists {count}{example}, but none of the {len(images.files)} images in its folder,"
        f" such as {posixpath.basename(images.files[0])}: it belongs to other images and is not"
        " used; the names of the files decide"
    )


def _missing(index: str, found: Sequence[tuple[Entry, str | None]]) -> list[Finding]:
    """Wells without any file, sites without any in wells that have some, and how many files of a
    site that has some; a channel that is missing so is rejected later, a plane of a stack is not.
    """
    there = {(e.plate, e.well, e.site) for e, file in found if file is not None}
    some = {(plate, well) for plate, well, _ in there}
    absent: dict[tuple[str, str, str | None], list[Entry]] = collections.defaultdict(list)
    for entry, file in found:
        if file is None:
            site = entry.site if (entry.plate, entry.well) in some else None
            absent[entry.plate, entry.well, site].append(entry)
    remarks = []
    for (plate, well, site), entries in absent.items():
        detail = f"is in {index} and has no file here: nothing of it is in the bank"
        what = "missing_well" if site is None else "missing_site"
        if (plate, well, site) in there:
            what = "missing_file"
            detail = f"lacks {len(entries)} files that {index} lists, such as {entries[0].url}"
        # a well as a whole has no site
        remarks.append(Finding(what, detail, "", (None, plate, well, site, None)))
    return remarks


def _channels(entries: Sequence[Entry]) -> list[str]:
    named = {entry.channel: entry.label for entry in entries}
    return [
        f"{channel} = {named[channel]}" if named[channel] else channel
        for channel in sorted(named, key=wells.natural)
    ]


def _names(names: Iterable[str]) -> str:
    ordered = list(names) if isinstance(names, list) else sorted(names, key=wells.natural)
    return ", ".join(ordered[:12]) + (f" and {len(ordered) - 12} more" if len(ordered) > 12 else "")

"""What every index of an instrument comes to: entries, one a plane, and how they meet the files."""

import collections
import glob
import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from phenomjax.data.images import wells
from phenomjax.prepare.images.formats import readers
from phenomjax.prepare.images.naming import names
from phenomjax.prepare.images.naming.listing import quoted, sidecar
from phenomjax.prepare.images.records import Finding, ImageKey, Plane, Understood
from phenomjax.system.errors import UserError

NOT_IN_INDEX = "not_in_index"
_GUID = re.compile(r"[{(]?[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}[)}]?", re.IGNORECASE)


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


def without(file: str) -> str:
    """How to go on without an index."""
    return f"or go on without it, by the names of the images: --exclude {quoted(glob.escape(file))}"


def readable(file: str) -> bool:
    """Whether the suffix is that of an image that is read, in any case."""
    return file.lower().endswith(readers.SUFFIXES)


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path.lower()))[0]


def plate_folder(source: Path, folder: str) -> str:
    """The name that the folder of a plate gives it: as names.plate_name does, and past the folders
    of Harmony's archives; it never depends on where the source folder stands.

    Args:
      source: the source folder.
      folder: relative to it, "" for the source folder itself.
    """
    return names.plate_name(Path(os.path.abspath(source / folder)).as_posix())


def plate_root(file: str) -> str:
    """The folder of the plate of a file, relative to the source folder, "" for that itself."""
    folder = posixpath.dirname(file)
    while folder and names.TECHNICAL.fullmatch(posixpath.basename(folder)):
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
            f" Copy it again, {without(file)}."
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


class Met(NamedTuple):
    """What an index and the files make together.

    Attributes:
      listed: how many images the index lists.
      absent: how many of these have no file.
      outside: how many of these are said to lie outside of the folder of the index.
    """

    understood: Understood
    listed: int
    absent: int = 0
    outside: int = 0


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
) -> Met:
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
    # one channel without a name among named ones has an empty name, which is asked for
    unnamed = "" if any(entry.label for entry in entries) else None
    taken: dict[tuple[str, int], Plane] = {}
    twice: dict[tuple[str, int], list[Plane]] = {}
    odd: list[str] = []
    for entry, file in found:
        if file is None:
            continue
        key = ImageKey(None, entry.plate, entry.well, entry.site)
        label = entry.label or unnamed
        plane = Plane(file, entry.page, key, entry.channel, label, entry.z, entry.t)
        other = taken.setdefault((file, entry.page), plane)
        if other != plane:
            twice.setdefault((file, entry.page), [other]).append(plane)
        elif says and (text := says(file, entry)):
            odd.append(text)
    urls = (entry.url.replace("\\", "/") for entry, file in found if file is None)
    outside = sum(url.startswith("/") or ".." in unquote(url).split("/") for url in urls)
    if not taken:
        told = (_contradicts(index, entries, images),)
        return Met(Understood((), told=told), len(entries), 0, outside)
    sentences = list(told)
    if odd:
        sentences.append(
            f"{index} and the names of {len(odd)} files disagree, for instance {odd[0]}; the index"
            " decides"
        )
    used = {plane.channel for plane in taken.values()}
    sizes = {round(size, 6) for channel, size in (pixel_sizes or {}).items() if channel in used}
    if len(sizes) > 1:
        shown = " and ".join(f"{size:g}" for size in sorted(sizes))
        sentences.append(f"the pixel sizes of the channels of {index} differ ({shown} um)")
    highest = [value for channel, value in (largest_values or {}).items() if channel in used]
    largest = only(highest)
    understood = Understood(
        [plane for place, plane in taken.items() if place not in twice],
        [_twice(index, planes, plane) for planes in twice.values() for plane in planes],
        [*remarks, *_missing(index, found)],
        tuple(sentences),
        only(sizes),
        None if largest is None else int(largest),
    )
    return Met(understood, len(entries), sum(file is None for _, file in found), outside)


def leftovers(index: str, understood: Iterable[Understood], files: Iterable[str]) -> list[Finding]:
    """A remark for each of the files that no entry of these indexes speaks of."""
    spoken: set[str] = set()
    for part in understood:
        spoken |= {plane.file for plane in part.planes}
        spoken |= {finding.file for finding in (*part.rejected, *part.remarks)}
    return [_leftover(index, file) for file in files if file not in spoken]


def _leftover(index: str, file: str) -> Finding:
    if kind := sidecar(file):
        return Finding(kind, f"is no image of the plate, by its name ({kind}): left out", file)
    detail = (
        f"is not listed in {index} and was left out: copy that again if it belongs to the plate,"
        f" {without(index)}"
    )
    return Finding(NOT_IN_INDEX, detail, file)


def _twice(index: str, planes: Sequence[Plane], plane: Plane) -> Finding:
    other = planes[1] if plane == planes[0] else planes[0]
    detail = (
        f"is listed twice in {index}, also as well {other.key.well}, site {other.key.site}, channel"
        f" {other.channel}: the index was edited or is damaged; copy it again"
    )
    return Finding("duplicate", detail, plane.file, tuple(plane.key))


def _contradicts(index: str, entries: Sequence[Entry], images: Images) -> str:
    count = f"{len(entries)} image{'' if len(entries) == 1 else 's'}"
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

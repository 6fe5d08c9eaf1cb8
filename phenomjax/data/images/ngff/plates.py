"""OME-Zarr plates (NGFF 0.1 to 0.4 on Zarr v2, 0.5 on Zarr v3): which wells and fields they have,
and what of their lists is not there.

A plate's name is the `name` of its metadata: it is what the instrument or the person who converted
it called the plate, and stays when the folder is copied under another name. Where that says
nothing ("Plate 0", a path) it is the folder's name; suffixes of the format are no part of either.
"""

import concurrent.futures
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import store
from phenomjax.data.images.ngff import chunks
from phenomjax.data.images.ngff.images import Image, read_image
from phenomjax.data.images.ngff.metadata_files import (
    as_list,
    as_map,
    as_text,
    as_whole,
    attributes,
    attributes_or_none,
)
from phenomjax.data.images.ngff.well_names import WellEntry, counts_from_zero, name_wells
from phenomjax.data.images.wells import normalise_number
from phenomjax.system.errors import UserError

# what programs write where nobody gave a name
_NO_NAME = re.compile(r"(hcs[ _-]?)?(plate|unnamed|untitled|default|name|none)*[ _:-]*0?", re.I)
_SUFFIX = re.compile(r"(\.ome)?\.(zarr|ngff)$", re.I)
THREADS = 16  # that wait for small files


class Trouble(NamedTuple):
    """Something of a plate that is not as its metadata say.

    Attributes:
      reason: a short name, such as "not_there".
      detail: one sentence with cause and mend.
      path: of the folder or file, relative to the plate; "" for the plate.
      well, site: of the image, None where unknown.
    """

    reason: str
    detail: str
    path: str
    well: str | None = None
    site: str | None = None


class Field(NamedTuple):
    """One field of view of a plate.

    Attributes:
      path: folder of the array at full resolution.
      plate: name of the plate.
      well: spelt A01.
      site: name of the image's folder in the well, without leading zeros.
      acquisition: number of the acquisition that it belongs to, None where the plate has none.
      image: what its metadata say.
    """

    path: Path
    plate: str
    well: str
    site: str
    acquisition: str | None
    image: Image


class Plate(NamedTuple):
    """A plate as far as it is there.

    Attributes:
      path: its folder.
      name: of the plate.
      named: its metadata name it, and not its folder.
      fields: wells in the order of the metadata, their images in order.
      absent: what is listed and not there, and what is there and not listed.
      damaged: what is there and cannot be used.
      told: sentences for the screen.
    """

    path: Path
    name: str
    named: bool
    fields: tuple[Field, ...]
    absent: tuple[Trouble, ...]
    damaged: tuple[Trouble, ...]
    told: tuple[str, ...]


class FoundPlates(NamedTuple):
    """What is below a folder.

    Attributes:
      plates: their folders, in order of name.
      others: Zarr folders that are no plate, and what they are.
      damaged: folders whose metadata cannot be read, and why.
    """

    plates: list[Path]
    others: list[tuple[Path, str]]
    damaged: list[tuple[Path, str]]


def find_plates(source: Path) -> FoundPlates:
    """Looks for plates: the folder itself, or folders below it at any depth."""
    found, waiting, seen = FoundPlates([], [], []), [source], set[Path]()
    while waiting:
        folder = waiting.pop()
        try:
            real = folder.resolve()
            if real in seen:
                continue
            seen.add(real)
            described = attributes(folder)
            names = sorted(os.listdir(folder), reverse=True)
        except (OSError, UserError) as error:
            found.damaged.append((folder, str(error)))
            continue
        if "plate" in described:
            found.plates.append(folder)
        elif kind := _kind(folder, names, described):
            found.others.append((folder, kind))
        else:
            zipped = (name for name in names if re.search(r"(zarr\.(zip|tar|tgz)|\.ozx)\b", name))
            found.others.extend((folder / name, "a packed Zarr: unpack it") for name in zipped)
            for child in (folder / name for name in names if not name.startswith(".")):
                if child.is_dir():
                    waiting.append(child)
                elif child.is_symlink() and not child.exists():
                    found.damaged.append((child, f"is a link to {os.readlink(child)}, not there"))
    return found


def _kind(folder: Path, names: Sequence[str], described: Mapping[str, object]) -> str:
    """What a Zarr folder is that is no plate; "" for a folder to look into."""
    if "bioformats2raw.layout" in described:
        images = sum(name.isdecimal() for name in names)
        return (
            f"a collection of {images} images without a plate (bioformats2raw.layout): convert the"
            " source again without --no-hcs, so that its wells are known"
        )
    if "multiscales" in described:
        return "a single image, no plate: its well is not known"
    if "well" in described:
        return "a well of a plate: give the folder of the plate"
    if ".zarray" in names or ("zarr.json" in names and chunks.is_array(folder)):
        return "an array, no plate"
    if "phenomjax" in described:
        return "a bank, no plate"
    return ""


def folder_name(folder: Path) -> str:
    """The name of a folder without .zarr, .ome.zarr."""
    return _SUFFIX.sub(
        "", (folder if store.is_remote(folder) else Path(os.path.abspath(folder))).name
    )


def read_plate(folder: Path) -> Plate:
    """Reads the metadata of a plate, its wells and its images; no pixels.

    Raises:
      UserError: the plate's own metadata list no wells, or are damaged.
    """
    described = attributes(folder)
    plate = as_map(described.get("plate"))
    listed = [as_map(well) for well in as_list(plate.get("wells"))]
    if not listed:
        raise UserError(
            f"The OME-Zarr plate {folder} has no fields: its metadata list no wells. Copy or"
            " convert it again."
        )
    name, named, told = _plate_name(folder, plate)
    rows, columns = (
        [as_text(as_map(one).get("name")) or "" for one in as_list(plate.get(key))]
        for key in ("rows", "columns")
    )
    reader = _Reader(folder, name)
    entries = reader.entries(listed)
    if any(counts_from_zero(entries, rows, columns)):
        told += [f"{folder.name}: its rows or columns are numbers that count from 0 (0/0 is A01)"]
    for entry, well in zip(entries, name_wells(entries, rows, columns), strict=True):
        if well.name is None:
            reader.damaged.append(
                Trouble(
                    "well_name",
                    f"is a well of two names: {well.odd}. Correct it in the 'wells' of the"
                    " plate's metadata",
                    entry.path,
                )
            )
            continue
        if well.odd:
            reader.absent.append(Trouble("well_name", well.odd, entry.path, well.name))
        reader.read_well(entry.path, well.name)
    odd = [one.path for one in reader.absent if one.reason == "well_name"]
    if odd:
        shown = ", ".join(odd[:4]) + (", ..." if len(odd) > 4 else "")
        told += [
            f"{folder.name}: {len(odd)} wells have odd names, or two of which that of their path"
            f" is taken ({shown}): see the remarks"
        ]
    fields = reader.read_images()
    reader.note_unlisted(entries)
    told += _acquisitions(folder, as_list(plate.get("acquisitions")), fields)
    return Plate(
        folder,
        name,
        named,
        tuple(fields),
        tuple(reader.absent),
        tuple(reader.damaged),
        tuple(told),
    )


def _plate_name(folder: Path, plate: Mapping[str, object]) -> tuple[str, bool, list[str]]:
    """The plate's name, whether its metadata say it, and what is to be told of it."""
    ours, given = folder_name(folder), as_text(plate.get("name"))
    name = _SUFFIX.sub("", given or "")
    if not given:
        return ours, False, []
    if name == ours:
        return ours, True, []
    if re.search(r"[/\\]", name) or _NO_NAME.fullmatch(name):
        text = f"like its folder, not {given!r}, as its metadata say"
        return ours, False, [f"{store.absolute(folder).name}: the plate is called {ours}, {text}"]
    text = f"as its metadata say, not {ours}"
    return name, True, [f"{store.absolute(folder).name}: the plate is called {name}, {text}"]


def _acquisitions(folder: Path, listed: Sequence[object], fields: Sequence[Field]) -> list[str]:
    found: dict[str, list[Field]] = {}
    for field in fields:
        if field.acquisition is not None:
            found.setdefault(field.acquisition, []).append(field)
    if len(found) < 2:
        return []
    names = {as_text(as_map(one).get("id")): as_text(as_map(one).get("name")) for one in listed}
    parts = []
    for number, some in found.items():
        sites = list(dict.fromkeys(field.site for field in some))
        shown = ", ".join(sites[:6]) + (", ..." if len(sites) > 6 else "")
        title = f" ({names[number]})" if names.get(number) else ""
        parts.append(f"{number}{title} has {len(some)} images, sites {shown}")
    return [
        f"{folder.name} has {len(found)} acquisitions, whose images are sites of their own:"
        f" acquisition {'; '.join(parts)}"
    ]


class _Reader:
    """Gathers what is in a plate."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.absent: list[Trouble] = []
        self.damaged: list[Trouble] = []
        self.listed: dict[str, set[str]] = {}  # by path of the well: paths of its images
        self.waiting: list[tuple[str, str, str, str | None]] = []  # path, well, site, acquisition

    def entries(self, listed: Sequence[Mapping[str, object]]) -> list[WellEntry]:
        """The wells with a path of their own inside the plate."""
        found: dict[str, WellEntry] = {}
        for number, well in enumerate(listed):
            path = _folder(well.get("path"))
            if not path or ".." in path.split("/"):
                detail = f"well {number + 1} of the plate's list has the path {path!r}: no folder"
                self.damaged.append(Trouble("well_path", detail + " of the plate", ""))
            elif path in found:
                detail = "is twice in the plate's list of wells, and is taken once"
                self.absent.append(Trouble("listed_twice", detail, path))
            else:
                # bioformats2raw 0.3 spelt the keys so
                row = as_whole(well.get("rowIndex", well.get("row_index")))
                column = as_whole(well.get("columnIndex", well.get("column_index")))
                found[path] = WellEntry(path, row, column)
        return list(found.values())

    def read_well(self, path: str, well: str) -> None:
        """Notes the images of a well."""
        folder = self.folder / path
        if not store.is_dir(folder):
            detail = "is in the plate's list of wells, but not there: not acquired, or not copied"
            self.absent.append(Trouble("not_there", detail, path, well))
            return
        try:
            described = attributes(folder)
        except UserError as error:
            self.damaged.append(Trouble("metadata", f"is left out: {error}", path, well))
            return
        if "well" not in described:
            detail = (
                "is in the plate's list of wells, but has no OME metadata of a well: the plate was"
                " not copied whole. Copy it again"
            )
            self.damaged.append(Trouble("metadata", detail, path, well))
            return
        images = as_list(as_map(described["well"]).get("images"))
        if not images:
            detail = "lists no images: nothing was acquired there"
            self.absent.append(Trouble("not_there", detail, path, well))
        seen = self.listed.setdefault(path, set())
        for image in map(as_map, images):
            name = _folder(image.get("path"))
            if not name or ".." in name.split("/"):
                detail = f"lists an image with the path {name!r}, which is no folder of the well"
                self.damaged.append(Trouble("metadata", detail, path, well))
            elif name in seen:
                detail = f"lists the image {name} twice; it is taken once"
                self.absent.append(Trouble("listed_twice", detail, path, well))
            else:
                seen.add(name)
                self.waiting.append(
                    (f"{path}/{name}", well, name, as_text(image.get("acquisition")))
                )

    def read_images(self) -> list[Field]:
        """The fields that are there, in order."""
        found = []
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            images = pool.map(functools.partial(_image_or_trouble, self.folder), self.waiting)
            for (_, well, site, acquisition), image in zip(self.waiting, images, strict=True):
                if isinstance(image, Trouble):
                    (self.absent if image.reason == "not_there" else self.damaged).append(image)
                    continue
                site = normalise_number(site)
                found.append(Field(image.array.folder, self.name, well, site, acquisition, image))
                if image.odd:
                    path = image.array.folder.relative_to(self.folder).as_posix()
                    self.absent.append(Trouble("metadata", image.odd, path, well, site))
        return found

    def note_unlisted(self, entries: Sequence[WellEntry]) -> None:
        """Notes wells and images that have folders and are in no list."""
        wells = {entry.path for entry in entries}
        for path in sorted(self.listed):
            for child in _folders(self.folder / path):
                listed = any(name.split("/")[0] == child for name in self.listed[path])
                if not listed and "multiscales" in attributes_or_none(self.folder / path / child):
                    detail = "is an image that its well does not list: it is left out"
                    self.absent.append(Trouble("not_listed", detail, f"{path}/{child}"))
        rows = sorted({path.split("/")[0] for path in wells} | set(_folders(self.folder)))
        for row in rows:
            if row in wells or row == "OME":
                continue
            for column in _folders(self.folder / row):
                path = f"{row}/{column}"
                if path not in wells and "well" in attributes_or_none(self.folder / path):
                    detail = "is a well that the plate does not list: it is left out"
                    self.absent.append(Trouble("not_listed", detail, path))


def _folder(path: object) -> str:
    """A path of the metadata as it is below its group; some write those of Windows."""
    parts = (as_text(path) or "").replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _folders(folder: Path) -> list[str]:
    try:
        return [name for name in store.folders(folder) if not name.startswith(".")]
    except OSError:
        return []


def _image_or_trouble(plate: Path, waiting: tuple[str, str, str, str | None]) -> Image | Trouble:
    path, well, site, _ = waiting
    site = normalise_number(site)
    if not store.is_dir(plate / path):
        detail = "is in its well's list of images, but not there: not acquired, or not copied"
        return Trouble("not_there", detail, path, well, site)
    try:
        return read_image(plate / path)
    except UserError as error:
        return Trouble("metadata", f"is left out: {error}", path, well, site)

"""OME-Zarr plates as sources of planes (`--layout ome-zarr`): every field of every plate below the
source folder, one plane for each time point, channel and z.

The plate's name, and why it is that one: data/images/ngff/plates.py.
"""

import collections
import concurrent.futures
import fnmatch
import functools
import hashlib
import itertools
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from phenomjax.data.images.ngff import chunks, images, one_set, plates
from phenomjax.data.images.ngff.metadata_files import attributes_or_none
from phenomjax.data.images.ngff.plates import Field, FoundPlates, Plate, Trouble
from phenomjax.prepare.images.naming.listing import shown
from phenomjax.prepare.images.records import (
    BadFile,
    FileStatus,
    Finding,
    ImageKey,
    Plane,
    Understood,
)
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")


class PlatePlanes(NamedTuple):
    """What is in the plates, and for each array the state of its files."""

    understood: Understood
    listing: Mapping[str, FileStatus]


def read(
    source: Path,
    acquisition: str | None = None,
    any_channels: bool = False,
    strict: bool = False,
    exclude: Sequence[str] = (),
    default_plate: bool = False,
) -> PlatePlanes:
    """Reads all plates below a folder, or the one that it is; no pixels.

    Args:
      source: the folder.
      acquisition: take the images of that one alone.
      any_channels: take images of all channels, for it is said which are wanted; else those of a
        plate whose channels are others than most of its images have are rejected.
      strict: chunks that are not stored are faults, and no remarks.
      exclude: patterns of the paths of plates, wells or images that are left out.
      default_plate: a plate that its metadata do not name is left without a name.

    Returns:
      The planes, and the bytes and latest change of all files of each array.

    Raises:
      UserError: there is no plate, no image in any, not that acquisition, or nothing fits an item
        of `exclude`.
    """
    found = plates.find_plates(source)
    excluded = _Excluded(exclude)
    good: list[Plate] = []
    rejected = [
        Finding("metadata", f"is left out: {why}", _path(source, folder))
        for folder, why in found.damaged
    ]
    for folder in found.plates:
        if excluded.fits(folder.relative_to(source).as_posix()):
            continue
        if str(folder) != shown(str(folder)):
            detail = "has a name that is no UTF-8, which no bank can hold: rename it"
            rejected.append(Finding("file_name", detail, _path(source, folder)))
            continue
        try:
            good.append(plates.read_plate(folder))
        except UserError as error:
            rejected.append(Finding("metadata", f"is left out: {error}", _path(source, folder)))
    if not found.plates or not good:
        raise _no_plate(source, found, rejected)
    good, told = _with_names(good)
    told += [text for plate in good for text in plate.told]
    remarks = [
        Finding("no_plate", f"is {kind}", _path(source, folder)) for folder, kind in found.others
    ]
    for plate in good:
        remarks += [_finding(source, plate, trouble) for trouble in plate.absent]
        rejected += [_finding(source, plate, trouble) for trouble in plate.damaged]
    rejected = [finding for finding in rejected if not excluded.fits(finding.file)]
    every = [field for plate in good for field in plate.fields]
    fields = [field for field in every if not excluded.fits(_path(source, field.path))]
    excluded.check(source)
    remarks += excluded.findings
    if not fields:
        raise _no_field(source, good, [*rejected, *remarks])
    if acquisition is not None:
        chosen = _of_acquisition(fields, acquisition)
        remarks += [
            Finding(
                "acquisition",
                f"is of acquisition {field.acquisition or 'none'}, left out by --acquisition",
                _path(source, field.path),
                tuple(_key(field)),
            )
            for field in fields
            if field.acquisition != acquisition
        ]
        fields = chosen
    if not any_channels:
        fields = _of_most_channels(source, fields, rejected)
    labelled = any(field.image.labels for field in fields)
    clear = any(map(_is_clear, fields))
    several = {axis: any(field.image.size(axis) > 1 for field in fields) for axis in "tz"}
    planes: list[Plane] = []
    listing: dict[str, FileStatus] = {}
    with concurrent.futures.ThreadPoolExecutor(plates.THREADS) as pool:
        looked = pool.map(functools.partial(_look, source, strict), fields)
        for field, (status, absent) in zip(fields, looked, strict=True):
            listing[_path(source, field.path)] = status
            (rejected if strict else remarks).extend(absent)
            labels: Sequence[str | None] = field.image.labels
            if len(labels) != field.image.size("c") or (clear and not _is_clear(field)):
                labels = ([""] if labelled else [None]) * field.image.size("c")
            planes += _planes(source, field, labels, several)
    if not labelled and not any_channels and fields:
        count = max(field.image.size("c") for field in fields)
        items = ",".join(f"{number}=NAME" for number in range(1, count + 1))
        told.append(f"the images do not name their channels; --channels {items} does")
    if default_plate:
        unnamed = {plate.name for plate in good if not plate.named}
        planes = [
            plane._replace(key=plane.key._replace(plate=None))
            if plane.key.plate in unnamed
            else plane
            for plane in planes
        ]
    sizes = collections.Counter(field.image.pixel_size_um for field in fields)
    if len(sizes) > 1:
        listed = ", ".join(f"{size} ({count} images)" for size, count in sizes.most_common(3))
        told.append(f"the plates have pixels of several sizes in micrometres: {listed}")
    return PlatePlanes(
        Understood(
            planes, rejected, remarks, tuple(told), sizes.most_common(1)[0][0] if sizes else None
        ),
        listing,
    )


def read_pixels(
    folder: Path, file: str, pages: Sequence[int], checksum: "hashlib._Hash"
) -> Shaped[np.ndarray, "pages y x"]:
    """Decodes some planes of an array, and no others.

    Args:
      folder: the source folder.
      file: the array's folder in it.
      pages: which planes, counted along time, channel, z.
      checksum: a hashlib object, fed with the bytes of the files of the array, in order of name; of
        an array with several planes a channel, those that hold the planes.

    Raises:
      BadFile: the metadata or a chunk is damaged or cannot be read.
    """
    array = folder / file
    try:
        image = images.image_of(array)
        planes = images.read_planes(image, pages)
        names = list(chunks.list_files(array))
        if image.size("t") * image.size("z") > 1:
            names = images.files_of_planes(image, pages, dict.fromkeys(names, (0, 0)))
        for name in sorted(names, key=lambda name: name.split("/")):
            checksum.update((array / name).read_bytes())
    except UserError as error:
        raise BadFile("metadata", f"cannot be read: {error}", file) from error
    except (ValueError, OSError) as error:
        said = str(error).split(" [source locations")[0].splitlines()[0][:200]
        if "Error opening" in said:
            detail = f"cannot be opened ({said}): convert the plate with a usual compression"
            raise BadFile("unsupported", detail, file) from error
        raise BadFile("undecodable", f"does not decode ({said}): copy it again", file) from error
    return planes


def _look(source: Path, strict: bool, field: Field) -> tuple[FileStatus, list[Finding]]:
    """The state of an array's files, and what of its chunks is not stored."""
    files = chunks.list_files(field.path)
    status = FileStatus(
        sum(size for size, _ in files.values()),
        max((changed for _, changed in files.values()), default=0),
    )
    mend = "; compare with the original" + ("" if strict else " (--strict makes it an error)")
    absent = [
        Finding("missing_chunks", text + mend, _path(source, field.path), tuple(_key(field)))
        for _, text in one_set.absent_sentences(field, files)
    ]
    return status, absent


def _is_clear(field: Field) -> bool:
    """Whether each channel has a label of its own."""
    labels = set(field.image.labels) - {""}
    return len(labels) == len(field.image.labels) == field.image.size("c")


def _planes(
    source: Path, field: Field, labels: Sequence[str | None], several: Mapping[str, bool]
) -> list[Plane]:
    times, count, zs = field.image.planes
    file, key = _path(source, field.path), _key(field)
    return [
        Plane(
            file,
            page,
            key,
            str(c + 1),
            labels[c],
            z + 1 if several["z"] else None,
            t + 1 if several["t"] else None,
        )
        for page, (t, c, z) in enumerate(itertools.product(range(times), range(count), range(zs)))
    ]


def _of_most_channels(
    source: Path, fields: Sequence[Field], rejected: list[Finding]
) -> list[Field]:
    """The fields of each plate that have the channels of most; the others go to `rejected`."""
    sets: dict[str, dict[tuple[str, ...], list[Field]]] = {}
    for field in fields:
        if _is_clear(field):
            of_plate = sets.setdefault(field.plate, {})
            of_plate.setdefault(tuple(sorted(field.image.labels)), []).append(field)
    left_out = set[Path]()
    for of_plate in sets.values():
        most = max(of_plate.values(), key=len)
        for group in of_plate.values():
            for field in group if group is not most else ():
                left_out.add(field.path)
                detail = (
                    f"has the channels {', '.join(field.image.labels)}, most images of the plate"
                    f" have {', '.join(most[0].image.labels)}: make a bank of its own of those,"
                    f' --channels "{",".join(field.image.labels)}"'
                )
                if field.acquisition is not None:
                    detail += f" --acquisition {field.acquisition}"
                file = _path(source, field.path)
                rejected.append(Finding("channel_set", detail, file, tuple(_key(field))))
    return [field for field in fields if field.path not in left_out]


def _key(field: Field) -> ImageKey:
    return ImageKey(None, field.plate, field.well, field.site)


class _Excluded:
    """What --exclude leaves out: what itself, or a folder above it, fits a pattern.

    Attributes:
      findings: a remark of each.
    """

    def __init__(self, items: Sequence[str]):
        self.patterns = {item: re.compile(fnmatch.translate(item), re.I) for item in items}
        self.unused = dict.fromkeys(items)
        self.findings: list[Finding] = []

    def fits(self, path: str) -> bool:
        """Whether a path relative to the source is left out."""
        above = [path, *map(str, PurePosixPath(path).parents)]
        fitting = [item for item, one in self.patterns.items() if any(map(one.fullmatch, above))]
        for item in fitting:
            self.unused.pop(item, None)
        if fitting:
            detail = f"is left out by --exclude '{fitting[0]}'"
            self.findings.append(Finding("excluded", detail, path))
        return bool(fitting)

    def check(self, source: Path) -> None:
        """Raises a UserError for a pattern that fitted nothing."""
        for item in self.unused:
            raise UserError(
                f"`exclude` {item!r} fits no plate and no image of {source}. It is compared with"
                " paths below the source, such as 'P1.zarr', 'P1.zarr/A/1' or 'P1.zarr/A/1/0/0':"
                " * stands for any text, folders included."
            )


def _path(source: Path, folder: Path) -> str:
    return shown(folder.relative_to(source).as_posix())


def _finding(source: Path, plate: Plate, trouble: Trouble) -> Finding:
    path = plate.path / trouble.path if trouble.path else plate.path
    return Finding(
        trouble.reason,
        trouble.detail,
        _path(source, path),
        (None, plate.name, trouble.well, trouble.site),
    )


def _with_names(found: Sequence[Plate]) -> tuple[list[Plate], list[str]]:
    """Plates whose metadata give several of them one name are called after their folders."""
    by_name: dict[str, list[Plate]] = {}
    for plate in found:
        by_name.setdefault(plate.name, []).append(plate)
    named, told = [], []
    for plate in found:
        name = plates.folder_name(plate.path)
        others = [other.path.name for other in by_name[plate.name]]
        if len(others) > 1 and name != plate.name:
            told.append(
                f"{plate.path.name}: the plate is called {name}, for the metadata of"
                f" {len(others)} plates ({', '.join(others[:4])}) call them {plate.name}"
            )
            fields = tuple(field._replace(plate=name) for field in plate.fields)
            plate = plate._replace(name=name, named=False, fields=fields, told=())
        named.append(plate)
    return named, told


def _of_acquisition(fields: Sequence[Field], acquisition: str) -> list[Field]:
    chosen = [field for field in fields if field.acquisition == acquisition]
    if not chosen:
        there = sorted({field.acquisition or "none" for field in fields})
        raise UserError(
            f"`acquisition` {acquisition!r} has no images. The plates have: {', '.join(there)}."
        )
    log.info("acquisition %s: %d of %d images", acquisition, len(chosen), len(fields))
    return chosen


def _no_plate(source: Path, found: FoundPlates, rejected: Sequence[Finding]) -> UserError:
    if rejected:
        first = str(rejected[0]).removeprefix(". is left out: ").rstrip(".")
        return UserError(f"No OME-Zarr plate in {source} can be read; the first: {first}.")
    for parent in source.absolute().parents:
        if "plate" in attributes_or_none(parent):
            return UserError(
                f"{source} is a part of the OME-Zarr plate {parent}. Give the plate: --source"
                f" {shlex.quote(str(parent))}."
            )
    there = (
        "".join(f" {folder} is {kind}." for folder, kind in found.others[:3])
        or " Give the folder of the plate, NAME.zarr, or one with plates in it."
    )
    return UserError(
        f"There is no OME-Zarr plate in {source}: neither the folder itself nor one below it has"
        f" 'plate' metadata (.zattrs of NGFF 0.1 to 0.4, zarr.json of 0.5).{there}"
    )


def _no_field(source: Path, found: Sequence[Plate], findings: Sequence[Finding]) -> UserError:
    first = f" The first: {findings[0]}." if findings else ""
    return UserError(
        f"The OME-Zarr plate {found[0].path} has no fields: none of the images that it lists can"
        f" be read.{first} Copy the plate again."
    )

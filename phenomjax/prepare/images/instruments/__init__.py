"""The index files that instruments write beside their images: what they say decides over names.

`find_indexes` finds them by name, `read_indexes` reads them. A file of the source that stands in
the planes, the rejected or the remarks of the result is accounted for; others are nobody's here,
and their names may be read.

Not read: Opera's .flex, Cellomics' .C01 and .DIB, IN Cell's .frm and .im (images of their own
kinds: export TIFF), ScanR's experiment_descriptor.xml, MetaMorph's .nd, HCS.ai's .jdce (TIFF beside
them, with names that `--layout generic` takes).
"""

import collections
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.prepare.images.instruments import cellvoyager, harmony, incell, metaxpress
from phenomjax.prepare.images.instruments.entries import (
    Images,
    leftovers,
    only,
    plate_root,
    readable,
)
from phenomjax.prepare.images.records import Finding, Listing, Plane, Understood

HARMONY, METAXPRESS, CELLVOYAGER, INCELL = "Harmony", "MetaXpress", "CellVoyager", "IN Cell"


class Index(NamedTuple):
    """An index of an instrument.

    Attributes:
      kind: HARMONY, METAXPRESS, CELLVOYAGER or INCELL.
      file: relative to the source folder.
      folder: it speaks of images in this one and below, relative to the source, "" for that itself.
    """

    kind: str
    file: str
    folder: str


def find_indexes(listing: Listing) -> list[Index]:
    """Finds the indexes by their names, in any case; one a folder of Harmony's several."""
    found: list[Index] = []
    harmonies: dict[str, list[str]] = collections.defaultdict(list)
    archives = {
        posixpath.dirname(posixpath.dirname(file))
        for file in listing
        if posixpath.basename(file).lower() == harmony.ARCHIVE
    }
    for file in listing:
        folder, name = posixpath.split(file)
        name = name.lower()
        above, last = posixpath.split(folder)
        if name.endswith(".htd"):
            found.append(Index(METAXPRESS, file, plate_root(file)))
        elif name.endswith(".mlf"):
            found.append(Index(CELLVOYAGER, file, folder))
        elif name.endswith(".xdce"):
            found.append(Index(INCELL, file, folder))
        elif name == harmony.ARCHIVE:
            found.append(Index(HARMONY, file, folder))
        elif last.lower() == "index" and above in archives:
            continue  # of the archive, which names the images
        elif name in harmony.NAMES or (
            name.endswith(".xml") and posixpath.basename(above).lower() == "hs"
        ):
            harmonies[folder].append(file)
    for folder, files in harmonies.items():
        best = min(files, key=_preference)
        found.append(Index(HARMONY, best, folder))
    return sorted(found, key=lambda index: index.file)


def _preference(file: str) -> int:
    name = posixpath.basename(file).lower()
    return harmony.NAMES.index(name) if name in harmony.NAMES else len(harmony.NAMES)


def read_indexes(source: Path, indexes: Iterable[Index], listing: Listing) -> Understood:
    """Reads indexes of one source.

    Args:
      source: the source folder.
      indexes: of find_indexes.
      listing: all files of the source.

    Raises:
      UserError: an index is damaged.
    """
    indexes = list(indexes)
    folders = {index.folder for index in indexes}
    owned: dict[str, list[str]] = collections.defaultdict(list)
    for file in listing:
        if readable(file) and (folder := _owner(file, folders)) is not None:
            owned[folder].append(file)
    planes: list[Plane] = []
    rejected: list[Finding] = []
    remarks: list[Finding] = []
    told: list[str] = []
    sizes: list[float | None] = []
    largest: list[float | None] = []
    by_folder: dict[str, list[Index]] = collections.defaultdict(list)
    for index in indexes:
        by_folder[index.folder].append(index)
    for folder, of_folder in by_folder.items():
        images = Images(folder, owned[folder], listing)
        understood = []
        for index in _once(of_folder):
            found = _read(source, index, images, listing)
            if found is None:
                continue
            told.extend(found.told)
            if not found.planes:  # its images are not these
                continue
            understood.append(found)
            planes.extend(found.planes)
            rejected.extend(found.rejected)
            remarks.extend(found.remarks)
            sizes.append(found.pixel_size_um)
            largest.append(found.largest_value)
        if understood and of_folder[0].kind != METAXPRESS:
            merged = Understood(
                [plane for part in understood for plane in part.planes],
                rejected,
                remarks,
            )
            remarks.extend(leftovers(of_folder[0].file, merged, owned[folder]))
    if len(set(sizes) - {None}) > 1:
        shown = " and ".join(f"{size:g}" for size in sorted({size for size in sizes if size}))
        told.append(f"the pixel sizes of the plates differ ({shown} um): the bank has none")
    size, highest = only(sizes), only(largest)
    return Understood(
        planes, rejected, remarks, tuple(told), size, None if highest is None else int(highest)
    )


def _owner(file: str, folders: set[str]) -> str | None:
    """The nearest folder above that has an index."""
    folder = posixpath.dirname(file)
    while folder not in folders:
        if not folder:
            return None
        folder = posixpath.dirname(folder)
    return folder


def _once(indexes: Sequence[Index]) -> list[Index]:
    """MetaXpress puts a copy of a plate's .HTD into each of its folders: one is read."""
    first: dict[tuple[str, str], Index] = {}
    for index in indexes:
        name = posixpath.basename(index.file).lower()
        key = (index.kind, name if index.kind == METAXPRESS else index.file)
        first.setdefault(key, index)
    return list(first.values())


def _read(source: Path, index: Index, images: Images, listing: Listing) -> Understood | None:
    if index.kind == HARMONY:
        return harmony.read(source, index.file, images, listing)
    if index.kind == CELLVOYAGER:
        return cellvoyager.read(source, index.file, images, listing)
    if index.kind == INCELL:
        return incell.read(source, index.file, images)
    return metaxpress.read(source, index.file, images)

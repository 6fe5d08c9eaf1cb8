"""The index files that instruments write beside their images: what they say decides over names.

`find_indexes` finds them by name, `read_indexes` reads them; it also says which files are accounted
for. Others are nobody's here, and their names may be read.

Not read: Opera's .flex, Cellomics' .C01 and .DIB, IN Cell's .frm and .im (images of their own
kinds: export TIFF), ScanR's experiment_descriptor.xml, MetaMorph's .nd, HCS.ai's .jdce (TIFF beside
them, with names that `--layout generic` takes).
"""

import collections
import posixpath
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.prepare.images.instruments import (
    cellvoyager,
    harmony,
    incell,
    metaxpress,
    summary,
)
from phenomjax.prepare.images.instruments.entries import (
    NOT_IN_INDEX,
    Images,
    Met,
    leftovers,
    only,
    plate_root,
    readable,
)
from phenomjax.prepare.images.naming import measurements
from phenomjax.prepare.images.records import Finding, Listing, Understood
from phenomjax.system.errors import UserError

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
    """Finds the indexes by their names, in any case."""
    found: list[Index] = []
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
            found.append(Index(HARMONY, file, folder))
    return sorted(found, key=_order)


def _order(index: Index) -> tuple[str, int, str]:
    """Of several in one folder, the one that is believed comes first."""
    name = posixpath.basename(index.file).lower()
    known = harmony.NAMES.index(name) if name in harmony.NAMES else len(harmony.NAMES)
    return index.folder, known if index.kind == HARMONY else 0, index.file


class Read(NamedTuple):
    """What indexes say.

    Attributes:
      files: those that they speak of, or that are left out or rejected because of them; the names
        of others may be read.
      decided: how many indexes say what images are.
      failed: how many cannot be read.
      outside: how many images they list that are said to lie outside of their folders, and are not
        there.
      sizes, largest: pixel size and largest value of each index.
    """

    understood: Understood
    files: frozenset[str]
    decided: int = 0
    failed: int = 0
    outside: int = 0
    sizes: tuple[float | None, ...] = ()
    largest: tuple[int | None, ...] = ()


def read_indexes(
    source: Path, indexes: Iterable[Index], listing: Listing, *, needed: bool = True
) -> Read:
    """Reads indexes of one source.

    Args:
      source: the source folder.
      indexes: of find_indexes.
      listing: all files of the source.
      needed: nothing else is known of the source.

    Raises:
      UserError: an index is damaged, and none decides; else the images of its folder are rejected.
    """
    by_folder: dict[str, list[Index]] = collections.defaultdict(list)
    for index in indexes:
        by_folder[index.folder].append(index)
    owned: dict[str | None, list[str]] = collections.defaultdict(list)
    for file in filter(readable, listing):
        owned[_owner(file, by_folder)].append(file)
    told: list[str] = []
    decided: list[summary.Decided] = []
    remarks: list[Finding] = []
    failed: dict[str, UserError] = {}  # by folder
    outside = 0
    for folder, of_folder in by_folder.items():
        below = [other for other in by_folder if other.startswith(folder + "/" if folder else "")]
        if not owned[folder] and any(other != folder for other in below):
            told += [
                f"{one.file} is not used: an index nearer to the images is" for one in of_folder
            ]
            continue
        images = Images(folder, owned[folder], owned[None])
        before = len(decided)
        for index in _once(of_folder):
            second = len(decided) > before and index.kind == HARMONY
            try:
                found = _read(source, index, images, listing)
            except UserError as error:
                if not second:
                    failed.setdefault(folder, error)
                continue
            if second:  # one of its several files has decided
                told += summary.contradiction(decided[before], index.file, found and found[0])
                continue
            if found is None:
                continue
            told.extend(found.understood.told)
            outside += found.outside
            if found.understood.planes or found.understood.rejected:  # else of other images
                decided.append(summary.Decided(index.file, folder, *found[:3]))
        here = decided[before:]
        if here and folder in failed:
            told.append(f"{failed.pop(folder)} Another index of the folder was read")
        # by its names, MetaXpress knows its own
        if here and of_folder[0].kind != METAXPRESS:
            remarks += leftovers(here[0].file, [one.understood for one in here], owned[folder])
    if failed and not decided and needed:
        raise next(iter(failed.values()))
    if unlisted := sum(remark.reason == NOT_IN_INDEX for remark in remarks):
        count = "1 image that lies" if unlisted == 1 else f"{unlisted} images that lie"
        told.append(f"left out: {count} beside an index and not in it")
    spoilt = [
        Finding("damaged_index", f"is of a plate whose index cannot be read. {error}", file)
        for folder, error in failed.items()
        for file in owned[folder]
    ]
    parts = [one.understood for one in decided]
    planes = [plane for part in parts for plane in part.planes]
    clashing = measurements.clashes(part.planes for part in parts)
    findings = [finding for part in parts for finding in part.rejected]
    rejected = [*findings, *spoilt, *clashing.values()]
    remarks = [*(finding for part in parts for finding in part.remarks), *remarks]
    largest = only(part.largest_value for part in parts)
    understood = Understood(
        [plane for plane in planes if plane.key not in clashing],
        rejected,
        remarks,
        (*summary.sentences(source, decided), *told),
        only(part.pixel_size_um for part in parts),
        None if largest is None else int(largest),
    )
    files = {plane.file for plane in planes} | {one.file for one in (*rejected, *remarks)}
    return Read(
        understood,
        frozenset(files),
        len(decided),
        len(failed),
        outside,
        tuple(part.pixel_size_um for part in parts),
        tuple(part.largest_value for part in parts),
    )


def _owner(file: str, folders: Collection[str]) -> str | None:
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


def _read(source: Path, index: Index, images: Images, listing: Listing) -> Met | None:
    if index.kind == HARMONY:
        return harmony.read(source, index.file, images, listing)
    if index.kind == CELLVOYAGER:
        return cellvoyager.read(source, index.file, images, listing)
    if index.kind == INCELL:
        return incell.read(source, index.file, images)
    return metaxpress.read(source, index.file, images)

"""OME-TIFF: wells, fields, channels, planes and time points by the OME-XML in the files.

A Plate in the OME-XML names plate and wells (its Name, then its ExternalIdentifier; rows and
columns count from 0 there); fields are numbered from 1 in the order of a well's WellSamples. Each
file is taken for the pages that it holds itself, so a set of many files is read file by file. Files
without a Plate are named by `--pattern`, and their axes are those of their OME-XML.
"""

import collections
import glob
from collections.abc import Callable, Mapping
from pathlib import Path

from phenomjax.data.images.wells import normalise_well
from phenomjax.prepare.images.formats.axes import StackAxes
from phenomjax.prepare.images.formats.ome_xml import Ome, OmeWell
from phenomjax.prepare.images.naming.listing import quoted
from phenomjax.prepare.images.records import BadFile, Finding, ImageKey, Listing, Plane, Understood
from phenomjax.prepare.images.sources import stacks
from phenomjax.system.errors import UserError

ByNames = Callable[[Listing], Understood]


def read(
    source: Path,
    listing: Listing,
    by_names: ByNames | None,
    meaning: stacks.Meaning | None = None,
    *,
    channel_named: bool = False,
    numbered: bool = False,
) -> Understood:
    """Reads the OME-XML of all TIFFs of a listing.

    Args:
      source: the folder.
      listing: of it.
      by_names: what the names of files without a Plate say; None without a pattern.
      meaning: of `--pages`.
      channel_named: names say the channel.
      numbered: `--channels` speaks of pages by number.

    Raises:
      UserError: there is no TIFF, or files have no Plate and there is no pattern.
    """
    tiffs = [file for file in listing if file.lower().endswith((".tif", ".tiff"))]
    if not tiffs:
        raise UserError(
            f"There is no OME-TIFF in {source}: no .tif or .tiff in it or below. Check --source, or"
            " give another --layout."
        )
    described = stacks.describe_all(source, tiffs)
    on_plates = {
        file: said
        for file, said in described.items()
        if isinstance(said, StackAxes) and said.ome is not None and said.ome.wells
    }
    bad = [file for file, said in described.items() if isinstance(said, BadFile)]
    others = {
        file: listing[file] for file in tiffs if file not in on_plates and file not in set(bad)
    }
    if others and by_names is None:
        raise UserError(
            f"{len(others)} of {len(tiffs)} files have no Plate in their OME-XML, for instance"
            f" {next(iter(others))}, so nothing says their wells.{_elsewhere(described, others)}"
            " Say how files are named, with --layout ome-tiff --pattern"
            " '(?P<plate>[^/]+)/(?P<well>[A-P]\\d\\d)_s(?P<site>\\d+)\\.ome\\.tif' (a regular"
            " expression for the end of the path), or leave them out with"
            " --exclude 'PATTERN'."
        )
    found = _plates(on_plates, meaning)
    rejected = [
        Finding(said.reason, said.detail, file)
        for file, said in described.items()
        if isinstance(said, BadFile)
    ]
    found = found._replace(rejected=[*found.rejected, *rejected])
    if not others or by_names is None:
        return found
    named = by_names(others)
    rest = stacks.unfold(
        source,
        named.planes,
        meaning,
        channel_named=channel_named,
        numbered=numbered,
        described=described,
    )
    sizes = {found.pixel_size_um, rest.pixel_size_um} - {None}
    return Understood(
        [*found.planes, *rest.planes],
        [*found.rejected, *named.rejected, *rest.rejected],
        [*found.remarks, *named.remarks, *rest.remarks],
        (*found.told, *named.told, *rest.told),
        sizes.pop() if len(sizes) == 1 else None,
        max(found.largest_value or 0, rest.largest_value or 0) or None,
    )


def _elsewhere(described: stacks.Described, files: Mapping[str, object]) -> str:
    """Which file that is not there holds the OME-XML of these; "" when none does."""
    for file in files:
        said = described[file]
        if isinstance(said, StackAxes) and said.elsewhere:
            return f" The OME-XML is in {said.elsewhere}, which is not beside {file}: copy it too."
    return ""


def _plates(files: Mapping[str, StackAxes], meaning: stacks.Meaning | None) -> Understood:
    """The planes of files whose OME-XML has a plate."""
    planes: list[Plane] = []
    remarks: list[Finding] = []
    rejected: list[Finding] = []
    held: collections.Counter[OmeWell] = collections.Counter()
    wanted: dict[OmeWell, int] = {}
    empty = set()
    for file, said in files.items():
        ome = said.ome or Ome((), {})
        empty |= {place[1:] for place in ome.empty_wells}
        for image in ome.images:
            if image.id in ome.wells:
                wanted[ome.wells[image.id]] = len(image.order)
        if any(place.rest is not None for place in said.places):
            detail = (
                f"is a colour image ({len(said.places)} samples): a channel of a microscope is"
                f" grey; export it so, or leave it out with --exclude {quoted(glob.escape(file))}"
            )
            rejected.append(Finding("pages", detail, file))
            continue
        outside = 0
        for page, place in enumerate(said.places):
            image = ome.images[(place.field or 1) - 1]
            where = ome.wells.get(image.id)
            if where is None:
                outside += 1
                continue
            held[where] += 1
            planes.append(
                Plane(
                    file,
                    page,
                    _key(where),
                    str(place.c or 1),
                    image.labels.get(place.c or 1),
                    place.z,
                    place.t,
                )
            )
        if outside:
            detail = f"holds {outside} pages of images that no well lists: they were left out"
            remarks.append(Finding("not_in_plate", detail, file))
    for where, count in wanted.items():
        if held[where] < count:
            detail = f"has {held[where]} of the {count} planes that its OME-XML lists: copy the"
            remarks.append(
                Finding(
                    "missing_planes", detail + " other files of the set too", "", tuple(_key(where))
                )
            )
    sizes = {said.pixel_size_um for said in files.values()} - {None}
    told = []
    if files:
        plates = sorted({key.plate or "" for key in map(_key, wanted)})
        told.append(
            f"OME-XML of {len(files)} files: {len(plates)} plates ({', '.join(plates[:3])}),"
            f" {len(wanted)} fields" + (f", {len(empty)} wells without images" if empty else "")
        )
    if meaning and files:
        told.append("--pages is not used for files whose OME-XML says what their pages are")
    return Understood(
        planes,
        rejected,
        remarks,
        tuple(told) + stacks.sizes_told(sizes),
        sizes.pop() if len(sizes) == 1 else None,
        max((said.largest_value or 0 for said in files.values()), default=0) or None,
    )


def _key(where: OmeWell) -> ImageKey:
    well = normalise_well(f"{where.row + 1}/{where.column + 1}")
    return ImageKey(None, where.plate, well, str(where.site))

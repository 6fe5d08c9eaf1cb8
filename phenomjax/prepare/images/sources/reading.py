"""What a source folder holds, by the reader that its layout wants: an instrument's index, the names
of files, the axes of stacks, OME-Zarr plates, or a list of files.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import store
from phenomjax.data.images.wells import natural
from phenomjax.data.tables import read_table
from phenomjax.prepare.images import instruments
from phenomjax.prepare.images.formats.readers import SUFFIXES
from phenomjax.prepare.images.naming import layouts, measurements, names
from phenomjax.prepare.images.naming import listing as listings
from phenomjax.prepare.images.plan import sample
from phenomjax.prepare.images.records import Finding, ImageKey, Listing, Plane, Understood
from phenomjax.prepare.images.sources import file_list, ome_plates, ome_tiff, stacks
from phenomjax.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class Request:
    """What a source is asked for; the fields are options of the command.

    Attributes:
      source: the folder.
      layout: which reader.
      pattern: the expression of the generic layout.
      defaults: values for what names leave out.
      exclude: patterns of files to leave out.
      pages: what pages without a meaning are.
      files: a table that names the files.
      rename: {column of that table: name}.
      channels: items of --channels.
      acquisition: of OME-Zarr plates, the one to take.
      strict: what may be a fault is one.
      plate_wells: how many wells a plate has, for names that number them.
    """

    source: Path
    layout: layouts.FileLayout
    pattern: str | None = None
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    exclude: Sequence[str] = ()
    pages: str | None = None
    files: Path | None = None
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
    channels: Sequence[str] = ()
    acquisition: str | None = None
    strict: bool = False
    plate_wells: int | None = None


class Source(NamedTuple):
    """What was found in a source.

    Attributes:
      understood: its planes and findings.
      listing: the files, or the arrays, that they are of.
      single: each image file holds one plane only.
      unfolded: whether the files were opened to see what pages they hold.
      indexed: what indexes say, where they were looked for.
      others: how many images are of no index.
      unused: items of --exclude that fit nothing.
    """

    understood: Understood
    listing: Listing
    single: bool
    unfolded: bool = True
    indexed: instruments.Read = instruments.Read(Understood(()), frozenset())
    others: int = 0
    unused: tuple[str, ...] = ()


def read(
    request: Request, roots: Sequence[listings.Root] | None = None, unfold: bool = False
) -> Source:
    """Reads everything but pixels.

    Args:
      request: what is asked for.
      roots: folders of the source, where not all of it is read; nothing that is missing in them is
        an error then.
      unfold: open the files to see what pages they hold, as those of other folders must be.

    Raises:
      UserError: nothing there, nothing that the layout fits, or options that do not belong to it.
    """
    _check(request)
    if request.pattern is not None or request.layout.name == "generic":
        layouts.compile_patterns(request.layout, request.pattern)
    meaning = stacks.parse_pages(request.pages)
    if request.layout.name == "ome-zarr":
        if store.is_remote(request.source):
            raise UserError(
                f"`source` {store.url(request.source)}: plates of OME-Zarr are prepared from a"
                " disk. Copy them with `python -m phenomjax.prepare mirror SRC DST`; training and"
                " embed read a plate where it is."
            )
        listings.check_folder(request.source)
        found = ome_plates.read(
            request.source,
            exclude=request.exclude,
            acquisition=request.acquisition,
            any_channels=bool(request.channels),
            strict=request.strict,
            default_plate="plate" in request.defaults,
        )
        return Source(found.understood, found.listing, single=False)
    listed = listings.walk(request.source, request.exclude, roots)
    before = Understood((), listed.rejected, listed.remarks)
    if request.files is not None:
        rename = dict(request.rename)
        understood = file_list.read(request.source, request.files, rename, listed.files, SUFFIXES)
        merged = merge([before, understood])
        return Source(merged, listed.files, _is_single(merged))
    numbered = bool(request.channels) and all(
        item.partition("=")[0].strip().isdecimal() for item in request.channels
    )
    layout, parts = request.layout, [before]
    if layout.name == "ome-tiff":
        understood = ome_tiff.read(
            request.source,
            listed.files,
            functools.partial(_by_names, request) if request.pattern else None,
            meaning,
            channel_named=layouts.names_channel(layout, request.pattern),
            numbered=numbered,
        )
        merged = merge([before, understood])
        return Source(merged, listed.files, _is_single(merged))
    left: Listing = listed.files
    of_indexes = instruments.Read(Understood(()), frozenset())
    if layout.has_index and (indexes := instruments.find_indexes(listed.files)):
        of_indexes = instruments.read_indexes(
            request.source, indexes, listed.files, needed=roots is None
        )
        known = of_indexes.files
        left = {file: status for file, status in listed.files.items() if file not in known}
    indexed, named = of_indexes.understood, Understood(())
    others = sum(map(listings.is_image, left))
    needed = not (indexed.planes or indexed.rejected)
    if needed or others:
        named = _by_layout(request, left, indexed, needed and roots is None)
    told = (*indexed.told, *named.told)
    if indexed.planes and (plate := request.defaults.get("plate")):
        said = f"--default plate={plate} is not used where an index says the plate"
        told = (*told, f"{said}. --set plate={plate} overrides it.")
    if not any(plane.label for plane in indexed.planes):  # else they are called otherwise
        told = (*told, *_channels_told(request, named))
    clashing = _measured_twice(request.source, indexed, named) if layout.has_index else {}
    planes = [one for one in (*indexed.planes, *named.planes) if one.key not in clashing]
    parts = [before, indexed._replace(planes=(), told=told), named._replace(planes=(), told=())]
    parts.append(Understood((), list(clashing.values())))
    channel_named = layouts.names_channel(layout, request.pattern)
    unfolded = False
    if any(plane.page for plane in indexed.planes):  # this index says what pages are
        if meaning is not None:
            raise UserError("`pages` is for files of which nothing says it: here an index does.")
        parts.append(Understood(planes, assumed={"pages of an index": True}))
    elif (
        unfold
        or not channel_named
        or request.pages is not None
        or stacks.has_several(request.source, sample([plane.file for plane in planes], 16))
    ):
        unfolded = True
        parts.append(
            stacks.unfold(
                request.source, planes, meaning, channel_named=channel_named, numbered=numbered
            )
        )
    else:
        parts.append(Understood(planes))
    merged = merge(parts)
    return Source(
        merged, listed.files, _is_single(merged), unfolded, of_indexes, others, listed.unused
    )


def _by_layout(request: Request, listing: Listing, indexed: Understood, needed: bool) -> Understood:
    """What the names of files say that no index speaks of; they must say something when no index
    decides.
    """
    try:
        return names.read(
            request.source,
            listing,
            request.layout,
            request.pattern,
            request.defaults,
            plate_wells=request.plate_wells,
            needed=needed,
        )
    except UserError as error:
        raise UserError(". ".join([*indexed.told, str(error)]), error.exit_code) from error


def _measured_twice(
    source: Path, indexed: Understood, named: Understood
) -> dict[ImageKey, Finding]:
    """Images of several measurements: of an index and of names, or of names in folders that give
    one name to their plate (NAME__DATE-Measurement1, NAME__DATE-Measurement2).
    """
    above = os.path.abspath(source).rstrip("/") + "/"
    folders: dict[str, list[Plane]] = {}
    for plane in named.planes:
        folder = names.plate_folder(os.path.dirname(above + plane.file))
        of_folder = names.plate_name(folder) == plane.key.plate
        folders.setdefault(folder if of_folder else "", []).append(plane)
    return measurements.clashes([indexed.planes, *folders.values()])


def _is_single(understood: Understood) -> bool:
    """Whether no file is said to hold more than one plane; one that does is a fault then, lest its
    other pages be lost without a word.
    """
    return not any(plane.page for plane in understood.planes)


def _channels_told(request: Request, named: Understood) -> list[str]:
    """What channels are called where only the names of an instrument's files say it."""
    layout, items = request.layout, request.channels
    said = items and all("=" in one for one in items)
    if not (layout.has_index or layout.assumed) or not named.planes or said:
        return []
    numbers = sorted({plane.channel for plane in named.planes}, key=natural)
    if not all(one.isdecimal() for one in numbers):  # IN Cell's are names
        return []
    if not layout.assumed:
        return [
            "no index of the instrument says what the channels are: they are called"
            f" {', '.join(numbers)}, as the files number them; --channels"
            f" {numbers[0]}=NAME,... names them"
        ]
    known = [f"{one} {layout.channels[one]}" for one in numbers if one in layout.channels]
    return [
        f"channels are called as {layout.assumed} numbers them, because --layout {layout.name} asks"
        f" for it: {', '.join(known)}. Nothing in the source says so, and others number theirs"
        f" otherwise: --channels {numbers[0]}=NAME,... names them"
    ]


def _by_names(request: Request, listing: Listing) -> Understood:
    """What the user's pattern says of the names of files."""
    generic = layouts.find("generic")
    return names.read(request.source, listing, generic, request.pattern, request.defaults)


def _check(request: Request) -> None:
    name = request.layout.name
    if (name == "table") != (request.files is not None):
        raise UserError(
            "`files` belongs to --layout table, and that needs it: --layout table --files LIST.csv,"
            " a table of paths, wells and what else is known of each file."
        )
    if request.plate_wells is not None and name != "cellvoyager":
        raise UserError("`plate_wells` is for names that number wells, --layout cellvoyager.")
    if request.acquisition is not None and name != "ome-zarr":
        raise UserError("`acquisition` is of OME-Zarr plates, --layout ome-zarr.")
    if name in ("ome-zarr", "table") and request.pages is not None:
        raise UserError(f"`pages` does not belong to --layout {name}, which says it itself.")


def merge(parts: Sequence[Understood]) -> Understood:
    """What several readers found in one source; a pixel size only where all that know it agree."""
    sizes = {part.pixel_size_um for part in parts} - {None}
    assumed = {name: value for part in parts for name, value in part.assumed.items()}
    largest = [part.largest_value for part in parts if part.largest_value is not None]
    return Understood(
        [plane for part in parts for plane in part.planes],
        [one for part in parts for one in part.rejected],
        [one for part in parts for one in part.remarks],
        tuple(text for part in parts for text in part.told),
        sizes.pop() if len(sizes) == 1 else None,
        max(largest, default=None),
        assumed,
        tuple(size for part in parts for size in part.sizes),
    )


def split_renames(
    renames: Mapping[str, str], files: Path | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Which of --rename are of columns of --files, and which of --metadata."""
    if files is None or not renames:
        return {}, dict(renames)
    columns = set(read_table(files).columns)
    own = {
        column: name
        for column, name in renames.items()
        if column in columns and name in file_list.NAMES
    }
    return own, {column: name for column, name in renames.items() if column not in own}

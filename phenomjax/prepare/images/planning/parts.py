"""Parts of a source: read and grouped in units."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.engine.units import Note
from phenomjax.prepare.images import findings, instruments
from phenomjax.prepare.images.naming import channels, keys, listing, names
from phenomjax.prepare.images.naming.listing import Root
from phenomjax.prepare.images.plan import write_plates
from phenomjax.prepare.images.planning import grouping
from phenomjax.prepare.images.planning.axes import Wanted
from phenomjax.prepare.images.records import FileStatus, ImageKey, Listing, Plane
from phenomjax.prepare.images.sources import reading
from phenomjax.prepare.images.sources.reading import Request
from phenomjax.system import files
from phenomjax.system.errors import UserError

TOLD = 12  # sentences of parts that are shown
_PLANES = pa.schema(
    [("file", pa.string()), ("page", pa.int64())]
    + [(name, pa.string()) for name in (*ImageKey._fields, "channel", "label")]
    + [(name, pa.int64()) for name in ("z", "t", "size", "modified")]
)


class Part(NamedTuple):
    """Folders of a source that are read together.

    Attributes:
      name: of its files and its unit.
      roots: the folders.
      most: files that may be read at once, where it may be divided; else 0.
      unfold: files are opened to see what pages they hold, as those of another part must be.
    """

    name: str
    roots: tuple[Root, ...]
    most: int = 0
    unfold: bool = False


class Grouping(NamedTuple):
    """A part whose planes become images.

    Attributes:
      part: its name.
      chosen: the channels of the bank, and those of its plates.
      several_times: an image of the source has several time points; None: look at the part.
    """

    part: str
    chosen: channels.Chosen
    several_times: bool | None = None


def read_part(request: Request, wanted: Wanted, folder: Path, part: Part) -> Note:
    """Reads some folders, or divides one that is large (a unit function).

    Its planes, with completed keys, and what was found go into files; the note has what is to be
    known of all parts together.
    """
    if part.most and (below := divide(request.source, part.roots[0], part.most)):
        return {"divide": below}
    try:
        found = reading.read(request, part.roots, part.unfold)
    except UserError as error:
        return {"error": str(error)}
    understood = found.understood
    planes, told = keys.complete(
        request.source, understood.planes, wanted.defaults, wanted.overrides
    )
    for name, some in (
        (findings.REJECTED, understood.rejected),
        (findings.REMARKS, understood.remarks),
    ):
        findings.write_some(folder / f"read-{part.name}.{name}", some)
    _write_planes(folder / f"planes-{part.name}.parquet", planes, found.listing)
    facts = channels.Facts.of(planes)
    return {
        "places": [*facts.images],
        "facts": facts.to_json(),
        "planes": len(planes),
        "single": found.single,
        "unfolded": found.unfolded,
        "assumed": dict(understood.assumed),
        "sizes": [*dict.fromkeys(understood.sizes)],
        "index_sizes": [*dict.fromkeys(found.indexed.sizes)],
        "largest": understood.largest_value,
        "failed": found.indexed.failed,
        "decided": found.indexed.decided,
        "outside": found.indexed.outside,
        "others": found.others,
        "unused": found.unused,
        "example": next(iter(found.listing), ""),
        "told": [*understood.told, *told][:TOLD],
    }


def divide(source: Path, root: Root, most: int) -> list[list[Root]] | None:
    """The parts of a folder that has more than `most` files: what lies in the folder itself,
    and the folders in it, small ones together; None where it is to be read at once.

    A folder with an index of an instrument, or with folders that instruments make in that of a
    plate, is one plate, and is never divided.
    """
    if not root.deep or listing.count(source, root.prefix, most) <= most:
        return None
    here, below = listing.folders_below(source, root.prefix)
    technical = any(names.TECHNICAL.fullmatch(one.rstrip("/").rsplit("/", 1)[-1]) for one in below)
    if technical or not below or instruments.find_indexes(dict.fromkeys(here, FileStatus(0, 0))):
        return None
    parts, size, counted = [[root._replace(deep=False)]], most, 0
    for folder in below:
        # so many are counted that a part is not a folder of ten files, and not all of an archive
        its = listing.count(source, folder, most) if counted < 16 * most else most
        counted, size = counted + its, size + its
        if size > most:
            parts.append([])
            size = its
        parts[-1].append(Root(folder))
    return parts


def group_part(source: Path, wanted: Wanted, folder: Path, unit: Grouping) -> Note:
    """Makes images of the planes of a part, a table a plate (a unit function)."""
    path = folder / f"planes-{unit.part}.parquet"
    planes, status = _read_planes(path)
    made = grouping.make_images(source, status, planes, wanted, unit.chosen, unit.several_times)
    for name, some in ((findings.REJECTED, made.rejected), (findings.REMARKS, made.remarks)):
        findings.write_some(folder / f"group-{unit.part}.{name}", some)
    return {
        "plates": write_plates(folder, made.images),
        "axes": made.axes,
        "keys": made.keys,
        "examples": made.examples,
        "alone": made.alone,
        "stacked": made.stacked,
    }


def _write_planes(path: Path, planes: Sequence[Plane], status: Listing) -> None:
    columns: dict[str, list] = {
        name: [plane.key[i] for plane in planes] for i, name in enumerate(ImageKey._fields)
    }
    for name in ("file", "page", "channel", "label", "z", "t"):
        columns[name] = [getattr(plane, name) for plane in planes]
    stamps = [status.get(plane.file) for plane in planes]
    columns["size"] = [one and one.size for one in stamps]
    columns["modified"] = [one and one.modified for one in stamps]
    with files.replacing(path, shared=True) as partial:
        pq.write_table(pa.table(columns, schema=_PLANES), partial)


def _read_planes(path: Path) -> tuple[list[Plane], Listing]:
    columns = [column.to_pylist() for column in pq.read_table(path).columns]
    planes, status = [], {}
    for file, page, *rest in zip(*columns, strict=True):
        channel, label, z, t, size, modified = rest[5:]
        planes.append(Plane(file, page, ImageKey(*rest[:5]), channel, label, z, t))
        if size is not None:
            status[file] = FileStatus(size, modified)
    return planes, status

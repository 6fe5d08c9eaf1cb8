"""What each plane of one file is, by what the file says of itself: channel, z, time, field of view.

OME-XML, ImageJ, Micro-Manager, MetaMorph stacks, Zeiss LSM, and the axes that tifffile writes. A
plane that nothing gives a meaning has a place in `rest`.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from phenomjax.data import store
from phenomjax.prepare.images.formats import kinds, ome_xml, pages
from phenomjax.prepare.images.formats.ome_xml import Ome
from phenomjax.prepare.images.formats.pages import TiffPlanes
from phenomjax.prepare.images.records import BadFile

_ROLES = {"C": "c", "Z": "z", "T": "t", "P": "field", "R": "field", "M": "field"}
_IMAGEJ_UNITS = {"micron": 1.0, "um": 1.0, "µm": 1.0, "\\u00B5m": 1.0, "nm": 1e-3, "mm": 1e3}


class Place(NamedTuple):
    """Where one plane is; numbers from 1, None along an axis that the file does not speak of.

    Attributes:
      c, z, t: channel, z, time.
      field: field of view.
      rest: its number among the planes of which the file does not say what tells them apart.
    """

    c: int | None = None
    z: int | None = None
    t: int | None = None
    field: int | None = None
    rest: int | None = None


class StackAxes(NamedTuple):
    """What one file says of its planes.

    Attributes:
      places: of each plane, in the reader's order.
      said_by: where that stands, "" when nothing says it.
      labels: names of the channels by number.
      is_colour: the planes without a meaning are the samples of a colour image.
      pixel_size_um: of x.
      largest_value: the highest value of the camera.
      ome: the whole OME-XML; image `field` - 1 of it holds a plane.
      elsewhere: the file that holds the OME-XML and is not there; "" otherwise.
    """

    places: tuple[Place, ...]
    said_by: str = ""
    labels: dict[int, str] = {}  # noqa: RUF012
    is_colour: bool = False
    pixel_size_um: float | None = None
    largest_value: int | None = None
    ome: Ome | None = None
    elsewhere: str = ""


def describe(path: Path) -> StackAxes:
    """Reads the header of a file.

    Raises:
      BadFile: it cannot be read, or holds less than it says.
    """
    try:
        head = store.read_bytes(path, 0, 4096)
        kind = kinds.kind_of(head)
        if kind != "tiff":
            count = kinds.samples(head)
            return StackAxes(_unknown(count), is_colour=count > 1)
        with pages.opened(path, pages.file_size(path)) as planes:
            return _read(planes, path)
    except OSError as error:
        raise BadFile("unreadable", f"cannot be read ({error.strerror})") from error
    except BadFile:
        raise
    # whatever a library throws at a damaged header; its words go to the user
    except Exception as error:
        detail = f"has a header that cannot be read ({kinds.first_line(error)}): copy it again"
        raise BadFile("undecodable", detail) from error


def _read(planes: TiffPlanes, path: Path) -> StackAxes:
    for read in (_micro_manager, _ome, _series):
        found = read(planes, path)
        if found is not None:
            return found
    is_colour = planes.per_page > 1 and not planes.stored_apart
    return StackAxes(_unknown(planes.count), is_colour=is_colour and planes.count > 1)


def _unknown(count: int) -> tuple[Place, ...]:
    return tuple(Place(rest=i + 1) for i in range(count)) if count > 1 else (Place(),)


def _ome(planes: TiffPlanes, path: Path) -> StackAxes | None:
    text = ome_xml.text_of(planes.tiff.pages.first.description)
    ome = ome_xml.parse(text) if text else None
    if text is None or ome is None:
        return None
    if ome.elsewhere is not None:
        other, ome = ome.elsewhere, _companion(path, ome.elsewhere)
        if ome is None:
            return StackAxes(_unknown(planes.count), elsewhere=other)
    uuid = ome_xml.uuid_of(text)
    listed = len(planes.tiff.pages)
    places: dict[int, Place] = {}
    described = []
    for number, image in enumerate(ome.images):
        own = ome_xml.pages_of(image, uuid, path.name, listed)
        if own and max(own) >= listed:
            raise BadFile(
                "truncated",
                f"holds {listed} pages, its OME-XML speaks of {max(own) + 1}: the copy or the"
                " export was interrupted, do it again",
            )
        if own:
            described.append(image)
        several = [axis for axis, size in zip("czt", image.sizes, strict=True) if size > 1]
        for index, plane in own.items():
            where = {axis: getattr(plane, axis) for axis in "czt" if axis in several or axis == "c"}
            places[index] = Place(**where, field=number + 1)
    if not described:
        return None
    image = described[0]
    found: list[Place] = []
    if (
        planes.per_page > 1
        and len(described) == 1
        and image.samples == 1
        and len(image.order) == planes.count
    ):  # channels stored as the samples of a page
        field = next(iter(places.values())).field
        found = [Place(*plane, field=field) for plane in image.order]
    else:
        for page in planes.pages:
            if page.index not in places:  # of which the text says nothing
                return None
            place = places[page.index]
            parts = range(planes.per_page)
            found += (
                [place._replace(rest=part + 1) for part in parts]
                if planes.per_page > 1
                else [place]
            )
    bits = {one.significant_bits for one in described}
    return StackAxes(
        tuple(found),
        "OME-XML",
        image.labels if all(one.labels == image.labels for one in described) else {},
        planes.per_page > 1,
        image.pixel_size_um,
        (1 << bit) - 1 if len(bits) == 1 and (bit := bits.pop()) else None,
        ome,
    )


def _companion(path: Path, name: str) -> Ome | None:
    """The OME-XML of another file, beside this one: a companion, or the first file of a set."""
    other = path.parent / Path(name).name
    if not name or not store.is_file(other) or other == path:
        return None
    if other.name.lower().endswith((".ome", ".xml")):
        found = ome_xml.parse(store.read_bytes(other).decode(errors="replace"))
    else:
        with pages.opened(other, pages.file_size(other)) as planes:
            text = ome_xml.text_of(planes.tiff.pages.first.description)
            found = ome_xml.parse(text) if text else None
    return None if found is None or found.elsewhere is not None else found


def _micro_manager(planes: TiffPlanes, path: Path) -> StackAxes | None:
    if not planes.tiff.is_micromanager:
        return None
    metadata = planes.tiff.micromanager_metadata or {}
    index, summary = metadata.get("IndexMap"), metadata.get("Summary") or {}
    if index is None or planes.per_page > 1:
        return None
    rows = {int(row[4]): [int(value) + 1 for value in row[:4]] for row in np.asarray(index)}
    if any(page.offset not in rows for page in planes.pages):
        return None
    several = (np.asarray(index)[:, :4].max(axis=0) > 0).tolist()
    places = []
    for page in planes.pages:
        values = [n if more else None for n, more in zip(rows[page.offset], several, strict=True)]
        places.append(Place(*values))
    names = summary.get("ChNames")
    size = summary.get("PixelSize_um") or summary.get("PixelSizeUm")
    bits = summary.get("BitDepth")
    return StackAxes(
        tuple(places),
        "Micro-Manager",
        {i + 1: str(name) for i, name in enumerate(names)} if isinstance(names, list) else {},
        pixel_size_um=float(size) if isinstance(size, (int, float)) and size > 0 else None,
        largest_value=(1 << bits) - 1 if isinstance(bits, int) and 0 < bits <= 32 else None,
    )


def _series(planes: TiffPlanes, path: Path) -> StackAxes | None:
    tiff = planes.tiff
    full = [one for one in tiff.series if not one.keyframe.is_reduced]
    places: list[Place] = []
    kinds = {one.kind for one in full}
    for number, one in enumerate(full):
        axes, shape = one.get_axes(squeeze=False).upper(), one.get_shape(squeeze=False)
        sizes = [(a, n) for a, n in zip(axes, shape, strict=True) if a not in "YX"]
        inner = list(_places(sizes))
        if len(full) > 1:
            inner = [
                place._replace(rest=number * len(inner) + (place.rest or i + 1))
                if place == Place(rest=place.rest)
                else place._replace(rest=number + 1)
                for i, place in enumerate(inner)
            ]
        places += inner
    if len(places) != planes.count:
        return None
    is_colour = any("S" in one.axes for one in full)
    if len(kinds) == 1 and (kind := kinds.pop()) in _NAMES:
        labels, size = _more(planes, kind, places)
        said_by = _NAMES[kind] if any(place.rest is None for place in places) else ""
        return StackAxes(tuple(places), said_by, labels, is_colour, size)
    if any(place.rest is None for place in places) and planes.count > 1:
        return StackAxes(tuple(places), "the file's axes", is_colour=is_colour)
    return None


_NAMES = {"imagej": "ImageJ", "shaped": "its axes", "lsm": "Zeiss LSM", "stk": "MetaMorph"}


def _places(sizes: list[tuple[str, int]]) -> Iterator[Place]:
    """The places of planes in the order of the axes, the last one quickest."""
    ambiguous = {
        axis for axis, _ in sizes if axis in _ROLES and [a for a, _ in sizes].count(axis) > 1
    }
    for numbers in itertools.product(*(range(size) for _, size in sizes)):
        found: dict[str, int] = {}
        rest, wanted = 0, False
        for (axis, size), number in zip(sizes, numbers, strict=True):
            role = _ROLES.get(axis)
            if size == 1:
                continue
            if role and role not in found and axis not in ambiguous:
                found[role] = number + 1
            else:
                rest, wanted = rest * size + number, True
        yield Place(**found, rest=rest + 1 if wanted else None)


def _more(
    planes: TiffPlanes, kind: str, places: list[Place]
) -> tuple[dict[int, str], float | None]:
    """Names of channels and the size of a pixel, where a kind of file says them."""
    tiff = planes.tiff
    if kind == "lsm":
        metadata: dict[str, Any] = tiff.lsm_metadata or {}
        names = (metadata.get("ChannelColors") or {}).get("ColorNames") or []
        size = metadata.get("VoxelSizeX")
        return (
            {i + 1: str(name) for i, name in enumerate(names) if name},
            float(size) * 1e6 if isinstance(size, float) and 0 < size < 1 else None,
        )
    if kind != "imagej":
        return {}, None
    metadata = tiff.imagej_metadata or {}
    labels: dict[int, set[str]] = {}
    for place, label in zip(places, metadata.get("Labels") or [], strict=False):
        if place.c is not None:
            labels.setdefault(place.c, set()).add(str(label).strip())
    named = {c: names.pop() for c, names in labels.items() if len(names) == 1}
    if len(set(named.values())) != len({place.c for place in places}) or "" in named.values():
        named = {}
    factor = _IMAGEJ_UNITS.get(str(metadata.get("unit", "")))
    resolution = tiff.pages.first.tags.valueof(282)
    if factor and isinstance(resolution, tuple) and resolution[0] > 0 and resolution[1] > 0:
        return named, resolution[1] / resolution[0] * factor
    return named, None

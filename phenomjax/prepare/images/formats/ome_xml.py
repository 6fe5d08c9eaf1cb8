"""The OME-XML of a TIFF: its images, which page of which file is which plane, names of channels,
and the plate (OME 2008 to 2016; names of elements are read without their namespace).
"""

import functools
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

_MICROMETRES = {
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "Å": 1e-4,
    "pm": 1e-6,
}


class PlaneOf(NamedTuple):
    """Which plane of an image a page is; all from 1."""

    c: int
    z: int
    t: int


class Block(NamedTuple):
    """Pages that follow each other in one file: a TiffData element.

    Attributes:
      uuid, file: of the file, None where the element does not say.
      ifd: the first page, from 0.
      length: pages; None for all of the file.
      first: index in the order of the image's planes.
    """

    uuid: str | None
    file: str | None
    ifd: int
    length: int | None
    first: int


class OmeImage(NamedTuple):
    """An Image element.

    Attributes:
      id, name: of the image.
      order: the plane of each index, in the order of the pages.
      samples: of each pixel in a page (3: a colour image).
      sizes: planes along c, z and t.
      labels: names of the channels by number; those without a name are left out.
      blocks: where its pages are.
      pixel_size_um: of x.
      significant_bits: of a pixel's value.
    """

    id: str
    name: str | None
    order: tuple[PlaneOf, ...]
    samples: int
    sizes: tuple[int, int, int]
    labels: dict[int, str]
    blocks: tuple[Block, ...]
    pixel_size_um: float | None
    significant_bits: int | None


class OmeWell(NamedTuple):
    """Where on a plate an image is: its field number counts from 1 in the well."""

    plate: str | None
    row: int
    column: int
    site: int


class Ome(NamedTuple):
    """A whole OME-XML.

    Attributes:
      images: in the order of the text.
      wells: of images, by id; {} without a plate.
      empty_wells: (plate, row, column) of wells without an image.
      elsewhere: the file that holds the metadata, where this one says only that (BinaryOnly).
    """

    images: tuple[OmeImage, ...]
    wells: dict[str, OmeWell]
    empty_wells: tuple[tuple[str | None, int, int], ...] = ()
    elsewhere: str | None = None


def text_of(description: str | None) -> str | None:
    """The OME-XML in the description of a TIFF's first page, None where it holds none."""
    if description and description[-12:].strip().endswith("OME>"):
        return description
    return None


def uuid_of(text: str) -> str | None:
    """The UUID of the file that holds this text."""
    found = re.search(r"<(?:\w+:)?OME\b[^>]*\bUUID\s*=\s*[\"']([^\"']+)", text)
    return found[1] if found else None


def parse(text: str) -> Ome | None:
    """Reads OME-XML; None when it is damaged.

    The files of a set carry the same long text with a UUID of their own, so what was read is kept.
    """
    return _parse(
        re.sub(r"(<(?:\w+:)?OME\b[^>]*)\bUUID\s*=\s*[\"'][^\"']*[\"']", r"\1", text, count=1)
    )


@functools.lru_cache(maxsize=32)
def _parse(text: str) -> Ome | None:
    try:
        root = ElementTree.fromstring(text)
        only = next(_children(root, "BinaryOnly"), None)
        if only is not None:
            return Ome((), {}, elsewhere=only.get("MetadataFile", ""))
        images = tuple(_image(element) for element in _children(root, "Image"))
    except (ElementTree.ParseError, ValueError, KeyError, OverflowError):
        return None
    wells: dict[str, OmeWell] = {}
    empty = []
    for plate in _children(root, "Plate"):
        name = plate.get("Name") or plate.get("ExternalIdentifier") or None
        for well in _children(plate, "Well"):
            place = (name, _number(well.get("Row")), _number(well.get("Column")))
            references = [
                reference.get("ID", "")
                for sample in sorted(
                    _children(well, "WellSample"), key=lambda one: _number(one.get("Index"))
                )
                for reference in _children(sample, "ImageRef")
            ]
            if not references:
                empty.append(place)
            for site, image in enumerate(references):
                wells[image] = OmeWell(*place, site + 1)
    return Ome(images, wells, tuple(empty))


def pages_of(image: OmeImage, uuid: str | None, name: str, count: int) -> dict[int, PlaneOf]:
    """Which page of one file is which plane of an image.

    Args:
      image: the image.
      uuid: the file's.
      name: the file's, without folders.
      count: pages in the file.
    """
    found: dict[int, PlaneOf] = {}
    for block in image.blocks:
        if not _is_own(image, block, uuid, name):
            continue
        length = count if block.length is None else block.length
        for step in range(length):
            if block.first + step < len(image.order):
                found[block.ifd + step] = image.order[block.first + step]
    return found


def _is_own(image: OmeImage, block: Block, uuid: str | None, name: str) -> bool:
    if block.uuid is None and block.file is None:
        return True
    if uuid is not None and block.uuid == uuid:
        return True
    if block.file is not None and block.file.rpartition("/")[2].lower() == name.lower():
        return True
    # a single file that was renamed, and carries no UUID of its own
    return uuid is None and len({(one.uuid, one.file) for one in image.blocks}) == 1


def _image(element: ElementTree.Element) -> OmeImage:
    pixels = next(_children(element, "Pixels"))
    channels = list(_children(pixels, "Channel"))
    samples = max((_number(channel.get("SamplesPerPixel"), 1) for channel in channels), default=1)
    sizes = {axis: max(1, int(pixels.attrib[f"Size{axis}"])) for axis in "CZT"}
    sizes["C"] = max(1, sizes["C"] // max(1, samples))
    if sizes["C"] * sizes["Z"] * sizes["T"] > 10_000_000:
        raise ValueError("so many planes are damage")
    axes = [axis for axis in pixels.attrib["DimensionOrder"] if axis in "CZT"]
    if sorted(axes) != ["C", "T", "Z"]:
        raise ValueError("DimensionOrder")
    order = []
    for index in range(sizes["C"] * sizes["Z"] * sizes["T"]):
        place = {}
        for axis in axes:
            index, place[axis] = divmod(index, sizes[axis])
        order.append(PlaneOf(place["C"] + 1, place["Z"] + 1, place["T"] + 1))
    steps = {"C": 1, "Z": 1, "T": 1}
    for before, axis in itertools.pairwise(axes):
        steps[axis] = steps[before] * sizes[before]
    blocks = []
    for data in _children(pixels, "TiffData"):
        uuid = next(_children(data, "UUID"), None)
        number = data.get("PlaneCount") or data.get("NumPlanes")
        blocks.append(
            Block(
                None if uuid is None else (uuid.text or "").strip() or None,
                None if uuid is None else uuid.get("FileName"),
                _number(data.get("IFD")),
                int(number) if number else (1 if data.get("IFD") else None),
                sum(_number(data.get(f"First{axis}")) * steps[axis] for axis in "CZT"),
            )
        )
    labels = {
        number + 1: name.strip()
        for number, channel in enumerate(channels)
        if (name := channel.get("Name") or "").strip()
    }
    size, unit = pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm")
    factor = _MICROMETRES.get(unit.strip())
    bits = pixels.get("SignificantBits")
    return OmeImage(
        element.get("ID", ""),
        element.get("Name"),
        tuple(order),
        samples,
        (sizes["C"], sizes["Z"], sizes["T"]),
        labels,
        tuple(blocks) or (Block(None, None, 0, None, 0),),
        float(size) * factor if size and factor and 0 < float(size) < 1e9 else None,
        int(bits) if bits and 0 < int(bits) <= 32 else None,
    )


def _children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if child.tag.rpartition("}")[2] == name)


def _number(text: str | None, default: int = 0) -> int:
    return int(text) if text else default

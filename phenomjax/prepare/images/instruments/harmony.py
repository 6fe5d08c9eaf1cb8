"""Harmony of PerkinElmer and Revvity (Opera Phenix, Operetta, Sonata): Index.idx.xml and its kin.

Where the facts come from: indexes of public plates (JUMP cpg0016 and the LINCS pilot: HarmonyV5;
IDR idr0034: HarmonyV4; exports of Harmony 6 and 7), and what readers of the field take from them
(Bio-Formats' OperettaReader, pe2loaddata, fractal's converters, openreadout's notes on the format).
No vendor's document was at hand.

* `Images/Image` is a plane: URL, Row, Col, FieldID, PlaneID, TimepointID, ChannelID. Up to V5 it
  also holds ChannelName, ImageResolutionX (metres) and MaxIntensity; from V6 on those stand once a
  channel in `Maps/Map/Entry ChannelID="1"`. An Image's own value wins.
* Time points count from 0 in V5 and from 1 in later ones: the first is 1 here.
* The plate's name is `Plates/Plate/PlateID`, the barcode that was scanned or typed, else `Name`;
  where both are numbers of a database (a GUID) or empty, the folder of the plate.
* Columbus exports the same elements; a URL's BufferNo is the page of its file.
* The archives of Harmony 5 and later (`images/image.index.txt` with `index/NAME.xml`) list their
  planes in a table; the XML beside has the channels and the plate.
"""

import csv
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import store
from phenomjax.prepare.images.instruments import xml_records
from phenomjax.prepare.images.instruments.entries import (
    Entry,
    Images,
    Met,
    given_name,
    meet,
    micrometres,
    number,
    plate_folder,
    row_and_column,
    well_name,
    without,
)
from phenomjax.prepare.images.records import Listing
from phenomjax.system.errors import UserError

# In the order in which they are believed; ref: a copy that was corrected for shading.
NAMES = ("index.idx.xml", "index.xml", "imageindex.columbusidx.xml", "index.ref.xml")
ARCHIVE = "image.index.txt"
_METRES = {"m": 1e6, "mm": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3}
_FILE_NAME = re.compile(r"r(\d+)c(\d+)f(\d+)p(\d+)-ch(\d+)(?:sk\d+.*|t\d+.*)?\.\w+", re.ASCII)


class _Image(NamedTuple):
    url: str
    page: int
    plate: str | None
    row: int
    column: int
    field: int
    plane: int
    time: int | None
    channel: int
    label: str | None


class _Contents:
    """What one index holds.

    Attributes:
      is_harmony: the root is that of an index; other programs also write a file index.xml.
    """

    def __init__(self) -> None:
        self.is_harmony = False
        self.images: list[_Image] = []
        self.plates: list[tuple[str | None, frozenset[str]]] = []  # (name, ids of its wells)
        self.names: dict[str, str] = {}  # what plates are called: PlateID, Name -> the name
        self.labels: dict[int, str] = {}
        self.pixel_sizes: dict[int, float] = {}
        self.largest_values: dict[int, int] = {}


def read(source: Path, file: str, images: Images, listing: Listing) -> Met | None:
    """Reads an index.

    Args:
      source: the source folder.
      file: the index, relative to it.
      images: the image files in its folder and below.
      listing: all files of the source.

    Returns:
      None for a file of another program.

    Raises:
      UserError: damaged.
    """
    told: tuple[str, ...] = ()
    if posixpath.basename(file).lower() == ARCHIVE:
        contents, xml = _archive(source, file, listing)
        if xml is None:
            told += (f"{file} has no index/*.xml beside: channels have no names",)
    else:
        contents = _contents(source, file)
    if not contents.is_harmony:
        return None
    earliest = min((image.time for image in contents.images if image.time is not None), default=1)
    folder = posixpath.dirname(file)
    if len(contents.plates) == 1 or not contents.plates:
        own = contents.plates[0][0] if contents.plates else None
        plate = own or plate_folder(source, folder)
    entries = []
    for image in contents.images:
        if len(contents.plates) > 1:
            plate = _plate_of(contents, image, source, folder)
        entries.append(
            Entry(
                image.url,
                plate,
                well_name(image.row, image.column),
                str(image.field),
                str(image.channel),
                image.label or contents.labels.get(image.channel),
                image.plane,
                None if image.time is None else image.time + (earliest == 0),
                image.page,
            )
        )
    return meet(
        file,
        entries,
        images,
        told=told,
        says=_odd,
        pixel_sizes={str(c): size for c, size in contents.pixel_sizes.items()},
        largest_values={str(c): value for c, value in contents.largest_values.items()},
    )


def _contents(source: Path, file: str) -> _Contents:
    contents = _Contents()
    elements = xml_records.read(source, file, {"Plate", "Entry", "Image"})
    name, root = next(elements)
    contents.is_harmony = name == "EvaluationInputData" or "Harmony" in root.tag
    if not contents.is_harmony:
        return contents
    own: dict[int, dict[str, str]] = {}  # what the first image of a channel says of it
    for name, element in elements:
        texts = xml_records.texts(element)
        if name == "Plate":
            title = given_name(texts.get("PlateID"), texts.get("Name"))
            ids = (child.get("id") for child in element if xml_records.local(child.tag) == "Well")
            contents.plates.append((title, frozenset(i for i in ids if i)))
            for key in ("PlateID", "Name", "MeasurementID"):
                if title and texts.get(key):
                    contents.names.setdefault(texts[key], title)
        elif name == "Entry":
            if (channel := xml_records.attributes(element).get("ChannelID", "")).isdecimal():
                _describe(contents, int(channel), texts, element)
        elif "URL" in texts:  # wells also list their images, by id only
            image = _image(texts, element, file)
            if image.channel not in own:
                own[image.channel] = texts
                _describe(contents, image.channel, texts, element, wins=True)
            if image.url:  # a field that was skipped has an empty one
                contents.images.append(image)
    return contents


def _image(texts: dict[str, str], element, file: str) -> _Image:
    what = f"of the image {texts.get('id') or texts['URL']}"
    page = next(
        xml_records.attributes(child).get("BufferNo")
        for child in element
        if xml_records.local(child.tag) == "URL"
    )
    return _Image(
        texts["URL"],
        number(page, f"for BufferNo {what}", file) if page else 0,
        texts.get("PlateID") or texts.get("MeasurementID"),
        *row_and_column(texts.get("Row"), texts.get("Col"), what, file),
        number(texts.get("FieldID", "1"), f"for FieldID {what}", file),
        number(texts.get("PlaneID", "1"), f"for PlaneID {what}", file),
        number(texts["TimepointID"], f"for TimepointID {what}", file)
        if texts.get("TimepointID")
        else None,
        number(texts.get("ChannelID", "1"), f"for ChannelID {what}", file),
        sys.intern(texts.get("ChannelName", "")) or None,
    )


def _describe(
    contents: _Contents, channel: int, texts: dict[str, str], element, *, wins: bool = False
) -> None:
    """Takes in name, pixel size and largest value of a channel where they are said."""

    def put(known: dict, value) -> None:
        if wins or channel not in known:
            known[channel] = value

    if label := texts.get("ChannelName"):
        put(contents.labels, label)
    for child in element:
        size = micrometres(child.text, _METRES.get(child.get("Unit", "m")))
        if xml_records.local(child.tag) == "ImageResolutionX" and size:
            put(contents.pixel_sizes, size)
    # 65535 or 65536, by version
    highest = texts.get("MaxIntensity", "")
    if highest.isdecimal() and (bits := int(highest).bit_length()) <= 17:
        largest = 2 ** (bits if int(highest) == 2**bits - 1 else bits - 1) - 1
        if largest >= 255 and int(highest) in (largest, largest + 1):
            put(contents.largest_values, largest)


def _plate_of(contents: _Contents, image: _Image, source: Path, folder: str) -> str:
    """The plate of an image where an index has several: as the image itself says, by the well where
    no other plate has it, else by the folder of the file.
    """
    if image.plate and (title := contents.names.get(image.plate)):
        return title
    well = f"{image.row:02d}{image.column:02d}"
    having = [title for title, ids in contents.plates if well in ids]
    if len(having) == 1 and having[0]:
        return having[0]
    path = posixpath.join(folder, posixpath.dirname(image.url.replace("\\", "/")))
    return plate_folder(source, path)


def _odd(file: str, entry: Entry) -> str | None:
    name = _FILE_NAME.fullmatch(posixpath.basename(file))
    if name is None:
        return None
    row, column, field, plane, channel = (int(part) for part in name.groups())
    said = (well_name(row, column), str(field), plane, str(channel))
    if said == (entry.well, entry.site, entry.z, entry.channel):
        return None
    return (
        f"{posixpath.basename(file)}, which is well {entry.well}, site {entry.site}, plane"
        f" {entry.z}, channel {entry.channel} of the index"
    )


def _archive(source: Path, file: str, listing: Listing) -> tuple[_Contents, str | None]:
    """Reads image.index.txt: two lines of its version, a row of names, and a row a plane, with tabs
    between; and the channels and the plate from index/*.xml beside the folder `images`.
    """
    home = posixpath.dirname(posixpath.dirname(file))
    beside = posixpath.join(home, "index") + "/"
    xml = next(
        (f for f in listing if f.startswith(beside) and f.lower().endswith(".xml")),
        None,
    )
    contents = _contents(source, xml) if xml else _Contents()
    contents.is_harmony = True
    contents.images = list(_rows(source, file))
    return contents, xml


def _rows(source: Path, file: str) -> Iterator[_Image]:
    try:
        text = store.read_bytes(source / file).decode("utf-8-sig", "replace")
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}): may you not read it, or was it moved?"
        ) from error
    lines = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    header: list[str] | None = None
    for at, line in enumerate(lines, 1):
        if header is None:
            if "__URL" in line and "Row" in line:
                header = line
            continue
        row = dict(zip(header, line, strict=False))
        if not row.get("__URL"):
            continue
        what = f"in line {at}"
        yield _Image(
            row["__URL"],
            0,
            None,
            *row_and_column(row.get("Row"), row.get("Column"), what, file),
            number(row.get("Field", "1"), f"for Field {what}", file),
            number(row.get("Plane", "1"), f"for Plane {what}", file),
            number(row.get("Timepoint", "1"), f"for Timepoint {what}", file),
            number(row.get("Channel", "1"), f"for Channel {what}", file),
            None,
        )
    if header is None:
        raise UserError(
            f"{file} has no row of names with Row and __URL: it was copied in part or is damaged."
            f" Copy it again, {without(file)}."
        )

"""Yokogawa's CellVoyager (CV7000, CV8000) and CQ1, CQ3K: MeasurementData.mlf and what it names.

Where the facts come from: the measurement files of public plates (JUMP's source with a CV8000, IDR
idr0093, the test data of fmi-faim's faim-ipa and of fractal's converters), and what readers of the
field take from them (Bio-Formats' CV7000Reader, faim-ipa, openreadout's notes). No vendor's
document was at hand.

* `MeasurementData.mlf`: a `MeasurementRecord` a plane, the file name as its text; Row, Column,
  FieldIndex, TimePoint, ZIndex and Ch count from 1. Type ERR is a message in place of an image
  (the autofocus failed). ZImageProcessing ("Maximum") marks a projection.
* `MeasurementDetail.mrf`: `MeasurementSamplePlate` Name (the barcode), the name of the .mes, and of
  each `MeasurementChannel` HorizontalPixelDimension (micrometres), InputBitDepth, and
  ShadingCorrectionSource (an image that is no image of a well).
* The .mes: `Channel` Target (what a person wrote: "DNA"), Fluorophore, Acquisition (the filter,
  "BP445/45"). A channel's name is the first of these that all channels have.
* The plate's name is that of the .mrf, else that of the .wpi, else the folder.
"""

import collections
import posixpath
from pathlib import Path

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
)
from phenomjax.prepare.images.records import Finding, Listing

_Record = dict[str, str]  # attributes of a MeasurementRecord, its text as "file"


class _Detail:
    """What the .mrf and the files that it names say.

    Attributes:
      shading: names of files with corrections of the camera, in lower case.
    """

    def __init__(self) -> None:
        self.plate: str | None = None
        self.settings: str | None = None
        self.pixel_sizes: dict[str, float] = {}
        self.largest_values: dict[str, int] = {}
        self.shading: set[str] = set()


def read(source: Path, file: str, images: Images, listing: Listing) -> Met | None:
    """Reads a measurement.

    Args:
      source: the source folder.
      file: the .mlf, relative to it.
      images: the image files in its folder and below.
      listing: all files of the source.

    Returns:
      None for a file of another program.

    Raises:
      UserError: damaged.
    """
    elements = xml_records.read(source, file, {"MeasurementRecord"})
    _, root = next(elements)
    if "yokogawa" not in root.tag and xml_records.local(root.tag) != "MeasurementData":
        return None
    records: list[_Record] = []
    errors: list[_Record] = []
    for _, element in elements:
        record = xml_records.attributes(element) | {"file": (element.text or "").strip()}
        is_image = record.get("Type", "IMG") == "IMG" and record["file"]
        (records if is_image else errors).append(record)
    beside = [other for other in listing if posixpath.dirname(other) == posixpath.dirname(file)]
    detail = _detail(source, beside)
    folder = plate_folder(source, posixpath.dirname(file))
    plate = detail.plate or _plate(source, beside) or folder
    used = {_channel(record) for record in records}
    names = _names(source, beside, detail.settings, used)
    told: tuple[str, ...] = ()
    if not names and records:
        told += (f"{file} has no .mes beside that names its channels: they have numbers only",)
    entries, remarks = _entries(records, file, plate, names)
    if remarks:
        told += (f"{len(remarks)} projections of {plate} are left out, their planes are there",)
    for record in errors:
        well = _well(record, file)
        text = f"was not taken ({record['file'] or record.get('Type')}), says {file}"
        remarks.append(Finding("instrument_error", text, "", (None, plate, well, None, None)))
    for image in images.files:
        if posixpath.basename(image).lower() in detail.shading:
            text = "is the shading correction of a channel: left out"
            remarks.append(Finding("shading", text, image))
    return meet(
        file,
        entries,
        images,
        told=told,
        remarks=remarks,
        pixel_sizes=detail.pixel_sizes,
        largest_values=detail.largest_values,
    )


def _channel(record: _Record) -> str:
    return record.get("Ch") or "1"


def _well(record: _Record, file: str) -> str:
    what = f"of the record {record['file']!r}"
    return well_name(*row_and_column(record.get("Row"), record.get("Column"), what, file))


def _entries(
    records: list[_Record], file: str, plate: str, names: dict[str, str]
) -> tuple[list[Entry], list[Finding]]:
    """Entries, and the projections of channels whose planes are there too."""
    stacked = {_channel(record) for record in records if not record.get("ZImageProcessing")}
    tiles = collections.defaultdict(set)
    for record in records:
        place = record.get("Row"), record.get("Column"), record.get("FieldIndex")
        tiles[place].add(record.get("PartialTileIndex"))
    tiled = any(len(different) > 1 for different in tiles.values())
    entries, remarks = [], []
    for record in records:
        what = f"of the record {record['file']!r}"
        channel, site = _channel(record), record.get("FieldIndex", "1")
        site = str(number(site, f"for FieldIndex {what}", file))
        if tiled and record.get("PartialTileIndex"):
            site += "t" + record["PartialTileIndex"]
        projected = record.get("ZImageProcessing")
        if projected and channel in stacked:
            text = f"is a projection ({projected}) of planes that are there: left out"
            path = posixpath.join(posixpath.dirname(file), record["file"].replace("\\", "/"))
            remarks.append(Finding("projection", text, posixpath.normpath(path)))
            continue
        z = number(record.get("ZIndex", "1"), f"for ZIndex {what}", file)
        t = number(record.get("TimePoint", "1"), f"for TimePoint {what}", file)
        entries.append(
            Entry(
                record["file"],
                plate,
                _well(record, file),
                site,
                channel,
                names.get(channel),
                None if projected else z,
                t,
            )
        )
    return entries, remarks


def _detail(source: Path, beside: list[str]) -> _Detail:
    detail = _Detail()
    for file in beside:
        if not file.lower().endswith(".mrf"):
            continue
        wanted = {"MeasurementSamplePlate", "MeasurementChannel"}
        for name, element in xml_records.read(source, file, wanted):
            said = xml_records.attributes(element)
            if name == "MeasurementDetail":
                detail.settings = said.get("MeasurementSettingFileName")
            elif name == "MeasurementSamplePlate":
                detail.plate = given_name(said.get("Name"))
            elif name == "MeasurementChannel" and "Ch" in said:
                _describe(detail, said)
    return detail


def _describe(detail: _Detail, said: dict[str, str]) -> None:
    if size := micrometres(said.get("HorizontalPixelDimension")):
        detail.pixel_sizes[said["Ch"]] = size
    bits = said.get("InputBitDepth", "")
    if bits.isdecimal() and 8 <= int(bits) <= 16:
        detail.largest_values[said["Ch"]] = 2 ** int(bits) - 1
    if shading := said.get("ShadingCorrectionSource"):
        detail.shading.add(shading.lower())


def _plate(source: Path, beside: list[str]) -> str | None:
    for file in beside:
        if file.lower().endswith(".wpi"):
            _, root = next(xml_records.read(source, file, ()))
            if name := given_name(xml_records.attributes(root).get("Name")):
                return name
    return None


def _names(source: Path, beside: list[str], settings: str | None, used: set[str]) -> dict[str, str]:
    """Names of the used channels: the first kind of name that all of them have."""
    files = [file for file in beside if file.lower().endswith(".mes")]
    named = [file for file in files if posixpath.basename(file) == settings]
    if not named and len(files) != 1:
        return {}
    channels = {}
    for name, element in xml_records.read(source, (named or files)[0], {"Channel"}):
        said = xml_records.attributes(element)
        if name == "Channel" and said.get("Ch") in used:
            channels[said["Ch"]] = said
    if set(channels) != used:
        return {}
    for kind in ("Target", "Fluorophore", "Acquisition"):
        if channels and all(said.get(kind) for said in channels.values()):
            return {channel: said[kind] for channel, said in channels.items()}
    return {}

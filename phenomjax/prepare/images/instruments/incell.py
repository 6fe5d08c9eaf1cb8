"""GE's, now Cytiva's and Molecular Devices', IN Cell Analyzer: the .xdce file of a plate.

Where the facts come from: .xdce files of public plates (IN Cell Analyzer 2000 and 6000, the test
data of readers), and what readers of the field take from them (Bio-Formats' InCellReader,
TissueMAPS, the converters of apx_fractal_task_collection). No vendor's document was at hand.

* `Images/Image` is a plane: `filename`; `Well/Row` and `Well/Column` `number`, from 1; `Identifier`
  with field_index, wave_index, z_index and time_index, all from 0 (here: from 1).
* `Wavelengths/Wavelength` `index` has `ExcitationFilter` and `EmissionFilter` `name`. A channel is
  called by its fluorophore where there is one, else by its emission filter, and where two
  wavelengths share an emission filter, as the file names do it: "UV - DAPI".
* `ObjectiveCalibration` pixel_width is in micrometres; whether binning is in it differs between
  programs, so that binned images have no pixel size here.
* `AutoLeadAcquisitionProtocol/Plate` `name` is the type of the plate ("Greiner 384"). The plate's
  name is `ImageStack` PlateID where that is given, else the name of the .xdce: what was typed in.
"""

import posixpath
import re
from pathlib import Path
from xml.etree.ElementTree import Element

from phenomjax.prepare.images.instruments import xml_records
from phenomjax.prepare.images.instruments.entries import (
    Entry,
    Images,
    Met,
    given_name,
    meet,
    micrometres,
    number,
    row_and_column,
    well_name,
)

_INDICES = ("field_index", "wave_index", "z_index", "time_index")


def read(source: Path, file: str, images: Images) -> Met | None:
    """Reads an .xdce.

    Args:
      source: the source folder.
      file: the .xdce, relative to it.
      images: the image files in its folder and below.

    Returns:
      None for a file of another program.

    Raises:
      UserError: damaged.
    """
    wanted = {"ObjectiveCalibration", "Binning", "Wavelength", "Image"}
    elements = xml_records.read(source, file, wanted)
    name, root = next(elements)
    if name != "ImageStack":
        return None
    said = xml_records.attributes(root)
    stem = posixpath.basename(file)[: -len(".xdce")]
    plate = given_name(said.get("PlateID"), said.get("PlateId")) or stem
    waves: dict[int, Element] = {}
    found: list[Entry] = []
    width, binnings = None, set[str]()
    for name, element in elements:
        said = xml_records.attributes(element)
        if name == "ObjectiveCalibration":
            width = micrometres(said.get("pixel_width"))
        elif name == "Binning":
            binnings.add(said.get("value", ""))
        elif name == "Wavelength":
            waves[number(said.get("index", str(len(waves))), "for a wavelength", file)] = element
        elif said.get("filename"):
            found.append(_entry(said["filename"], element, plate, file))
    labels = _labels(waves)
    entries = [entry._replace(label=labels.get(int(entry.channel) - 1)) for entry in found]
    told: tuple[str, ...] = ()
    if binned := sorted(value for value in binnings if set(re.findall("[0-9]+", value)) != {"1"}):
        told += (f"{file} says binning {binned[0]}: the size of a pixel is not known",)
        width = None
    sizes = {entry.channel: width for entry in entries} if width else {}
    return meet(file, entries, images, told=told, pixel_sizes=sizes)


def _entry(name: str, element: Element, plate: str, file: str) -> Entry:
    what = f"of the image {name!r}"
    numbers: dict[str, str] = {}
    for child in element.iter():
        tag, said = xml_records.local(child.tag), xml_records.attributes(child)
        if tag in ("Row", "Column"):
            numbers[tag] = said.get("number", "")
        elif tag == "Identifier":
            numbers |= said
    field, wave, z, time = (
        number(numbers.get(key, "0"), f"for {key} {what}", file) + 1 for key in _INDICES
    )
    well = well_name(*row_and_column(numbers.get("Row"), numbers.get("Column"), what, file))
    return Entry(name, plate, well, str(field), str(wave), None, z, time)


def _labels(waves: dict[int, Element]) -> dict[int, str]:
    """Names by index; {} when a wavelength has none."""
    named = {}
    for index, element in waves.items():
        said = {
            xml_records.local(child.tag).lower(): xml_records.attributes(child).get("name", "")
            for child in element.iter()
        }
        own = xml_records.attributes(element)
        fluorophore = own.get("FluorophoreName") or own.get("fluorophore")
        fluorophore = fluorophore or said.get("fluorophore") or said.get("fluor")
        named[index] = (fluorophore, said.get("excitationfilter"), said.get("emissionfilter"))
    if all(fluorophore for fluorophore, _, _ in named.values()):
        return {index: str(fluorophore) for index, (fluorophore, _, _) in named.items()}
    if not all(emission for _, _, emission in named.values()):
        return {}
    emissions = [emission for _, _, emission in named.values()]
    if len(set(emissions)) == len(emissions):
        return {index: str(emission) for index, (_, _, emission) in named.items()}
    return {index: f"{exciting} - {emission}" for index, (_, exciting, emission) in named.items()}

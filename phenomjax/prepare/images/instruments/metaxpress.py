"""MetaXpress of Molecular Devices (ImageXpress Micro, Nano, Confocal): the plate's .HTD file.

Where the facts come from: .HTD files and trees of public plates (IDR idr0081, the exports of
fmi-faim's faim-ipa, BBBC, JUMP's source with an ImageXpress), and what readers of the field take
from them (Bio-Formats' CellWorxReader, faim-ipa, openreadout's notes). No vendor's document was at
hand.

* The file is text, a quoted key and its values on a line, in whatever code page the computer had:
  "XWells", "YWells", "WellsSelection2" (TRUE or FALSE a column of row 2), "Sites", "XSites",
  "YSites", "SiteSelection1", "NWavelengths", "WaveName1", "TimePoints".
* It lists no images. Those are named PLATE_A01_s1_w1GUID.tif: without _s where a well has one site,
  without _w where there is one wavelength; exports leave the GUID out and may append _z1 or _t1.
  Time points and planes are folders, TimePoint_1/ZStep_1; ZStep_0 holds the projection. Exports
  put a copy of the .HTD into each of those.
* Sites are counted over those that were selected, row by row, from 1.
* The plate's name is that of the .HTD without its suffix: the name that was given to the plate,
  and the start of each image's name. The folder is often but a number of the database.
"""

import csv
import io
import posixpath
import re
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import store
from phenomjax.data.images import wells
from phenomjax.prepare.images.instruments.entries import Entry, Images, Met, meet, without
from phenomjax.prepare.images.records import Finding
from phenomjax.system.errors import UserError

_GUID = r"[_ ]?[\[{]?[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}[\]}]?"
_NAME = re.compile(
    r"(?P<prefix>.*?)_?(?<![A-Za-z0-9])(?P<well>[A-Z]{1,2}[0-9]{1,2})(?:_s(?P<site>[0-9]+))?"
    rf"(?:_w(?P<wave>[0-9]{{1,2}}?))?(?:_z(?P<z>[0-9]+))?(?:_t(?P<t>[0-9]+))?(?:{_GUID})?\.\w+",
    re.IGNORECASE,
)
_TIME = re.compile(r"(?:.*/)?time[-_ ]?point[-_ ]?([0-9]+)/.*", re.IGNORECASE)
_STEP = re.compile(r"(?:.*/)?z[-_ ]?step[-_ ]?([0-9]+)/.*", re.IGNORECASE)


class Plate(NamedTuple):
    """What an .HTD file says.

    Attributes:
      waves: names by number, those without one left out.
      wells: selected ones; empty when the file does not say.
      sites: how many of a well; 0 when the file does not say.
    """

    waves: dict[str, str]
    wells: tuple[str, ...]
    sites: int
    times: int


class _Named(NamedTuple):
    file: str
    prefix: str
    well: str
    site: str
    wave: str | None
    z: int | None
    t: int | None


def read(source: Path, file: str, images: Images) -> Met:
    """Reads an .HTD and the names of the images of its plate.

    Args:
      source: the source folder.
      file: the .HTD, relative to it.
      images: the image files in the plate's folder and below.

    Raises:
      UserError: damaged.
    """
    plate = parse(source, file)
    stem = posixpath.basename(file)[:-4]
    named = [name for name in map(_name, images.files) if name is not None]
    # images of another plate in the same folder have another start
    mine = [name for name in named if name.prefix.lower() == stem.lower()]
    told: tuple[str, ...] = ()
    if mine:
        stem = mine[0].prefix  # as the images spell it
    if not mine and len(starts := {name.prefix for name in named}) == 1:
        mine = named
        if start := starts.pop().strip("-_ "):
            told = (f"the images of {file} start with {start}, which is taken for their plate",)
            stem = start
    entries, remarks, projected = _entries(mine, plate, stem, images.folder)
    if not entries:
        return meet(file, [], images)
    if projected:
        told += (
            f"{projected} projections in ZStep_0 of {stem} are left out, their planes are there (to"
            " take the projections instead: --exclude '*ZStep_[1-9]*')",
        )
    return meet(
        file, entries, images, told=told, remarks=[*remarks, *_absent(file, plate, entries)]
    )


def parse(source: Path, file: str) -> Plate:
    """Reads the keys of an .HTD.

    Raises:
      UserError: not such a file, or cut off.
    """
    try:
        data = store.read_bytes(source / file)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}): may you not read it, or was it moved?"
        ) from error
    rows = csv.reader(io.StringIO(_text(data).replace("\0", "")), skipinitialspace=True)
    try:
        keys = {row[0].strip().lower(): [part.strip() for part in row[1:]] for row in rows if row}
    except csv.Error as error:
        raise _damaged(file, str(error)) from error

    def count(key: str, otherwise: int) -> int:
        said = keys.get(key.lower())
        if not said:
            return otherwise
        if not re.fullmatch("[0-9]{1,4}", said[0]):
            raise _damaged(file, f"{key} is {said[0]!r}")
        return int(said[0])

    waves = {
        match[1]: values[0]
        for key, values in keys.items()
        if (match := re.fullmatch("wavename([0-9]+)", key)) and values and values[0]
    }
    if not {"htsinfofile", "xwells"} & set(keys) or not ({"nwavelengths", "xwells"} & set(keys)):
        raise _damaged(file, "it has no line XWells or HTSInfoFile")
    if "endfile" not in keys and count("NWavelengths", 0) > len(waves):
        raise _damaged(
            file, f"it ends after {len(waves)} of {count('NWavelengths', 0)} names of wavelengths"
        )
    selected = tuple(
        wells.normalise_well(f"{match[1]}/{column}")
        for key, values in keys.items()
        if (match := re.fullmatch("wellsselection([0-9]+)", key))
        for column, value in enumerate(values, 1)
        if value.upper() == "TRUE"
    )
    chosen = [
        value.upper() == "TRUE"
        for key, values in keys.items()
        if re.fullmatch("siteselection[0-9]+", key)
        for value in values
    ]
    several = keys.get("sites", ["FALSE"])[:1] == ["TRUE"]
    sites = (sum(chosen) or count("XSites", 0) * count("YSites", 0)) if several else 1
    if sites > 10_000:
        raise _damaged(file, f"it has {sites} sites a well")
    return Plate(waves, selected, sites if selected else 0, count("TimePoints", 1))


def _text(data: bytes) -> str:
    """By the mark at the start, else UTF-8, else the code page of western computers."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _damaged(file: str, why: str) -> UserError:
    return UserError(
        f"{file} does not read as the plate file of MetaXpress ({why}): it was copied in part or is"
        f" damaged. Copy it again, {without(file)}."
    )


def _name(file: str) -> _Named | None:
    match = _NAME.fullmatch(posixpath.basename(file))
    if match is None:
        return None
    time, step = _TIME.fullmatch(file), _STEP.fullmatch(file)
    z, t = step[1] if step else match["z"], time[1] if time else match["t"]
    return _Named(
        file,
        match["prefix"],
        wells.normalise_well(match["well"]),
        wells.normalise_number(match["site"] or "1"),
        wells.normalise_number(match["wave"]) if match["wave"] else None,
        None if z is None else int(z),
        None if t is None else int(t),
    )


def _entries(
    names: list[_Named], plate: Plate, stem: str, folder: str
) -> tuple[list[Entry], list[Finding], int]:
    """Entries, remarks, and how many projections were left out."""
    alone = next(iter(plate.waves)) if len(plate.waves) == 1 else "1"
    stacked = {name.wave for name in names if name.z}  # wavelengths of which planes are there
    several = plate.times > 1 or len({name.t for name in names}) > 1
    entries, remarks, projected = [], [], 0
    for name in names:
        wave = name.wave or alone
        if name.z == 0 and name.wave in stacked:
            detail = "is the projection of the planes in ZStep_1 and following: left out"
            remarks.append(Finding("projection", detail, name.file))
            projected += 1
            continue
        entries.append(
            Entry(
                name.file[len(folder) :].lstrip("/"),
                stem,
                name.well,
                name.site,
                wave,
                plate.waves.get(wave),
                name.z or None,
                name.t if several else None,
            )
        )
    return entries, remarks, projected


def _absent(file: str, plate: Plate, entries: list[Entry]) -> list[Finding]:
    """What was selected and has no image at all: wells, and sites of wells that have some."""
    there: dict[str, set[str]] = {}
    for entry in entries:
        there.setdefault(entry.well, set()).add(entry.site)
    remarks: list[Finding] = []
    name = entries[0].plate
    expected = [str(site + 1) for site in range(plate.sites)]
    if any(set(sites) - set(expected) for sites in there.values()):
        expected = []  # they are counted in another way
    for well in plate.wells:
        for site in expected if well in there else [None]:
            if site is not None and site in there[well]:
                continue
            what = "missing_well" if site is None else "missing_site"
            detail = f"is selected in {file} and has no file here: nothing of it is in the bank"
            remarks.append(Finding(what, detail, "", (None, name, well, site, None)))
    return remarks

"""What the file names of a plate say: plate, well, site, channel, plane and time, for the layouts
that the field uses.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

from phenomjax.data.images.wells import normalise_number, normalise_well
from phenomjax.system.errors import UserError, did_you_mean

GROUPS = ("experiment", "plate", "well", "site", "channel", "row", "column", "z", "t")
_CELL_PAINTING = {
    "1": "Hoechst",
    "2": "ConA",
    "3": "Phalloidin",
    "4": "SYTO14",
    "5": "MitoTracker",
    "6": "WGA",
}


@dataclasses.dataclass(frozen=True)
class FileLayout:
    """How one kind of folder names its files.

    Attributes:
      name: what --layout says.
      example: a path that fits, for error messages.
      patterns: regular expressions with groups of GROUPS, tried in turn on the end of a file's
        path.
      channels: default names of the channels by their id in the file name, in the bank's order; {}
        = the ids themselves.
      has_index: the instrument writes an index, which decides where it is there.
      assumed: whose `channels` are, where other sources of the layout number theirs otherwise.
    """

    name: str
    example: str
    patterns: tuple[str, ...]
    channels: dict[str, str]
    has_index: bool = False
    assumed: str = ""


_RXRX_TREE = r"(?:(?P<experiment>[^/]+)/Plate(?P<plate>[0-9]+)/)?"
# Harmony, older and newer: r01c01f01p01-ch1sk1fk1fl1.tiff, r01c01f01p01-ch01t01.tiff.
_HARMONY = (
    r"r(?P<row>[0-9]+)c(?P<column>[0-9]+)f(?P<site>[0-9]+)(?:p(?P<z>[0-9]+))?-ch(?P<channel>[0-9]+)"
    r"(?:sk(?P<t>[0-9]+)fk(?P<fast>[0-9]+)fl[0-9]+|t(?P<time>[0-9]+))?\.\w+",
)
LAYOUTS = {
    layout.name: layout
    for layout in (
        FileLayout(
            "rxrx1",
            "HEPG2-08/Plate1/B02_s1_w1.png or HEPG2-08_1_B02_w1.png",
            (
                _RXRX_TREE + r"(?P<well>[A-Z]{1,2}\d\d)_s(?P<site>\d+)_w(?P<channel>\d+)\.\w+",
                r"(?P<experiment>[^/_]+)_(?P<plate>\d+)_(?P<well>[A-Z]{1,2}\d\d)(?:_s(?P<site>\d+))?_w(?P<channel>\d+)\.\w+",
            ),
            _CELL_PAINTING,
            assumed="RxRx",
        ),
        FileLayout(  # the first three channels as the colours of one picture, so --pages c
            "rxrx1-wilds",
            "HEPG2-08/Plate1/B02_s1.png",
            (_RXRX_TREE + r"(?P<well>[A-Z]{1,2}\d\d)_s(?P<site>\d+)\.png",),
            {name: _CELL_PAINTING[name] for name in "123"},
            assumed="RxRx",
        ),
        FileLayout(
            "rxrx3",
            "gene-001/Plate1/AA41_s1_1.jp2",
            (_RXRX_TREE + r"(?P<well>[A-Z]{1,2}\d\d)_s(?P<site>\d+)_(?P<channel>\d+)\.\w+",),
            _CELL_PAINTING,
            assumed="RxRx",
        ),
        FileLayout(
            "jump",
            "BR00117006__2020-11-08T18_16_30-Measurement1/Images/r01c01f01p01-ch2sk1fk1fl1.tiff",
            _HARMONY,
            # Channel numbers of the CPJUMP1 plates; other centres number theirs otherwise, hence
            # --channels.
            {"5": "DNA", "4": "ER", "3": "RNA", "2": "AGP", "1": "Mito"},
            has_index=True,
            assumed="CPJUMP1",
        ),
        FileLayout(
            "phenix",
            "PLATE__2020-11-08T18_16_30-Measurement1/Images/r01c01f01p01-ch2sk1fk1fl1.tiff or"
            " r01c01f01p01-ch02t01.tiff",
            _HARMONY,
            {},
            has_index=True,
        ),
        FileLayout(
            "imagexpress",
            "PLATE/TimePoint_1/ZStep_1/PLATE_A01_s1_w1.TIF",
            (
                r"(?:[Tt]ime[Pp]oint_(?P<t>[0-9]+)/)?(?:[Zz][Ss]tep_(?P<z>[0-9]+)/)?"
                r"(?:(?P<plate>[^/]+)_)?(?P<well>(?:A[A-F]|[A-Z])[0-9]{1,2})(?:_s(?P<site>[0-9]+))?"
                r"(?:_w(?P<channel>[0-9]{1,2}))?(?:_z(?P<plane>[0-9]+))?(?:_t(?P<time>[0-9]+))?"
                r"(?:[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})?\.\w+",
            ),
            {},
            has_index=True,
        ),
        FileLayout(
            "cellvoyager",
            "PLATE_A01_T0001F001L01A01Z01C01.tif or W0001F001T0001Z001C1.tif",
            (
                r"(?:(?P<plate>[^/]+)_)?(?P<well>[A-Z]{1,2}[0-9]{2})_T(?P<t>[0-9]+)"
                r"F(?P<site>[0-9]+)L[0-9]+A[0-9]+Z(?P<z>[0-9]+)C(?P<channel>[0-9]+)\.\w+",
                r"W(?P<number>[0-9]{4})F(?P<site>[0-9]+)T(?P<t>[0-9]+)Z(?P<z>[0-9]+)"
                r"C(?P<channel>[0-9]+)\.\w+",
            ),
            {},
            has_index=True,
        ),
        FileLayout(
            "incell",
            "A - 01(fld 1 wv DAPI - DAPI).tif",
            (
                r"(?P<row>[A-Z]{1,2}) - (?P<column>[0-9]+)\(fld (?P<site>[0-9]+)"
                r"(?: wv (?P<channel>.+?))?(?: z (?P<z>[0-9]+))?"
                r"(?: time (?P<t>[0-9]+)(?: - [0-9.]+ ?m?s)?)?\)\.\w+",
            ),
            {},
            has_index=True,
        ),
        FileLayout("generic", "whatever --pattern says", (), {}),
        FileLayout("ome-zarr", "plate.zarr, with NGFF metadata", (), {}),
        FileLayout("ome-tiff", "a Plate in the OME-XML, or whatever --pattern says", (), {}),
        FileLayout("table", "whatever the table of --files says", (), {}),
    )
}


class Name(NamedTuple):
    """What one file name says; None for what it leaves out.

    Attributes:
      well: spelt A01; of CellVoyager's CV1000 its number, "W0001".
      t: time point; of Harmony's fast kinetics "SLOW.FAST".
      before: the folders left of what was matched, "" or with "/" at its end.
    """

    experiment: str | None
    plate: str | None
    well: str
    site: str | None
    channel: str | None
    z: str | None = None
    t: str | None = None
    before: str = ""


def find(name: str) -> FileLayout:
    """The layout of that name, or a UserError that lists them."""
    if name not in LAYOUTS:
        raise UserError(
            f"Unknown layout {name!r}.{did_you_mean(name, LAYOUTS)} There are:"
            f" {', '.join(LAYOUTS)}."
        )
    return LAYOUTS[name]


def compile_patterns(layout: FileLayout, pattern: str | None) -> list[re.Pattern]:
    """Compiles a layout's expressions, or the user's; each must match the end of a path, from the
    start of a name.
    """
    if layout.name != "ome-tiff" and (layout.name == "generic") != (pattern is not None):
        raise UserError(
            "--layout generic needs --pattern, and only generic takes one: a regular expression"
            " with named groups for the end of each file's path, for instance --pattern"
            " '(?P<plate>[^/]+)/(?P<well>[A-P]\\d\\d)_s(?P<site>\\d)_w(?P<channel>\\d)\\.tif'."
        )
    compiled = []
    for text in layout.patterns if pattern is None else (pattern,):
        try:
            groups = set(re.compile(text).groupindex)
        except re.error as error:
            raise UserError(
                f"--pattern is not a regular expression: {error.msg} at character"
                f" {(error.pos or 0) + 1} of {text} (named groups are written (?P<well>...), a"
                " point that means itself \\.)."
            ) from error
        if pattern is None:
            compiled.append(re.compile(f"(?P<before_>(?s:.*?)/)??(?:{text})"))
            continue
        for name in groups - set(GROUPS):
            raise UserError(
                f"--pattern has an unknown group {name!r}.{did_you_mean(name, GROUPS)} There are:"
                f" {', '.join(GROUPS)}."
            )
        if "well" not in groups and not {"row", "column"} <= groups:
            raise UserError(
                "--pattern needs a group 'well', or both 'row' and 'column'; it has:"
                f" {sorted(groups)}."
            )
        compiled.append(re.compile(f"(?P<before_>(?s:.*?)/)??(?:{text})"))
    return compiled


def names_channel(layout: FileLayout, pattern: str | None) -> bool:
    """Whether file names say the channel."""
    return any("(?P<channel>" in text for text in layout.patterns or (pattern or "",))


def parse(path: str, patterns: Sequence[re.Pattern]) -> Name | None:
    """Reads a file's path (with / between folders); None when no pattern fits."""
    for pattern in patterns:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        found = {key: value for key, value in match.groupdict().items() if value is not None}
        if "number" in found:
            well = f"W{found['number']}"
        else:
            place = found.get("well") or "/".join(
                filter(None, (found.get("row"), found.get("column")))
            )
            if not place.strip():
                continue
            well = normalise_well(place)
        numbers = {
            key: normalise_number(found[key])
            for key in ("site", "channel", "z", "plane", "t", "fast", "time")
            if key in found
        }
        time = numbers.get("t") or numbers.get("time")
        if numbers.get("fast", "1") != "1":
            time = f"{time}.{numbers['fast']}"
        return Name(
            found.get("experiment"),
            found.get("plate"),
            well,
            numbers.get("site"),
            numbers.get("channel"),
            numbers.get("z") or numbers.get("plane"),
            time,
            found.get("before_", ""),
        )
    return None

"""What the file names of a plate say: plate, well, site and channel, for the layouts that the field
uses.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data.images.wells import normalise_number, normalise_well
from phenomjax.system.errors import UserError, did_you_mean

GROUPS = ("experiment", "plate", "well", "site", "channel", "row", "column")
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
    """

    name: str
    example: str
    patterns: tuple[str, ...]
    channels: dict[str, str]


_RXRX_TREE = r"(?:(?P<experiment>[^/]+)/Plate(?P<plate>\d+)/)?"
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
        ),
        FileLayout(
            "rxrx3",
            "gene-001/Plate1/AA41_s1_1.jp2",
            (_RXRX_TREE + r"(?P<well>[A-Z]{1,2}\d\d)_s(?P<site>\d+)_(?P<channel>\d+)\.\w+",),
            _CELL_PAINTING,
        ),
        FileLayout(
            "jump",
            "BR00117006__2020-11-08T18_16_30-Measurement1/Images/r01c01f01p01-ch2sk1fk1fl1.tiff",
            (
                r"(?:(?:(?!Images/)(?P<plate>[^/]+?)(?:__[^/]*)?/)?(?:Images/)?)?r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+p\d+)"
                r"-ch(?P<channel>\d+)(?:sk\d+fk\d+fl\d+)?\.\w+",
            ),
            # Channel numbers of the CPJUMP1 plates; other centres number theirs otherwise, hence
            # --channels.
            {"5": "DNA", "4": "ER", "3": "RNA", "2": "AGP", "1": "Mito"},
        ),
        FileLayout("generic", "whatever --pattern says", (), {}),
        FileLayout("ome-zarr", "plate.zarr, with NGFF 0.4 or 0.5 metadata", (), {}),
    )
}


class Name(NamedTuple):
    """What one file name says; None for what it leaves out."""

    experiment: str | None
    plate: str | None
    well: str | None
    site: str | None
    channel: str | None


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
    if (layout.name == "generic") != (pattern is not None):
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
        for name in groups - set(GROUPS):
            raise UserError(
                f"--pattern has a group {name!r};{did_you_mean(name, GROUPS)} there are:"
                f" {', '.join(GROUPS)}."
            )
        if "well" not in groups and not {"row", "column"} <= groups:
            raise UserError(
                "--pattern needs a group 'well', or both 'row' and 'column'; it has:"
                f" {sorted(groups)}."
            )
        compiled.append(re.compile(f"(?:.*?/)??(?:{text})"))
    return compiled


def parse(path: str, patterns: Sequence[re.Pattern]) -> Name | None:
    """Reads a file's path relative to the source folder (with / between folders); None when no
    pattern fits.
    """
    for pattern in patterns:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        found = {key: value for key, value in match.groupdict().items() if value is not None}
        well = found["well"] if "well" in found else found["row"] + "/" + found["column"]
        numbers = {
            key: normalise_number(found[key])
            for key in ("plate", "site", "channel")
            if key in found
        }
        if plane := re.fullmatch(r"0*(\d+)p0*(\d+)", numbers.get("site", "")):
            numbers["site"] = plane[1] if plane[2] == "1" else f"{plane[1]}p{plane[2]}"
        return Name(
            found.get("experiment"),
            numbers.get("plate"),
            normalise_well(well),
            numbers.get("site"),
            numbers.get("channel"),
        )
    return None


def walk(folder: Path, suffixes: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yields (path relative to the folder, bytes, modification time in ns) of each file with one of
    the suffixes.

    Names are visited in order. Hidden files (.DS_Store, ._copy) are passed over.
    """
    waiting = [("", folder)]
    while waiting:
        prefix, current = waiting.pop()
        folders = []
        with os.scandir(current) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append((f"{prefix}{entry.name}/", Path(entry.path)))
                elif entry.name.lower().endswith(tuple(suffixes)):
                    status = entry.stat()
                    yield prefix + entry.name, status.st_size, status.st_mtime_ns
        waiting.extend(reversed(folders))

"""Images named by a table in place of their file names: `--layout table --files TABLE`.

Two shapes are read, by the names of the columns:

* long, a row a file: `path` (or `file`, `filename`, `url`; a folder may stand apart in `folder`),
  `well` (or `row` and `column`), and whichever of `experiment`, `plate`, `site`, `channel`,
  `label`, `z`, `t` and `page` there are. The index.csv of pe2loaddata and most lists made by hand
  are such.
* wide, a row a field and a pair of columns a channel, `FileName_X` with `PathName_X`, or `URL_X`:
  CellProfiler's LoadData (manual, "LoadData"), as JUMP publishes it. "Orig" before a channel's name
  is CellProfiler's habit and no part of the name; columns of illumination functions (`IllumX`,
  .npy) are no images.

Paths of another machine are found again by their end: the file whose path below the source folder
is the end of what the table says, or the other way round.
"""

import collections
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse

from phenomjax.data.images.wells import normalise_number, well_of
from phenomjax.data.images.words import plain
from phenomjax.data.tables import PublishedTable, read_table
from phenomjax.prepare.images.annotation.names import SYNONYMS
from phenomjax.prepare.images.records import Finding, ImageKey, Listing, Plane, Understood
from phenomjax.system.errors import UserError, did_you_mean

NAMES = (
    *("path", "folder", "experiment", "plate", "well", "row", "column", "site"),
    *("channel", "label", "z", "t", "page"),
)
# What other programs call the columns that no table of the experiment has, spelt as `plain` does.
_OWN = {
    "path": ("file", "filename", "filepath", "imagepath", "image", "imagefile", "url"),
    "folder": ("pathname", "directory"),
    "channel": ("channelid", "wavelength"),
    "label": ("channelname", "stain"),
    "z": ("zindex", "plane", "planeid"),
    "t": ("time", "timepoint", "timepointid"),
}
_SYNONYMS = {synonym: name for name, synonyms in _OWN.items() for synonym in synonyms} | {
    synonym: name
    for name in ("experiment", "plate", "well", "row", "column", "site")
    for tier in SYNONYMS[name]
    for synonym in tier
}
_WIDE = re.compile(r"(filename|pathname|url|frame)_(.+)", re.IGNORECASE)


class _Row(NamedTuple):
    """One image file of the table, and what its row says."""

    line: int
    path: str
    values: dict[str, str]


def read(
    source: Path, files: Path, rename: dict[str, str], listing: Listing, suffixes: Sequence[str]
) -> Understood:
    """Reads a list of files.

    Args:
      source: the folder below which the files lie.
      files: the table, in any form that `read_table` understands.
      rename: {column of the table: one of NAMES}.
      listing: all files below the source folder.
      suffixes: of image files, in lower case.

    Raises:
      UserError: no such table, no column of paths or wells, a path that fits several files, or no
        file of the table is there.
    """
    table = read_table(files)
    wide = _wide_channels(table.columns) if "path" not in rename.values() else {}
    columns = _columns(table, files, rename, wide=bool(wide))
    rows = list(_wide_rows(table, columns, wide) if wide else _long_rows(table, columns))
    finder = _Finder(source, listing)
    rejected: list[Finding] = []
    planes: dict[tuple[str, int], Plane] = {}
    for row in rows:
        where = f"{files}, line {row.line}"
        key = _key(row.values)
        file = finder.find(row.path, where)
        if file is None:
            detail = f"is named by {where} and is not below {source}: copy it, or correct the table"
            rejected.append(Finding("missing_file", detail, row.path, key))
            continue
        plane = _plane(file, key, row.values, where)
        if planes.setdefault((file, plane.page), plane) != plane:
            raise UserError(
                f"{where}: {row.path!r} is {source / file}, which an earlier row gives to another"
                " image or channel. Correct the table, or give the folder above as `source`, so"
                " that the folders in the paths tell the files apart."
            )
    if rows and not planes:
        raise UserError(
            f"None of the {len(rows)} files of {files} is below {source}, for instance"
            f" {rows[0].path!r}. Give the folder that holds them as `source`, or correct the table."
        )
    taken = {file for file, _ in planes}
    others = [
        file for file in listing if file not in taken and file.lower().endswith(tuple(suffixes))
    ]
    detail = f"is not in {files}: left out"
    read_as = f" ({table.said})" if table.said else ""
    told = [f"{files}{read_as}: {len(planes)} of {len(rows)} files are there"]
    if others:
        told.append(f"{len(others)} images below {source} are not in {files}: left out")
    return Understood(
        list(planes.values()),
        rejected,
        [Finding("not_in_list", detail, file) for file in others],
        tuple(told),
    )


def _wide_channels(columns: Iterable[str]) -> dict[str, dict[str, str]]:
    """{channel: {"filename" | "pathname" | "url" | "frame": column}} of LoadData's columns."""
    found: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for column in columns:
        if match := _WIDE.fullmatch(column.strip()):
            found[match[2]][match[1].lower()] = column
    return {name: parts for name, parts in found.items() if {"filename", "url"} & parts.keys()}


def _columns(
    table: PublishedTable, files: Path, rename: dict[str, str], *, wide: bool
) -> dict[str, int]:
    """{one of NAMES: number of the column}."""
    for old, wanted in rename.items():
        if old not in table.columns:
            raise UserError(
                f"--rename {old}={wanted}: {files} has no column {old!r}."
                f"{did_you_mean(old, table.columns)} It has: {', '.join(table.columns)}."
            )
    found: dict[str, int] = {}
    for number, column in enumerate(table.columns):
        spelt = plain(column)
        known = spelt if spelt in NAMES else _SYNONYMS.get(spelt)
        name = rename.get(column) or known
        if name is None or (column not in rename and name in rename.values()):
            continue
        if name in found:
            raise UserError(
                f"{files}: the columns {table.columns[found[name]]!r} and {column!r} both look like"
                f" {name!r}. Say which: --rename '{column}={name}'."
            )
        found[name] = number
    has = f"it has: {', '.join(table.columns)}"
    if "path" not in found and not wide:
        raise UserError(
            f"{files} has no column of paths ('path', or CellProfiler's FileName_CHANNEL); {has}."
            f" Name the one that holds them: --rename '{table.columns[0]}=path'."
        )
    if "well" not in found and not {"row", "column"} <= found.keys():
        raise UserError(
            f"{files} has no column 'well' (nor 'row' and 'column'); {has}. Name the one that holds"
            f" the well: --rename '{table.columns[-1]}=well'."
        )
    return found


def _long_rows(table: PublishedTable, columns: dict[str, int]) -> Iterable[_Row]:
    for line, row in zip(table.lines, table.rows, strict=True):
        values = {name: (row[number] or "").strip() for name, number in columns.items()}
        path = values.pop("path")
        if folder := values.pop("folder", ""):
            path = f"{folder.rstrip('/')}/{path}"
        yield _Row(line, path, values)


def _wide_rows(
    table: PublishedTable, columns: dict[str, int], channels: dict[str, dict[str, str]]
) -> Iterable[_Row]:
    place = {name: number for number, name in enumerate(table.columns)}
    images = {name: parts for name, parts in channels.items() if not name.startswith("Illum")}
    labels = {name: name.removeprefix("Orig") or name for name in images}
    if len(set(labels.values())) < len(labels):
        labels = {name: name for name in images}
    for line, row in zip(table.lines, table.rows, strict=True):
        values = {name: (row[number] or "").strip() for name, number in columns.items()}
        for number, (name, parts) in enumerate(images.items(), start=1):
            cell = {part: (row[place[column]] or "").strip() for part, column in parts.items()}
            path = cell.get("filename") or cell.get("url") or ""
            if not path:
                continue
            if folder := cell.get("pathname", ""):
                path = f"{folder.rstrip('/')}/{path}"
            more = {"channel": str(number), "label": labels[name]}
            if cell.get("frame", "").isdecimal():  # LoadData counts frames from 0
                more["page"] = str(int(cell["frame"]) + 1)
            yield _Row(line, path, values | more)


def _key(values: dict[str, str]) -> ImageKey:
    well = values.get("well") or f"{values.get('row', '')}/{values.get('column', '')}"
    return ImageKey(
        values.get("experiment") or None,
        values.get("plate") or None,
        well_of(well),
        normalise_number(values.get("site") or "1"),
    )


def _plane(file: str, key: ImageKey, values: dict[str, str], where: str) -> Plane:
    if key.well in ("", "/"):
        raise UserError(f"{where}: the well is empty. Fill it in, or take the row out.")
    channel = normalise_number(values.get("channel") or values.get("label") or "1")
    page = (_whole(values, "page", where) or 1) - 1
    z, t = _whole(values, "z", where), _whole(values, "t", where)
    return Plane(file, page, key, channel, values.get("label") or None, z, t)


def _whole(values: dict[str, str], name: str, where: str) -> int | None:
    text = values.get(name, "")
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.0+)?", text) or (name == "page" and int(float(text)) < 1):
        raise UserError(f"{where}: {name} {text!r} is no whole number. Correct the table.")
    return int(float(text))


class _Finder:
    """Finds the file below the source folder that a path of a table means."""

    def __init__(self, source: Path, listing: Listing):
        self.root, self.listing = source.absolute().as_posix().rstrip("/") + "/", listing
        self.by_name: dict[str, list[str]] = collections.defaultdict(list)
        for file in listing:
            self.by_name[file.rpartition("/")[2]].append(file)

    def find(self, path: str, where: str) -> str | None:
        """The path in the listing, None when it is not there.

        Raises:
          UserError: the end of the path fits several files alike.
        """
        text = path.replace("\\", "/")
        if "://" in text or text.startswith("file:"):
            text = unquote(urlparse(text).path)
        text = text.removeprefix(self.root)
        if text in self.listing:
            return text
        # One must be the whole end of the other: a folder of another name is another file.
        candidates = [
            file
            for file in self.by_name.get(text.rpartition("/")[2], ())
            if f"/{text}".endswith(f"/{file}") or f"{self.root}{file}".endswith(f"/{text}")
        ]
        longest = [file for file in candidates if f"/{text}".endswith(f"/{file}")]
        if longest:
            return max(longest, key=len)
        if len(candidates) > 1:
            raise UserError(
                f"{where}: {path!r} fits {candidates[0]} and {candidates[1]} alike. Write more of"
                " the path, from the folder of the plate on."
            )
        return candidates[0] if candidates else None

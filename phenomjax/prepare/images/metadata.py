"""Joins tables of the experiment to images, by plate and well. How a table is read and understood
is told in annotation/.
"""

import collections
import copy
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from phenomjax.data import tables
from phenomjax.data.images.wells import number_of, plate_of, well_of
from phenomjax.prepare.images.annotation import reading
from phenomjax.prepare.images.annotation.names import KEYS, TARGETS, VALUES
from phenomjax.prepare.images.annotation.sheet import rename as rename_flag
from phenomjax.prepare.images.annotation.values import Value, check_value
from phenomjax.prepare.images.records import Finding
from phenomjax.system import files
from phenomjax.system.errors import UserError, did_you_mean

__all__ = ["KEYS", "TARGETS", "VALUES", "Joiner", "Key", "Value", "check_value", "describe"]
log = logging.getLogger("phenomjax")
Key = tuple[str | None, ...]  # experiment, plate, well, site, and whatever follows
RowKey = tuple[str, ...]


def parse_pairs(pairs: Sequence[str], flag: str, known: Iterable[str]) -> dict[str, str]:
    """Parses repeated NAME=VALUE arguments; for --rename the known name is on the right, else on
    the left.
    """
    parsed, known = {}, list(known)
    for pair in pairs:
        left, sign, right = pair.rpartition("=") if flag == "--rename" else pair.partition("=")
        name = right if flag == "--rename" else left
        if not (left and sign and right):
            raise UserError(f"{flag} {pair!r} is not understood; write {flag} NAME=VALUE.")
        if name not in known:
            raise UserError(
                f"{flag} {pair}: {name!r} is unknown.{did_you_mean(name, known)} There are:"
                f" {', '.join(known)}."
            )
        parsed[left] = right
    return parsed


class Joiner:
    """Rows of metadata tables by experiment, plate, well and site, whichever of them the tables
    have.

    Plates are found by exactly their name first. A plate that is named otherwise in the table ("1",
    "01", "1.0" of pandas, "NAME__2020-..." of Harmony) is found where only one can be meant.

    Args:
      paths: a table, or several that belong together (see annotation/merging.py).
      rename: {column of a file: column of the bank or key, "role", or "ignore"}.

    Attributes:
      path: the tables' names, for messages.
      keys, values: which of KEYS and VALUES they have.
      rows: {key: values}, wells and numbers spelt as in the bank, plates as in the table.
      told: sentences for the screen.

    Raises:
      UserError: no such file, a missing or unknown column, a value of the wrong type, two rows for
        one well that differ.
    """

    def __init__(self, paths: Path | Sequence[Path], rename: Mapping[str, str]):
        read = reading.read([paths] if isinstance(paths, Path) else list(paths), rename)
        one = paths if isinstance(paths, Path) else paths[0]
        self._map = tables.file_of(one)[0].name  # as a table of barcodes may call it
        self.path, self.keys, self.values, self.told = read.name, read.keys, read.values, read.told
        self._plate_maps, self._columns = read.plate_maps, read.columns
        self._sheet = read.sheet
        for sentence in read.told:
            log.info("%s", sentence)
        for sentence in read.warned:
            log.warning("%s", sentence)
        self._texts = read.texts
        self._described, self._where = read.described, read.where
        self.rows: dict[RowKey, dict[str, Value]] = {}
        self._lines: dict[RowKey, str] = {}
        self._add_all()
        if read.site_by_synonym and "site" in self.keys and self._is_needless("site"):
            self._drop("site")
        self._plates: dict[str, str] = {}  # of the images: that of the table
        self._by_plate: dict[str, dict[RowKey, dict[str, Value]]] | None = None

    def _add_all(self) -> None:
        self.rows.clear()
        self._lines.clear()
        for texts, values, where in zip(self._texts, self._described, self._where, strict=True):
            key = self._key(texts)
            if self.rows.setdefault(key, values) != values:
                named = zip(self.keys, key, strict=True)
                differ = [name for name in values if values[name] != self.rows[key].get(name)]
                raise UserError(
                    f"{where}: a second, different row for"
                    f" {', '.join(f'{name} {part}' for name, part in named)} (the first:"
                    f" {self._lines[key]}); they differ in {', '.join(differ)}. One row a well is"
                    " joined: add the column that tells the rows apart (experiment, plate, site),"
                    f" remove one{self._barcodes()}, or leave the column out:"
                    f" {rename_flag(self._columns.get(differ[0], differ[0]), 'ignore')}."
                )
            self._lines.setdefault(key, where)

    def _barcodes(self) -> str:
        if not self._plate_maps or "plate" in self.keys:
            return ""
        return (
            ", add the table that says which plate has which map (--metadata barcode_platemap.csv)"
        )

    def _key(self, texts: Sequence[str]) -> RowKey:
        spelt = {"well": well_of, "site": number_of}
        return tuple(
            spelt[name](text) if name in spelt else text.strip()
            for name, text in zip(self.keys, texts, strict=True)
        )

    def _is_needless(self, name: str) -> bool:
        """Whether the rows say the same without one of the keys."""
        place = self.keys.index(name)
        found: dict[RowKey, dict[str, Value]] = {}
        return all(
            found.setdefault(key[:place] + key[place + 1 :], values) == values
            for key, values in self.rows.items()
        )

    def _drop(self, name: str) -> None:
        place = self.keys.index(name)
        self.keys = [key for key in self.keys if key != name]
        self._texts = [texts[:place] + texts[place + 1 :] for texts in self._texts]
        self._add_all()

    def check(
        self, places: Iterable[tuple[str | None, str | None]], keys: Callable[[], Iterator[Key]]
    ) -> None:
        """Before any work: each plate of the images is found in the table by its name; a table
        without plates describes one plate only; some row must fit some image.

        Args:
          places: experiment and plate of all images.
          keys: gives the keys of all images, each time that it is called.

        Raises:
          UserError: a plate or a well is ambiguous, or nothing fits.
        """
        plates = {(experiment, plate or "") for experiment, plate in places}
        names = sorted({plate for _, plate in plates})
        if "plate" not in self.keys and len(plates) > 1:
            raise UserError(
                f"{self.path} has no column 'plate' but the images come from {len(plates)} plates,"
                " so a well is ambiguous. Add the column"
                + (
                    self._barcodes()
                    or ", name it with --rename, for instance --rename Barcode=plate, or, where it"
                    " is the map of several plates, add a table with the columns barcode and"
                    " plate_map that says which: --metadata BARCODES.csv, its plate_map"
                    f" {self._map}"
                )
                + "."
            )
        self._check_experiments(plates)
        if "plate" in self.keys:
            self._plates = dict(zip(names, names, strict=True)) | self._match(names)
        elif names and names[0]:
            log.info("%s has no plate: its wells are those of %s", self.path, names[0])
        if plates and all(self.find(key) is None for key in keys()):
            raise self._nothing_fits(keys)
        changed = {mine: its for mine, its in self._plates.items() if mine != its}
        if changed:
            log.info(
                "%s: plates found under another spelling: %s",
                self.path,
                ", ".join(f"{its} for {mine}" for mine, its in list(changed.items())[:5]),
            )

    def _nothing_fits(self, keys: Callable[[], Iterator[Key]]) -> UserError:
        """Which part of the keys never meets, and what to do."""
        rows = ", ".join("/".join(key) for key in list(self.rows)[:2])
        first = "/".join(part for part in next(keys()) if part)
        start = (
            f"No row of {self.path} fits an image: its keys ({', '.join(self.keys)}) are like"
            f" {rows}, the images' like {first} (experiment, plate, well, site)."
        )
        mine, sought = zip(*self.rows, strict=True), {self.row_key(key) for key in keys()}
        for name, its, images in zip(self.keys, mine, zip(*sought, strict=True), strict=True):
            if set(its) & set(images):
                continue
            start += f" No {name} is the same."
            if holder := self._holder(name, set(images)):
                return UserError(
                    f"{start} The column {holder} has some: {rename_flag(holder, name)}."
                )
            if name != "well" and len(set(its)) == len(set(images)) == 1:
                return UserError(
                    f"{start} If {its[0] or 'it'} is {images[0] or 'what the images show'}, leave"
                    f" the column out: {rename_flag(self._columns[name], 'ignore')}."
                )
        return UserError(f"{start} Correct the table, or give the one that belongs to the images.")

    def _holder(self, name: str, images: set[str]) -> str | None:
        """The column, of those that are not the key's own, that has a value of the images."""
        way = {"well": well_of, "site": number_of}.get(name, plate_of)
        wanted = {way(text) for text in images if text}
        if name != "site":
            for place, column in enumerate(self._sheet.columns):
                held = {way(text) for text in self._sheet.values(place) if text is not None}
                if column and column != self._columns.get(name) and held & wanted:
                    return column
        return None

    def _check_experiments(self, plates: set[tuple[str | None, str]]) -> None:
        if "experiment" not in self.keys:
            for _, plate in plates:
                several = sorted(str(name) for name, other in plates if other == plate)
                if "plate" in self.keys and len(several) > 1:
                    raise UserError(
                        f"{self.path} has no column 'experiment', and plate {plate} is in"
                        f" {len(several)} experiments ({', '.join(several[:3])}), so its rows are"
                        " ambiguous. Add the column, or name it: --rename COLUMN=experiment."
                    )
        elif plates and all(experiment is None for experiment, _ in plates):
            place = self.keys.index("experiment")
            there = sorted({key[place] for key in self.rows})
            if not self._is_needless("experiment"):
                raise UserError(
                    f"{self.path} has rows of {len(there)} experiments ({', '.join(there[:3])})"
                    " that differ for one plate and well, and the images name no experiment. Say"
                    f" which they are: --experiment {there[0]}, for instance."
                )
            self._drop("experiment")
            log.info("%s: the images name no experiment, so its column is not needed", self.path)

    def _match(self, names: Sequence[str]) -> dict[str, str]:
        """{plate of the images: plate of the table}.

        Raises:
          UserError: a spelling that may mean several.
        """
        place = self.keys.index("plate")
        there = {key[place] for key in self.rows}
        found = {name: name for name in names if name in there}
        for name in names:
            if name in found:
                continue
            alike = sorted(p for p in there - set(found) if plate_of(p) == plate_of(name))
            rivals = [n for n in names if n not in found and plate_of(n) == plate_of(name)]
            if alike and (len(alike) > 1 or len(rivals) > 1):
                raise UserError(
                    f"{self.path} has plate{'s' * (len(alike) > 1)} {' and '.join(alike)}, the"
                    f" images come from {' and '.join(rivals)}: which is meant is not certain."
                    " Write the plates in the table as the images' folders or files spell them."
                )
            if alike:
                found[name] = alike[0]
        return found

    def find(self, key: Key) -> dict[str, Value] | None:
        """The values for one image, None when the table has no row for it."""
        return self.rows.get(self.row_key(key))

    def row_key(self, key: Key) -> RowKey:
        """The key of the row that describes an image, whether there is one or not."""
        named = {name: part or "" for name, part in zip(KEYS, key, strict=False)}
        if "plate" in self.keys:
            plate = named["plate"]
            if plate not in self._plates:
                self._plates[plate] = self._match([plate]).get(plate, plate)
            named["plate"] = self._plates[plate]
        return self._key([named[name] for name in self.keys])

    def unmatched(self, keys: Sequence[Key]) -> list[Finding]:
        """What did not meet, for remarks.parquet: `no_rows`, then `without_images`."""
        there = {self.row_key(key) for key in keys}
        places = {self.place(row) for row in there}
        return [*self.no_rows(keys), *self.without_images(there, places)]

    def no_rows(self, keys: Iterable[Key]) -> list[Finding]:
        """Images without a row ("no_row")."""
        detail = f"has no row in {self.path}: its columns stay empty"
        return [
            Finding("no_row", detail, "", tuple(key))
            for key in keys
            if self.row_key(key) not in self.rows
        ]

    def place(self, row: RowKey) -> RowKey:
        """What the key of a row says of its plate."""
        return tuple(
            part
            for name, part in zip(self.keys, row, strict=True)
            if name in ("experiment", "plate")
        )

    def without_images(self, used: Collection[RowKey], places: Collection[RowKey]) -> list[Finding]:
        """Rows without an image ("no_image"; the file is the table), and, as one, all rows of a
        plate that no image comes from ("no_plate").

        Args:
          used: rows that describe images.
          places: the plates of images.
        """
        found = []
        absent: collections.Counter[RowKey] = collections.Counter()
        for row, where in self._lines.items():
            plate = self.place(row)
            if row in used:
                continue
            if plate not in places:
                absent[plate] += 1
                continue
            detail = f"describes a well that no image shows ({where})"
            found.append(Finding("no_image", detail, self.path, self._image_key(row)))
        named = [name for name in self.keys if name in ("experiment", "plate")]
        for plate, count in absent.items():
            parts = dict(zip(named, plate, strict=True))
            detail = f"has {count} rows for this plate, which no image comes from"
            key = (parts.get("experiment"), parts.get("plate"))
            found.append(Finding("no_plate", detail, self.path, key))
        return found

    def of_plate(self, place: tuple[str | None, str | None]) -> "Joiner":
        """What it says of the images of one plate, to be sent to a worker."""
        own = copy.copy(self)
        del own._texts, own._described, own._where, own._lines, own._sheet
        if "plate" not in self.keys:
            return own
        if self._by_plate is None:
            self._by_plate = collections.defaultdict(dict)
            number = self.keys.index("plate")
            for row, values in self.rows.items():
                self._by_plate[row[number]][row] = values
        named = dict(zip(KEYS, (place[0], place[1], "A01", "1"), strict=False))
        its = self.row_key(tuple(named.get(name) for name in KEYS))[self.keys.index("plate")]
        own.rows, own._by_plate = self._by_plate.get(its, {}), None
        own._plates = {place[1] or "": its}
        return own

    def _image_key(self, row: RowKey) -> Key:
        parts = dict(zip(self.keys, row, strict=True))
        return tuple(parts.get(name) for name in KEYS)


def recorded(paths: Sequence[Path]) -> dict[str, str | list[str]]:
    """The tables as a bank records them: where they were, and what was in them."""
    names = [str(path.resolve()) for path in paths]
    sums = [files.sha256(tables.file_of(path)[0]) for path in paths]
    if len(paths) == 1:
        return {"metadata": names[0], "metadata_sha256": sums[0]}
    return {"metadata": names, "metadata_sha256": sums} if paths else {}


def describe(
    keys: Iterable[Key], joiner: Joiner | None, constants: Mapping[str, Value]
) -> tuple[dict[str, list], list[Key]]:
    """The columns that describe images, from the table first, then from constants (--set).

    Returns:
      columns: {name: values in the order of keys} for VALUES.
      unmatched: the images without a row in the table.
    """
    columns: dict[str, list] = {name: [] for name in VALUES}
    unmatched = []
    for key in keys:
        row = joiner.find(key) if joiner else {}
        if row is None:
            unmatched.append(key)
            row = {}
        values = {
            name: row[name] if row.get(name) is not None else constants.get(name) for name in VALUES
        }
        # A control is one whatever the library is made of; only a type that its own row names
        # stands.
        if values["is_control"] and row.get("perturbation_type") is None:
            values["perturbation_type"] = "control"
        for name, value in values.items():
            columns[name].append(value)
    return columns, unmatched

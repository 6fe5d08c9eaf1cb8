"""A table of an experiment in memory, whichever files it was put together from."""

import functools
import re
import shlex
from typing import NamedTuple

from phenomjax.data.images.wells import normalise_number, normalise_well


class Sheet(NamedTuple):
    """A table.

    Attributes:
      name: of the file, or of the files.
      columns: their names.
      rows: texts, None where nothing is known.
      where: of each row, "FILE, line 7", for errors.
    """

    name: str
    columns: tuple[str, ...]
    rows: list[tuple[str | None, ...]]
    where: list[str]

    def values(self, place: int) -> list[str | None]:
        """The values of a column."""
        return [row[place] for row in self.rows]


def rename(column: str, target: str) -> str:
    """The flag that says what a column is, as a shell wants it: --rename 'Gene Symbol=gene'."""
    return f"--rename {shlex.quote(f'{column}={target}')}"


def plain(column: str) -> str:
    """A column's name as it is compared: "Metadata_Well Position" -> "wellposition"."""
    return re.sub(r"[\W_]", "", column.lower().removeprefix("metadata_"))


@functools.lru_cache(2**12)
def well_of(text: str) -> str:
    """A well as the bank spells it: "a 2", "A-2", "A002" -> "A02"."""
    return normalise_well(re.sub(r"\s", "", text).removeprefix("'"))


@functools.lru_cache(2**17)
def number_of(text: str) -> str:
    """A number as it is compared: "01", "1.0" -> "1"; anything else stays."""
    text = text.strip()
    return normalise_number(text[:-2] if re.fullmatch(r"\d+\.0", text) else text)


def plate_of(text: str) -> str:
    """A plate as it is compared where no plate has exactly its name: without leading zeros, pandas'
    ".0", the apostrophe by which Excel keeps a text, capitals, and the time of measurement that
    Harmony appends ("NAME__2020-01-01T...").
    """
    return number_of(re.sub(r"__\d{4}-\d\d-\d\d.*", "", text.strip().removeprefix("'"))).casefold()


def looks_like_well(text: str) -> bool:
    """Whether a text names a well."""
    return re.fullmatch(r"[A-Z]{1,2}\d\d", well_of(text)) is not None

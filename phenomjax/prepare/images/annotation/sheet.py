"""A table of an experiment in memory, whichever files it was put together from."""

import shlex
from typing import NamedTuple


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

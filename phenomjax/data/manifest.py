"""The sha256 of files of a folder, from the table that `prepare mirror` leaves beside a copy."""

import functools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data import store
from phenomjax.system.errors import EXIT_FAILED, UserError

ENDING = ".manifest.parquet"
COLUMNS = ["key", "sha256"]


def beside(folder: Path) -> Path:
    """Where the manifest of a folder lies."""
    return folder.with_name(folder.name + ENDING)


class Manifest:
    """Looks up one file after the other, in the row groups that can have it: a few are in memory,
    however many files there are.

    Args:
      path: of the table, local or remote.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            with store.open_input(path) as file:
                self._footer = pq.read_metadata(file)
            if missing := {*COLUMNS} - {*self._footer.schema.names}:
                raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        except (pa.ArrowException, ValueError) as error:
            raise self._damaged(error) from None
        place = self._footer.schema.names.index("key")
        columns = [
            self._footer.row_group(i).column(place) for i in range(self._footer.num_row_groups)
        ]
        self._spans = [
            (c.statistics.min, c.statistics.max)
            if c.statistics and c.statistics.has_min_max
            else None
            for c in columns
        ]
        self._kept = functools.lru_cache(maxsize=16)(self._read)

    def sha256(self, key: str) -> str:
        """Of a file by its name below the folder; "" where the manifest does not know it."""
        for group, span in enumerate(self._spans):
            if span is None or span[0] <= key <= span[1]:
                table = self._kept(group)
                place = table["key"].index(key).as_py()
                if place >= 0:
                    return table["sha256"][place].as_py() or ""
        return ""

    def _read(self, group: int) -> pa.Table:
        try:
            with store.open_input(self._path) as file:
                reader = pq.ParquetFile(file, metadata=self._footer)
                return reader.read_row_group(group, COLUMNS).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, UserError):
                raise
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{store.url(self._path)} is damaged, or no manifest of a mirror"
            f" ({str(error).splitlines()[0]}), and the files beside it are checked by it. Delete"
            " it, and mirror them again: `python -m phenomjax.prepare mirror` writes it anew.",
            EXIT_FAILED,
        )

"""The manifest of a mirror: a row an object, sorted by key, read and written by row groups."""

import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.system import files

VERIFIED = "verified"
DIFFERS = "differs"
ROWS = 65536  # of a row group
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("state", pa.string()),
        ("detail", pa.string()),
        ("source", pa.string()),
        ("target", pa.string()),
    ]
)


class Row(NamedTuple):
    """An object of a mirror.

    Attributes:
      key: its name below source and destination, "/" between folders, and at the end of an empty
        folder.
      bytes: its size in the source.
      sha256: of its content, as it was read from the source; "" where it was not.
      state: VERIFIED: it is in the destination with this content. DIFFERS: another content is
        there, and stays. changed, vanished, unreadable, damaged: what was wrong in the source.
        failed: it could not be written, or not be verified.
      detail: what else is to be known, "" where it is verified.
      source: what the source shows of its version (ETag or time), to see whether it has changed.
      target: the same of the copy.
    """

    key: str
    bytes: int
    sha256: str = ""
    state: str = VERIFIED
    detail: str = ""
    source: str = ""
    target: str = ""


def rows(path: Path, schema: pa.Schema = SCHEMA) -> Iterator[tuple]:
    """Rows of a Parquet file on a disk, as tuples of these columns, one row group in memory."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from group_rows(file, group, schema)


def group_rows(file: pq.ParquetFile, group: int, schema: pa.Schema) -> Iterator[tuple]:
    """Rows of a row group."""
    for batch in file.iter_batches(ROWS, [group], schema.names, use_threads=False):
        yield from zip(*(batch.column(name).to_pylist() for name in schema.names), strict=True)


def table(content: Iterable[tuple], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Rows as a table."""
    columns = list(zip(*content, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


class Writer:
    """Writes rows in groups, whole or not at all.

    Args:
      path: of the file, on a disk.
      schema: of the rows.
      size: rows of a group, where `end_group` is not called.
    """

    def __init__(self, path: Path, schema: pa.Schema = SCHEMA, size: int = ROWS):
        self.schema, self.size, self.held, self.groups = schema, size, list[tuple](), 0
        self._replacing = files.replacing(path)
        self._file = pq.ParquetWriter(self._replacing.__enter__(), schema, compression="zstd")

    def add(self, row: tuple) -> None:
        """Adds a row."""
        self.held.append(row)
        if len(self.held) >= self.size:
            self.end_group()

    def end_group(self) -> None:
        """Ends a row group that has rows."""
        if self.held:
            self._file.write_table(table(self.held, self.schema), row_group_size=len(self.held))
            self.held, self.groups = [], self.groups + 1

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.end_group()
        self._file.close()
        self._replacing.__exit__(kind, error, trace)


def write(path: Path, streams: Iterable[Iterable[tuple]]) -> Path:
    """Merges streams of rows that are sorted by key into a manifest."""
    with Writer(path) as writer:
        for row in heapq.merge(*streams, key=lambda row: row[0]):
            writer.add(row)
    return path

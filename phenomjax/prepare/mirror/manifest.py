"""The manifest of a mirror: a row an object, sorted by key, read and written by row groups."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError

VERIFIED = "verified"
DIFFERS = "differs"
SOURCE = b"phenomjax.source"  # in the metadata of the file
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
            try:
                yield from group_rows(file, group, schema)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(str(path), error) from None


def check(path: Path, name: str) -> None:
    """Raises UserError for what is no manifest of a mirror."""
    try:
        if missing := set(SCHEMA.names) - set(pq.read_schema(path).names):
            raise _damaged(name, f"it has no {', '.join(sorted(missing))}")
    except (pa.ArrowException, OSError) as error:
        raise _damaged(name, error) from None


def _damaged(name: str, cause: object) -> UserError:
    return UserError(
        f"{name} is damaged, or no manifest of a mirror ({str(cause).splitlines()[0]}). Delete it:"
        " all that is there is compared again then.",
        EXIT_FAILED,
    )


def source(path: Path) -> str:
    """Where the objects of a manifest were copied from; "" where it does not say."""
    return (pq.read_schema(path).metadata or {}).get(SOURCE, b"").decode()


def group_rows(file: pq.ParquetFile, group: int, schema: pa.Schema) -> Iterator[tuple]:
    """Rows of a row group."""
    for batch in file.iter_batches(ROWS, [group], schema.names, use_threads=False):
        yield from zip(*(batch.column(name).to_pylist() for name in schema.names), strict=True)


def table(content: Iterable[tuple], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Rows as a table."""
    columns = list(zip(*content, strict=True)) or [()] * len(schema)
    return pa.table([*map(_array, columns, schema.types)], schema=schema)


def _array(column: Sequence, kind: pa.DataType) -> pa.Array:
    """A column; `pa.array` would import pandas, a third of the start of the program."""
    if pa.types.is_string(kind):
        strings = pa.lib.StringBuilder()
        strings.append_values(column)
        return strings.finish()
    numbers = np.array(column, np.int64)
    bits = np.packbits(numbers, bitorder="little") if pa.types.is_boolean(kind) else numbers
    return pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(bits)])


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


def write(path: Path, streams: Iterable[Iterable[tuple]], source: str) -> Path:
    """Merges streams of rows that are sorted by key into a manifest of copies from a source."""
    with Writer(path, SCHEMA.with_metadata({SOURCE: source})) as writer:
        for row in heapq.merge(*streams, key=lambda row: row[0]):
            writer.add(row)
    return path

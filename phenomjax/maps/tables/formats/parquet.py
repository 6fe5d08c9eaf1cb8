"""Profiles in Parquet, ours and foreign ones; features are read by row groups."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.formats.features import by_name
from phenomjax.maps.tables.formats.numeric import Tally, numbers_among
from phenomjax.maps.tables.sources import (
    Block,
    Blocks,
    Source,
    Wanted,
    apart,
    noted,
)
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

BUFFER = 2**13  # bytes of each column that are read at once; there may be thousands of columns
PAGE = 2**21  # bytes that a column of a long row group holds, as a rule: a page and its dictionary
OPEN_PAGES = 2**26  # bytes of the columns that are open at once


def open_parquet(path: Path, wanted: Wanted) -> Source:
    """Opens a Parquet file. Numbers are features or metadata by the names of their columns; texts
    that are numbers but for a few cells, too; a column of vectors is as many features.

    Raises:
      UserError: no column is a feature.
      ValueError: the file is damaged.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as file:
        table = _Table(file, path)
        own = json.loads((table.schema.metadata or {}).get(b"phenomjax", b"{}"))
        named = by_name(table.names, path, wanted, own.get("features"))
        same = table.doubles_of_same_values(file)
        texts = [n for n in named.candidates if n not in table.numeric and n not in same]
        tally = Tally([name for name in named.candidates if name not in same])
        apart_from = (set(tally.candidates) - set(texts)) | {*same, *named.unread}
        frame = table.frame(file, [name for name in table.names if name not in apart_from])
    written = tally.block(frame, texts)
    names, notes = tally.features(path, wanted.features if named.strict else None)
    place = {name: k for k, name in enumerate(texts)}
    kept = set(names)
    metadata = frame[[name for name in frame.columns if name not in kept]]
    notes += noted("unlike", numbers_among(named.unlike, metadata))
    other = [name for name in table.doubles if name not in same]
    notes += (*noted("twice", same), *noted("renamed", other))

    def read(chosen: tuple[str, ...]) -> Blocks:
        stored, start = tuple(name for name in chosen if name not in place), 0
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as file:
            # made anew: a table of columns weighs much, for many files
            for block in _Table(file, path).blocks(file, stored, wanted.folder):
                if len(stored) < len(chosen):
                    whole = np.empty((len(block), len(chosen)), np.float32)
                    whole[:, [name not in place for name in chosen]] = block
                    columns = [place[name] for name in chosen if name in place]
                    whole[:, [name in place for name in chosen]] = written[
                        start : start + len(block)
                    ][:, columns]
                    block = whole
                start += len(block)
                yield block

    provenance = own.get("provenance", {})
    return Source(path, metadata, names, provenance, read, (*named.notes, *notes))


class _Table:
    """The columns of a Parquet file, a vector as many of them.

    Attributes:
      schema: of the file.
      names: of its columns, each once: a second "A" is called "A#2", the numbers of a vector V are
        V_0, V_1, …
      numeric: those that hold numbers.
      doubles: those whose name another has already: {"A#2": "A"}.
    """

    def __init__(self, file: "pq.ParquetFile", path: Path):
        self.path, self.schema = path, file.schema_arrow
        columns = apart(self.schema.names)
        self.doubles = {
            new: old for new, old in zip(columns, self.schema.names, strict=True) if new != old
        }
        self._of: dict[str, tuple[str, int]] = {}  # name: column, place in the vector or -1
        self.numeric: set[str] = set()
        for name, kind in zip(columns, self.schema.types, strict=True):
            width = _width(file, name, kind)
            found = (
                {f"{name}_{k}": (name, k) for k in range(width)} if width else {name: (name, -1)}
            )
            self._of |= found
            if width or _is_number(kind):
                self.numeric |= set(found)
        self.names = tuple(self._of)

    def _stored(self, names: Sequence[str]) -> list[str]:
        """How the columns of some names are called in the file."""
        columns = (self._of[name][0] for name in names)
        return list(dict.fromkeys(self.doubles.get(column, column) for column in columns))

    def frame(self, file: "pq.ParquetFile", names: Sequence[str]) -> "pd.DataFrame":
        """Some columns as pandas has them without knowing of them: no index."""
        table = file.read(columns=self._stored(names))
        named = table.rename_columns(list(apart(table.column_names)))
        frame = named.to_pandas(ignore_metadata=True)
        return frame[[name for name in names if not name.startswith("__index_level_")]]

    def doubles_of_same_values(self, file: "pq.ParquetFile") -> list[str]:
        """The doubles whose values are those of the column that has the name already."""
        doubles = {new: old for new, old in self.doubles.items() if new in self._of}
        if not doubles:
            return []
        frame = self.frame(file, [*doubles, *doubles.values()])
        return [new for new, old in doubles.items() if frame[new].equals(frame[old])]

    def blocks(self, file: "pq.ParquetFile", names: tuple[str, ...], folder: Path | None) -> Blocks:
        """Columns of numbers, as `Source.blocks` has them.

        Of a row group with too many open pages (pandas writes a million rows into one) some columns
        are read after the other, and wait in `folder` where they are more than memory should hold.
        """
        for group in range(file.num_row_groups):
            parts = self._parts(file, group, names)
            if len(parts) == 1:
                yield from self._of_group(file, group, names)
                continue
            rows = file.metadata.row_group(group).num_rows
            held = scratch.empty(len(parts) * rows, max(map(len, parts)), folder)
            for number, part in enumerate(parts):
                start = number * rows
                for block in self._of_group(file, group, part):
                    held[start : start + len(block), : len(part)] = block
                    start += len(block)
                    scratch.release(held)
            for some in scratch.blocks(rows, len(names)):
                pieces = [
                    held[number * rows :][some, : len(part)] for number, part in enumerate(parts)
                ]
                yield np.concatenate(pieces, axis=1)
                scratch.release(held)

    def _parts(
        self, file: "pq.ParquetFile", group: int, names: tuple[str, ...]
    ) -> list[tuple[str, ...]]:
        """Names of columns that are read together; those of a vector are one column."""
        found = file.metadata.row_group(group)
        size: dict[str, int] = {}
        for leaf in map(found.column, range(found.num_columns)):
            size[leaf.path_in_schema] = leaf.total_uncompressed_size
            size.setdefault(leaf.path_in_schema.split(".")[0], leaf.total_uncompressed_size)
        parts: list[list[str]] = [[]]
        opened, total = set[str](), 0
        for name in names:
            column = self._of[name][0]
            column = self.doubles.get(column, column)
            more = 0 if column in opened else min(size.get(column, PAGE), PAGE)
            if parts[-1] and total + more > OPEN_PAGES:
                parts.append([])
                opened, total = set(), 0
            parts[-1].append(name)
            opened.add(column)
            total += more
        return [tuple(part) for part in parts]

    def _of_group(self, file: "pq.ParquetFile", group: int, names: tuple[str, ...]) -> Blocks:
        batches = file.iter_batches(
            scratch.rows_of_a_block(len(names)),
            row_groups=[group],
            columns=self._stored(names),
            use_threads=False,
        )
        for batch in batches:
            columns = dict(zip(apart(batch.schema.names), batch.columns, strict=True))
            block = np.empty((batch.num_rows, len(names)), np.float32)
            vectors: dict[str, Block] = {}
            with np.errstate(over="ignore"):
                for k, name in enumerate(names):
                    column, at = self._of[name]
                    if at < 0:
                        block[:, k] = _numbers(columns[column])
                        continue
                    if column not in vectors:
                        vectors[column] = self._vectors(columns[column], column)
                    block[:, k] = vectors[column][:, at]
            yield block

    def _vectors(self, column: "pa.Array", name: str) -> Block:
        width = sum(stored == name for stored, _ in self._of.values())
        lengths = column.value_lengths().fill_null(width).to_numpy(zero_copy_only=False)
        if (lengths != width).any():
            raise UserError(
                f"{self.path}: the vectors of column '{name}' are of different lengths ({width} and"
                f" {int(lengths[lengths != width][0])}). Vectors of one model are of one length:"
                " write the table again."
            )
        there = column.is_valid().to_numpy(zero_copy_only=False)
        block = np.full((len(column), width), np.nan, np.float32)
        block[there] = _numbers(column.drop_null().flatten()).reshape(-1, width)
        return block


def _is_number(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _width(file: "pq.ParquetFile", name: str, kind: "pa.DataType") -> int:
    """How many numbers a vector of a column has; 0 of a column that holds none."""
    import pyarrow as pa

    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if pa.types.is_fixed_size_list(kind) and _is_number(kind.value_type):
        return int(kind.list_size)
    if not lists or not _is_number(kind.value_type):
        return 0
    for batch in file.iter_batches(64, columns=[name]):
        lengths = batch.column(0).value_lengths().drop_null()
        if len(lengths):
            return int(lengths[0].as_py())
    return 0


def _numbers(column: "pa.Array") -> np.ndarray:  # of any type of numbers
    import pyarrow as pa

    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy(zero_copy_only=False))

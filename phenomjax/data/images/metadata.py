"""What describes the images of a bank: Parquet tables one after the other, a row an image, of which
only the columns and row groups are read that are asked for.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int, Shaped

from phenomjax.data import node_cache, store
from phenomjax.data.zarr_files import opening
from phenomjax.system.errors import UserError, did_you_mean

METADATA_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("experiment", "plate", "well", "site", "time", "cell_type", "perturbation")
    ]
    + [("perturbation_type", pa.string()), ("gene", pa.string()), ("concentration", pa.float64())]
    + [("is_control", pa.bool_()), ("source", pa.string()), ("checksum", pa.string())]
)
PERTURBATION_TYPES = ("crispr", "sirna", "compound", "orf", "control")
ROW_GROUP = 2**16  # rows: a few plates, so that those of one plate are read alone
UNIQUE = ("source", "checksum")  # texts that hardly repeat; of others each is kept once


class Table(NamedTuple):
    """One of the tables of a bank.

    Attributes:
      file: its name, in the bank's folder.
      rows: in it.
      sha256: of the file; "" where the bank does not record it.
      bytes: size of the file; 0 where the bank does not record it.
    """

    file: str
    rows: int
    sha256: str
    bytes: int


class Runs(NamedTuple):
    """Columns together, as runs of rows that have the same in all of them: a group each.

    Attributes:
      starts: first row of each run.
      groups: of each run, the number of its group.
      codes: of each group, the place of its text in `texts`, one row a column.
      texts: of each column, all different texts (None: nothing).
    """

    starts: Int[np.ndarray, "runs"]
    groups: Int[np.ndarray, "runs"]
    codes: Int[np.ndarray, "columns groups"]
    texts: Sequence[Sequence[str | None]]

    def values(self) -> Iterator[tuple[str | None, ...]]:
        """What each group has in the columns."""
        columns = zip(self.texts, self.codes, strict=True)
        return zip(*(map(texts.__getitem__, codes) for texts, codes in columns), strict=True)

    def spread(self, values: Shaped[np.ndarray, "groups"], rows: int) -> Shaped[np.ndarray, "rows"]:
        """For each of all rows the value of its group."""
        return np.repeat(values[self.groups], np.diff(self.starts, append=rows))


class Metadata:
    """Tables in files.

    Args:
      folder: of the bank.
      tables: in the order of the images.
    """

    def __init__(self, folder: Path, tables: Sequence[Table]):
        self._folder, self._tables = folder, tuple(tables)
        self._first = [0, *itertools.accumulate(table.rows for table in tables)]
        self._footer = functools.cache(lambda table: read_footer(folder, tables[table]))
        # messages ask for one image after the other
        self._kept_group = functools.lru_cache(maxsize=4)(self._group)
        # train and val ask for the same
        self._kept_runs = functools.lru_cache(maxsize=2)(self._find_runs)

    def __len__(self) -> int:
        return self._first[-1]

    def read(self, columns: Sequence[str] = ()) -> pa.Table:
        """All rows, with all columns or some."""
        if columns:
            empty = _schema(columns).empty_table()
            return pa.concat_tables([empty, *self._groups(columns)])
        with opening(self._folder):
            parts = [_with_time(self._open(table).read()) for table in range(len(self._tables))]
        return pa.concat_tables(parts) if len(parts) > 1 else parts[0]

    def column(self, name: str) -> pa.ChunkedArray:
        """A column; texts that repeat are dictionary-encoded with small codes, so that 100 million
        names of plates take 200 MB.
        """
        kind = METADATA_SCHEMA.field(name).type
        if kind != pa.string() or name in UNIQUE:
            parts = [chunk for group in self._groups([name]) for chunk in group[name].chunks]
            return pa.chunked_array(parts, kind)
        coding = _Coding()
        codes = []
        for group in self._groups([name], coded=True):
            codes.append(coding.add(group[name]).astype(coding.kind))
        small, values = coding.kind, coding.values
        names, missing = pa.array(values, pa.string()), values.index(None) if None in values else -1
        parts = [
            pa.DictionaryArray.from_arrays(
                pa.array(part.astype(small), mask=part == missing), names
            )
            for part in codes
        ]
        return pa.chunked_array(parts, pa.dictionary(pa.from_numpy_dtype(small), pa.string()))

    def rows(self, indices: Sequence[int] | np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Some rows, in the order in which they are asked for, from the row groups that have them.

        Raises:
          IndexError: there is no such row.
        """
        wanted = np.asarray(indices, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"{self._folder} has {len(self)} rows of metadata")
        order, place = np.argsort(wanted, kind="stable"), 0
        ordered, parts = wanted[order], [_schema(columns).empty_table()]
        for table, group, first, stop in self._row_groups():
            end = int(np.searchsorted(ordered, stop))
            if end > place:
                found = self._kept_group(table, group, tuple(columns))
                parts.append(found.take(pa.array(ordered[place:end] - first)))
            place = end
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(pa.array(back))

    def runs(self, columns: Sequence[str]) -> Runs:
        """Columns as runs of rows that have the same in all of them; numbers become texts."""
        return self._kept_runs(tuple(columns))

    def _find_runs(self, columns: tuple[str, ...]) -> Runs:
        codings, starts, found = [_Coding() for _ in columns], [], []
        first, last = 0, np.full(len(columns), -1)
        for group in self._groups(columns, coded=True):
            coded = zip(codings, columns, strict=True)
            codes = np.stack([coding.add(group[name]) for coding, name in coded])
            changed = (codes != np.column_stack([last, codes[:, :-1]])).any(axis=0)
            begins = np.flatnonzero(changed)
            starts.append(begins + first)
            found.append(codes[:, begins])
            first, last = first + codes.shape[1], codes[:, -1]
        if not starts:
            none = np.zeros(0, np.int64)
            return Runs(none, none, np.zeros((len(columns), 0), np.int32), [()] * len(columns))
        groups, of_run = np.zeros((0, 1), np.int32), np.zeros(1, np.int32)
        for coding, codes in zip(codings, np.concatenate(found, axis=1), strict=True):
            both = of_run.astype(np.int64) * len(coding.values) + codes
            coded = pc.dictionary_encode(pa.array(both))
            before, last = np.divmod(coded.dictionary.to_numpy(), len(coding.values))
            groups = np.vstack([groups[:, before], last.astype(np.int32)])
            of_run = coded.indices.to_numpy()
        return Runs(np.concatenate(starts), of_run, groups, [one.values for one in codings])

    def parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of all rows, a row group at a time."""
        yield from self._groups(columns)

    def _groups(self, columns: Sequence[str], coded: bool = False) -> Iterator[pa.Table]:
        for table, group, _, _ in self._row_groups():
            yield self._group(table, group, tuple(columns), coded)

    def _row_groups(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each row group its table, its number there, its first row and its end."""
        for table, start in enumerate(self._first[:-1]):
            footer = self._footer(table)
            for group in range(footer.num_row_groups):
                stop = start + footer.row_group(group).num_rows
                if stop > start:
                    yield table, group, start, stop
                start = stop

    def _group(
        self, table: int, group: int, columns: tuple[str, ...], coded: bool = False
    ) -> pa.Table:
        footer = self._footer(table)
        there = [name for name in columns if name in footer.schema.names]
        with opening(self._folder):
            found = self._open(table, there if coded else None).read_row_group(group, there)
        count = footer.row_group(group).num_rows
        missing = {field.name: pa.nulls(count, field.type) for field in _schema(columns)}
        return pa.table(missing | {name: found[name] for name in there}).select(columns)

    def _open(self, table: int, coded: Sequence[str] | None = None) -> pq.ParquetFile:
        known, footer = self._tables[table], self._footer(table)
        source = node_cache.open_table(self._folder / known.file, known.sha256, known.bytes)
        return pq.ParquetFile(source, metadata=footer, read_dictionary=coded)


class MetadataInMemory(Metadata):
    """A table that is no file: that of an array or a plate which is read in place."""

    def __init__(self, folder: Path, table: pa.Table):
        super().__init__(folder, [Table("", len(table), "", 0)])
        self._table = table

    def read(self, columns: Sequence[str] = ()) -> pa.Table:
        return self._table.select(columns) if columns else self._table

    def _row_groups(self) -> Iterator[tuple[int, int, int, int]]:
        yield from [(0, 0, 0, len(self._table))] if len(self._table) else []

    def _group(
        self, table: int, group: int, columns: tuple[str, ...], coded: bool = False
    ) -> pa.Table:
        return self._table.select(columns)


class _Coding:
    """Texts as numbers, over many parts of a column.

    Attributes:
      values: the text, or None, of each number.
    """

    def __init__(self) -> None:
        self.values: list[str | None] = []
        self._codes: dict[str | None, int] = {}

    @property
    def kind(self) -> np.dtype:
        """The smallest integers that hold the numbers."""
        return np.min_scalar_type(-max(len(self.values), 1))

    def add(self, column: pa.ChunkedArray) -> Int[np.ndarray, "rows"]:
        """The numbers of a part."""
        found = [np.zeros(0, np.int32)]
        for chunk in column.chunks:
            if not pa.types.is_dictionary(chunk.type):
                chunk = pc.dictionary_encode(pc.cast(chunk, pa.string()))
            texts = [*chunk.dictionary.to_pylist(), *([None] if chunk.null_count else [])]
            codes = np.array([self._code(text) for text in texts], np.int32)
            found.append(codes[chunk.indices.fill_null(len(chunk.dictionary)).to_numpy()])
        return np.concatenate(found)

    def _code(self, text: str | None) -> int:
        code = self._codes.setdefault(text, len(self.values))
        if code == len(self.values):
            self.values.append(text)
        return code


def read_tables(folder: Path, recorded: Sequence[dict]) -> list[Table]:
    """The tables that a bank recorded, or in one of before it did, metadata.parquet.

    A table of another size than recorded was edited since: what counts then is what is there.
    """
    tables = [Table(**one) for one in recorded]
    for place, (file, rows, _, size) in enumerate(tables):
        there = store.size(folder / file)
        if there != size:
            if (found := read_footer(folder, Table(file, rows, "", 0)).num_rows) != rows:
                raise other_rows(folder, f"{rows} images", f"its {file}", found)
            tables[place] = Table(file, rows, store.sha256(folder / file), there)
    only = Table("metadata.parquet", 0, "", 0)
    return tables or [only._replace(rows=read_footer(folder, only).num_rows)]


def other_rows(folder: Path, images: str, table: str, rows: int) -> UserError:
    """The error of a bank whose images and metadata do not belong together."""
    return UserError(
        f"The bank {store.url(folder)} has {images} but {table} has {rows} rows: one of the two was"
        " replaced. Copy the bank again, or prepare it again."
    )


def read_footer(folder: Path, table: Table) -> pq.FileMetaData:
    """The end of a table: its rows, its columns, and where they are.

    Raises:
      UserError: it is damaged.
    """
    with opening(folder):
        path = folder / table.file
        return pq.read_metadata(node_cache.open_table(path, table.sha256, table.bytes))


def write_table(path: Path, parts: Iterable[pa.Table]) -> int:
    """Writes a table part by part in row groups of ROW_GROUP, whose bytes do not depend on how it
    was divided; returns its rows.

    Args:
      path: of the file; not whole if this fails.
      parts: one at least, of one schema.
    """
    writer, waiting, rows = None, None, 0
    try:
        for part in parts:
            writer = writer or pq.ParquetWriter(path, part.schema, compression="zstd")
            waiting = part if waiting is None else pa.concat_tables([waiting, part])
            rows += len(part)
            while len(waiting) > ROW_GROUP:
                writer.write_table(waiting.slice(0, ROW_GROUP).combine_chunks())
                waiting = waiting.slice(ROW_GROUP)
        if writer is None or waiting is None:
            raise ValueError(f"no table for {path}")
        writer.write_table(waiting.combine_chunks())
    finally:
        if writer is not None:
            writer.close()
    return rows


def conform_metadata(table: pa.Table) -> pa.Table:
    """Casts a table to METADATA_SCHEMA; missing columns become null, unknown ones are an error."""
    for name in table.column_names:
        if name not in METADATA_SCHEMA.names:
            hint = did_you_mean(name, METADATA_SCHEMA.names)
            known = ", ".join(METADATA_SCHEMA.names)
            raise UserError(f"Metadata column {name!r} is unknown.{hint} A bank has: {known}.")
    columns = [
        (
            table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
        )
        for field in METADATA_SCHEMA
    ]
    return pa.table(columns, schema=METADATA_SCHEMA)


def _schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([METADATA_SCHEMA.field(name) for name in columns])


def _with_time(table: pa.Table) -> pa.Table:
    """Metadata of a bank; those written before there was a column `time` get it, empty."""
    if "time" in table.column_names or "site" not in table.column_names:
        return table
    place = table.column_names.index("site") + 1
    return table.add_column(place, METADATA_SCHEMA.field("time"), pa.nulls(len(table), pa.string()))

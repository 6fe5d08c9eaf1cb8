"""The token bank: all sequences end to end, one uint8 a token, and where each begins.

    NAME.zarr/zarr.json         group; attributes["phenomjax"] = format, version, vocabulary,
                                boundary, splits, options, checksums
    NAME.zarr/tokens/c.K        uint8 tokens, uncompressed: a chunk is a file that can be mapped
    NAME.zarr/offsets/c.K       int64, sequence i is tokens[offsets[i]:offsets[i + 1]], its boundary
                                tokens included
    NAME.zarr/metadata.parquet  METADATA_SCHEMA, row i describes sequence i; of a bank of more rows
                                than one process writes soon, several tables one after the other,
                                metadata-1.parquet …: attributes["tables"] = [{"file", "rows"}, …]

The sequences of a split stand together: attributes["splits"] = {"train": [first, last + 1],
"validation": …, "test": …}.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from phenomjax.data import node_cache, store, zarr_files
from phenomjax.data.sequences.flat_array import CHUNK_BYTES, FlatArray, FlatWriter
from phenomjax.data.sequences.vocabulary import BOS, EOS, Vocabulary, vocabulary
from phenomjax.system import files
from phenomjax.system.errors import UserError

FORMAT, VERSION = "token_bank", 1
TABLES_VERSION = 2  # of banks with several tables, which older programs would read in part
METADATA_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("length", pa.int32()),
        ("description", pa.string()),
        ("source", pa.string()),
    ]
)
SPLITS = ("train", "validation", "test")
# Tokens that stand before and after each sequence. One <eos> between sequences bounds both
# neighbours.
BOUNDARIES = {"eos": ((), (EOS,)), "bos_eos": ((BOS,), (EOS,))}
HELD_GROUPS = 8  # row groups whose ids are kept


class TokenBank:
    """Sequences of one alphabet. Opens its files lazily, pickles as its path.

    Attributes:
      path: the folder.
      attributes: what `attributes["phenomjax"]` says.
      vocabulary: of its tokens.
      boundary: a name in BOUNDARIES.
      splits: {split: (first sequence, one past the last)}.
      tokens: FlatArray uint8 [tokens].
      offsets: FlatArray int64 [sequences + 1].
      tables: names of the files of the metadata, in the order of its rows.
      fingerprint: sha256 over the checksums of all files; changes with any token.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.attributes = zarr_files.read_entry(self.path)
        with zarr_files.opening(self.path):
            zarr_files.expect(self.attributes, options=dict, checksums=dict)
            stored = self.attributes["vocabulary"]
            self.vocabulary = Vocabulary(stored["name"], stored["version"], tuple(stored["tokens"]))
            self.boundary = self.attributes["boundary"]
            stored = self.attributes.get("tables") or [{"file": table_name(0)}]
            self.tables = [table["file"] for table in stored]
            self.splits = {name: tuple(span) for name, span in self.attributes["splits"].items()}
            self._held = dict[int, pa.ChunkedArray]()
            # holds the checksums of everything else
            self.fingerprint = zarr_files.fingerprint([self.path / "zarr.json"])
            opener = node_cache.Files(self.path, self.fingerprint, self.attributes["checksums"])
            self.tokens = FlatArray(self.path / "tokens", opener)
            self.offsets = FlatArray(self.path / "offsets", opener)
            ends = [end for split in SPLITS for end in self.splits[split]]
            if self.boundary not in BOUNDARIES or sorted(ends) != ends or len(ends) != 6:
                raise ValueError(f"boundary {self.boundary!r}, splits {self.splits}")
            if ends[0] < 0 or ends[-1] >= len(self.offsets):
                raise ValueError(f"splits {self.splits} of {len(self.offsets) - 1} sequences")

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.offsets) - 1

    def sequence(self, index: int) -> UInt8[np.ndarray, "tokens"]:
        """Tokens of one sequence with its boundary tokens: [tokens] uint8, not to be written to."""
        start, stop = self.offsets[index : index + 2]
        return self.tokens[int(start) : int(stop)]

    def num_tokens(self, split: str) -> int:
        """Tokens of a split, boundaries included."""
        first, last = self.splits[split]
        return int(self.offsets[last] - self.offsets[first])

    def names(self, indices: Sequence[int]) -> list[str]:
        """The ids of sequences, from the row groups that have them."""
        found = []
        for index in indices:
            number = int(np.searchsorted(self._row_groups[1], index, side="right")) - 1
            row = int(index) - int(self._row_groups[1][number])
            found.append(self._ids(number)[row].as_py())
        return found

    @functools.cached_property
    def _row_groups(self) -> tuple[list[tuple[pq.ParquetFile, int]], np.ndarray]:
        """The row groups of all tables, and int64 [groups + 1], where each begins."""
        with zarr_files.opening(self.path):
            tables = [pq.ParquetFile(self.table(name)) for name in self.tables]
        groups = [(table, n) for table in tables for n in range(table.num_row_groups)]
        counts = [table.metadata.row_group(n).num_rows for table, n in groups]
        return groups, np.cumsum([0, *counts])

    def _ids(self, number: int) -> pa.ChunkedArray:
        if number not in self._held:
            table, group = self._row_groups[0][number]
            self._held = dict(list(self._held.items())[1 - HELD_GROUPS :])
            self._held[number] = table.read_row_group(group, ["id"])["id"]
        return self._held[number]

    @functools.cached_property
    def metadata(self) -> pa.Table:
        """METADATA_SCHEMA, one row a sequence, mapped and not read where that is possible."""
        with zarr_files.opening(self.path):
            return pa.concat_tables(
                pq.read_table(self.table(name), memory_map=True) for name in self.tables
            )

    def table(self, name: str) -> Path | IO[bytes]:
        """One of `tables` to be read."""
        path = self.path / name
        size = store.size(path) if store.is_remote(path) else 0
        return node_cache.open_table(path, self.attributes["checksums"].get(name, ""), size)

    def __reduce__(self):
        return type(self), (self.path,)


def open_token_bank(path: str | Path) -> TokenBank:
    """Opens a token bank to read.

    Raises:
      UserError: nothing there, no token bank, an unfinished one, one of another version or with
        another vocabulary of that name.
    """
    path, mend = (
        Path(path),
        "Make one with `python -m phenomjax.prepare sequences --source FILES --out NAME.zarr`.",
    )
    shown = store.url(path)
    if not store.is_dir(path):
        raise UserError(f"There is no bank at {shown}.{store.beside(path)} {mend}")
    if store.is_dir(path / zarr_files.UNFINISHED):
        raise UserError(
            f"The bank {shown} is not finished: its preparation was interrupted, or still runs. Run"
            " the same `python -m phenomjax.prepare sequences` command again; it continues where"
            " it stopped."
        )
    entry = zarr_files.read_entry(path)
    if entry.get("format") != FORMAT:
        what = f"a bank of format {entry['format']}" if "format" in entry else "a folder"
        raise UserError(
            f"{shown} is {what}, not a token bank; found there: {store.listing(path)}. {mend}"
        )
    if entry.get("version") not in (VERSION, TABLES_VERSION):
        raise UserError(
            f"The bank {path} has format version {entry.get('version')}, this phenomjax reads"
            f" versions up to {TABLES_VERSION}. Prepare it again from its source files, or install"
            " the phenomjax that wrote it."
        )
    bank = TokenBank(path)
    current = vocabulary(bank.vocabulary.name)
    if bank.vocabulary != current:
        raise UserError(
            f"The bank {path} was made with version {bank.vocabulary.version} of the {current.name}"
            f" vocabulary, and this phenomjax has version {current.version}: its ids mean other"
            " tokens. Prepare it again, or install the phenomjax that wrote it."
        )
    return bank


def write_description(
    path: Path,
    words: Vocabulary,
    boundary: str,
    splits: Mapping[str, Sequence[int]],
    options: Mapping[str, object],
    checksums: Mapping[str, str],
    tables: Sequence[Mapping[str, object]] = (),
) -> None:
    """Writes the group's zarr.json, the last file of a bank.

    Args:
      path: the bank.
      words, boundary, splits, options: of it.
      checksums: of all other files, {name: sha256}.
      tables: of the metadata, {"file": name, "rows": number} each, where there are several.
    """
    entry = {
        "format": FORMAT,
        "version": TABLES_VERSION if len(tables) > 1 else VERSION,
        **({"tables": list(tables)} if len(tables) > 1 else {}),
        "vocabulary": {"name": words.name, "version": words.version, "tokens": list(words.tokens)},
        "boundary": boundary,
        "splits": {name: list(map(int, span)) for name, span in splits.items()},
        "options": dict(options),
        "checksums": dict(checksums),
    }
    zarr_files.write_group(path, entry)


def write_token_bank(
    path: str | Path,
    splits: Mapping[str, Iterable[tuple[str, str]]],
    *,
    alphabet: str = "protein",
    boundary: str = "eos",
    options: Mapping[str, object] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> TokenBank:
    """Writes a whole bank from sequences in memory (simulators, tests); big jobs go through
    `phenomjax.prepare sequences`.

    Args:
      path: the folder, `NAME.zarr`.
      splits: {"train": [(id, sequence), …], "validation": …}; splits that are missing are empty.
      alphabet: a name in vocabulary.ALPHABETS.
      boundary: a name in BOUNDARIES.
      options: more to record.
    """
    path, words = Path(path), vocabulary(alphabet)
    before, after = (np.array(ids, np.uint8) for ids in BOUNDARIES[boundary])
    tokens, offsets = (
        FlatWriter(path / "tokens", "uint8", chunk_bytes),
        FlatWriter(path / "offsets", "int64", chunk_bytes),
    )
    offsets.write(np.zeros(1, np.int64))
    spans: dict[str, tuple[int, int]] = {}
    rows: list[dict] = []
    for split in SPLITS:
        first = len(rows)
        for name, text in splits.get(split, ()):
            ids = words.encode(text)
            tokens.write(np.concatenate([before, ids, after]))
            offsets.write(np.array([tokens.size]))
            rows.append({"id": name, "length": len(ids), "description": "", "source": ""})
        spans[split] = (first, len(rows))
    checksums = {**tokens.finish("token"), **offsets.finish("sequence")}
    checksums["metadata.parquet"] = write_metadata(
        path, pa.Table.from_pylist(rows, METADATA_SCHEMA)
    )
    write_description(path, words, boundary, spans, options or {}, checksums)
    return open_token_bank(path)


def table_name(number: int) -> str:
    """The file of a table of the metadata."""
    return f"metadata-{number}.parquet" if number else "metadata.parquet"


def write_metadata(path: Path, table: pa.Table) -> str:
    """Writes metadata.parquet, whole or not at all; returns its sha256."""
    with files.replacing(path / "metadata.parquet") as partial:
        pq.write_table(table, partial, compression="zstd")
    return files.sha256(path / "metadata.parquet")


def damaged_files(path: str | Path) -> list[str]:
    """Names of the files of a bank that are missing or whose sha256 is not the recorded one."""
    bad = []
    for name, checksum in zarr_files.read_entry(Path(path))["checksums"].items():
        file = Path(path) / name
        if not store.is_file(file):
            bad.append(f"{name} (missing)")
        elif store.sha256(file) != checksum:
            bad.append(f"{name} (checksum differs)")
    return bad

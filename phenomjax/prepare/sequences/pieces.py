"""The first pass of `prepare sequences`: pieces of the source files to tokens, names and hashes in
the work folder.

A piece is the records that begin in one range of PIECE_BYTES of the (decompressed) file, so pieces
do not depend on who works on them or in what order. WORK/pieces/SOURCE.PIECE/ is renamed into place
when it is whole:

    tokens          uint8, all kept records with their boundary tokens
    records.arrow   name, description, length, split of each
    hashes          int64 [buckets + 1] bounds, uint64 [records, 2] hashes by bucket,
                    uint32 [records] which record each is
    rejected.arrow  rejected records, if there are any
    strangers.arrow  records that are in no cluster, if splits go by clusters
    summary.json    counts
"""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from phenomjax.data import store
from phenomjax.data.sequences import compiled
from phenomjax.data.sequences.bank import CHUNK_BYTES
from phenomjax.data.sequences.encode import Block, Encoder
from phenomjax.data.sequences.records import Record
from phenomjax.data.sequences.sources import SequenceFile
from phenomjax.data.sequences.streams import Damaged, Fasta, Recoded, Stream, Trouble
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.engine.units import Note, Unit
from phenomjax.prepare.sequences.clusters import ClusterTable
from phenomjax.system import files

PIECE_BYTES, BLOCK_BYTES = 2**27, 2**22
SHELF_PIECES = 64  # neighbours whose hashes are merged
TABLE_ROWS = 2**26  # of the metadata; a bank with more records has several tables
HASH = -1  # in the place of a piece's number: the sha256 of the file is asked for
RECORDS = 2**14  # records that are no FASTA a block
STOP = "stop"  # a file of this name in the work folder ends the work after the pieces in hand
REJECTED_SCHEMA = pa.schema(
    [
        (name, pa.int64() if name == "offset" else pa.string())
        for name in ("file", "id", "offset", "reason", "detail")
    ]
)

LEFT_OUT_SCHEMA = pa.schema([(name, pa.string()) for name in ("file", "id", "reason")])
STRANGERS_SCHEMA = pa.schema([("file", pa.string()), ("id", pa.string())])


@dataclass(frozen=True)
class PieceSettings:
    """What all tasks need to know; all of it is in the bank but `work` and the sizes."""

    work: Path
    alphabet: str
    rare: str
    boundary: str
    min_length: int
    max_length: int | None
    max_ambiguous: float
    column: tuple[str, ...]
    name: str | None
    validation: float
    test: float
    bucket_bits: int
    keep_duplicates: bool
    clusters: bool
    gaps: str = "reject"
    nucleotides: bool = False
    chunk_bytes: int = CHUNK_BYTES
    piece_bytes: int = PIECE_BYTES
    block_bytes: int = BLOCK_BYTES
    shelf_pieces: int = SHELF_PIECES
    table_rows: int = TABLE_ROWS

    def encoder(self) -> Encoder:
        """The encoder of these settings."""
        return Encoder(
            self.alphabet,
            self.rare,
            self.boundary,
            self.min_length,
            self.max_length,
            self.max_ambiguous,
            self.gaps,
            self.nucleotides,
        )

    def piece(self, source: int, number: int) -> Path:
        """The folder of a piece."""
        return self.work / "pieces" / f"{source:06d}.{number:06d}"

    def position(self, source: SequenceFile) -> Path:
        """A file that says how many bytes of such a source were read, for the progress."""
        return self.work / "positions" / f"{source.number:06d}"


def assign_splits(hashes: np.ndarray, validation: float, test: float) -> np.ndarray:
    """uint8 [n]: 0 train, 1 validation, 2 test, a pure function of each hash: what is added to the
    data moves nothing.
    """
    place = (hashes[:, 0] >> np.uint64(11)) * 2.0**-53
    return np.where(place < test, 2, np.where(place < test + validation, 1, 0)).astype(np.uint8)


class Piece:
    """Writes one piece.

    Args:
      settings: of the job.
      source: the file.
      number: of the piece.
    """

    def __init__(self, settings: PieceSettings, source: SequenceFile, number: int):
        self._settings, self._source = settings, source
        self._final = settings.piece(source.number, number)
        # of this process alone: on a cluster another one may make the same piece now
        mine = f"{files.PARTIAL}{socket.gethostname()}-{os.getpid()}-{self._final.name}"
        self._folder = self._final.with_name(mine)
        files.remove(self._folder)  # of an attempt that failed
        self._folder.mkdir(parents=True)
        self._tokens = (self._folder / "tokens").open("wb")
        self._rejected: pa.ipc.RecordBatchFileWriter | None = None
        self._blocks: list[tuple] = []
        self._counts, self._bad = np.zeros(compiled.OUTCOMES, np.int64), 0
        self._x = vocabulary(settings.alphabet).ids["X"] if settings.alphabet == "protein" else None
        self._as_x = 0
        self._table = ClusterTable(settings.work / "clusters") if settings.clusters else None
        self._strangers: list[pa.Table] = []

    def add(self, block: Block) -> None:
        """Adds the records of a block."""
        self._tokens.write(block.tokens.data)
        self._counts += block.counts
        self._as_x += 0 if self._x is None else int(np.count_nonzero(block.tokens == self._x))
        self.reject(block.troubles)
        if not len(block.lengths):
            return
        hashes = block.hashes
        if self._table:
            found = self._table.representatives(block.names)
            hashes = found.hashes
            if found.strangers.any():
                names = block.names.filter(pa.array(found.strangers))
                files_of = pa.repeat(store.url(self._source.path), len(names))
                self._strangers.append(pa.table([files_of, names], schema=STRANGERS_SCHEMA))
        splits = assign_splits(hashes, self._settings.validation, self._settings.test)
        self._blocks.append((block.names, block.descriptions, block.lengths, splits, block.hashes))

    def reject(self, troubles: list[Trouble]) -> None:
        """Adds rejected records."""
        if not troubles:
            return
        if self._rejected is None:
            self._rejected = pa.ipc.new_file(self._folder / "rejected.arrow", REJECTED_SCHEMA)
        rows = [
            {
                "file": store.url(self._source.path),
                "id": t.name,
                "offset": t.offset,
                "reason": t.reason,
                "detail": t.detail,
            }
            for t in troubles
        ]
        self._rejected.write_table(pa.Table.from_pylist(rows, REJECTED_SCHEMA))
        self._bad += len(troubles)

    def finish(self) -> None:
        """Writes what is left and renames the folder."""
        self._tokens.close()
        if self._rejected:
            self._rejected.close()
        columns: list[Any] = list(zip(*self._blocks, strict=True)) or [()] * 5
        lengths, splits = (
            np.concatenate([np.zeros(0, t), *c])
            for c, t in zip(columns[2:4], (np.int32, np.uint8), strict=True)
        )
        hashes = np.concatenate([np.zeros((0, 2), np.uint64), *columns[4]])
        table = pa.table(
            {
                "id": pa.chunked_array(columns[0], pa.string()),
                "description": pa.chunked_array(columns[1], pa.string()),
                "length": lengths,
                "split": splits,
            }
        )
        with pa.ipc.new_file(self._folder / "records.arrow", table.schema) as file:
            file.write_table(table)
        order, bounds = (
            np.empty(len(hashes), np.int64),
            np.empty(2**self._settings.bucket_bits + 1, np.int64),
        )
        compiled.order_by_bucket(hashes, self._settings.bucket_bits, bounds, order)
        with (self._folder / "hashes").open("wb") as out:
            for array in (bounds, hashes[order], order.astype(np.uint32)):
                out.write(array.tobytes())
        if self._strangers:
            with pa.ipc.new_file(self._folder / "strangers.arrow", STRANGERS_SCHEMA) as file:
                file.write_table(pa.concat_tables(self._strangers))
        summary = {
            "records": len(lengths),
            "rejected": self._bad,
            "strangers": sum(table.num_rows for table in self._strangers),
            "as_x": self._as_x,
            "counts": self._counts.tolist(),
        }
        (self._folder / "summary.json").write_text(json.dumps(summary))
        try:
            os.replace(self._folder, self._final)
        except OSError:
            if not self._final.is_dir():
                raise
            files.remove(self._folder)  # another process was quicker, with the same bytes


def unit_of(source: SequenceFile, number: int) -> Unit[tuple[SequenceFile, int]]:
    """A piece; or, of a source that is read from its beginning, all of them."""
    name = f"piece-{source.number}-{number}" if source.divided else f"file-{source.number}"
    return Unit(name, (source, number))


def scan(settings: PieceSettings, work: Path, task: tuple[SequenceFile, int]) -> Note | None:
    """Makes one piece, or all pieces of a source that is read from its beginning; those that are
    there are left as they are. Or reads a file for its sha256 (a unit function).

    Returns:
      How many pieces, None where the stop file ended it early; or the sha256.
    """
    source, number = task
    if number == HASH:
        return {"sha256": store.sha256(source.path)}
    if not source.divided:
        with source.open() as stream:
            pieces = _scan_fasta if source.kind == "fasta" else _scan_records
            count = pieces(settings, source, stream)
        if count:
            settings.position(source).unlink(missing_ok=True)
        return {"pieces": count} if count else None
    if settings.piece(source.number, number).is_dir():  # killed before it was committed
        return {"pieces": 1}
    first = number * settings.piece_bytes
    offset = max(first - 1, 0)  # the line end before the first record is seen
    with source.open(offset) as stream:
        fasta = Fasta(stream, offset, min(settings.block_bytes, max(2 * source.length, 2**12)))
        encoder, piece = settings.encoder(), Piece(settings, source, number)
        for start, stop in fasta.blocks(first + settings.piece_bytes):
            piece.add(encoder.fasta(fasta, start, stop))
            piece.reject(_take(fasta))
        piece.reject(_take(fasta))
        piece.finish()
    return {"pieces": 1}


def _take(fasta: Fasta) -> list[Trouble]:
    found, fasta.troubles = fasta.troubles, []
    return found


def _scan_fasta(settings: PieceSettings, source: SequenceFile, stream: Stream | Recoded) -> int:
    """All pieces of a compressed FASTA file; returns how many, 0 if it was stopped."""
    fasta, encoder, number = Fasta(stream, 0, settings.block_bytes), settings.encoder(), 0
    while True:
        there = settings.piece(source.number, number).is_dir()
        piece = None if there else Piece(settings, source, number)
        for start, stop in fasta.blocks((number + 1) * settings.piece_bytes):
            if piece:
                piece.add(encoder.fasta(fasta, start, stop))
        troubles = _take(fasta)
        if piece:
            piece.reject(troubles)
            piece.finish()
        number += 1
        settings.position(source).write_text(str(stream.raw))
        if fasta.finished:
            return number
        if (settings.work / STOP).exists():
            return 0


def _scan_records(settings: PieceSettings, source: SequenceFile, stream: Stream | Recoded) -> int:
    """All pieces of a file that is no FASTA; returns how many, 0 if it was stopped."""
    encoder, number, bytes_held = settings.encoder(), 0, 0
    held: list[Record] = []
    piece = None if settings.piece(source.number, 0).is_dir() else Piece(settings, source, 0)

    def flush() -> None:
        nonlocal bytes_held
        if piece and held:
            piece.add(encoder.records(held))
        held.clear()
        bytes_held = 0

    words = settings.alphabet == "bytes"
    found = source.records(stream, settings.column, settings.name, words)
    try:
        for record in found:
            while record.offset >= (number + 1) * settings.piece_bytes:
                flush()
                if piece:
                    piece.finish()
                number += 1
                settings.position(source).write_text(str(stream.raw))
                if (settings.work / STOP).exists():
                    return 0
                piece = (
                    None
                    if settings.piece(source.number, number).is_dir()
                    else Piece(settings, source, number)
                )
            held.append(record)
            bytes_held += len(record.data)
            if len(held) == RECORDS or bytes_held > settings.block_bytes:
                flush()
    except Damaged as error:
        flush()
        if piece:
            piece.reject(
                [Trouble(error.offset, "truncated", f"{error}; what was readable before is kept")]
            )
    flush()
    if piece:
        piece.finish()
    return number + 1

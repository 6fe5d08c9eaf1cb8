"""The second pass of `prepare sequences`: duplicates out, and the pieces into the files of the
bank.

Every step writes files that are renamed into place when they are whole, and takes those that are
there as done. The order of the bank is split, source, piece, place in the file; of equal sequences
the first one in that order of files is kept.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data.sequences import compiled
from phenomjax.data.sequences.bank import (
    BOUNDARIES,
    METADATA_SCHEMA,
    SPLITS,
    FlatWriter,
    write_flat_description,
)
from phenomjax.data.sequences.sources import SequenceFile
from phenomjax.prepare.sequences.pieces import REJECTED_SCHEMA, PieceSettings

DROPPED = 255  # a record that is not in the bank
ROW_GROUP = 2**17
WINDOW = 2**20


class PieceList(NamedTuple):
    """All pieces of a job, in order.

    Attributes:
      settings: of the job.
      sources: the files.
      pieces: the folder of each piece.
      owners: the number of the source of each piece.
    """

    settings: PieceSettings
    sources: list[SequenceFile]
    pieces: list[Path]
    owners: list[int]


def read_lengths(piece: Path) -> np.ndarray:
    """int32 [records]: lengths of a piece's records without boundary tokens."""
    return read_records(piece)["length"].combine_chunks().to_numpy()


def read_records(piece: Path) -> pa.Table:
    """The records of a piece, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(piece / "records.arrow"))).read_all()


def read_wanted(piece: Path) -> np.ndarray:
    """uint8 [records]: the split of each record, or DROPPED."""
    chosen = piece / "chosen"  # written by the clustering, where there is one
    return np.fromfile(chosen if chosen.is_file() else piece / "wanted", np.uint8)


def find_duplicates(plan: PieceList, bucket: int) -> int:
    """Finds all records of a bucket of hashes that stand a second time; returns the number of the
    bucket.

    WORK/duplicates/BUCKET is int64 bounds [pieces + 1] and uint32 numbers of the duplicates, piece
    by piece.
    """
    target = plan.settings.work / "duplicates" / f"{bucket:06d}"
    if target.is_file():
        return bucket
    buckets = 2**plan.settings.bucket_bits
    hashes, numbers = [], []
    for piece in plan.pieces:
        with (piece / "hashes").open("rb") as file:
            ends = np.fromfile(file, np.int64, 2, offset=8 * bucket)
            size = os.fstat(file.fileno()).st_size
            records = (size - 8 * (buckets + 1)) // 20
            count = int(ends[1] - ends[0])
            file.seek(8 * (buckets + 1) + 16 * int(ends[0]))
            hashes.append(np.fromfile(file, np.uint64, 2 * count).reshape(count, 2))
            file.seek(8 * (buckets + 1) + 16 * records + 4 * int(ends[0]))
            numbers.append(np.fromfile(file, np.uint32, count))
    together = np.concatenate(hashes)
    new = compiled.first_of_each(
        together, np.zeros(1 << max(1, (2 * len(together)).bit_length()), np.int32)
    )
    bounds, place, parts = np.zeros(len(plan.pieces) + 1, np.int64), 0, []
    for i, part in enumerate(numbers):
        parts.append(part[new[place : place + len(part)] == 0])
        place += len(part)
        bounds[i + 1] = bounds[i] + len(parts[-1])
    write_arrays(target, bounds, *parts)
    return bucket


def mark_wanted(plan: PieceList, index: int) -> int:
    """Writes which records of a piece are wanted in which split; returns the piece."""
    piece = plan.pieces[index]
    if (piece / "wanted").is_file():
        return index
    wanted = read_records(piece)["split"].combine_chunks().to_numpy().copy()
    if not plan.settings.keep_duplicates:
        for bucket in range(2**plan.settings.bucket_bits):
            with (plan.settings.work / "duplicates" / f"{bucket:06d}").open("rb") as file:
                start, stop = map(int, np.fromfile(file, np.int64, 2, offset=8 * index))
                file.seek(8 * (len(plan.pieces) + 1) + 4 * start)
                wanted[np.fromfile(file, np.uint32, stop - start)] = DROPPED
    write_arrays(piece / "wanted", wanted)
    return index


def write_arrays(target: Path, *arrays: np.ndarray) -> None:
    """Writes arrays one after the other into a file, whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    with partial.open("wb") as file:
        for array in arrays:
            file.write(array.tobytes())
    os.replace(partial, target)


class BankLayout(NamedTuple):
    """Where the records of each split and piece come to lie.

    Attributes:
      records, tokens: int64 [splits * pieces + 1], the first record and token of each split and
        piece, in order; last, the total.
    """

    records: np.ndarray
    tokens: np.ndarray


def make_layout(plan: PieceList) -> BankLayout:
    """Counts what is wanted of each piece."""
    extra = sum(map(len, BOUNDARIES[plan.settings.boundary]))
    records, tokens = (np.zeros((len(SPLITS), len(plan.pieces)), np.int64) for _ in range(2))
    for index, piece in enumerate(plan.pieces):
        wanted, lengths = read_wanted(piece), read_lengths(piece)
        records[:, index] = np.bincount(wanted, minlength=256)[: len(SPLITS)]
        tokens[:, index] = (
            np.bincount(wanted, lengths, minlength=256)[: len(SPLITS)] + extra * records[:, index]
        )
    return BankLayout(
        *(np.concatenate([[0], counts.ravel().cumsum()]) for counts in (records, tokens))
    )


def write_part(
    plan: PieceList, layout: BankLayout, task: tuple[str, int]
) -> tuple[str, dict[str, str]]:
    """Writes one of the bank's files into WORK/bank; tasks are those of `parts`.

    Returns:
      what the task was, and {file: sha256}.
    """
    kind, number = task
    bank = plan.settings.work / "bank"
    if kind == "tokens":
        return kind, _write_tokens(plan, layout, bank / "tokens" / f"c.{number}", number)
    if kind == "offsets":
        return kind, _write_offsets(plan, layout, bank / "offsets")
    target = bank / f"{kind}.parquet"
    if not target.is_file():
        partial = target.with_name(target.name + ".partial")
        (_write_metadata if kind == "metadata" else _write_rejected)(plan, partial)
        os.replace(partial, target)
    return kind, {target.name: _digest(target)} if kind == "metadata" else {}


def parts(plan: PieceList, layout: BankLayout) -> list[tuple[str, int]]:
    """The tasks of write_part, the long ones first."""
    chunks = max(1, -(-int(layout.tokens[-1]) // plan.settings.chunk_bytes))
    return [
        ("metadata", 0),
        ("offsets", 0),
        ("rejected", 0),
        *(("tokens", number) for number in range(chunks)),
    ]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_tokens(plan: PieceList, layout: BankLayout, target: Path, number: int) -> dict[str, str]:
    total = int(layout.tokens[-1])
    chunk = min(plan.settings.chunk_bytes, max(total, 1))
    described = (
        write_flat_description(target.parent, total, np.dtype("uint8"), chunk, "token")
        if number == 0
        else {}
    )
    if target.is_file():
        return described | {f"tokens/{target.name}": _digest(target)}
    digest, filled, partial = hashlib.sha256(), 0, target.with_name(target.name + ".partial")
    with partial.open("wb", buffering=0) as file:
        for part in _tokens(plan, layout, number * chunk, min((number + 1) * chunk, total)):
            digest.update(part.data)
            file.write(part.data)
            filled += len(part)
        padding = bytes(chunk - filled)
        digest.update(padding)
        file.write(padding)
    os.replace(partial, target)
    return described | {f"tokens/{target.name}": digest.hexdigest()}


def _tokens(plan: PieceList, layout: BankLayout, start: int, stop: int) -> Iterator[np.ndarray]:
    """The bank's tokens [start:stop] in parts; each is valid until the next one. Parts are small
    enough for the cache.
    """
    extra = np.int32(sum(map(len, BOUNDARIES[plan.settings.boundary])))
    window, out = np.empty(WINDOW, np.uint8), np.empty(WINDOW, np.uint8)
    first = int(np.searchsorted(layout.tokens, start, side="right")) - 1
    for place in range(first, len(layout.tokens) - 1):
        if layout.tokens[place] >= stop:
            return
        if layout.tokens[place] == layout.tokens[place + 1]:
            continue
        split, index = divmod(place, len(plan.pieces))
        piece = plan.pieces[index]
        sizes, wanted = read_lengths(piece) + extra, read_wanted(piece)
        ends = sizes.cumsum(dtype=np.int64)  # of each record in the piece
        # and in the bank
        found = np.where(wanted == split, sizes, 0).cumsum(dtype=np.int64) + layout.tokens[place]
        i, last = (int(np.searchsorted(found, edge, side="right")) for edge in (start, stop - 1))
        last = min(last + 1, len(sizes))
        with (piece / "tokens").open("rb", buffering=0) as file:
            while i < last:
                begin = int(ends[i] - sizes[i])
                j = min(max(int(np.searchsorted(ends, begin + WINDOW, side="right")), i + 1), last)
                size = int(ends[j - 1]) - begin
                if size > len(window):  # one record that is longer
                    window, out = np.empty(size, np.uint8), np.empty(size, np.uint8)
                file.seek(begin)
                file.readinto(window[:size].data)
                count = compiled.pack(window[:size], sizes[i:j], wanted[i:j], split, out)
                base = int(found[j - 1]) - count
                if count:
                    yield out[max(start - base, 0) : min(stop - base, count)]
                i = j


def _write_offsets(plan: PieceList, layout: BankLayout, folder: Path) -> dict[str, str]:
    writer = FlatWriter(folder, "int64", plan.settings.chunk_bytes)
    extra = sum(map(len, BOUNDARIES[plan.settings.boundary]))
    writer.write(np.zeros(1, np.int64))
    last = 0
    for split, piece in itertools.product(range(len(SPLITS)), plan.pieces):
        ends = (
            read_lengths(piece)[read_wanted(piece) == split].astype(np.int64) + extra
        ).cumsum() + last
        if len(ends):
            writer.write(ends)
            last = int(ends[-1])
    return writer.finish("sequence")


def _metadata(plan: PieceList) -> Iterator[pa.Table]:
    for split in range(len(SPLITS)):
        for piece, owner in zip(plan.pieces, plan.owners, strict=True):
            table = read_records(piece).filter(pa.array(read_wanted(piece) == split))
            if table.num_rows:
                source = pa.repeat(plan.sources[owner].name, table.num_rows)
                yield table.select(["id", "length", "description"]).append_column("source", source)


def _write_metadata(plan: PieceList, target: Path) -> None:
    # Ids and descriptions are all different: a dictionary or the smallest and largest of them cost
    # time and say nothing.
    options = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": ["source"],
        "write_statistics": False,
    }
    with pq.ParquetWriter(target, METADATA_SCHEMA, **options) as writer:
        held: list[pa.Table] = []
        for table in _metadata(plan):
            held.append(table)
            if sum(part.num_rows for part in held) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(held), ROW_GROUP)
                held = []
        if held:
            writer.write_table(pa.concat_tables(held), ROW_GROUP)


def _write_rejected(plan: PieceList, target: Path) -> None:
    with pq.ParquetWriter(target, REJECTED_SCHEMA) as writer:
        for piece in plan.pieces:
            if (piece / "rejected.arrow").is_file():
                writer.write_table(
                    pa.ipc.open_file(pa.memory_map(str(piece / "rejected.arrow"))).read_all()
                )


def summaries(plan: PieceList) -> tuple[dict[str, int], list[int]]:
    """The counts of all pieces, added up; and those of `compiled`'s outcomes."""
    total = {"records": 0, "rejected": 0, "strangers": 0}
    counts = np.zeros(compiled.OUTCOMES, np.int64)
    for piece in plan.pieces:
        found = json.loads((piece / "summary.json").read_text())
        counts += found.pop("counts")
        total = {name: total[name] + found[name] for name in total}
    return total, counts.tolist()

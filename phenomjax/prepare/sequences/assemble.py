"""The second pass of `prepare sequences`: duplicates out, and the pieces into the bank's files.

Every step is of units (phenomjax.engine). The order of the bank is split, source, piece, place in
the file; of equal sequences the first one in that order of files is kept.
"""

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int32, Int64, UInt8

from phenomjax.data.sequences import compiled
from phenomjax.data.sequences.bank import (
    BOUNDARIES,
    METADATA_SCHEMA,
    SPLITS,
    FlatWriter,
    write_flat_description,
)
from phenomjax.data.sequences.sources import SequenceFile
from phenomjax.engine.units import Note, Notes, Unit
from phenomjax.prepare.sequences.clusters import hash_strings
from phenomjax.prepare.sequences.pieces import (
    LEFT_OUT_SCHEMA,
    REJECTED_SCHEMA,
    STRANGERS_SCHEMA,
    PieceSettings,
    unit_of,
)
from phenomjax.system import files

DROPPED = 255  # a record that is not in the bank
# Lists of records, of which those that have rows go into the bank: what the pieces call them, and
# what they are.
LISTS = {
    "rejected": ("rejected.arrow", REJECTED_SCHEMA),
    "in_no_cluster": ("strangers.arrow", STRANGERS_SCHEMA),
    "left_out": ("wanted", LEFT_OUT_SCHEMA),
}
ROW_GROUP = 2**17
WINDOW = 2**20
MOST_IDS = 2**25  # among which equal ones are counted: the memory that a piece takes too


@dataclass(frozen=True)
class PieceList:
    """All pieces of a job, in order, once they are there; pickles as the two that tell them.

    Attributes:
      settings: of the job.
      sources: the files.
    """

    settings: PieceSettings
    sources: tuple[SequenceFile, ...]

    def count(self, source: SequenceFile) -> int:
        """Pieces of a source; of one that is read from its beginning, what its note says."""
        if source.divided:
            return max(1, -(-source.size // self.settings.piece_bytes))
        return int(Notes(self.settings.work).read(unit_of(source, 0).name)["pieces"])

    @functools.cached_property
    def pieces(self) -> list[Path]:
        """The folder of each piece."""
        return [
            self.settings.piece(source.number, number)
            for source in self.sources
            for number in range(self.count(source))
        ]

    @functools.cached_property
    def owners(self) -> list[int]:
        """The number of the source of each piece."""
        return [source.number for source in self.sources for _ in range(self.count(source))]

    def __reduce__(self) -> tuple[type["PieceList"], tuple[object, ...]]:
        return type(self), (self.settings, self.sources)


def read_lengths(piece: Path) -> Int32[np.ndarray, "records"]:
    """int32 [records]: lengths of a piece's records without boundary tokens."""
    return read_records(piece)["length"].combine_chunks().to_numpy()


def read_records(piece: Path) -> pa.Table:
    """The records of a piece, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(piece / "records.arrow"))).read_all()


def read_wanted(piece: Path) -> UInt8[np.ndarray, "records"]:
    """uint8 [records]: the split of each record, or DROPPED."""
    chosen = piece / "chosen"  # written by the clustering, where there is one
    return np.fromfile(chosen if chosen.is_file() else piece / "wanted", np.uint8)


def find_duplicates(plan: PieceList, work: Path, bucket: int) -> Note:
    """Finds all records of a bucket of hashes that stand a second time (a unit function).

    WORK/duplicates/BUCKET is int64 bounds [pieces + 1] and uint32 numbers of the duplicates, piece
    by piece.
    """
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
    write_arrays(work / "duplicates" / f"{bucket:06d}", bounds, *parts)
    return {}


def mark_wanted(plan: PieceList, work: Path, index: int) -> Note:
    """Writes which records of a piece are wanted in which split (a unit function)."""
    piece = plan.pieces[index]
    wanted = read_records(piece)["split"].combine_chunks().to_numpy().copy()
    if not plan.settings.keep_duplicates:
        for bucket in range(2**plan.settings.bucket_bits):
            with (work / "duplicates" / f"{bucket:06d}").open("rb") as file:
                start, stop = map(int, np.fromfile(file, np.int64, 2, offset=8 * index))
                file.seek(8 * (len(plan.pieces) + 1) + 4 * start)
                wanted[np.fromfile(file, np.uint32, stop - start)] = DROPPED
    write_arrays(piece / "wanted", wanted)
    return {}


def write_arrays(target: Path, *arrays: np.ndarray) -> None:
    """Writes arrays one after the other into a file, whole or not at all."""
    with files.replacing(target, shared=True) as partial, partial.open("wb") as file:
        for array in arrays:
            file.write(array.tobytes())


class BankLayout(NamedTuple):
    """Where the records of each split and piece come to lie.

    Attributes:
      records, tokens: int64 [splits * pieces + 1], the first record and token of each split and
        piece, in order; last, the total.
    """

    records: Int64[np.ndarray, "places_and_end"]
    tokens: Int64[np.ndarray, "places_and_end"]

    def write(self, work: Path) -> None:
        """Writes it into the work folder, for those who write parts."""
        write_arrays(work / "layout", self.records, self.tokens)

    @classmethod
    def read(cls, work: Path) -> "BankLayout":
        """What `write` wrote."""
        records, tokens = np.fromfile(work / "layout", np.int64).reshape(2, -1)
        return cls(records, tokens)


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


def write_part(plan: PieceList, work: Path, task: tuple[str, int]) -> Note:
    """Writes one of the bank's files into WORK/bank; tasks are those of `parts` (a unit function).

    Returns:
      {file: sha256} of those that the bank records.
    """
    kind, number = task
    bank, layout = work / "bank", BankLayout.read(work)
    if kind == "tokens":
        made = _write_tokens(plan, layout, bank / "tokens" / f"c.{number}", number)
    elif kind == "offsets":
        made = _write_offsets(plan, bank / "offsets")
    else:
        target = bank / f"{kind}.parquet"
        with files.replacing(target, shared=True) as partial:
            if kind == "metadata":
                repeated = _write_metadata(plan, partial)
            elif kind == "left_out":
                _write_left_out(plan, partial)
            else:
                _write_list(plan, kind, partial)
        if kind == "metadata":
            return {"checksums": {target.name: files.sha256(target)}, "repeated_ids": repeated}
        made = {}
    return {"checksums": made}


def parts(plan: PieceList, layout: BankLayout) -> Iterator[Unit[tuple[str, int]]]:
    """The units of write_part, the long ones first."""
    chunks = max(1, -(-int(layout.tokens[-1]) // plan.settings.chunk_bytes))
    for kind in ("metadata", "offsets", *LISTS):
        yield Unit(f"write-{kind}", (kind, 0))
    for number in range(chunks):
        yield Unit(f"write-tokens-{number}", ("tokens", number))


def _write_tokens(plan: PieceList, layout: BankLayout, target: Path, number: int) -> dict[str, str]:
    total = int(layout.tokens[-1])
    chunk = min(plan.settings.chunk_bytes, max(total, 1))
    described = (
        write_flat_description(target.parent, total, np.dtype("uint8"), chunk, "token")
        if number == 0
        else {}
    )
    digest, filled = hashlib.sha256(), 0
    with (
        files.replacing(target, shared=True) as partial,
        partial.open("wb", buffering=0) as file,
    ):
        for part in _tokens(plan, layout, number * chunk, min((number + 1) * chunk, total)):
            digest.update(part.data)
            file.write(part.data)
            filled += len(part)
        padding = bytes(chunk - filled)
        digest.update(padding)
        file.write(padding)
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


def _write_offsets(plan: PieceList, folder: Path) -> dict[str, str]:
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


def _write_metadata(plan: PieceList, target: Path) -> int:
    """Writes the table of the records; returns how many have an id that another one has too."""
    # Ids and descriptions are all different: a dictionary or the smallest and largest of them cost
    # time and say nothing.
    options = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": ["source"],
        "write_statistics": False,
    }
    hashes: list[np.ndarray] = []
    with pq.ParquetWriter(target, METADATA_SCHEMA, **options) as writer:
        held: list[pa.Table] = []
        for table in _metadata(plan):
            if sum(map(len, hashes)) < MOST_IDS:
                hashes.append(hash_strings(table["id"].combine_chunks())[:, 0])
            held.append(table)
            if sum(part.num_rows for part in held) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(held), ROW_GROUP)
                held = []
        if held:
            writer.write_table(pa.concat_tables(held), ROW_GROUP)
    ids = np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes]))
    same = ids[1:] == ids[:-1]
    return int((np.append(same, False) | np.append(False, same)).sum()) if len(ids) else 0


def _write_list(plan: PieceList, kind: str, target: Path) -> None:
    name, schema = LISTS[kind]
    with pq.ParquetWriter(target, schema) as writer:
        for piece in plan.pieces:
            if (piece / name).is_file():
                writer.write_table(pa.ipc.open_file(pa.memory_map(str(piece / name))).read_all())


def _write_left_out(plan: PieceList, target: Path) -> None:
    """Records that stand in the bank already, or for which another of their cluster does."""
    with pq.ParquetWriter(target, LEFT_OUT_SCHEMA) as writer:
        for piece, owner in zip(plan.pieces, plan.owners, strict=True):
            out = read_wanted(piece) == DROPPED
            if not out.any():
                continue
            clustered = np.fromfile(piece / "wanted", np.uint8)[out] != DROPPED
            reasons = np.where(clustered, "in_other_cluster", "duplicate")
            source = pa.repeat(plan.sources[owner].name, len(reasons))
            ids = read_records(piece).filter(pa.array(out))["id"]
            columns = [source, ids, pa.array(reasons, pa.string())]
            writer.write_table(pa.table(columns, schema=LEFT_OUT_SCHEMA))


def summaries(plan: PieceList) -> tuple[dict[str, int], list[int]]:
    """The counts of all pieces, added up; and those of `compiled`'s outcomes."""
    total = {"records": 0, "rejected": 0, "strangers": 0, "as_x": 0}
    counts = np.zeros(compiled.OUTCOMES, np.int64)
    for piece in plan.pieces:
        found = json.loads((piece / "summary.json").read_text())
        counts += found.pop("counts")
        total = {name: total[name] + found.get(name, 0) for name in total}
    return total, counts.tolist()

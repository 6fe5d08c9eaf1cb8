"""Equal sequences found by their hashes, in three steps of units: neighbouring pieces are merged
bucket by bucket into one file (of more than SHELF_PIECES pieces), each bucket of all shelves is
looked through, and what it found is marked in the pieces of each shelf.

A bucket opens every shelf, and a shelf every bucket: without shelves 10 TB would be 75,000 pieces
x 4,096 buckets = 307 million opens, twice; so it is 5 million, twice (`count_opens`).
"""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from phenomjax.data.sequences import compiled
from phenomjax.data.sequences.bank import BOUNDARIES, SPLITS
from phenomjax.engine.units import Note
from phenomjax.prepare.sequences.pieces import PieceSettings
from phenomjax.prepare.sequences.plan import (
    DROPPED,
    PieceList,
    read_lengths,
    read_records,
    write_arrays,
)
from phenomjax.system import files

MERGED_ROWS = 2**22  # hashes that are merged at a time: 200 MB
EXAMPLES = 3


class Hashes:
    """An open file of hashes by bucket: int64 bounds [buckets + 1], uint64 hashes [rows, 2], uint32
    [rows] which record each is.

    Args:
      file: the file.
      bits: of the hash, which tell the bucket.
    """

    def __init__(self, file: BinaryIO, bits: int):
        self._file, self._start = file, 8 * (2**bits + 1)
        self.rows = (os.fstat(file.fileno()).st_size - self._start) // 20

    def bounds(self, first: int, count: int) -> np.ndarray:
        """int64 [count]: where buckets begin, from the first one on."""
        self._file.seek(8 * first)
        return np.fromfile(self._file, np.int64, count)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Hashes and records of rows [start:stop]."""
        count = stop - start
        self._file.seek(self._start + 16 * start)
        hashes = np.fromfile(self._file, np.uint64, 2 * count).reshape(count, 2)
        self._file.seek(self._start + 16 * self.rows + 4 * start)
        return hashes, np.fromfile(self._file, np.uint32, count)


def _shelf(plan: PieceList, shelf: int) -> Path:
    """The file of hashes of a shelf."""
    work = plan.settings.work
    return work / "merged" / f"{shelf:06d}" if plan.merged else plan.folder(shelf) / "hashes"


def _found(plan: PieceList, bucket: int) -> Path:
    """The file of what a bucket found."""
    name = "merged-duplicates" if plan.merged else "duplicates"
    return plan.settings.work / name / f"{bucket:06d}"


def merge(settings: PieceSettings, work: Path, shelf: int) -> Note:
    """Merges the hashes of the pieces of a shelf, bucket by bucket (a unit function).

    Records are numbered through the shelf: 64 pieces of 2^26 records at the most fit into uint32.
    """
    plan, bits = PieceList.read(settings), settings.bucket_bits
    buckets = 2**bits
    target = _shelf(plan, shelf)
    with ExitStack() as stack:
        parts = [
            Hashes(stack.enter_context((plan.folder(index) / "hashes").open("rb")), bits)
            for index in plan.on_shelf(shelf)
        ]
        firsts = np.cumsum([0, *(part.rows for part in parts)])
        bounds = np.stack([part.bounds(0, buckets + 1) for part in parts])
        together = bounds.sum(axis=0)
        partial = stack.enter_context(files.replacing(target, shared=True))
        out = stack.enter_context(partial.open("wb"))
        out.write(together.tobytes())
        first = 0
        while first < buckets:  # at a time as many buckets as fit into memory
            last = int(np.searchsorted(together, together[first] + MERGED_ROWS, side="right")) - 1
            last = min(max(last, first + 1), buckets)
            read = [
                part.read(int(bound[first]), int(bound[last]))
                for part, bound in zip(parts, bounds, strict=True)
            ]
            hashes = np.concatenate([one for one, _ in read])
            numbers = np.concatenate(
                [one + np.uint32(start) for (_, one), start in zip(read, firsts[:-1], strict=True)]
            )
            order = np.empty(len(hashes), np.int64)
            compiled.order_by_bucket(hashes, bits, np.empty(buckets + 1, np.int64), order)
            out.seek(8 * (buckets + 1) + 16 * int(together[first]))
            out.write(hashes[order].tobytes())
            out.seek(8 * (buckets + 1) + 16 * int(together[-1]) + 4 * int(together[first]))
            out.write(numbers[order].tobytes())
            first = last
    return {}


def find(settings: PieceSettings, work: Path, bucket: int) -> Note:
    """Finds all records of a bucket of hashes that stand a second time (a unit function).

    The file of it is int64 bounds [shelves + 1] and uint32 numbers of the duplicates, shelf by
    shelf.
    """
    plan = PieceList.read(settings)
    hashes, numbers = [], []
    for shelf in range(plan.shelves):
        with _shelf(plan, shelf).open("rb") as file:
            one = Hashes(file, settings.bucket_bits)
            start, stop = map(int, one.bounds(bucket, 2))
            some = one.read(start, stop)
            hashes.append(some[0])
            numbers.append(some[1])
    together = np.concatenate(hashes)
    new = compiled.first_of_each(
        together, np.zeros(1 << max(1, (2 * len(together)).bit_length()), np.int32)
    )
    bounds, place, parts = np.zeros(plan.shelves + 1, np.int64), 0, []
    for i, part in enumerate(numbers):
        parts.append(part[new[place : place + len(part)] == 0])
        place += len(part)
        bounds[i + 1] = bounds[i] + len(parts[-1])
    write_arrays(_found(plan, bucket), bounds, *parts)
    return {}


def mark(settings: PieceSettings, work: Path, shelf: int) -> Note:
    """Writes which records of the pieces of a shelf are wanted in which split (a unit function).

    Returns:
      What the driver must know of these pieces: records and tokens [pieces][splits], their
      summaries added up, and some ids of records that are in no cluster.
    """
    plan = PieceList.read(settings)
    pieces = [plan.folder(index) for index in plan.on_shelf(shelf)]
    parts = [read_records(piece)["split"].combine_chunks().to_numpy() for piece in pieces]
    wanted = np.concatenate([np.zeros(0, np.uint8), *parts])
    if not settings.keep_duplicates:
        for bucket in range(2**settings.bucket_bits):
            with _found(plan, bucket).open("rb") as file:
                start, stop = map(int, np.fromfile(file, np.int64, 2, offset=8 * shelf))
                file.seek(8 * (plan.shelves + 1) + 4 * start)
                wanted[np.fromfile(file, np.uint32, stop - start)] = DROPPED
    counts, first = [], 0
    for piece, part in zip(pieces, parts, strict=True):
        own = wanted[first : first + len(part)]
        write_arrays(piece / "wanted", own)
        counts.append(count_wanted(settings, piece, own))
        first += len(part)
    records, tokens = np.stack(counts, axis=1).tolist()
    return {"records": records, "tokens": tokens, **summarise(pieces)}


def count_wanted(settings: PieceSettings, piece: Path, wanted: np.ndarray) -> np.ndarray:
    """int64 [2, splits]: records and tokens of a piece that go into each split."""
    extra = sum(map(len, BOUNDARIES[settings.boundary]))
    lengths = read_lengths(piece)
    records = np.bincount(wanted, minlength=256)[: len(SPLITS)]
    tokens = np.bincount(wanted, lengths, minlength=256)[: len(SPLITS)] + extra * records
    return np.stack([records, tokens]).astype(np.int64)


def summarise(pieces: list[Path]) -> Note:
    """The summaries of pieces added up, and the first ids that are in no cluster."""
    total = {"records": 0, "rejected": 0, "strangers": 0, "as_x": 0}
    outcomes, examples = np.zeros(compiled.OUTCOMES, np.int64), list[str]()
    for piece in pieces:
        found = json.loads((piece / "summary.json").read_text())
        outcomes += found.pop("counts")
        total = {name: total[name] + found.get(name, 0) for name in total}
        if found.get("strangers") and len(examples) < EXAMPLES:
            ids = pa.ipc.open_file(piece / "strangers.arrow").read_all()["id"]
            examples += ids[: EXAMPLES - len(examples)].to_pylist()
    return {"summary": total, "outcomes": outcomes.tolist(), "strangers": examples}


def count_opens(pieces: int, buckets: int, shelf_pieces: int) -> int:
    """How many files of hashes and of duplicates are opened in all three steps."""
    if pieces <= shelf_pieces:
        return buckets * (pieces + 1) + pieces * buckets
    shelves = -(-pieces // shelf_pieces)
    return (pieces + shelves) + buckets * (shelves + 1) + shelves * buckets

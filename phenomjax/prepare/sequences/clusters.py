"""Clusters of similar sequences: a table of MMseqs2 that splits go by, and MMseqs2 itself to reduce
redundancy.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from phenomjax.data.sequences import compiled
from phenomjax.system import files
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
ROW = np.dtype([("member", "<u8"), ("representative", "<u8")])
BUCKET_BYTES, MOST_BITS = 2**27, 9  # of the text of a bucket; open files while the table is divided


def hash_strings(strings: pa.Array) -> np.ndarray:
    """uint64 [n, 2]: the hash of each text."""
    offsets = np.frombuffer(strings.buffers()[1], np.int32)[
        strings.offset : strings.offset + len(strings) + 1
    ]
    data = strings.buffers()[2]
    text = (
        np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    )
    starts, stops = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    scratch = np.zeros(
        (int((stops - starts).max(initial=0)) + compiled.PADDING + 7) // 8, np.uint64
    ).view(np.uint8)
    hashes = np.empty((len(strings), 2), np.uint64)
    compiled.hash_spans(text, starts, stops, scratch, hashes)
    return hashes


def build_table(path: Path, folder: Path) -> None:
    """Turns a cluster file (representative TAB member, one line a member) into sorted tables of
    hashes, at constant memory.

    Args:
      path: NAME_cluster.tsv of MMseqs2; .gz and .zst too.
      folder: the tables' place; made whole or not at all.

    Raises:
      UserError: no such file, or it has not two columns.
    """
    if folder.is_dir():
        return
    bits = min(MOST_BITS, max(0, (path.stat().st_size // BUCKET_BYTES).bit_length()))
    with files.replacing(folder) as partial:
        partial.mkdir()
        _divide(path, partial, bits)


def _divide(path: Path, folder: Path, bits: int) -> None:
    unsorted = [(folder / f"{bucket}.unsorted").open("wb") for bucket in range(2**bits)]
    for names in read_clusters(path):
        members, representatives = hash_strings(names.column(1)), hash_strings(names.column(0))
        rows = np.empty(len(members), ROW)
        rows["member"], rows["representative"] = members[:, 0], representatives[:, 0]
        for bucket, picked in _by_bucket(members, bits):
            unsorted[bucket].write(rows[picked].tobytes())
    for bucket, file in enumerate(unsorted):
        file.close()
        rows = np.fromfile(file.name, ROW)
        rows[np.argsort(rows["member"], kind="stable")].tofile(folder / str(bucket))
        os.unlink(file.name)


def _by_bucket(hashes: np.ndarray, bits: int) -> list[tuple[int, np.ndarray]]:
    order, bounds = np.empty(len(hashes), np.int64), np.empty(2**bits + 1, np.int64)
    compiled.order_by_bucket(hashes, bits, bounds, order)
    return [
        (bucket, order[bounds[bucket] : bounds[bucket + 1]])
        for bucket in np.flatnonzero(np.diff(bounds)).tolist()
    ]


def read_clusters(path: Path) -> Iterator[pa.RecordBatch]:
    """Batches of two columns, representative and member."""
    if not path.is_file():
        raise UserError(
            f"There is no cluster file {path}. Name the ..._cluster.tsv that MMseqs2 wrote."
        )
    parse = pa.csv.ParseOptions(delimiter="\t", quote_char=False)
    convert = pa.csv.ConvertOptions(
        column_types={"representative": pa.string(), "member": pa.string()},
        strings_can_be_null=False,
    )
    names = pa.csv.ReadOptions(column_names=["representative", "member"], block_size=2**22)
    try:
        yield from pa.csv.open_csv(path, names, parse, convert)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path} is not a cluster file of MMseqs2: every line must be a representative, a tab,"
            f" and a member ({error}). `mmseqs easy-linclust in.fasta NAME tmp` writes one,"
            " NAME_cluster.tsv."
        ) from None


class ClusterTable:
    """What build_table made. Memory: the pages that are looked at."""

    def __init__(self, folder: Path):
        self._folder, self._bits = folder, (len(os.listdir(folder)) - 1).bit_length()

    def representatives(self, names: pa.Array) -> tuple[np.ndarray, int]:
        """The hash of each sequence's representative.

        Args:
          names: ids of sequences.

        Returns:
          uint64 [n, 2], of which [:, 0] is the hash; and how many ids are in no cluster. Those
          stand for themselves.
        """
        hashes, strangers = hash_strings(names), 0
        found = hashes.copy()
        for bucket, picked in _by_bucket(hashes, self._bits):
            rows = (
                np.memmap(self._folder / str(bucket), ROW, "r")
                if (self._folder / str(bucket)).stat().st_size
                else np.zeros(0, ROW)
            )
            wanted = hashes[picked, 0]
            places = np.searchsorted(rows["member"], wanted).clip(max=max(len(rows) - 1, 0))
            there = rows["member"][places] == wanted if len(rows) else np.zeros(len(wanted), bool)
            found[picked[there], 0] = rows["representative"][places[there]] if len(rows) else 0
            strangers += int((~there).sum())
        return found, strangers

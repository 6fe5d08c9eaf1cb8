"""Clusters of similar sequences that splits go by: tables of MMseqs2, and those of CD-HIT and
UCLUST, looked up by id as MMseqs2 writes ids.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from phenomjax.data.sequences import compiled, mmseqs
from phenomjax.prepare.sequences.cluster_files import read_clusters
from phenomjax.system import files
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
ROW = np.dtype([("member", "<u8"), ("representative", "<u8")])
BUCKET_BYTES, MOST_BITS = 2**27, 9  # of the text of a bucket; open files while the table is divided
EXAMPLES = 3


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
    """Turns a cluster file into sorted tables of hashes, at constant memory.

    Args:
      path: NAME_cluster.tsv of MMseqs2, .clstr of CD-HIT, .uc of UCLUST; compressed ones too.
      folder: the tables' place; made whole or not at all.

    Raises:
      UserError: no such file, it is no cluster file, or it puts one id into two clusters.
    """
    if folder.is_dir():
        return
    bits = min(MOST_BITS, max(0, (path.stat().st_size // BUCKET_BYTES).bit_length()))
    with files.replacing(folder) as partial:
        partial.mkdir()
        _divide(path, partial, bits)


def _divide(path: Path, folder: Path, bits: int) -> None:
    unsorted = [(folder / f"{bucket}.unsorted").open("wb") for bucket in range(2**bits)]
    examples: list[str] = []
    for names in read_clusters(path):
        members, representatives = hash_strings(names.column(1)), hash_strings(names.column(0))
        examples += names.column(1)[: EXAMPLES - len(examples)].to_pylist()
        rows = np.empty(len(members), ROW)
        rows["member"], rows["representative"] = members[:, 0], representatives[:, 0]
        for bucket, picked in _by_bucket(members, bits):
            unsorted[bucket].write(rows[picked].tobytes())
    different = 0
    for bucket, file in enumerate(unsorted):
        file.close()
        rows = np.fromfile(file.name, ROW)
        rows = rows[np.lexsort((rows["representative"], rows["member"]))]
        again = rows["member"][1:] == rows["member"][:-1]
        twice = again & (rows["representative"][1:] != rows["representative"][:-1])
        if twice.any():
            raise _in_two_clusters(path, rows["member"][1:][twice][0])
        different += len(rows) - int(again.sum())
        rows.tofile(folder / str(bucket))
        os.unlink(file.name)
    files.write_json(folder / "ids.json", {"different": different, "examples": examples})


def _in_two_clusters(path: Path, member: np.uint64) -> UserError:
    """The error, with the text of the id, which is read again from the file."""
    name, found = "", list[str]()
    for names in read_clusters(path):
        for row in np.flatnonzero(hash_strings(names.column(1))[:, 0] == member).tolist():
            name = names.column(1)[row].as_py()
            found.append(names.column(0)[row].as_py())
    first, second = list(dict.fromkeys(found))[:2]
    return UserError(
        f"{path} puts '{name}' into two clusters, those of '{first}' and '{second}', so a split"
        " cannot go by it. MMseqs2 shortens ids (sp|Q1|N becomes Q1, pdb|1ABC|A becomes 1ABC), and"
        " different sequences may have become one: give them ids that stay different, and cluster"
        " again. Or the columns are the wrong way round: the representative comes first."
    )


def _by_bucket(hashes: np.ndarray, bits: int) -> list[tuple[int, np.ndarray]]:
    order, bounds = np.empty(len(hashes), np.int64), np.empty(2**bits + 1, np.int64)
    compiled.order_by_bucket(hashes, bits, bounds, order)
    return [
        (bucket, order[bounds[bucket] : bounds[bucket + 1]])
        for bucket in np.flatnonzero(np.diff(bounds)).tolist()
    ]


class Found(NamedTuple):
    """What a cluster table says of some sequences.

    Attributes:
      hashes: uint64 [n, 2], of which [:, 0] is the hash of each one's representative. An id that is
        in no cluster stands for itself.
      strangers: bool [n], which ids are in no cluster.
    """

    hashes: np.ndarray
    strangers: np.ndarray


class ClusterTable:
    """What build_table made. Memory: the pages that are looked at.

    Attributes:
      ids: how many different ids the file has.
      examples: the first of them.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._bits = (sum(name.isdigit() for name in os.listdir(folder)) - 1).bit_length()
        described = files.read_json(folder / "ids.json")
        self.ids, self.examples = int(described["different"]), list(described["examples"])

    def representatives(self, names: pa.Array) -> Found:
        """The hash of each sequence's representative: of its id as it stands, else as MMseqs2
        shortens it.

        Args:
          names: ids of sequences.
        """
        hashes = hash_strings(names)
        found, there = self._look_up(hashes)
        missing = np.flatnonzero(~there)
        if len(missing):
            shortened = mmseqs.shorten(names.take(pa.array(missing)))
            hits, known = self._look_up(hash_strings(shortened))
            known &= np.array(shortened) != ""  # an id of which nothing is left
            found[missing[known]], there[missing[known]] = hits[known], True
        result = hashes.copy()
        result[there, 0] = found[there]
        return Found(result, ~there)

    def _look_up(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The representative of each hash, uint64 [n], and whether there is one, bool [n]."""
        found, there = np.zeros(len(hashes), np.uint64), np.zeros(len(hashes), bool)
        for bucket, picked in _by_bucket(hashes, self._bits):
            path = self._folder / str(bucket)
            if not path.stat().st_size:
                continue
            rows, wanted = np.memmap(path, ROW, "r"), hashes[picked, 0]
            places = np.searchsorted(rows["member"], wanted).clip(max=len(rows) - 1)
            there[picked] = rows["member"][places] == wanted
            found[picked] = rows["representative"][places]
        return found, there


@dataclass(frozen=True)
class ClusterFile:
    """The file that splits go by.

    Attributes:
      path: of it.
      least: the share of the sequences that must be in a cluster.
      least_of_ids: the share of the file's own ids that must be those of sequences.
    """

    path: Path
    least: float
    least_of_ids: float


def check_share(
    file: ClusterFile, table: ClusterTable, known: int, strangers: int, examples: list[str]
) -> None:
    """Looks whether a cluster file is the one of these sequences.

    Args:
      file: the file.
      table: of it.
      known, strangers: how many sequences are in a cluster, and how many are not.
      examples: ids of the latter.

    Raises:
      UserError: fewer are.
    """
    path, share = file.path, known / max(1, known + strangers)
    of_ids = known / max(1, table.ids)
    if known and share >= file.least and of_ids < file.least_of_ids:
        raise UserError(
            f"{path} is perhaps the cluster file of other sequences: it has {table.ids:,} ids, such"
            f" as {', '.join(table.examples)}, and only {known:,} sequences ({of_ids:.1%}) are"
            " among them. If it is of a larger set, of which these sequences are a part, say so"
            " with `min_cluster_ids` 0."
        )
    if known and share >= file.least:
        return
    whole = "..._cluster.tsv that MMseqs2 wrote of the same files"
    if path.name.removesuffix(".gz").endswith(".clstr"):  # CD-HIT cuts ids after 20 letters
        whole = ".clstr of the same files, made with -d 0: cd-hit cuts ids otherwise"
    raise UserError(
        f"{path} is hardly the cluster file of these sequences: {known:,} of {known + strangers:,}"
        f" ({share:.1%}) are in one of its clusters, and the others would be spread over the splits"
        f" one by one. Ids of sequences that it lacks: {', '.join(examples)}; ids that it has:"
        f" {', '.join(table.examples)}. Name the {whole}"
        + (
            f", or say that so few are meant with `min_clustered` {int(share * 1000) / 1000:g}."
            if known
            else "."
        )
    )

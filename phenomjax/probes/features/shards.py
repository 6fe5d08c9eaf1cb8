"""Features on disk: a folder of immutable shards, each with the digests of its sequences, and one
that is being written.

FOLDER/about.json             what computed them
FOLDER/lock                   held by the process that computes
FOLDER/SHARD/features         [rows, dim] little-endian numbers end to end, of the sequences in the
                              order of the index
FOLDER/SHARD/index.json       {"dim", "dtype", "rows": of each sequence, "sequences": sha256 of the
                              tokens of each, "sha256": of `features`};
                              SHARD = the first letters of its own digest
FOLDER/partial/               the one being written: its index, and in done.json how many of its
                              sequences are whole

A shard appears under its name by a rename, when it is whole. A process that is killed leaves
`partial`; the next one makes a shard of the sequences in it that are whole. So nothing that was
computed is computed again, whatever is asked for next. That is why these are no units of work
(`engine`): a unit is named before it is done, and a shard is whatever was missing and came to be.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Num

from phenomjax.probes.features.table import FeatureStore
from phenomjax.system import files, locks

log = logging.getLogger("phenomjax")
PARTIAL = "partial"


class Shard(NamedTuple):
    """A whole shard.

    Attributes:
      path: of its folder.
      places: {sha256 of a sequence: its number}.
      firsts: the first row of each, and the end.
      features: memory-mapped.
    """

    path: Path
    places: dict[str, int]
    firsts: Int[np.ndarray, " sequences_and_end"]
    features: Num[np.ndarray, "rows dim"]


class Shards:
    """The shards of one folder.

    Args:
      folder: made when it is needed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[str, Shard] = {}

    def read(self) -> tuple[list[Shard], list[Path]]:
        """All shards that are whole, and those that are damaged.

        Each is verified once by this object.
        """
        damaged = []
        for path in sorted(self.folder.glob("*/index.json")):
            name = path.parent.name
            if name == PARTIAL or name in self._known:
                continue
            try:
                self._known[name] = _open(path.parent)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning(
                    "%s is damaged (%s): its sequences are computed again", path.parent, error
                )
                damaged.append(path.parent)
        return list(self._known.values()), damaged

    def hold(self, stopped: Callable[[], bool]) -> contextlib.AbstractContextManager[bool]:
        """Keeps other processes from computing for this folder, when they have finished; gives
        False if `stopped` meanwhile.
        """

        def busy() -> None:
            log.info("waiting for another process that computes features in %s", self.folder)

        return locks.wait_for(self.folder, stopped, busy)

    def seal(self) -> None:
        """Makes a shard of what is whole in `partial`, and removes the rest; to be called while the
        folder is held.
        """
        partial = self.folder / PARTIAL
        if not partial.is_dir():
            return
        try:
            index, whole = (
                json.loads((partial / name).read_text()) for name in ("index.json", "done.json")
            )
        except (OSError, ValueError):  # it was killed before the first batches were on the disk
            whole = 0
        if whole:
            index = index | {"rows": index["rows"][:whole], "sequences": index["sequences"][:whole]}
            os.truncate(
                partial / "features",
                sum(index["rows"]) * index["dim"] * np.dtype(index["dtype"]).itemsize,
            )
            index["sha256"] = files.sha256(partial / "features", flush=True)
            files.write_text(partial / "index.json", json.dumps(index), flush=True)
            target = self.folder / _name(partial)
            files.remove(target)  # a damaged one with the same content
            os.replace(partial, target)
            (target / "done.json").unlink()
        else:
            files.remove(partial)

    def remove(self, damaged: list[Path]) -> None:
        """Deletes damaged shards; to be called while the folder is held."""
        for path in damaged:
            files.remove(path)

    def describe(self, about: Mapping[str, object]) -> None:
        """Writes what computes the features, for people."""
        if not (self.folder / "about.json").is_file():
            files.write_json(self.folder / "about.json", about, flush=True)


class ShardWriter(FeatureStore):
    """The shard that is being written.

    Args:
      folder: of the shards, held by this process; there is no `partial` in it.
      sequences: sha256 of each, in the order of work.
      rows: of each: its residues, or 1.
      dim, dtype: of the features.
      stops: how many sequences are whole after each batch.
    """

    def __init__(
        self,
        folder: Path,
        sequences: list[str],
        rows: Int[np.ndarray, " sequences"],
        dim: int,
        dtype: str,
        stops: list[int],
    ):
        self._path, self._stops, self._whole = folder / PARTIAL, stops, 0
        self._next, self._ahead = 0, set[int]()
        self._path.mkdir()
        place, stored = self._path / "features", np.dtype(dtype).newbyteorder("<")
        shape = int(rows.sum()), dim
        with place.open("wb") as file:
            # a full disk says so here; mapped memory would end the process
            os.posix_fallocate(file.fileno(), 0, shape[0] * dim * stored.itemsize)
        self._mapped = np.memmap(place, stored, "r+", shape=shape)
        super().__init__(self._mapped, rows)
        index = {"dim": dim, "dtype": dtype, "rows": rows.tolist(), "sequences": sequences}
        (self._path / "index.json").write_text(json.dumps(index))

    def wrote(self, batch: int) -> None:
        """Its sequences are whole, and count when those of all batches before it are."""
        self._ahead.add(batch)
        while self._next in self._ahead:
            self._ahead.remove(self._next)
            self._whole, self._next = self._stops[self._next], self._next + 1

    def save(self) -> None:
        """Makes sure that the batches that were written will not be lost."""
        self._mapped.flush()
        if self._whole:
            files.write_text(self._path / "done.json", json.dumps(self._whole), flush=True)


def _name(path: Path) -> str:
    return files.sha256(path / "index.json")[:16]


def _open(path: Path) -> Shard:
    """Verifies and maps a shard.

    Raises:
      ValueError: says what is wrong with it.
    """
    if _name(path) != path.name:
        raise ValueError("its index has another digest than its name says")
    index = json.loads((path / "index.json").read_text())
    shape = (sum(index["rows"]), index["dim"])
    if files.sha256(path / "features") != index["sha256"]:
        raise ValueError("the content of its file features has another digest than its index says")
    features = np.memmap(
        path / "features", np.dtype(index["dtype"]).newbyteorder("<"), "r", shape=shape
    )
    firsts = np.concatenate([[0], np.cumsum(index["rows"])]).astype(np.int64)
    return Shard(path, {name: i for i, name in enumerate(index["sequences"])}, firsts, features)

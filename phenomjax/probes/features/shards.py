"""Features on disk: a folder of immutable shards, each with the digests of its sequences, and one
that is being written.

FOLDER/about.json             what computed them
FOLDER/lock                   held by the process that computes
FOLDER/SHARD/features         [rows, dim] little-endian numbers end to end, of the sequences in the order of the index
FOLDER/SHARD/index.json       {"dim", "dtype", "rows": of each sequence, "sequences": sha256 of the tokens of each, "sha256": of `features`};
                              SHARD = the first letters of its own digest
FOLDER/partial/               the one being written: its index, and in done.json how many of its sequences are whole

A shard appears under its name by a rename, when it is whole. A process that is killed leaves
`partial`; the next one makes a shard of the sequences in it that are whole. So nothing that was
computed is computed again, whatever is asked for next.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from phenomjax.system import files

log = logging.getLogger("phenomjax")
PARTIAL = "partial"


class Shard(NamedTuple):
    """A whole shard.

    Attributes:
      path: of its folder.
      places: {sha256 of a sequence: its number}.
      firsts: int64 [sequences], the first row of each.
      features: [rows, dim], memory-mapped.
    """

    path: Path
    places: dict[str, int]
    firsts: np.ndarray
    features: np.ndarray


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

    @contextlib.contextmanager
    def hold(self, stopped: Callable[[], bool]) -> Iterator[bool]:
        """Keeps other processes from computing for this folder, when they have finished; yields
        False if `stopped` meanwhile.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        said = False
        with (self.folder / "lock").open("w") as file:
            while not stopped():
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not said:
                        log.info(
                            "waiting for another process that computes features in %s", self.folder
                        )
                    said = True
                    time.sleep(0.1)
                    continue
                yield True
                return
            yield False

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
            shutil.rmtree(target, ignore_errors=True)  # a damaged one with the same content
            os.replace(partial, target)
            (target / "done.json").unlink()
        else:
            shutil.rmtree(partial)

    def remove(self, damaged: list[Path]) -> None:
        """Deletes damaged shards; to be called while the folder is held."""
        for path in damaged:
            shutil.rmtree(path, ignore_errors=True)

    def describe(self, about: dict[str, Any]) -> None:
        """Writes what computes the features, for people."""
        if not (self.folder / "about.json").is_file():
            files.write_text(
                self.folder / "about.json", json.dumps(about, indent=2) + "\n", flush=True
            )


class Writer:
    """The shard that is being written, as `sequence_job.embed` fills it.

    Args:
      folder: of the shards, held by this process; there is no `partial` in it.
      sequences: sha256 of each, in the order of work.
      rows: of each: its residues, or 1.
      dim, dtype: of the features.
      stops: how many sequences are whole after each batch.
    """

    done = 0

    def __init__(
        self,
        folder: Path,
        sequences: list[str],
        rows: np.ndarray,
        dim: int,
        dtype: str,
        stops: list[int],
    ):
        self._path, self._stops = folder / PARTIAL, stops
        self._starts = np.concatenate([[0], np.cumsum(rows)])
        self._path.mkdir()
        stored, shape = np.dtype(dtype).newbyteorder("<"), (int(self._starts[-1]), dim)
        with (self._path / "features").open(
            "wb"
        ) as file:  # a full disk says so here; mapped memory would end the process
            os.posix_fallocate(file.fileno(), 0, shape[0] * dim * stored.itemsize)
        self._features = np.memmap(self._path / "features", stored, "r+", shape=shape)
        index = {"dim": dim, "dtype": dtype, "rows": rows.tolist(), "sequences": sequences}
        (self._path / "index.json").write_text(json.dumps(index))

    def write(self, group: int, columns: slice, start: int, values: np.ndarray) -> None:
        """Sets features of a sequence from residue `start` on.

        Raises:
          FloatingPointError: a number is infinite, or none.
        """
        if not np.isfinite(values).all():
            raise FloatingPointError
        first = self._starts[group] + start
        self._features[first : first + len(values), columns] = values

    def save(self, batches: int) -> None:
        """Makes sure that the first `batches` batches will not be lost."""
        self._features.flush()
        if batches:
            files.write_text(
                self._path / "done.json", json.dumps(self._stops[batches - 1]), flush=True
            )


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

"""The work folder of one embedding: units of a manifest, claimed by any number of processes on any
number of hosts, committed one by one.

OUT.partial/job.json            what is made, and how its work is divided; written by whoever comes first, followed by all
OUT.partial/claims/unit_K/…     who is at work on unit K (phenomjax.system.claims)
OUT.partial/ARRAY/c.K.0         the rows of unit K, one chunk of an array; written under another name, then renamed
OUT.partial/units/K.json        unit K is committed: its rejected images. Written last

A unit's bytes do not depend on who makes them, so a unit that two have made is no harm. A claim
only saves work.
"""

import contextlib
import json
import logging
import os
import shutil
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenomjax.system.claims import Claims
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.files import read_json

log = logging.getLogger("phenomjax")
BEAT_SECONDS = 5.0


class Units:
    """The work folder as one worker sees it, until `close`. One object for all of its work: it
    remembers since when others are silent.

    Args:
      work: the folder, made by `begin`.
      count: number of units.
    """

    def __init__(self, work: Path, count: int):
        self.work, self.count = work, count
        self._claims, self._lock = Claims(work / "claims"), threading.Lock()
        self._ended = threading.Event()
        self._busy: dict[int, float] = {}  # units that others had when this worker last asked
        # Workers start at different places, so that they seldom want the same unit.
        self._first = zlib.crc32(f"{socket.gethostname()} {os.getpid()}".encode()) % count

        threading.Thread(target=self._beat, daemon=True, name="beat").start()

    def close(self) -> None:
        """Gives back what is claimed."""
        self._ended.set()
        for thing in list(self._claims.mine):
            self._release(thing)

    def committed(self) -> set[int]:
        """Units that are on the disk; all of them when the folder is gone, because the result is
        made then.
        """
        try:
            return {
                int(name[:-5]) for name in os.listdir(self.work / "units") if name.endswith(".json")
            }
        except FileNotFoundError:
            return set(range(self.count))

    def available(self, stop: threading.Event) -> Iterator[int]:
        """Claims and yields units until none is left that nobody has; the next is claimed when it
        is asked for.
        """
        number = 0
        done = self.committed()
        while number < self.count and not stop.is_set():
            unit = (self._first + number) % self.count
            number += 1
            if (
                unit in done
                or time.monotonic() - self._busy.get(unit, -1e9) < BEAT_SECONDS
                or not self._take(f"unit_{unit}")
            ):
                continue
            # committed between the look and the claim
            if self._path(unit).exists() or not self.work.is_dir():
                self._release(f"unit_{unit}")
                done = self.committed()
                continue
            yield unit

    def commit(
        self, unit: int, arrays: Mapping[str, np.ndarray], rejected: list[dict[str, Any]]
    ) -> None:
        """Makes a unit permanent: its rows first, the note that they are there last.

        Raises:
          UserError: the disk is full, or fails.
        """
        try:
            for name, rows in arrays.items():
                _write(self.work / name / f"c.{unit}.0", np.ascontiguousarray(rows).tobytes())
            _write(self._path(unit), json.dumps({"rejected": rejected}).encode())
        except FileNotFoundError:
            if self.work.is_dir():
                raise
        except OSError as error:
            raise UserError(
                f"The embeddings could not be written to {self.work}: {error.strerror}. What is"
                " committed is kept: make room there, and run the same command again.",
                EXIT_FAILED,
            ) from error
        self._release(f"unit_{unit}")

    def rejected(self) -> list[dict[str, Any]]:
        """The rejected images of all units, in the order of the bank."""
        return [
            entry for unit in range(self.count) for entry in read_json(self._path(unit))["rejected"]
        ]

    def assemble(self, make: Callable[[Path], None], out: Path) -> None:
        """Makes the result in a folder of its own and gives it its name, if no other living worker
        does; removes the work folder.
        """
        if out.exists() or not self._take("result"):
            return
        partial = self.work / f"result.{socket.gethostname()}.{os.getpid()}"
        try:
            for old in self.work.glob("result.*"):
                shutil.rmtree(old)
            partial.mkdir()
            make(partial)
            os.replace(partial, out)
        except OSError as error:
            if not out.exists():  # else another, thought dead, was quicker
                raise UserError(
                    f"{out} could not be made: {error}. All units are committed in {self.work}:"
                    " mend that, and run the same command again.",
                    EXIT_FAILED,
                ) from error
        self._claims.mine.clear()
        shutil.rmtree(self.work, ignore_errors=True)

    def _path(self, unit: int) -> Path:
        return self.work / "units" / f"{unit}.json"

    def _take(self, thing: str) -> bool:
        with self._lock:
            if not self.work.is_dir():
                return False
            taken = self._claims.take(thing)
        if not taken and thing.startswith("unit_"):
            self._busy[int(thing[5:])] = time.monotonic()
        return taken

    def _release(self, thing: str) -> None:
        # the result is made, and the folder gone
        with self._lock, contextlib.suppress(FileNotFoundError):
            self._claims.release(thing)

    def _beat(self) -> None:
        """In a thread: a compilation must not look like death."""
        while not self._ended.wait(BEAT_SECONDS):
            # Where the folder is gone or its disk away, the commit will say so.
            with self._lock, contextlib.suppress(OSError):
                self._claims.beat()


def begin(work: Path, description: Mapping[str, Any], arrays: Sequence[str]) -> dict[str, Any]:
    """Makes the work folder, or joins the work there.

    Args:
      work: the folder.
      description: of `image_plan.describe`, and the layout.
      arrays: names of what units hold.

    Returns:
      The description that all workers follow: that of the first.
    """
    for name in ("units", *arrays):
        (work / name).mkdir(parents=True, exist_ok=True)
    path = work / "job.json"
    partial = path.with_name(f"job.{socket.gethostname()}.{os.getpid()}")
    partial.write_text(json.dumps(description, indent=2))
    try:
        os.link(partial, path)  # unlike a rename, it fails where there is one already
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.exists():
            os.replace(partial, path)
    partial.unlink(missing_ok=True)
    return read_json(path)


def _write(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all, even if the machine loses its power."""
    partial = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)

"""Units of work: named, with bytes that depend on nothing but the unit, committed one by one.

A unit is done by `do`: a function of a module gets the work folder and a small argument, writes its
outputs by `files.replacing(..., shared=True)`, and returns the unit's note, which commits it. So a
unit can be done anywhere that sees the folder, and one that two have done is no harm. The driver
holds no list of units: what is committed is read from the disk.
"""

import contextlib
import itertools
import os
import shutil
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from phenomjax.engine import work_folder
from phenomjax.system import files
from phenomjax.system.claims import Claims
from phenomjax.system.errors import EXIT_FAILED, UserError

BEAT_SECONDS = 5.0
REJECTED = "rejected"
# What is to be known of a unit, as JSON; under REJECTED the inputs that could not be used, a list.
Note = dict[str, Any]
Argument = TypeVar("Argument")
# None: it was stopped before the unit was whole, which stays to be done
Function = Callable[[Path, Argument], Note | None]


class Unit(NamedTuple, Generic[Argument]):
    """A unit of work.

    Attributes:
      name: of its note; a file name. Another content of the unit must give another name.
      argument: small, and can be pickled.
    """

    name: str
    argument: Argument


# What becomes of a unit that ends every process that tries it, given the reason: a note, which is
# committed, or None to leave it undone.
Aside = Callable[[Unit[Argument], str], Note | None]


class Executor(Protocol):
    """What does units: `engine.choose.executor`. The same functions run in every executor, and
    their outputs are the same bytes.
    """

    def run(
        self,
        work: Path,
        function: Function[Argument],
        units: Iterable[Unit[Argument]],
        stop: threading.Event,
        *,
        aside: Aside[Argument] | None = None,
        at_most: int | None = None,
    ) -> Iterator[tuple[str, Note]]:
        """Yields name and note of each unit that was not committed, in the order of completion.

        Args:
          work: the work folder, seen by all who do units.
          function: of a module, or a partial of one.
          units: drawn one by one.
          stop: ends the work when set, units in hand done.
          aside: of units that ended `deaths` processes; without it they are an error in the end.
          at_most: processes of this machine that are worth their start.

        Raises:
          UserError: units that ended every process that tried them, when all else is done; or of a
            function, at once.
        """
        ...


def do(work: Path, function: Function[Argument], unit: Unit[Argument]) -> tuple[str, Note] | None:
    """Does and commits a unit; None if it was stopped. What executors call, in any process."""
    note = function(work, unit.argument)
    if note is None:
        return None
    Notes(work).commit(unit.name, note)
    return unit.name, note


def commit_aside(
    notes: "Notes", aside: Aside[Argument], unit: Unit[Argument], reason: str
) -> tuple[str, Note] | None:
    """Commits what `aside` says of a unit that ended its processes; None if it stays undone."""
    note = aside(unit, reason)
    if note is None:
        return None
    notes.commit(unit.name, note)
    return unit.name, note


class Notes:
    """The notes of a work folder.

    Args:
      work: the folder.
    """

    def __init__(self, work: Path):
        self.work, self.folder = work, work / "units"

    def path(self, name: str) -> Path:
        """The file of a unit's note."""
        return self.folder / f"{name}.json"

    def is_committed(self, name: str) -> bool:
        """Whether a unit is done."""
        return self.path(name).exists()

    def names(self) -> Iterator[str]:
        """Names of the committed units, in no order.

        Raises:
          FileNotFoundError: the work folder is gone, because the result is made.
        """
        if not self.folder.is_dir() and self.work.is_dir():
            return
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and not entry.name.startswith(files.PARTIAL):
                    yield entry.name.removesuffix(".json")

    def commit(self, name: str, note: Note, outputs: Mapping[str, bytes] | None = None) -> None:
        """Makes a unit permanent, also if the power is lost: its outputs first, its note last.

        Args:
          name: of the unit.
          note: what is to be known of it.
          outputs: {path in the work folder: content} of those that are not written yet.

        Raises:
          UserError: the disk is full, or fails.
        """
        try:
            for place, content in (outputs or {}).items():
                files.write_bytes(self.work / place, content, shared=True, flush=True)
            files.write_json(self.path(name), note, shared=True, flush=True)
        except OSError as error:
            if not self.work.is_dir():  # another worker has made the result meanwhile
                return
            raise UserError(
                f"The results could not be written to {self.work}: {error.strerror}. What is"
                " committed is kept: make room there, and run the same command again.",
                EXIT_FAILED,
            ) from error

    def read(self, name: str) -> Note:
        """The note of a committed unit."""
        return files.read_json(self.path(name))

    def forget(self, name: str) -> None:
        """Takes a unit back: it is to be done again."""
        self.path(name).unlink(missing_ok=True)

    def rejected(self, names: Iterable[str]) -> Iterator[Any]:
        """The rejected inputs of committed units, in the order of the names."""
        for name in names:
            yield from self.read(name).get(REJECTED, [])


class Shared:
    """The units of a job that any number of processes on any number of hosts divide among
    themselves, as one of them sees it, until `close`.

    A claim only saves work: it decides nothing about the bytes. One object for all of a worker's
    work, since it remembers how long others have been silent.

    Args:
      work: the work folder, begun.
      count: number of units; they are named "0", "1", …
    """

    def __init__(self, work: Path, count: int):
        self.work, self.count, self.notes = work, count, Notes(work)
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

    def committed(self) -> Iterator[int]:
        """Units that are on the disk, in no order; all when the result is made."""
        try:
            yield from map(int, self.notes.names())
        except FileNotFoundError:
            yield from range(self.count)

    def available(self, stop: threading.Event) -> Iterator[int]:
        """Claims and yields units until none is left that nobody has; the next is claimed when it
        is asked for.
        """
        for unit in itertools.chain(range(self._first, self.count), range(self._first)):
            if stop.is_set() or not self.work.is_dir():
                return
            if self.notes.is_committed(str(unit)) or not self._take_unit(unit):
                continue
            # committed between the look and the claim
            if self.notes.is_committed(str(unit)) or not self.work.is_dir():
                self._release(f"unit_{unit}")
                continue
            yield unit

    def rejected(self) -> Iterator[Any]:
        """The rejected inputs of all units, in their order."""
        return self.notes.rejected(map(str, range(self.count)))

    def commit(self, unit: int, note: Note, outputs: Mapping[str, bytes] | None = None) -> None:
        """Commits a unit (`Notes.commit`) and gives its claim back."""
        if self.work.is_dir():
            self.notes.commit(str(unit), note, outputs)
        self._release(f"unit_{unit}")

    def finish(self, make: Callable[[Path], None], out: Path) -> None:
        """Makes the result (`work_folder.finish`) if no other living worker does.

        Raises:
          UserError: of the disk.
        """
        if out.exists() or not self._take("result"):
            return
        try:
            work_folder.finish(self.work, make, out, shared=True)
        except OSError as error:
            if not out.exists():  # else another, thought dead, was quicker
                raise UserError(
                    f"{out} could not be made: {error}. All units are committed in {self.work}:"
                    " mend that, and run the same command again.",
                    EXIT_FAILED,
                ) from error
        self._claims.mine.clear()
        shutil.rmtree(self.work, ignore_errors=True)  # where another was quicker

    def _take_unit(self, unit: int) -> bool:
        now = time.monotonic()
        self._busy = {one: seen for one, seen in self._busy.items() if now - seen < BEAT_SECONDS}
        if unit in self._busy:
            return False
        taken = self._take(f"unit_{unit}")
        if not taken:
            self._busy[unit] = now
        return taken

    def _take(self, thing: str) -> bool:
        with self._lock:
            return self.work.is_dir() and self._claims.take(thing)

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

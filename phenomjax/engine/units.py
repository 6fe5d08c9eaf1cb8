"""Units of work: named, with bytes that depend on nothing but the unit, committed one by one.

A unit is done by `do`: a function of a module gets the work folder and a small argument, writes its
outputs by `files.replacing(..., shared=True)`, and returns the unit's note, which commits it. So a
unit can be done anywhere that sees the folder, and one that two have done is no harm. The driver
holds no list of units: what is committed is read from the disk.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError

REJECTED = "rejected"
OFTENER = "--engine_option deaths=N"  # how a unit is tried more often that ends its processes
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


@runtime_checkable
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

"""Units of work on a Dask cluster, whose scheduler and workers may die at any time.

Dask only carries bundles of units to workers. What is done is read from the notes on the disk; what
is to be done again, and what is set aside, is decided here. So nothing depends on what a scheduler
knew, and its state is small: a window of bundles, however many units there are.
"""

import collections
import contextlib
import itertools
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple

from phenomjax.engine import bundles
from phenomjax.engine.units import (
    OFTENER,
    Argument,
    Aside,
    Function,
    Note,
    Notes,
    Unit,
    commit_aside,
)
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.log import counted, duration
from phenomjax.system.processes import Toll

if TYPE_CHECKING:
    from distributed import Client, Future, KilledWorker

log = logging.getLogger("phenomjax")
BUNDLE_SECONDS = 30.0  # a scheduler bears some hundred tasks a second, whatever their length
MOST_UNITS = 500  # of a bundle
MOST_HELD = 200_000  # units of all bundles
UNREADABLE = "deserialization of the task graph"  # what Dask's scheduler says then
ALONE_SECONDS = 120.0  # without a worker until that is told


class Scheduler(NamedTuple):
    """A connection to a scheduler.

    Attributes:
      client: Dask's.
      place: what it is called.
      look: told how many workers there are; raises UserError if there never will be any.
      why: why there are none, a sentence.
    """

    client: "Client"
    place: str
    look: Callable[[int], None]
    why: Callable[[], str]


class Cluster:
    """An executor (`engine.units.Executor`), connected when the first unit is to be done, until
    `close`.

    Args:
      connect: opens the connection.
      folder: of the job, seen by all workers.
      deaths: how often a unit is tried that ends its worker.
      resource: what a task asks for of its worker; or nothing.
      every: seconds between two looks at the workers.
    """

    def __init__(
        self,
        connect: Callable[[Path], contextlib.AbstractContextManager[Scheduler]],
        folder: Path,
        deaths: int,
        resource: str = "",
        every: float = 5.0,
    ):
        self.connect, self.folder, self.deaths = connect, folder.absolute() / "engine", deaths
        self.resource, self.every = resource, every
        self._open = contextlib.ExitStack()
        self._scheduler: Scheduler | None = None
        self.workers: dict[str, int] = {}  # what each does at once, by address

    def close(self) -> None:
        """Ends the connection, and the workers that were started for it."""
        self._open.close()
        self._scheduler = None

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
        """Does what is not committed; see `Executor.run`."""
        notes = Notes(work.absolute())  # workers may be at another place
        left = (unit for unit in units if not notes.is_committed(unit.name))
        first = next(left, None)
        if first is None or stop.is_set():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._scheduler is None:
            self._token = secrets.token_hex(16)
            files.write_text(self.folder / bundles.TOKEN, self._token)
            self._scheduler = self._open.enter_context(self.connect(self.folder))
        run = _Run(self, self._scheduler, notes, function, itertools.chain([first], left), aside)
        yield from run.everything(stop)

    def terms(self) -> bundles.Terms:
        """What a worker must agree with."""
        return bundles.Terms(
            self.folder, self._token, bundles.versions(), self.resource, Path.cwd()
        )


class _Bundle(NamedTuple, Generic[Argument]):
    """Units that are with the scheduler, since when, and its future."""

    units: Sequence[Unit[Argument]]
    began: float
    future: "Future"


class _Run(Generic[Argument]):
    """One call of `Cluster.run`."""

    def __init__(
        self,
        cluster: Cluster,
        scheduler: Scheduler,
        notes: Notes,
        function: Function[Argument],
        left: Iterator[Unit[Argument]],
        aside: Aside[Argument] | None,
    ):
        self.cluster, self.scheduler, self.client = cluster, scheduler, scheduler.client
        self.notes, self.function, self.left, self.aside = notes, function, left, aside
        self.terms, self.toll = cluster.terms(), Toll[Unit[Argument]](cluster.deaths, OFTENER)
        self.name, self.numbers = f"units-{secrets.token_hex(4)}", itertools.count()
        self.held: dict[object, _Bundle[Argument]] = {}
        self.done = queue.SimpleQueue["Future"]()
        self.again = collections.deque[Unit[Argument]]()
        self.suspects = collections.deque[Unit[Argument]]()  # each in a bundle of its own
        self.late: list[tuple[float, Sequence[Unit[Argument]]]] = []  # notes do not show yet
        self.missed = collections.Counter[str]()
        self.blamed = set[str]()  # workers whose death has its suspect
        self.size = 1
        self.seen, self.told, self.look_at = time.monotonic(), 0.0, 0.0

    def everything(self, stop: threading.Event) -> Iterator[tuple[str, Note]]:
        """Does all units, or ends at `stop`."""
        try:
            self._look()
            while True:
                if stop.is_set():
                    self.terms.stop.touch()
                    if not self.cluster.workers:
                        return
                window = max(4, 2 * sum(self.cluster.workers.values()))
                while len(self.held) < window and not stop.is_set():
                    if not (units := self._next_bundle(window)):
                        break
                    self._submit(units)
                if not self.held and (stop.is_set() or not self.late):
                    break
                with contextlib.suppress(queue.Empty):
                    yield from self._settle(self.done.get(timeout=1.0), stop)
                yield from self._look_again()
                self._look()
            if not stop.is_set():
                self.toll.check()
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be gone
                self.client.cancel([bundle.future for bundle in self.held.values()], force=True)

    def _next_bundle(self, window: int) -> list[Unit[Argument]]:
        if self.suspects:
            return [self.suspects.popleft()]
        size = min(self.size, max(1, MOST_HELD // window))
        return list(itertools.islice(itertools.chain(_drained(self.again), self.left), size))

    def _submit(self, units: Sequence[Unit[Argument]]) -> None:
        # One group of tasks for all: by its size the scheduler knows to keep what no worker is
        # free for, so that a worker takes only its own bundle with it when it dies.
        try:
            future = self.client.submit(
                bundles.do_bundle,
                self.notes.work,
                self.function,
                units,
                self.terms,
                BUNDLE_SECONDS,
                key=(self.name, next(self.numbers)),
                resources={self.cluster.resource: 1} if self.cluster.resource else None,
                pure=False,
            )
        except Exception:
            self._ask_for_workers()  # the scheduler is gone
            raise
        self.held[future.key] = _Bundle(units, time.monotonic(), future)
        future.add_done_callback(self.done.put)

    def _settle(self, future: "Future", stop: threading.Event) -> Iterator[tuple[str, Note]]:
        """What became of a bundle."""
        from distributed import KilledWorker

        bundle = self.held.pop(future.key)
        error = future.exception() if future.status == "error" else None
        finished = future.status == "finished"
        future.release()
        left = yield from self._committed(bundle.units)
        if isinstance(error, KilledWorker):
            yield from self._worker_died(error, left)
        elif isinstance(error, bundles.Stopped):
            pass
        elif isinstance(error, RuntimeError) and UNREADABLE in str(error):
            raise UserError(
                f"The scheduler at {self.scheduler.place} cannot read the units: its phenomjax is"
                " another one, or it has none. Start it from the environment of this command, and"
                " run it again."
            )
        elif error is not None and not (isinstance(error, OSError) and left):
            raise error
        elif error is not None:  # a fault of one host is none of the others
            yield from self._died(left, f"{type(error).__name__}: {error}")
        elif finished and len(left) == len(bundle.units) and not stop.is_set():
            self.late.append((time.monotonic() + bundles.SEEN_SECONDS, left))
        else:
            self.again.extend(left)
            quick = time.monotonic() - bundle.began < BUNDLE_SECONDS
            if left and finished:
                self.size = max(1, len(bundle.units) - len(left))
            elif finished and quick and len(bundle.units) >= self.size:
                self.size = min(2 * self.size, MOST_UNITS)

    def _committed(
        self, units: Sequence[Unit[Argument]]
    ) -> Generator[tuple[str, Note], None, list[Unit[Argument]]]:
        """Yields units whose notes are there; returns the others."""
        left = []
        for unit in units:
            try:
                note = self.notes.read(unit.name)
            except OSError:
                left.append(unit)
                continue
            self.toll.lived(unit)
            self.missed.pop(unit.name, None)
            yield unit.name, note
        return left

    def _worker_died(
        self, error: "KilledWorker", left: list[Unit[Argument]]
    ) -> Iterator[tuple[str, Note]]:
        worker = error.last_worker
        who = worker.server_id or worker.address
        if who in self.blamed or not left:  # what waited there, or was done
            self.again.extend(left)
            return
        self.blamed.add(who)
        yield from self._died(
            left,
            f"its worker on {worker.host} died, most often since the machine ran out of memory",
            error.allowed_failures + 1,
        )

    def _died(
        self, left: list[Unit[Argument]], how: str, times: int = 1
    ) -> Iterator[tuple[str, Note]]:
        """Units are done in order: the first that is not committed is the suspect."""
        suspect, *innocent = left
        self.again.extend(innocent)
        reason = self.toll.died(suspect, how, times)
        if reason is None:
            self.suspects.append(suspect)
        elif self.aside is None:
            self.toll.lost.append(f"{suspect.name}, {reason}")
        elif done := commit_aside(self.notes, self.aside, suspect, reason):
            yield done

    def _look_again(self) -> Iterator[tuple[str, Note]]:
        """Asks for notes that did not show."""
        late, self.late = self.late, []
        for deadline, units in late:
            left = yield from self._committed(units)
            if len(left) < len(units):
                self.again.extend(left)
            elif time.monotonic() < deadline:
                self.late.append((deadline, units))
            else:
                self.missed[units[0].name] += 1
                if self.missed[units[0].name] >= self.cluster.deaths:
                    raise UserError(
                        f"Workers say that unit {units[0].name} is done, but its note does not show"
                        f" in {self.notes.folder}: the file system does not bring here what other"
                        " hosts write. What is committed is kept; mend that, and run the same"
                        " command again.",
                        EXIT_FAILED,
                    )
                self.suspects.append(units[0])
                self.again.extend(units[1:])

    def _look(self) -> None:
        """Tells who joined and who left; raises UserError if nobody ever will."""
        now, before = time.monotonic(), self.cluster.workers
        if now < self.look_at:
            return
        self.look_at = now + (self.cluster.every if before else 1.0)
        self._check_folder()
        there = self._ask_for_workers()
        if there is None:
            return
        joined, gone = len(there.keys() - before.keys()), len(before.keys() - there.keys())
        if joined or gone:
            log.info("%s (%d joined, %d left)", counted(len(there), "worker"), joined, gone)
        self.cluster.workers = there
        self.scheduler.look(len(there))
        if there:
            self.seen = self.told = now
        elif now - max(self.seen, self.told) > ALONE_SECONDS:
            self.told = now
            log.warning(
                "no workers at %s for %s; waiting. %s",
                self.scheduler.place,
                duration(now - self.seen),
                self.scheduler.why(),
            )

    def _check_folder(self) -> None:
        """Raises UserError where workers have nothing to do it for."""
        try:
            if (self.terms.folder / bundles.TOKEN).read_text() == self.terms.token:
                return
        except FileNotFoundError:
            pass
        except OSError:  # of a file system that may come back
            return
        raise UserError(
            f"{self.terms.folder.parent}, where this command works, was removed meanwhile, or"
            " another command has begun there. Run the same command again.",
            EXIT_FAILED,
        )

    def _ask_for_workers(self) -> dict[str, int] | None:
        """The workers (`Cluster.workers`); None while the connection is being mended."""
        if self.client.status in ("closing", "closed"):
            raise UserError(
                f"The scheduler at {self.scheduler.place} is gone. What is committed is kept: start"
                " the cluster, and run the same command again.",
                EXIT_STOPPED,
            )
        if self.client.status != "running":
            return None
        try:
            if not (resource := self.cluster.resource):
                return dict(self.client.nthreads())
            workers = self.client.scheduler_info()["workers"].items()
            return {
                who: int(one["resources"][resource])
                for who, one in workers
                if resource in one["resources"]
            }
        except (OSError, ValueError):
            return None


def _drained(units: collections.deque[Unit[Argument]]) -> Iterator[Unit[Argument]]:
    while units:
        yield units.popleft()

"""Spawned worker processes, and signals that stop a long job cleanly."""

import collections
import contextlib
import ctypes
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import os
import queue
import reprlib
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Generic, TypeVar

from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.log import counted

log = logging.getLogger("phenomjax")
Task = TypeVar("Task")
Result = TypeVar("Result")
DEATHS = 5  # processes that a task may end before it is set aside


@contextlib.contextmanager
def stop_on_signals(
    told: str = "finishing what is in hand, then stopping", patient: bool = False
) -> Iterator[threading.Event]:
    """Sets the yielded event at Ctrl-C or SIGTERM; a second signal ends the program at once.

    Args:
      told: what the log says at the first signal.
      patient: further signals change nothing; a scheduler may send several.
    """
    stop = threading.Event()

    def handle(number, frame):
        if stop.is_set():
            if patient:
                return
            raise KeyboardInterrupt
        log.warning("%s: %s", signal.Signals(number).name, told)
        stop.set()

    # a notebook's thread cannot set handlers
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    jobs: int,
    stop: threading.Event,
    *,
    aside: Callable[[Task, str], Result] | None = None,
    deaths: int = DEATHS,
    oftener: str = "",
) -> Iterator[Result]:
    """Yields function(task) for each task, in the order of completion; ends early, tasks in hand
    done, when `stop` is set.

    Processes are spawned, never forked: TensorStore's threads do not survive a fork. One that dies
    is replaced, and the task that it was at is tried again.

    Args:
      function: a function of a module (or a partial of one), sent to the workers. Not of the main
        module, which they do not import.
      tasks: an iterable; only a few tasks are held at a time.
      jobs: number of processes; 1 works in this one.
      stop: ends the work when set.
      aside: of a task that ended `deaths` processes, and the reason: what is yielded for it.
        Without it such tasks are an error in the end.
      deaths: how often a task is tried.
      oftener: how users have it tried more often.

    Raises:
      UserError: tasks ended every process that tried them, when all else is done.
    """
    if jobs == 1:
        for task in tasks:
            if stop.is_set():
                return
            yield function(task)
        return
    done = queue.SimpleQueue[tuple[_Worker[Task, Result], futures.Future[Result]]]()
    workers = [_Worker(function, done) for _ in range(jobs)]
    toll, again, tasks = Toll[Task](deaths, oftener), collections.deque[Task](), iter(tasks)
    began, finished = time.monotonic(), 0
    try:
        while True:
            # Who has a short task gets the next one, too; a long one would keep it from others.
            short = (time.monotonic() - began) * jobs < 0.25 * finished
            for most, worker in itertools.product(range(1, 3 if short else 2), workers):
                while len(worker.tasks) < most and not stop.is_set():
                    try:
                        task = again.popleft() if again else next(tasks)
                    except StopIteration:
                        break
                    if not worker.give(task):
                        again.append(task)
                        break
            if not any(worker.tasks for worker in workers):
                break
            worker, future = done.get()
            if future not in worker.tasks:  # of a process that was replaced
                continue
            error = future.exception()
            if not isinstance(error, BrokenProcessPool):
                task = worker.tasks.pop(future)
                finished += 1
                toll.lived(task)
                yield future.result()
                continue
            suspect, *innocent = worker.tasks.values()
            reason = toll.died(suspect, worker.bury(error))
            again.extend(innocent if reason else [suspect, *innocent])
            if reason and aside:
                yield aside(suspect, reason)
            elif reason:
                toll.lost.append(f"{_called(suspect)}, {reason}")
        toll.check()
    finally:
        for worker in workers:
            worker.pool.shutdown(cancel_futures=True)


class _Worker(Generic[Task, Result]):
    """One process, started when it gets a task.

    A pool of one: where a pool has several, the death of one takes the tasks of all.

    Attributes:
      tasks: what it has to do, the oldest first.
    """

    def __init__(
        self,
        function: Callable[[Task], Result],
        done: "queue.SimpleQueue[tuple[_Worker[Task, Result], futures.Future[Result]]]",
    ):
        self.function, self.done = function, done
        self.tasks: dict[futures.Future[Result], Task] = {}
        self.pool = self._new()

    def _new(self) -> futures.ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")
        return futures.ProcessPoolExecutor(1, spawn, initializer=_start_worker)

    def give(self, task: Task) -> bool:
        """Hands a task over; False if the process is dead, which `done` will tell."""
        try:
            with _without_main_module():
                future = self.pool.submit(self.function, task)
        except BrokenProcessPool:
            if self.tasks:
                return False
            self.pool = self._new()  # it had nothing to do when it died
            return self.give(task)
        self.tasks[future] = task
        future.add_done_callback(lambda future: self.done.put((self, future)))
        return True

    def bury(self, error: BrokenProcessPool) -> str:
        """Makes a new process, without tasks; returns how the old one died."""
        (process,) = (self.pool._processes or {}).values()
        if not multiprocessing.connection.wait([process.sentinel], timeout=5.0):
            process.kill()  # it lives, and ignores SIGTERM
        self.pool.shutdown()
        self.tasks, self.pool = {}, self._new()
        if error.__cause__ is not None:  # the pool gave it up
            why = str(error.__cause__).strip("\n'").splitlines()[-1]
            return f"what its process sent back could not be read ({why})"
        return how_it_died(process.exitcode)


def how_it_died(code: int | None) -> str:
    """What the exit code of a process says, as `multiprocessing` has it."""
    if code is None or code >= 0:
        return f"its process ended with exit code {code}"
    memory = ", most often since the machine ran out of memory" if code == -signal.SIGKILL else ""
    return f"its process was killed by {signal.Signals(-code).name}{memory}"


class Toll(Generic[Task]):
    """What tasks have cost: how many processes died at each, until it is given up.

    Args:
      deaths: how often a task is tried.
      oftener: how users have it tried more often.

    Attributes:
      lost: name and reason of each task that was given up and nobody took.
    """

    def __init__(self, deaths: int, oftener: str = ""):
        self.deaths, self.lost = deaths, list[str]()
        self._oftener = f" (more often: {oftener})" if oftener else ""
        self._died = collections.Counter[str]()
        self._given_up, self._lives = 0, False

    def lived(self, task: Task) -> None:
        """A task was done."""
        self._lives = True
        if self._died:
            self._died.pop(_called(task), None)

    def died(self, task: Task, how: str, times: int = 1) -> str | None:
        """Processes died at a task; returns the reason if it is not to be tried again.

        Raises:
          UserError: it is not the task, since processes do nothing but die.
        """
        name = _called(task)
        self._died[name] += times
        count = self._died[name]
        if count < self.deaths:
            log.warning("%s is tried again: %s", name, how)
            return None
        tried = f"tried {counted(count, 'time')}{self._oftener}: {how}"
        log.error("%s is set aside, %s", name, tried)
        del self._died[name]
        self._given_up += 1
        if self._given_up >= 10 and not self._lives:
            raise UserError(
                f"Nothing can be done here, at last not {name}: {how}. What is finished is kept."
                " Run the same command again with more memory, fewer processes, or in one process,"
                " which shows what is wrong.",
                EXIT_FAILED,
            )
        return tried

    def check(self) -> None:
        """Raises UserError if a task was given up that nobody took."""
        if self.lost:
            more = f" and {len(self.lost) - 5} more" if len(self.lost) > 5 else ""
            raise UserError(
                f"{len(self.lost)} of the units of work could not be done: "
                f"{'; '.join(self.lost[:5])}{more}. All else is finished and kept. Run the same"
                " command again with fewer processes or more memory; if that does not help, what"
                " such a unit reads is damaged in a way that ends the program: take it out.",
                EXIT_FAILED,
            )


def _called(task: object) -> str:
    """The name of a task, or what it consists of."""
    return getattr(task, "name", None) or reprlib.repr(task)


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Processes that are started meanwhile do not import the program that this process runs: it may
    be a script without a guard, and its imports (JAX) would cost each of them seconds and memory.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker() -> None:
    # Ctrl-C and SLURM signal every process; only the parent decides when the work ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's workers do not notice that their parent was killed, and would wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def core_count() -> int:
    """Cores that this process may use (macOS does not say which, so there all of them)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """What a new process does before its program starts, so that the kernel signals it when its
    parent dies (Linux).
    """
    if _libc is None:
        return None
    libc, parent = _libc, os.getpid()

    def prepare() -> None:
        libc.prctl(1, int(number))  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return prepare

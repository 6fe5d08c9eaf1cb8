"""Spawned worker processes, and signals that stop a long job cleanly."""

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from phenomjax.system.errors import EXIT_FAILED, UserError

log = logging.getLogger("phenomjax")
Task = TypeVar("Task")
Result = TypeVar("Result")


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
    function: Callable[[Task], Result], tasks: Iterable[Task], jobs: int, stop: threading.Event
) -> Iterator[Result]:
    """Yields function(task) for each task, in the order of completion; ends early, tasks in hand
    done, when `stop` is set.

    Processes are spawned, never forked: TensorStore's threads do not survive a fork.

    Args:
      function: a function of a module (or a partial of one), sent to the workers. Not of the main
        module, which they do not import.
      tasks: an iterable; only a few tasks are held at a time.
      jobs: number of processes; 1 works in this one.
      stop: ends the work when set.
    """
    if jobs == 1:
        for task in tasks:
            if stop.is_set():
                return
            yield function(task)
        return
    pool = futures.ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    running: set[futures.Future[Result]] = set()
    tasks = iter(tasks)
    try:
        while True:
            while len(running) < 3 * jobs and not stop.is_set():
                try:
                    task = next(tasks)
                except StopIteration:
                    break
                with _without_main_module():
                    running.add(pool.submit(function, task))
            if not running:
                return
            done, running = futures.wait(running, timeout=1.0, return_when=futures.FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process died, most often because the machine ran out of memory. What is"
            " finished is kept: run the same command again with fewer processes, for instance"
            f" {max(1, jobs // 2)} instead of {jobs}.",
            EXIT_FAILED,
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


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

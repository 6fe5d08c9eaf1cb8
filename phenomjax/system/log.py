"""Progress of a long job as plain log lines (a bar would fill SLURM logs): done, share, rate, time
left.
"""

import faulthandler
import io
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("phenomjax")


def duration(seconds: float) -> str:
    """Formats seconds as h:mm:ss."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class Progress:
    """Counts work and logs a line every few seconds.

    Args:
      label: what is being done, e.g. "prepare images".
      total: number of units in the whole job.
      unit: plural name of one unit of work.
      done: units that an earlier run finished; they count in the share but not in the rate.
      every_seconds: the shortest time between two lines.
    """

    def __init__(
        self, label: str, total: int, unit: str, done: int = 0, every_seconds: float = 5.0
    ):
        self.label, self.total, self.unit, self.done, self.every_seconds = (
            label,
            total,
            unit,
            done,
            every_seconds,
        )
        self.resumed, self.start = done, time.monotonic()
        self.last = self.start
        if done:
            log.info("%s: continuing, %d of %d %s were finished before", label, done, total, unit)

    def update(self, count: int = 1) -> None:
        """Adds finished units; logs at most once every `every_seconds`, and when all is done."""
        self.done += count
        now = time.monotonic()
        if now - self.last < self.every_seconds and self.done < self.total:
            return
        self.last = now
        rate = (self.done - self.resumed) / max(now - self.start, 1e-9)
        left = duration((self.total - self.done) / rate) if rate else "?"
        log.info(
            "%s: %d/%d %s (%.0f %%), %.1f %s/s, ETA %s",
            self.label,
            self.done,
            self.total,
            self.unit,
            100 * self.done / max(self.total, 1),
            rate,
            self.unit,
            left,
        )


def log_to_stderr() -> None:
    """Sends the program's log lines to stderr with the time of day; called by the front doors only."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: record.name != "phenomjax.process")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    # Orbax and JAX say much that no user can act on
    logging.getLogger("absl").setLevel(logging.ERROR)


def log_to_file(path: Path) -> None:
    """Appends warnings, errors and the few lines that every process says of itself (logger
    phenomjax.process) to a file of its own.
    """
    for handler in [
        h for h in log.handlers if isinstance(h, logging.FileHandler)
    ]:  # of a run before this one, in a notebook
        log.removeHandler(handler)
        handler.close()
    path.parent.mkdir(exist_ok=True)
    handler = logging.FileHandler(path, delay=False)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    handler.addFilter(
        lambda record: record.levelno >= logging.WARNING or record.name == "phenomjax.process"
    )
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk is told once, by the training thread
    log.addHandler(handler)
    log.getChild("process").setLevel(logging.INFO)


def dump_stacks(process: int) -> None:
    """Writes the stacks of all threads into the log file of a process, this one."""
    for handler in log.handlers:
        stream = getattr(handler, "stream", None)
        if isinstance(handler, logging.FileHandler) and isinstance(stream, io.TextIOWrapper):
            stream.write(f"\nstacks of process {process}:\n")
            stream.flush()
            faulthandler.dump_traceback(stream, all_threads=True)
            stream.flush()
            return
    faulthandler.dump_traceback(sys.stderr, all_threads=True)


class Pace:
    """Progress over all workers, as plain log lines: crops done, rate of all and of this worker,
    time left.

    Args:
      total: crops of all units.
      done: crops that were committed before.
      every_seconds: the shortest time between two lines.
    """

    def __init__(self, label: str, total: int, done: int, every_seconds: float = 10.0):
        self.label, self.total, self.every_seconds = label, total, every_seconds
        self._before, self._mine = done, 0
        self._start = self._last = 0.0
        if done:
            log.info("%s: continuing, %d of %d crops are there", label, done, total)

    def update(self, crops: int, pending: int, committed: Callable[[], int]) -> None:
        """Adds crops of this worker.

        The clock starts at the first call, when everything is compiled.

        Args:
          crops: that were computed since the last call.
          pending: those that are in no committed unit yet.
          committed: counts those of all workers that are on the disk.
        """
        now = time.monotonic()
        if not self._start:
            self._start = self._last = now
            self._before = committed() + pending
            return
        self._mine += crops
        if now - self._last < self.every_seconds:
            return
        self._last, seconds = now, now - self._start
        mine, done = self._mine / seconds, committed() + pending
        everyone = max((done - self._before) / seconds, mine)
        log.info(
            "%s: %d/%d crops (%.1f %%), %.1f crops/s, this worker %.1f, ETA %s",
            self.label,
            done,
            self.total,
            100 * done / self.total,
            everyone,
            mine,
            duration((self.total - done) / max(everyone, 1e-9)),
        )

    def rate(self) -> float:
        """Crops/s of this worker, or 0 where too little was done to say."""
        seconds = time.monotonic() - self._start if self._start else 0.0
        return self._mine / seconds if seconds > 0 else 0.0

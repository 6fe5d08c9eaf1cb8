"""Progress of a long job as plain log lines (a bar would fill SLURM logs): done, share, rate, time left."""

import logging
import time
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

    def __init__(self, label: str, total: int, unit: str, done: int = 0, every_seconds: float = 5.0):
        self.label, self.total, self.unit, self.done, self.every_seconds = label, total, unit, done, every_seconds
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
            self.label, self.done, self.total, self.unit, 100 * self.done / max(self.total, 1), rate, self.unit, left,
        )  # fmt: skip


def log_to_stderr() -> None:
    """Sends the program's log lines to stderr with the time of day; called by the front doors only."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: record.name != "phenomjax.process")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax and JAX say much that no user can act on


def log_to_file(path: Path) -> None:
    """Appends warnings, errors and the few lines that every process says of itself (logger phenomjax.process) to a file of its own."""
    for handler in [
        h for h in log.handlers if isinstance(h, logging.FileHandler)
    ]:  # of a run before this one, in a notebook
        log.removeHandler(handler)
        handler.close()
    path.parent.mkdir(exist_ok=True)
    handler = logging.FileHandler(path, delay=False)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name == "phenomjax.process")
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk is told once, by the training thread
    log.addHandler(handler)
    log.getChild("process").setLevel(logging.INFO)

"""Progress of a long job as plain log lines (a bar would fill SLURM logs): done, share, rate, time
left; and numbers and tables for a reader.
"""

import faulthandler
import io
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger("phenomjax")


def duration(seconds: float) -> str:
    """Formats seconds as h:mm:ss."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def counted(number: int, noun: str) -> str:
    """A number and what it counts, "1 sequence", "2,000 sequences"; "batch" has "es"."""
    ending = "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in [header, *rows]
    )


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
        self,
        label: str,
        total: int,
        unit: str,
        done: int = 0,
        every_seconds: float = 5.0,
    ):
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.every_seconds = every_seconds
        self.resumed, self.start = done, time.monotonic()
        self.last = self.start
        if done:
            log.info("%s: continuing, %d of %d %s were finished before", label, done, total, unit)

    def update(self, count: int = 1) -> None:
        """Adds finished units; logs at most once every `every_seconds`, and when all is done."""
        now = time.monotonic()
        self.done += count
        if now - self.last < self.every_seconds and self.done < self.total:
            return
        if not self.total:  # less than a unit: a line would say nothing
            return
        self.last, seconds = now, max(now - self.start, 1e-9)
        rate = (self.done - self.resumed) / seconds
        left = duration((self.total - self.done) / rate) if rate else "?"
        log.info(
            "%s: %s/%s %s (%.0f %%), %s %s/s, ETA %s",
            self.label,
            f"{self.done:,}",
            f"{self.total:,}",
            self.unit,
            100 * self.done / max(self.total, 1),
            f"{rate:,.1f}" if rate < 1000 else f"{rate:,.0f}",
            self.unit,
            left,
        )


class _Lines(logging.Formatter):
    """The time of day and the message, as a door spells it."""

    def __init__(self, spelt: Callable[[str], str]):
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")
        self.spelt = spelt

    def format(self, record: logging.LogRecord) -> str:
        return self.spelt(super().format(record))


def log_to_stderr(quiet: bool = False, spelt: Callable[[str], str] = str) -> None:
    """Sends the program's log lines to stderr with the time of day; for front doors alone.

    Args:
      quiet: only warnings and errors.
      spelt: makes flags of the settings that a line names.
    """
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    handler.addFilter(lambda record: record.name != "phenomjax.process")
    handler.setFormatter(_Lines(spelt))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    # Orbax and JAX say much that no user can act on
    logging.getLogger("absl").setLevel(logging.ERROR)


def log_to_file(path: Path) -> None:
    """Appends warnings, errors and the few lines that every process says of itself (logger
    phenomjax.process) to a file of its own.
    """
    leave_files()  # of a run before this one, in a notebook
    path.parent.mkdir(exist_ok=True)
    handler = logging.FileHandler(path, delay=False)
    # UTC: whoever reads it may be in another time zone
    formatter = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%SZ")
    formatter.converter = time.gmtime  # type: ignore[method-assign]
    handler.setFormatter(formatter)
    handler.addFilter(
        lambda record: record.levelno >= logging.WARNING or record.name == "phenomjax.process"
    )
    # a full disk is told once, by the training thread
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    log.addHandler(handler)
    log.getChild("process").setLevel(logging.INFO)


def leave_files() -> None:
    """Writes no more into the file of `log_to_file`."""
    for before in [one for one in log.handlers if isinstance(one, logging.FileHandler)]:
        log.removeHandler(before)
        before.close()


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

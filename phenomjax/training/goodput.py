"""Goodput: productive step time over wall time, over all starts of a run, and where the rest went.

Wall time runs from the first start of the run to now, so it contains the queue, the launcher and
everything that was done twice.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from phenomjax.system import files

FILE = "goodput.json"
CATEGORIES = ("start-up", "compilation", "data", "evaluation", "checkpoints", "profile", "step")


class Start(TypedDict, total=False):
    """One start of a run in goodput.json.

    Attributes:
      began: seconds since the epoch when its process began.
      first_step: that it found finished.
      step: how far it came.
      devices, processes: how many it had.
      until: seconds since the epoch of its last word.
      seconds: {category: seconds}.
    """

    began: float
    first_step: int
    step: int
    devices: int
    processes: int
    until: float
    seconds: Mapping[str, float]


class Goodput:
    """A stopwatch that always runs in exactly one category.

    Args:
      path: WORKDIR/goodput.json; starts before this one are read from it.
      began: seconds since the epoch when the process began.
      write: whether this process writes the file.
      devices, processes: of this start.
    """

    def __init__(
        self, path: Path, began: float, write: bool = True, devices: int = 1, processes: int = 1
    ):
        self._path, self._write = path, write
        self._category, self._since = "start-up", time.time()
        self.seconds = dict.fromkeys(CATEGORIES, 0.0) | {"start-up": max(self._since - began, 0.0)}
        try:
            self.earlier: list[Start] = json.loads(path.read_text())["starts"]
        except (OSError, ValueError, KeyError):
            self.earlier = []  # the first start; a torn file costs a statistic, not the run
        self.now = Start(began=began, first_step=0, step=0, devices=devices, processes=processes)

    def switch(self, category: str) -> str:
        """Goes on counting under another category; returns the one before."""
        now, before = time.time(), self._category
        self.seconds[before] += now - self._since
        self._category, self._since = category, now
        return before

    @contextlib.contextmanager
    def spent(self, category: str) -> Iterator[None]:
        """Counts what runs inside under a category."""
        before = self.switch(category)
        try:
            yield
        finally:
            self.switch(before)

    def begin(self, step: int) -> None:
        """The loop begins at a step."""
        self.now["first_step"] = self.now["step"] = step
        self.switch("step")

    def write(self, step: int) -> dict[str, float]:
        """Records how far the run is.

        Returns:
          `summary` of all starts.
        """
        self.switch(self._category)
        self.now.update({"step": step, "until": time.time(), "seconds": self.seconds})
        starts = [*self.earlier, self.now]
        if self._write:
            files.write_json(self._path, {"starts": starts})
        return summary(starts)


def summary(starts: Sequence[Start]) -> dict[str, float]:
    """Where the wall time of a run went.

    Args:
      starts: of goodput.json, in order.

    Returns:
      Seconds: "wall", each of `CATEGORIES` with "step" counting every step once, "redone" (steps
        that a later start had to repeat) and
      "restarts" (from the last word of a start to the next one's begin); and "goodput" = step /
      wall.
    """
    total = dict.fromkeys(CATEGORIES, 0.0) | {"redone": 0.0, "restarts": 0.0}
    for index, start in enumerate(starts):
        for category, seconds in start["seconds"].items():
            total[category] += seconds
        later = starts[index + 1 :]
        kept = min([start["step"], *(s["first_step"] for s in later)])
        if done := start["step"] - start["first_step"]:
            again = start["seconds"]["step"] * min(start["step"] - kept, done) / done
            total["step"], total["redone"] = total["step"] - again, total["redone"] + again
        if later:
            total["restarts"] += max(later[0]["began"] - start["until"], 0.0)
    wall = max(starts[-1]["until"] - starts[0]["began"], 1e-9)
    return {"wall": wall, **total, "goodput": total["step"] / wall}


def describe(result: Mapping[str, float], starts: int) -> str:
    """One line for the log."""
    lost = ", ".join(
        f"{name} {100 * seconds / result['wall']:.1f} %"
        for name, seconds in result.items()
        if name not in ("wall", "step", "goodput") and seconds > 0
    )
    return (
        f"{100 * result['goodput']:.1f} % of {result['wall']:.0f} s were steps that counted"
        f" ({starts} start{'s' * (starts > 1)}); lost: {lost}"
    )


def process_began() -> float:
    """When this process was started, in seconds since the epoch (Linux), or now."""
    try:
        return os.stat(f"/proc/{os.getpid()}").st_ctime
    except OSError:
        return time.time()

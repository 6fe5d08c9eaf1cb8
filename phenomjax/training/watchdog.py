"""Ends a run that hangs: neither JAX, gloo, NCCL nor SLURM notices a process that lives but does
not go on.

Exit code 76, with the stacks of all threads of all processes in WORKDIR/logs and the name of the
one that the others wait for.
"""

import collections
import contextlib
import logging
import statistics
import threading
import time
from collections.abc import Iterator

import jax

from phenomjax.cluster import presence
from phenomjax.system.errors import EXIT_STUCK
from phenomjax.system.log import dump_stacks

log = logging.getLogger("phenomjax")


class Watchdog:
    """Watches the time since the last beat of the training thread, while it is entered.

    Args:
      min_seconds: a step may take this long, or 20 times the median of the last steps, whichever is
        longer; 0 = no watch.
      slow_seconds: what is announced as slow may take this long.
    """

    def __init__(self, min_seconds: float, slow_seconds: float):
        self.min_seconds, self.slow_seconds = min_seconds, slow_seconds
        self.step, self.phase = 0, ""
        self._steps: collections.deque[float] = collections.deque(maxlen=100)
        self._limit, self._since, self._stopped = slow_seconds, time.monotonic(), threading.Event()

    def __enter__(self) -> "Watchdog":
        if self.min_seconds:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def beat(self, step: int, phase: str = "step") -> None:
        """A step (or another unit of the phase) is done, the next one begins."""
        now = time.monotonic()
        if phase == "step" and self.phase in ("step", "data"):
            self._steps.append(now - self._since)
        self.step, self._since = step, now
        self._limit = max(
            self.min_seconds, 20 * statistics.median(self._steps) if self._steps else 0.0
        )
        self._enter(phase)

    @contextlib.contextmanager
    def during(self, phase: str, slow: bool = False) -> Iterator[None]:
        """What runs inside is a phase; the clock runs on, unless it is `slow`: then the phase may
        take `slow_seconds`, and the clock starts anew before and after it.
        """
        limit, before = self._limit, self.phase
        if slow:
            self._limit, self._since = self.slow_seconds, time.monotonic()
        self._enter(phase)
        try:
            yield
        finally:
            if slow:
                self._limit, self._since = limit, time.monotonic()
            self._enter(before)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        presence.tell(self.step, phase)

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self.min_seconds / 10)):
            waited = time.monotonic() - self._since
            if waited > self._limit:
                self._end(waited)

    def _end(self, waited: float) -> None:
        dump_stacks(jax.process_index())
        who = (
            f" The others wait for {'; '.join(presence.behind())}."
            if jax.process_count() > 1
            else ""
        )
        presence.leave(
            EXIT_STUCK,
            f"error: nothing moved for {waited:.0f} s at step {self.step} ({self.phase}; limit"
            f" {self._limit:.0f} s, config.watchdog).{who} The stacks of all threads are in"
            " WORKDIR/logs/process_*.log. Run the same command again to continue from the last"
            " checkpoint.",
        )

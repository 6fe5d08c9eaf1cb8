"""What the training thread does now, told at once to the goodput, the watchdog, the other processes
and the profiler.
"""

import contextlib
from collections.abc import Iterator

from jax.profiler import TraceAnnotation

from phenomjax.training import trace
from phenomjax.training.goodput import Goodput
from phenomjax.training.watchdog import Watchdog

# {phase: what the goodput counts it as}; any other phase counts as what it is part of
COUNTS_AS = {
    "data": "data",
    "compiling": "compilation",
    "evaluation": "evaluation",
    "saving": "checkpoints",
    "writing a checkpoint": "checkpoints",
    "profile": "profile",
}


class Phases:
    """Called with the name of a phase it is a context: `with phase("evaluation"): …`.

    Args:
      goodput: counts the seconds of a phase.
      watchdog: knows how long it may take, and tells the other processes.

    Attributes:
      broken: the innermost phase in which an error was raised.
    """

    def __init__(self, goodput: Goodput, watchdog: Watchdog):
        self._goodput, self._watchdog, self.broken = goodput, watchdog, ""

    @contextlib.contextmanager
    def __call__(self, name: str, *, slow: bool = False) -> Iterator[None]:
        """What runs inside is a phase.

        Args:
          name: of the phase.
          slow: it may take `watchdog.slow_seconds`: compilation, restore, a checkpoint, a figure.
        """
        with contextlib.ExitStack() as stack:
            if name in COUNTS_AS:
                stack.enter_context(self._goodput.spent(COUNTS_AS[name]))
            stack.enter_context(self._watchdog.during(name, slow))
            stack.enter_context(TraceAnnotation(trace.PHASE + name))
            try:
                yield
            except BaseException:
                self.broken = self.broken or name
                raise

    def beat(self, step: int) -> None:
        """A step is done, the next one begins."""
        self._watchdog.beat(step)

    def alive(self) -> None:
        """A part of the present phase is done, such as a batch of the evaluation."""
        self._watchdog.beat(self._watchdog.step, self._watchdog.phase)

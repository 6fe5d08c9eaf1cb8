"""What a run keeps for a later start: its state, and what the loop has to remember besides."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from phenomjax.checkpoints.checkpointer import Checkpointer
from phenomjax.cluster import messages
from phenomjax.state import TrainState
from phenomjax.training.context import RunContext
from phenomjax.training.divergence import RollBacks
from phenomjax.training.metrics import Window
from phenomjax.training.stopping import EarlyStop
from phenomjax.training.writers.opening import Writers


class Keeping:
    """Starts writing checkpoints, and copies in the memory of two nodes.

    Args:
      run: whose state it is.
      checkpoints: write it.
      writers: of what was logged, which a checkpoint counts on.
      window, roll_backs, early: what a later start goes on with.
    """

    def __init__(
        self,
        run: RunContext,
        checkpoints: Checkpointer,
        writers: Writers,
        window: Window,
        roll_backs: RollBacks,
        early: EarlyStop,
    ):
        self._run, self._checkpoints, self._writers = run, checkpoints, writers
        self._window, self._roll_backs, self._early = window, roll_backs, early
        self._saved_at = time.monotonic()

    def save(
        self, step: int, state: TrainState, scores: Mapping[str, float], redo: Sequence[str]
    ) -> None:
        """Starts writing a checkpoint.

        Args:
          step: number of finished steps.
          state: at this step.
          scores: what was measured at it.
          redo: names of the evaluators that are to be done again after the restart.
        """
        with self._run.phase("saving", slow=True):
            self._checkpoints.save(step, state, self._memory(redo), scores)
        self._saved_at = time.monotonic()

    def copy(self, step: int, state: TrainState) -> None:
        """Starts copying the state into memory."""
        with self._run.phase("saving", slow=True):
            self._checkpoints.copy(step, state, self._memory([]))

    def minutes_are_over(self) -> bool:
        """Whether a checkpoint is due by the clock, which is that of process 0."""
        seconds = 60 * self._run.config.checkpoint.every_minutes
        return messages.agree(time.monotonic() - self._saved_at > seconds)

    def _memory(self, redo: Sequence[str]) -> dict[str, Any]:
        self._writers.flush()  # what was logged is on the disk
        return {
            "window": self._window.state(),
            "rollbacks": self._roll_backs.done,
            "redo": redo,
            "early": self._early.state(),
            "data": self._run.loader.fingerprints,
        }

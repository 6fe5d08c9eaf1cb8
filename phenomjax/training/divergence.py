"""What happens when a step gives no sound loss: how it is noticed, the error, and the way back."""

import logging
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float

from phenomjax.cluster import messages
from phenomjax.step import StepMetrics
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.log import counted
from phenomjax.system.user_files import at_step
from phenomjax.training.context import RunContext
from phenomjax.training.feed import ItemIds
from phenomjax.training.metrics import Window

log = logging.getLogger("phenomjax")
own = log.getChild("process")


class Diverged(Exception):
    """A step gave a non-finite loss or too large a gradient.

    Attributes:
      step: which one, from 1 on.
      values: its metrics.
      ids: of the items in this process's rows of its batch.
    """

    def __init__(self, step: int, values: dict[str, float], ids: ItemIds):
        super().__init__(step, values)
        self.step, self.values, self.ids = step, values, ids


class Readings:
    """Reads the metrics of a step when the next one is under way, so that no device waits for it.

    Args:
      window: takes what was read.
      max_grad_norm: what still counts as sound; 0 = any finite norm.

    Attributes:
      waited: seconds so far that the devices were waited for.
    """

    def __init__(self, window: Window, max_grad_norm: float):
        self.window, self._max_grad_norm = window, max_grad_norm or np.inf
        self._waiting: tuple[int, StepMetrics, ItemIds] | None = None
        self.waited = 0.0

    def next(self, step: int, values: StepMetrics, ids: ItemIds) -> None:
        """Reads the step before, and keeps this one for the next call.

        Raises:
          Diverged: the step before was not sound.
        """
        self.catch_up()
        self._waiting = step, values, ids

    def catch_up(self) -> None:
        """Reads the step that waits to be read.

        Raises:
          Diverged: it was not sound.
        """
        if self._waiting is None:
            return
        (step, values, ids), self._waiting = self._waiting, None
        begin = time.perf_counter()
        host = {name: float(x) for name, x in jax.device_get(values).items()}
        self.waited += time.perf_counter() - begin
        loss, norm = host["train/loss"], host["train/grad_norm"]
        if not np.isfinite(loss) or not np.isfinite(norm) or norm > self._max_grad_norm:
            raise Diverged(step, host, ids)
        self.window.add(host)


class RollBacks:
    """The way back after a divergence, and what was skipped.

    Args:
      run: whose data are skipped.
      learning_rate: of a step, 0-based.

    Attributes:
      done: roll-backs so far, as a checkpoint keeps them: {"at": the step that was gone back to,
        "skip": the steps whose data are skipped from there on}.
    """

    def __init__(self, run: RunContext, learning_rate: Callable[[int], Float[Array, ""]]):
        self._run, self._learning_rate = run, learning_rate
        # of a run that goes on from another one, whose roll-backs are not its own
        self._begin = at_step(run.config.continue_from)[1] or 0
        self.done: list[dict[str, int]] = []

    def data_step(self, step: int) -> int:
        """Position in the data of an optimiser step: the step itself, moved on by what was
        skipped.
        """
        return step + sum(each["skip"] for each in self.done if step >= each["at"])

    def go_back(self, error: Diverged, good: int | None) -> None:
        """Skips the window between the last good checkpoint and the bad step, or gives up.

        Args:
          error: what happened.
          good: step of the last good checkpoint.

        Raises:
          UserError: always with action "stop"; after `max_rollbacks` with action "rollback".
        """
        c, what = self._run.config, self._describe(error)
        count = sum(each["at"] >= self._begin for each in self.done)
        if c.divergence.action == "stop" or count >= c.divergence.max_rollbacks:
            tried = f" after {counted(count, 'roll-back')}" if count else ""
            raise UserError(f"{what} Stopped{tried}; {self._mends(good, error)}", EXIT_FAILED)
        assert good is not None  # a roll-back run saves step 0
        self.done = [*self.done, {"at": good, "skip": error.step - good}]
        say = log if messages.is_main() else own  # all do the same; one says it on the screen
        say.warning(
            "%s Rolling back to step %d and skipping the data of %d steps (roll-back %d of at most"
            " %d).",
            what,
            good,
            error.step - good,
            count + 1,
            c.divergence.max_rollbacks,
        )

    def _mends(self, good: int | None, error: Diverged) -> str:
        """Where the run stands, and what helps beyond what it does already."""
        c, workdir = self._run.config, self._run.workdir
        o = c.optimizer
        at = (
            "no checkpoint was written before."
            if good is None
            else (f"the last good checkpoint is step {good} in {workdir}.")
        )
        start = "" if good is None else f" --config.continue_from={workdir}@{good}"
        clip = 1.0 if o.clip_norm <= 0 or o.clip_norm > 1 else o.clip_norm / 2
        ways = [
            f"a lower rate, --config.optimizer.learning_rate={o.learning_rate / 3:.2g} (now"
            f" {o.learning_rate:g})",
            f"--config.optimizer.clip_norm={clip:g} (now {o.clip_norm:g})",
        ]
        text = f"{at} What usually helps, in another --workdir{start}: {', or '.join(ways)}."
        if c.divergence.action == "stop":
            text += " In this one: --config.divergence.action=rollback, which skips such windows."
        limit, norm = c.divergence.max_grad_norm, error.values["train/grad_norm"]
        if np.isfinite(error.values["train/loss"]) and np.isfinite(norm):
            text += (
                f" The gradient norm was above config.divergence.max_grad_norm {limit:g}, and"
                f" nothing else was wrong: if that is usual here, --config.divergence.max_grad_norm"
                f"={2 * norm:.2g}, or 0.0 for no limit."
            )
        banks = c.data.banks if "banks" in c.data else ()
        if banks:
            text += f" `python -m phenomjax.prepare inspect {banks[0]}` shows what the data hold."
        return text

    def _describe(self, error: Diverged) -> str:
        """What happened, at which items of all processes."""
        ids, values = error.ids, error.values
        if jax.process_count() > 1:
            ids = np.ravel(multihost_utils.process_allgather(ids))
        names = ", ".join(self._run.loader.names(ids[:8]))
        more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
        return (
            f"Training diverged at step {error.step}: loss {values['train/loss']:.4g}, gradient"
            f" norm {values['train/grad_norm']:.4g}, learning rate"
            f" {float(self._learning_rate(error.step - 1)):.3g}; the batch held the"
            f" {self._run.loader.items} {names}{more}."
        )

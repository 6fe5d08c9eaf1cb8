"""Stopping early: whether a metric has stopped getting better.

A function of what was measured at the steps so far, which a checkpoint keeps; so a run that was
interrupted comes to the same end. All processes call it together.
"""

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from phenomjax.cluster import messages
from phenomjax.config import keys, stored
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")


class EarlyStop:
    """Ends a run when `stop_early.metric` has not got better for `stop_early.patience` evaluations.
    Without a metric it never does, and says so where another key of it was set.

    Args:
      config: finalized; `stop_early.*` is read.
      evaluators: names of those that the run has.

    Attributes:
      measured: {step: value} of the metric.

    Raises:
      UserError: nothing measures the metric.
    """

    def __init__(self, config: ConfigDict, evaluators: Collection[str]):
        self._config, self._metric = config.stop_early, config.stop_early.metric
        self._num_steps: int = config.num_steps
        self.measured = dict[int, float]()
        # no error: a run that stopped early goes on by metric='' beside the patience that it had
        usual = keys.base(config.task).stop_early
        idle = [key for key in ("patience", "min_delta") if self._config[key] != usual[key]]
        if idle and not self._metric:
            log.warning(
                "config.stop_early.%s is %s, but config.stop_early.metric is '': nothing ends this"
                " run before its last step. If something should, name it:"
                " --config.stop_early.metric=val/loss.",
                *(idle[0], self._config[idle[0]]),
            )
        if self._metric and self._metric.split("/")[0] not in evaluators:
            raise UserError(
                f"config.stop_early.metric is '{self._metric}', but nothing is held out that it"
                " could be measured on. Hold data out (config.data.val_groups,"
                " config.data.val_fraction), or set --config.stop_early.metric=''."
            )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {"metric": self._metric, "measured": list(self.measured.items())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what a checkpoint kept; of another metric nothing is known."""
        same = state.get("metric") == self._metric
        self.measured = {int(step): value for step, value in state["measured"]} if same else {}

    def reason(self, step: int, scores: Mapping[str, float]) -> str:
        """Why the run ends here before its last step, or "".

        Args:
          step: number of finished steps.
          scores: what was measured at it.
        """
        c = self._config
        if not c.metric:
            return ""
        if c.metric in scores:
            # that of process 0: a last bit that differs would part them
            self.measured[step] = messages.gather("stop early", scores[c.metric])[0]
        best, at, since = math.inf, 0, 0
        for now, value in sorted(self.measured.items()):
            rank = stored.rank({c.metric: value}, c.metric)
            # the first one is better than none, also where it is no number
            if rank is not None and rank < best - c.min_delta:
                best, at, since = rank, now, 0
            else:
                since += 1
        if since < c.patience or step >= self._num_steps:
            return ""
        value = self.measured.get(at, math.nan)
        margin = f" by more than {c.min_delta:g}" if c.min_delta else ""
        return (
            f"{c.metric} has not got better{margin} than {value:.4f}, its value at step {at}, in"
            f" {since} evaluations. To go on, run the same command again with"
            f" --config.stop_early.patience={2 * since}, or --config.stop_early.metric=''."
        )

"""What is due after a step. A pure function of the step and the configuration, so all processes
agree without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ml_collections import ConfigDict


@dataclass(frozen=True)
class Due:
    """What is due after a step.

    Attributes:
      log: a line of metrics.
      evaluators: names of those that run, in their order.
      save: a checkpoint.
      ask_clock: a checkpoint, if by process 0's clock `checkpoint.every_minutes` are over.
      stop: a signal came: the run ends here, and what is due of evaluators is done after the
        restart.
      pause: the run ends here after its evaluators, by `stop_at_step`.
      copy: a copy of the state in memory, if the run goes on.
    """

    log: bool
    evaluators: tuple[str, ...]
    save: bool
    ask_clock: bool
    stop: bool
    pause: bool
    copy: bool = False

    @property
    def anything(self) -> bool:
        """Whether there is more to do than the next step."""
        ends = self.stop or self.pause
        return bool(self.log or self.evaluators or self.save or self.copy or ends)


def due(step: int, config: ConfigDict, evaluators: Mapping[str, int], signalled: bool) -> Due:
    """What is due after a step.

    Everything is due at the last step, whatever its interval; nothing stops the run there.

    Args:
      step: number of finished steps.
      config: finalized configuration; its intervals are read.
      evaluators: {name: every so many steps, 0 = at the last step only}.
      signalled: whether a signal asked to stop.
    """
    c, last = config, step == config.num_steps

    def comes(every_steps: int) -> bool:
        return last or (every_steps > 0 and step % every_steps == 0)

    log = comes(c.log.every_steps)
    names = tuple(name for name, every_steps in evaluators.items() if comes(every_steps))
    # Who is the best can only be kept where it is known.
    judged = c.checkpoint.keep_best > 0 and c.checkpoint.best_metric.split("/")[0] in names
    save = comes(c.checkpoint.every_steps) or comes(c.checkpoint.keep_every_steps) or judged
    return Due(
        log=log,
        evaluators=names,
        save=save,
        ask_clock=log and c.checkpoint.every_minutes > 0 and not save,
        stop=signalled and not last,
        pause=step == c.stop_at_step and not last,
        copy=not last and comes(c.checkpoint.memory_every_steps),
    )

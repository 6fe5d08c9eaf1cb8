"""What a free worker does next: asynchronous successive halving (Li et al. 2020, MLSys, Algorithm
2) as pure functions.

Rung k stands at `min_steps` * eta^k steps, the last one at the end of the run. The best 1/eta of
those that reached a rung may go on to the next; where nobody may, a new trial begins at the lowest.
A worker never waits for the others of a rung. Two things are added to the paper:

- Work that was interrupted goes on before anything else begins.
- When no new trial may begin and nothing runs, and no trial got to the end, the best of the highest
rung goes on until one does:
  with few trials 1/eta of a small rung rounds to none, and a sweep without one finished trial would
  have no winner.

Without halving there is one rung, the end.
"""

import dataclasses
import math
from collections.abc import Sequence, Set

from phenomjax.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class Standing:
    """A trial as the decisions see it.

    Attributes:
      number: of the trial.
      losses: val/loss at the rungs that it reached, lowest rung first.
      heading: the rung that it runs to, or the last one that it reached (it is paused there).
      closed: complete, failed or pruned; it never runs again.
      diverged: closed by a loss that is not finite: the worst of the rung that it was heading for.
    """

    number: int
    losses: tuple[float, ...] = ()
    heading: int = 0
    closed: bool = False
    diverged: bool = False

    @property
    def underway(self) -> bool:
        """Between two rungs, whether or not anybody works on it now."""
        return not self.closed and self.heading >= len(self.losses)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Run trial `number` (None: a new one) to rung `heading`."""

    number: int | None
    heading: int


WAIT, DONE = "wait", "done"


def rungs(num_steps: int, eval_every: int, eta: int, min_steps: int) -> list[int]:
    """Steps of the rungs, each a multiple of `eval_every` so that there is a val/loss, the last at
    `num_steps`.

    Args:
      num_steps: of the whole run.
      eval_every: config.eval.every_steps.
      eta: reduction factor, 2 or more.
      min_steps: the lowest rung; 0 = num_steps / eta^2.

    Raises:
      UserError: no rung lies before the end.
    """
    lowest = max(1, math.ceil((min_steps or num_steps / eta**2) / eval_every)) * eval_every
    steps = [lowest]
    while steps[-1] * eta < num_steps:
        steps.append(steps[-1] * eta)
    if lowest >= num_steps:
        raise UserError(
            f"Nothing can be pruned: the lowest rung is step {lowest} and the run ends at step"
            f" {num_steps} (rungs stand where val/loss is known,"
            f" config.eval.every_steps={eval_every}). Lower --config.eval.every_steps or"
            " `min_steps`, or give `pruner` none."
        )
    return [*steps, num_steps]


def decide(
    standings: Sequence[Standing], num_rungs: int, eta: int, num_trials: int, busy: Set[int]
) -> Assignment | str:
    """The next thing to do.

    Args:
      standings: all trials of the study.
      num_rungs: with the end of the run.
      eta: reduction factor.
      num_trials: how many trials the study may have.
      busy: numbers of trials that a living worker holds.

    Returns:
      A job, WAIT (others are at work, and their results decide), or DONE.
    """
    underway = sorted((e for e in standings if e.underway), key=lambda e: (-e.heading, e.number))
    for e in underway:
        if e.number not in busy:
            return Assignment(e.number, e.heading)
    for k in reversed(range(num_rungs - 1)):
        ranked = _ranked(standings, k)
        for e in ranked[: len(ranked) // eta]:
            if _waits_at(e, k):
                return Assignment(e.number, k + 1)
    if len(standings) < num_trials:
        return Assignment(None, 0)
    if underway:
        return WAIT
    if not any(len(e.losses) == num_rungs for e in standings):
        for k in reversed(range(num_rungs - 1)):
            for e in _ranked(standings, k):
                if _waits_at(e, k):
                    return Assignment(e.number, k + 1)
    return DONE


def _ranked(standings: Sequence[Standing], k: int) -> list[Standing]:
    """Those that came to rung k, best first; what diverged on the way there is among the last."""
    came = [e for e in standings if len(e.losses) > k or (e.diverged and e.heading == k)]
    return sorted(came, key=lambda e: (e.losses[k] if len(e.losses) > k else math.inf, e.number))


def _waits_at(standing: Standing, k: int) -> bool:
    return not standing.closed and standing.heading == k and len(standing.losses) == k + 1

"""Proposes the values of a new trial: a function of the seed, the number of the trial and, for TPE,
of the results so far.
"""

import itertools
import random
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from phenomjax.sweep import space as space_lib
from phenomjax.sweep.study import distributions, standing

SAMPLERS = ("tpe", "random", "grid", "given")


def points(space: dict[str, space_lib.Axis], seed: int) -> list[dict[str, space_lib.Value]]:
    """All points of a grid, in an order drawn from the seed: the first ones are then a sample of
    all.
    """
    values = space_lib.grid(space)
    result = [
        dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())
    ]
    random.Random(seed).shuffle(result)
    return result


def propose(
    sampler: str, space: dict[str, space_lib.Axis], seed: int, trials: Sequence[FrozenTrial]
) -> dict[str, space_lib.Value]:
    """Values of the next trial.

    Args:
      sampler: one of SAMPLERS.
      space: what varies.
      seed: of the sweep.
      trials: all trials of the study; the new one gets the next number.

    Returns:
      {key: value}; of points that are given, none (`SweepSettings.values` has them).
    """
    number = len(trials)
    if sampler == "given":
        return {}
    if sampler == "grid":
        return points(space, seed)[number]
    draw = random.Random(f"{seed}-{number}").getrandbits(31)
    make = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}[sampler]
    view = optuna.create_study(sampler=make(seed=draw))
    if sampler == "tpe":
        view.add_trials([as_seen_by_tpe(t) for t in trials])
    return view.ask(distributions(space)).params


def as_seen_by_tpe(trial: FrozenTrial) -> FrozenTrial:
    """A copy in which a trial that is paused at a rung counts as pruned there: TPE learns from no
    unfinished trial.

    One that diverged counts as pruned without any value, which TPE takes for the worst.
    """
    e = standing(trial)
    paused = not e.closed and not e.underway
    return create_trial(
        state=TrialState.PRUNED if paused else trial.state,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values={} if e.diverged else trial.intermediate_values,
    )

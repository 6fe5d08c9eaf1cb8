"""Runs that read their data more than once: what a repetition is worth (`law.effective`) is fitted
with the law, by a search over R* around the law's own fit.

The same form for parameters beyond the best size for the data (Muennighoff et al. 2023, equation 6)
is left out: with exponents that are free it fits their runs hardly better.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from phenomjax.scaling.fit import estimate
from phenomjax.scaling.fit.law import LEVEL, Fit, effective
from phenomjax.scaling.fit.projection import Problem, polish
from phenomjax.scaling.observations import Observations

ONCE = 1.02  # units seen over unique ones, up to which a run counts as one that repeated nothing
# What is known of R* before these runs: 15.4 for language models (Muennighoff et al. 2023), as it
# may be five times less or more for other data and augmentation. It decides where runs say little.
USUAL, FACTOR = 15.4, 5.0
RANGE = (0.2, 2000.0)
GRID, FINE = 13, 9  # half-lives that are looked at, and that draws are taken at
SUBSETS = 1.5  # largest over smallest number of unique units, from where on R* can be told
EVIDENCE = 6.0  # deviance that R* must take from the plain law, being a parameter more
EDGE = 9.0  # deviance at the outermost of these: three standard deviations
STARTS = np.array([(alpha, beta, 0) for alpha in (0.2, 0.6) for beta in (0.2, 0.6)])


def repeats(runs: Observations) -> bool:
    """Whether any of the runs read its data more than once."""
    return bool((runs.seen > ONCE * runs.unique).any())


def tells(runs: Observations) -> bool:
    """Whether the runs can tell what a repetition is worth: they read different amounts of data
    again. With one amount, R* and beta would both be read off the same axis.
    """
    again = runs.seen > ONCE * runs.unique
    return bool(again.any()) and np.nanmax(runs.unique) > SUBSETS * np.nanmin(runs.unique[again])


def fit(given: Observations, settings: estimate.Settings, *, profiles: bool = False) -> Fit:
    """The law of some runs, with what repetitions are worth where the runs tell and show it.

    Args:
      given: the runs.
      settings: how.
      profiles: take the profile likelihood as well.
    """
    if not tells(given):
        return estimate.fit(given, settings, profiles=profiles)
    used = estimate.within_edge(given, settings)
    # of the units that were read, before they are counted as fresh ones
    whole = dataclasses.replace(given, flops=given.cost)
    runs = whole.take(used)

    def at(log_half_life: float, **changes: Any) -> Fit:
        fresh = effective(runs.seen, runs.unique, float(np.exp(log_half_life)))
        some = dataclasses.replace(settings, **{"edge": 0.0, "bootstraps": 0, **changes})
        return estimate.fit(
            dataclasses.replace(runs, seen=fresh), some, profiles=profiles and not changes
        )

    def deviance(log_half_life: float) -> float:
        # Of a profile likelihood whose scale is unknown; exact losses have an objective of 0.
        fresh = effective(runs.seen, runs.unique, float(np.exp(log_half_life)))
        problem = Problem.of(runs.params, fresh, runs.loss, settings.delta)
        reached = polish(problem, STARTS, once, steps=60, tolerance=1e-6)
        objective = float(reached.objective.min()) + 1e-20
        prior = (log_half_life - np.log(USUAL)) / np.log(FACTOR) if log_half_life < np.inf else 0
        return len(runs) * np.log(objective) + prior**2

    once, ends = np.ones((1, len(runs))), np.log(RANGE)
    grid = np.linspace(ends[0], ends[1], GRID)
    heights = np.array([deviance(point) for point in grid])
    lowest = int(heights.argmin())
    near = grid[max(lowest - 1, 0)], grid[min(lowest + 1, GRID - 1)]
    found = minimize_scalar(deviance, bounds=near, method="bounded", options={"xatol": 1e-3})
    plain = deviance(np.inf)
    if plain - found.fun < EVIDENCE:
        return estimate.fit(given, settings, profiles=profiles)
    # Draws: of the law at half-lives that are drawn by their likelihood.
    low, high = (_where(deviance, found.x, found.fun + EDGE, end) for end in ends)
    fine = np.linspace(low, high, FINE)
    weights = np.exp(-(np.array([deviance(point) for point in fine]) - found.fun) / 2)
    random = np.random.default_rng(settings.seed)
    counts = random.multinomial(settings.bootstraps, weights / weights.sum())
    best = at(found.x)
    parts = [
        (point, at(point, bootstraps=int(count), seed=settings.seed + number, form=best.form))
        for number, (point, count) in enumerate(zip(fine, counts, strict=True))
        if count
    ]
    half_lives = [np.full(len(part.draws), np.exp(point)) for point, part in parts]
    return dataclasses.replace(
        best,
        draws=np.concatenate([best.draws, *(part.draws for _, part in parts)]),
        forecast_draws=np.concatenate(
            [best.forecast_draws, *(one.forecast_draws for _, one in parts)]
        ),
        half_life=float(np.exp(found.x)),
        half_lives=np.concatenate(half_lives) if parts else np.zeros(0),
        runs=whole,
        used=used,
        settings=dataclasses.asdict(settings),
    )


def _where(deviance: Callable[[float], float], begin: float, value: float, end: float) -> float:
    """Where a deviance reaches a value on the way from its minimum to an end of the range."""
    step = (end - begin) / 2**10
    while abs(step) < abs(end - begin) and deviance(begin + step) < value:
        step *= 1.6
    return begin + step if abs(step) < abs(end - begin) else end


def described(fit: Fit) -> str:
    """A line for a reader; nothing where no run repeats its data."""
    runs = fit.runs.take(fit.used)
    if not repeats(runs):
        return ""
    passes = f"Data are read up to {float(np.nanmax(runs.seen / runs.unique)):.3g} times:"
    if np.isfinite(fit.half_life):
        low, high = np.quantile(fit.half_lives, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return (
            f"{passes} repetitions of a unit count for at most {fit.half_life:.3g} ({low:.3g} to"
            f" {high:.3g}) fresh ones."
        )
    if tells(runs):
        return f"{passes} these runs do not show that a repetition is worth less than fresh data."
    return (
        f"{passes} what a repetition is worth cannot be told, all runs that repeat have the same"
        " data. The law holds for as many passes; `python -m phenomjax.scaling ladder"
        " --subsets 0.1,0.3,1` tells it."
    )

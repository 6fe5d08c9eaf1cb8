"""From runs to a law: which runs, the basins of the plain law, the form that forecasts, bootstrap
draws over runs, profile likelihood.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from phenomjax.scaling.fit import forms, projection
from phenomjax.scaling.fit.law import LEVEL, NAMES, Fit, law
from phenomjax.scaling.fit.projection import PLAIN, Problem, Solutions
from phenomjax.scaling.observations import Observations
from phenomjax.scaling.observations.runs import budget_of

BASINS = 6  # that are reported
STARTS = 3  # basins that a bootstrap draw may end in
POINTS = 33  # of a profile
FARTHEST = 6.0  # deviance up to which a profile is followed; 1 is the edge of the interval
BUDGET = 4  # runs that a budget has on average where draws keep to budgets
# A run of the fewest units a parameter is left out while the law of all others misses it by more
# than so many robust standard deviations, which are taken to be .1 % at least.
EDGE, LEAST_SCATTER = 10.0, 1e-3
FEWEST_FOR_EDGE = 20  # runs that tell what scatter is


@dataclass(frozen=True)
class Settings:
    """How a law is fitted.

    Attributes:
      delta: beyond which a residual of log(loss) counts linearly (Huber).
      bootstraps: draws over runs.
      edge: in robust standard deviations, how far the law may miss runs of the fewest units a
        parameter before they are left out; 0 keeps all.
      form: of `forms.FORMS`, that forecasts; "" chooses.
      seed: of the draws.
    """

    delta: float = 1e-3
    bootstraps: int = 400
    edge: float = EDGE
    form: str = ""
    seed: int = 0


DEFAULT = Settings()


def fit(runs: Observations, settings: Settings = DEFAULT, *, profiles: bool = False) -> Fit:
    """The law of some runs.

    Args:
      runs: checked, six or more.
      settings: how.
      profiles: take the profile likelihood as well.
    """
    used = within_edge(runs, settings)
    params, seen, loss = runs.params[used], runs.seen[used], runs.loss[used]
    flops = runs.cost[used]
    problem = Problem.of(params, seen, loss, settings.delta)
    found, cells = _basins(problem)
    best = problem.named(found.searched, found.linear)
    starts = found.searched[:STARTS, :2]
    form, scores = (
        (settings.form, {})
        if settings.form
        else forms.chosen(params, seen, loss, flops, settings.delta, starts)
    )
    forecaster = forms.fitted(problem, form, starts)
    named = problem.named(forecaster.searched, forecaster.linear)
    residuals = np.log(loss / law(named, params, seen)[0])
    degrees = max(len(loss) - forms.FORMS[form].unknowns, 1)
    weights = drawn(flops, settings.bootstraps, settings.seed)
    draws = _draws(problem, found.searched[:STARTS], weights, PLAIN)
    return Fit(
        parameters=best[0, : len(NAMES)],
        draws=draws[:, : len(NAMES)],
        form=form,
        forecaster=named[0],
        forecast_draws=draws
        if form == "plain"
        else _draws(problem, forecaster.searched, weights, forms.FORMS[form].along),
        scatter=float(np.sqrt((residuals**2).sum() / degrees)),
        degrees=degrees,
        runs=runs,
        used=used,
        basins=tuple(
            {
                **dict(zip(NAMES, map(float, one), strict=False)),
                "objective": float(value),
                "cells": int(count),
            }
            for one, value, count in zip(best, found.objective, cells, strict=True)
        ),
        profiles=_profiles(problem, found, loss) if profiles else {},
        scores=scores,
        settings=dataclasses.asdict(settings),
    )


def within_edge(runs: Observations, settings: Settings) -> Bool[np.ndarray, " runs"]:
    """The runs that are fitted: without those of the fewest units a parameter that the law of the
    others misses by far. A model that has seen next to nothing obeys no law yet, and as it has the
    highest loss of all it would bend that of the others.
    """
    used = np.ones(len(runs), bool)
    if not settings.edge:
        return used
    for row in np.argsort(runs.seen / runs.params, kind="stable"):
        others = used.copy()
        others[row] = False
        if others.sum() < FEWEST_FOR_EDGE:
            return used
        problem = Problem.of(
            runs.params[others], runs.seen[others], runs.loss[others], settings.delta
        )
        found = forms.fitted(problem, "plain", np.empty((0, 2)))
        said = law(problem.named(found.searched, found.linear), runs.params, runs.seen)[0]
        missed = np.abs(np.log(runs.loss / said))
        scatter = float(np.median(missed[others])) / stats.norm.ppf(0.75)
        if missed[row] <= settings.edge * max(scatter, LEAST_SCATTER):
            return used
        used = others
    return used


def _basins(problem: Problem) -> tuple[Solutions, Int[np.ndarray, "basins"]]:
    """The local minima of the plain law's objective, best first, and how many cells of the grid of
    exponents run down to each.
    """
    weights = np.ones((1, len(problem.size)))
    ends = projection.downhill(projection.surface(problem, weights))
    axis = projection.grid()
    flat, counts = np.unique(ends, return_counts=True)
    starts = [axis[flat // len(axis)], axis[flat % len(axis)], np.zeros(len(flat))]
    found = projection.polish(problem, np.column_stack(starts), weights)
    kept: list[int] = []
    cells: list[int] = []
    for one in np.argsort(found.objective):
        # cells are coarse: two of them may lead to one minimum
        near = [
            np.abs(np.log(found.searched[one, :2] / found.searched[other, :2])).max() < 0.01
            for other in kept
        ]
        if any(near):
            cells[near.index(True)] += int(counts[one])
        else:
            kept.append(int(one))
            cells.append(int(counts[one]))
    kept = kept[:BASINS]
    return (
        Solutions(found.searched[kept], found.linear[kept], found.objective[kept]),
        np.array(cells[:BASINS]),
    )


def _draws(
    problem: Problem,
    starts: Float[np.ndarray, "starts 3"],
    weights: Float[np.ndarray, "draws runs"],
    along: Float[np.ndarray, "3 3"],
) -> Float[np.ndarray, "draws 6"]:
    """The law of each draw: the best that is reached from any start."""
    values = np.full(len(weights), np.inf)
    best = np.empty((len(weights), 6))
    for start in starts if len(weights) else ():
        begin = np.repeat(start[None], len(weights), 0)
        reached = projection.polish(problem, begin, weights, along=along[None], tolerance=1e-5)
        better = reached.objective < values
        values[better] = reached.objective[better]
        best[better] = problem.named(reached.searched, reached.linear)[better]
    return best


def drawn(
    flops: Float[np.ndarray, " runs"], draws: int, seed: int
) -> Float[np.ndarray, "draws runs"]:
    """How often each run is in each bootstrap draw. Where runs come in budgets, a budget keeps its
    number of runs.
    """
    random = np.random.default_rng(seed)
    groups = budget_of(flops)
    if len(groups) < BUDGET * (groups.max() + 1):
        groups = np.zeros(len(flops), int)
    weights = np.zeros((draws, len(groups)))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        weights[:, rows] = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), draws)
    return weights


def _profiles(
    problem: Problem, found: Solutions, loss: Float[np.ndarray, " runs"]
) -> dict[str, Float[np.ndarray, "2 points"]]:
    """The least objective of the plain law where one of its values is given, as a deviance."""
    best, linear = found.searched[0], found.linear[0]
    unit = _deviance_unit(problem, found)

    def deviance(
        begin: Float[np.ndarray, "k 3"],
        along: Float[np.ndarray, "k 3 3"],
        floor: Float[np.ndarray, "k"] | None = None,
    ) -> Float[np.ndarray, "k"]:
        weights = np.ones((1, len(problem.size)))
        reached = projection.polish(
            problem, begin, weights, along=along, floor=floor, tolerance=1e-5
        )
        return np.maximum(reached.objective - found.objective[0], 0) / unit

    def of_floor(values: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        begin = np.repeat([best, [0.15, 0.15, 0], [0.6, 0.6, 0]], len(values), 0)
        along = np.broadcast_to(PLAIN, (len(begin), 3, 3))
        return deviance(begin, along, np.tile(values, 3)).reshape(3, -1).min(0)

    def of_exponent(which: int, values: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        begin = np.repeat([best, [0.15, 0.15, 0], [0.6, 0.6, 0]], len(values), 0)
        begin[:, which] = np.tile(values, 3)
        free = np.diag([float(which != 0), float(which != 1), 0])
        along = np.broadcast_to(free, (len(begin), 3, 3))
        return deviance(begin, along).reshape(3, -1).min(0)

    def of_ratio(values: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        rays = np.column_stack([1 - values, values, np.zeros(len(values))])
        lengths = np.array([best[:2].sum(), 0.3, 1.2])
        begin = (lengths[:, None, None] * rays).reshape(-1, 3)
        along = rays[:, :, None] * rays[:, None] / (rays**2).sum(1)[:, None, None]
        return deviance(begin, np.tile(along, (3, 1, 1))).reshape(3, -1).min(0)

    lowest, highest = projection.EXPONENTS
    share = float(best[1] / best[:2].sum())
    profiles = {
        "E": _followed(of_floor, float(linear[0]), 0.0, float(loss.min()) * 0.9999),
        "alpha": _followed(lambda x: of_exponent(0, x), float(best[0]), lowest, highest),
        "beta": _followed(lambda x: of_exponent(1, x), float(best[1]), lowest, highest),
        "ratio": _followed(of_ratio, share, 0.02, 0.98),
    }
    return profiles


def _followed(
    deviance: Callable[[Float[np.ndarray, "k"]], Float[np.ndarray, "k"]],
    best: float,
    lowest: float,
    highest: float,
) -> Float[np.ndarray, "2 points"]:
    """A profile: first over all that is possible, then as far as its deviance is small."""
    ends = lowest, highest
    for _ in range(3):
        values = np.unique(np.append(np.linspace(*ends, POINTS), best))
        heights = deviance(values)
        near = np.flatnonzero(heights <= FARTHEST)
        reached = values[max(near.min() - 1, 0)], values[min(near.max() + 1, len(values) - 1)]
        if reached[1] - reached[0] > 0.6 * (ends[1] - ends[0]):
            break
        ends = reached
    return np.stack([values, heights])


def _deviance_unit(problem: Problem, found: Solutions) -> float:
    """By how much the objective rises at the edge of a 90 % interval.

    For an M-estimator 2 (rho_profile - rho) E psi' / E psi^2 is chi-squared with one degree of
    freedom (Heritier and Ronchetti 1994); E psi' is taken from normal residuals of the robust
    scale, for with a small delta few residuals lie where psi rises.
    """
    columns = problem.columns(found.searched[:1])
    residuals = np.log(columns[0] @ found.linear[0]) - problem.log_loss
    runs = len(residuals)
    scale = max(float(np.median(np.abs(residuals))) / stats.norm.ppf(0.75), 1e-9)
    slope = 2 * stats.norm.cdf(problem.delta / scale) - 1
    square = float((np.clip(residuals, -problem.delta, problem.delta) ** 2).mean())
    square = max(square * runs / max(runs - len(NAMES), 1), 1e-24)
    return float(stats.chi2.ppf(LEVEL, 1) / 2 * square / slope)

"""From runs to a law: basins, the best of them, bootstrap draws over runs, profile likelihood."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from phenomjax.scaling.fit import projection
from phenomjax.scaling.fit.law import NAMES, Fit, law
from phenomjax.scaling.fit.projection import Problem, Solutions
from phenomjax.scaling.observations import Observations

BASINS = 6  # that are reported
POINTS = 25  # of a profile, to each side of the best value
ONE_BUDGET = 0.12  # decades of FLOPs between neighbours of one budget


@dataclass(frozen=True)
class Settings:
    """How a law is fitted.

    Attributes:
      delta: beyond which a residual of log(loss) counts linearly (Huber).
      bootstraps: draws over runs.
      least_units_per_parameter: runs of fewer units of data a parameter are left out: the law does
        not hold for models that have seen next to nothing.
      seed: of the draws.
    """

    delta: float = 1e-3
    bootstraps: int = 400
    least_units_per_parameter: float = 0.0
    seed: int = 0


def fit(runs: Observations, settings: Settings = Settings()) -> Fit:
    """The law of some runs.

    Args:
      runs: checked, six or more.
      settings: how.
    """
    used = runs.seen / runs.params >= settings.least_units_per_parameter
    params, seen, loss = runs.params[used], runs.seen[used], runs.loss[used]
    problem = Problem.of(params, seen, loss, settings.delta)
    found, cells = _basins(problem)
    best = problem.named(found.exponents, found.linear)
    residuals = np.log(loss) - np.log(law(best[:1], params, seen)[0])
    flops = np.where(np.isfinite(runs.flops), runs.flops, 6 * runs.params * runs.seen)[used]
    weights = drawn(budgets(flops), settings.bootstraps, settings.seed)
    return Fit(
        parameters=best[0],
        draws=_draws(problem, found, weights),
        scatter=scatter_of(residuals),
        runs=runs,
        used=used,
        basins=tuple(
            {**dict(zip(NAMES, map(float, one), strict=True)),
             "objective": float(value), "cells": int(count)}
            for one, value, count in zip(best, found.objective, cells, strict=True)
        ),
        profiles={},
        settings=dataclasses.asdict(settings),
    )  # fmt: skip


def _basins(problem: Problem) -> tuple[Solutions, Int[np.ndarray, "basins"]]:
    """The local minima of the objective, best first, and how many cells of the grid of exponents
    run down to each.
    """
    weights = np.ones((1, len(problem.size)))
    ends = projection.downhill(projection.surface(problem, weights))
    axis = projection.grid()
    flat, counts = np.unique(ends, return_counts=True)
    starts = np.column_stack([axis[flat // len(axis)], axis[flat % len(axis)]])
    found = projection.polish(problem, starts, weights)
    kept: list[int] = []
    cells: list[int] = []
    for one in np.argsort(found.objective):
        # cells are coarse: two of them may lead to one minimum
        near = [
            np.abs(np.log(found.exponents[one] / found.exponents[other])).max() < 0.01
            for other in kept
        ]
        if any(near):
            cells[near.index(True)] += int(counts[one])
        else:
            kept.append(int(one))
            cells.append(int(counts[one]))
    kept = kept[:BASINS]
    return (
        Solutions(found.exponents[kept], found.linear[kept], found.objective[kept]),
        np.array(cells[:BASINS]),
    )


def _draws(
    problem: Problem, found: Solutions, weights: Float[np.ndarray, "draws runs"]
) -> Float[np.ndarray, "draws 5"]:
    """The law of each draw: the best that is reached from every basin."""
    values = np.full(len(weights), np.inf)
    best = np.empty((len(weights), 5))
    for exponents in found.exponents[:3]:
        reached = projection.polish(
            problem, np.repeat(exponents[None], len(weights), 0), weights, tolerance=1e-5
        )
        better = reached.objective < values
        values[better] = reached.objective[better]
        best[better] = problem.named(reached.exponents, reached.linear)[better]
    return best


def budgets(flops: Float[np.ndarray, " runs"]) -> Int[np.ndarray, " runs"]:
    """The budget that each run belongs to, counted from the smallest: neighbours in FLOPs that
    lie close are of one.
    """
    order = np.argsort(flops)
    new = np.diff(np.log10(flops[order]), prepend=np.log10(flops[order[:1]])) > ONE_BUDGET
    groups = np.empty(len(flops), int)
    groups[order] = np.cumsum(new)
    return groups


def drawn(
    groups: Int[np.ndarray, " runs"], draws: int, seed: int
) -> Float[np.ndarray, "draws runs"]:
    """How often each run is in each bootstrap draw; a budget keeps its number of runs."""
    random = np.random.default_rng(seed)
    weights = np.zeros((draws, len(groups)))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        weights[:, rows] = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), draws)
    return weights


def scatter_of(residuals: Float[np.ndarray, " runs"]) -> float:
    """Standard deviation of a run about the law: the residuals have lost five degrees of
    freedom to it.
    """
    degrees = max(len(residuals) - len(NAMES), 1)
    return float(np.sqrt((residuals**2).sum() / degrees))

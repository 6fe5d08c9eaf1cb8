"""L(N, D) = E + A / N^alpha + B / (D - D0)^beta by variable projection: only alpha, beta and D0 are
searched, for given ones E, A and B follow from a non-negative linear problem.

The five-parameter problem is badly conditioned (A and alpha trade over many decades); its
projection on the exponents is not (arXiv 2603.22339, "VPNLS"; its surface is a picture with every
basin in it). The loss is Huber's of log L, as Hoffmann et al. 2022 (arXiv 2203.15556, equation 10)
and Besiroglu et al. 2024 have it. D0 = 0 is their law; D0 > 0 says that the first units count for
nothing (warm-up), which bends the law where runs saw little. All functions work on a batch of
problems at once, so a bootstrap is one call.

What is searched is a row of three: alpha, beta, and D0 over the smallest D.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

EXPONENTS = (0.01, 3.0)  # the smallest and the largest that are looked at
LARGEST_OFFSET = 0.9  # of the smallest D
PLAIN = np.diag([1.0, 1, 0])  # `along`: the law of the literature
CELLS = 28  # of the grid, along each exponent
_SUBSETS = np.array([[c in chosen for c in range(3)] for chosen in
                     ((0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,))], float)  # fmt: skip
_LOWEST = (EXPONENTS[0], EXPONENTS[0], 0.0)
_HIGHEST = (EXPONENTS[1], EXPONENTS[1], LARGEST_OFFSET)
_LONGEST = 0.5  # step of log L in the linear problem


@dataclass(frozen=True)
class Problem:
    """Runs as the search sees them: logarithms about their centre, which conditions the problem.

    Attributes:
      size: log N - mean.
      data: log D - mean.
      log_loss: log L.
      delta: of the Huber loss, in log L.
      centre: the two means.
    """

    size: Float[np.ndarray, "runs"]
    data: Float[np.ndarray, "runs"]
    log_loss: Float[np.ndarray, "runs"]
    delta: float
    centre: tuple[float, float]

    @staticmethod
    def of(
        params: Float[np.ndarray, "runs"],
        seen: Float[np.ndarray, "runs"],
        loss: Float[np.ndarray, "runs"],
        delta: float,
    ) -> "Problem":
        """The problem of runs of `params` parameters that read `seen` units."""
        size, data = np.log(params), np.log(seen)
        centre = float(size.mean()), float(data.mean())
        return Problem(size - centre[0], data - centre[1], np.log(loss), delta, centre)

    def left(self, searched: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "k runs"]:
        """log of the share of D that D0 leaves."""
        return np.log1p(-searched[:, 2:] * np.exp(self.data.min() - self.data))

    def columns(self, searched: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "k runs 3"]:
        """What E, A and B are multiplied with; 1 at the centre."""
        columns = np.empty((len(searched), len(self.size), 3))
        columns[..., 0] = 1
        columns[..., 1] = np.exp(-searched[:, :1] * self.size)
        columns[..., 2] = np.exp(-searched[:, 1:2] * (self.data + self.left(searched)))
        return columns

    def named(
        self, searched: Float[np.ndarray, "k 3"], linear: Float[np.ndarray, "k 3"]
    ) -> Float[np.ndarray, "k 6"]:
        """E, A, B, alpha, beta, D0 in units of nats, parameters and units of data."""
        scale = np.exp(searched[:, :2] * np.array(self.centre))
        offset = searched[:, 2:] * np.exp(self.data.min() + self.centre[1])
        return np.column_stack([linear[:, :1], linear[:, 1:] * scale, searched[:, :2], offset])

    def huber(
        self, residuals: Float[np.ndarray, "k runs"], weights: Float[np.ndarray, "#k runs"]
    ) -> Float[np.ndarray, "k"]:
        """The objective: sum over runs of Huber's loss of log(predicted / measured)."""
        size = np.abs(residuals)
        inside = np.minimum(size, self.delta)
        return np.einsum(
            "kn,kn->k", np.broadcast_to(weights, size.shape), inside * (size - inside / 2)
        )


@dataclass(frozen=True)
class Solutions:
    """Of a batch of problems: alpha, beta and D0 over the smallest D; E, and the other two at the
    centre; the objective.
    """

    searched: Float[np.ndarray, "k 3"]
    linear: Float[np.ndarray, "k 3"]
    objective: Float[np.ndarray, "k"]


def _non_negative(
    normal: Float[np.ndarray, "k 3 3"],
    moment: Float[np.ndarray, "k 3"],
) -> Float[np.ndarray, "k 3"]:
    """argmin over x >= 0 of x' normal x / 2 - moment' x: with three unknowns, the best feasible of
    the seven sets of those that are not 0.
    """
    trace = np.trace(normal, axis1=1, axis2=2)[:, None]
    ridge = 1e-13 * trace[..., None] * np.eye(3)
    best, lowest = np.zeros_like(moment), np.full(len(moment), np.inf)
    for free in _SUBSETS:
        pair = free[:, None] * free
        system = normal * pair + ridge + trace[..., None] * np.diag(1 - free)
        found = np.linalg.solve(system, (moment * free)[..., None])[..., 0]
        value = -0.5 * (moment * found * free).sum(1)
        value[(found < 0).any(1)] = np.inf
        better = value < lowest
        best[better], lowest[better] = found[better], value[better]
    return best


def _linear_part(
    problem: Problem,
    columns: Float[np.ndarray, "k runs 3"],
    weights: Float[np.ndarray, "#k runs"],
    steps: int,
    start: Float[np.ndarray, "k 3"] | None,
    floor: Float[np.ndarray, "k"] | None,
) -> tuple[Float[np.ndarray, "k 3"], Float[np.ndarray, "k runs"]]:
    """E, A, B of least Huber loss for given columns, and log(predicted / measured): non-negative
    least squares of log L about the last solution, reweighted.
    """
    loss = np.exp(problem.log_loss)
    linear, residuals = start, np.zeros(columns.shape[:2])
    predicted = np.broadcast_to(loss, residuals.shape)
    for step in range(steps + 1):
        if linear is not None:
            predicted = np.maximum(np.einsum("knc,kc->kn", columns, linear), 1e-300)
            residuals = np.log(predicted) - problem.log_loss
            if step == steps:
                break
        robust = weights * problem.delta / np.maximum(np.abs(residuals), problem.delta)
        if linear is None:
            robust = np.broadcast_to(weights, residuals.shape)
        scaled = columns / predicted[..., None]
        target = 1 - np.clip(residuals, -_LONGEST, _LONGEST)
        if floor is not None:
            target = target - floor[:, None] / predicted
            scaled = scaled * np.array([0.0, 1, 1])
        weighted = scaled * robust[..., None]
        normal = np.einsum("knc,knd->kcd", weighted, scaled, optimize=True)
        moment = np.einsum("knc,kn->kc", weighted, target)
        linear = _non_negative(normal, moment)
        if floor is not None:
            linear[:, 0] = floor
    assert linear is not None
    return linear, residuals


def solve(
    problem: Problem,
    searched: Float[np.ndarray, "k 3"],
    weights: Float[np.ndarray, "#k runs"],
    *,
    steps: int = 12,
    floor: Float[np.ndarray, "k"] | None = None,
) -> Solutions:
    """E, A and B for given alpha, beta and D0.

    Args:
      problem: the runs.
      searched: of each problem.
      weights: of the runs; a run of weight 0 is left out.
      steps: of the reweighting.
      floor: E, where it is given.
    """
    linear, residuals = _linear_part(
        problem, problem.columns(searched), weights, steps, None, floor
    )
    return Solutions(searched, linear, problem.huber(residuals, weights))


def polish(
    problem: Problem,
    searched: Float[np.ndarray, "k 3"],
    weights: Float[np.ndarray, "#k runs"],
    *,
    along: Float[np.ndarray, "#k 3 3"] = PLAIN[None],
    floor: Float[np.ndarray, "k"] | None = None,
    steps: int = 150,
    tolerance: float = 1e-7,
) -> Solutions:
    """The nearest minimum from where the search starts: Gauss-Newton steps of the projected problem
    (Kaufman's), damped, E, A and B solved anew after each.

    Args:
      problem: the runs.
      searched: where each problem starts.
      weights: of the runs.
      along: projects each step: what a form of the law, or a profile, holds fixed or tied.
      floor: E, where a profile holds it fixed.
      steps: at most.
      tolerance: of the exponents, where it stops.
    """
    count = len(searched)
    weights = np.broadcast_to(weights, (count, weights.shape[1]))
    along = np.broadcast_to(along, (count, 3, 3))
    at = np.array(searched, float)
    linear, residuals = _linear_part(problem, problem.columns(at), weights, 12, None, floor)
    value, damping = problem.huber(residuals, weights), np.full(count, 1e-3)
    live = np.arange(count)
    for _ in range(steps):
        # of those that still move
        columns = problem.columns(at[live])
        step = _step(problem, at[live], columns, linear[live], residuals[live], weights[live],
                              damping[live], along[live], floor is None)  # fmt: skip
        trial = np.clip(at[live] + step, _LOWEST, _HIGHEST)
        moved, left = _linear_part(problem, problem.columns(trial), weights[live], 2, linear[live],
                                   None if floor is None else floor[live])  # fmt: skip
        reached = problem.huber(left, weights[live])
        better = reached <= value[live]
        far = np.abs(trial - at[live]).max(1)
        chosen = live[better]
        at[chosen], linear[chosen] = trial[better], moved[better]
        residuals[chosen], value[chosen] = left[better], reached[better]
        damping[live] = np.clip(np.where(better, damping[live] / 5, damping[live] * 8), 1e-9, 1e9)
        live = live[(far > tolerance) & (damping[live] < 1e8)]
        if not len(live):
            break
    return Solutions(at, linear, value)


def _step(
    problem: Problem,
    at: Float[np.ndarray, "k 3"],
    columns: Float[np.ndarray, "k runs 3"],
    linear: Float[np.ndarray, "k 3"],
    residuals: Float[np.ndarray, "k runs"],
    weights: Float[np.ndarray, "k runs"],
    damping: Float[np.ndarray, "k"],
    along: Float[np.ndarray, "k 3 3"],
    floor_free: bool,
) -> Float[np.ndarray, "k 3"]:
    """The damped Gauss-Newton step of what is searched, with E, A and B following."""
    predicted = np.exp(residuals + problem.log_loss)[..., None]
    slopes = np.empty((*columns.shape[:2], 6))
    slopes[..., :3] = columns / predicted
    terms = columns[..., 1:] * linear[:, None, 1:] / predicted
    slopes[..., 3] = -terms[..., 0] * problem.size
    left = problem.left(at)
    slopes[..., 4] = -terms[..., 1] * (problem.data + left)
    smallest = np.exp(problem.data.min() - problem.data - left)
    slopes[..., 5] = terms[..., 1] * at[:, 1:2] * smallest
    robust = weights * problem.delta / np.maximum(np.abs(residuals), problem.delta)
    weighted = slopes * robust[..., None]
    normal = np.einsum("knc,knd->kcd", weighted, slopes, optimize=True)
    gradient = np.einsum("knc,kn->kc", weighted, residuals)
    free = linear > 0  # those at 0 stay there in this step
    free[:, 0] &= floor_free
    pair = free[:, :, None] & free[:, None, :]
    trace = np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-300
    inner = normal[:, :3, :3] * pair + trace * ((~free)[:, :, None] * np.eye(3) + 1e-14 * np.eye(3))
    cross = normal[:, :3, 3:] * free[:, :, None]
    follows = np.linalg.solve(
        inner, np.concatenate([cross, (gradient[:, :3] * free)[..., None]], 2)
    )
    outer = normal[:, 3:, 3:] - np.einsum("kab,kac->kbc", cross, follows[..., :3])
    slope = gradient[:, 3:] - np.einsum("kab,ka->kb", cross, follows[..., 3])
    outer = np.swapaxes(along, 1, 2) @ outer @ along
    slope = np.einsum("kab,ka->kb", along, slope)
    diagonal = np.einsum("kaa->ka", outer)
    outer = outer + (damping[:, None] * diagonal + 1e-12 * trace[:, 0])[..., None] * np.eye(3)
    step = -np.einsum("kab,kb->ka", along, np.linalg.solve(outer, slope[..., None])[..., 0])
    longest = np.abs(step).max(1, keepdims=True)
    return step * np.minimum(1, 0.2 / np.maximum(longest, 1e-300))


def grid() -> Float[np.ndarray, "cells"]:
    """The exponents that the search looks at, evenly in their logarithm."""
    return np.geomspace(*EXPONENTS, CELLS)


def surface(
    problem: Problem, weights: Float[np.ndarray, "1 runs"]
) -> Float[np.ndarray, "cells cells"]:
    """The objective at each alpha (rows) and beta of the grid, E, A and B solved."""
    axis = grid()
    rows = [
        solve(
            problem, np.column_stack([np.full(CELLS, alpha), axis, np.zeros(CELLS)]), weights
        ).objective
        for alpha in axis
    ]
    return np.stack(rows)


def downhill(heights: Float[np.ndarray, "a b"]) -> Int[np.ndarray, "a b"]:
    """The flat index of the local minimum that each cell of a surface runs down to, by the lowest
    of its eight neighbours.
    """
    padded = np.pad(heights, 1, constant_values=np.inf)
    rows, columns = heights.shape
    shifts = [(i, j) for i in (0, 1, 2) for j in (0, 1, 2)]
    around = np.stack([padded[i : i + rows, j : j + columns] for i, j in shifts])
    lowest = around.argmin(0)
    lowest[around[4] <= around.min(0)] = 4
    offset = np.array([(i - 1) * columns + (j - 1) for i, j in shifts])
    to = np.arange(rows * columns) + offset[lowest].ravel()
    while (to[to] != to).any():
        to = to[to]
    return to.reshape(heights.shape)

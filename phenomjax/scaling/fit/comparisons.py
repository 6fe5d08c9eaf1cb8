"""Two other ways to fit what `law` fits, as the field has them, to be set beside it: five
parameters at once, and parabolas along iso-FLOP curves.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.optimize import minimize

from phenomjax.scaling.fit.law import Fit, effective, law
from phenomjax.scaling.observations.runs import budget_of

Values = Float64[np.ndarray, " runs"]

DELTA = 1e-3  # of the Huber loss on the log of the loss: Hoffmann et al. 2022
SIZES = 4  # a parabola through three points has no error to judge it by
# Where the searches begin: every combination of floor / lowest loss, exponents, and shares of the
# reducible loss (of a typical run) that are due to the model.
FLOORS, EXPONENTS, SHARES = (0.1, 0.5, 0.9), (0.1, 0.4, 0.9), (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Basin:
    """A local optimum of L(N, D) = E + A / N^alpha + B / D^beta.

    Attributes:
      objective: sum of the Huber losses of the log losses.
      starts: how many searches ended here.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    objective: float
    starts: int


def five_parameters(
    params: Values, seen: Values, loss: Values, delta: float = DELTA
) -> list[Basin]:
    """All basins that L-BFGS finds from a grid of starts, best first.

    The objective is that of Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556, equation 3):
    the Huber loss of log loss - logsumexp(a - alpha log N, b - beta log D, e), refitted by
    Besiroglu et al. 2024 (https://arxiv.org/abs/2404.10102). Here N and D are counted in their
    geometric means: the same optima, in a problem that is conditioned far better.

    Args:
      params: N.
      seen: D, in units of the data.
      loss: positive.
      delta: beyond which an error of the log loss counts linearly.
    """
    log_params, log_seen, log_loss = np.log(params), np.log(seen), np.log(loss)
    middle_params, middle_seen = log_params.mean(), log_seen.mean()
    x, y = log_params - middle_params, log_seen - middle_seen

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        e, a, b, alpha, beta = point
        terms = np.stack([np.full_like(x, e), a - alpha * x, b - beta * y])
        top = terms.max(0)
        shares = np.exp(terms - top)
        total = shares.sum(0)
        errors = top + np.log(total) - log_loss
        slopes = np.clip(errors, -delta, delta)
        value = np.where(
            np.abs(errors) <= delta, errors**2 / 2, delta * (np.abs(errors) - delta / 2)
        )
        e_, a_, b_ = slopes * shares / total
        gradient = [e_.sum(), a_.sum(), b_.sum(), -(a_ @ x), -(b_ @ y)]
        # In units of delta squared, so that the search does not stop at its absolute tolerance.
        return float(value.sum()) / delta**2, np.array(gradient) / delta**2

    lowest, typical = float(loss.min()), float(np.median(loss))
    ends = []
    for floor in FLOORS:
        for share in SHARES:
            above = typical - floor * lowest
            middle = np.log([floor * lowest, share * above, (1 - share) * above])
            for alpha in EXPONENTS:
                for beta in EXPONENTS:
                    start = np.array([*middle, alpha, beta])
                    # E may go to zero, exponents may not change their sign.
                    bounds = [(-30, None)] * 3 + [(0, 5)] * 2
                    found = minimize(
                        objective,
                        start,
                        jac=True,
                        method="L-BFGS-B",
                        bounds=bounds,
                        options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13, "gtol": 1e-9},
                    )
                    ends.append((float(found.fun) * delta**2, found.x))
    ends.sort(key=lambda end: end[0])
    basins: list[tuple[float, np.ndarray, int]] = []
    for value, point in ends:
        for at, (best, where, count) in enumerate(basins):
            if value <= best * 1.001 + 1e-9 and np.allclose(
                point[3:], where[3:], rtol=0.02, atol=1e-3
            ):
                basins[at] = best, where, count + 1
                break
        else:
            basins.append((value, point, 1))
    return [
        Basin(
            E=float(np.exp(e)),
            A=float(np.exp(a + alpha * middle_params)),
            B=float(np.exp(b + beta * middle_seen)),
            alpha=float(alpha),
            beta=float(beta),
            objective=value,
            starts=count,
        )
        for value, (e, a, b, alpha, beta), count in basins
    ]


@dataclass(frozen=True)
class Parabolas:
    """The best size at each budget, and the power law through these.

    Attributes:
      flops: budgets whose parabola has its minimum among the sizes that ran (geometric means).
      params: the best N of each.
      seen: D of a run of that size, by the mean of C / N D among the budget's runs.
      loss: at the minimum.
      exponent: a of N_best = G C^a, or NaN with fewer than two budgets.
      log_scale: log G.
      unused: budgets without a minimum among their sizes, or with fewer than `SIZES` of them.
    """

    flops: Float64[np.ndarray, " budgets"]
    params: Float64[np.ndarray, " budgets"]
    seen: Float64[np.ndarray, " budgets"]
    loss: Float64[np.ndarray, " budgets"]
    exponent: float
    log_scale: float
    unused: int

    def best_params(self, flops: float) -> float:
        """N of the best model for a budget."""
        return float(np.exp(self.log_scale + self.exponent * np.log(flops)))


def parabolas(params: Values, seen: Values, flops: Values, loss: Values) -> Parabolas:
    """Iso-FLOP curves: approach 2 of Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556).

    loss = c + b log N + a log^2 N of each budget's runs, then a line through the logarithms of the
    minima. The valley of a sum of two powers is no parabola (it is steeper on one side wherever
    alpha is not beta, and flatter far from its minimum), so that the minima are biased without any
    noise: `bias` measures by how much.
    """
    budget, best, unused = budget_of(flops), [], 0
    for number in range(budget.max() + 1):
        runs = budget == number
        sizes = np.log(params[runs])
        if len(np.unique(sizes.round(6))) < SIZES:
            unused += 1
            continue
        middle = sizes.mean()
        square, slope, level = np.polyfit(sizes - middle, loss[runs], 2)
        where = -slope / (2 * square) + middle if square > 0 else np.inf
        if not sizes.min() <= where <= sizes.max():
            unused += 1
            continue
        budget_flops = np.exp(np.log(flops[runs]).mean())
        per_unit = np.exp(np.log(flops[runs] / (params[runs] * seen[runs])).mean())
        size = np.exp(where)
        minimum = level - slope**2 / (4 * square)
        best.append((budget_flops, size, budget_flops / (per_unit * size), minimum))
    budgets, sizes, units, minima = np.array(best, np.float64).reshape(-1, 4).T
    exponent = log_scale = np.nan
    if len(best) > 1:
        exponent, log_scale = np.polyfit(np.log(budgets), np.log(sizes), 1)
    return Parabolas(budgets, sizes, units, minima, float(exponent), float(log_scale), unused)


@dataclass(frozen=True)
class Bias:
    """What parabolas get wrong without any noise.

    Attributes:
      exponent: theirs minus the law's.
      size: their best N over the law's, at a budget beyond the runs.
      reach: that budget over the largest of the runs.
    """

    exponent: float
    size: float
    reach: float


def bias(
    params: Values,
    seen: Values,
    flops: Values,
    parameters: Float64[np.ndarray, "5"],
    reach: float = 100.0,
) -> Bias:
    """The bias of parabolas fitted to the losses that a law has at just these runs.

    The law's own best size is G (C / k)^(beta / (alpha + beta)), with
    G = (alpha A / (beta B))^(1 / (alpha + beta)) and C = k N D (Hoffmann et al. 2022, equation 4).
    """
    found = parabolas(params, seen, flops, law(parameters[None], params, seen)[0])
    _, A, B, alpha, beta = map(float, parameters)
    if not A * B * alpha * beta:  # no best size
        return Bias(math.nan, math.nan, reach)
    budget = reach * float(flops.max())
    per_unit = float(np.exp(np.log(flops / (params * seen)).mean()))
    scale = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    exponent = beta / (alpha + beta)
    best = scale * (budget / per_unit) ** exponent
    return Bias(found.exponent - exponent, found.best_params(budget) / best, reach)


def beside(fit: Fit) -> dict[str, Any]:
    """The two other fits of the runs of a fit, for `fit.json`: `five_parameters` (its basins, best
    first) and `parabolas` (their exponent and their bias at these runs).
    """
    runs = fit.runs.take(fit.used)
    fresh = effective(runs.seen, runs.unique, fit.half_life)
    basins = five_parameters(runs.params, fresh, runs.loss)
    curves = parabolas(runs.params, runs.seen, runs.cost, runs.loss)
    wrong = bias(runs.params, runs.seen, runs.cost, fit.parameters)
    known = np.isfinite(curves.exponent)
    return {
        "five_parameters": [dataclasses.asdict(basin) for basin in basins],
        "parabolas": {
            "budgets": len(curves.flops),
            "unused": curves.unused,
            "exponent": curves.exponent if known else None,
            "bias": dataclasses.asdict(wrong) if known and np.isfinite(wrong.size) else None,
        },
    }


def described(found: Mapping[str, Any]) -> str:
    """Both of `beside`, for a reader."""
    best, *others = found["five_parameters"]
    curves, wrong = found["parabolas"], found["parabolas"]["bias"]
    values = ", ".join(f"{name} {best[name]:.5g}" for name in ("E", "A", "B", "alpha", "beta"))
    searches = sum(basin["starts"] for basin in found["five_parameters"])
    five = (
        f"Beside it, five parameters at once (L-BFGS): {values}; {best['starts']} of {searches}"
        f" searches end there, the rest in {len(others)} other basins."
    )
    if curves["exponent"] is None:
        return (
            f"{five}\nParabolas: {curves['budgets']} budgets have {SIZES} sizes around a minimum,"
            " two are needed."
        )
    said = (
        f"{five}\nParabolas of {curves['budgets']} budgets: the best N goes with"
        f" C^{curves['exponent']:.3f}."
    )
    if wrong is None:
        return f"{said} Their bias cannot be told, for the law has no best size."
    return (
        f"{said} Their bias, without any noise at these runs:"
        f" {wrong['exponent']:+.3f} of the exponent, {100 * (wrong['size'] - 1):+.0f} % of the best"
        f" size {wrong['reach']:.0f} x beyond."
    )

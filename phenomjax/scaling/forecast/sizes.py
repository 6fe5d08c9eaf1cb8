"""The best size of a model for a budget of FLOPs, and how much another size loses."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from phenomjax.scaling.fit.law import Fit, effective, law
from phenomjax.system.errors import UserError
from phenomjax.training.size import Size

WITHIN = 0.01  # of the loss: how flat the optimum is
GRID = 2000
FAR_BELOW = 100.0  # times less than the smallest fitted FLOPs


@dataclass(frozen=True)
class Cost:
    """FLOPs of a unit of data in a family of models: factor * N^power; 6 N where nothing is known
    (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361).
    """

    factor: float = 6.0
    power: float = 1.0

    def of(self, params: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """FLOPs of a unit, of models of so many parameters."""
        return self.factor * params**self.power


def unit_cost(fit: Fit, size: Size | None = None) -> Cost:
    """What a unit costs in the family of the fitted runs.

    Args:
      fit: of runs that know their FLOPs, or not.
      size: of a configuration, which the result is exact for.
    """
    known = fit.used & np.isfinite(fit.runs.flops)
    x = np.log(fit.runs.params[known])
    y = np.log(fit.runs.flops[known] / fit.runs.seen[known])
    power = float(np.polyfit(x, y, 1)[0]) if len(np.unique(x.round(6))) > 1 else 1.0
    factor = float(np.exp(np.mean(y - power * x))) if len(x) else 6.0
    if size is not None:
        factor = size.flops_per_step / size.units_per_step / size.params**power
    return Cost(factor, power)


@dataclass(frozen=True)
class Best:
    """The best size for a budget.

    Attributes:
      flops: the budget.
      params, seen, loss: of the run with the lowest loss.
      low, high: 90 % interval of `params`, of the bootstrap.
      smallest, largest: parameters of the sizes whose loss is within 1 % of the lowest.
    """

    flops: float
    params: float
    seen: float
    loss: float
    low: float
    high: float
    smallest: float
    largest: float


def best(fit: Fit, flops: float, cost: Cost, unique: float = math.nan) -> Best:
    """The size at which a budget reaches the lowest loss, by the law.

    Args:
      fit: whose law it is.
      flops: the budget.
      cost: of a unit of data.
      unique: units of data that there are; NaN: as many as are wanted.

    Raises:
      UserError: by the law the loss falls with size, or with data, alone.
    """
    fitted = fit.runs.params[fit.used]
    params = np.geomspace(fitted.min() / 1e3, fitted.max() * 1e5, GRID)
    seen = flops / cost.of(params)
    there = np.full_like(seen, unique)
    loss = fit.loss(params, seen, there)
    at = int(np.argmin(loss))
    smallest = fit.domain["flops"][0]
    if at in (0, GRID - 1) and flops < smallest / FAR_BELOW:
        raise UserError(
            f"`budget` is {flops:.3g} FLOPs, where the smallest fitted run had {smallest:.3g}: the"
            " law says nothing of runs so small. Give the budget of a run that is worth a forecast."
        )
    if at in (0, GRID - 1):
        alone = "data" if at == 0 else "size"
        raise UserError(
            f"There is no best size for a budget: by this law the loss falls with {alone} alone"
            f" (A {fit.forecaster[1]:.3g}, B {fit.forecaster[2]:.3g}). The fitted runs do not tell"
            " the two apart: train several sizes at each of several budgets, as `python -m"
            " phenomjax.scaling ladder` does, and fit again."
        )
    fresh = effective(seen, there, fit.half_lives[:, None]) if len(fit.half_lives) else seen
    draws = fit.forecast_draws if len(fit.forecast_draws) else fit.forecaster[None]
    drawn = params[np.argmin(law(draws, params, fresh), axis=1)]
    low, high = np.quantile(drawn, [0.05, 0.95])
    flat = params[loss <= (1 + WITHIN) * loss[at]]
    return Best(
        flops, float(params[at]), float(seen[at]), float(loss[at]), float(low), float(high),
        float(flat[0]), float(flat[-1]),
    )  # fmt: skip

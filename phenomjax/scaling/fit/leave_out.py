"""How far a fit can be believed: the largest budgets are left out, forecast from those below, and
compared with what their runs reached.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from phenomjax.scaling.fit import estimate, repeated
from phenomjax.scaling.fit.law import Fit, Prediction
from phenomjax.scaling.observations.runs import budget_of

FEWEST_RUNS, FEWEST_BUDGETS = 6, 2  # that a law is fitted to
CUTS, FARTHEST = 5, 1000.0  # how many are tried, and how far beyond the fitted FLOPs
DRAWS = 200  # of the bootstrap of each

Rows = Bool[np.ndarray, " runs"]


@dataclass(frozen=True)
class LeftOut:
    """What a fit of the smaller budgets said of the larger ones.

    Attributes:
      below: FLOPs; runs of fewer were fitted, all others forecast.
      fitted: runs.
      forecasts: runs.
      reach: the largest FLOPs that were forecast over the largest that were fitted.
      median_error, worst_error: of |forecast / loss - 1|.
      median_error_of_reducible, worst_error_of_reducible: of |forecast - loss| / (loss - E), with E
        of the fit to all runs. An error of the whole loss flatters: most of it is E.
      median_signed_error: of forecast / loss - 1, whether forecasts are too high (+) or too low.
      coverage: share of the runs within their intervals.
    """

    below: float
    fitted: int
    forecasts: int
    reach: float
    median_error: float
    worst_error: float
    median_error_of_reducible: float
    worst_error_of_reducible: float
    median_signed_error: float
    coverage: float


def leave_out(
    flops: Float64[np.ndarray, " runs"],
    loss: Float64[np.ndarray, " runs"],
    floor: float,
    forecast: Callable[[Rows, Rows], Prediction],
) -> list[LeftOut]:
    """Errors of forecasts of the largest budgets, one, two, … of them left out.

    Args:
      flops: of the runs.
      loss: of the runs, in nats.
      floor: E of the fit to all of them.
      forecast: fits the runs of the first mask, and forecasts those of the second, in their order.
    """
    found = []
    for cut in possible_cuts(flops):
        fitted = flops < cut
        said, reached = forecast(fitted, ~fitted), loss[~fitted]
        relative = said.loss / reached - 1
        # A run below the floor of the fit has no reducible loss to speak of.
        reducible = np.where(reached > floor, reached - floor, np.nan)
        of_reducible = np.abs(said.loss - reached) / reducible
        known = of_reducible[np.isfinite(of_reducible)]
        found.append(
            LeftOut(
                below=float(cut),
                fitted=int(fitted.sum()),
                forecasts=int((~fitted).sum()),
                reach=float(flops.max() / flops[fitted].max()),
                median_error=float(np.median(np.abs(relative))),
                worst_error=float(np.abs(relative).max()),
                median_error_of_reducible=float(np.median(known)) if len(known) else np.nan,
                worst_error_of_reducible=float(known.max()) if len(known) else np.nan,
                median_signed_error=float(np.median(relative)),
                coverage=float(((said.low <= reached) & (reached <= said.high)).mean()),
            )
        )
    return found


def of_fit(fit: Fit, settings: estimate.Settings) -> list[LeftOut]:
    """What a fit says of the largest budgets of its own runs, from those below.

    Args:
      fit: of all runs.
      settings: it was fitted with.
    """
    runs = fit.runs.take(fit.used)
    fewer = dataclasses.replace(settings, bootstraps=min(settings.bootstraps, DRAWS))

    def forecast(fitted: Rows, left: Rows) -> Prediction:
        rest = runs.take(left)
        below = repeated.fit(runs.take(fitted), fewer)
        return below.predict(rest.params, rest.seen, unique=rest.unique)

    return leave_out(runs.cost, runs.loss, fit.values["E"], forecast)


def possible_cuts(flops: Float64[np.ndarray, " runs"]) -> list[float]:
    """The smallest FLOPs of budgets that may be left out with all above them, largest first; of
    many, `CUTS` that are evenly spread in the logarithm.
    """
    budget = budget_of(flops)
    cuts = [
        float(flops[budget == number].min())
        for number in range(FEWEST_BUDGETS, budget.max() + 1)
        if (budget < number).sum() >= FEWEST_RUNS
        and flops.max() <= FARTHEST * flops[budget < number].max()
    ]
    if len(cuts) > CUTS:
        wanted = np.linspace(np.log(cuts[0]), np.log(cuts[-1]), CUTS)
        cuts = sorted({min(cuts, key=lambda cut: abs(np.log(cut) - one)) for one in wanted})
    return cuts[::-1]


def described(found: Sequence[LeftOut]) -> str:
    """A table for a reader."""
    if not found:
        return (
            f"No budget can be left out: below it {FEWEST_RUNS} runs of {FEWEST_BUDGETS} budgets"
            " are needed. How far this fit can be believed was not measured."
        )
    lines = [
        "Left out and forecast from the budgets below (error of the loss, and of what is above E):",
        "  fitted below    runs  forecast   reach    median    worst   reducible  in interval",
    ]
    for one in found:
        lines.append(
            f"  {one.below:<14.2g} {one.fitted:>5} {one.forecasts:>9} {one.reach:>6.3g}x"
            f" {one.median_error:>8.2%} {one.worst_error:>8.2%}"
            f" {one.median_error_of_reducible:>11.1%} {one.coverage:>12.0%}"
        )
    return "\n".join(lines)

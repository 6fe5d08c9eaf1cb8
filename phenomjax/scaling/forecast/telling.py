"""A forecast in words."""

import math
from collections.abc import Mapping, Sequence

from phenomjax.scaling.fit import downstream
from phenomjax.scaling.fit.law import Fit
from phenomjax.scaling.forecast import expense
from phenomjax.scaling.forecast.record import Forecast
from phenomjax.scaling.forecast.sizes import WITHIN, Best
from phenomjax.training.size import Size

FAR = 3.0  # times the largest fitted number, beyond which it is said
REPEATED = 1.2  # times the most passes over the data that a fitted run made


def told(
    forecast: Forecast,
    fit: Fit,
    size: Size,
    best: Best | str,
    leave_out: Sequence[Mapping[str, float]],
) -> str:
    """All of a forecast.

    Args:
      forecast: of a configuration.
      fit: that it stands on.
      size: of the configuration.
      best: size for a budget, or why there is none.
      leave_out: how the fit forecast its own largest budgets.
    """
    unit, passes = forecast.unit, forecast.seen / size.units_per_epoch
    domain = fit.domain["flops"]
    lines = [
        f"{forecast.params:,} parameters, {forecast.seen:,.0f} {unit} ({passes:.3g} passes over"
        f" {size.units_per_epoch:,}), {forecast.flops:.3g} FLOPs",
        f"val/loss at the end: {forecast.text()}",
        f"  of {int(fit.used.sum())} runs from {domain[0]:.2g} to {domain[1]:.2g} FLOPs; this one"
        f" has {forecast.extrapolation:.3g} x those of the largest",
        f"  {believed(leave_out, forecast.extrapolation)}",
    ]
    lines += [f"  {remark}" for remark in remarks(fit, forecast.params, forecast.seen, passes)]
    if not forecast.curve:
        lines.append("  no curves of fitted runs of this schedule are known: only the end is told")
    lines.append(best if isinstance(best, str) else best_size(best, unit))
    if not isinstance(best, str) and math.isclose(best.flops, forecast.flops):
        lines.append(
            f"  this one: {100 * (forecast.loss / best.loss - 1):+.2f} % above the lowest loss"
        )
    lines += downstream.told(forecast.metrics)
    if forecast.cost:
        lines.append(expense.told(dict(forecast.cost)))
    return "\n".join(lines)


def believed(leave_out: Sequence[Mapping[str, float]], extrapolation: float) -> str:
    """What the fit measured of forecasts that reach as far, or as far as it could."""
    if not leave_out:
        return "how far such forecasts hold was not measured: too few budgets to leave one out"
    one = min(leave_out, key=lambda one: abs(math.log(one["reach"] / max(extrapolation, 1.0))))
    return (
        f"of its own runs it forecast {one['forecasts']} from those below, up to"
        f" {one['reach']:.3g} x: median error {100 * one['median_error']:.2f} % of the loss,"
        f" {100 * one['median_error_of_reducible']:.1f} % of what was reducible;"
        f" {100 * one['coverage']:.0f} % in their intervals"
    )


def remarks(fit: Fit, params: float, seen: float, passes: float) -> list[str]:
    """What a reader must know to believe the number.

    Args:
      fit: that it stands on.
      params, seen: of the forecast.
      passes: over its data; NaN where unknown.
    """
    found, used = [], fit.used
    if not fit.identified:
        low, high = fit.interval("E")
        found.append(
            f"E is not identified ({low:.3g} to {high:.3g}): trust the loss near the fitted runs,"
            " not its limit, nor errors of the reducible loss"
        )
    for what, value, name in (("parameters", params, "params"), ("units of data", seen, "seen")):
        smallest = fit.domain[name][0]
        if value < smallest / FAR:
            found.append(
                f"{value:.3g} {what}, where the smallest fitted run had {smallest:.3g}: the law is"
                " no guide to runs so small"
            )
    ratio = fit.runs.seen[used] / fit.runs.params[used]
    here = seen / params
    if not ratio.min() / FAR <= here <= ratio.max() * FAR:
        found.append(
            f"{here:.3g} units of data a parameter, where the fitted runs had {ratio.min():.3g} to"
            f" {ratio.max():.3g}: that is another direction than they were fitted in"
        )
    known = (fit.runs.seen / fit.runs.unique)[used]
    most = max([1.0, *(float(one) for one in known if math.isfinite(one))])
    if passes > REPEATED * most:
        how = (
            "what so many repetitions are worth is a guess"
            if math.isfinite(fit.half_life)
            else "data that are read again teach less than the law says, so the loss will be higher"
        )
        found.append(
            f"{passes:.3g} passes over its data, the fitted runs at most {most:.3g}: {how}. Train"
            " on more data, or fit runs that repeat theirs as often (data.subset in the ladder)"
        )
    return found


def best_size(best: Best, unit: str) -> str:
    """The best size for a budget."""
    return (
        f"best size for {best.flops:.3g} FLOPs: {best.params:,.3g} parameters (90 % interval"
        f" {best.low:.3g} to {best.high:.3g}) on {best.seen:,.3g} {unit}, loss {best.loss:.4f};"
        f" {best.smallest:.3g} to {best.largest:.3g} parameters are within {100 * WITHIN:.0f} % of"
        " it"
    )

"""Losses of runs and the law fitted to them, as matplotlib figures: against FLOPs, along each
budget, and what of the law is known.

One colour from light to dark is an order (of sizes, of budgets), the second is what was forecast
and what came of it; both are told apart by markers, too.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from phenomjax.figures.style import COLOURS, DARK, GREY, HEADING, open_frame
from phenomjax.scaling.fit.law import LEVEL, Fit
from phenomjax.scaling.forecast.sizes import unit_cost
from phenomjax.scaling.observations import Observations
from phenomjax.scaling.observations.runs import budget_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

Values = Float64[np.ndarray, " n"]

ORDER = ("#9ecae1", "#0072B2", "#08306b")  # light to dark
FORECAST = COLOURS[1]
MOST_NAMED = 9  # sizes or budgets that a legend lists; more are a scale of colours
GRID = 200  # points of a curve


@dataclass(frozen=True)
class Forecast:
    """A forecast, and what came of it.

    Attributes:
      outcome: the loss of the run, or None while it is not known.
    """

    flops: float
    params: float
    loss: float
    low: float
    high: float
    level: float
    outcome: float | None = None


def against_flops(
    runs: Observations, fit: Fit | None, forecasts: Sequence[Forecast] = (), *, title: str = ""
) -> "Figure":
    """Loss against FLOPs, a colour a size, with the law of each size, the best size at each
    budget, its band, and forecasts beside their outcomes.

    Args:
      runs: with their FLOPs.
      fit: their law; the band is the interval that a single run falls into.
      forecasts: of runs that are not among them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 5.0), layout="constrained")
    axis = figure.subplots()
    draw_against_flops(axis, runs, fit, forecasts)
    axis.set_title(title, loc="left", **HEADING)
    return figure


def draw_against_flops(
    axis: "Axes", runs: Observations, fit: Fit | None, forecasts: Sequence[Forecast] = ()
) -> None:
    """Draws `against_flops` into an axis."""
    last = max([runs.flops.max(), *(one.flops for one in forecasts)])
    sizes, group = _groups(runs.params)
    colours = _colours(len(sizes))
    for number, (size, colour) in enumerate(zip(sizes, colours, strict=True)):
        mine = group == number
        axis.scatter(
            runs.flops[mine],
            runs.loss[mine],
            s=22,
            color=colour,
            linewidths=0,
            zorder=3,
            label=f"{count(size)} parameters",
        )
        if fit is not None:
            flops = np.geomspace(runs.flops[mine].min() / 1.5, runs.flops[mine].max() * 1.5, GRID)
            params = np.full(GRID, size)
            loss = _expected(fit, params, flops / unit_cost(fit).of(params))
            axis.plot(flops, loss, color=colour, linewidth=1, alpha=0.8)
    if fit is not None:
        largest = max([sizes.max(), *(one.params for one in forecasts)])
        draw_law(axis, fit, runs.flops.min(), last, largest)
    draw_forecasts(axis, forecasts)
    if last > runs.flops.max():
        axis.axvline(runs.flops.max(), color=GREY, linewidth=1, linestyle=":")
        axis.annotate(
            "fitted ",
            (runs.flops.max(), 0.02),
            xycoords=axis.get_xaxis_transform(),
            ha="right",
            fontsize=8,
            color=GREY,
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    plain_ticks(axis)
    axis.set_xlabel("FLOPs of training")
    axis.set_ylabel("validation loss")
    open_frame(axis)
    _legend(axis, sizes, "parameters")


def draw_law(axis: "Axes", fit: Fit, first: float, last: float, largest: float = 0.0) -> None:
    """The loss of the best size at each budget, and its band.

    Args:
      first, last: the least and the most FLOPs.
      largest: parameters, where sizes above those of the fit count.
    """
    runs = known_flops(fit)
    flops = np.geomspace(first, last, GRID)
    loss, low, high = _best(fit, flops, runs.params.min(), max(largest, runs.params.max()))
    axis.plot(flops, loss, color=DARK, linewidth=1.2, label="best size at each budget")
    axis.fill_between(
        flops, low, high, color=DARK, alpha=0.12, linewidth=0, label=f"a run there ({LEVEL:.0%})"
    )


def known_flops(fit: Fit) -> Observations:
    """The runs that were fitted, with FLOPs where they were not given."""
    return dataclasses.replace(fit.runs, flops=fit.runs.cost).take(fit.used)


def draw_forecasts(axis: "Axes", forecasts: Sequence[Forecast]) -> None:
    """Each forecast with its interval, and its outcome beside it."""
    legend = {"forecast", "outcome"}  # each is named once
    for one in forecasts:
        axis.errorbar(
            one.flops,
            one.loss,
            [[one.loss - one.low], [one.high - one.loss]],
            fmt="D",
            color=FORECAST,
            markersize=6,
            capsize=4,
            zorder=4,
            label=f"forecast ({one.level:.0%})" if "forecast" in legend else None,
        )
        legend.discard("forecast")
        if one.outcome is not None:
            axis.scatter(
                one.flops,
                one.outcome,
                s=70,
                marker="x",
                color=DARK,
                linewidths=2,
                zorder=5,
                label="outcome" if "outcome" in legend else None,
            )
            legend.discard("outcome")
            axis.annotate(
                f"forecast off by {one.loss / one.outcome - 1:+.1%}",
                (one.flops, one.outcome),
                (-8, -12),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=DARK,
            )


def along_budgets(runs: Observations, fit: Fit | None, *, title: str = "") -> "Figure":
    """Iso-FLOP curves: loss against size at each budget, with the law and the best size there."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 5.0), layout="constrained")
    axis = figure.subplots()
    budget = budget_of(runs.flops)
    flops = np.array(
        [np.exp(np.log(runs.flops[budget == k]).mean()) for k in range(budget.max() + 1)]
    )
    for number, colour in enumerate(_colours(len(flops))):
        mine = budget == number
        axis.scatter(
            runs.params[mine],
            runs.loss[mine],
            s=22,
            color=colour,
            linewidths=0,
            zorder=3,
            label=f"{flops[number]:.1e} FLOPs",
        )
        if fit is not None and len(np.unique(runs.params[mine])) > 1:
            params = np.geomspace(
                runs.params[mine].min() / 1.5, runs.params[mine].max() * 1.5, GRID
            )
            loss = _expected(fit, params, flops[number] / unit_cost(fit).of(params))
            axis.plot(params, loss, color=colour, linewidth=1, alpha=0.8)
            if 0 < (lowest := int(loss.argmin())) < GRID - 1:
                axis.scatter(
                    params[lowest],
                    loss[lowest],
                    s=60,
                    marker="*",
                    color=DARK,
                    linewidths=0,
                    zorder=4,
                )
    if fit is not None:
        axis.scatter([], [], s=60, marker="*", color=DARK, linewidths=0, label="best by the law")
    axis.set_xscale("log")
    axis.set_yscale("log")
    plain_ticks(axis)
    axis.set_xlabel("parameters")
    axis.set_ylabel("validation loss")
    axis.set_title(title, loc="left", **HEADING)
    open_frame(axis)
    _legend(axis, flops, "FLOPs")
    return figure


def count(number: float) -> str:
    """A count for a reader, "1.3 M"."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(places=1)(number)


def plain_ticks(axis: "Axes") -> None:
    """Losses span less than a decade: their axis has plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    low, high = axis.get_ylim()
    if high / low < 30:
        steps = (1, 2, 3, 4, 5, 6, 7, 8, 9) if high / low < 6 else (1, 2, 5)
        axis.yaxis.set_major_locator(LogLocator(subs=steps) if high / low > 2.5 else _few())
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_formatter(NullFormatter())


def _few():  # type: ignore[no-untyped-def]  # a locator of a library that loads late
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(6)


def _expected(fit: Fit, params: Values, seen: Values) -> Values:
    return fit.loss(params, seen, np.full(len(seen), _unique(fit)))


def _unique(fit: Fit) -> float:
    """Units that there are to read, all of them: what exceeds them is read again."""
    unique = fit.runs.unique[fit.used]
    return float(np.max(unique[np.isfinite(unique)], initial=0.0)) or np.nan


def _best(
    fit: Fit, flops: Values, smallest: float, largest: float
) -> tuple[Values, Values, Values]:
    """Loss and interval of the size that is best at each budget, among those between two."""
    params = np.geomspace(smallest, largest, GRID)
    units = flops[:, None] / unit_cost(fit).of(params)
    best = _expected(fit, np.tile(params, len(flops)), units.ravel()).reshape(units.shape).argmin(1)
    seen = units[np.arange(len(flops)), best]
    found = fit.predict(params[best], seen, unique=np.full(len(flops), _unique(fit)))
    return found.loss, found.low, found.high


def _groups(values: Values) -> tuple[Values, np.ndarray]:
    """Distinct values, and which of them each is; those within 2 % are one."""
    order = np.argsort(values)
    steps = np.diff(np.log(values[order]), prepend=-np.inf) > 0.02
    group = np.empty(len(values), np.int64)
    group[order] = np.cumsum(steps) - 1
    means = [np.exp(np.log(values[group == k]).mean()) for k in range(group.max() + 1)]
    return np.array(means), group


def _map() -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("order", ORDER)


def _colours(count: int) -> list[tuple[float, ...]]:
    return [tuple(_map()(place)) for place in np.linspace(0, 1, max(count, 1))[:count]]


def _legend(axis: "Axes", values: Values, what: str) -> None:
    """Names of a few; a scale of colours for many."""
    handles, labels = axis.get_legend_handles_labels()
    if len(values) > MOST_NAMED:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LogNorm

        scale = ScalarMappable(LogNorm(values.min(), values.max()), _map())
        axis.figure.colorbar(scale, ax=axis, label=what, pad=0.01)
        kept = [k for k, label in enumerate(labels) if not label.endswith(what)]
        handles, labels = [handles[k] for k in kept], [labels[k] for k in kept]
    axis.legend(handles, labels, fontsize=8, frameon=False, loc="best")

"""Downstream metrics (probes, recall of complexes) from the loss: a monotone link, and how far it
can be trusted.

Most such metrics do not scale predictably: 39 % of 46 tasks did in Lourie et al. 2025
(https://arxiv.org/abs/2507.22210). So a metric is forecast from the forecast loss only, with an
interval that holds the law, the link, its form and the scatter of single runs; and one that does
not follow the loss in the fitted runs is not forecast.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy import special, stats

from phenomjax.scaling.fit.law import LEVEL, Prediction
from phenomjax.scaling.observations import Observations
from phenomjax.scaling.observations.runs import budget_of
from phenomjax.statistics.bootstrap import drawn, times_drawn

Values = Float64[np.ndarray, " runs"]

FEWEST = 6  # runs of known metric
DRAWS = 200
NEAR = 1.5  # forms whose error is within this factor of the best share the interval
CHANCE = 0.05  # that a rank correlation as strong comes without a link
CAUTION = (
    "most downstream metrics do not scale predictably (39 % of 46 tasks did: Lourie et al. 2025,"
    " https://arxiv.org/abs/2507.22210): trust the interval, not the value"
)


@dataclass(frozen=True)
class Link:
    """How a metric goes with the loss.

    Attributes:
      form: "linear" or "sigmoid", the one that forecasts best what was left out.
      forms: {form: its coefficients, of the runs and then of each bootstrap draw}, of those that
        forecast nearly as well.
      scatter: standard deviation of single runs about the link.
      correlation: of ranks, loss with metric.
      by_chance: probability of one as strong without a link.
      error: median absolute error where each budget in turn was left out.
      constant: that error, had the mean of the others been forecast.
      within: whether all values lie between 0 and 1, as shares do, and forecasts with them.
      loss: lowest and highest that was fitted.
      runs: how many.
    """

    form: str
    forms: Mapping[str, Float64[np.ndarray, "draws coefficients"]]
    scatter: float
    correlation: float
    by_chance: float
    error: float
    constant: float
    within: bool
    loss: tuple[float, float]
    runs: int

    @property
    def follows(self) -> bool:
        """Whether the metric follows the loss, so that it can be forecast at all."""
        return self.by_chance < CHANCE and self.error < self.constant

    def report(self) -> dict[str, Any]:
        """What `fit.json` holds of it."""
        return {
            "follows_loss": self.follows,
            "form": self.form,
            "coefficients": self.forms[self.form][0].tolist(),
            "rank_correlation": self.correlation,
            "by_chance": self.by_chance,
            "left_out_error": self.error,
            "left_out_error_of_mean": self.constant,
            "scatter": self.scatter,
            "loss": list(self.loss),
            "runs": self.runs,
        }

    def predict(
        self, loss: float, low: float, high: float, loss_level: float, level: float = LEVEL
    ) -> dict[str, float]:
        """{"value", "low", "high"} of the metric of a single run.

        Args:
          loss, low, high: forecast of its loss, with an interval.
          loss_level: of that interval.
          level: of the interval that is wanted.
        """
        random, reach = np.random.default_rng(0), float(stats.norm.ppf((1 + loss_level) / 2))
        pooled = []
        for form, coefficients in self.forms.items():
            way = random.standard_normal((4, len(coefficients) - 1))
            below, above = (float(np.log(one)) / reach for one in (loss / low, high / loss))
            side: Float64[np.ndarray, "4 draws"] = np.where(way < 0, below, above)
            losses = loss * np.exp(way * side)
            values = np.stack([FORMS[form](coefficients[1:], one) for one in losses])
            pooled.append((values + self.scatter * random.standard_normal(values.shape)).ravel())
        ends = np.quantile(np.concatenate(pooled), [(1 - level) / 2, (1 + level) / 2])
        value = float(FORMS[self.form](self.forms[self.form][:1], np.array([loss]))[0])
        limits = (0.0, 1.0) if self.within else (-np.inf, np.inf)
        value, lowest, highest = np.clip([value, min(ends[0], value), max(ends[1], value)], *limits)
        return {"value": float(value), "low": float(lowest), "high": float(highest)}


def forecast(
    runs: Observations, said: Prediction, level: float = LEVEL
) -> dict[str, dict[str, float]]:
    """{metric: value, low, high} of a run whose loss is forecast; of the metrics that follow the
    loss.

    Args:
      runs: that were fitted.
      said: forecast of the loss of one run.
      level: of both intervals.
    """
    found, (loss, low, high) = links(runs), (float(x[0]) for x in (said.loss, said.low, said.high))
    return {
        name: one.predict(loss, low, high, level, level)
        for name, one in found.items()
        if one.follows
    }


def told(values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A forecast of metrics for a reader."""
    lines = [
        f"  {name}: {one['value']:.4g}, interval {one['low']:.4g} to {one['high']:.4g}"
        for name, one in values.items()
    ]
    return [f"metrics from the loss; {CAUTION}", *lines] if lines else []


def _linear(coefficients: Float64[np.ndarray, "k 2"], loss: Float64[np.ndarray, "k"]) -> Any:
    return coefficients[:, 0] + coefficients[:, 1] * loss


def _sigmoid(coefficients: Float64[np.ndarray, "k 4"], loss: Float64[np.ndarray, "k"]) -> Any:
    """Between two ends, steepest at a loss, over a width of losses."""
    start, end, middle, width = coefficients.T
    return start + (end - start) * special.expit((middle - loss) / width)


FORMS: Mapping[str, Callable[..., Any]] = {"linear": _linear, "sigmoid": _sigmoid}


def links(runs: Observations) -> dict[str, Link]:
    """The link of each metric of the runs; without those of fewer than six runs, or of one value.

    Args:
      runs: with `metrics`; NaN where a run has none.
    """
    found = {}
    for name, values in runs.metrics.items():
        known = np.isfinite(values)
        if known.sum() >= FEWEST and np.ptp(values[known]) > 0:
            found[name] = link(runs.loss[known], values[known], budget_of(runs.cost[known]))
    return found


def link(loss: Values, values: Values, groups: Any) -> Link:
    """The link of a metric with the loss.

    Args:
      loss: of the runs.
      values: of the metric.
      groups: int [runs], of the runs that are left out together.
    """
    within = bool(values.min() >= 0 and values.max() <= 1)
    if len(np.unique(groups)) < 3:
        groups = np.arange(len(loss))
    errors = {form: _left_out(form, loss, values, groups, within) for form in (*FORMS, "constant")}
    form = min(FORMS, key=errors.__getitem__)
    kept = [one for one in FORMS if errors[one] <= NEAR * errors[form]]
    weights = np.concatenate([times_drawn(rows) for rows in drawn(len(loss), DRAWS)])
    weights = weights[(weights > 0).sum(1) > 2]
    every = np.concatenate([np.ones((1, len(loss))), weights])
    forms = {one: _fitted(one, loss, values, within, every) for one in kept}
    residuals = values - FORMS[form](forms[form][:1], loss)
    freedom = max(len(loss) - forms[form].shape[1], 1)
    ranks = stats.spearmanr(loss, values)
    return Link(
        form,
        forms,
        float(np.sqrt((residuals**2).sum() / freedom)),
        float(ranks.statistic),
        float(ranks.pvalue),
        errors[form],
        errors["constant"],
        within,
        (float(loss.min()), float(loss.max())),
        len(loss),
    )


def _left_out(form: str, loss: Values, values: Values, groups: Any, within: bool) -> float:
    """Median absolute error of each group's runs, forecast from the others."""
    errors = []
    for group in np.unique(groups):
        out: Bool[np.ndarray, " runs"] = groups == group
        if form == "constant":
            forecast = np.full(out.sum(), values[~out].mean())
        else:
            one = np.ones((1, (~out).sum()))
            coefficients = _fitted(form, loss[~out], values[~out], within, one)
            forecast = FORMS[form](coefficients, loss[out])
        errors.append(np.abs(forecast - values[out]))
    return float(np.median(np.concatenate(errors)))


def _fitted(
    form: str,
    loss: Values,
    values: Values,
    within: bool,
    weights: Float64[np.ndarray, "draws runs"],
) -> Float64[np.ndarray, "draws coefficients"]:
    """Coefficients of least squares for several weights of the runs.

    Both forms are a line, in the loss or in a sigmoid of it; middle and width of the sigmoid are
    searched on a grid.
    """
    if form == "linear":
        return _lines(loss[None], values, weights)[:, 0]
    span = float(np.ptp(loss)) or 1e-9
    middles = np.linspace(loss.min() - span / 2, loss.max() + span / 2, 21)
    widths = span * np.geomspace(0.03, 1.0, 8)
    middle, width = (one.ravel() for one in np.meshgrid(middles, widths))
    steep = special.expit((middle[:, None] - loss) / width[:, None])
    lines = _lines(steep, values, weights)
    ends = np.stack([lines[..., 0], lines.sum(-1)], -1)  # at high and at low losses
    spread = np.ptp(values)
    low, high = (0.0, 1.0) if within else (values.min() - 3 * spread, values.max() + 3 * spread)
    ends = np.clip(ends, low, high)
    fitted = ends[..., :1] + (ends[..., 1:] - ends[..., :1]) * steep
    best = np.einsum("dr,dcr->dc", weights, (fitted - values) ** 2).argmin(1)
    return np.column_stack([ends[np.arange(len(best)), best], middle[best], width[best]])


def _lines(
    x: Float64[np.ndarray, "cells runs"], values: Values, weights: Float64[np.ndarray, "draws runs"]
) -> Float64[np.ndarray, "draws cells 2"]:
    """Intercept and slope of weighted least squares in each of several variables."""
    total = weights.sum(1, keepdims=True)
    mean_x, mean_y = weights @ x.T / total, weights @ values[:, None] / total
    cross = weights @ (x * values).T / total - mean_x * mean_y
    slope = cross / np.maximum(weights @ (x**2).T / total - mean_x**2, 1e-12)
    return np.stack([mean_y - slope * mean_x, slope], -1)


def described(found: Mapping[str, Link], wanted: Sequence[str]) -> str:
    """The links for a reader; of what was wanted and cannot be linked too."""
    lines = []
    for name in wanted:
        one = found.get(name)
        if one is None:
            lines.append(f"  {name}: known of fewer than {FEWEST} runs, or of one value: no link")
            continue
        said = (
            f"{one.form} in the loss; budgets left out are forecast to {one.error:.3g} (median,"
            f" absolute; the mean of the others: {one.constant:.3g})"
            if one.follows
            else "does not follow the loss in these runs, and is not forecast"
        )
        lines.append(f"  {name}: rank correlation {one.correlation:.2f}; {said}")
    return "\n".join(["metrics from the loss; " + CAUTION, *lines]) if lines else ""

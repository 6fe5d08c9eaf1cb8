"""The course of a run from the curves of the fitted runs."""

import numpy as np
from jaxtyping import Float64
from ml_collections import ConfigDict
from scipy import stats

from phenomjax.config import schedules
from phenomjax.config.checks import flatten
from phenomjax.scaling.fit.law import Fit, Prediction
from phenomjax.scaling.observations import Curve

FEWEST = 4  # curves
SHARES = 60  # of the run at which its course is told


def course(
    fit: Fit, flops: float, end: Prediction, schedule: tuple, level: float
) -> tuple[tuple[float, float, float, float], ...]:
    """(share of the run, loss, low, high) of a run, at rising shares up to 1.

    Curves of one family and schedule nearly collapse when they are seen as excess(t/T) = (loss(t) -
    loss(T)) / (loss(T) - E) (Qiu et al. 2025, https://arxiv.org/abs/2507.02119). What is left of a
    trend with log C is followed by a line; the interval is that line's for a single run, by
    Student's t, and that of the end.

    Args:
      fit: of runs whose curves are known.
      flops: of the run.
      end: its loss at the end.
      schedule: of its learning rate, as of `Curve`.
      level: of the interval.

    Returns:
      Nothing where fewer than `FEWEST` curves of this schedule are known.
    """
    floor, runs = float(fit.forecaster[0]), fit.runs.take(fit.used)
    reducible = fit.loss(runs.params, runs.seen, runs.unique) - floor
    kept = [
        (curve, float(above), float(np.log(c)))
        for curve, above, c in zip(runs.curves, reducible, runs.cost, strict=False)
        if curve is not None and len(curve.loss) > 1 and _same(curve.schedule, schedule)
    ]
    if len(kept) < FEWEST:
        return ()
    firsts = np.sort([curve.fraction[0] for curve, *_ in kept])
    begin = float(firsts[max(len(kept) // 2, FEWEST - 1)])  # half of the curves have begun
    loss, low, high = (float(values[0]) for values in (end.loss, end.low, end.high))
    found = []
    for share in np.linspace(begin, 1.0, SHARES)[:-1]:
        there = [one for one in kept if one[0].fraction[0] <= share]
        excess = np.array([_excess(curve, above, share) for curve, above, _ in there])
        middle, reach = _line(np.array([c for *_, c in there]), excess, np.log(flops), level)
        expected = loss + middle * (loss - floor)
        course_reach = reach * (loss - floor)
        found.append(
            (
                float(share),
                expected,
                # a loss falls towards its end, which is not below its own interval
                max(expected - float(np.hypot((1 + middle) * (loss - low), course_reach)), low),
                expected + float(np.hypot((1 + middle) * (high - loss), course_reach)),
            )
        )
    return (*found, (1.0, loss, low, high))


def of_schedule(fit: Fit, schedule: tuple) -> list[Curve]:
    """The curves of the fitted runs with a schedule."""
    return [
        curve
        for curve in fit.runs.curves
        if curve is not None and len(curve.loss) > 1 and _same(curve.schedule, schedule)
    ]


def schedule_of(config: ConfigDict) -> tuple[str, float, float]:
    """The shape of the learning rate of a run, as curves know it."""
    return schedules.shape(flatten(config))


def _same(one: tuple, other: tuple) -> bool:
    """Whether two schedules have one shape; unknown ones may."""
    if not one or not other:
        return True
    return one[0] == other[0] and np.allclose(one[1:], other[1:], atol=0.02)


def _excess(curve: Curve, reducible: float, share: float) -> float:
    log = np.interp(share, curve.fraction, np.log(curve.loss))
    return float((np.exp(log) - curve.loss[-1]) / reducible)


def _line(
    x: Float64[np.ndarray, " runs"], y: Float64[np.ndarray, " runs"], at: float, level: float
) -> tuple[float, float]:
    """(value, half of the interval of a single one) of the line through (x, y), at a place."""
    count, centre = len(x), x.mean()
    spread = float(np.square(x - centre).sum())
    if spread < 1e-9:
        reach = stats.t.ppf((1 + level) / 2, count - 1) * y.std(ddof=1) * np.sqrt(1 + 1 / count)
        return float(y.mean()), float(reach)
    slope = float((x - centre) @ (y - y.mean())) / spread
    rest = y - y.mean() - slope * (x - centre)
    noise = np.sqrt(np.square(rest).sum() / (count - 2))
    far = np.sqrt(1 + 1 / count + (at - centre) ** 2 / spread)
    value = y.mean() + slope * (at - centre)
    return float(value), float(stats.t.ppf((1 + level) / 2, count - 2) * noise * far)

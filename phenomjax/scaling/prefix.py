"""The loss at the end of a run, from its first part under a known schedule.

Where earlier runs of the same schedule are known (those of a ladder), from their curves: curves of
one schedule have nearly one shape. Else from the run alone, by the law of annealing, whose interval
is wide for as long as the learning rate has not fallen.

Measured on a ladder of 16 masked autoencoders (one cycle, 26 thousand to 1.4 million parameters)
with the rest of each curve hidden: at 45 %, 70 % and 85 % of a run the loss had still 15 %, 4 % and
1.4 % to fall. Forecast from the 15 others: median error 3.7 %, 0.7 % and 0.4 %, 94 % of the ends
within their 90 % interval; from each run alone: 9.6 %, 1.5 % and 0.8 %, 88 to 100 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from phenomjax.scaling.observations import Curve
from phenomjax.system.errors import UserError

Fractions = Float64[np.ndarray, " evaluations"]
Losses = Float64[np.ndarray, " evaluations"]

LEVEL = 0.9
FEWEST = 4  # evaluations to begin with
EARLIER = 3  # earlier runs, of which each in turn can be forecast from the others
WINDOWS = (0.5, 0.75, 0.9)  # of what was seen, from where on curves are compared
# What curves of a schedule have in common: their distance from the end, their ratio to it, that
# ratio above the floor of the law, or a distance that is stretched.
RULES = ("distance", "ratio", "above", "stretched")


@dataclass(frozen=True)
class End:
    """The loss at the end of a run, forecast.

    Attributes:
      loss: the forecast.
      low, high: its interval.
      level: of the interval.
      seen: fraction of the run that it stands on.
      by: what it stands on, in words.
    """

    loss: float
    low: float
    high: float
    level: float
    seen: float
    by: str


def from_earlier(
    fraction: Fractions,
    loss: Losses,
    earlier: Sequence[Curve],
    level: float = LEVEL,
    floor: float = 0.0,
) -> End:
    """The end of a run from curves of earlier runs under the same schedule.

    Each rule and window is tried on the earlier runs: the end of each is forecast from its own
    first part and from the others. The one with the smallest error is used, and its error, by
    Student's t, is the interval.

    Args:
      fraction: of the run's steps, rising, below 1.
      loss: validation loss at each.
      earlier: whole runs of the same schedule (warm-up and decay at the same fractions).
      level: of the interval.
      floor: E of the law of the earlier runs, 0 where it is not known.

    Raises:
      UserError: too few evaluations, or too few earlier runs that reach from here to the end.
    """
    _check(fraction, loss)
    now, known = fraction[-1], []
    for curve in earlier:
        if len(curve.loss) > FEWEST and curve.fraction[0] <= now and curve.fraction[-1] >= 0.999:
            known.append((curve.fraction, np.log(curve.loss)))
    if len(known) < EARLIER:
        raise UserError(
            f"{len(known)} earlier runs have validation losses from {now:.0%} of the run to its"
            f" end; the end of a run is forecast from {EARLIER} or more. Evaluate the runs of the"
            " ladder more often (`eval.every_steps`), or forecast from the run alone."
        )
    times = [now * window for window in WINDOWS]
    best: tuple[float, float] | None = None
    for begin in times:
        at = np.unique(np.append(fraction[fraction >= begin], now))
        # Of the earlier runs at the moments of this one, and at the end.
        past = np.array([np.exp(np.interp(at, where, log)) for where, log in known])
        ends = np.array([np.exp(log[-1]) for _, log in known])
        own = np.interp(at, fraction, loss)
        for rule in RULES:
            if rule == "stretched" and len(at) < FEWEST:
                continue
            if rule == "above" and not 0 < floor < min(ends.min(), own.min()):
                continue
            errors = []
            for run in range(len(known)):
                others = np.arange(len(known)) != run
                forecast = _end(rule, past[run], past[others], ends[others], floor)
                errors.append(np.log(forecast / ends[run]))
            error = float(np.sqrt(np.mean(np.square(errors))))
            if best is None or error < best[0]:
                best = error, _end(rule, own, past, ends, floor)
    assert best is not None
    error, end = best
    count = len(known)
    # The mean of the others is itself uncertain: one more run in count.
    reach = float(stats.t.ppf((1 + level) / 2, count - 1)) * error * np.sqrt(1 + 1 / count)
    by = f"the curves of {count} earlier runs"
    return End(end, end * np.exp(-reach), end * np.exp(reach), level, float(now), by)


def _end(
    rule: str,
    own: Float64[np.ndarray, " moments"],
    past: Float64[np.ndarray, "runs moments"],
    ends: Float64[np.ndarray, " runs"],
    floor: float,
) -> float:
    """The end of a curve from others' by one rule; the median of what each of them says."""
    if rule == "above":
        return floor + _end("ratio", own - floor, past - floor, ends - floor, 0.0)
    if rule == "ratio":
        return float(np.median(ends * np.exp((np.log(own) - np.log(past)).mean(1))))
    if rule == "distance":
        return float(np.median(ends + (own - past).mean(1)))
    shape = np.median(past - ends[:, None], axis=0)  # the line own = end + scale shape
    spread = shape - shape.mean()
    scale = max(float(spread @ (own - own.mean()) / (spread @ spread)), 0.0)
    return float(own.mean() - scale * shape.mean())


POWERS = np.linspace(0.05, 1.5, 30)  # of the area under the learning rate
MEMORY = (30.0, 100.0, 1000.0)  # steps that a fall of the learning rate goes on to work
DROPS = np.linspace(0.0, 0.3, 61)  # share of today's loss that annealing takes away by the end
USUAL_DROP = 0.05  # mean of what is expected of it before the run has shown it
# The law is not exact: half of an interval is at least this share of what the loss has yet to fall.
# Measured on exact curves of gradient descent on least squares whose spectra are power laws.
MISFIT = 0.3


def from_schedule(
    steps: Float64[np.ndarray, " evaluations"],
    loss: Losses,
    rates: Float64[np.ndarray, " steps"],
    level: float = LEVEL,
) -> End:
    """The end of a run from its own first part, by the law of annealing.

    L(s) = L0 + A S1^-a - C S2 (Tissue et al. 2024, https://arxiv.org/abs/2408.11029): S1 is the sum
    of the learning rates up to s, S2 the sum of m_i = m_(i-1) l + (rate_(i-1) - rate_i), what the
    rate has fallen by, with the delay of a momentum l. Before the rate falls nothing says what C
    is, so that no single fit is taken: all laws of a grid of a, l and C are weighted by their
    likelihood, and by what is expected of annealing to begin with (`USUAL_DROP`).

    Args:
      steps: of the evaluations, rising.
      loss: validation loss at each.
      rates: the learning rate of each step of the whole run.
      level: of the interval.

    Raises:
      UserError: too few evaluations.
    """
    total = len(rates)
    _check(steps / total, loss)
    now = int(steps[-1])
    peak = int(np.argmax(rates))
    # While the rate still rises the loss falls by another law, and an early fall says little.
    kept = steps >= max(min(peak + 1, now / 2), now / 10)
    if kept.sum() < FEWEST:
        kept = np.arange(len(steps)) >= len(steps) - FEWEST
    at, y = np.append(np.maximum(steps[kept], 1), total).astype(int) - 1, loss[kept]
    relative = rates / rates.max()
    area = np.cumsum(relative)[at]
    area = area / area[-1]
    fallen = np.maximum(-np.diff(relative, prepend=relative[0]), 0.0)
    fallen[: peak + 1] = 0.0
    count = len(y)
    ends, squares, expected = [], [], []
    for memory in MEMORY:
        keep = 1 - 1 / min(memory, max(total / 10, 2.0))
        momentum, annealed = 0.0, np.zeros(total)
        for step in range(peak + 1, total):
            momentum = keep * momentum + fallen[step]
            annealed[step] = annealed[step - 1] + momentum
        dropped = annealed[at]
        dropped = dropped / max(dropped[-1], 1e-12)  # a rate that never falls drops nothing
        drops = DROPS * y[-1]
        for power in POWERS:
            basis = np.stack([np.ones(count), area[:-1] ** -power], 1)
            target = y[:, None] + dropped[:-1, None] * drops  # of each drop
            fit, *_ = np.linalg.lstsq(basis, target, rcond=None)
            rest = target - basis @ fit
            end = fit[0] + fit[1] * area[-1] ** -power - drops * dropped[-1]
            fine = (fit[1] >= 0) & (fit[0] - drops * dropped[-1] >= 0)
            ends.append(end[fine])
            squares.append(np.square(rest).sum(0)[fine])
            expected.append(np.exp(-DROPS[fine] / USUAL_DROP))
    end, square = np.concatenate(ends), np.concatenate(squares)
    if not len(end):
        raise UserError(
            "The validation loss of the run rises: no law of training goes through it. Look at its"
            " curve before it is forecast."
        )
    # Evaluations beside each other err alike: Student's t instead of a known noise.
    free = max(count - 3, 1)
    noise = max(float(square.min()) / free, (2e-4 * float(y[-1])) ** 2)
    weights = np.concatenate(expected) * (1 + square / (noise * free)) ** (-(free + 1) / 2)
    order = np.argsort(end)
    share = np.cumsum(weights[order]) / weights.sum()
    low, middle, high = np.interp([(1 - level) / 2, 0.5, (1 + level) / 2], share, end[order])
    spread = float(stats.t.ppf((1 + level) / 2, free)) * np.sqrt(noise)
    spread = np.hypot(spread, MISFIT * (y[-1] - middle))
    low, high = middle - np.hypot(middle - low, spread), middle + np.hypot(high - middle, spread)
    by = "the run alone, by the law of annealing"
    return End(float(middle), float(low), float(high), level, now / total, by)


def _check(fraction: Fractions, loss: Losses) -> None:
    """Raises UserError where nothing can be forecast from."""
    if len(loss) < FEWEST:
        raise UserError(
            f"The run has {len(loss)} validation losses; its end is forecast from {FEWEST} or"
            " more. Wait, or evaluate it more often (`eval.every_steps`)."
        )
    if not np.isfinite(loss).all():
        raise UserError("A validation loss of the run is not finite: it has diverged.")

"""The end of a run from its first part, on curves that gradient descent really has.

Each curve is exact: the expected loss of stochastic gradient descent on least squares whose
spectrum and target are power laws, which falls, slows and anneals as language models do.
"""

import numpy as np
import pytest

from phenomjax.scaling import prefix
from phenomjax.scaling.observations import Curve
from phenomjax.system.errors import UserError


def rates(steps, kind):
    now = (np.arange(steps) + 1) / steps
    fall = {
        "cosine": 0.55 + 0.45 * np.cos(np.pi * np.clip((now - 0.1) / 0.9, 0, 1)),
        "linear": np.clip((1 - now) / 0.9, 0, 1),
        "late": np.clip((1 - now) / 0.2, 0, 1),
    }[kind]
    return np.minimum(now / 0.1, fall)


def descend(size, steps, kind="cosine", evaluations=20):
    spectrum = np.arange(1, size + 1) ** -1.3
    weights, beyond = np.arange(1, size + 1) ** -0.1, np.sum(np.arange(size + 1, 20000) ** -1.4)
    rate, losses = 0.25 * rates(steps, kind), np.zeros(steps)
    for step in range(steps):
        risk = spectrum @ weights + beyond
        weights = (1 - rate[step] * spectrum) ** 2 * weights
        weights = weights + 0.3 * rate[step] ** 2 * spectrum * (0.3 + risk)
        losses[step] = 1 + (spectrum @ weights + beyond) / 2
    at = np.round(np.linspace(steps / evaluations, steps, evaluations)).astype(int)
    return Curve(at / steps, losses[at - 1])


def cut(curve, share):
    kept = curve.fraction <= share + 1e-9
    return curve.fraction[kept], curve.loss[kept]


@pytest.fixture(scope="module")
def ladder():
    sizes, lengths = (30, 100, 300), (300, 1000)
    return {
        kind: [(steps, descend(size, steps, kind)) for size in sizes for steps in lengths]
        for kind in ("cosine", "linear", "late")
    }


@pytest.mark.parametrize("kind", ["cosine", "linear", "late"])
def test_the_second_half_is_forecast_from_earlier_runs(ladder, kind):
    held, errors = 0, []
    for run, (_, curve) in enumerate(ladder[kind]):
        earlier = [other for at, (_, other) in enumerate(ladder[kind]) if at != run]
        end = prefix.from_earlier(*cut(curve, 0.5), earlier)
        held += end.low <= curve.loss[-1] <= end.high
        errors.append(abs(end.loss / curve.loss[-1] - 1))
        assert end.seen == pytest.approx(0.5) and "5 earlier runs" in end.by
    still_to_fall = [curve.loss[9] / curve.loss[-1] - 1 for _, curve in ladder[kind]]
    assert np.median(errors) < 0.5 * np.median(still_to_fall)
    assert held >= 5


@pytest.mark.parametrize("kind", ["cosine", "linear", "late"])
def test_the_second_half_is_forecast_from_the_run_alone(ladder, kind):
    held, errors, widths = 0, [], []
    for steps, curve in ladder[kind]:
        fraction, loss = cut(curve, 0.5)
        end = prefix.from_schedule(fraction * steps, loss, rates(steps, kind))
        held += end.low <= curve.loss[-1] <= end.high
        errors.append(abs(end.loss / curve.loss[-1] - 1))
        widths.append((end.high - end.low) / end.loss)
    assert held >= 5
    if kind == "late":  # the rate has not fallen yet, and the interval says so
        assert min(widths) > 0.1
    else:
        assert np.median(errors) < 0.01 and max(widths) < 0.1


def test_the_interval_narrows_as_the_run_goes_on(ladder):
    steps, curve = ladder["cosine"][-1]
    earlier = [other for _, other in ladder["cosine"][:-1]]
    for forecast in (
        lambda share: prefix.from_earlier(*cut(curve, share), earlier),
        lambda share: prefix.from_schedule(
            cut(curve, share)[0] * steps, cut(curve, share)[1], rates(steps, "cosine")
        ),
    ):
        ends = [forecast(share) for share in (0.3, 0.6, 0.9)]
        widths = [end.high - end.low for end in ends]
        assert widths == sorted(widths, reverse=True)
        wide = forecast(0.6)
        assert wide.low < wide.loss < wide.high and wide.level == 0.9


def test_a_constant_rate_anneals_nothing():
    steps = 400
    loss = 2 + 3 * (np.arange(1, 11) * 20.0) ** -0.5
    end = prefix.from_schedule(np.arange(1, 11) * 20.0, loss, np.ones(steps))
    assert end.loss == pytest.approx(2 + 3 * steps**-0.5, rel=2e-3)
    assert end.low <= 2 + 3 * steps**-0.5 <= end.high


def test_what_cannot_be_forecast_is_said(ladder):
    fraction, loss = cut(ladder["cosine"][0][1], 0.5)
    earlier = [curve for _, curve in ladder["cosine"][1:]]
    with pytest.raises(UserError, match="3 validation losses; its end is forecast from 4"):
        prefix.from_earlier(fraction[:3], loss[:3], earlier)
    with pytest.raises(UserError, match=r"2 earlier runs .* 50% .*`eval.every_steps`"):
        prefix.from_earlier(fraction, loss, earlier[:2])
    with pytest.raises(UserError, match="has diverged"):
        prefix.from_earlier(fraction, loss * np.nan, earlier)
    with pytest.raises(UserError, match="loss of the run rises"):
        prefix.from_schedule(fraction * 300, loss[::-1].copy() + 100 * fraction, np.ones(300))

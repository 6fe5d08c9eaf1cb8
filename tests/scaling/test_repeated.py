"""Repeated data: what a repetition is worth comes back, and forecasts know of it."""

import dataclasses

import numpy as np
import pytest

from phenomjax.scaling.fit import law, repeated
from phenomjax.scaling.fit.estimate import Settings
from phenomjax.scaling.observations import Observations

TRUE = np.array([[1.8, 400.0, 900.0, 0.34, 0.30]])


def runs(half_life, noise=0.0, seed=0):
    """Five sizes, four lengths, three amounts of data."""
    params = np.geomspace(1e7, 1e9, 5)
    seen = np.array([2e9, 8e9, 3e10, 1e11])
    unique = np.array([5e8, 4e9, 2e11])
    n, d, u = (grid.ravel() for grid in np.meshgrid(params, seen, unique))
    loss = law.law(TRUE, n, law.effective(d, u, half_life))[0]
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    names = tuple(f"run {row}" for row in range(len(n)))
    return Observations(names, n, d, u, 6 * n * d, loss, "tokens", {}, (None,) * len(n))


def test_effective_data():
    seen, unique = np.array([1e9, 4e9, 1e13]), np.array([2e9, 1e9, 1e9])
    fresh = law.effective(seen, unique, 15.0)
    assert fresh[0] == 1e9  # nothing was read twice
    assert fresh[1] == pytest.approx(1e9 + 15e9 * (1 - np.exp(-3 / 15)))
    assert fresh[2] == pytest.approx(16e9)  # no number of repetitions is worth more
    np.testing.assert_allclose(law.effective(seen, unique, np.inf), seen)
    np.testing.assert_allclose(law.effective(seen, unique * np.nan, 15.0), seen)
    both = law.effective(seen, unique, np.array([[15.0], [np.inf]]))
    np.testing.assert_allclose(both, [fresh, seen])


def test_the_worth_of_a_repetition_comes_back_exactly_without_noise():
    fit = repeated.fit(runs(8.0), Settings(bootstraps=40))
    assert fit.half_life == pytest.approx(8.0, rel=5e-3)
    np.testing.assert_allclose(fit.parameters, TRUE[0], rtol=0.02)
    assert len(fit.half_lives) == len(fit.draws) == 40
    n, d, u = np.array([4e9]), np.array([1e12]), np.array([2e10])
    right = law.law(TRUE, n, law.effective(d, u, 8.0))[0]
    assert fit.loss(n, d, u) == pytest.approx(right, rel=1e-3)
    assert fit.loss(n, d)[0] < right  # the same tokens, all of them fresh


def test_with_noise_it_lies_in_its_interval_and_is_kept_in_the_folder(tmp_path):
    fit = repeated.fit(runs(8.0, noise=0.005, seed=2), Settings(bootstraps=60, form="plain"))
    report = fit.report()["half_life"]
    assert report["low"] < 8.0 < report["high"] < 20 and report["low"] > 2
    assert "up to 200 times" in repeated.described(fit)
    fit.save(tmp_path)
    back = law.load(tmp_path)
    where = np.array([1e9]), np.array([3e11]), 0.9, np.array([1e9])
    assert back.half_life == fit.half_life
    said = fit.predict(*where)
    assert dataclasses.asdict(back.predict(*where)) == dataclasses.asdict(said)
    right = law.law(TRUE, where[0], law.effective(where[1], where[3], 8.0))[0]
    assert said.low[0] < right[0] < said.high[0]


def test_without_repetitions_nothing_is_different():
    some = runs(8.0)
    some = some.take(some.unique > 1e11)
    fit = repeated.fit(some, Settings(bootstraps=10))
    assert not repeated.repeats(some) and np.isinf(fit.half_life)
    assert repeated.described(fit) == "" and fit.report()["half_life"] is None
    np.testing.assert_allclose(fit.parameters, TRUE[0], rtol=0.02)


def test_where_all_runs_repeat_the_same_data_it_cannot_be_told():
    some = runs(8.0)
    some = some.take(some.unique == 5e8)
    fit = repeated.fit(some, Settings(bootstraps=10))
    assert np.isinf(fit.half_life) and not repeated.tells(some)
    assert "up to 200 times" in repeated.described(fit)
    assert "ladder --subsets 0.1,0.3,1` tells it" in repeated.described(fit)


def test_repetitions_that_are_as_good_as_fresh_data_leave_the_plain_law():
    fit = repeated.fit(runs(np.inf, noise=0.003), Settings(bootstraps=10))
    assert np.isinf(fit.half_life) and len(fit.half_lives) == 0
    assert "do not show that a repetition is worth less" in repeated.described(fit)
    np.testing.assert_allclose(fit.parameters[3:], TRUE[0, 3:], rtol=0.2)

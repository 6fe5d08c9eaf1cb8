"""Fits that are set beside ours: known laws come back, and what parabolas get wrong is known."""

import json

import numpy as np
import pandas as pd
import pytest

from phenomjax.scaling.fit import comparisons, estimate
from phenomjax.scaling.observations import Observations

LAW = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.28}


def loss_of(params, seen, law=LAW):
    return law["E"] + law["A"] / params ** law["alpha"] + law["B"] / seen ** law["beta"]


def ladder(budgets, factors, drift=0.0, law=LAW):
    """N, D, C of sizes around the best of each budget; drift moves their middle from budget to
    budget.
    """
    exponents = law["alpha"] + law["beta"]
    scale = (law["alpha"] * law["A"] / (law["beta"] * law["B"])) ** (1 / exponents)
    flops = np.repeat(budgets, len(factors)).astype(np.float64)
    best = scale * (flops / 6) ** (law["beta"] / exponents)
    moved = np.exp(drift * np.log(flops / flops.min()))
    params = best * np.tile(factors, len(budgets)) * moved
    return params, flops / 6 / params, flops


BUDGETS = [1e17, 3e17, 1e18, 3e18, 1e19]


def test_five_parameters_come_back_exactly_without_noise():
    params, seen, _ = ladder(BUDGETS, [0.25, 0.5, 1, 2, 4])
    best, *_ = comparisons.five_parameters(params, seen, loss_of(params, seen))
    for name, value in LAW.items():
        assert getattr(best, name) == pytest.approx(value, rel=2e-3)
    assert best.objective < 1e-12


def test_all_basins_are_told_and_every_search_ends_in_one():
    rng = np.random.default_rng(3)
    params, seen, _ = ladder(BUDGETS[:2], [0.7, 1, 1.4])
    noisy = loss_of(params, seen) * np.exp(0.02 * rng.standard_normal(len(params)))
    basins = comparisons.five_parameters(params, seen, noisy)
    objectives = [basin.objective for basin in basins]
    assert len(basins) > 1 and objectives == sorted(objectives)
    assert sum(basin.starts for basin in basins) == 81


@pytest.mark.shared_data
def test_known_answer_on_the_chinchilla_points(shared):
    table = pd.read_csv(shared / "scaling/chinchilla_points.csv")
    params, flops = table["Model Size"].to_numpy(), table["Training FLOP"].to_numpy()
    seen, loss = flops / 6 / params, table["loss"].to_numpy()
    kept = np.argsort(seen / params)[5:]
    best, *_ = comparisons.five_parameters(params[kept], seen[kept], loss[kept])
    assert pytest.approx(1.8172, abs=1e-4) == best.E
    assert pytest.approx(477.8, abs=0.5) == best.A and pytest.approx(2143, abs=3) == best.B
    assert best.alpha == pytest.approx(0.3473, abs=1e-4)
    assert best.beta == pytest.approx(0.3672, abs=1e-4)
    all_points, *_ = comparisons.five_parameters(params, seen, loss)  # five points move it
    assert pytest.approx(1.891, abs=1e-3) == all_points.E
    assert all_points.beta == pytest.approx(0.453, abs=1e-3)


def test_runs_of_about_one_budget_are_of_one():
    flops = np.array([1.0e18, 3.0e18, 1.02e18, 0.97e18, 2.9e18, 1e19])
    assert comparisons.budget_of(flops).tolist() == [0, 1, 0, 0, 1, 2]
    assert comparisons.budget_of(flops[:1]).tolist() == [0]


def test_parabolas_are_right_where_the_valley_is_even_and_its_middle_ran():
    law = LAW | {"alpha": 0.3, "beta": 0.3}
    params, seen, flops = ladder(BUDGETS, [0.25, 0.5, 1, 2, 4], law=law)
    found = comparisons.parabolas(params, seen, flops, loss_of(params, seen, law))
    assert found.exponent == pytest.approx(0.5, abs=1e-6) and found.unused == 0
    middle = params[2::5]
    np.testing.assert_allclose(found.params, middle, rtol=1e-6)
    np.testing.assert_allclose(found.seen, BUDGETS / middle / 6, rtol=1e-6)
    assert found.best_params(1e21) / np.sqrt(1e21 / 1e19) == pytest.approx(middle[-1], rel=1e-6)


def test_parabolas_are_biased_without_noise_and_by_how_much_is_said():
    """Sizes whose middle drifts off the best of their budget, as a lab's own grid does."""
    law = np.array([LAW[name] for name in ("E", "A", "B", "alpha", "beta")])
    wide = np.geomspace(1 / 16, 16, 9)
    even = comparisons.bias(*ladder(BUDGETS, wide), law)
    assert abs(even.exponent) < 1e-6 and even.size == pytest.approx(1.058, abs=2e-3)
    drifting = comparisons.bias(*ladder(BUDGETS, wide, drift=0.15), law)
    assert drifting.exponent == pytest.approx(-0.005, abs=5e-4) and drifting.reach == 100
    assert drifting.size == pytest.approx(1.011, abs=2e-3)


def test_budgets_without_a_minimum_or_with_few_sizes_are_counted_and_not_used():
    params, seen, flops = ladder(BUDGETS, [4, 8, 16, 32])
    found = comparisons.parabolas(params, seen, flops, loss_of(params, seen))
    assert found.unused == 5 and len(found.params) == 0 and np.isnan(found.exponent)
    params, seen, flops = ladder(BUDGETS, [0.5, 1, 2])
    assert comparisons.parabolas(params, seen, flops, loss_of(params, seen)).unused == 5


@pytest.mark.parametrize("factors", [[0.25, 0.5, 1, 2, 4], [4, 8, 16, 32]])
def test_beside_a_fit_both_are_told(factors):
    params, seen, flops = ladder(BUDGETS, factors)
    names = tuple(f"run {row}" for row in range(len(params)))
    unknown = np.full(len(params), np.nan)
    loss = loss_of(params, seen)
    runs = Observations(names, params, seen, unknown, flops, loss, curves=(None,) * len(names))
    found = comparisons.beside(estimate.fit(runs, estimate.Settings(bootstraps=5)))
    text = comparisons.described(json.loads(json.dumps(found)))
    assert "E 1.7, A 4" in text and "of 81 searches end there" in text
    if factors[0] < 1:
        assert "Parabolas of 5 budgets: the best N goes with C^0.452" in text
        assert "Their bias, without any noise at these runs: -0.000 of the exponent, +" in text
    else:
        assert "0 budgets have 4 sizes around a minimum" in text
        assert found["parabolas"]["bias"] is None

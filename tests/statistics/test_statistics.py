"""Ties, exact cosines, the bootstrap and permutation p-values against their definitions."""

from fractions import Fraction

import numpy as np
import pytest

from phenomjax.statistics import bootstrap, permutation, ties
from phenomjax.statistics.combination import cauchy_combination
from phenomjax.statistics.cosines import exact_cosines, unit_rows


def test_what_ties_is_neither_less_nor_greater():
    null = np.sort(np.array([0.1, 0.3, 0.3 + 1e-7, 0.3 - 1e-7, 0.5], np.float32))
    values = np.array([0.3, 0.3 + 2e-7, 0.2, 0.5], np.float32)
    assert ties.less(null, values).tolist() == [1, 1, 1, 4]
    assert ties.at_most(null, values).tolist() == [4, 4, 1, 5]
    assert ties.less(null, values, tied=0.0).tolist()[1] == 4
    p = permutation.p_values(null, np.append(values, np.float32(np.nan)))
    assert p[:4].tolist() == [5 / 6, 5 / 6, 5 / 6, 2 / 6] and np.isnan(p[4])
    share = permutation.share_at_least(null, values)
    assert share.tolist() == pytest.approx([0.8, 0.8, 0.8, 0.2])
    assert np.isnan(permutation.share_at_least(np.empty(0), values)).all()


def test_exact_cosines_are_exact_in_every_order():
    """Equal to sums of fractions, whichever block and order of the dimensions."""
    rng = np.random.default_rng(0)
    rows = unit_rows(rng.normal(size=(9, 131))).astype(np.float32)
    found = exact_cosines(rows, rows)
    order = rng.permutation(131)
    np.testing.assert_array_equal(exact_cosines(rows[:, order], rows[:, order]), found)
    for row in range(9):
        np.testing.assert_array_equal(exact_cosines(rows[[row]], rows)[0], found[row])
    fixed = [Fraction(round(float(value) * 2**26), 2**26) for value in rows[3]]
    assert Fraction(found[3, 3]) == sum(value * value for value in fixed)
    np.testing.assert_allclose(
        found, rows.astype(np.float64) @ rows.T.astype(np.float64), atol=1e-7
    )


def test_draws_are_the_same_for_every_block():
    """One draw after the other, as a book has it, gives the same rows and the same interval."""
    rng = np.random.default_rng(5)
    expected = np.array([rng.integers(0, 7, 7) for _ in range(50)])
    for at_once in (1, 8, None):
        rows = np.concatenate(list(bootstrap.drawn(7, 50, 5, at_once)))
        np.testing.assert_array_equal(rows, expected)
    counts = bootstrap.times_drawn(expected)
    assert counts.sum(1).tolist() == [7] * 50 and counts[0, 3] == (expected[0] == 3).sum()
    values = np.random.default_rng(1).normal(size=7)
    means = values[expected].mean(1)
    assert bootstrap.interval_of_mean(values, draws=50, seed=5) == pytest.approx(
        np.quantile(means, [0.025, 0.975]).tolist()
    )
    assert bootstrap.interval(np.array([np.nan])) is None
    assert bootstrap.interval_of_mean(np.array([np.nan])) is None
    assert bootstrap.interval_of_pairs(np.empty(0, bool), np.empty((0, 2), int)) is None


def test_false_discovery_rates_leave_nan_out():
    q = permutation.q_values(np.array([0.01, np.nan, 0.04]))
    assert q[[0, 2]].tolist() == [0.02, 0.04] and np.isnan(q[1])


def test_cauchy_combination():
    """The first row is the example of ACAT's manual, by the authors of the test."""
    p = np.array([0.02, 4e-4, 0.2, 0.1, 0.8, 0.3, np.nan, np.nan, 1e-20, *[0.5] * 4])
    of = np.array([*[0] * 5, 1, 1, 2, *[3] * 5])
    expected = [0.001953404, 0.3, np.nan, 5e-20, np.nan]
    np.testing.assert_allclose(cauchy_combination(p, of, 5), expected, rtol=1e-6)
    # below all of 1,999 permutations in one experiment and above all of them in another
    both = np.array([1.0, 1 / 2000])
    assert cauchy_combination(both, np.zeros(2, int), 1, 1 / 2000)[0] == pytest.approx(0.5)
    uniform = np.random.default_rng(0).uniform(size=80000)
    share = (cauchy_combination(uniform, np.arange(80000) // 4, 20000) < 0.01).mean()
    assert share == pytest.approx(0.01, abs=0.002)

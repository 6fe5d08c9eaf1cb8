"""Budgets that are left out are forecast from those below, and errors are what they are."""

import numpy as np
import pandas as pd
import pytest

from phenomjax.scaling.fit import estimate
from phenomjax.scaling.fit.law import Prediction
from phenomjax.scaling.fit.leave_out import described, leave_out, possible_cuts
from phenomjax.scaling.observations import Observations

FLOPS = np.repeat([1e15, 3e15, 1e16, 3e16], 3) * np.tile([0.99, 1.0, 1.01], 4)
LOSS = np.linspace(4.0, 2.9, 12)


def test_the_largest_budgets_are_left_out_one_after_the_other():
    masks = []

    def forecast(fitted, left):
        masks.append((fitted, left))
        right = LOSS[left]
        return Prediction(
            right * 1.02, right * 0.99, np.where(np.arange(left.sum()), right * 1.03, 0)
        )

    one, two = leave_out(FLOPS, LOSS, 2.5, forecast)
    assert (one.fitted, one.forecasts, two.fitted, two.forecasts) == (9, 3, 6, 6)
    assert one.below == pytest.approx(0.99 * 3e16) and one.reach == pytest.approx(3.0)
    assert two.reach == pytest.approx(3.0 * 10 / 3)
    assert masks[0][0].tolist() == [True] * 9 + [False] * 3
    assert one.median_error == pytest.approx(0.02) == one.worst_error == one.median_signed_error
    errors = 0.02 * LOSS[9:] / (LOSS[9:] - 2.5)
    assert one.median_error_of_reducible == pytest.approx(np.median(errors))
    assert one.worst_error_of_reducible == pytest.approx(errors.max())
    assert one.coverage == pytest.approx(2 / 3)
    table = described([one, two]).splitlines()
    assert table[2].split() == [
        "3e+16",
        "9",
        "3",
        "3x",
        "2.00%",
        "2.00%",
        f"{np.median(errors):.1%}",
        "67%",
    ]


def test_what_is_too_little_to_fit_is_not_cut():
    assert leave_out(FLOPS[:6], LOSS[:6], 2.5, lambda fitted, left: None) == []
    assert "was not measured" in described([])


def test_of_many_budgets_a_few_cuts_are_spread():
    flops = np.repeat(np.geomspace(1e15, 1e18, 13), 3)
    cuts = possible_cuts(flops)
    assert len(cuts) == 5 and cuts[0] == pytest.approx(1e18)
    assert cuts == sorted(cuts, reverse=True)
    assert np.ptp(np.diff(np.log(cuts))) < np.log(2)


def test_a_run_below_the_floor_has_no_reducible_loss():
    def forecast(fitted, left):
        return Prediction(LOSS[left], LOSS[left], LOSS[left])

    for found in leave_out(FLOPS, LOSS, 10.0, forecast):
        assert np.isnan(found.median_error_of_reducible) and found.coverage == 1


@pytest.mark.shared_data
@pytest.mark.parametrize(("dataset", "multiplier"), [("rpj", 32), ("rw_original", 16)])
def test_overtrained_and_larger_models_are_forecast_from_small_ones(shared, dataset, multiplier):
    """Models of 11 to 412 M parameters tell 1.4 B trained for long, and 6.9 B; N is counted without
    embeddings, which are most of the smallest models.
    """
    table = pd.read_csv(shared / "scaling/overtraining_runs.csv")
    table = table[table["dataset"] == dataset]
    columns = table["params_no_embed"], table["tokens"], table["loss_c4_val"]
    params, seen, loss = (column.to_numpy(np.float64) for column in columns)
    unknown = np.full(len(table), np.nan)
    runs = Observations(
        tuple(table["run"]), params, seen, unknown, 6 * params * seen, loss, "tokens",
        curves=(None,) * len(table),
    )  # fmt: skip
    fit = estimate.fit(runs.take(params < 1e9), estimate.Settings(bootstraps=100))
    times = table["multiplier"].to_numpy()
    wanted = (params > 1e9) & ((times == multiplier) | (params > 5e9))
    said = fit.predict(params[wanted], seen[wanted])
    assert wanted.sum() == 2
    assert (np.abs(said.loss / loss[wanted] - 1) < [0.02, 0.035]).all()
    assert ((said.low < loss[wanted]) & (loss[wanted] < said.high)).all()

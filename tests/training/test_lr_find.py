"""The learning-rate finder: what it suggests of curves that are known, and that it touches nothing
of the run.
"""

import csv
import hashlib
import json

import jax
import numpy as np
import pytest

from phenomjax import config, optim, train
from phenomjax.cluster import messages
from phenomjax.config.schedules import SEARCHED
from phenomjax.system.errors import UserError
from phenomjax.training import lr_find
from tests.lab import toy_task
from tests.training.test_train import lines, make_config

LOWEST, HIGHEST, STEPS = SEARCHED
RATES = np.geomspace(LOWEST, HIGHEST, STEPS)


def curve(noise, fall=1.0, middle=1e-3, diverges=0.1):
    """Falls from 2 around a rate by a logistic curve, and rises from another one on."""
    values = 2 - fall / (1 + (middle / RATES) ** 2) + np.maximum(RATES / diverges - 1, 0)
    return values + noise * np.random.default_rng(0).normal(size=STEPS)


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.1])
def test_a_third_of_the_middle_of_the_valley(noise):
    found = lr_find.suggest(RATES.tolist(), curve(noise).tolist())
    # 1 / (1 + (middle / rate)^2) = 0.9 at three times the middle; the rise costs a tenth at 0.11
    assert found.valley == pytest.approx((3e-3, 0.11), rel=0.2 + 4 * noise)
    assert found.rate == pytest.approx(np.sqrt(3e-3 * 0.11) / 3, rel=0.1 + 2 * noise)
    assert found.fall == pytest.approx(1, abs=0.02 + noise)
    assert found.noise == pytest.approx(noise / np.sqrt(8 * np.sqrt(np.pi)), rel=0.4, abs=2e-3)


@pytest.mark.parametrize(
    "losses",
    [
        curve(0.1, fall=0.0),
        curve(0.1, fall=0.05),  # lost in the noise
        curve(0.0, fall=-1.0),  # rises
        curve(0.03, fall=0.0, diverges=1e-6),
        np.full(STEPS, 1.5),
        np.array([1.5]),
    ],
)
def test_nothing_is_suggested_where_the_loss_does_not_fall(losses):
    rates = RATES[: len(losses)].tolist()
    assert lr_find.suggest(rates, losses.tolist()).rate is None


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "lr_find" not in path.parts
    }


def test_a_run_in_the_folder_is_not_touched_and_goes_on(tmp_path, caplog):
    assert train.run(make_config(stop_at_step=6), tmp_path / "run") == 75
    before = digests(tmp_path / "run")
    with caplog.at_level("INFO", "phenomjax"):
        assert train.run(make_config(lr_find=True), tmp_path / "run") == 0
    assert digests(tmp_path / "run") == before
    rate = json.loads((tmp_path / "run" / "lr_find" / "suggestion.json").read_text())["rate"]
    assert f"suggested: --config.optimizer.learning_rate={rate:.2g}, a third of" in caplog.text
    assert (tmp_path / "run" / "lr_find" / "lr_find.png").is_file()
    with (tmp_path / "run" / "lr_find" / "curve.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    np.testing.assert_allclose(
        [float(row["learning_rate"]) for row in rows], RATES[: len(rows)], rtol=1e-5
    )
    assert float(rows[0]["loss"]) == pytest.approx(lines(tmp_path / "run")[0]["train/loss"], rel=1)
    # what it offers trains, better than the rate before it
    changes = {"optimizer__learning_rate": float(f"{rate:.2g}")}
    assert train.run(make_config(**changes), tmp_path / "better") == 0
    assert train.run(make_config(), tmp_path / "run") == 0
    losses = [lines(tmp_path / name)[-1]["val/loss"] for name in ("better", "run")]
    assert losses[0] < losses[1]


def test_divergence_ends_it_and_a_signal_stops_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", (30,))
    with caplog.at_level("INFO", "phenomjax"):
        assert train.run(make_config(lr_find=True), tmp_path / "bad") == 0
    assert len((tmp_path / "bad" / "lr_find" / "curve.csv").read_text().splitlines()) == 31
    assert "no learning rate is suggested: the loss does not fall" in caplog.text
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", (0,))
    assert train.run(make_config(lr_find=True), tmp_path / "first") == 0
    assert "the first step gave no finite loss" in caplog.text
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", ())
    calls = iter(range(100))
    monkeypatch.setattr(messages, "stop_requested", lambda: next(calls) == 5)
    assert train.run(make_config(lr_find=True), tmp_path / "stopped") == 75


def test_another_run_is_not_gone_on_from():
    c = make_config(lr_find=True, continue_from="runs/one@20")
    with pytest.raises(UserError) as error:
        config.finalize(c)
    mend = "--config.init_from=runs/one/checkpoints/20 --config.continue_from=''"
    assert f"Set {mend}" in str(error.value)
    config.finalize(make_config(lr_find=True, init_from="runs/one/checkpoints/20"))


def test_the_optimiser_has_the_rising_rate():
    rate = optim.schedule(make_config(lr_find=True, optimizer__learning_rate=7.0))
    np.testing.assert_allclose(jax.vmap(rate)(np.arange(STEPS)), RATES, rtol=1e-5)

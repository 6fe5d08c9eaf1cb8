"""Runs that change their course."""

import logging

import pytest

from phenomjax import train
from phenomjax.system.errors import UserError
from tests.lab import toy_task
from tests.training.test_train import lines, make_config


@pytest.fixture(autouse=True)
def sound(monkeypatch):
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", ())


def test_another_length_says_what_becomes_of_the_rate(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    how = {"optimizer__schedule": "warmup_linear", "figures__num_images": 0}
    assert train.run(make_config(num_steps=8, **how), tmp_path) == 0
    caplog.clear()
    before = (tmp_path / "config.json").read_bytes(), lines(tmp_path)
    with pytest.raises(UserError, match=r"at step 8 already: there is nothing to train") as error:
        train.run(make_config(num_steps=4, **how), tmp_path)
    assert f"--config.continue_from={tmp_path}@4 (there are [4])" in str(error.value)
    assert ((tmp_path / "config.json").read_bytes(), lines(tmp_path)) == before
    # 1e-2 over 1 step and down: 1/7 of it at the eighth; at the ninth of sixteen 8/14
    assert train.run(make_config(num_steps=16, **how), tmp_path) == 0
    said = next(r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert "num_steps was 8 and is 16" in said and "goes from 0.00143 to 0.00571" in said
    for way in ("constant --config.optimizer.learning_rate=0.00143", "schedule_from=8", "wsd"):
        assert f"--config.optimizer.{'schedule=' * (way[0] in 'cw')}{way}" in said
    caplog.clear()
    assert train.run(make_config(num_steps=16, **how), tmp_path) == 0  # as it is: nothing is said
    assert not [r for r in caplog.records if "num_steps" in r.getMessage()]


def test_a_length_that_does_not_move_the_rate_is_no_warning(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    how = {"optimizer__schedule": "warmup_constant", "optimizer__warmup_steps": 2}
    assert train.run(make_config(num_steps=4, figures__num_images=0, **how), tmp_path) == 0
    assert train.run(make_config(num_steps=6, figures__num_images=0, **how), tmp_path) == 0
    said = [r for r in caplog.records if "num_steps was 4 and is 6" in r.getMessage()]
    assert [r.levelname for r in said] == ["INFO"] and "0.01, as it was" in said[0].getMessage()

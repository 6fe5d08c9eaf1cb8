"""Runs that change their course."""

import json
import logging

import pytest

from phenomjax import config, train
from phenomjax.checkpoints import loading
from phenomjax.system.errors import UserError
from tests.lab import toy_task
from tests.training.test_train import equal, lines, make_config


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


def test_a_batch_ramp_is_a_function_of_the_step_also_after_a_stop(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    how = {
        "batch_ramp": ((3, 32), (8, 48)),
        "log__sample_ids": True,
        "figures__num_images": 0,
        "optimizer__accumulate_steps": 2,
    }
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert train.run(make_config(**how), straight) == 0
    assert "from step 8 on 48 rows a step" in caplog.text
    read = [
        json.loads(line) for line in (straight / "logs/samples_000.jsonl").read_text().splitlines()
    ]
    assert [len(line["ids"]) for line in read] == [16] * 3 + [32] * 5 + [48] * 4
    size = json.loads((straight / "size.json").read_text())
    assert size["units_per_step"] == round((3 * 16 + 5 * 32 + 4 * 48) / 12)
    # at the step where the carry still has the rows of before, and off it
    for stop in (3, 5, 8):
        assert train.run(make_config(**how, stop_at_step=stop), broken) == 75
    assert train.run(make_config(**how), broken) == 0
    assert lines(broken) == lines(straight)
    equal(loading.load(broken)[1], loading.load(straight)[1])


@pytest.mark.parametrize(
    "ramp,text",
    [
        (((3, 32), (3, 48)), "it must be pairs of a step and the rows"),
        (((3, 32, 4),), "it must be pairs of a step and the rows"),
        (((3, 0),), "each must be at least 1"),
        (((3, 31),), "batch_ramp: a batch of 31 is not a multiple of config.optimizer.accumulate"),
    ],
)
def test_a_ramp_that_is_none_is_an_error(ramp, text):
    c = make_config(optimizer__accumulate_steps=2)
    c.batch_ramp = ramp
    with pytest.raises(UserError, match=text):
        config.finalize(c)

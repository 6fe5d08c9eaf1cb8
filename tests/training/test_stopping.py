"""Stopping early: when, what is done at the end, and that an interruption changes nothing."""

import math

import pytest

from phenomjax import config, train
from phenomjax.checkpoints import loading
from phenomjax.cluster import messages
from phenomjax.runs import reading
from phenomjax.system.errors import UserError
from phenomjax.training.stopping import EarlyStop
from phenomjax.training.writers.workdir import WorkdirFiles
from tests.training.test_train import equal, lines, make_config


def made(metric="val/loss", patience=2, min_delta=0.0):
    c = config.base()
    c.num_steps = 100
    c.stop_early.update(metric=metric, patience=patience, min_delta=min_delta)
    return EarlyStop(c, ("val", "probe"))


def steps_until_it_ends(early, values):
    for step, value in enumerate(values, 1):
        if early.reason(step, {early._metric: value, "val/other": 0.0}):
            return step
    return None


@pytest.mark.parametrize(
    "options,values,ends",
    [
        ({}, [3, 2, 2, 1, 1, 1, 1], 6),  # as good as the best is not better
        ({"patience": 1}, [3, 2, 2], 3),
        ({}, [3, 4, 2, 4, 1, 4, 0], None),
        ({"min_delta": 0.5}, [3, 2.6, 2.4, 2.2, 2.0], 5),  # against the last that counted, 2.4
        ({}, [math.nan, math.nan, 1, math.nan, math.nan], 2),
        ({"patience": 3}, [math.nan, 1, math.inf, math.nan, math.nan], 5),
        ({"metric": "probe/a/b/accuracy"}, [0.3, 0.5, 0.4, 0.5], 4),  # more is better
        ({"metric": "probe/a/b/rmse"}, [0.5, 0.4, 0.3, 0.2], None),
    ],
)
def test_when_it_ends(options, values, ends):
    assert steps_until_it_ends(made(**options), values) == ends


def test_what_is_said_and_what_is_kept():
    early = made(min_delta=0.1)
    assert early.reason(4, {"val/accuracy": 1.0}) == "" and early.measured == {}
    assert early.reason(10, {"val/loss": 0.5}) == early.reason(20, {"val/loss": 0.45}) == ""
    text = early.reason(30, {"val/loss": 0.41})
    assert text.startswith(
        "val/loss has not got better by more than 0.1 than 0.5000, its value at step 10, in 2"
        " evaluations."
    )
    assert "--config.stop_early.patience=4" in text
    again, patient, other = made(), made(patience=4), made("val/accuracy")
    for one in (again, patient, other):
        one.restore(early.state())
    assert again.measured == {10: 0.5, 20: 0.45, 30: 0.41} and other.measured == {}
    # as the settings are now, from all that was measured; at the last step there is nothing to end
    assert again.reason(30, {}) == patient.reason(30, {}) == ""
    again.restore(early.state())
    assert made(patience=1).reason(100, {"val/loss": 1.0}) == ""


def test_a_run_that_stops_early_is_done(tmp_path, monkeypatch, caplog):
    # one value is never better by 1e3 than another
    changes = {
        "stop_early__metric": "val/loss",
        "stop_early__min_delta": 1e3,
        "stop_early__patience": 1,
        "eval__every_steps": 4,
        "checkpoint__every_steps": 100,
        "checkpoint__keep_best": 0,
    }
    ends, close = [], WorkdirFiles.close
    # what writers are told; MLflow makes FINISHED or KILLED of it
    told = lambda writer, done=False: (ends.append(done), close(writer, done))  # noqa: E731
    monkeypatch.setattr(WorkdirFiles, "close", told)
    with caplog.at_level("INFO", "phenomjax"):
        assert train.run(make_config(num_steps=40, **changes), tmp_path / "run") == 0
    assert ends == [True]
    assert "stopped early at step 8 of 40: val/loss has not got better by more" in caplog.text
    # what is due at the last step is done at this one: log, figures, checkpoint
    found = lines(tmp_path / "run")
    assert found[-1]["step"] == 8 and "train/loss" in found[-1]
    assert [path.name for path in (tmp_path / "run" / "figures").iterdir()] == ["toy_0000008.png"]
    assert loading.load(tmp_path / "run")[2] == 8 and reading.read(tmp_path / "run").state == "done"
    # a signal before each evaluation, and the count goes on
    calls = {}

    def requested():
        calls["n"] = calls.get("n", 0) + 1
        return calls["n"] % 4 == 0

    monkeypatch.setattr(messages, "stop_requested", requested)
    codes = []
    while not codes or codes[-1] == 75:
        codes.append(train.run(make_config(num_steps=40, **changes), tmp_path / "broken"))
    assert codes[-1] == 0 and len(codes) > 2
    assert ends == [True, *(code == 0 for code in codes)]
    monkeypatch.undo()
    equal(loading.load(tmp_path / "broken")[1], loading.load(tmp_path / "run")[1])
    values = [
        [(line["step"], line["val/loss"]) for line in lines(tmp_path / name) if "val/loss" in line]
        for name in ("run", "broken")
    ]
    assert values[0] == values[1]
    # the same command again: it is over; the mends that it offers go on
    assert train.run(make_config(num_steps=40, **changes), tmp_path / "run") == 0
    assert loading.load(tmp_path / "run")[2] == 8
    changes["stop_early__patience"] = 2
    assert train.run(make_config(num_steps=40, **changes), tmp_path / "run") == 0
    assert loading.load(tmp_path / "run")[2] == 12
    changes["stop_early__metric"] = ""
    assert train.run(make_config(num_steps=14, **changes), tmp_path / "run") == 0
    assert loading.load(tmp_path / "run")[2] == 14


@pytest.mark.parametrize(
    "changes,wrong",
    [
        ({"metric": "val/los"}, "stop_early.metric is 'val/los'. Did you mean 'val/loss'"),
        ({"metric": "probe/a/b/c"}, "nothing is probed. Set --config.probes.every_steps"),
        ({"patience": 0}, "stop_early.patience is 0; it must be at least 1"),
        ({"min_delta": -1.0}, "stop_early.min_delta is -1.0; it must be at least 0"),
    ],
)
def test_what_cannot_be(changes, wrong):
    with pytest.raises(UserError) as error:
        config.finalize(make_config(**{f"stop_early__{k}": v for k, v in changes.items()}))
    assert wrong in str(error.value)


@pytest.mark.parametrize(
    "key,value,metric", [("patience", 2, ""), ("min_delta", 0.1, ""), ("patience", 2, "val/loss")]
)
def test_a_setting_that_nothing_reads_is_told(caplog, key, value, metric):
    made(metric, **{"patience": 5, key: value})
    told = f"config.stop_early.{key} is {value}, but config.stop_early.metric is ''"
    assert (told in caplog.text) == (not metric)


def test_nothing_measures_it():
    c = make_config(stop_early__metric="val/loss", eval__every_steps=0)
    with pytest.raises(UserError, match="nothing is validated"):
        config.finalize(c)
    with pytest.raises(UserError, match="nothing is held out that it could be measured on"):
        EarlyStop(make_config(stop_early__metric="val/loss"), ("figures",))
    with pytest.raises(UserError, match="there is nothing to measure"):
        config.finalize(make_config(eval__at_start=True, eval__every_steps=0))

"""The forecast of a run in its file, in the run itself, and in the list of runs."""

import dataclasses
import json
import time

import pytest

from phenomjax import config, main, train
from phenomjax.config import keys
from phenomjax.runs import __main__ as runs
from phenomjax.runs.reading import find
from phenomjax.scaling.costs import cost_of
from phenomjax.scaling.forecast import record
from phenomjax.system.errors import UserError

TOY = "tests.lab.toy_task:ToyTask"


def make_config(**changes):
    c = config.base()
    c.task, c.num_steps, c.global_batch_size, c.data.simulate.plates = TOY, 12, 16, 1
    c.log.every_steps, c.eval.every_steps, c.eval.num_batches, c.checkpoint.every_steps = 3, 4, 2, 4
    c.optimizer.learning_rate, c.log.tensorboard, c.figures.num_images = 1e-2, False, 0
    c.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return c


def trained(c, workdir):
    """As phenomjax.main trains."""
    return train.run(c, workdir, main.evaluators_of(c))


def lines(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in found]


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """{step: val/loss} of the run that nobody forecast."""
    workdir = tmp_path_factory.mktemp("runs") / "without"
    assert trained(make_config(), workdir) == 0
    return {line["step"]: line["val/loss"] for line in lines(workdir) if "val/loss" in line}


def forecast_of(tmp_path, **changes):
    """A forecast of that run; the law behind it is nobody's."""
    c = keys.finalize(make_config()).to_dict()
    size = cost_of(make_config(), tmp_path)
    values = {
        "written": "2024-05-06T07:08:09+00:00",
        "config": json.loads(json.dumps(c)),
        "params": size.params,
        "seen": 12.0 * size.units_per_step,
        "flops": 12 * size.flops_per_step,
        "unit": size.unit,
        "data": size.data,
        "loss": 1.0,
        "low": 0.9,
        "high": 1.1,
        "level": 0.9,
        "floor": 0.5,
        "extrapolation": 8.0,
        "fit": {},
    }
    values |= changes
    values["config_sha256"] = record.digest(values["config"])
    return record.Forecast(**values)


def test_a_file_is_dated_read_as_written_and_never_written_over(tmp_path):
    forecast = forecast_of(tmp_path, curve=((0.25, 2.0, 1.8, 2.2), (0.75, 1.2, 1.1, 1.4)))
    path = forecast.write(tmp_path)
    assert path.name == "forecast_20240506T070809Z.json"
    assert record.read(path) == forecast
    assert forecast.at(0.5) == pytest.approx((1.6, 1.45, 1.8))
    assert forecast.at(0.2) is None and forecast.at(1) == (1.0, 0.9, 1.1)
    assert dataclasses.replace(forecast, curve=()).at(0.2) == (1.0, 0.9, 1.1)
    with pytest.raises(UserError, match="is there already, and a forecast is never written over"):
        forecast.write(tmp_path)
    assert record.error_of_reducible(forecast, 0.9) == pytest.approx(0.25)
    assert record.error_of_reducible(forecast, 0.4) is None


def test_a_run_is_followed_judged_and_shown(losses, tmp_path, caplog, capsys):
    """Inside the band, then outside, stopped and continued, and back at the end."""
    a, b, end = losses[4], losses[8], losses[12]
    curve = (
        (0.1, a + 0.1, a, a + 0.2),
        (0.34, a, a - 0.1, a + 0.1),
        (0.6, b - 0.2, b - 0.3, b - 0.1),
        (0.7, b - 0.2, b - 0.3, b - 0.1),
        (1.0, end, end - 0.1, end + 0.1),
    )
    forecast = forecast_of(
        tmp_path, loss=end * 1.02, low=end * 0.98, high=end * 1.1, floor=end / 2, curve=curve
    )
    path = forecast.write(tmp_path / "forecasts")
    c = make_config(scaling__forecast=str(path), stop_at_step=8, figures__every_steps=8)
    workdir = tmp_path / "runs" / "a"
    caplog.set_level("INFO", "phenomjax")
    assert trained(c, workdir) == 75
    assert f"forecast {path} of 2024-05-06T07:08:09+00:00: val/loss {end * 1.02:.4f}" in caplog.text
    assert f"step 8: val/loss {b:.4f} is above the forecast's band, {b - 0.3:.4f}" in caplog.text
    assert "step 4: val/loss" not in caplog.text and "after this run began" not in caplog.text
    stopped = json.loads((workdir / record.OUTCOME).read_text())
    assert (stopped["outside"], stopped["outcome"]) == ([8], None)
    shown = runs.table(find([tmp_path / "runs"]), "name")[1][0]
    assert f"{end * 1.02:.4g} ({end * 0.98:.4g} to {end * 1.1:.4g}) outside now" in shown

    c.stop_at_step = 0
    assert trained(c, workdir) == 0
    assert caplog.text.count("is above the forecast's band") == 1
    assert (
        "forecast against outcome: val/loss" in caplog.text and "the forecast held" in caplog.text
    )
    found = json.loads((workdir / record.OUTCOME).read_text())
    assert found["file"] == str(path) and found["written_before_the_run"]
    assert found["val_loss"] == [[step, loss] for step, loss in sorted(losses.items())]
    outcome = found["outcome"]
    assert (outcome["step"], outcome["loss"], outcome["held"]) == (12, end, True)
    assert outcome["error"] == pytest.approx(0.02)
    assert outcome["error_of_reducible"] == pytest.approx(0.04)
    measured = [line for line in lines(workdir) if "val/loss" in line]
    assert [line["forecast/loss"] for line in measured] == pytest.approx(
        [a, b - 0.2, end * 1.02], abs=0.02
    )
    assert measured[-1]["forecast/low"] == end * 0.98
    assert measured[-1]["forecast/high"] == end * 1.1
    assert sorted(one.name for one in (workdir / "figures").glob("forecast*")) == [
        "forecast_0000008.png",
        "forecast_0000012.png",
    ]
    page = tmp_path / "runs.html"
    runs.main([str(tmp_path / "runs"), "--html", str(page)])
    assert " held\n" in capsys.readouterr().out
    assert "forecast of a</title>" in page.read_text() and "forecast/low" not in page.read_text()


def test_without_a_curve_only_the_end_is_judged(losses, tmp_path, caplog, capsys):
    end = losses[12]
    forecast = forecast_of(
        tmp_path, loss=end / 2, low=end / 3, high=end * 0.6, floor=None, written=record.now()
    )
    time.sleep(1.0)
    path = forecast.write(tmp_path)
    workdir = tmp_path / "runs" / "a"
    assert trained(make_config(stop_at_step=4), workdir) == 75  # before anybody forecast it
    starts = json.loads((workdir / "goodput.json").read_text())
    starts["starts"][0]["began"] = forecast.time().timestamp() - 60
    (workdir / "goodput.json").write_text(json.dumps(starts))
    caplog.set_level("INFO", "phenomjax")
    assert trained(make_config(scaling__forecast=str(path)), workdir) == 0
    assert "after this run began" in caplog.text and "did not hold" in caplog.text
    assert "forecast's band" not in caplog.text
    outcome = json.loads((workdir / record.OUTCOME).read_text())["outcome"]
    assert outcome["error"] == pytest.approx(-0.5) and outcome["error_of_reducible"] is None
    runs.main([str(tmp_path / "runs")])
    assert "off by -50.0 %, written later" in capsys.readouterr().out
    (workdir / record.OUTCOME).write_text("{")
    runs.main([str(tmp_path / "runs")])
    output = capsys.readouterr()
    assert "forecast.json is damaged" in output.err and "off by" not in output.out


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"params": 99}, "of another run: its model has 99 parameters, this one "),
        ({"seen": 19200.0}, r"reads 1.92e\+04 images, this one 192 \(12 steps of 16\)"),
        ({"unit": "residues"}, "it counts residues, this run images"),
        ({"data": {"plates": "abc"}}, r"its data are plates \(abc\), those of this run toy"),
        ({"config": {"task": "causal_lm"}}, "is of the task causal_lm, and this run is of tests"),
        ({"high": 0.5}, "damaged, or was edited: a loss of 1.0 is not between 0.9 and 0.5"),
        ({"loss": float("nan")}, "a loss of nan is not between"),
        ({"flops": -1.0}, "parameters, data and FLOPs must be above 0"),
        ({"written": "yesterday"}, "Invalid isoformat string: 'yesterday'"),
        ({"curve": ((0.5, 2, 1, 3), (0.4, 2, 1, 3))}, "its curve is none"),
        ({"fit": None, "extra": 1}, "is damaged, or was edited"),
        ({"kind": "other"}, "is no forecast, but has written"),
    ],
)
def test_a_foreign_or_damaged_forecast_ends_the_run(changes, text, tmp_path):
    content = {"kind": record.KIND} | dataclasses.asdict(forecast_of(tmp_path)) | changes
    content["config_sha256"] = record.digest(content["config"])
    path = tmp_path / "forecast.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=text):
        trained(make_config(scaling__forecast=str(path)), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_is_no_forecast_is_named(tmp_path, caplog):
    def read(path):
        main.evaluators_of(make_config(scaling__forecast=str(path)))

    with pytest.raises(UserError, match=r"There is no forecast .*Write a forecast by `python -m"):
        read(tmp_path / "none.json")
    path = forecast_of(tmp_path).write(tmp_path)
    with pytest.raises(UserError, match=f"is a folder.* In it: {path.name}"):
        read(tmp_path)
    (tmp_path / "text.json").write_text("loss 2.5")
    with pytest.raises(UserError, match=r"text\.json is not JSON"):
        read(tmp_path / "text.json")
    (tmp_path / "outcome.json").write_text(json.dumps({"file": str(path), "outcome": None}))
    with pytest.raises(UserError, match=f"Give the forecast itself, {path}"):
        read(tmp_path / "outcome.json")
    edited = json.loads(path.read_text())
    edited["config"]["num_steps"] = 13
    (tmp_path / "edited.json").write_text(json.dumps(edited))
    with pytest.raises(UserError, match="the digest of its configuration does not fit"):
        read(tmp_path / "edited.json")
    with pytest.raises(UserError, match=r"config.eval.every_steps is 0: .*--config.eval.every_st"):
        main.evaluators_of(make_config(scaling__forecast=str(path), eval__every_steps=0))
    with pytest.raises(UserError, match=r"scaling.forecast is .*was given no forecasts"):
        train.run(make_config(scaling__forecast=str(path)), tmp_path / "run")
    main.evaluators_of(make_config(scaling__forecast=str(path), optimizer__learning_rate=0.5))
    assert "optimizer.learning_rate: forecast for 0.01, is 0.5" in caplog.text

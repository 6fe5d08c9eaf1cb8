"""Forecasts from a fit: of numbers, of a configuration, of the best size; what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from phenomjax import config, main
from phenomjax.config import stored
from phenomjax.config.experiment import read_config
from phenomjax.scaling.fit import estimate
from phenomjax.scaling.fit.law import NAMES, law
from phenomjax.scaling.forecast import command, curves, expense, record, sizes
from phenomjax.scaling.forecast.telling import remarks
from phenomjax.scaling.observations import Curve, Observations
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door

E, A, B, ALPHA, BETA = 1.5, 3.0, 8.0, 0.4, 0.3
SHARES = np.linspace(0.1, 1, 10)
CONFIG = """
from phenomjax import config

def get_config():
    c = config.base()
    c.task, c.num_steps, c.global_batch_size = "tests.lab.toy_task:ToyTask", 400, 16
    c.data.simulate.plates = 1
    return c
"""


def fitted(noise=0.002, schedule=("one_cycle", 0.1, 0.0), **facts):
    """The law of 25 runs about as large as the toy's, with curves of one shape."""
    random = np.random.default_rng(0)
    budgets = np.repeat(np.geomspace(1e4, 1e6, 5), 5)
    params = np.sqrt(budgets / 60) * np.tile([0.4, 0.7, 1, 1.6, 2.5], 5)
    seen = budgets / 6 / params
    exact = law(np.array([[E, A, B, ALPHA, BETA]]), params, seen)[0]
    loss = exact * np.exp(noise * random.normal(size=25))
    excess = (SHARES**-0.5 - 1) * np.exp(10 * noise * random.normal(size=(25, 10)))
    above = exact - E
    runs = Observations(
        names=tuple(f"run {i}" for i in range(25)),
        params=params,
        seen=seen,
        unique=np.full(25, 10_000.0),
        flops=budgets,
        loss=loss,
        unit="images",
        curves=tuple(
            Curve(SHARES, end + rest * up, schedule)
            for end, rest, up in zip(loss, excess, above, strict=True)
        ),
        facts=facts,
    )
    return estimate.fit(runs, estimate.Settings(bootstraps=60))


@pytest.fixture(scope="module")
def fit():
    return fitted()


@pytest.fixture(scope="module")
def folder(fit, tmp_path_factory):
    place = tmp_path_factory.mktemp("fit")
    one = {
        "reach": 10.0,
        "forecasts": 5,
        "median_error": 0.0021,
        "median_error_of_reducible": 0.013,
        "coverage": 0.8,
    }
    fit.save(place, {"leave_out": [one, one | {"reach": 100.0, "coverage": 0.5}]})
    (place / "toy.py").write_text(CONFIG)
    return place


def test_numbers_give_one_line_of_json(fit, folder, capsys, caplog):
    run_as_door(command, ["--fit", folder, "--params", "300", "--tokens", "20000"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    truth = float(law(np.array([[E, A, B, ALPHA, BETA]]), np.array([300.0]), np.array([2e4]))[0, 0])
    assert found["low"] < truth < found["high"] and found["loss"] == pytest.approx(truth, rel=0.01)
    said = fit.predict(np.array([300.0]), np.array([2e4]))
    assert [found[name] for name in ("loss", "low", "high")] == pytest.approx(
        [said.loss[0], said.low[0], said.high[0]]
    )
    assert found["flops"] == pytest.approx(6 * 300 * 2e4)
    assert found["extrapolation"] == pytest.approx(36) and "another direction" not in caplog.text


def test_the_best_size_is_that_of_the_closed_form(fit, folder, capsys):
    budget = 1e8
    assert fit.form == "plain"
    e = dict(zip(NAMES, fit.forecaster, strict=False))
    g = (e["alpha"] * e["A"] / e["beta"] / e["B"]) ** (1 / (e["alpha"] + e["beta"]))
    wanted = g * (budget / 6) ** (e["beta"] / (e["alpha"] + e["beta"]))
    best = sizes.best(fit, budget, sizes.unit_cost(fit))
    assert best.params == pytest.approx(wanted, rel=0.01)
    assert best.seen == pytest.approx(budget / 6 / best.params)
    assert best.low <= best.params <= best.high
    for ends in (best.smallest, best.largest):
        edge = fit.loss(np.array([ends]), np.array([budget / 6 / ends]))[0]
        assert edge == pytest.approx(1.01 * best.loss, rel=1e-3)
    run_as_door(command, ["--fit", folder, "--budget", "1e8"])
    assert f"best size for 1e+08 FLOPs: {best.params:,.3g} parameters" in capsys.readouterr().out
    # a family in which a unit costs less of larger models
    cost = sizes.Cost(factor=60.0, power=0.5)
    cheap = sizes.best(fit, budget, cost)
    around = cheap.params * np.array([0.9, 1.0, 1.1])
    losses = fit.loss(around, budget / cost.of(around))
    assert losses.argmin() == 1


def test_a_course_follows_curves_of_its_schedule(fit):
    end = fit.predict(np.array([300.0]), np.array([2e4]))
    course = curves.course(fit, 3.6e7, end, ("one_cycle", 0.1, 0.0), 0.9)
    assert course[-1] == (1.0, end.loss[0], end.low[0], end.high[0])
    assert min(low for _, _, low, _ in course) == end.low[0]
    assert course[0][0] == pytest.approx(0.1) and len(course) == curves.SHARES
    for share, loss, low, high in course[:-1]:
        knots = np.interp(share, SHARES, np.log(1 + SHARES**-0.5 - 1))
        expected = end.loss[0] + (end.loss[0] - fit.forecaster[0]) * (np.exp(knots) - 1)
        assert low < loss < high and loss == pytest.approx(expected, rel=0.03)
        assert low < expected < high
    assert curves.course(fit, 3.6e7, end, ("constant", 0.1, 0.0), 0.9) == ()
    assert curves.course(fit, 3.6e7, end, ("one_cycle", 0.3, 0.0), 0.9) == ()


def test_a_configuration_is_forecast_in_a_dated_file(fit, folder, tmp_path, capsys):
    out = tmp_path / "out"
    run_as_door(
        command,
        f"--fit {folder} --config {folder}/toy.py --config.num_steps=500 --out {out} --devices 4"
        " --rate 1e-3 --price_per_device_hour 2".split(),
    )
    text = capsys.readouterr().out
    (path,) = out.glob("forecast_*Z.json")
    forecast = record.read(path)
    assert (forecast.params, forecast.seen, forecast.unit) == (72, 8000.0, "images")
    assert forecast.config["num_steps"] == 500 and forecast.flops == 500.0
    said = fit.predict(np.array([72.0]), np.array([8000.0]))
    assert [forecast.loss, forecast.low, forecast.high] == pytest.approx(
        [said.loss[0], said.low[0], said.high[0]]
    )
    assert forecast.curve[-1] == (1.0, forecast.loss, forecast.low, forecast.high)
    assert forecast.fit["law"] == fit.values and forecast.floor == fit.values["E"]
    assert forecast.cost["hours"] == pytest.approx(500 / 1e-3 / 4 / 3600)
    assert forecast.cost["price"] == pytest.approx(500 / 1e-3 / 3600 * 2)
    for line in (
        "72 parameters, 8,000 images (167 passes over 48), 500 FLOPs",
        f"val/loss at the end: {forecast.loss:.4f}, 90 % interval {forecast.low:.4f} to",
        "of its own runs it forecast 5 from those below, up to 10 x: median error 0.21 % of the",
        "167 passes over its data, the fitted runs at most",
        "best size for 500 FLOPs: ",
        "34.7 hours on 4 devices (0.001 model FLOP/s each): 139 device-hours, 277.78 in all",
        f"next: python -m phenomjax.main --config {folder}/toy.py --config.num_steps=500 --workdir",
    ):
        assert line in text, text
    c = read_config(
        f"{folder}/toy.py", ["--config.num_steps=500", f"--config.scaling.forecast={path}"]
    )
    assert len(main.evaluators_of(c)) == 2


@pytest.mark.parametrize(
    "words,text",
    [
        ("", r"Say what is to be forecast: --config FILE, or --params N and --tokens D, or --budg"),
        ("--params 9", r"--tokens is missing: .* give --budget alone"),
        ("--tokens 9", r"--params is missing"),
        ("--params -9 --tokens 9", r"--params is -9; it must be a number above 0"),
        ("--params nan --tokens 9", r"--params is nan; it must be"),
        ("--budget inf", r"--budget is inf"),
        ("--params 9 --tokens 9 --level 90", r"--level is 90; it is the share of runs"),
        ("--params 9 --tokens 9 --config x.py", r"--params and --tokens are those of the config"),
        ("--budget 1e5 --config.seed=1", r"--config.seed=1 is a value of a configuration"),
        (
            "--params 1e6 --tokens 1e6",
            (
                r"A run of 6e\+12 FLOPs is 6,000,000 x the largest that was fitted \(1e\+06\); no"
                r" forecast .* beyond 1,000 x.*ladder --config FILE --budgets 6e\+09 --out DIR"
            ),
        ),
        ("--budget 1e10", r"is 10,000 x the largest"),
        ("--config TOY --device H10", r"--device H10 is not known. Did you mean 'H100'\?"),
        ("--config TOY --device H100 --mfu 40", r"--mfu is 40.0; it must be from 0 to 1"),
        ("--config TOY --device H100 --mfu 0", r"--mfu is 0; no run would ever end"),
        ("--config TOY --devices 8", r"say how fast a device is: --device H100, with the --mfu"),
        ("--config TOY --config.num_stepz=2", r"There is no key 'num_stepz'. Did you mean 'num_s"),
        ("--config nowhere.py", r"nowhere.py"),
        ("--config TOY --config.ema_decay=0.9", r"Did you mean 'optimizer.ema_decay'"),
        ("--config TOY --unique 9", r"--unique has no meaning beside --config"),
        ("--params 9 --tokens 9 --budget 9", r"--budget has no meaning beside --params"),
        ("--budget 1e5 --level 0.8", r"--level has no meaning beside --budget"),
        ("--params 9 --tokens 9 --device H10", r"--device H10 is not known"),
        ("--budget 1e5 --devices 8", r"say how fast a device is"),
        ("--params 1e300 --tokens 1e300", r"--params 1e\+300 and --tokens 1e\+300 are no run"),
        ("--budget 1e-9", r"--budget is 1e-09 FLOPs, where the smallest fitted run had 1e\+04"),
    ],
)
def test_mistakes(words, text, folder):
    words = words.replace("TOY", f"{folder}/toy.py").split()
    with pytest.raises(UserError, match=text):
        run_as_door(command, ["--fit", folder, *words])
    assert not list(folder.glob("forecast_*"))


def test_a_fit_of_other_runs_is_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"holds no fit: .*scaling fit"):
        run_as_door(command, ["--fit", tmp_path, "--budget", "1e5"])
    fit = fitted()
    for changes, text in (
        (
            {"facts": {"task": "task=mae"}},
            r"of other runs than .*toy.py, task: task=mae there, task=tests.lab.toy_task:Toy",
        ),
        (
            {"facts": {"what is predicted": "", "start": "init_from=runs/a"}},
            r"start: init_from=runs/a there, the defaults here|what is predicted: the defaults",
        ),
        ({"unit": "residues"}, r"counts data in residues, and .*toy.py reads images. Fit runs"),
    ):
        dataclasses.replace(fit, runs=dataclasses.replace(fit.runs, **changes)).save(tmp_path)
        with pytest.raises(UserError, match=text):
            run_as_door(command, ["--fit", tmp_path, "--config", f"{folder}/toy.py"])


def test_a_law_of_data_alone_has_no_best_size(fit, folder, tmp_path, capsys):
    alone = np.array([0.0, 1e-9, 8.0, 0.4, 0.3, 0.0])
    changes = {
        "forecaster": alone,
        "forecast_draws": np.tile(alone, (9, 1)),
        "draws": fit.draws * 0,
    }
    dataclasses.replace(fit, **changes).save(tmp_path)
    with pytest.raises(
        UserError, match=r"by this law the loss falls with data alone .*scaling lad"
    ):
        run_as_door(command, ["--fit", tmp_path, "--budget", "1e6"])
    run_as_door(command, ["--fit", tmp_path, "--config", f"{folder}/toy.py"])
    assert "There is no best size for a budget" in capsys.readouterr().out
    assert record.read(next(tmp_path.glob("forecast_*"))).floor is None


def test_hours_of_numbers_and_of_a_budget(folder, capsys):
    devices = ["--devices", "4", "--rate", "1e3", "--price_per_device_hour", "2"]
    run_as_door(command, ["--fit", folder, "--params", "300", "--tokens", "20000", *devices])
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["hours"] == pytest.approx(6 * 300 * 2e4 / 1e3 / 4 / 3600)
    run_as_door(command, ["--fit", folder, "--budget", "3.6e7", *devices])
    assert "2.5 hours on 4 devices (1e+03 model FLOP/s each): 10 device" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage,text",
    [
        (lambda report: report["forecast"].update(scatter=-1), "`forecast` in fit.json cannot be"),
        (lambda report: report["E"].update(value=9.0), "values in fit.json are not those of"),
        (lambda report: report.update(arrays_sha256="0"), "fit.npz is not the one that was"),
        (lambda report: report.update(facts=None), "TypeError"),
    ],
)
def test_a_fit_that_was_edited_is_told(damage, text, fit, tmp_path):
    fit.save(tmp_path)
    report = json.loads((tmp_path / "fit.json").read_text())
    damage(report)
    (tmp_path / "fit.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match=f"cannot be read .*{text}.* Make it anew"):
        run_as_door(command, ["--fit", tmp_path, "--params", "300", "--tokens", "20000"])


def test_other_rows_of_validation_are_said(folder, tmp_path, caplog):
    fit = fitted(**{"rows of validation": "64 rows, seed 0"})
    fit.save(tmp_path)
    words = ["--fit", tmp_path, "--config", f"{folder}/toy.py"]
    run_as_door(command, [*words, "--config.eval.num_batches=4"])
    assert "judged on" not in caplog.text
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.log, "warning", lambda text, *values: said.append(text % values))
        run_as_door(command, [*words, "--config.eval.num_batches=8", "--out", tmp_path / "b"])
    assert "judged on 64 rows, seed 0, this one will be on 128 rows, seed 0: give it" in said[0]


def test_far_from_the_fitted_runs_is_said(fit):
    near = remarks(fit, 300, 20_000, 1.0)
    assert all(line.startswith("E is not identified (") for line in near)
    assert len(near) == (not fit.identified)
    assert any("10 units of data, where the smallest" in one for one in remarks(fit, 9, 10, 1))
    told = remarks(fit, 30, 200_000, 2.0)[-2:]
    assert told[0].startswith("6.67e+03 units of data a parameter, where the fitted runs had")
    assert told[1].startswith("2 passes over its data, the fitted runs at most 1:")


def test_hours_of_a_known_device():
    found = expense.expense(expense.Devices(256, "h100", 0.5, 0.0, 0.0), 1e21)
    assert found["hours"] == pytest.approx(1e21 / (989e12 * 0.5 * 256) / 3600)
    assert "price" not in found and "an MFU of 0.5" in expense.told(found)
    assert expense.expense(expense.Devices(0, "", 0.4, 0.0, 0.0), 1e21) == {}


def running(folder, steps, schedule="one_cycle"):
    """A run of 1,000 steps that has come so far, whose loss falls as the fitted ones' does."""
    c = config.base()
    c.num_steps, c.optimizer.schedule = 1000, schedule
    stored.save(c, folder / "config.json")
    lines = [
        {"step": int(step), "val/loss": 2.0 + 0.5 * ((step / 1000) ** -0.5 - 1)}
        for step in range(100, steps + 1, 100)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_the_end_of_a_run_from_its_first_part(folder, tmp_path, capsys):
    run = running(tmp_path, 500)
    ends = []
    for words in (["--fit", folder], []):
        run_as_door(command, ["--run", run, *words])
        ends.append(json.loads(capsys.readouterr().out))
    assert ends[0]["by"] == "the curves of 25 earlier runs"
    assert ends[1]["by"].startswith("the run alone")
    for end in ends:
        assert end["low"] < end["loss"] < end["high"] and end["seen"] == 0.5
    assert ends[0]["low"] < 2.0 < ends[0]["high"]
    assert ends[0]["loss"] == pytest.approx(2.0, rel=0.03)
    # of another schedule no curve is known
    run_as_door(command, ["--run", running(tmp_path, 500, "warmup_linear"), "--fit", folder])
    assert json.loads(capsys.readouterr().out)["by"].startswith("the run alone")
    for steps, text in ((1000, "has ended, with a val/loss of 2.0000"), (200, "has 2 validation")):
        with pytest.raises(UserError, match=text):
            run_as_door(command, ["--run", running(tmp_path, steps)])
    with pytest.raises(UserError, match=r"There is no .*config.json"):
        run_as_door(command, ["--run", tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"--fit is missing: the folder that"):
        run_as_door(command, ["--budget", "1e5"])
    with pytest.raises(UserError, match=r"--budget has no meaning beside --run: the end of a"):
        run_as_door(command, ["--run", run, "--budget", "1e5"])

"""Pictures of laws, forecasts and recall: what they show is where it is true."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from phenomjax.scaling import recall
from phenomjax.scaling.figure import article, command, drawing, known
from phenomjax.scaling.fit.law import Fit
from phenomjax.scaling.observations import Observations
from phenomjax.system.errors import UserError
from phenomjax.system.options import parse
from tests.lab.doors import run_as_door

LAW = np.array([1.5, 300.0, 700.0, 0.3, 0.35])
BUDGETS = np.array([1e16, 3e16, 1e17])


@pytest.fixture(scope="module")
def fit():
    """A law and runs on it, at which FLOPs are 8 N D."""
    params = np.tile(np.geomspace(2e6, 3e8, 9), 3)
    flops = np.repeat(BUDGETS, 9)
    seen = flops / 8 / params
    loss = LAW[0] + LAW[1] / params ** LAW[3] + LAW[2] / seen ** LAW[4]
    unknown = np.full(27, np.nan)
    runs = Observations(tuple(map(str, range(27))), params, seen, unknown, flops, loss, "residues")
    draws = LAW * np.exp(0.01 * np.random.default_rng(0).normal(size=(50, 5)))
    floors = np.linspace(1.3, 1.7, 21)
    basins = [dict(zip(("E", "A", "B", "alpha", "beta"), LAW, strict=True), objective=1.0, cells=9)]
    basins.append(basins[0] | {"alpha": 0.1, "beta": 0.12, "objective": 3.0})
    profile = np.stack([floors, ((floors - 1.5) / 0.1) ** 2])
    used = np.ones(27, bool)
    return Fit(
        LAW, draws, "plain", np.append(LAW, 0.0), np.pad(draws, ((0, 0), (0, 1))), 0.002, 20,
        runs, used, tuple(basins), {"E": profile}, {}, {},
    )  # fmt: skip


def test_forecasts_stand_beside_outcomes_and_the_band_is_the_prediction(fit):
    runs = drawing.known_flops(fit)
    late = drawing.Forecast(1e19, 3e9, 1.90, 1.85, 1.95, 0.9, outcome=1.919)
    axis = drawing.against_flops(runs, fit, [late, dataclasses.replace(late, outcome=None)]).axes[0]
    names = axis.get_legend_handles_labels()[1]
    assert sum("parameters" in name for name in names) == 9
    told = {"best size at each budget", "a run there (90%)", "outcome", "forecast (90%)"}
    assert told < set(names) and len(names) == 9 + len(told)
    assert [text.get_text() for text in axis.texts] == ["forecast off by -1.0%", "fitted "]
    (line,) = [line for line in axis.lines if line.get_label() == "best size at each budget"]
    flops, loss = line.get_data()
    assert flops[0] == pytest.approx(1e16) and flops[-1] == pytest.approx(1e19)
    # the best size of a budget, by the law (Hoffmann et al. 2022, equation 4) with C = 8 N D
    both = LAW[3] + LAW[4]
    best = (LAW[3] * LAW[1] / (LAW[4] * LAW[2])) ** (1 / both) * (flops / 8) ** (LAW[4] / both)
    expected = fit.loss(best, flops / 8 / best)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    (band,) = [one for one in axis.collections if one.get_alpha() == 0.12]
    ends = band.get_paths()[0].vertices
    low, high = ends[:, 1][ends[:, 0] == flops[-1]].min(), ends[:, 1][ends[:, 0] == flops[-1]].max()
    found = fit.predict(best[-1:], flops[-1:] / 8 / best[-1:])
    assert low == pytest.approx(found.low[0], rel=1e-3)
    assert high == pytest.approx(found.high[0], rel=1e-3)


def test_each_budget_has_its_best_size(fit):
    axis = drawing.along_budgets(drawing.known_flops(fit), fit).axes[0]
    stars = [
        one.get_offsets()[0]
        for one in axis.collections
        if 60 in one.get_sizes() and len(one.get_offsets())
    ]
    both = LAW[3] + LAW[4]
    best = (LAW[3] * LAW[1] / (LAW[4] * LAW[2])) ** (1 / both) * (BUDGETS / 8) ** (LAW[4] / both)
    np.testing.assert_allclose([star[0] for star in stars[:3]], best, rtol=0.04)


def test_sizes_that_are_many_are_a_scale_of_colours(fit):
    params = np.geomspace(1e6, 1e9, 27)
    runs = dataclasses.replace(fit.runs, params=params, seen=fit.runs.flops / 8 / params)
    figure = drawing.against_flops(runs, None)
    assert [axis.get_ylabel() for axis in figure.axes] == ["validation loss", "parameters"]
    assert not figure.axes[0].get_legend().get_texts()


def test_what_is_known(fit):
    left, right = known.known(fit).axes
    assert "The floor E is identified" in left.get_title("left")
    names = right.get_legend_handles_labels()[1]
    assert any(name.startswith("beta / (alpha + beta) = 0.538 (") for name in names)
    assert "other basins, by their objective" in names
    assert [text.get_text() for text in right.texts] == ["", " 3.00x"]
    loose = dataclasses.replace(fit, draws=fit.draws * np.array([0.0, 1, 1, 1, 1]))
    assert "not identified" in known.known(loose).axes[0].get_title("left")


def test_from_a_fit_and_a_run_to_pictures(fit, tmp_path):
    fit.save(tmp_path / "fit")
    content = {"flops": 1e18, "params": 4e7, "loss": 2.2, "low": 2.1, "high": 2.3, "level": 0.9}
    (tmp_path / "forecast_1.json").write_text(json.dumps(content))
    (tmp_path / "run").mkdir()
    judged = {"forecast": content, "outcome": {"loss": 2.25}}
    (tmp_path / "run/forecast.json").write_text(json.dumps(judged))
    words = ["--fit", tmp_path / "fit", "--out", tmp_path / "out", "--format", "svg"]
    beside = ["--forecasts", tmp_path / "forecast_1.json", tmp_path / "run"]
    assert run_as_door(command, [*words, *beside]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["budgets.svg", "known.svg", "loss.svg"]
    with pytest.raises(UserError, match=r"loss\.svg is there already"):
        run_as_door(command, [*words, *beside])
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "forecast_1.json").write_text('{"loss": 1}')
    with pytest.raises(UserError, match=r"forecast_1\.json is no forecast, or is damaged"):
        run_as_door(command, [*words, *beside])
    with pytest.raises(UserError, match=r"There is no forecast .*absent\. Give the file that"):
        run_as_door(command, [*words, "--forecasts", tmp_path / "absent"])
    foreign = tmp_path / "forecast_2.json"
    foreign.write_text(json.dumps(content | {"unit": "residues"}))
    other = dataclasses.replace(fit, runs=dataclasses.replace(fit.runs, unit="images"))
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match=r"of a run that reads residues, and the fit is of images"):
        run_as_door(command, ["--fit", tmp_path / "other", *words[2:], "--forecasts", foreign])
    with pytest.raises(UserError, match="--format gif: pictures are png, svg or pdf"):
        run_as_door(command, [*words[:-1], "gif"])
    with pytest.raises(UserError, match=r"Nothing to draw is named. Give --fit DIR"):
        run_as_door(command, words[2:])
    with pytest.raises(
        UserError, match=r"--recall .*fit has no recall\.csv\. Name the folder that"
    ):
        run_as_door(command, ["--recall", tmp_path / "fit", *words])


def trained(folder, step=30, unit="images"):
    """What training leaves of a run, as far as it is read."""
    folder.mkdir(parents=True)
    size = {"params": 1000, "flops_per_step": 2e9, "unit": unit}
    size |= {"units_per_step": 16, "units_per_epoch": 96, "data": {}}
    (folder / "size.json").write_text(json.dumps(size))
    (folder / "config.json").write_text(json.dumps({"num_steps": 30, "task": "mae"}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": step, "val/loss": 0.5}) + "\n")
    return folder


@pytest.fixture
def steps(monkeypatch):
    """Steps are not run, but their words are those of the commands; maps know some pairs."""
    from phenomjax.inference.images import command as embed
    from phenomjax.maps.baselines import intensity
    from phenomjax.maps.benchmark import command as benchmark
    from phenomjax.maps.build import align

    modules = {"embed": embed, "intensity": intensity, "align": align}
    modules["benchmark"] = benchmark
    done = []

    def step(words):
        name, *rest = words[1:] if "." in words[0] and words[0] != "phenomjax.embed" else words
        name = name.removeprefix("phenomjax.")
        options = parse(modules[name].Options, rest, name, "") if name in modules else rest
        done.append((name, options))
        if name == "benchmark":
            out = Path(options.out)
            value = {"trained": 0.6, "untrained": 0.4}.get(out.name, 0.5)
            entry = {"value": value, "interval": [value - 0.1, value + 0.1], "chance": 0.1}
            beside = {"untrained": {"outcome": "beats"}}
            out.mkdir(parents=True, exist_ok=True)
            content = {"recall.relationships": entry | {"against": beside}, "about": {}}
            (out / "benchmark.json").write_text(json.dumps(content))
        return 0

    monkeypatch.setattr(recall, "run_step", step)
    monkeypatch.setattr(
        recall, "read", lambda _: dataclasses.make_dataclass("T", ["features"])(np.zeros((5, 64)))
    )
    return done


def test_recall_of_runs_beside_their_twins(steps, tmp_path, capsys):
    small, large = trained(tmp_path / "runs/small"), trained(tmp_path / "runs/large")
    out = tmp_path / "out"
    words = [large, small, "--called", "large one", "small", "--out", out, "--stride", 16]
    assert run_as_door(recall, words) == 0
    assert [name for name, _ in steps[:2]] == ["simulate", "intensity"]
    embedded = [options for name, options in steps if name == "embed"]
    assert [one.random_weights for one in embedded] == [0, None, 0, None]
    assert {one.stride for one in embedded} == {16}
    assert {one.dims for name, one in steps if name == "align"} == {48}  # 3/4 of 64
    table = pd.read_csv(out / "recall.csv").set_index("run")
    row = table.loc["large one"]
    numbers = ["params", "seen", "unique", "flops", "loss"]
    assert row[numbers].tolist() == [1000, 480, 96, 6e10, 0.5]
    assert (row.recall, row.recall_low, row.untrained) == (0.6, 0.5, 0.4)
    axes = article.against_flops(article.read(out)).axes
    assert [text.get_text() for text in axes[1].texts] == ["chance ", "large one", "small"]
    done = len(steps)  # once more: hand-made features are there
    assert run_as_door(recall, words) == 0 and len(steps) == 2 * done - 3


def test_recall_of_what_cannot_be_mapped(steps, tmp_path):
    run, out = trained(tmp_path / "a/run"), ["--out", tmp_path / "out"]
    with pytest.raises(UserError, match=r"two have this name. Give each .* with --called"):
        run_as_door(recall, [run, trained(tmp_path / "b/run"), *out])
    with pytest.raises(UserError, match="--called has 1 names for 2 runs"):
        run_as_door(recall, [run, tmp_path / "b/run", "--called", "x", *out])
    with pytest.raises(UserError, match=r"absent: its config\.json is not that of a run"):
        run_as_door(recall, [tmp_path / "absent", *out])
    with pytest.raises(UserError, match=r"reads residues: recall of complexes is of models of im"):
        run_as_door(recall, [trained(tmp_path / "lm", unit="residues"), *out])
    with pytest.raises(
        UserError,
        match=r"half is not finished: step 20 of 30; run the same",
    ):
        run_as_door(recall, [trained(tmp_path / "half", step=20), *out])
    with pytest.raises(UserError, match=r"not simulated. Name the known pairs .* --relationships"):
        run_as_door(recall, [run, "--screen", tmp_path / "bank.zarr", *out])
    with pytest.raises(UserError, match="No run was named"):
        run_as_door(recall, out)
    assert not steps

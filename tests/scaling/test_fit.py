"""The law by variable projection: known laws come back, published ones too."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from phenomjax.scaling.fit import command, estimate
from phenomjax.scaling.fit.law import NAMES, load
from phenomjax.scaling.observations import Observations
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door

LAW = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.28}


def runs_of(noise=0.0, law=LAW, count=5, seed=0):
    """A ladder of `count` sizes at each of five budgets."""
    flops = np.repeat(np.geomspace(1e17, 1e19, 5), count)
    params = np.sqrt(flops / 120) * np.tile(np.geomspace(0.25, 4, count), 5)
    seen = flops / 6 / params
    loss = law["E"] + law["A"] / params ** law["alpha"] + law["B"] / seen ** law["beta"]
    loss *= np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    names, unknown = tuple(map(str, range(len(loss)))), np.full(len(loss), np.nan)
    return Observations(names, params, seen, unknown, flops, loss, curves=(None,) * len(loss))


@pytest.mark.parametrize(
    "law",
    [
        LAW,
        {"E": 0.4, "A": 20.0, "B": 30.0, "alpha": 0.12, "beta": 0.2},
        {"E": 0.0, "A": 8.0, "B": 12.0, "alpha": 0.05, "beta": 0.07},
    ],
)
def test_a_law_without_noise_comes_back_exactly(law):
    fit = estimate.fit(runs_of(law=law), estimate.Settings(bootstraps=4))
    assert fit.parameters == pytest.approx([law[name] for name in NAMES], rel=1e-4, abs=1e-6)
    assert fit.draws == pytest.approx(np.tile(fit.parameters, (4, 1)), rel=1e-2, abs=1e-3)


def test_with_noise_the_law_lies_in_its_intervals_and_is_kept_whole(tmp_path):
    fit = estimate.fit(runs_of(noise=0.003), estimate.Settings(bootstraps=100))
    for name in NAMES:
        low, high = fit.interval(name)
        assert low < LAW[name] < high
    params, seen = np.array([1e10, 2e9]), np.array([2e11, 3e11])
    predicted = fit.predict(params, seen)
    truth = LAW["E"] + LAW["A"] / params ** LAW["alpha"] + LAW["B"] / seen ** LAW["beta"]
    assert np.all((predicted.low < truth) & (truth < predicted.high))
    wider = fit.predict(params, seen, level=0.99)
    assert np.all((wider.low < predicted.low) & (wider.high > predicted.high))
    fit.save(tmp_path / "fit")
    again = load(tmp_path / "fit")
    assert again.predict(params, seen).low == pytest.approx(predicted.low, rel=1e-12)
    assert again.domain == fit.domain and again.runs.names == fit.runs.names
    (tmp_path / "fit" / "fit.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"cannot be read.*Make it anew"):
        load(tmp_path / "fit")
    with pytest.raises(UserError, match=r"holds no fit: fit\.json is not there"):
        load(tmp_path)


def test_the_command_leaves_what_scripts_read(tmp_path):
    runs = runs_of()
    pd.DataFrame({"n": runs.params, "c": runs.flops, "l": runs.loss}).to_csv(tmp_path / "r.csv")
    words = ["--columns", "params=n,flops=c,loss=l", "--bootstraps", 20, "--out", tmp_path / "fit"]
    run_as_door(command, ["--runs", tmp_path / "r.csv", *words])
    report = json.loads((tmp_path / "fit" / "fit.json").read_text())
    for name, value in {**LAW, "ratio": 0.28 / 0.62}.items():
        assert report[name]["value"] == pytest.approx(value, rel=1e-4)
        assert report[name]["low"] <= report[name]["value"] * (1 + 1e-6)
    assert report["basins"][0]["alpha"] == pytest.approx(0.34) and report["basins"][0]["cells"] > 0
    assert isinstance(report["leave_out"], list)


def test_losses_that_follow_nothing_are_told(tmp_path, capsys):
    runs = runs_of(count=2)
    loss = np.random.default_rng(0).permutation(runs.loss)
    pd.DataFrame({"n": runs.params, "c": runs.flops, "l": loss}).to_csv(tmp_path / "r.csv")
    words = ["--runs", tmp_path / "r.csv", "--columns", "params=n,flops=c,loss=l"]
    words += ["--bootstraps", 20, "--on_bad_run", "keep", "--out", tmp_path / "new" / "fit"]
    run_as_door(command, words)
    said = capsys.readouterr().out
    assert "hardly follow size and data" in said and ", which is not known." in said
    ratio = json.loads((tmp_path / "new" / "fit" / "fit.json").read_text())["ratio"]
    assert 0 <= ratio["low"] <= ratio["value"] <= ratio["high"] <= 1
    for name, value in (("bootstraps", -1), ("delta", 0), ("edge", "nan")):
        with pytest.raises(UserError, match=rf"`?-*{name}`? is .*; it must be at least"):
            run_as_door(command, [*words, "--overwrite", f"--{name}", value])


def chinchilla(shared):
    """The points of the table; D = C / 6 N."""
    table = pd.read_csv(shared / "scaling" / "chinchilla_points.csv")
    params, flops = table["Model Size"].to_numpy(), table["Training FLOP"].to_numpy()
    unknown, names = np.full(len(table), np.nan), tuple(map(str, table.index))
    return Observations(names, params, flops / 6 / params, unknown, flops, table.loss.to_numpy())


def test_the_runs_choose_the_form_that_forecasts():
    """Exact laws: one of two exponents stays plain, tokens that count for nothing are found."""
    few = estimate.Settings(bootstraps=0)
    plain = estimate.fit(runs_of(noise=1e-3), few)
    assert plain.form == "plain"
    late = runs_of()
    offset = 0.5 * late.seen.min()
    loss = LAW["E"] + LAW["A"] / late.params**0.3 + LAW["B"] / (late.seen - offset) ** 0.3
    found = estimate.fit(dataclasses.replace(late, loss=loss), few)
    assert found.form == "one_exponent_offset"
    assert found.forecaster == pytest.approx([1.7, 400, 900, 0.3, 0.3, offset], rel=1e-3)
    assert found.loss(np.array([1e11]), np.array([1e13])) == pytest.approx(
        1.7 + 400 / 1e11**0.3 + 900 / (1e13 - offset) ** 0.3, rel=1e-5
    )
    given = estimate.fit(late, dataclasses.replace(few, form="one_exponent"))
    assert given.form == "one_exponent" and given.forecaster[3] == given.forecaster[4]


def test_runs_that_saw_next_to_nothing_are_left_out_and_told():
    runs = runs_of(noise=1e-3)
    fewest = int(np.argmin(runs.seen / runs.params))
    loss = runs.loss.copy()
    loss[fewest] *= 1.2
    off = dataclasses.replace(runs, loss=loss)
    fit = estimate.fit(off, estimate.Settings(bootstraps=2))
    assert not fit.used[fewest] and fit.used.sum() == len(runs) - 1
    assert f"to obey the law of the others: {runs.names[fewest]} (" in command.described(fit)
    assert estimate.fit(off, estimate.Settings(bootstraps=2, edge=0)).used.all()
    assert estimate.fit(runs, estimate.Settings(bootstraps=2)).used.all()


def test_profiles_and_whether_the_floor_is_known():
    """The profile of E is lowest at E and 1 at the ends of its interval; a floor far below the
    runs is said not to be known.
    """
    fit = estimate.fit(runs_of(noise=0.002), estimate.Settings(bootstraps=20), profiles=True)
    values, deviance = fit.profiles["E"]
    assert values[deviance.argmin()] == pytest.approx(fit.values["E"], rel=1e-6)
    for name in ("E", "alpha", "beta", "ratio"):
        low, high = fit.profile_interval(name)
        truth = {**LAW, "ratio": 0.28 / 0.62}[name]
        assert low - 0.2 * (high - low) < truth < high + 0.2 * (high - low)
    assert fit.profile_interval("A") is None
    flat = {"E": 0.1, "A": 8.0, "B": 12.0, "alpha": 0.05, "beta": 0.07}
    unknown = estimate.fit(runs_of(noise=0.003, law=flat), estimate.Settings(bootstraps=20))
    assert not unknown.identified
    assert "E is not identified" in command.described(unknown)


@pytest.mark.shared_data
def test_chinchilla_points(shared):
    """Besiroglu et al. 2024, refitted: SOURCES.md of the table."""
    runs = chinchilla(shared)
    fit = estimate.fit(runs, estimate.Settings(bootstraps=4))
    fewest = np.argsort(runs.seen / runs.params)
    assert not fit.used[fewest[:5]].any() and fit.used[fewest[5:]].all()
    assert fit.parameters == pytest.approx([1.8172, 477.8, 2143, 0.3473, 0.3672], rel=2e-4)
    everything = estimate.fit(runs, estimate.Settings(bootstraps=4, edge=0))
    assert everything.values["E"] == pytest.approx(1.891, abs=1e-3)
    assert everything.values["beta"] == pytest.approx(0.453, abs=1e-3)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "below, median, of_reducible, coverage", [(1e20, 0.005, 0.03, 0.85), (3e20, 0.005, 0.03, 0.8)]
)
def test_forecasts_of_chinchilla_points(shared, below, median, of_reducible, coverage):
    """All above a budget from all below: the plain law has .72 and 3.0 %, .91 and 3.9 %."""
    runs = chinchilla(shared)
    fit = estimate.fit(runs.take(runs.flops < below), estimate.Settings(bootstraps=100))
    large = runs.take(runs.flops >= below)
    said = fit.predict(large.params, large.seen)
    error = np.abs(said.loss - large.loss)
    assert np.median(error / large.loss) <= median
    assert np.median(error / (large.loss - 1.8172)) <= of_reducible
    assert ((said.low <= large.loss) & (large.loss <= said.high)).mean() >= coverage

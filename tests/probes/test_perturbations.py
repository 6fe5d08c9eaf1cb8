"""Accuracies on unseen batches: ranks, means, intervals, and what is set beside what, on tables of
known numbers.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest

from phenomjax import config
from phenomjax.probes.perturbations import command, families, report, scores
from phenomjax.probes.perturbations.scores import Predictions
from phenomjax.system.errors import UserError
from phenomjax.system.options import run_command

EXPERIMENTS = ("HUVEC-1", "HUVEC-2", "RPE-1", "RPE-2")
SIX = (*EXPERIMENTS, "RPE-3", "U2OS-1")


def images(right, unknown=0, names=EXPERIMENTS):
    """Ten images an experiment, of which so many of each are right (the others have rank 3), and
    some of a class that training did not have.
    """
    rows = []
    for experiment, hits in zip(names, right, strict=True):
        for i in range(10 + unknown):
            label = i % 5 if i < 10 else -1
            rank = -1 if label < 0 else 0 if i < hits else 3
            cell_type = experiment.split("-")[0]
            rows.append((f"{experiment} {i}", experiment, cell_type, "sirna", label, rank))
    columns = ["image", "experiment", "cell_type", "perturbation_type", "label", "rank"]
    return pd.DataFrame(rows, columns=columns)


def predictions(right, run="a", model="joint", statistics="running", group=None, **more):
    twin, split = more.pop("twin", False), more.pop("split", "test")
    return Predictions(model, run, statistics, split, images(right, **more), group or {}, twin)


def test_ties_and_what_is_not_finite_are_wrong():
    logits = np.array([[3, 1, 2], [3, 1, 2], [1, 1, 1], [np.nan] * 3, [2, 1, 0]], np.float32)
    assert list(scores.ranks(logits, np.array([0, 1, 2, 0, -1]))) == [0, 2, 2, 2, -1]


def test_means_spread_and_intervals():
    """Runs of .45 and .55, by hand; each experiment of ten images is drawn whole."""
    ones = [predictions([2, 4, 6, 6], unknown=3), predictions([4, 4, 6, 8], "b", unknown=3)]
    found = scores.score_all(ones)
    whole, huvec, rpe = found
    assert [s.cell_type for s in found] == ["", "HUVEC", "RPE"]
    assert (whole.images, whole.unknown, whole.experiments, whole.runs) == (40, 12, 4, 2)
    assert whole.top1 == pytest.approx(0.5) and whole.top1_by_run == {"a": 0.45, "b": 0.55}
    assert whole.top1_sd == pytest.approx(np.std([0.45, 0.55], ddof=1))
    assert whole.top5 == 1.0 and whole.top5_sd == 0
    means = np.array([0.3, 0.4, 0.6, 0.7])  # of the experiments, over both runs
    draws = means[np.random.default_rng(5).integers(0, 4, (20_000, 4))].mean(1)
    assert whole.top1_interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)
    assert (huvec.top1, rpe.top1) == (pytest.approx(0.35), pytest.approx(0.65))


def test_one_experiment_has_no_interval_and_one_run_no_spread():
    (found,) = scores.score_all([predictions([3], names=["RPE-1"])])
    assert found.top1 == 0.3 and found.top1_interval is None and found.top1_sd is None


def test_statistics_are_compared_on_the_same_images():
    ones = [
        predictions([2] * 6, names=SIX),
        predictions([5, 6, 7, 8, 6, 7], statistics="experiment", names=SIX),
        predictions([2] * 6, statistics="controls", names=SIX),
        predictions([1] * 6, statistics="experiment", names=SIX, twin=True),
    ]
    adabn, controls = scores.between_statistics(ones)
    assert (adabn.one, adabn.other) == ("joint, experiment", "joint, running")
    assert (adabn.images, adabn.experiments) == (60, 6)
    assert adabn.difference == pytest.approx(0.45) and adabn.outcome == "beats"
    low, high = adabn.interval
    assert 0.3 <= low < adabn.difference < high <= 0.6
    assert controls.difference == 0 and controls.outcome == "is not shown to beat"
    few = [
        predictions([2] * 5, names=SIX[:5]),
        predictions([9] * 5, statistics="experiment", names=SIX[:5]),
    ]
    (found,) = scores.between_statistics(few)
    assert found.difference == pytest.approx(0.7) and found.outcome == ""  # p = 1 / 16


def test_separate_models_beside_one_over_all():
    ones = [
        predictions([2, 2, 5, 5]),
        predictions([4, 4], "c", "huvec", group={"cell_type": "HUVEC"}, names=EXPERIMENTS[:2]),
        predictions([4, 4], "d", "rpe", group={"cell_type": "RPE"}, names=EXPERIMENTS[2:]),
    ]
    found = {d.cell_type: d for d in scores.separate_models(ones)}
    assert found["HUVEC"].difference == pytest.approx(0.2)
    assert found["RPE"].difference == pytest.approx(-0.1)
    whole = found[""]
    assert (whole.one, whole.images, whole.experiments) == ("separate models, running", 40, 4)
    assert whole.one_top1 == pytest.approx(0.4) and whole.other_top1 == pytest.approx(0.35)


def test_report(tmp_path):
    ones = [
        predictions(right, run, statistics=statistics, split=split, unknown=split == "test")
        for split, right in (("val", [3, 3, 3, 3]), ("test", [1, 2, 3, 4]))
        for run in ("a", "b", "c")
        for statistics in ("running", "experiment")
    ]
    ones += [predictions([1, 0, 0, 1], twin=True, statistics="experiment")]
    runs = [
        report.EvaluatedRun(run, "joint", f"runs/{run}", 7, "f" * 64, seed, 50, "rxrx1_wilds")
        for seed, run in enumerate("abc")
    ]
    made = report.Report(
        "python -m phenomjax.evaluate perturbations --checkpoint runs/a --out report",
        runs,
        scores.score_all(ones),
        scores.between_statistics(ones),
        commonest={"val": 0.05, "test": 0.125},
    )
    header, rows = report.accuracies(made)
    assert header == ["model", "statistics", "val", "test"]
    table = {(row[0], row[1]): row[2:] for row in rows}
    assert table["joint", "running"] == ["30.0 ± 0.0 [30.0, 30.0]", "25.0 ± 0.0 [15.0, 35.0]"]
    assert table["joint, untrained twin", "experiment"][0] == "-"
    assert table["chance, 50 classes", ""] == ["2.0", "2.0"]
    assert table["always the commonest class", ""] == ["5.0", "12.5"]
    erm = table["ERM, ResNet-50 (Koh et al. 2021, WILDS)", "published"]
    assert erm == ["19.4 ± 0.2", "29.9 ± 0.4"]
    said = report.screen(made)
    assert "test: 40 images of 4 experiments; 4 more are of perturbations that training" in said
    assert "only running statistics are standard" in said and "Fewer than" not in said
    paths = report.write(tmp_path, made)
    assert [path.name for path in paths] == [
        *("report.json", "report.md", "report.html", "report.png")
    ]
    content = json.loads(paths[0].read_text())
    assert content["scores"][0]["top1"] == pytest.approx(0.3) and content["chance"] == {
        "joint": 0.02
    }
    assert content["scores"][0]["top1_by_run"] == {"a": 0.3, "b": 0.3, "c": 0.3}
    text = paths[1].read_text()
    assert "| joint | running | 30.0 ± 0.0 [30.0, 30.0] |" in text and made.command in text
    assert made.command in paths[2].read_text()


def configs(**changed):
    """{run: its configuration}, each with some values of its own."""
    found = {}
    for name, values in changed.items():
        c = config.base("perturbation")
        c.data.banks = ("bank.zarr",)
        c.update_from_flattened_dict(values)
        found[name.replace("__", "/")] = c
    return found


def test_runs_that_differ_in_the_seed_are_one_model():
    seeds = {f"wilds_{i}": {"seed": i, "log.every_steps": 7 + i} for i in range(3)}
    named = configs(**seeds, wide={"model.neck_dim": 2048})
    found = families.families(named, dict.fromkeys(named, 9))
    assert found == dict.fromkeys(seeds, "wilds") | {"wide": "wide"}
    trials = {
        f"each__000{i}": {"seed": i % 2, "data.cell_type": kind}
        for i, kind in enumerate(("HUVEC", "HUVEC", "RPE", "RPE"))
    }
    named = configs(**trials)
    found = families.families(named, dict.fromkeys(named, 9))
    assert list(found.values()) == ["each HUVEC", "each HUVEC", "each RPE", "each RPE"]
    assert families.group_of(configs(**trials)["each/0002"]) == {"cell_type": "RPE"}


def test_steps_of_one_run_are_models_of_their_own_and_a_run_twice_is_refused():
    named = configs(early={}, late={})
    found = families.families(named, {"early": 10, "late": 20})
    assert found == {"early": "early", "late": "late"}
    with pytest.raises(UserError, match=r"early and late are .* seed \(0\).*--config\.seed=1"):
        families.families(named, dict.fromkeys(named, 20))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--control_weight", "2"], "--control_weight 2: it must be above 0 and at most 1"),
        (["--control_weight", "nan"], "--control_weight nan: it must be above 0"),
        (
            ["--statistics", "running", "--control_weight", "0.5"],
            "--control_weight 0.5 is for statistics of controls, which --statistics running",
        ),
        (["--statistics_by", "plat"], "Did you mean 'plate'"),
        (["--statistics_by", "well"], "statistics of each well by itself would take away"),
        (["--statistics_least", "0"], "--statistics_least is 0; it must be at least 1"),
        (["--statistics_batch", "-1"], "--statistics_batch is -1; it must be at least 0"),
    ],
)
def test_options_that_are_wrong_for_all_kinds_of_statistics_are_refused(tmp_path, words, text):
    with pytest.raises(UserError, match=re.escape(text)):
        run_command(
            command.Options,
            lambda options: command.run(options, ""),
            "evaluate perturbations",
            "",
            ["--checkpoint", str(tmp_path / "none"), "--out", str(tmp_path / "out"), *words],
        )


def test_names_of_runs(tmp_path):
    paths = [f"{tmp_path}/sweep/trials/0003", "runs/a", "runs/a/checkpoints/12"]
    assert families.run_names(paths) == ["sweep/0003", "a", "a 12"]
    with pytest.raises(UserError, match=r"Two checkpoints are called a\. Give each once"):
        families.run_names(["runs/a", "old/a"])
    with pytest.raises(UserError, match=r"`names` has 1 names for the 2 folders"):
        families.run_names(["runs/a", "old/a"], ["x"])

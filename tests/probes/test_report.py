"""The report: what counts as beating, and that the files say what the results say."""

import json
import re

import numpy as np
import pytest

from phenomjax.probes.reports import details as reports_details
from phenomjax.probes.reports import figures, results, verdicts, write
from phenomjax.probes.suites import published
from phenomjax.probes.suites.suite import (
    CLASS,
    RESIDUE,
    VALUE,
    Label,
    Mutations,
    Source,
    Suite,
    Task,
)
from phenomjax.statistics.comparison import BEATS, BELOW, NOT_SHOWN

SOURCES = (Source("x.csv"),)
PUBLISHED = published.rows("q3", "sites", "site", {"NEW364": "test"})


def found(
    value,
    low=None,
    high=None,
    split="test",
    label="site",
    metric="accuracy",
    average="residue",
    count=40,
):
    interval = [low, high] if value is not None and low is not None else [None, None]
    return {
        "label": label,
        "split": split,
        "metric": metric,
        "average": average,
        "value": value,
        "interval": interval,
        "count": count,
        "residues": None,
        "seeds": 3,
        "seed_std": 0.01,
    }


def test_a_model_beats_only_what_its_interval_clears():
    row = found(0.7, 0.6, 0.8)
    for low, high, outcome in [
        (0.4, 0.59, BEATS),
        (0.4, 0.6, NOT_SHOWN),
        (0.5, 0.9, NOT_SHOWN),
        (0.81, 0.9, BELOW),
    ]:
        assert verdicts.outcome(row, found(0.5, low, high)) == outcome
        upside_down = verdicts.outcome(
            {**row, "metric": "rmse"}, found(0.5, low, high, metric="rmse")
        )
        assert upside_down == {BEATS: BELOW, BELOW: BEATS}.get(outcome, outcome)


def rows_of(*models):
    """Three heads a model and their twins: by the test cnn is best, by validation fnn."""
    rows = []
    for model in models:
        for head, value, validation in (
            ("linear", 0.5, 0.5),
            ("fnn", 0.6, 0.7),
            ("cnn", 0.65, 0.6),
        ):
            for make, less in ((results.model_row, 0.0), (results.twin_row, 0.2)):
                rows.append(
                    make(
                        found(value - less, value - less - 0.05, value - less + 0.05),
                        "sites",
                        model,
                        head,
                        "run",
                    )
                )
            rows.append(
                results.model_row(
                    found(validation, 0.4, 0.8, "validation"), "sites", model, head, "run"
                )
            )
    return rows


def test_verdicts_compare_the_best_head_with_its_own_twin_and_every_baseline():
    suite = Suite("data", {"sites": Task(SOURCES, {"site": Label(RESIDUE)})})
    baselines = [
        results.baseline_row(found(0.52, 0.5, 0.54), "sites", "majority"),
        results.baseline_row(found(0.6, 0.5, 0.64), "sites", "one_hot"),
        results.baseline_row(found(0.9, 0.85, 0.95), "sites", "alignment"),
        results.baseline_row(found(None), "sites", "composition"),
        # of another average
        results.baseline_row(found(0.1, 0.0, 0.2, average="protein"), "sites", "blosum62"),
    ]
    rows = [*rows_of("a", "b"), *baselines]
    judged = verdicts.judge(rows, suite)
    assert [(v.model, v.head, v.chosen_by, v.value, v.split) for v in judged] == [
        (m, "fnn", "validation", 0.6, "test") for m in "ab"
    ]
    assert {c.method: c.outcome for c in judged[1].comparisons} == {
        "b, random weights: fnn": BEATS,
        "baseline: majority class": BEATS,
        "baseline: one-hot": NOT_SHOWN,
        "baseline: MMseqs2 best hit": BELOW,
    }
    assert (
        verdicts.sentence(judged[1])
        == "On test (40 proteins), b reaches 0.600 [0.550, 0.650] (accuracy, over residues; fnn"
        " head, chosen of 3 by the validation set). It **beats** its random-weights twin (0.400"
        " [0.350, 0.450]) and majority class (0.520 [0.500, 0.540]). It **is not shown to beat**"
        " one-hot (0.600 [0.500, 0.640]), for the 95 % intervals overlap. It **is below**"
        " MMseqs2 best hit (0.900 [0.850, 0.950])."
    )
    unchosen = verdicts.judge([row for row in rows if row["split"] != "validation"], suite)
    assert unchosen[
        0
    ].head == "cnn" and "cnn head, the best of 3 on this very test" in verdicts.sentence(
        unchosen[0]
    )
    assert (
        verdicts.summary(judged)[0]
        == "**a** beats every baseline in 0 of 1 tests, and its random-weights twin in 1 of 1; it"
        " is below some baseline in 1."
    )


def test_calibration():
    """Two bins: ten predictions at 0.95 of which eight are right, thirty at 0.55 of which fifteen
    are.
    """
    one = reports_details.Reliability(
        np.repeat([0.95, 0.55], [10, 30]), np.array([1] * 8 + [0] * 2 + [1] * 15 + [0] * 15, bool)
    )
    mean, right, count, error = figures.calibration(one)
    assert (
        mean[9] == pytest.approx(0.95) and right[9] == 0.8 and right[5] == 0.5 and count.sum() == 40
    )
    assert np.isnan(mean[0]) and error == pytest.approx((10 * 0.15 + 30 * 0.05) / 40)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a report of two models on three tasks, with everything that it can hold."""
    families = Task(
        SOURCES, {"family": Label(CLASS)}, heads=("linear", "nearest"), identities=(0.3, 0.5)
    )
    suite = Suite(
        "data",
        {
            "sites": Task(SOURCES, {"site": Label(RESIDUE)}),
            "families": families,
            "value": Task(SOURCES, {"melting | point": Label(VALUE)}),
            "scan": Mutations("dms.csv", "MKV", "effect"),
            "absent": Task(SOURCES, {"x": Label(CLASS)}),
        },
        published=(*PUBLISHED, *published.rows("q10", "absent", "x")),
    )
    rows, rng = rows_of("a", "b"), np.random.default_rng(0)
    details = reports_details.Details(
        [
            reports_details.EvaluatedModel(m, f"runs/{m}", 10, m * 64, 1000, "causal_lm")
            for m in "ab"
        ],
        "python -m phenomjax.evaluate",
        "s.py",
        "data",
        {
            "sites": {"train": 9, "validation": 2, "test": 40, "fingerprint": "0" * 64},
            "scan": {"variants": 30},
        },
        versions={"jax": "1"},
        notes=["smiles was left out."],
        leakage=[
            {
                "task": "sites",
                "split": "test",
                "other": "train",
                "count": 40,
                "exact": 3,
                "exact_share": 0.075,
                "near": None,
                "near_share": None,
                "examples": [{"id": "p", "other_id": "q", "identity": 1.0}],
                "note": "no mmseqs",
            }
        ],
    )
    for model in "ab":
        for split, value in (
            ("new", 0.8),
            ("new, identity < 0.3", 0.3),
            ("new, identity < 0.5", 0.5),
        ):
            of = {"split": split, "label": "family", "average": ""}
            for head in families.heads:
                rows.append(
                    results.model_row(
                        found(value, value - 0.1, value + 0.1, **of), "families", model, head, "run"
                    )
                )
                details.confusion["families", "family", "new", f"{model}: {head}"] = (
                    reports_details.Confusion(rng.integers(0, 9, (3, 3)), ("x", "y", "z"))
                )
        details.reliability["families", "family", "new", f"{model}: linear"] = (
            reports_details.Reliability(rng.random(99), rng.random(99) < 0.5)
        )
        row = found(
            0.2 if model == "a" else 0.3, 0.1, 0.35, "all variants", "effect", "spearman", ""
        )
        rows.append(results.model_row(row, "scan", model, "zero-shot", "run"))
        rows.append(
            results.twin_row(
                {**row, "value": 0.0, "interval": [-0.05, 0.15]}, "scan", model, "zero-shot", "run"
            )
        )
        effects = rng.normal(size=(20, 3))
        details.mutations["scan", f"{model}: zero-shot"] = reports_details.MutationMap(
            "MKV", 0, effects, effects
        )
    rows.append(
        results.baseline_row(
            found(0.4, 0.3, 0.5, "new", "family", average=""), "families", "alignment"
        )
    )
    constant = found(float("nan"), label="melting | point", metric="spearman", average="")
    rows.append(results.baseline_row(constant, "value", "majority"))
    rows.append(
        results.model_row(
            found(0.1, 0.0, 0.2, label="melting | point", metric="spearman", average=""),
            "value",
            "a",
            "linear",
            "run",
        )
    )
    rows.append(
        results.model_row(found(0.7, 0.6, 0.8, metric="mcc"), "sites", "a", "cnn", "run")
    )  # a metric beside the main one
    out = tmp_path_factory.mktemp("report")
    (out / "figures").mkdir()
    for name in ("bars_of_an_earlier_report.png", "mine.png"):
        (out / "figures" / name).write_bytes(b"\x89PNG")
    paths = write.write(out, rows, details, suite)
    return out, paths, rows


def test_results_are_strict_json_with_a_row_each(written):
    out, _, rows = written
    text = (out / "results.json").read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    assert len(content["results"]) == len(rows) + len(
        PUBLISHED
    )  # published ones of a task that was evaluated, and no others
    assert content["results"][0]["method"] == "a: linear" and content["results"][0]["interval"] == [
        0.45,
        0.55,
    ]
    assert {row["value"] for row in content["results"] if row["task"] == "value"} == {None, 0.1}
    assert content["head"]["checkpoints"][1] == {
        "name": "b",
        "path": "runs/b",
        "step": 10,
        "fingerprint": "b" * 64,
        "parameters": 1000,
        "task": "causal_lm",
    }
    assert {v["head"] for v in content["head"]["verdicts"] if v["task"] == "sites"} == {"fnn"}
    assert sum(
        '"task": "sites"' in line and '"method"' in line for line in text.splitlines()
    ) == 19 + len(PUBLISHED)  # a line each


def test_the_page_says_what_the_results_say(written):
    out, paths, _ = written
    page = (out / "report.md").read_text()
    for part in (
        "# Evaluation of a, b",
        "| a | causal_lm | 1,000 | 10 | `runs/a` |",
        "| sites | site | 9 | 2 | test 40 |",
        "| scan | effect | without training |  | variants 30 |",
        "- **a** beats every baseline in 2 of 3 tests, and its random-weights twin in 1 of 2",
        (
            "Here a is not shown to do better than the same network with random weights: scan"
            " (effect)."
        ),
        "--config configs/prot_txl.py:uniref",
        "| method | test (n = 40) |",
        "| a: cnn | **0.650 [0.600, 0.700]** |",
        "| ProtT5-XL-U50 | *0.848* [",
        "| *ProtTXL* | CB513 | *0.740* | [",
        "| a: cnn | test | Matthews correlation, over residues | 0.700 [0.600, 0.800] |",
        "### value: melting | point",
        "| baseline: majority class | - |",
        "| sites | test | train | 40 | 3 (7.5%) | not counted | p is q (100%) | no mmseqs |",
        "- smiles was left out.",
        "python -m phenomjax.evaluate\n",
        "On new, identity < 0.3 (40 proteins), a reaches",
    ):
        assert part in page, part
    # of subsets only the strictest is put in words
    assert "identity < 0.5 (40" not in page.split("## Results")[0]
    names = [path.name for path in paths[3:]]
    assert names == [
        "bars_sites_site.png",
        "bars_families_family.png",
        "identity_families_family_new.png",
        "confusion_families_family.png",
        "reliability_families_family.png",
        "bars_value_melting_point.png",
        "bars_scan_effect.png",
        "mutations_scan.png",
    ]
    assert all(f"(figures/{name})" in page for name in names)
    assert sorted(p.name for p in (out / "figures").iterdir()) == sorted(
        [*names, "mine.png"]
    )  # nothing partial or stale is left
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[3:])


def test_the_page_for_a_browser_is_the_report(written):
    """Every table and figure of report.md, in one file."""
    out, paths, _ = written
    text, html = (out / "report.md").read_text(), (out / "report.html").read_text()
    assert paths[2].name == "report.html" and "2 models, 2 tasks" in html
    assert html.count("<table") == len(re.findall(r"^\| ---", text, re.M))
    assert html.count('src="data:image/png;base64,iVBOR') == text.count("](figures/")
    assert '<strong class="chip good">beats</strong>' in html

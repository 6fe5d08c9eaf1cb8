"""What a reader sees is the same for every block size and CPU: nearest neighbours that are equally
close, classes that are equally probable, verdicts on intervals that touch.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from phenomjax.probes import metrics
from phenomjax.probes.features.table import FeatureTable
from phenomjax.probes.methods import baselines, neighbours
from phenomjax.probes.reports import figures, verdicts
from phenomjax.probes.reports.details import Reliability
from phenomjax.probes.suites.dataset import Dataset, Labels
from phenomjax.probes.suites.suite import CLASS, MULTILABEL, VALUE, Training
from phenomjax.statistics import bootstrap, comparison

ROOT = Path(__file__).parents[2]


def landscape() -> tuple[Dataset, FeatureTable]:
    """Variants of one protein whose features lie on a grid that no binary fraction hits: every test
    row has several nearest training rows, with other labels.
    """
    random = np.random.default_rng(0)
    letters = random.integers(0, 3, (300, 7))
    sequences = ["".join("ACD"[i] for i in row) for row in letters]
    grid = np.concatenate([letters, letters[:, ::-1] * 3, letters.sum(1, keepdims=True)], 1)
    features = np.ascontiguousarray(np.tile(grid, 9) * 0.1 + 7.7, np.float64)
    split = np.array(["train"] * 150 + ["validation"] * 10 + ["test"] * 140)
    labels = {
        "class": Labels(CLASS, ("a", "b", "c"), random.integers(0, 3, 300), "accuracy"),
        "half": Labels(CLASS, ("no", "yes"), random.integers(0, 2, 300), "auroc"),
        "sets": Labels(MULTILABEL, ("x", "y"), random.random((300, 2)) < 0.6, "f1_max"),
        "value": Labels(VALUE, (), letters[:, 0] * 0.1 + letters[:, 3] * 0.3, "spearman"),
    }
    data = Dataset("t", "protein", [str(i) for i in range(300)], sequences, labels, split)
    return data, FeatureTable.of_arrays(features)


def rows(*others: str) -> list[dict]:
    """All that is judged of the landscape, of the nearest neighbour and other baselines."""
    data, features = landscape()
    scores_of = {"nearest": [neighbours.predict(features, data)]}
    scores_of |= {name: baselines.predict(name, data, Training()) for name in others}
    found = []
    for method, scores in scores_of.items():
        found += [row | {"method": method} for row in metrics.evaluate(data, scores, 200)]
    return found


def read(row: dict) -> list:
    """What a report shows of a row."""
    return [
        row["method"],
        row["label"],
        row["metric"],
        comparison.number(row["value"], row["interval"]),
    ]


def test_blocks_have_no_say(monkeypatch):
    straight = rows("majority")
    assert len(straight) > 20
    for block in (1, 700, 2**40):
        monkeypatch.setattr(neighbours, "BLOCK", block)
        monkeypatch.setattr(bootstrap, "AT_ONCE", block)
        assert rows("majority") == straight


def test_nearest_of_equals_is_the_first():
    """By the definition, in fractions without rounding."""
    _, features = landscape()
    exact = np.rint((features.take(range(300)) - 7.7) * 10).astype(np.int64)
    train, test = exact[:150], exact[160:]
    distances = ((test[:, None] - train) ** 2).sum(2)
    assert ((distances == distances.min(1, keepdims=True)).sum(1) > 1).mean() > 0.2
    values = exact * 0.1 + 7.7
    for shift in (0.0, 1e3):
        found, _ = neighbours.nearest(values[:150] + shift, values[160:] + shift)
        np.testing.assert_array_equal(found, distances.argmin(1))
    products, lengths = test @ train.T, (train**2).sum(1)
    cosines = [
        [p * abs(p) * 1e-3 / n for p, n in zip(row, lengths, strict=True)] for row in products
    ]
    first = np.round(np.array(cosines), 9).argmax(1)
    np.testing.assert_array_equal(neighbours.nearest(train, test, "cosine")[0], first)


@pytest.mark.slow
def test_cpus_have_no_say():
    """The same as a report shows it, from the kernels of an older CPU and two threads."""
    code = (
        "import json, sys; sys.path.insert(0, '.'); from tests.probes import test_digits as t;"
        "print(json.dumps([t.read(row) for row in t.rows(*sys.argv[1:])]))"
    )
    methods = "majority", "one_hot", "composition"
    older = {
        "OPENBLAS_CORETYPE": "Haswell",
        "OPENBLAS_NUM_THREADS": "2",
        "NPY_DISABLE_CPU_FEATURES": " ".join(np._core._multiarray_umath.__cpu_dispatch__),
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code, *methods],
        cwd=ROOT,
        env=environment | older,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [read(row) for row in rows(*methods)]


def test_equal_probabilities_name_the_first_class():
    third = np.float32(1 / 3)
    row = np.array([np.nextafter(third, np.float32(0)), third, np.nextafter(third, np.float32(1))])
    assert metrics.named(np.stack([row, row[::-1], 0 * row, row[[1, 0, 2]]])).tolist() == [
        0,
        0,
        3,
        0,
    ]
    assert metrics.named(np.array([[0.2, 0.3], [0.3, 0.2]])).tolist() == [1, 0]


def test_intervals_that_touch():
    """The mean over three seeds of what one seed has too."""

    def row(low: float, high: float) -> dict:
        return {"metric": "accuracy", "interval": [metrics.rounded(x) for x in (low, high)]}

    low = np.mean([0.1, 0.1, 0.1])
    assert low != 0.1
    assert verdicts.outcome(row(low, 0.3), row(0.0, 0.1)) == comparison.NOT_SHOWN
    assert verdicts.outcome(row(low + 1e-6, 0.3), row(0.0, 0.1)) == comparison.BEATS
    assert metrics.rounded(123456.7890123456789) == 123456.789012


def test_probabilities_on_the_edge_of_a_bin():
    probability = (np.arange(10) / 10).astype(np.float32)
    _, _, count, _ = figures.calibration(Reliability(probability, probability > 0.5))
    assert count.tolist() == [1] * 10

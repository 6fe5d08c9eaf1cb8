"""Metrics and their bootstrap against scikit-learn and SciPy."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from phenomjax.probes import metrics
from phenomjax.probes.suites.dataset import Dataset, Labels
from phenomjax.probes.suites.suite import CLASS, MULTILABEL, RESIDUE, VALUE

DRAWS = 60


def dataset(
    labels: dict[str, Labels], count: int, subsets: dict[str, np.ndarray] | None = None
) -> Dataset:
    split = np.array(["train"] * 2 + ["test"] * (count - 2))
    return Dataset(
        "task",
        "protein",
        [str(i) for i in range(count)],
        ["MK"] * count,
        labels,
        split,
        subsets or {},
    )


def found(rows: list[dict], **where) -> dict[tuple[str, str], dict]:
    return {
        (row["metric"], row["average"]): row
        for row in rows
        if all(row[key] == value for key, value in where.items())
    }


def intervals(function, *arrays: np.ndarray) -> list[float]:
    """Percentile bootstrap as it is told in a book: the rows repeated, the metric of the repeated
    rows.
    """
    count, values = len(arrays[0]), []
    for weights in metrics._weights(count, DRAWS):
        for row in weights.astype(int):
            chosen = np.repeat(np.arange(count), row)
            values.append(function(*(array[chosen] for array in arrays)))
    return np.percentile(values, [2.5, 97.5]).tolist()


def samples(function):
    return lambda true, guess: function(true, guess, average="samples", zero_division=0)


def test_classes_as_scikit_learn():
    random = np.random.default_rng(0)
    true = np.concatenate([[0, 1], random.integers(0, 4, 60), [-1, -1]])
    seeds = [
        {"a": random.dirichlet(np.ones(5), 62).astype(np.float32)} for _ in range(2)
    ]  # the fifth class is never true
    for seed in seeds:
        seed["a"][np.arange(30), true[2:32]] += 2
    data = dataset(
        {"a": Labels(CLASS, tuple("abcde"), true, "accuracy")}, 64, {"few": np.arange(2, 12)}
    )
    rows = metrics.evaluate(data, seeds, DRAWS)
    truth, guess = true[2:62], [seed["a"].argmax(1)[:60] for seed in seeds]
    every = {
        "accuracy": reference.accuracy_score,
        "balanced_accuracy": lambda t, g: np.mean([(g[t == c] == c).mean() for c in np.unique(t)]),
        "f1_macro": lambda t, g: reference.f1_score(t, g, average="macro", zero_division=0),
        "mcc": reference.matthews_corrcoef,
    }
    assert {row["split"] for row in rows} == {"test", "few"} and len(rows) == 8
    for split, part in {"test": slice(60), "few": slice(10)}.items():
        here = found(rows, split=split)
        for name, function in every.items():
            row = here[name, ""]
            values = [function(truth[part], g[part]) for g in guess]
            assert row["value"] == pytest.approx(np.mean(values)) and row[
                "seed_std"
            ] == pytest.approx(np.std(values, ddof=1))
            expected = intervals(
                lambda t, a, b, f=function: (f(t, a) + f(t, b)) / 2,
                truth[part],
                *(g[part] for g in guess),
            )
            assert row["interval"] == pytest.approx(expected)
            assert (row["count"], row["residues"], row["seeds"]) == (len(truth[part]), None, 2)


def test_two_classes_ties_and_rows_without_prediction():
    random = np.random.default_rng(1)
    true, score = random.integers(0, 2, 42), random.integers(0, 6, 40) / 5  # many ties
    predicted = np.stack([1 - score, score], 1).astype(np.float32)
    data = dataset({"a": Labels(CLASS, ("no", "yes"), true, "auroc")}, 42)
    row = found(metrics.evaluate(data, [{"a": predicted}], DRAWS))["auroc", ""]
    assert (
        row["value"] == pytest.approx(reference.roc_auc_score(true[2:], score))
        and row["seed_std"] is None
    )
    assert row["interval"] == pytest.approx(intervals(reference.roc_auc_score, true[2:], score))
    predicted[:10] = 0
    rows = found(metrics.evaluate(data, [{"a": predicted}], 10))
    guess = np.where((predicted > 0).any(1), predicted.argmax(1), 2)
    assert rows["accuracy", ""]["value"] == pytest.approx((guess == true[2:]).mean())
    assert rows["mcc", ""]["value"] == pytest.approx(reference.matthews_corrcoef(true[2:], guess))
    assert rows["f1_macro", ""]["value"] == pytest.approx(
        reference.f1_score(true[2:], guess, labels=[0, 1], average="macro")
    )


def test_residues_both_averages_and_masks():
    random = np.random.default_rng(2)
    lengths = [3, 1, 40, 7, 25, 12]
    values = [random.integers(-1, 3, n).astype(np.int16) for n in lengths]
    values[4][:] = -1  # nothing is known of this one
    predicted = [random.random((n, 3)).astype(np.float32) for n in lengths[2:]]
    rows = found(
        metrics.evaluate(
            dataset({"a": Labels(RESIDUE, tuple("HEC"), values, "accuracy")}, 6),
            [{"a": predicted}],
            DRAWS,
        )
    )
    kept = [0, 1, 3]
    true = [values[i + 2] for i in kept]
    right = [(predicted[i].argmax(1) == t)[t >= 0] for i, t in zip(kept, true, strict=True)]
    guess = np.concatenate([predicted[i].argmax(1) for i in kept])[np.concatenate(true) >= 0]
    flat = np.concatenate(true)[np.concatenate(true) >= 0]
    assert rows["accuracy", "residue"]["value"] == pytest.approx(np.concatenate(right).mean())
    assert rows["accuracy", "protein"]["value"] == pytest.approx(np.mean([r.mean() for r in right]))
    assert rows["balanced_accuracy", "residue"]["value"] == pytest.approx(
        reference.balanced_accuracy_score(flat, guess)
    )
    assert rows["f1_macro", "residue"]["value"] == pytest.approx(
        reference.f1_score(flat, guess, average="macro")
    )
    assert rows["mcc", "residue"]["value"] == pytest.approx(
        reference.matthews_corrcoef(flat, guess)
    )
    assert {(row["count"], row["residues"]) for row in rows.values()} == {(3, len(flat))}
    pairs = np.array(right, dtype=object)
    expected = intervals(lambda chosen: np.concatenate(chosen.tolist()).mean(), pairs)
    assert rows["accuracy", "residue"]["interval"] == pytest.approx(expected)


def test_sets_as_scikit_learn():
    random = np.random.default_rng(3)
    true = random.random((52, 6)) < 0.3
    true[:40, 0] |= ~true[:40].any(1)
    predicted = (random.random((50, 6)) * 0.6 + 0.4 * true[2:]).astype(np.float32)
    known = true[2:].any(1)
    rows = found(
        metrics.evaluate(
            dataset({"a": Labels(MULTILABEL, tuple("abcdef"), true, "")}, 52),
            [{"a": predicted}],
            DRAWS,
        )
    )
    truth, guess = true[2:][known], predicted[known] > 0.5
    for name, function in {
        "precision_samples": samples(reference.precision_score),
        "recall_samples": samples(reference.recall_score),
        "f1_samples": samples(reference.f1_score),
        "exact_match": reference.accuracy_score,
    }.items():
        assert rows[name, ""]["value"] == pytest.approx(function(truth, guess))
    assert rows["recall_samples", ""]["interval"] == pytest.approx(
        intervals(lambda t, g: ((t & g).sum(1) / t.sum(1)).mean(), truth, guess)
    )
    assert rows["f1_samples", ""]["count"] == known.sum()
    best = 0.0
    for threshold in np.arange(1, 100) / 100:  # CAFA's definition, spelled out
        named = predicted[known] > threshold
        covered = named.any(1)
        if covered.any():
            p, r = (
                ((named & truth).sum(1) / np.maximum(named.sum(1), 1))[covered].mean(),
                ((named & truth).sum(1) / truth.sum(1)).mean(),
            )
            best = max(best, 2 * p * r / (p + r) if p + r else 0)
    assert rows["f1_max", ""]["value"] == pytest.approx(best)


def test_values_as_scipy():
    random = np.random.default_rng(4)
    true = np.concatenate([[0, 0], random.integers(0, 8, 50) + 1e4, [np.nan]])
    predicted = (true[2:52] + 3 * random.random(50)).round(1)
    data = dataset({"a": Labels(VALUE, (), true, "spearman")}, 53)
    rows = found(metrics.evaluate(data, [{"a": np.append(predicted, 0)}], DRAWS))
    for name, function in {
        "spearman": lambda t, p: stats.spearmanr(t, p)[0],
        "pearson": lambda t, p: stats.pearsonr(t, p)[0],
        "rmse": reference.root_mean_squared_error,
        "r2": reference.r2_score,
    }.items():
        assert rows[name, ""]["value"] == pytest.approx(function(true[2:52], predicted))
        assert rows[name, ""]["interval"] == pytest.approx(
            intervals(function, true[2:52], predicted)
        )
    assert rows["rmse", ""]["count"] == 50


def test_what_is_not_defined_is_none_without_a_warning():
    one, flat = np.zeros(12, np.int64), np.full(12, 0.1)
    data = dataset({"c": Labels(CLASS, ("a", "b"), one, ""), "v": Labels(VALUE, (), flat, "")}, 12)
    half = np.full((10, 2), 0.5, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = metrics.evaluate(
            data, [{"c": half, "v": np.arange(10)}, {"c": half, "v": np.full(10, 0.3)}], 20
        )
    rows = found(rows)
    for name in ("auroc", "spearman", "pearson", "r2"):
        assert rows[name, ""]["value"] is None and rows[name, ""]["interval"] == [None, None]
        assert rows[name, ""]["seed_std"] is None
    # as scikit-learn has it
    assert rows["mcc", ""]["value"] == 0 and rows["accuracy", ""]["value"] == 1
    unknown = dataset({"c": Labels(CLASS, ("a", "b"), np.full(12, -1), "")}, 12)
    assert metrics.evaluate(unknown, [{"c": half}], 20) == []

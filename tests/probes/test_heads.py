"""Heads: what they compute, how they are trained, and that padding and the company of other rows
change nothing.
"""

import dataclasses
import logging
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from phenomjax.probes import metrics
from phenomjax.probes.features.embeddings import Stopped
from phenomjax.probes.features.table import FeatureTable
from phenomjax.probes.methods import heads, packing, training
from phenomjax.probes.suites.dataset import Dataset, Labels
from phenomjax.probes.suites.suite import CLASS, MULTILABEL, RESIDUE, VALUE, Training
from phenomjax.system.errors import UserError

DIM = 8
SMALL = Training(seeds=2, learning_rate=0.01, batch_size=16, max_epochs=30, patience=4, hidden=8)


def residues(count: int = 60) -> tuple[FeatureTable, Dataset]:
    """Chains of letters 0-5; label "next" is whether the letter behind is above 2: only a
    convolution sees it.
    """
    random = np.random.default_rng(0)
    letters = [random.integers(0, 6, random.integers(4, 30)) for _ in range(count)]
    vectors = random.normal(size=(6, DIM)).astype(np.float32) * 3 + 5
    following = [np.append((chain[1:] > 2), -1).astype(np.int16) for chain in letters]
    own = [
        np.where(random.random(len(chain)) < 0.2, -1, chain > 2).astype(np.int16)
        for chain in letters
    ]
    split = np.array(["train"] * (count - 20) + ["validation"] * 10 + ["test"] * 10)
    labels = {
        "next": Labels(RESIDUE, ("low", "high"), following, "accuracy"),
        "own": Labels(RESIDUE, ("low", "high"), own, "accuracy"),
    }
    sequences = ["M" * len(chain) for chain in letters]
    data = Dataset("chains", "protein", [str(i) for i in range(count)], sequences, labels, split)
    return FeatureTable.of_arrays([vectors[chain] for chain in letters]), data


def proteins(count: int = 120) -> tuple[FeatureTable, Dataset]:
    random = np.random.default_rng(1)
    x = random.normal(size=(count, DIM)).astype(np.float32) * 4 + 7
    x[:, 3] = 2.5  # constant
    z = (x - 7) / 4
    kind = z[:, :3].argmax(1)
    sets = z[:, :4] > 0.3
    value = 100 + 30 * z[:, 0] - 20 * z[:, 1]
    kind[::9], sets[::7], value[::8] = -1, False, np.nan
    labels = {
        "kind": Labels(CLASS, tuple("abc"), kind, "accuracy"),
        "sets": Labels(MULTILABEL, tuple("wxyz"), sets, "f1_samples"),
        "value": Labels(VALUE, (), value, "spearman"),
    }
    split = np.array(["train"] * (count - 40) + ["validation"] * 20 + ["test"] * 20)
    return FeatureTable.of_arrays(x), Dataset(
        "proteins", "protein", [""] * count, ["M"] * count, labels, split
    )


def judged(dataset: Dataset, scores: list[dict]) -> dict[tuple[str, str], float]:
    return {
        (row["label"], row["metric"]): row["value"] for row in metrics.evaluate(dataset, scores, 0)
    }


@pytest.mark.parametrize("few", [False, True])
def test_convolution_is_that_of_flax(few):
    x = jax.random.normal(jax.random.key(0), (20, 5))
    layer = heads.Convolution(3, few=few)
    variables = layer.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"].reshape(heads.KERNEL, 5, 3)
    bias = jnp.arange(3.0)
    expected = nn.Conv(3, (heads.KERNEL,)).apply(
        {"params": {"kernel": kernel, "bias": bias}}, x[None]
    )[0]
    found = layer.apply({"params": {"kernel": kernel.reshape(-1, 3), "bias": bias}}, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_losses_of_known_rows_alone():
    targets = (heads.Target(CLASS, 3), heads.Target(MULTILABEL, 2), heads.Target(VALUE, 1))
    outputs = jax.random.normal(jax.random.key(0), (4, 6))
    truths = (
        jnp.array([2, -1, 0, -1]),
        jnp.array([[1, 0], [0, 0], [1, 1], [0, 1]], bool),
        jnp.array([0.5, jnp.nan, jnp.nan, 2.0]),
    )
    sums, counts = heads.losses(outputs, targets, truths)
    np.testing.assert_array_equal(counts, [2, 3, 2])
    log_softmax = jax.nn.log_softmax(outputs[:, :3])
    sigmoid = optax.sigmoid_binary_cross_entropy(
        outputs[:, 3:5], truths[1].astype(jnp.float32)
    ).mean(1)
    squares = (outputs[:, 5] - truths[2]) ** 2
    expected = [
        -log_softmax[0, 2] - log_softmax[2, 0],
        sigmoid[0] + sigmoid[2] + sigmoid[3],
        squares[0] + squares[3],
    ]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)
    gradient = jax.grad(lambda outputs: heads.losses(outputs, targets, truths)[0].sum())(outputs)
    assert np.isfinite(gradient).all() and not gradient[1].any()


def test_batches_hold_every_residue_once_between_gaps_of_zeros():
    features, data = residues()
    packed = packing.Packing(features, data, 16)
    groups = packed.groups(data.test_rows)
    assert np.concatenate(groups).tolist() == data.test_rows.tolist()
    for group in groups:
        batch = packed.read(group)
        assert (
            batch.x.shape == (packed.size, DIM) and batch.mask.sum() == packed.lengths[group].sum()
        )
        assert not batch.x[~batch.mask].any() and (batch.truths[0][~batch.mask] == -1).all()
        for row, own in zip(group, packed.unpack(1, group, batch.truths[1]), strict=True):
            np.testing.assert_array_equal(own, data.labels["own"].values[row])
        starts = np.flatnonzero(np.diff(np.concatenate([[False], batch.mask]).astype(int)) == 1)
        ends = np.flatnonzero(np.diff(np.concatenate([batch.mask, [False]]).astype(int)) == -1)
        assert len(starts) == len(group) and (starts[1:] - ends[:-1] - 1 == heads.GAP).all()
    x = np.concatenate(
        [packed.read(group).x[packed.read(group).mask] for group in packed.groups(packed.train)]
    )
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-4)


def test_convolution_learns_what_stands_beside_a_residue_and_padding_changes_nothing():
    features, data = residues()
    scores = training.fit_predict(features, data, "cnn", SMALL)
    found = judged(data, scores)
    assert len(scores) == 2 and found["next", "accuracy"] > 0.95 and found["own", "accuracy"] > 0.95
    assert not np.array_equal(scores[0]["own"][0], scores[1]["own"][0])
    for label, chains in scores[0].items():
        assert [len(chain) for chain in chains] == [
            len(data.sequences[row]) for row in data.test_rows
        ], label
        np.testing.assert_allclose(np.concatenate(chains).sum(1), 1, atol=1e-5)
    again = training.fit_predict(features, data, "cnn", SMALL)
    np.testing.assert_array_equal(
        np.concatenate(again[1]["next"]), np.concatenate(scores[1]["next"])
    )


def test_company_and_padding_change_nothing():
    features, data = residues()
    packed = packing.Packing(features, data, 16)
    model = heads.make("cnn", packed.targets, SMALL)
    row, others = data.test_rows[:1], data.test_rows[1:4]
    batches = [row, np.concatenate([others, row]), np.concatenate([row, others])]
    one = packed.read(row)
    variables = model.init(jax.random.key(0), jnp.asarray(one.x), jnp.asarray(one.mask), False)
    found = []
    for group in batches:
        batch = packed.read(group)
        outputs = np.asarray(
            model.apply(variables, *map(jnp.asarray, (batch.x, batch.mask)), False)
        )
        found.append(packed.unpack(0, group, outputs)[group.tolist().index(row[0])])
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)
    assert np.abs(found[0]).max() > 0.1


def test_heads_of_proteins_learn_all_kinds_of_labels_at_once():
    features, data = proteins()
    for head in ("linear", "fnn"):
        found = judged(
            data,
            scores := training.fit_predict(
                features, data, head, dataclasses.replace(SMALL, dropout=0.0)
            ),
        )
        assert len(scores) == (1 if head == "linear" else 2)
        assert (
            found["kind", "accuracy"] > 0.8
            and found["sets", "f1_samples"] > 0.8
            and found["value", "r2"] > 0.8
        )
        assert scores[0]["value"].dtype == np.float32 and scores[0]["sets"].shape == (20, 4)


def test_the_best_epoch_is_kept_and_patience_ends(caplog):
    features, data = proteins()
    kind = data.labels["kind"].values.copy()
    rows = data.rows("validation")
    # what is learned is wrong there
    kind[rows] = np.where(kind[rows] < 0, -1, (kind[rows] + 1) % 3)
    data = dataclasses.replace(data, labels={"kind": Labels(CLASS, tuple("abc"), kind, "accuracy")})
    with caplog.at_level(logging.INFO, "phenomjax"):
        scores = training.fit_predict(features, data, "linear", SMALL)
        first = training.fit_predict(
            features, data, "linear", dataclasses.replace(SMALL, max_epochs=1)
        )
    assert "linear: 5 epochs of" in caplog.text  # the first, and as many as patience has
    np.testing.assert_array_equal(scores[0]["kind"], first[0]["kind"])
    nobody = dataclasses.replace(
        data, split=np.where(data.split == "validation", "test", data.split)
    )
    with caplog.at_level(logging.INFO, "phenomjax"):
        training.fit_predict(features, nobody, "linear", SMALL)
    assert "30 epochs" in caplog.text and "no validation rows" in caplog.text


def test_what_cannot_be_learned_and_a_stop():
    features, data = proteins()
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        training.fit_predict(features, data, "linear", SMALL, stop)
    empty = Labels(CLASS, ("a",), np.full(len(data), -1), "accuracy")
    with pytest.raises(UserError, match="no training row has a known label 'none'"):
        training.fit_predict(
            features,
            dataclasses.replace(data, labels=data.labels | {"none": empty}),
            "linear",
            SMALL,
        )
    chains, of_chains = residues()
    both = dataclasses.replace(
        of_chains, labels=of_chains.labels | {"whole": Labels(VALUE, (), np.zeros(60), "")}
    )
    with pytest.raises(UserError, match="make two tasks"):
        training.fit_predict(chains, both, "linear", SMALL)

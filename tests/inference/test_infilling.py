"""Infilling: every position is drawn from the model's conditional given the known residues and
those filled before; one alone is what `score` computes; orders, seeds, files and mistakes.
"""

import csv
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import sample
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.inference.sequences import batches, drawing, infilling
from phenomjax.inference.variants import likelihood
from phenomjax.system.errors import UserError
from phenomjax.trained import opening
from tests.lab import tiny_language_models as tiny

TEXT = "MKT_YI__QRQISF_K"
ORDERS = ("random", "left_to_right", "confident")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("runs") / "xlnet", "permutation_lm")


@pytest.fixture(scope="module")
def model(workdir):
    return opening.load_sequences(workdir, "float32")


def run(workdir, out, *options):
    """(header fields, text) of each record, and the rows of the table of positions."""
    words = ["--checkpoint", workdir, "--out", out, "--overwrite", *options]
    assert sample.main([str(a) for a in words]) == 0
    with out.with_name(out.name + ".positions.csv").open() as file:
        table = list(csv.DictReader(file))
    records = [r.split("\n", 1) for r in out.read_text().split(">")[1:]]
    fields = [dict(f.split("=") for f in head.split()[1:]) for head, _ in records]
    return fields, [body.replace("\n", "") for _, body in records], table


def conditional(model, tokens, known, place):
    """Log-probabilities at a place, from tokens whose places are in `known` in that order (the
    first element: all that were there), written with the model alone.
    """
    seq = tokens.shape[0]
    turn = {p: k for k, group in enumerate(known) for p in group}
    sees = np.zeros((seq, seq), bool)
    for i, j in itertools.product(range(seq), repeat=2):
        if j in turn:
            sees[i, j] = turn[j] <= turn[i] if i in turn else True
    sees[place, place] = False
    arrays = tokens[None].astype(np.int32), np.where(tokens == 4, 2, 0)[None], sees[None]
    places = np.array([[place]])
    return np.asarray(_log_probs(model.task)(model.params, *map(jnp.asarray, (*arrays, places))))


@functools.cache
def _log_probs(task):
    def log_probs(params, *arrays):
        return jax.nn.log_softmax(task.model.apply({"params": params}, *arrays)[0][0, 0], -1)

    return jax.jit(log_probs)


@pytest.mark.parametrize("order", ORDERS)
def test_each_position_is_drawn_from_its_conditional(order, model, workdir, tmp_path):
    words = ("--fill", TEXT, "--order", order, "--num", 2, "--temperature", 0)
    fields, texts, table = run(workdir, tmp_path / "a.fasta", *words)
    places = [i for i, letter in enumerate(TEXT) if letter == "_"]
    before, after = model.task.boundary
    letters = [model.task.words.ids[a] for a in AMINO_ACIDS]
    for number, text in enumerate(texts):
        steps = [row for row in table if row["id"] == f"filled_{number}"]
        assert all(a in ("_", b) for a, b in zip(TEXT, text, strict=True))
        tokens = np.concatenate([before, model.task.words.encode(text), after])
        at = [int(row["position"]) - 1 for row in steps]
        assert sorted(at) == places and (order != "left_to_right" or at == places)
        known = [[i for i in range(len(tokens)) if i - len(before) not in places]]
        total = 0.0
        for place, row in zip(at, steps, strict=True):
            found = conditional(model, tokens, known, place + len(before))
            token = model.task.words.ids[row["token"]]
            assert row["token"] == text[place] and token == letters[found[letters].argmax()]
            assert float(row["log_probability"]) == pytest.approx(found[token], abs=1e-4)
            if order == "confident":
                waiting = [p for p in places if [p + len(before)] not in known]
                best = {
                    p: conditional(model, tokens, known, p + len(before))[letters].max()
                    for p in waiting
                }
                assert best[place] == pytest.approx(max(best.values()), abs=1e-5)
            total += found[token]
            known.append([place + len(before)])
        assert float(fields[number]["log_likelihood"]) == pytest.approx(total, abs=2e-3)


def test_the_likelihood_is_that_of_the_training_objective(model):
    filler = infilling.Filler(model, model.task, "random", 1.0, 1.0)
    template = infilling.template(model.task.words, "x", "t", TEXT, "_")
    (filled,) = filler(jax.random.key(3), template, [5])
    before, after = model.task.boundary
    tokens = np.concatenate([before, filled.tokens, after])
    rank = np.zeros(len(tokens), np.int32)
    rank[filled.places + len(before)] = 1 + np.arange(len(filled.places))
    targets = (filled.places + len(before))[None]
    batch = {
        "tokens": tokens[None],
        "rank": rank[None],
        "target": targets,
        "segment": np.where(tokens == 4, 2, 0)[None],
        "reverse": np.zeros(1, bool),
    }
    batch = {name: jnp.asarray(value) for name, value in batch.items()} | {"row": None}
    logits, _ = jax.jit(lambda p, b: model.task.predict(p, b, (), None))(model.params, batch)
    chance = jax.nn.log_softmax(logits[0], -1)[np.arange(len(rank[rank > 0])), tokens[targets[0]]]
    np.testing.assert_allclose(filled.log_probs, chance, atol=1e-4)


def test_one_masked_position_is_what_score_computes(model):
    wild_type = "MKTAYIAKQRQISFVK"
    filler = infilling.Filler(model, model.task, "random", 1.0, 1.0)
    template = infilling.template(
        model.task.words, "x", "t", wild_type[:4] + "_" + wild_type[5:], "_"
    )
    filled = filler(jax.random.key(0), template, range(400))
    chance = {AMINO_ACIDS.index(wild_type[4]): 0.0}
    for one in filled:
        letter = model.task.words.decode(one.tokens[4:5])
        chance[AMINO_ACIDS.index(letter)] = one.log_probs[0]
    scored = likelihood.variant_scores(model, wild_type, [[(4, a)] for a in AMINO_ACIDS])[:, 0]
    seen = sorted(set(chance) - {AMINO_ACIDS.index(wild_type[4])})
    of_wild_type = [chance[i] - scored[i] for i in seen]  # log p(wild type), by each of them
    assert len(seen) > 10 and np.ptp(of_wild_type) < 1e-4
    # and they are drawn as often as it says
    expected = np.exp(scored + np.mean(of_wild_type))
    drawn = [AMINO_ACIDS.index(model.task.words.decode(f.tokens[4:5])) for f in filled]
    share = np.bincount(drawn, minlength=20) / len(drawn)
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.1)


def test_fillings_depend_on_seed_and_record_alone(workdir, tmp_path):
    both, one = tmp_path / "both.fasta", tmp_path / "one.fasta"
    both.write_text(f">a\nMK___V\n>b of two\n{TEXT[:8]}\n{TEXT[8:]}\n")
    one.write_text(f">b\n{TEXT}\n")
    fields, texts, table = run(workdir, tmp_path / "o", "--fill", both, "--num", 3)
    assert [len(t) for t in texts] == [6] * 3 + [16] * 3 and len(set(texts[3:])) > 1
    assert len(table) == 3 * 3 + 3 * 4 and {f["filled"] for f in fields} == {"3", "4"}
    alone = run(workdir, tmp_path / "o", "--fill", one, "--num", 3)
    assert alone[1] == texts[3:] and alone[2] == [row for row in table if row["id"][0] == "b"]
    again = run(workdir, tmp_path / "o", "--fill", one, "--num", 3, "--seed", 1)
    assert again[1] != texts[3:]
    by_x = run(workdir, tmp_path / "o", "--fill", "MKxxxV", "--mask", "X", "--num", 3)
    assert {text[0] for text in by_x[1]} == {"M"} and "X" not in "".join(by_x[1])


def test_long_sequences_are_read_around_what_is_masked(model, monkeypatch):
    text = tiny.proteins([150])[0]
    words, filler = model.task.words, infilling.Filler(model, model.task, "left_to_right", 0, 1.0)
    monkeypatch.setattr(batches.window_width, "__defaults__", (64,))
    near = infilling.template(words, "x", "t", text[:90] + "__" + text[92:], "_")
    changed = infilling.template(words, "x", "t", "W" + text[1:90] + "__" + text[92:], "_")
    (one,), (other,) = (filler(jax.random.key(0), t, [0]) for t in (near, changed))
    assert len(one.tokens) == 150 and (one.tokens[90:92] == other.tokens[90:92]).all()
    np.testing.assert_array_equal(one.log_probs.sum(), other.log_probs.sum())
    far = infilling.template(words, "x", "t", "_" + text[1:120] + "_" + text[121:], "_")
    with pytest.raises(UserError, match="positions are 121 apart"):
        filler(jax.random.key(0), far, [0])


def test_top_k_keeps_the_likeliest():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]] * 500))
    keys = jax.random.split(jax.random.key(0), 500)
    drawn = drawing.draw(keys, logits, np.array([True, False, True, True]), 1.0, 1.0, 2)
    assert set(np.asarray(drawn).tolist()) == {0, 2}


def test_mistakes(workdir, tmp_path):
    others = {n: tiny.write(tmp_path / n, n) for n in ("causal_lm", "bidirectional_lm")}
    twice, empty = tmp_path / "twice.fasta", tmp_path / "empty.fasta"
    good = tmp_path / "good.fasta"
    good.write_text(">a\nM_\n")
    twice.write_text(">a\nM_\n>a\nM_\n")
    empty.write_text("\n")
    for checkpoint, options, message in [
        (others["causal_lm"], ("--fill", "M_"), "cannot fill positions.*permutation_lm"),
        (others["bidirectional_lm"], ("--fill", "M_"), "cannot fill positions"),
        (workdir, ("--fill", "MKV"), "--fill has no masked position. Write '_'"),
        (workdir, ("--fill", "MXV"), r"Give --mask X"),
        (workdir, ("--fill", "M1_"), "'1', which is no token"),
        (workdir, ("--fill", "no/such.fasta"), "neither a file nor a sequence"),
        (workdir, ("--fill", tmp_path), "neither a file nor a sequence"),
        (workdir, ("--fill", twice), "two records 'a'"),
        (workdir, ("--fill", empty), "has no sequence"),
        (workdir, ("--fill", good, "--out", good), "is what is read"),
        (workdir, ("--fill", "M_", "--mask", "__"), "--mask is '__'"),
        (workdir, ("--fill", "M_", "--prompt", "M"), "give one of the two"),
        (workdir, ("--fill", "M_", "--top_k", -1), "--top_k is -1"),
        (others["causal_lm"], ("--order", "confident"), "--order goes with --fill"),
        (workdir, (), "what an XLNet is to fill with --fill"),
    ]:
        with pytest.raises(UserError, match=message):
            run(checkpoint, tmp_path / "o.fasta", *options)

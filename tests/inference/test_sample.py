"""Sampling: token by token equals the full forward pass, draws follow the model, and mistakes are
told.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import sample
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.system.errors import UserError
from phenomjax.trained import opening
from tests.lab import tiny_language_models as tiny


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("runs") / "causal_lm", "causal_lm")


def run(workdir, out, *options):
    arguments = ["--checkpoint", workdir, "--out", out, "--num", 5, "--length", 30, *options]
    arguments += ["--overwrite"] if out.suffix == ".fasta" else []
    assert sample.main([str(a) for a in arguments]) == 0
    records = [r.split("\n", 1) for r in out.read_text().split(">")[1:]]
    return [
        (dict(f.split("=") for f in head.split()[1:]), body.replace("\n", ""))
        for head, body in records
    ]


def test_greedy_equals_the_full_forward_pass(workdir, tmp_path):
    model = opening.load_sequences(workdir)
    (fields, text), *rest = run(
        workdir, tmp_path / "a.fasta", "--temperature", 0, "--prompt", "MKV"
    )
    assert all(other == text for _, other in rest) and text.startswith("MKV")
    (first,), (last,) = model.task.boundary
    ids = np.concatenate([[first], model.task.words.encode(text), [last]])[None]
    carry = model.task.inference_carry(1, whole=True)
    logits, _ = jax.jit(model.task.next_logits)(model.params, jnp.asarray(ids[:, :-1]), carry)
    logits = np.array(logits[0])
    drawn = range(3, len(text) + (fields["end"] == "eos"))
    chances = np.asarray(jax.nn.log_softmax(logits))
    expected = sum(chances[place, ids[0, place + 1]] for place in drawn)
    assert float(fields["log_likelihood"]) == pytest.approx(expected, abs=2e-3)
    letters = [model.task.words.ids[a] for a in AMINO_ACIDS] + [last]
    for place in drawn:
        assert ids[0, place + 1] == letters[int(logits[place, letters].argmax())]


def test_seed_decides_and_sequences_end_or_are_cut(workdir, tmp_path):
    one, again = (run(workdir, tmp_path / f"{i}.fasta", "--seed", 3) for i in range(2))
    assert one == again != run(workdir, tmp_path / "b.fasta", "--seed", 4)
    assert len({text for _, text in one}) > 1
    for fields, text in one:
        assert set(text) <= set(AMINO_ACIDS) and len(text) == int(fields["length"]) <= 30
        assert fields["end"] == ("cut" if len(text) == 30 else "eos")


def test_draws_follow_temperature_and_top_p():
    logits = jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1, 1e-9]))
    keys, allowed = (
        jax.random.split(jax.random.key(0), 4000),
        np.array([True, True, True, True, False]),
    )

    @jax.jit
    def shares(keys):
        many = jnp.broadcast_to(logits, (4000, 5))
        drawn = [
            sample.draw(keys, many, allowed, *how)
            for how in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.7), (1.0, 0.01), (0, 1.0))
        ]
        return jnp.stack([jnp.bincount(d, length=5) / 4000 for d in drawn])

    p = np.array([0.5, 0.25, 0.15, 0.1, 0])
    expected = [
        p,
        p**2 / (p**2).sum(),
        np.array([2 / 3, 1 / 3, 0, 0, 0]),
        [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
    ]
    np.testing.assert_allclose(shares(keys), expected, atol=0.03)


def test_mistakes(workdir, tmp_path):
    elmo = tiny.write(tmp_path / "elmo", "bidirectional_lm")
    for checkpoint, options, message in [
        (elmo, (), "'bidirectional_lm', which does not write"),
        (workdir, ("--prompt", "MK1"), "has a letter that is no token"),
        (workdir, ("--prompt", "M" * 30), "leaves none to sample"),
        (workdir, ("--top_p", 0), "--top_p is 0"),
        (workdir, ("--temperature", -1), "--temperature is -1"),
    ]:
        with pytest.raises(UserError, match=message):
            run(checkpoint, tmp_path / "a.fasta", *options)
    with pytest.raises(UserError, match=r"a.csv would be FASTA, .* such as a.fasta"):
        run(workdir, tmp_path / "a.csv")
    (tmp_path / "there.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is there already.* or add --overwrite"):
        run(workdir, tmp_path / "there.txt")
    assert run(workdir, tmp_path / "there.txt", "--overwrite")

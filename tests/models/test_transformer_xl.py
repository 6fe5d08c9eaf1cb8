"""Transformer-XL: memory, masks, shifts and dropout against what they are defined as; scanned,
recomputed and unrolled layers agree.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import config, tasks
from phenomjax.models import relative_attention as relative
from phenomjax.models import transformer_xl, vit
from phenomjax.models.relative_attention import (
    causal_mask,
    relative_attention,
    relative_shift,
    sinusoids,
)
from phenomjax.models.transformer_xl import remember
from phenomjax.models.vocabulary_layers import TiedVocabulary
from phenomjax.system.errors import UserError
from phenomjax.tasks import causal_lm
from tests.convert.test_transformer_xl import make_model, random_params

TOKENS = np.random.default_rng(3).integers(0, 16, (2, 12))


def run(model, params, segments, mem_len, valid=0, **dropout):
    module = transformer_xl.build(model, jnp.float32, mem_len)
    memory, filled = jnp.full((2, model.num_layers, mem_len, 24), 7.0), jnp.full(2, valid)
    found = []
    apply = jax.jit(module.apply)
    for segment in segments:
        logits, _, inputs = apply(
            {"params": params}, jnp.asarray(segment), memory, filled, **dropout
        )
        memory, filled = remember(memory, filled, inputs)
        found.append(logits)
    return jnp.concatenate(found, 1)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_segments_with_memory_equal_one_long_pass(norm):
    model = make_model(norm=norm)
    params = random_params(model)
    whole = run(model, params, [TOKENS], 0)
    parts = run(model, params, [TOKENS[:, :5], TOKENS[:, 5:6], TOKENS[:, 6:]], 12)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)
    forgetful = run(model, params, [TOKENS[:, :6], TOKENS[:, 6:]], 2)
    assert np.abs(forgetful - whole)[:, 6:].max() > 1e-2


def test_relative_shift_is_a_gather_by_distance():
    scores = jnp.arange(2 * 3 * 5, dtype=jnp.float32).reshape(2, 3, 5)
    shifted = relative_shift(scores)
    for i in range(3):
        for j in range(5 - 3 + i + 1):  # keys up to the query itself
            distance = i + 2 - j
            np.testing.assert_array_equal(shifted[:, i, j], scores[:, i, 4 - distance])


@pytest.mark.parametrize(
    "same_length,seen", [("none", [4, 5, 6]), ("kimiyoung", [3, 3, 3]), ("nvidia", [4, 4, 4])]
)
def test_masks(same_length, seen):
    mask = np.asarray(causal_mask(3, 3, jnp.array([3, 1]), same_length, 3))
    assert mask[0, 0].sum(-1).tolist() == seen
    assert mask[:, 0, range(3), range(3, 6)].all() and not mask[:, 0, 0, 4:].any()
    assert not mask[1, 0, :, :2].any()  # one place of the memory is filled


def test_attention_equals_its_formula():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(1, n, 2, 4)), jnp.float32) for n in (3, 5, 5))
    r, u, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((5, 2, 4), (2, 4), (2, 4)))
    mask = causal_mask(3, 2, jnp.array([2]), "none", 2)
    found = jax.jit(relative_attention)(q, k, v, r, u, w, mask)
    for head in range(2):
        for i in range(3):
            keys = range(i + 3)
            scores = [
                (
                    (q[0, i, head] + u[head]) @ k[0, j, head]
                    + (q[0, i, head] + w[head]) @ r[4 - (i + 2 - j), head]
                )
                / 2
                for j in keys
            ]
            weights = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(found[0, i, head], weights @ v[0, : i + 3, head], rtol=1e-5)
    with pytest.raises(
        UserError, match=r"model.attention=cudnn cannot be honoured: it needs an NVIDIA GPU"
    ):
        relative_attention(q, k, v, r, u, w, mask, "cudnn")


@pytest.mark.parametrize(
    "platform,keys,dropout,expected",
    [
        ("gpu", 4096, False, ("xla", "model.attention=cudnn")),
        ("cpu", 4096, False, ("looped", "core's cache")),
        ("cpu", 512, False, ("xla", "at once")),
        ("gpu", 512, True, ("xla", "dropout")),
    ],
)
def test_the_choice_and_its_reason(monkeypatch, platform, keys, dropout, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    chosen, reason = relative._choose("auto", keys, dropout)
    assert chosen == expected[0] and expected[1] in reason


def test_what_devices_take_and_its_gradients_equal_the_plain_ones(monkeypatch):
    """Head after head on a CPU, heads first on a GPU, there also with dropout of weights."""
    monkeypatch.setattr(relative, "BLOCK", 4)  # 10 queries in three blocks
    rng = np.random.default_rng(0)
    shapes = [(2, 10, 3, 4), (2, 15, 3, 4), (2, 15, 3, 4), (15, 3, 4), (3, 4), (3, 4)]
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    weight = jnp.asarray(rng.normal(size=shapes[0]), jnp.float32)
    dropout = (0.25, jnp.asarray(rng.integers(0, 2**16, (2, 3, 10, 15)), jnp.uint16))

    def valued(name, dropout=None, platform="cpu"):
        def summed(mask, *x):
            return (relative_attention(*x, mask, name, dropout) * weight).sum()

        def traced(*x):
            with monkeypatch.context() as patch:
                patch.setattr(jax, "default_backend", lambda: platform)
                return jax.value_and_grad(summed, argnums=range(1, 7))(*x)

        return jax.jit(traced)

    plain, dropped = valued("xla"), valued("xla", dropout)
    others = [
        (plain, valued("looped")),
        (plain, valued("xla", platform="gpu")),
        (dropped, valued("auto", dropout, "gpu")),
    ]
    for same_length in ("none", "kimiyoung"):
        mask = causal_mask(10, 5, jnp.array([5, 2]), same_length, 5)
        for expected, other in others:
            pairs = zip(other(mask, *arrays), expected(mask, *arrays), strict=True)
            for found, wanted in pairs:
                close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=4e-6)  # noqa: E731
                jax.tree.map(close, found, wanted)


def test_positions_are_sines_then_cosines():
    table = sinusoids(jnp.array([0, 3]), 6)
    np.testing.assert_allclose(
        table[1],
        np.concatenate([np.sin(3 * (f := 10000.0 ** (-np.arange(0, 6, 2) / 6))), np.cos(3 * f)]),
        rtol=1e-6,
    )


@pytest.mark.parametrize("remat", ["none", "full"])
def test_scanned_and_recomputed_layers_change_nothing(remat):
    model = make_model(untie_bias=True, dropout=0.2, attention_dropout=0.1)
    params = random_params(model)
    drop = {"key": jax.random.key(0), "row": jnp.arange(2)}
    plain = run(model, params, [TOKENS[:, :5], TOKENS[:, 5:]], 4, **drop)
    stacked = {**params, "blocks": vit.stack_layers(params["blocks"])}
    scanned = run(
        make_model(**{**model, "scan_layers": True, "remat": remat}),
        stacked,
        [TOKENS[:, :5], TOKENS[:, 5:]],
        4,
        **drop,
    )
    np.testing.assert_allclose(scanned, plain, rtol=1e-4, atol=1e-5)
    # dropout did something
    assert np.abs(plain - run(model, params, [TOKENS[:, :5], TOKENS[:, 5:]], 4)).max() > 0.1


@pytest.mark.parametrize("div_val", [1, 2])
def test_adaptive_softmax_is_a_distribution(div_val):
    words = TiedVocabulary(16, 8, (5, 9), div_val)

    @jax.jit
    def probabilities(x):
        variables = words.init(
            jax.random.key(0),
            jnp.zeros((1, 1), jnp.int32),
            method=lambda m, t: m.logits(m.embed(t)),
        )
        return words.apply(variables, x, method="logits")

    log = probabilities(jax.random.normal(jax.random.key(1), (3, 8)))
    np.testing.assert_allclose(jnp.exp(log).sum(-1), 1, rtol=1e-5)


def test_evaluation_takes_a_longer_memory_and_fresh_rows_forget():
    c = config.base("causal_lm")
    c.model.update({**make_model(), "eval_mem_len": 20})
    task = causal_lm.CausalLM(c)
    params = random_params(c.model)
    batch = {
        "tokens": jnp.asarray(np.random.default_rng(1).integers(0, 16, (2, 10)), jnp.uint8),
        "weight": jnp.ones((2, 8), bool),
        "fresh": jnp.zeros(2, bool),
        "row": jnp.arange(2),
    }
    carry = task.carry(2, "val")
    assert carry["memory"].shape == (2, 2, 20, 24)
    evaluate = jax.jit(task.evaluate)
    first, after = evaluate(params, batch, carry)
    assert after["valid"].tolist() == [8, 8]
    again, _ = evaluate(params, {**batch, "fresh": jnp.ones(2, bool)}, after)
    remembered, _ = evaluate(params, batch, after)
    np.testing.assert_allclose(again["loss"][0], first["loss"][0], rtol=1e-6)
    assert abs(remembered["loss"][0] - first["loss"][0]) > 1e-3
    assert first["perplexity"] == first["loss"]
    assert tasks.means({"perplexity": (np.log(20.0), 1.0)})["perplexity"] == pytest.approx(20)

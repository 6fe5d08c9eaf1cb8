"""Attention: every implementation against float64, the dispatcher's choices, its log line and its
errors.
"""

import functools
import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax.models import attention as module
from phenomjax.models.attention import (
    attention,
    choose_attention,
    flash_attention,
    looped_attention,
    matmul_attention,
)
from phenomjax.system.errors import UserError


def reference(q, k, v):
    q, k, v = (np.asarray(x, np.float64).transpose(0, 2, 1, 3) for x in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3)


@pytest.mark.parametrize(
    "function",
    [
        matmul_attention,
        looped_attention,
        lambda *x: attention(*x, "xla"),
        lambda *x: attention(*x, "products"),
        lambda *x: flash_attention(*x, "xla"),  # its odd lengths, without cuDNN
    ],
)
@pytest.mark.parametrize("queries,keys", [(5, 5), (3, 8)])
def test_values_and_gradients(function, queries, keys):
    random = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(random.standard_normal((2, seq, 3, 8), np.float32))
        for seq in (queries, keys, keys)
    )
    gradient = jnp.asarray(random.standard_normal(q.shape, np.float32))

    @functools.partial(jax.jit, static_argnums=0)
    def both(function, gradient, *arrays):
        value, pull = jax.vjp(function, *arrays)
        return value, pull(gradient)

    value, gradients = both(function, gradient, q, k, v)
    np.testing.assert_allclose(value, reference(q, k, v), atol=1e-5)
    plain = lambda *x: jax.nn.dot_product_attention(*x)  # noqa: E731
    _, expected = both(plain, gradient, q, k, v)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_looped_attention_in_bfloat16_and_under_vmap():
    q, k, v = (
        jnp.asarray(x, jnp.bfloat16)
        for x in np.random.default_rng(0).standard_normal((3, 2, 9, 2, 8))
    )
    assert looped_attention(q, k, v).dtype == jnp.bfloat16
    np.testing.assert_allclose(
        looped_attention(q, k, v).astype(np.float32), reference(q, k, v), atol=0.05
    )
    grad = jax.grad(lambda q: looped_attention(q, k, v).astype(jnp.float32).sum())(q)
    assert grad.dtype == jnp.bfloat16
    many = jax.vmap(looped_attention)(*(jnp.stack([x, 2 * x]) for x in (q, k, v)))
    np.testing.assert_allclose(many[0].astype(np.float32), reference(q, k, v), atol=0.05)


def test_one_cpu_device_takes_the_loop_for_long_sequences(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "looped_attention", lambda q, k, v: calls.append("looped") or q)
    monkeypatch.setattr(module, "matmul_attention", lambda q, k, v: calls.append("matmul") or q)
    for devices, seq in ((1, 200), (1, 65), (8, 200)):
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        attention(*[jnp.zeros((1, seq, 1, 8))] * 3)
    assert calls == ["looped", "matmul", "matmul"]


def test_the_choice_is_logged_once(monkeypatch, caplog):
    monkeypatch.setattr(module, "_logged", set())
    x = jnp.zeros((1, 2, 1, 8))
    with caplog.at_level(logging.INFO, "phenomjax"):
        attention(x, x, x)
        attention(x, x, x)
    assert [r.getMessage() for r in caplog.records] == [
        "attention: matmul (on a CPU explicit products are fastest)"
    ]


def test_choices_without_a_gpu():
    assert choose_attention("auto", jnp.bfloat16, 64)[0] == "matmul"
    assert choose_attention("xla", jnp.float32, 64) == ("xla", "asked for by model.attention")
    with pytest.raises(
        UserError,
        match=r"model\.attention is 'flash'; it can be auto, matmul, products, xla, cudnn",
    ):
        choose_attention("flash", jnp.float32, 64)
    with pytest.raises(
        UserError, match="cannot be honoured: it needs an NVIDIA GPU, and this program runs on cpu"
    ):
        choose_attention("cudnn", jnp.bfloat16, 64)


@pytest.mark.parametrize(
    "capability,dtype,head_dim,version,reason",
    [
        ("9.0", jnp.bfloat16, 64, "cuda 13", ""),
        ("9.0", jnp.bfloat16, 104, "cuda 13", ""),
        ("9.0", jnp.bfloat16, 256, "cuda 13", ""),
        ("8.0", jnp.bfloat16, 256, "cuda 13", "at most 128, and this model has 256"),
        ("8.0", jnp.bfloat16, 36, "cuda 13", "a multiple of 8"),
        ("7.5", jnp.float16, 64, "cuda 13", "8.0 or newer, and Tesla T4 has 7.5"),
        ("9.0", jnp.float32, 64, "cuda 13", "model.dtype gives float32"),
        ("9.0", jnp.bfloat16, 64, "rocm 7", "this one is not"),
    ],
)
def test_choices_on_a_gpu(monkeypatch, capability, dtype, head_dim, version, reason):
    client = types.SimpleNamespace(platform_version=version)
    device = types.SimpleNamespace(
        client=client, compute_capability=capability, device_kind="Tesla T4"
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    chosen, why = choose_attention("auto", dtype, head_dim)
    assert chosen == ("xla" if reason else "cudnn")
    assert reason in why
    if reason:
        with pytest.raises(UserError, match="cannot be honoured"):
            choose_attention("cudnn", dtype, head_dim)

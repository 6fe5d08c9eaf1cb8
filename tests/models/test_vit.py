"""Blocks against PyTorch modules written from their published description; scan, remat, drop path,
parameter counts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from phenomjax.models import vit
from phenomjax.system.errors import UserError

OPTIONS = {
    "num_heads": 3,
    "mlp_dim": 96,
    "qk_norm": True,
    "layer_scale": 0.5,
    "bias_order": "mlp",
    "norm_eps": 1e-6,
    "gelu": "exact",
    "attention": "auto",
    "dtype": jnp.dtype(jnp.float32),
}


def perturbed(params, seed=0):
    """Biases and scales away from their initial values, so that a misplaced one shows."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + 0.2 * random.standard_normal(x.shape, np.float32), nn.unbox(params)
    )


def make_block(kind, **changes):
    block = vit.BLOCKS[kind](**{**OPTIONS, **changes})
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 7, 24), np.float32))
    params = jax.jit(block.init)(jax.random.key(0), x, None)["params"]
    return block, perturbed(params), x


def apply(block, params, x, drop=None):
    """What the block makes of x, computed by one program."""
    return jax.jit(block.apply)({"params": params}, x, drop)[0]


def torch_norm(torch, params, x):
    weight, bias = (torch.tensor(np.array(params[name])) for name in ("scale", "bias"))
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)


def torch_attention(torch, q, k, v, out):
    q, k, v = (y.reshape(2, 7, 3, 8).transpose(1, 2) for y in (q, k, v))
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 7, 24)
    return y @ torch.tensor(np.array(out["kernel"]).reshape(24, 24)) + torch.tensor(
        np.array(out["bias"])
    )


@pytest.mark.torch
@pytest.mark.parametrize("order", ["mlp", "timm_legacy"])
def test_parallel_block_with_both_bias_orders(order):
    """One projection to (mlp, q, k, v): the new order adds the bias to the mlp, the old (zeros,
    bias) to everything.
    """
    torch = pytest.importorskip("torch")
    block, params, x = make_block("parallel", bias_order=order)
    p, t = params, torch.tensor(np.array(x))
    normed = torch_norm(torch, p["norm"], t)
    weight = np.concatenate(
        [p["mlp"]["in"]["kernel"], np.reshape(p["attention"]["qkv"]["kernel"], (24, 72))], axis=1
    )
    bias = np.array(p["bias"])
    zeros = np.zeros(72, np.float32)
    full = np.concatenate([bias, zeros] if order == "mlp" else [zeros, bias])
    hidden, q, k, v = (normed @ torch.tensor(weight) + torch.tensor(full)).split(
        [96, 24, 24, 24], dim=-1
    )
    q, k = (
        torch_norm(torch, p["attention"][name], y.reshape(2, 7, 3, 8)).reshape(2, 7, 24)
        for name, y in (("q_norm", q), ("k_norm", k))
    )
    y = torch_attention(torch, q, k, v, p["attention"]["out"])
    out = p["mlp"]["out"]
    y = (
        y
        + torch.nn.functional.gelu(hidden) @ torch.tensor(np.array(out["kernel"]))
        + torch.tensor(np.array(out["bias"]))
    )
    expected = t + torch.tensor(np.array(p["scale"]["gamma"])) * y
    np.testing.assert_allclose(apply(block, params, x), expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.torch
def test_prenorm_block():
    torch = pytest.importorskip("torch")
    block, p, x = make_block("prenorm", qk_norm=False, layer_scale=0.0)
    t = torch.tensor(np.array(x))

    def dense(params, y):
        kernel = np.array(params["kernel"]).reshape(y.shape[-1], -1)
        return y @ torch.tensor(kernel) + torch.tensor(np.array(params["bias"]).reshape(-1))

    q, k, v = dense(p["attention"]["qkv"], torch_norm(torch, p["norm1"], t)).split(24, dim=-1)
    t = t + torch_attention(torch, q, k, v, p["attention"]["out"])
    hidden = torch.nn.functional.gelu(dense(p["mlp"]["in"], torch_norm(torch, p["norm2"], t)))
    expected = t + dense(p["mlp"]["out"], hidden)
    np.testing.assert_allclose(apply(block, p, x), expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind,branches", [("parallel", 1), ("prenorm", 2)])
def test_drop_path_acts_on_rows(kind, branches):
    block, params, x = make_block(kind)
    kept = apply(block, params, x)
    y = apply(block, params, x, jnp.array([[0.0] * branches, [1.0] * branches]))
    np.testing.assert_array_equal(y[0], x[0])
    np.testing.assert_allclose(y[1], kept[1], rtol=1e-6)
    assert vit.BRANCHES[kind] == branches


@pytest.mark.parametrize("kind", ["parallel", "prenorm"])
def test_scan_and_remat_change_nothing(kind):
    """Equal losses and gradients over scan x remat, and the two layouts convert both ways without
    loss.
    """
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 7, 24), np.float32))
    drop = jnp.linspace(0.5, 1.5, 2 * 2 * vit.BRANCHES[kind]).reshape(2, 2, -1)

    def stack(scan, remat):
        return vit.BlockStack(block=kind, options=OPTIONS, depth=2, scan_layers=scan, remat=remat)

    params = perturbed(jax.jit(stack(False, "none").init)(jax.random.key(0), x, drop)["params"])
    scanned = vit.stack_layers(params)
    assert jax.tree.map(jnp.shape, scanned) == jax.tree.map(
        jnp.shape,
        nn.unbox(jax.eval_shape(stack(True, "none").init, jax.random.key(0), x, drop)["params"]),
    )
    jax.tree.map(np.testing.assert_array_equal, vit.unstack_layers(scanned), params)

    def result(scan, remat):
        module = stack(scan, remat)
        loss = jax.value_and_grad(lambda p: jnp.square(module.apply({"params": p}, x, drop)).mean())
        value, gradient = jax.jit(loss)(scanned if scan else params)
        return value, gradient if scan else vit.stack_layers(gradient)

    value, gradient = result(False, "none")
    cases = [(True, "none"), (True, "dots")]
    if kind == "parallel":  # what is kept for the way back is no matter of the block
        cases += [(False, "full"), (False, "dots"), (True, "full")]
    for scan, remat in cases:
        other, other_gradient = result(scan, remat)
        np.testing.assert_allclose(other, value, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            other_gradient,
            gradient,
        )


def test_stack_layers_keeps_the_channel_axis_first():
    params = {
        "channel_blocks": {f"layer_{i}": {"kernel": np.full((5, 2), i)} for i in range(3)},
        "norm": np.ones(2),
    }
    stacked = vit.stack_layers(params)
    assert stacked["channel_blocks"]["layers"]["kernel"].shape == (5, 3, 2)
    jax.tree.map(np.testing.assert_array_equal, vit.unstack_layers(stacked), params)


@pytest.mark.parametrize(
    "key,changes", [("block", {"block": "parallell"}), ("remat", {"remat": "some"})]
)
def test_unknown_choices(key, changes):
    stack = {
        "block": "parallel",
        "options": OPTIONS,
        "depth": 1,
        "scan_layers": False,
        "remat": "none",
        **changes,
    }
    with pytest.raises(UserError, match=rf"model\.{key} is '{changes[key]}'; it can be "):
        vit.BlockStack(**stack).init(jax.random.key(0), jnp.zeros((1, 2, 24)))


def test_bfloat16_stays_near_float32():
    block, params, x = make_block("parallel")
    half = vit.BLOCKS["parallel"](**{**OPTIONS, "dtype": jnp.dtype(jnp.bfloat16)})
    y = half.apply({"params": params}, jnp.asarray(x, jnp.bfloat16), None)[0]
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), apply(block, params, x), rtol=0.1, atol=0.1)

"""Layers: norms, products, patches, positions, masks and draws per row, against NumPy and against
plain autodiff.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from phenomjax.models import draws, layers
from phenomjax.models import patches as models_patches
from phenomjax.system.errors import UserError


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def test_layer_norm_is_two_pass_and_float32():
    x = normal(3, 16) + 300.0  # a one-pass variance loses this
    norm = layers.LayerNorm(1e-6, jnp.bfloat16)
    y = norm.apply({"params": {"scale": jnp.ones(16), "bias": jnp.zeros(16)}}, x)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(
        np.asarray(x, np.float64).var(-1, keepdims=True) + 1e-6
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), expected, atol=0.02)


@pytest.mark.parametrize(
    "shape,kernel,axes", [((2, 5, 8), (8, 3, 2, 4), 1), ((2, 5, 2, 4), (2, 4, 8), 2)]
)
def test_cpu_product_has_the_values_and_gradients_of_dot_general(shape, kernel, axes):
    x, w = normal(*shape), normal(*kernel, seed=1)

    def plain(x, w):
        return lax.dot_general(
            x, w, ((tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))), ((), ()))
        )

    @jax.jit
    def both(x, w):
        expected, pull = jax.vjp(plain, x, w)
        value, pull_ours = jax.vjp(lambda x, w: layers.product(x, w, axes), x, w)
        return value, expected, pull_ours(expected), pull(expected)

    value, expected, gradients, others = both(x, w)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, others, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["exact", "tanh"])
def test_gelu_and_its_gradient(kind):
    x = jnp.linspace(-6.0, 6.0, 101)
    np.testing.assert_allclose(
        layers.gelu(x, kind), jax.nn.gelu(x, approximate=kind == "tanh"), atol=1e-6
    )
    slope = jax.vmap(jax.grad(lambda x: layers.gelu(x, kind)))(x)
    expected = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=kind == "tanh")))(x)
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_compute_dtype():
    assert layers.compute_dtype("auto") == jnp.float32  # on a CPU
    assert layers.compute_dtype("bfloat16") == jnp.bfloat16
    with pytest.raises(
        UserError, match=r"model\.dtype is 'half'; it can be auto, float32 or bfloat16"
    ):
        layers.compute_dtype("half")


@pytest.mark.parametrize("dtype,levels", [(np.uint8, 256), (np.uint16, 4096)])
def test_self_standardise(dtype, levels):
    pixels = np.random.default_rng(0).integers(0, levels, (2, 8, 8, 3)).astype(dtype)
    pixels[0, :, :, 1] = 7  # an empty channel becomes 0, not noise
    x = pixels.astype(np.float64) / 255
    expected = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(
        models_patches.self_standardise(jnp.asarray(pixels)), expected, atol=1e-4
    )


@pytest.mark.parametrize("agnostic", [False, True])
def test_patchify_layout_and_inverse(agnostic):
    images = normal(2, 8, 12, 3)
    patches = models_patches.patchify(images, 4, agnostic)
    second = images[0, :4, 4:8]  # tokens go row by row
    if agnostic:
        assert patches.shape == (2, 18, 16)
        # channel-major tokens
        np.testing.assert_array_equal(patches[0, 6 + 1], np.asarray(second[..., 1]).ravel())
    else:
        assert patches.shape == (2, 6, 48)
        # the channel is fastest
        np.testing.assert_array_equal(patches[0, 1], np.asarray(second).ravel())
    np.testing.assert_array_equal(models_patches.unpatchify(patches, 8, 12, 3, 4, agnostic), images)


def test_sincos_positions_follow_the_formula():
    table = np.asarray(models_patches.sincos_positions(3, 5, 16))
    for y in range(3):
        for x in range(5):
            w = 10000.0 ** (-np.arange(4) / 4)
            expected = np.concatenate([np.sin(y * w), np.cos(y * w), np.sin(x * w), np.cos(x * w)])
            np.testing.assert_allclose(table[y * 5 + x], expected, atol=1e-6)
    # between the places of a grid: the middle of two tokens is that of the one they are parts of
    scaled = np.asarray(models_patches.sincos_positions(6, 5, 16, 3.0))
    between = [y / 2 - 0.25 for y in range(6)]
    np.testing.assert_allclose(scaled[::5, :4], np.sin(np.outer(between, w)), atol=1e-6)
    np.testing.assert_allclose(
        models_patches.sincos_positions(3, 3, 16, 3.0), models_patches.sincos_positions(3, 3, 16)
    )
    with pytest.raises(UserError, match="multiple of 4 for its position table, not 18"):
        models_patches.sincos_positions(2, 2, 18)


def test_draws_depend_on_the_row_alone():
    key = jax.random.key(3)
    whole = draws.uniform_rows(key, jnp.arange(6), (10,))
    np.testing.assert_array_equal(
        draws.uniform_rows(key, jnp.array([4, 1]), (10,)), whole[jnp.array([4, 1])]
    )
    assert len(np.unique(whole)) == 60


def test_drop_path_scales():
    scales = np.asarray(draws.drop_path_scales(jax.random.key(0), jnp.arange(4000), 0.4, 3, 2))
    assert scales.shape == (3, 4000, 2)
    assert (scales[0] == 1).all()  # the rate grows from 0
    np.testing.assert_allclose(np.unique(scales[2]), [0, 1 / 0.6], rtol=1e-6)
    np.testing.assert_allclose(scales.mean((1, 2)), 1.0, atol=0.05)  # unbiased
    y = draws.drop_path(jnp.ones((2, 3, 4)), jnp.array([0.0, 2.0]))
    assert (y[0] == 0).all() and (y[1] == 2).all()


def test_num_visible():
    assert (
        models_patches.num_visible(256, 0.75) == 64
        and models_patches.num_visible(1536, 0.75) == 384
    )
    start = r"model\.mask_ratio=.* tokens visible; some must be visible and some masked\. Choose "
    for tokens, ratio in ((16, 0.99), (16, 0.0), (3, 0.75)):
        with pytest.raises(UserError, match=start + "a ratio") as told:
            models_patches.num_visible(tokens, ratio)
        offered = re.search(r"--config\.model\.mask_ratio=([\d.]+),", str(told.value))
        assert models_patches.num_visible(tokens, float(offered[1])) > 0
    with pytest.raises(UserError, match=start + "a larger"):
        models_patches.num_visible(1, 0.75)


def test_permute_tokens_and_its_gradient():
    x, noise = normal(2, 7, 3), normal(2, 7, seed=1)
    order, restore = models_patches.token_order(noise)
    np.testing.assert_array_equal(order, np.argsort(noise, axis=1))
    y = models_patches.permute_tokens(x, order, restore)
    np.testing.assert_array_equal(y, np.take_along_axis(x, np.asarray(order)[..., None], 1))
    np.testing.assert_array_equal(models_patches.permute_tokens(y, restore, order), x)
    weight = normal(2, 7, 3, seed=2)
    ours = jax.grad(lambda x: (models_patches.permute_tokens(x, order, restore) * weight).sum())(x)
    plain = jax.grad(lambda x: (jnp.take_along_axis(x, order[..., None], 1) * weight).sum())(x)
    np.testing.assert_allclose(ours, plain, rtol=1e-6)


def test_dropout_depends_on_key_row_and_site_alone():
    keys = draws.row_keys(jax.random.key(0), jnp.arange(4))
    x = jnp.ones((4, 64, 32))
    y = draws.dropout(x, 0.25, keys, 1)
    np.testing.assert_array_equal(draws.dropout(x[2:], 0.25, keys[2:], 1), y[2:])
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(float((y == 0).mean()) - 0.25) < 0.02  # 8192 draws: 4 standard deviations
    assert (draws.dropout(x, 0.25, keys, 2) != y).any()
    assert draws.dropout(x, 0.0, keys, 1) is x and draws.dropout(x, 0.5, None, 1) is x

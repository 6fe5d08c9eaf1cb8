"""Masked autoencoders: parity with the published modules, what the encoder may see, and
channel-agnostic selection.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from phenomjax import config
from phenomjax.models import mae
from phenomjax.models import patches as models_patches
from phenomjax.models.mae_decoders import Masking
from tests.lab import parity_openphenom


def tiny(agnostic=False, channels=6, **changes):
    model = config.base().model
    model.channels = tuple(f"c{i}" for i in range(channels))
    model.update(
        embed_dim=24,
        depth=1,
        num_heads=3,
        patch_size=4,
        decoder_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    model.channel_agnostic = agnostic
    model.update(changes)
    return mae.build(model, jnp.dtype(jnp.float32))


def images(channels, size=16, rows=2):
    return jnp.asarray(
        np.random.default_rng(0).integers(0, 256, (rows, size, size, channels)), jnp.uint8
    )


def ids(*channels, rows=2):
    return jnp.tile(jnp.array(channels, jnp.int32), (rows, 1))


def initialised(module, pixels, channels, agnostic=False):
    tokens = 16 * (pixels.shape[3] if agnostic else 1)
    noise = jax.random.uniform(jax.random.key(1), (pixels.shape[0], tokens))
    init = jax.jit(module.init, static_argnums=4)
    params = nn.unbox(init(jax.random.key(0), pixels, channels, noise, tokens // 4)["params"])
    return {"params": params}, noise, tokens // 4


def compiled(module):
    """module.apply as one program; operation by operation it would be three hundred."""

    def apply(params, pixels, channels=None, noise=None, visible=None, drop=None, every=False):
        return module.apply(params, pixels, channels, noise, visible, drop, every)

    return jax.jit(apply, static_argnums=(4, 6))


def compiled_method(module, method):
    return jax.jit(lambda params, *arrays: module.apply(params, *arrays, method=method))


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["mae_tiny", "camae_tiny"])
def test_parity_with_the_published_modules(shared, name, capsys, monkeypatch):
    path = shared / "microscopy" / "parity" / f"{name}.npz"
    errors = parity_openphenom.compare(path)
    assert len(errors) >= 16 and max(errors.values()) < 1e-5, errors
    monkeypatch.setattr(parity_openphenom, "compare", lambda path: errors)
    assert parity_openphenom.main([str(path)]) == 0
    assert "largest relative error" in capsys.readouterr().out


@pytest.mark.shared_data
def test_parity_fails_with_the_other_bias_order(shared, monkeypatch):
    monkeypatch.setattr(parity_openphenom, "_version", lambda text: (1, 0, 25))
    path = shared / "microscopy" / "parity" / "mae_tiny.npz"
    errors = parity_openphenom.compare(path)
    assert errors["features"] > 1e-2
    monkeypatch.setattr(parity_openphenom, "compare", lambda path: errors)
    assert parity_openphenom.main([str(path)]) == 1


@pytest.mark.parametrize("agnostic", [False, True])
def test_masked_prediction_is_the_masked_part_of_the_full_one(agnostic):
    module, pixels, channels = tiny(agnostic), images(6), ids(*range(6))
    params, noise, visible = initialised(module, pixels, channels, agnostic)
    apply = compiled(module)
    some = apply(params, pixels, channels, noise, visible)
    everything = apply(params, pixels, channels, noise, visible, None, True)
    hidden = everything.masking.order[:, visible:]
    np.testing.assert_allclose(
        some.prediction, models_patches.take_tokens(everything.prediction, hidden), atol=1e-5
    )
    np.testing.assert_array_equal(
        some.target, models_patches.take_tokens(everything.target, hidden)
    )
    np.testing.assert_array_equal(everything.target, module.apply(params, pixels, method="patches"))


@pytest.mark.parametrize("agnostic", [False, True])
def test_the_encoder_sees_visible_patches_only(agnostic, monkeypatch):
    module, pixels, channels = tiny(agnostic, depth=2, decoder_depth=2), images(6), ids(*range(6))
    params, noise, visible = initialised(module, pixels, channels, agnostic)
    # else every pixel moves the mean
    monkeypatch.setattr(models_patches, "self_standardise", lambda x: x / 255.0)
    apply = compiled(module)
    before = apply(params, jnp.asarray(pixels), channels, noise, visible)
    patches = models_patches.patchify(jnp.asarray(pixels), 4, agnostic)
    hidden = before.masking.mask[..., None] == 1
    changed = models_patches.unpatchify(
        jnp.where(hidden, 255 - patches, patches), 16, 16, 6, 4, agnostic
    )
    after = apply(params, changed, channels, noise, visible)
    np.testing.assert_array_equal(before.prediction, after.prediction)
    assert not np.allclose(before.target, after.target)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("channels", [1, 12])
def test_any_number_of_channels(agnostic, channels):
    """Nothing is computed, of which shapes are no part."""
    module, pixels, numbers = tiny(agnostic, channels), images(channels), ids(*range(channels))

    def shapes():
        params, noise, visible = initialised(module, pixels, numbers, agnostic)
        out = compiled(module)(params, pixels, numbers, noise, visible)
        return out.prediction, out.target, compiled_method(module, "tokens")(params, pixels)

    prediction, target, tokens = jax.eval_shape(shapes)
    assert (
        prediction.shape
        == target.shape
        == ((2, 12 * channels, 16) if agnostic else (2, 12, 16 * channels))
    )
    assert tokens.shape == (2, 1 + 16 * (channels if agnostic else 1), 24)


def test_channel_ids_pick_the_decoder_and_the_order_of_channels_does_not_matter():
    """Channels moved with their ids and masks give the same predictions, moved likewise."""
    module, pixels = tiny(True, channels=5), images(3)
    params, noise, visible = initialised(module, pixels, ids(4, 0, 2), agnostic=True)
    apply = compiled(module)
    straight = apply(params, pixels, ids(4, 0, 2), noise, visible, None, True).prediction.reshape(
        2, 3, 16, 16
    )
    turn = np.array([2, 0, 1])
    turned_noise = noise.reshape(2, 3, 16)[:, turn].reshape(2, -1)
    turned = apply(
        params, pixels[..., turn], ids(2, 4, 0), turned_noise, visible, None, True
    ).prediction
    np.testing.assert_allclose(turned.reshape(2, 3, 16, 16), straight[:, turn], atol=1e-5)
    other = apply(params, pixels, ids(4, 0, 3), noise, visible, None, True).prediction.reshape(
        2, 3, 16, 16
    )
    assert np.abs(other[:, 2] - straight[:, 2]).max() > 0.1  # another channel's decoder


def test_the_encoder_has_no_channel_identity():
    module, pixels = tiny(True), images(3)
    params, _, _ = initialised(module, pixels, ids(0, 1, 2), agnostic=True)
    encode = compiled_method(module, "tokens")
    tokens = encode(params, pixels)[:, 1:].reshape(2, 3, 16, 24)
    turn = np.array([1, 2, 0])
    turned = encode(params, pixels[..., turn])[:, 1:].reshape(2, 3, 16, 24)
    np.testing.assert_allclose(turned, tokens[:, turn], atol=1e-5)


def test_without_a_class_token():
    module, pixels, channels = tiny(class_token=False), images(6), ids(*range(6))

    def shapes():
        params, noise, visible = initialised(module, pixels, channels)
        masking = Masking(*models_patches.token_order(noise), visible)
        latent = module.apply(params, pixels, masking, method="latent")
        return latent, compiled(module)(params, pixels, channels, noise, visible).prediction

    latent, prediction = jax.eval_shape(shapes)
    assert (latent.shape, prediction.shape) == ((2, 4, 24), (2, 12, 96))


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def abstract(dim, depth, heads, patch, agnostic=False, mlp_ratio=4.0, scan=True, **decoder):
    module = tiny(
        agnostic,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        patch_size=patch,
        mlp_ratio=mlp_ratio,
        scan_layers=scan,
        **{"decoder_dim": 512, "decoder_depth": 8, "decoder_num_heads": 16, **decoder},
    )
    pixels, tokens = jnp.zeros((1, 4 * patch, 4 * patch, 6), jnp.uint8), 16 * (6 if agnostic else 1)
    init = lambda: module.init(  # noqa: E731
        jax.random.key(0), pixels, ids(*range(6), rows=1), jnp.zeros((1, tokens)), tokens // 4
    )
    params = nn.unbox(jax.eval_shape(init))["params"]
    decoder = {k: v for k, v in params["decoder"].items() if k not in ("embed", "predict")}
    return (
        count((params["encoder"], params["norm"])) / 1e6,
        count(decoder) / 1e6,
        count(params) / 1e6,
    )


@pytest.mark.parametrize(
    "dim,depth,heads,patch,millions",
    [
        (384, 12, 6, 16, 21.87),
        (768, 12, 12, 16, 86.20),
        (768, 12, 12, 8, 85.32),
        (1024, 24, 16, 16, 303.79),
        (1024, 24, 16, 8, 302.61),
    ],
)
def test_parameter_counts_of_the_published_encoders(dim, depth, heads, patch, millions):
    encoder, decoder, _ = abstract(dim, depth, heads, patch)
    assert (round(encoder, 2), round(decoder, 2)) == (millions, 25.22)


def test_parameter_count_of_vit_g():
    """1664 x 48 with ViT-G's hidden width 8192; its heads are not published, 16 as in ViT-G/14.
    Published: 1 860 M.
    """
    encoder, _, total = abstract(1664, 48, 16, 8, mlp_ratio=64 / 13)
    assert round(encoder) == 1842 and abs(total / 1860 - 1) < 0.01


def test_parameter_counts_of_the_channel_agnostic_model():
    assert [round(x, 2) for x in abstract(384, 12, 6, 16, agnostic=True)] == [21.38, 154.47, 176.18]
    small = abstract(
        384, 12, 6, 16, agnostic=True, decoder_dim=256, decoder_depth=2, decoder_num_heads=8
    )
    assert round(small[1], 2) == 10.27

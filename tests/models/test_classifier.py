"""Neck, heads, losses and CutMix of weakly supervised models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax.models import classifier
from phenomjax.models.batch_norm import Statistics

RANDOM = np.random.default_rng(5)
cutmix = jax.jit(classifier.cutmix, static_argnums=(2, 3))


@pytest.mark.torch
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_pytorch_and_skips_unknown_labels(smoothing):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    logits, label = RANDOM.normal(size=(6, 5)).astype(np.float32), np.array([0, 4, 2, 2, 1, 3])
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(label), label_smoothing=smoothing, reduction="none"
    )
    found = classifier.cross_entropy(jnp.asarray(logits), jnp.asarray(label), smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    unknown = classifier.cross_entropy(jnp.asarray(logits), jnp.full(6, -1), smoothing)
    np.testing.assert_array_equal(unknown, np.zeros(6))


def test_arcface_is_the_article_s_equation_and_falls_with_the_angle():
    """Equation 3 by angles; beyond a half turn less the margin, the straight continuation."""
    scale, margin, angles = 30.0, 0.5, np.linspace(0.02, np.pi - 0.02, 40)
    cosine = np.stack([np.cos(angles), np.full(40, 0.3), np.full(40, -0.7)], axis=1)
    own = np.where(
        angles + margin < np.pi, np.cos(angles + margin), np.cos(angles) - margin * np.sin(margin)
    )
    label = jnp.zeros(40, jnp.int32)
    found = np.asarray(classifier.with_margin(jnp.asarray(cosine), label, scale, margin))
    np.testing.assert_allclose(found[:, 0], scale * own, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[:, 1:], scale * cosine[:, 1:], rtol=1e-6)
    assert (np.diff(found[:, 0]) < 0).all()
    # exactly towards its class and away from it, where a root has no slope
    slope = jax.grad(lambda c: classifier.with_margin(c, jnp.zeros(2, jnp.int32), 30.0, 0.5).sum())
    assert np.isfinite(slope(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))).all()


def test_a_head_without_softmax_predicts_by_the_cosine():
    head = classifier.Head(4, softmax=False, arcface=True)
    x = jnp.asarray(RANDOM.normal(size=(3, 6)), jnp.float32).at[2].set(0.0)
    params = head.init(jax.random.key(0), x)["params"]
    assert set(params) == {"arcface_kernel"}
    kernel = params["arcface_kernel"].value
    found = head.apply({"params": {"arcface_kernel": kernel}}, x)
    assert found.softmax is None
    for row, vector in zip(np.asarray(found.best[:2]), np.asarray(x[:2]), strict=True):
        lengths = np.linalg.norm(kernel, axis=0) * np.linalg.norm(vector)
        np.testing.assert_allclose(row, vector @ kernel / lengths, rtol=1e-5)
    np.testing.assert_array_equal(found.best[2], np.zeros(4))  # and no division by its length


@pytest.mark.parametrize("parts", [1, 2])
def test_cutmix_takes_one_box_of_the_partner_and_counts_its_pixels(parts):
    height, width, rows = 12, 20, 8
    place = np.arange(height * width).reshape(height, width)
    # channel 0 says whose pixel it is, channel 1 where it was
    pictures = np.stack(
        [np.stack([np.full_like(place, row), place], -1) for row in range(rows)]
    ).astype(np.float32)
    keys = jax.vmap(lambda r: jax.random.fold_in(jax.random.key(3), r))(jnp.arange(rows))
    mixed, share = cutmix(jnp.asarray(pictures), keys, 1.0, parts)
    other = np.asarray(classifier.partners(jnp.arange(rows), parts))
    assert (other[other] == np.arange(rows)).all() and (other % parts == np.arange(8) % parts).all()
    assert len(set(np.round(np.asarray(share), 4))) > 4
    for row, picture in enumerate(np.asarray(mixed)):
        np.testing.assert_array_equal(picture[..., 1], place)  # at the same place
        box = picture[..., 0] == other[row]
        assert (picture[..., 0][~box] == row).all()
        assert float(share[row]) == pytest.approx(1 - box.mean(), abs=1e-6)
        ys, xs = np.nonzero(box)
        if len(ys):
            assert box[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].all()
    # what a row draws depends on its key alone
    turned = cutmix(jnp.asarray(pictures[::-1]), keys[::-1], 1.0, parts)
    np.testing.assert_array_equal(turned.share[::-1], share)


def test_shares_of_cutmix_are_of_the_beta_distribution():
    """Beta(a, a) with a large a is a half, of which the border may cut some off."""
    keys = jax.random.split(jax.random.key(0), 200)
    share = cutmix(jnp.zeros((200, 32, 32, 1)), keys, 1e4, 1).share
    # edges are whole pixels
    assert share.min() == pytest.approx(0.5, abs=0.04) and share.max() > 0.6
    uncut = cutmix(jnp.zeros((200, 32, 32, 1)), keys, 1e-3, 1).share
    assert ((uncut < 0.8) | (uncut > 0.999)).mean() > 0.95  # near 0 or 1


def test_pixels_without_standardisation_are_shares_of_their_type():
    for dtype, largest in ((np.uint8, 255), (np.uint16, 65535)):
        pixels = jnp.full((1, 4, 4, 1), largest, dtype)
        assert (classifier.standardised(pixels, "none") == 1.0).all()
    np.testing.assert_array_equal(classifier.standardised(pixels, "image"), np.zeros((1, 4, 4, 1)))


def test_the_neck_is_norm_dense_relu_norm_dense_norm():
    """Against its definition, by the statistics of the batch."""
    neck = classifier.Neck(6, {"momentum": 0.9, "epsilon": 1e-5}, jnp.float32)
    x = jnp.asarray(RANDOM.normal(2.0, 3.0, size=(16, 5)), jnp.float32)
    variables = jax.jit(lambda: neck.init(jax.random.key(1), x, Statistics()))()
    params = jax.tree.map(
        lambda p: p.value, variables["params"], is_leaf=lambda p: hasattr(p, "value")
    )
    stats = {"batch_stats": variables["batch_stats"]}
    found = jax.jit(lambda x: neck.apply({"params": params, **stats}, x, Statistics(parts=1)))(x)

    def norm(values):
        return (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5)

    expected = norm(np.asarray(x, np.float64))
    expected = np.maximum(expected @ params["dense_0"]["kernel"] + params["dense_0"]["bias"], 0)
    expected = norm(norm(expected) @ params["dense_1"]["kernel"])
    np.testing.assert_allclose(found, expected, atol=1e-3)

"""Losses against NumPy's FFT and plain formulas; gradients stay finite where amplitudes vanish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax.models import losses, patches
from phenomjax.system.errors import UserError

fourier_patch = jax.jit(losses.fourier_patch, static_argnums=2)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("size", [4, 5, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_fourier_patch_is_the_mean_over_the_whole_spectrum(size, channels):
    prediction, target = (
        normal(2, 6, size * size * channels),
        normal(2, 6, size * size * channels, seed=1),
    )

    def amplitude(x):
        return np.abs(
            np.fft.fft2(np.asarray(x, np.float64).reshape(2, 6, size, size, channels), axes=(2, 3))
        )

    expected = np.abs(amplitude(prediction) - amplitude(target)).mean((1, 2, 3, 4))
    np.testing.assert_allclose(fourier_patch(prediction, target, channels), expected, rtol=1e-5)


def test_fourier_image_and_legacy_agree_with_numpy():
    images, others = normal(2, 16, 16, 3), normal(2, 16, 16, 3, seed=1)
    expected = np.abs(
        np.abs(np.fft.fft2(images, axes=(1, 2))) - np.abs(np.fft.fft2(others, axes=(1, 2)))
    )
    np.testing.assert_allclose(
        jax.jit(losses.fourier_image)(images, others), expected.mean((1, 2, 3)), rtol=1e-4
    )
    # Patch 4 at 16 px: as many pixels in a patch as patches in a channel, so the legacy view is a
    # patch again.
    x, y = (patches.patchify(z, 4, True) for z in (images, others))
    mask = jnp.asarray(np.random.default_rng(2).random((2, 48)) < 0.7, jnp.float32)
    legacy = jax.jit(losses.fourier_legacy, static_argnums=3)(x, y, mask, 3)
    for row in range(2):
        hidden = np.flatnonzero(mask[row])
        np.testing.assert_allclose(
            legacy[row],
            fourier_patch(x[row : row + 1, hidden], y[row : row + 1, hidden], 1)[0],
            rtol=1e-5,
        )
    with pytest.raises(
        UserError, match="needs a square number of tokens in a channel, and this crop has 48"
    ):
        losses.fourier_legacy(x, y, mask, 1)


def test_gradient_is_finite_at_zero_amplitude():
    target, zero = normal(1, 4, 16), jnp.zeros((1, 4, 16))
    for loss in (
        lambda p: losses.fourier_patch(p, target, 1).sum(),
        lambda p: losses.fourier_image(p.reshape(1, 8, 8, 1), target.reshape(1, 8, 8, 1)).sum(),
        lambda p: losses.fourier_legacy(p, target, jnp.ones((1, 4)), 1).sum(),
    ):
        assert np.isfinite(jax.jit(jax.grad(loss))(zero)).all()


def test_squared_error_and_patch_normalisation():
    prediction, target = normal(2, 3, 8), 5 * normal(2, 3, 8, seed=1) + 2
    np.testing.assert_allclose(
        losses.squared_error(prediction, target),
        ((prediction - target) ** 2).mean((1, 2)),
        rtol=1e-5,
    )
    normalised = np.asarray(losses.normalise_patches(target))
    np.testing.assert_allclose(normalised.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.var(-1, ddof=1), 1, atol=1e-4)

"""Losses of masked autoencoders: squared error of patches, and the L1 distance of Fourier
amplitudes. All float32.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from phenomjax.system.errors import UserError


def normalise_patches(target: Float[Array, "batch seq patch"]) -> Float[Array, "batch seq patch"]:
    """Each patch to mean 0 and variance 1 (unbiased variance, epsilon 1e-6), the `norm_pix_loss` of
    MAE.
    """
    centred = target - target.mean(-1, keepdims=True)
    return centred * lax.rsqrt(jnp.var(target, -1, keepdims=True, ddof=1) + 1e-6)


def squared_error(
    prediction: Float[Array, "batch seq patch"], target: Float[Array, "batch seq patch"]
) -> Float[Array, " batch"]:
    """Mean squared error of each row over its (masked) patches."""
    return jnp.square(prediction - target).mean((1, 2))


def fourier_patch(
    prediction: Float[Array, "batch seq patch"],
    target: Float[Array, "batch seq patch"],
    channels: int,
) -> Float[Array, " batch"]:
    """Mean |amplitude difference| of the 2-D spectra of single patches and channels, per row.

    One product with the Kronecker DFT matrix of a patch, over half the spectrum (the other half
    mirrors it).

    Args:
      prediction: patches of p * p * channels numbers, the channel fastest.
      target: likewise.
      channels: channels in a patch; 1 for channel-agnostic tokens.
    """
    matrix, weights = half_dft(math.isqrt(target.shape[-1] // channels))
    difference = jnp.abs(
        _amplitudes(prediction, matrix, channels) - _amplitudes(target, matrix, channels)
    )
    return (difference.mean((1, 2)) * weights).sum(-1)


def _amplitudes(
    patches: Float[Array, "batch seq patch"],
    matrix: Float[np.ndarray, "pixels parts"],
    channels: int,
) -> Float[Array, "batch seq channel frequency"]:
    batch, seq, _ = patches.shape
    pixels = (
        patches.reshape(batch, seq, -1, channels).swapaxes(2, 3).reshape(batch, seq * channels, -1)
    )
    # TF32 alone would cost three digits on a GPU
    parts = jnp.matmul(pixels, matrix, precision=lax.Precision.HIGH)
    real, imaginary = jnp.split(parts, 2, axis=-1)
    return _root(jnp.square(real) + jnp.square(imaginary)).reshape(batch, seq, channels, -1)


def _root(power: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Square root with gradient 0 at 0, as other frameworks give a complex number's modulus."""
    return jnp.sqrt(jnp.maximum(power, 1e-24))


def half_dft(
    size: int,
) -> tuple[Float[np.ndarray, "pixels parts"], Float[np.ndarray, " frequencies"]]:
    """Matrix of the 2-D DFT of a square patch, and how often each of its frequencies stands in the
    whole spectrum.

    Returns:
      matrix: (size * size, 2 * size * (size // 2 + 1)) float32, real parts then imaginary parts,
        pixels and frequencies row by row.
      weights: (size * (size // 2 + 1),) float32 that sum to 1: a weighted sum over the half is the
        mean over the whole.
    """
    half = size // 2 + 1
    angles = -2.0 * np.pi * np.outer(np.arange(size), np.arange(size)) / size
    full = np.exp(1j * angles)
    matrix = np.kron(full, full[:, :half])
    doubled = np.full(half, 2.0)
    doubled[0] = 1.0
    if size % 2 == 0:
        doubled[-1] = 1.0
    weights = np.tile(doubled, size) / size**2
    return np.concatenate([matrix.real, matrix.imag], axis=1).astype(np.float32), weights.astype(
        np.float32
    )


def fourier_image(
    prediction: Float[Array, "batch height width channel"],
    target: Float[Array, "batch height width channel"],
) -> Float[Array, " batch"]:
    """Mean |amplitude difference| of the 2-D spectra of whole images, per row; all tokens count,
    masked or not.
    """
    return jnp.abs(_fft_amplitude(prediction, (1, 2)) - _fft_amplitude(target, (1, 2))).mean(
        (1, 2, 3)
    )


def fourier_legacy(
    prediction: Float[Array, "batch seq patch"],
    target: Float[Array, "batch seq patch"],
    mask: Float[Array, "batch seq"],
    channels: int,
) -> Float[Array, " batch"]:
    """The published code's view of the tokens: square tiles of as many numbers as there are tokens
    in a channel.

    A tile is a patch only for channel-agnostic tokens with as many pixels in a patch as patches in
    a channel (patch 16 at 256 px); elsewhere it mixes pieces of several patches. Kept to repeat
    published objectives.

    Args:
      prediction: all tokens in their natural order.
      target: likewise.
      mask: 1 where a token was masked; only those count.
      channels: channels stacked along `seq`: C for channel-agnostic tokens, else 1.
    """
    batch, seq, patch = target.shape
    side = math.isqrt(seq // channels)
    if side * side != seq // channels:
        raise UserError(
            "model.fourier_mode=legacy needs a square number of tokens in a channel, and this crop"
            f" has {seq // channels}. Use a square data.crop_size, or"
            " --config.model.fourier_mode=patch."
        )
    tiles = (batch, seq * patch // side**2, side, side)
    difference = _fft_amplitude(prediction.reshape(tiles), (2, 3)) - _fft_amplitude(
        target.reshape(tiles), (2, 3)
    )
    error = jnp.abs(difference).reshape(batch, seq, patch).mean(-1)
    return (error * mask).sum(1) / mask.sum(1)


def _fft_amplitude(x: Float[Array, "*axes"], axes: tuple[int, int]) -> Float[Array, "*axes"]:
    spectrum = jnp.fft.fft2(x, axes=axes)
    return _root(jnp.square(spectrum.real) + jnp.square(spectrum.imag))

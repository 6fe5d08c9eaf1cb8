"""Patches and their order: images to tokens and back, positions, masks by permutation."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num, Shaped

from phenomjax.system.errors import UserError


def self_standardise(
    pixels: Num[Array, "batch height width channel"], epsilon: float = 1e-5
) -> Float[Array, "batch height width channel"]:
    """Each image and channel to mean 0 and variance 1, in float32 (biased variance, after division
    by 255).

    16-bit pixels are divided by 255 too: the only trace of that number in the result is `epsilon`,
    which so stays a floor of 0.8 grey levels (or camera counts) whatever the bit depth.
    """
    # In grey levels, whose sum is exact in any order for 8-bit crops up to 256 px. Of a dim
    # channel, rounding of the mean would be the largest difference between two runtimes.
    images = pixels.astype(jnp.float32)
    images = images - images.mean((1, 2), keepdims=True)
    return images * lax.rsqrt(jnp.square(images).mean((1, 2), keepdims=True) + epsilon * 255.0**2)


def patchify(
    images: Num[Array, "batch height width channel"],
    patch_size: int,
    channel_agnostic: bool = False,
) -> Num[Array, "batch seq patch"]:
    """Cuts images into patches, tokens row by row.

    Returns:
      (batch, H/p * W/p, p * p * C), the channel fastest; or, channel-agnostic, (batch, C * H/p *
      W/p, p * p): all tokens of the first channel, then of the second, and so on.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    x = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    if channel_agnostic:
        return x.transpose(0, 5, 1, 3, 2, 4).reshape(
            batch, channels * rows * columns, patch_size**2
        )
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, patch_size**2 * channels)


def unpatchify(
    patches: Shaped[Array, "batch seq patch"],
    height: int,
    width: int,
    channels: int,
    patch_size: int,
    channel_agnostic: bool = False,
) -> Shaped[Array, "batch height width channel"]:
    """The inverse of `patchify`."""
    batch, rows, columns = patches.shape[0], height // patch_size, width // patch_size
    if channel_agnostic:
        x = patches.reshape(batch, channels, rows, columns, patch_size, patch_size).transpose(
            0, 2, 4, 3, 5, 1
        )
    else:
        x = patches.reshape(batch, rows, columns, patch_size, patch_size, channels).transpose(
            0, 1, 3, 2, 4, 5
        )
    return x.reshape(batch, height, width, channels)


def places(count: int, grid: float = 0.0) -> Float[np.ndarray, " count"]:
    """Where tokens along an axis are: 0, 1, 2, …, or with a `grid` between the places of that many
    tokens, their field divided anew: (i + 1/2) grid / count - 1/2, as the pixels of an image that
    is resized.
    """
    own = np.arange(count, dtype=np.float64)
    return (own + 0.5) * (grid / count) - 0.5 if grid else own


def sincos_positions(
    rows: int, columns: int, dim: int, grid: float = 0.0
) -> Float[Array, "seq embed"]:
    """The fixed two-dimensional position table, tokens row by row; `grid`: see `places`.

    `[sin(y w_k), cos(y w_k), sin(x w_k), cos(x w_k)]` with `w_k = 10000^(-k / (dim/4))`, k = 0 ..
    dim/4 - 1. The row comes first and the exponent's denominator is dim/4: other codes differ in
    both, and their tables do not fit.
    """
    if dim % 4:
        raise UserError(
            "The width of an encoder or decoder must be a multiple of 4 for its position table,"
            f" not {dim}."
        )
    frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim / 4))

    def table(count: int) -> Array:
        angles = places(count, grid)[:, None] * frequencies
        return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), jnp.float32)

    y = jnp.broadcast_to(table(rows)[:, None], (rows, columns, dim // 2))
    x = jnp.broadcast_to(table(columns)[None], (rows, columns, dim // 2))
    return jnp.concatenate([y, x], axis=-1).reshape(rows * columns, dim)


def num_visible(tokens: int, mask_ratio: float) -> int:
    """How many tokens the encoder sees: int(tokens * (1 - mask_ratio)), at least one, and at least
    one is masked.

    Raises:
      UserError: the ratio leaves nothing to see or nothing to predict.
    """
    visible = int(tokens * (1.0 - mask_ratio))
    if not 0 < visible < tokens:
        fitting = [one for one in (0.75, 0.5) if 0 < int(tokens * (1.0 - one)) < tokens]
        ratio = f"a ratio such as --config.model.mask_ratio={fitting[0]}, or " if fitting else ""
        raise UserError(
            f"model.mask_ratio={mask_ratio} leaves {visible} of {tokens} tokens visible; some must"
            f" be visible and some masked. Choose {ratio}a larger data.crop_size."
        )
    return visible


def token_order(
    noise: Float[Array, "batch seq"],
) -> tuple[Int[Array, "batch seq"], Int[Array, "batch seq"]]:
    """Random order of the tokens, visible ones first, and its inverse.

    Returns:
      order: order[b, i] is the token at place i; the first `num_visible` places are seen.
      restore: restore[b, j] is the place of token j.
    """
    order = jnp.argsort(noise, axis=1)
    return order, jnp.argsort(order, axis=1)


@jax.custom_vjp
def permute_tokens(
    x: Num[Array, "batch seq feature"],
    order: Int[Array, "batch seq"],
    inverse: Int[Array, "batch seq"],
) -> Num[Array, "batch seq feature"]:
    """x[b, order[b, i]] for a permutation; the gradient is again a gather (by `inverse`), where XLA
    would scatter.
    """
    return take_tokens(x, order)


def take_tokens(
    x: Num[Array, "batch seq feature"], places: Int[Array, "batch taken"]
) -> Num[Array, "batch taken feature"]:
    """x[b, places[b, i]], whole rows at a time."""
    return jax.vmap(lambda row, place: row.at[place].get(mode="promise_in_bounds"))(x, places)


def _permute_forward(x: Array, order: Array, inverse: Array) -> tuple[Array, Array]:
    return take_tokens(x, order), inverse


def _permute_backward(inverse: Array, gradient: Array) -> tuple[Array, None, None]:
    return take_tokens(gradient, inverse), None, None


permute_tokens.defvjp(_permute_forward, _permute_backward)

"""Random draws by row: each depends on (key, row) alone, never on who else is in the batch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

Rows = Integer[Array, " batch"]  # their numbers in the global batch


def drop_path(
    y: Float[Array, "batch *axes"], scale: Float[Array, " batch"] | None
) -> Float[Array, "batch *axes"]:
    """Stochastic depth: multiplies each row's branch by its scale (0, or 1 / kept share); None
    leaves it alone.
    """
    return y if scale is None else y * scale.reshape(-1, *[1] * (y.ndim - 1)).astype(y.dtype)


def uniform_rows(key: Key[Array, ""], row: Rows, shape: Sequence[int]) -> Float[Array, "batch ..."]:
    """Uniform numbers in [0, 1) that depend on (key, row) alone, not on who else is in the batch or
    where it runs.
    """
    return jax.vmap(lambda r: jax.random.uniform(jax.random.fold_in(key, r), tuple(shape)))(row)


def drop_path_scales(
    key: Key[Array, ""], row: Rows, rate: float, depth: int, branches: int
) -> Float[Array, "depth batch branches"]:
    """Scales for `drop_path` of every layer: the rate grows linearly from 0 in the first layer to
    `rate` in the last.
    """
    rates = jnp.linspace(0.0, rate, depth)[:, None]
    kept = uniform_rows(key, row, (depth, branches)) >= rates
    return (kept / (1.0 - rates)).transpose(1, 0, 2)


def row_keys(key: Key[Array, ""], row: Rows) -> Key[Array, " batch"]:
    """One key a row (batch,), for draws that depend on (key, row) alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, row)


def dropout(
    x: Float[Array, "batch *axes"],
    rate: float,
    keys: Key[Array, " batch"] | None,
    site: int | Integer[Array, ""],
) -> Float[Array, "batch *axes"]:
    """Dropout whose mask depends on (key of the row, site) alone.

    Args:
      x: (batch, …).
      rate: share of zeros, to within 1 / 65536.
      keys: of `row_keys`, or None: nothing is dropped.
      site: a number that no other use with these keys has.
    """
    if keys is None or not rate:
        return x
    # 16 random bits are enough, and half the work of a uniform number.
    bits = jax.vmap(
        lambda key: jax.random.bits(jax.random.fold_in(key, site), x.shape[1:], jnp.uint16)
    )(keys)
    return jnp.where(bits >= round(rate * 65536), x * (1.0 / (1.0 - rate)), 0).astype(x.dtype)

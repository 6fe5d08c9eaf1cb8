"""Attention with relative positions as in Transformer-XL (Dai et al. 2019, https://arxiv.org/abs/1901.02860, section 3.3)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from phenomjax.models.attention import choose_attention


def sinusoids(positions: Float[Array, " seq"] | Int[Array, " seq"], dim: int) -> Float[Array, "seq dim"]:
    """Sines, then cosines, of positions at `dim` / 2 frequencies 1 / 10000^(2i / dim); float32."""
    frequencies = 1.0 / 10000.0 ** (jnp.arange(0, dim, 2) / dim)
    angles = positions.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def relative_shift(scores: Float[Array, "... queries keys"]) -> Float[Array, "... queries keys"]:
    """Moves row i left by `queries - 1 - i`, so that column j holds the score of the distance from query i to key j.

    Column c of the input belongs to distance keys - 1 - c. What comes in at the upper right is garbage from the next row, which the
    causal mask hides. Padding and two reshapes (Dai et al., appendix B) are cheaper than a gather, in both directions.
    """
    *batch, queries, keys = scores.shape
    padded = jnp.pad(scores, [*[(0, 0)] * len(batch), (0, 0), (1, 0)])
    return padded.reshape(*batch, keys + 1, queries)[..., 1:, :].reshape(*batch, queries, keys)


def causal_mask(
    queries: int, memory: int, valid: Int[Array, " batch"], same_length: str, mem_len: int
) -> Bool[Array, "batch 1 queries keys"]:
    """Which keys (`memory` places, then the queries' own) each query sees: itself and what came before.

    Args:
      valid: how many places at the end of the memory hold something.
      same_length: "none" = all of the past; "kimiyoung" = the last mem_len keys, itself included, as the original code does with a
        full memory; "nvidia" = one more, as NVIDIA's code does.
      mem_len: length that `same_length` counts with.
    """
    distance = jnp.arange(queries)[:, None] + memory - jnp.arange(memory + queries)
    limit = {"none": memory + queries, "kimiyoung": mem_len, "nvidia": mem_len + 1}[same_length]
    past = (distance >= 0) & (distance < limit)
    filled = jnp.arange(memory + queries) >= memory - valid[:, None]
    return past & filled[:, None, None, :]


def relative_attention(
    query: Array,
    key: Array,
    value: Array,
    position: Array,
    content_bias: Array,
    position_bias: Array,
    mask: Array,
    implementation: str = "auto",
    weight_dropout: tuple[float, Array] | None = None,
) -> Array:
    """softmax(((q + u) k^T + shift((q + v) r^T)) / sqrt(kv)) v; the softmax is float32.

    Args:
      query: (batch, queries, heads, kv).
      key: (batch, keys, heads, kv), memory first.
      value: like `key`.
      position: (keys, heads, kv): r, the projected position of distances keys - 1 … 0.
      content_bias: (heads, kv): u.
      position_bias: (heads, kv): v.
      mask: (batch, 1, queries, keys), true where a query sees a key.
      implementation: "xla"; "cudnn", flash attention with the position term as its bias; "auto" = xla.
      weight_dropout: the rate of dropout on attention weights, and 16 random bits for each, (batch, heads, queries, keys).

    Returns:
      (batch, queries, heads, kv) in the type of `query`.

    Raises:
      UserError: "cudnn" was asked for and cannot run here.
    """
    scale = query.shape[-1] ** -0.5
    with_content = query + content_bias.astype(query.dtype)
    with_position = (query + position_bias.astype(query.dtype)) * scale
    bias = relative_shift(_scores(with_position, position, "bqhd,khd->bhqk"))
    if implementation == "cudnn" and weight_dropout is None:
        choose_attention("cudnn", query.dtype, query.shape[-1])
        bias = jnp.where(mask, bias, jnp.finfo(jnp.float32).min / 2).astype(query.dtype)
        return jax.nn.dot_product_attention(with_content, key, value, bias=bias, scale=scale, implementation="cudnn")
    scores = _scores(with_content * scale, key, "bqhd,bkhd->bhqk") + bias
    scores = jnp.where(mask, scores, np.float32(-1e30))
    weights = jax.nn.softmax(scores, axis=-1)
    if weight_dropout is not None:
        rate, bits = weight_dropout
        weights = jnp.where(bits >= round(rate * 65536), weights * (1.0 / (1.0 - rate)), 0.0)
    y = lax.dot_general(weights.astype(value.dtype), value, (((3,), (1,)), ((0, 1), (0, 2))))
    return y.transpose(0, 2, 1, 3)


def _scores(x: Array, y: Array, axes: str) -> Array:
    return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)

"""Attention with relative positions as in Transformer-XL (Dai et al. 2019,
https://arxiv.org/abs/1901.02860, section 3.3).
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt

from phenomjax.models import layers
from phenomjax.models.attention import Keys, Queries, by_head, by_token, choose_attention, say

# the score of a key that a query does not see; finite, so that no row becomes NaN
HIDDEN = np.float32(-1e30)
BLOCK = 128  # queries of a block in `looped_attention`
# keys; with fewer, all heads' scores at once are as fast on one core, and faster on several
LOOPED_FROM = 1024
ALIGNED = 8  # numbers in 16 bytes of bfloat16, which tensor cores want rows to be a multiple of


def sinusoids(
    positions: Float[Array, " seq"] | Int[Array, " seq"], dim: int
) -> Float[Array, "seq dim"]:
    """Sines, then cosines, of positions at `dim` / 2 frequencies 1 / 10000^(2i / dim); float32."""
    frequencies = 1.0 / 10000.0 ** (jnp.arange(0, dim, 2) / dim)
    angles = positions.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def relative_shift(scores: Float[Array, "... queries keys"]) -> Float[Array, "... queries keys"]:
    """Moves row i left by `queries - 1 - i`, so that column j holds the score of the distance from
    query i to key j.

    Column c of the input belongs to distance keys - 1 - c. What comes in at the upper right is
    garbage from the next row, which the causal mask hides. Padding and two reshapes (Dai et al.,
    appendix B) are cheaper than a gather, in both directions.
    """
    *batch, queries, keys = scores.shape
    padded = jnp.pad(scores, [*[(0, 0)] * len(batch), (0, 0), (1, 0)])
    return padded.reshape(*batch, keys + 1, queries)[..., 1:, :].reshape(*batch, queries, keys)


def causal_mask(
    queries: int, memory: int, valid: Int[Array, " batch"], same_length: str, mem_len: int
) -> Bool[Array, "batch 1 queries keys"]:
    """Which keys (`memory` places, then the queries' own) each query sees: itself and what came
    before.

    Args:
      valid: how many places at the end of the memory hold something.
      same_length: "none" = all of the past; "kimiyoung" = the last mem_len keys, itself included,
        as the original code does with a full memory; "nvidia" = one more, as NVIDIA's code does.
      mem_len: length that `same_length` counts with.
    """
    distance = jnp.arange(queries)[:, None] + memory - jnp.arange(memory + queries)
    limit = {"none": memory + queries, "kimiyoung": mem_len, "nvidia": mem_len + 1}[same_length]
    past = (distance >= 0) & (distance < limit)
    filled = jnp.arange(memory + queries) >= memory - valid[:, None]
    return past & filled[:, None, None, :]


def relative_attention(
    query: Queries,
    key: Keys,
    value: Keys,
    position: Float[Array, "keys heads kv"],
    content_bias: Float[Array, "heads kv"],
    position_bias: Float[Array, "heads kv"],
    mask: Bool[Array, "#batch 1 queries keys"],
    implementation: str = "auto",
    weight_dropout: tuple[float, UInt[Array, "batch heads queries keys"]] | None = None,
) -> Queries:
    """softmax(((q + u) k^T + shift((q + v) r^T)) / sqrt(kv)) v; the softmax is float32.

    Args:
      query: (batch, queries, heads, kv).
      key: (batch, keys, heads, kv), memory first.
      value: like `key`.
      position: (keys, heads, kv): r, the projected position of distances keys - 1 … 0.
      content_bias: (heads, kv): u.
      position_bias: (heads, kv): v.
      mask: (batch, 1, queries, keys), true where a query sees a key; no key beyond the causal ones.
      implementation: "xla", all heads at once; "looped", head after head; "cudnn", flash attention
        with the position term as its bias; "auto": looped on one CPU device from 1024 keys on, else
        xla.
      weight_dropout: the rate of dropout on attention weights, and 16 random bits for each, (batch,
        heads, queries, keys); all implementations but xla leave it to xla.

    Returns:
      (batch, queries, heads, kv) in the type of `query`.

    Raises:
      UserError: "cudnn" was asked for and cannot run here.
    """
    scale = query.shape[-1] ** -0.5
    with_content = layers.add(query, content_bias) * scale
    with_position = layers.add(query, position_bias) * scale
    implementation, reason = _choose(implementation, key.shape[1], weight_dropout is not None)
    say("relative attention", implementation, reason)
    if implementation == "looped":
        return looped_attention(with_content, with_position, key, value, position, mask)
    if implementation == "xla" and jax.default_backend() != "cpu":
        rate, bits = weight_dropout or (0.0, None)
        arrays = with_content, with_position, key, value, position, mask, bits
        return heads_first_attention(rate, *arrays)
    bias = relative_shift(_scores(with_position, position, "bqhd,khd->bhqk"))
    if implementation == "cudnn":
        choose_attention("cudnn", query.dtype, query.shape[-1])
        bias = jnp.where(mask, bias, jnp.finfo(jnp.float32).min / 2).astype(query.dtype)
        return jax.nn.dot_product_attention(
            with_content, key, value, bias=bias, scale=1.0, implementation="cudnn"
        )
    scores = jnp.where(mask, _scores(with_content, key, "bqhd,bkhd->bhqk") + bias, HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1)
    if weight_dropout is not None:
        weights = _drop(weights, *weight_dropout)
    y = lax.dot_general(weights.astype(value.dtype), value, (((3,), (1,)), ((0, 1), (0, 2))))
    return y.transpose(0, 2, 1, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def heads_first_attention(
    dropout: float,
    with_content: Queries,
    with_position: Queries,
    key: Keys,
    value: Keys,
    position: Float[Array, "keys heads kv"],
    mask: Bool[Array, "#batch 1 queries keys"],
    bits: UInt[Array, "batch heads queries keys"] | None,
) -> Queries:
    """All heads at once with few passes over the scores, for a GPU, whose memory they keep busy for
    longer than its tensor cores.

    The product with the positions has heads in front, since positions have no rows: so has all that
    meets it, and nothing as large as the scores is transposed. Weights are kept for the gradient,
    and the scores' gradient is multiplied, in the type of the values.
    """
    return _heads_first_forward(
        dropout, with_content, with_position, key, value, position, mask, bits
    )[0]


def _heads_first_forward(
    dropout: float,
    with_content: Array,
    with_position: Array,
    key: Array,
    value: Array,
    position: Array,
    mask: Array,
    bits: Array | None,
) -> tuple[Array, tuple[Array | None, ...]]:
    """As `relative_shift`, but a view: in rows of keys + n numbers, row i begins one number earlier
    than in rows of keys + n - 1, so that no padded copy is made.
    """
    # The mask is the same in all layers. Without the barrier a scan over them would hold it, and
    # what it hides, as large as the scores, and read both in each.
    mask, with_position = lax.optimization_barrier((mask, with_position))
    queries, keys = with_content.shape[1], key.shape[1]
    wider = keys + ALIGNED
    padded = jnp.pad(position, ((0, ALIGNED), (0, 0), (0, 0)))
    place = _product(with_position, padded, (3, 2), (2,), (1,))
    place = place.reshape(*place.shape[:2], queries * wider)
    place = place[..., queries - 1 : queries - 1 + queries * (wider - 1)]
    place = place.reshape(*place.shape[:2], queries, wider - 1)[..., :keys]
    place += jnp.where(mask.swapaxes(0, 1), 0.0, HIDDEN)
    scores = _product(with_content, key, (3, 3), (2, 0), (2, 0)) + place
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    y = _product(_kept(weights, dropout, bits), value, (3, 1), (0, 1), (2, 0), value.dtype)
    y = y.transpose(1, 2, 0, 3)
    return y, (with_content, with_position, key, value, position, weights, bits, y)


def _heads_first_backward(
    dropout: float, saved: tuple[Any, ...], gradient: Array
) -> tuple[Array | None, ...]:
    with_content, with_position, key, value, position, weights, bits, y = saved
    dtype, (queries, keys) = value.dtype, weights.shape[2:]
    mean = (gradient.astype(jnp.float32) * y).sum(-1).transpose(2, 0, 1)[..., None]
    to_weights = _kept(_product(gradient, value, (3, 3), (2, 0), (2, 0)), dropout, bits)
    inner = (weights * (to_weights - mean)).astype(dtype)
    shifted = jnp.pad(inner, [(0, 0)] * 3 + [(0, ALIGNED - 1)])
    shifted = shifted.reshape(*inner.shape[:2], queries * (keys + ALIGNED - 1))
    shifted = jnp.pad(shifted, [(0, 0)] * 2 + [(queries - 1, 1)])
    shifted = shifted.reshape(*inner.shape[:2], queries, keys + ALIGNED)[..., :keys]
    to_content = _product(inner, key, (3, 1), (0, 1), (2, 0), dtype)
    to_place = _product(shifted, position, (3, 0), (0,), (1,), dtype)
    to_key = _product(inner, with_content, (2, 1), (0, 1), (2, 0), dtype)
    kept = _kept(weights, dropout, bits)
    to_value = _product(kept, gradient, (2, 1), (0, 1), (2, 0), dtype)
    # summed over rows, and so over devices, in float32
    to_position = lax.dot_general(
        shifted,
        with_position,
        (((1, 2), (0, 1)), ((0,), (2,))),
        preferred_element_type=jnp.float32,
    )
    return (
        *(x.transpose(1, 2, 0, 3) for x in (to_content, to_place, to_key, to_value)),
        to_position.transpose(1, 0, 2).astype(position.dtype),
        None,
        None,
    )


heads_first_attention.defvjp(_heads_first_forward, _heads_first_backward)


def _product(
    x: Array,
    y: Array,
    contracted: tuple[int, int],
    batch_x: tuple[int, ...],
    batch_y: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """x y over one axis of each, batched over others."""
    axes = ((contracted[:1], contracted[1:]), (batch_x, batch_y))
    return lax.dot_general(x, y, axes, preferred_element_type=dtype)


def _kept(x: Array, rate: float, bits: Array | None) -> Array:
    """Weights, heads first, or their gradients, after dropout."""
    return x if bits is None else _drop(x, rate, bits.swapaxes(0, 1))


def _drop(weights: Array, rate: float, bits: UInt[Array, "..."]) -> Array:
    return jnp.where(bits >= round(rate * 65536), weights * (1.0 / (1.0 - rate)), 0.0)


def _choose(implementation: str, keys: int, dropout: bool) -> tuple[str, str]:
    """Which implementation is taken, and why."""
    if dropout and implementation != "xla":
        return "xla", "all heads' weights at once, for their dropout"
    if implementation != "auto":
        return implementation, "asked for by model.attention"
    platform = jax.default_backend()
    if platform == "cpu" and jax.device_count() == 1 and keys >= LOOPED_FROM:
        return "looped", "scores of a head stay in a core's cache"
    if platform == "gpu":
        return "xla", "flash attention with the position term as a bias: model.attention=cudnn"
    return "xla", "all heads' scores at once"  # the loop would gather what is sharded


def _scores(x: Array, y: Array, axes: str) -> Array:
    return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)


# Head after head, for a CPU


@jax.custom_vjp
def looped_attention(
    with_content: Queries,
    with_position: Queries,
    key: Keys,
    value: Keys,
    position: Float[Array, "keys heads kv"],
    mask: Bool[Array, "#batch 1 queries keys"],
) -> Queries:
    """Row after row and head after head, and again for the gradient: scores stay in a core's cache
    and are never kept.

    Queries go in blocks that leave out the keys after them. Arguments as `relative_attention`, with
    the biases added and scaled.
    """
    return _looped_forward(with_content, with_position, key, value, position, mask)[0]


def _looped_forward(*arrays: Array) -> tuple[Array, tuple[Array, ...]]:
    with_content, with_position, key, value, position, mask = arrays
    heads = position.transpose(1, 0, 2)

    def one(arrays: tuple[Array, ...]) -> tuple[Array, Array]:
        content, place, k, v, row, head = arrays
        parts = []
        for start, stop, last in _blocks(content.shape[0], k.shape[0]):
            scores = _block_scores(content, place, k, heads[head], mask[row, 0], start, stop, last)
            largest = scores.max(-1, keepdims=True)
            weights = jnp.exp(scores - largest)
            total = weights.sum(-1, keepdims=True)
            y = (
                jnp.matmul(weights.astype(v.dtype), v[:last], preferred_element_type=jnp.float32)
                / total
            )
            parts.append((y.astype(v.dtype), (largest + jnp.log(total))[:, 0]))
        return tuple(jnp.concatenate(x) for x in zip(*parts, strict=True))

    flat = [by_head(x) for x in (with_content, with_position, key, value)]
    index = _indices(with_content)
    y, log_total = lax.map(one, (*flat, *index))
    return by_token(y, with_content.shape), (*flat, heads, mask, y, log_total)


def _looped_backward(saved: tuple[Array, ...], gradient: Array) -> tuple[Array | None, ...]:
    *flat, heads, mask, y, log_total = saved
    gradients = by_head(gradient)
    mean = (gradients.astype(jnp.float32) * y).sum(-1)

    def one(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        content, place, k, v, row, head, g, log_total, mean = arrays
        r = heads[head]
        to_content, to_place = [], []
        to_key, to_value, to_position = jnp.zeros_like(k), jnp.zeros_like(v), jnp.zeros_like(r)
        for start, stop, last in _blocks(content.shape[0], k.shape[0]):
            block, keys = slice(start, stop), slice(0, last)
            seen = slice(r.shape[0] - last, r.shape[0])
            scores = _block_scores(content, place, k, r, mask[row, 0], start, stop, last)
            weights = jnp.exp(scores - log_total[block, None])
            inner = weights * (
                jnp.matmul(g[block], v[keys].T, preferred_element_type=jnp.float32)
                - mean[block, None]
            )
            inner = inner.astype(k.dtype)
            shifted = _shift_back(inner)
            to_content.append(inner @ k[keys])
            to_place.append(shifted @ r[seen])
            to_key = to_key.at[keys].add(inner.T @ content[block])
            to_value = to_value.at[keys].add(weights.astype(g.dtype).T @ g[block])
            to_position = to_position.at[seen].add(shifted.T @ place[block])
        return jnp.concatenate(to_content), jnp.concatenate(to_place), to_key, to_value, to_position

    parts = lax.map(one, (*flat, *_indices(gradient), gradients, log_total, mean))
    batch, _, count, width = gradient.shape
    keys = (batch, flat[2].shape[1], count, width)
    to_position = parts[4].reshape(batch, count, *parts[4].shape[1:]).sum(0).transpose(1, 0, 2)
    shapes = (gradient.shape, gradient.shape, keys, keys)
    return (
        *(by_token(x, shape) for x, shape in zip(parts[:4], shapes, strict=True)),
        to_position,
        None,
    )


looped_attention.defvjp(_looped_forward, _looped_backward)


def _blocks(queries: int, keys: int) -> list[tuple[int, int, int]]:
    """(first query, one past the last, keys that these queries can see) of each block."""
    edges = [*range(0, queries, BLOCK), queries]
    return [(a, b, keys - queries + b) for a, b in itertools.pairwise(edges)]


def _block_scores(
    content: Float[Array, "queries kv"],
    place: Float[Array, "queries kv"],
    key: Float[Array, "keys kv"],
    position: Float[Array, "keys kv"],
    mask: Bool[Array, "queries keys"],
    start: int,
    stop: int,
    last: int,
) -> Float[Array, "block seen"]:
    """Of the queries of a block and the keys that it can see, float32."""
    seen = position[position.shape[0] - last :]
    scores = jnp.matmul(content[start:stop], key[:last].T, preferred_element_type=jnp.float32)
    scores += relative_shift(
        jnp.matmul(place[start:stop], seen.T, preferred_element_type=jnp.float32)
    )
    return jnp.where(mask[start:stop, :last], scores, HIDDEN)


def _shift_back(gradient: Float[Array, "queries keys"]) -> Float[Array, "queries keys"]:
    """The transpose of `relative_shift`, for scores that are 0 where no key is seen."""
    queries, keys = gradient.shape
    padded = jnp.pad(gradient.reshape(-1), (queries, 0))
    return padded.reshape(queries, keys + 1)[:, 1:]


def _indices(
    x: Float[Array, "batch seq heads kv"],
) -> tuple[Int[Array, " rows"], Int[Array, " rows"]]:
    """Row and head of each entry of `by_head`."""
    batch, _, heads, _ = x.shape
    return jnp.repeat(jnp.arange(batch), heads), jnp.tile(jnp.arange(heads), batch)

"""Relative attention of XLNet's two streams (Yang et al. 2019, https://arxiv.org/abs/1906.08237,
section 2.3 to 2.5).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, Num

from phenomjax.models import draws, layers
from phenomjax.models.attention import say
from phenomjax.models.relative_attention import relative_shift, sinusoids

NEVER = -1e30  # score of a key that must not be seen
# added to the queries of the content, position and segment term
Biases = tuple[Float[Array, "heads kv"], Float[Array, "heads kv"], Float[Array, "heads kv"]]


class Streams(NamedTuple):
    """What passes from layer to layer.

    Attributes:
      content: of every token.
      query: of every target, or None: nothing is predicted.
    """

    content: Float[Array, "batch seq embed"]
    query: Float[Array, "batch targets embed"] | None


class Context(NamedTuple):
    """What is the same for all layers; K = memory + seq keys, of which the memory comes first.

    Attributes:
      positions: one or two codes of the K + seq - 1 distances K - 1, K - 2, … 1 - seq; the second
        of the same distances backwards.
      reverse: rows that use the second code, or None.
      targets: places in the segment that the query stream stands at, or None.
      sees, query_sees: for content and query stream; None: every key is seen.
      other, query_other: whether the key is of another segment; None: no segments.
      biases: shared by all layers, or None: each layer has its own.
      keys: of `draws.row_keys`, or None: no dropout.
    """

    positions: Float[Array, "code distance embed"]
    reverse: Bool[Array, " batch"] | None
    targets: Int[Array, "batch targets"] | None
    sees: Bool[Array, "#batch seq K"] | None
    query_sees: Bool[Array, "#batch targets K"] | None
    other: Bool[Array, "batch seq K"] | None
    query_other: Bool[Array, "batch targets K"] | None
    biases: Biases | None
    keys: Key[Array, " batch"] | None


class Table(nn.Module):
    """Learned vectors: of tokens, or, for each head, of keys of the query's own segment and of
    another one.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init_std: float

    @nn.compact
    def __call__(self) -> Float[Array, "..."]:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.init_std), self.axes)
        return self.param("embedding", init, self.shape, jnp.float32)


class RelativeAttention(nn.Module):
    """Attention whose score has a content, a position and a segment term, for both streams with the
    same weights.

    score_ij = ((q_i + u) . k_j + (q_i + v) . W_r R_(i-j) + (q_i + s) . E_[segment of j is another])
    / sqrt(kv), with the biases u, v, s.
    """

    num_heads: int
    head_dim: int
    dropout: float
    init_std: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        streams: Streams,
        memory: Float[Array, "batch memory embed"] | None,
        context: Context,
        site: Int[Array, ""],
    ) -> Streams:
        """Streams -> what attention adds to each, before dropout."""
        heads, width = (self.num_heads, self.head_dim), streams.content.shape[-1]
        dense = {"init_std": self.init_std, "use_bias": False, "dtype": self.dtype}

        def project(name: str, whole: bool = False) -> layers.Dense:
            return layers.Dense(heads, ("embed", "heads", "kv"), whole=whole, name=name, **dense)

        query, out = (
            project("query"),
            layers.Dense((width,), ("heads", "kv", "embed"), 2, name="out", **dense),
        )
        content = streams.content
        everything = (
            content
            if memory is None
            else jnp.concatenate([memory.astype(content.dtype), content], 1)
        )
        key, value = project("key")(everything), project("value")(everything)
        # Positions are few; projecting them for both directions and choosing by row costs less than
        # a product a row.
        place = project("position", whole=True)(context.positions)
        backwards = context.reverse
        if backwards is None:
            place = place[0]
        else:  # by float32, in which the gradient is summed over rows: see layers.add
            wide = place.astype(jnp.float32)
            place = jnp.where(backwards[:, None, None, None], wide[1], wide[0]).astype(place.dtype)
        biases = context.biases or head_biases(self, heads, self.init_std)
        segment = Table((2, *heads), (None, "heads", "kv"), self.init_std, name="segment")()

        say("attention", "xla", "two streams with a segment term: no flash attention computes them")

        def attend(
            x: Array, targets: Array | None, sees: Array | None, other: Array | None, site: Array
        ) -> Array:
            q = query(x)
            with_content, with_position, with_segment = (layers.add(q, bias) for bias in biases)
            scores = _scores("bqhd,bkhd->bhqk", with_content, key)
            by_distance = "bqhd,lhd->bhql" if place.ndim == 3 else "bqhd,blhd->bhql"
            distance = _scores(by_distance, with_position, place)
            if targets is None:
                scores += relative_shift(distance)[..., : key.shape[1]]
            else:
                scores += windows(distance, content.shape[1] - 1 - targets, key.shape[1])
            if other is not None:
                by_segment = _scores("bqhd,shd->bhqs", with_segment, segment.astype(q.dtype))
                own, apart = by_segment[..., :1], by_segment[..., 1:]
                scores += jnp.where(other[:, None], apart, own)
            scores *= self.head_dim**-0.5
            if sees is not None:
                scores = jnp.where(sees[:, None], scores, NEVER)
            weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
            weights = draws.dropout(weights, self.dropout, context.keys, site)
            return out(jnp.einsum("bhqk,bkhd->bqhd", weights, value))

        y = attend(content, None, context.sees, context.other, site)
        if streams.query is None:
            return Streams(y, None)
        return Streams(
            y,
            attend(
                streams.query, context.targets, context.query_sees, context.query_other, site + 1
            ),
        )


def head_biases(module: nn.Module, heads: tuple[int, int], init_std: float) -> Biases:
    """Parameters of a module."""
    init = nn.with_logical_partitioning(nn.initializers.normal(init_std), ("heads", "kv"))
    content, position, segment = (
        module.param(f"{term}_bias", init, heads, jnp.float32)
        for term in ("content", "position", "segment")
    )
    return content, position, segment


def distance_codes(
    keys: int, queries: int, width: int, clamp_len: int, both_directions: bool
) -> Float[Array, "direction distance embed"]:
    """Sines, then cosines, of the distances keys - 1, keys - 2, … 1 - queries; by flag also of the
    same backwards.
    """
    distance = jnp.arange(keys - 1, -queries, -1, dtype=jnp.float32)
    if clamp_len > 0:
        distance = distance.clip(-clamp_len, clamp_len)
    return jnp.stack(
        [sinusoids(x, width) for x in ((distance, -distance) if both_directions else (distance,))]
    )


@jax.custom_vjp
def _windows(x: Array, start: Array, key: Array) -> Array:
    index = start[:, :, None] + key
    return jnp.take_along_axis(x, index[:, None], -1, mode="clip")


def windows(
    x: Num[Array, "batch heads query distance"], start: Int[Array, "batch query"], keys: int
) -> Num[Array, "batch heads query key"]:
    """x[b, h, p, start[b, p] + j] for j = 0 … keys - 1: `relative_shift` for queries that stand
    anywhere.

    The gradient is again a gather, where XLA would scatter.
    """
    return _windows(x, start, jnp.arange(keys))


def _windows_forward(x: Array, start: Array, key: Array) -> tuple[Array, tuple[Array, Array]]:
    return _windows(x, start, key), (start, jnp.arange(x.shape[-1]))


def _windows_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, None, None]:
    start, distance = saved
    index = (distance - start[:, :, None])[:, None]
    inside = (index >= 0) & (index < gradient.shape[-1])
    return jnp.where(inside, jnp.take_along_axis(gradient, index, -1, mode="clip"), 0), None, None


_windows.defvjp(_windows_forward, _windows_backward)


def _scores(equation: str, query: Array, key: Array) -> Array:
    return jnp.einsum(equation, query, key, preferred_element_type=jnp.float32)

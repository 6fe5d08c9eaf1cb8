"""Embedding and softmax over a vocabulary with shared weights, plain or adaptive.

Adaptive softmax: Grave et al. 2017 (https://arxiv.org/abs/1609.04309); adaptive input: Baevski and
Auli 2019 (https://arxiv.org/abs/1809.10853), as Transformer-XL combines them.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from phenomjax.models import layers


class TiedVocabulary(nn.Module):
    """Token embeddings that are also the weights of the softmax.

    With `cutoffs` (c1, c2, …) the head of the softmax holds the tokens below c1 and one logit a
    cluster; cluster i holds the tokens from its cutoff to the next, and its logit is the head's
    number c1 + i - 1 (the order of the TensorFlow code; the PyTorch code of Dai et al. has the
    clusters in reverse). With `div_val` > 1 cluster i has embeddings of embed_dim / div_val^i
    numbers, which a projection brings to embed_dim; the softmax has a projection of its own for the
    head and shares the others. All clusters are computed for all tokens: shapes stay fixed, which
    suits vocabularies of up to some ten thousand.

    Attributes:
      size: number of tokens.
      embed_dim: width of the model.
      cutoffs: first token of each cluster, rising; () = plain.
      div_val: see above.
      init_std: of the embeddings and cluster weights; projections have half of it (0.01 for 0.02,
        as published).
      logit_scale: what the hidden state is multiplied with before the softmax.
      dtype: of the embeddings and products.
    """

    size: int
    embed_dim: int
    cutoffs: Sequence[int] = ()
    div_val: int = 1
    init_std: float = 0.02
    logit_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        edges = self.bins()
        self.embeddings = [
            self._matrix(f"bin_{i}_embedding", (b - a, self._width(i)), ("vocab", "embed"))
            for i, (a, b) in enumerate(edges)
        ]
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
        parts = [
            self.param(f"bin_{i}_bias", zeros, (b - a,), jnp.float32)
            for i, (a, b) in enumerate(edges)
        ]
        self.biases = jnp.concatenate(parts)
        if self.div_val > 1:
            shapes = [(self._width(i), self.embed_dim) for i in range(len(edges))]
            self.projections = [
                self._matrix(f"bin_{i}_kernel", shape, (None, "embed"), 0.5)
                for i, shape in enumerate(shapes)
            ]
            self.head_projection = self._matrix("head_kernel", shapes[0], (None, "embed"), 0.5)
        if self.cutoffs:
            clusters = (self._width(0), len(self.cutoffs))
            self.cluster_kernel = self._matrix("cluster_kernel", clusters, ("embed", None))
            self.cluster_bias = self.param(
                "cluster_bias",
                nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
                clusters[1:],
                jnp.float32,
            )

    def bins(self) -> list[tuple[int, int]]:
        """The first and one past the last token of each embedding matrix: one matrix unless div_val
        > 1.
        """
        inner = tuple(self.cutoffs) if self.div_val > 1 else ()
        return list(zip((0, *inner), (*inner, self.size), strict=True))

    def embed(self, tokens: Integer[Array, "batch seq"]) -> Float[Array, "batch seq embed"]:
        """Vectors of tokens."""
        tokens = tokens.astype(jnp.int32)
        total = None
        for i, (first, last) in enumerate(self.bins()):
            inside = (tokens >= first) & (tokens < last)
            # Whole first: a look-up in a sharded table would end in a gather of activations. Cast
            # last: see `layers.add`.
            table = nn.with_logical_constraint(self.embeddings[i], (None, None))
            x = table[jnp.clip(tokens - first, 0, last - first - 1)].astype(self.dtype)
            if self.div_val > 1:
                x = layers.product(x, self.projections[i], 1)
            total = x if total is None else jnp.where(inside[..., None], x, total)
        return total

    def logits(self, x: Float[Array, "*axes embed"]) -> Float[Array, "*axes vocab"]:
        """Logits in float32, which are log-probabilities where there are clusters."""
        if self.logit_scale != 1.0:
            x = x * self.logit_scale
        if not self.cutoffs:
            return self._product(x, self.embeddings[0].T) + self.biases
        edges = [0, *self.cutoffs, self.size]
        head = x
        if self.div_val > 1:
            head = layers.product(x, self.head_projection.T, 1)
        first = self._product(head, self.embeddings[0][: edges[1]].T) + self.biases[: edges[1]]
        clusters = self._product(head, self.cluster_kernel) + self.cluster_bias
        head_log = jax.nn.log_softmax(jnp.concatenate([first, clusters], -1), -1)
        parts = [head_log[..., : edges[1]]]
        for i in range(1, len(edges) - 1):
            if self.div_val > 1:
                weights, hidden = self.embeddings[i], layers.product(x, self.projections[i].T, 1)
            else:
                weights, hidden = self.embeddings[0][edges[i] : edges[i + 1]], x
            tail = self._product(hidden, weights.T) + self.biases[edges[i] : edges[i + 1]]
            parts.append(jax.nn.log_softmax(tail, -1) + head_log[..., edges[1] + i - 1][..., None])
        return jnp.concatenate(parts, -1)

    def _width(self, cluster: int) -> int:
        return self.embed_dim // self.div_val**cluster

    def _matrix(self, name: str, shape: tuple[int, ...], axes: tuple, share: float = 1.0) -> Array:
        init = nn.with_logical_partitioning(nn.initializers.normal(share * self.init_std), axes)
        return self.param(name, init, shape, jnp.float32)

    def _product(self, x: Array, kernel: Array) -> Array:
        return jnp.matmul(
            x.astype(self.dtype), kernel.astype(self.dtype), preferred_element_type=jnp.float32
        )

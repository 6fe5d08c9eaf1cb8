"""Transformer-XL (Dai et al. 2019, https://arxiv.org/abs/1901.02860): causal layers that see the
hidden states of earlier segments.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Integer, Key
from ml_collections import ConfigDict

from phenomjax.models import draws, layers, parametrisation
from phenomjax.models.relative_attention import causal_mask, relative_attention, sinusoids
from phenomjax.models.vocabulary_layers import TiedVocabulary

# of dropout; layers begin at the last
EMBEDDING_SITE, OUTPUT_SITE, POSITION_SITE, FIRST_SITE = 0, 1, 2, 3
SITES = 4  # of a layer

Segment = Float[Array, "batch queries embed"]
# positions, and the biases u and v where all layers share them
Shared = tuple[
    Float[Array, "keys embed"], Float[Array, "heads kv"] | None, Float[Array, "heads kv"] | None
]
Mask = Bool[Array, "#batch 1 queries keys"]
Keys = Key[Array, " batch"] | None


class TransformerXLLayer(nn.Module):
    """One layer: relative attention over (memory, segment), then a ReLU MLP, each with a residual
    and LayerNorm.

    Attributes:
      num_heads, head_dim, mlp_dim: sizes.
      norm: "post", LayerNorm after the residual, as published; "pre", before the branch (memory
        included).
      untie_bias: the layer has its own u and v.
      dropout, attention_dropout: rates.
      init_std: of all kernels.
      attention: see `relative_attention`.
      dtype: of activations.
    """

    num_heads: int
    head_dim: int
    mlp_dim: int
    norm: str
    untie_bias: bool
    dropout: float
    attention_dropout: float
    init_std: float
    attention: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Segment,
        memory: Float[Array, "batch memory embed"],
        layer: Int[Array, ""],
        shared: Shared,
        keys: Keys,
        mask: Mask,
    ) -> tuple[Segment, Segment]:
        """One layer.

        Args:
          x: of the segment.
          memory: earlier inputs of this layer.
          layer: its number, for the draws of dropout.
          shared: by all layers.
          keys: of dropout, or None.
          mask: of `causal_mask`.

        Returns:
          (output, x): x is what the memory takes in.
        """
        positions, content_bias, position_bias = shared
        embed, heads = x.shape[-1], (self.num_heads, self.head_dim)
        site = FIRST_SITE + layer * SITES
        both = jnp.concatenate([memory.astype(x.dtype), x], 1)
        norm = layers.LayerNorm(1e-5, self.dtype, name="attention_norm")
        seen = norm(both) if self.norm == "pre" else both
        query = self.dense("query", heads, ("embed", "heads", "kv"))(seen[:, memory.shape[1] :])
        key_value = self.dense("key_value", (2, *heads), ("embed", None, "heads", "kv"))(seen)
        position = self.dense("position", heads, ("embed", "heads", "kv"), whole=True)(positions)
        if self.untie_bias:
            content_bias, position_bias = (
                relative_bias(self, name, heads, self.init_std)
                for name in ("content_bias", "position_bias")
            )
        weight_dropout = None
        if keys is not None and self.attention_dropout:
            shape = (self.num_heads, x.shape[1], both.shape[1])
            bits = jax.vmap(
                lambda key: jax.random.bits(jax.random.fold_in(key, site), shape, jnp.uint16)
            )(keys)
            weight_dropout = (self.attention_dropout, bits)
        y = relative_attention(
            query,
            key_value[:, :, 0],
            key_value[:, :, 1],
            position,
            content_bias,
            position_bias,
            mask,
            self.attention,
            weight_dropout,
        )
        y = self.dense("out", (embed,), ("heads", "kv", "embed"), 2)(y)
        y = x + draws.dropout(y, self.dropout, keys, site + 1)
        y = y if self.norm == "pre" else norm(y)
        y = nn.with_logical_constraint(y, ("batch", None, None))
        return self.mlp(y, keys, site), x

    def mlp(self, x: Segment, keys: Keys, site: Int[Array, ""]) -> Segment:
        """The position-wise branch with its residual and norm."""
        norm = layers.LayerNorm(1e-5, self.dtype, name="mlp_norm")
        y = norm(x) if self.norm == "pre" else x
        y = jax.nn.relu(self.dense("mlp_in", (self.mlp_dim,), ("embed", "mlp"), use_bias=True)(y))
        y = draws.dropout(y, self.dropout, keys, site + 2)
        y = self.dense("mlp_out", (x.shape[-1],), ("mlp", "embed"), use_bias=True)(y)
        y = x + draws.dropout(y, self.dropout, keys, site + 3)
        y = y if self.norm == "pre" else norm(y)
        return nn.with_logical_constraint(y, ("batch", None, None))

    def dense(
        self,
        name: str,
        features: Sequence[int],
        axes: Sequence[str | None],
        input_axes: int = 1,
        use_bias: bool = False,
        whole: bool = False,
    ) -> layers.Dense:
        options = {"init_std": self.init_std, "whole": whole, "dtype": self.dtype}
        return layers.Dense(features, axes, input_axes, use_bias, name=name, **options)


class LayerStack(nn.Module):
    """All layers, unrolled or scanned; see `vit.BlockStack`."""

    options: layers.Options
    depth: int
    scan_layers: bool
    remat: str

    @nn.compact
    def __call__(
        self,
        x: Segment,
        memory: Float[Array, "batch layers memory embed"],
        shared: Shared,
        keys: Keys,
        mask: Mask,
    ) -> tuple[Segment, Float[Array, "batch layers queries embed"]]:
        """As TransformerXLLayer, for all layers; returns the output and what went into each."""
        block = TransformerXLLayer
        if self.remat != "none":
            policy = (
                jax.checkpoint_policies.dots_with_no_batch_dims_saveable
                if self.remat == "dots"
                else None
            )
            block = nn.remat(block, policy=policy, prevent_cse=not self.scan_layers)
        if self.scan_layers:
            stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.depth,
                in_axes=(1, 0, nn.broadcast, nn.broadcast, nn.broadcast),
                out_axes=1,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            return stack(**self.options, name="layers")(
                x, memory, jnp.arange(self.depth), shared, keys, mask
            )
        inputs = []
        for layer in range(self.depth):
            x, taken = block(**self.options, name=f"layer_{layer}")(
                x, memory[:, layer], jnp.int32(layer), shared, keys, mask
            )
            inputs.append(taken)
        return x, jnp.stack(inputs, 1)


class TransformerXL(nn.Module):
    """The model: embedding times `embedding_scale`, layers, softmax with the embedding's weights.

    LayerNorm scales begin at 1 and not at N(1, init_std), the one difference to the published
    initialisation.

    Attributes:
      vocabulary: attributes of the TiedVocabulary.
      layer: attributes of the layers.
      num_layers: depth.
      embedding_scale: sqrt(embed), as published; see `models.parametrisation`.
      clamp_len: distances beyond this count as this; 0 = no limit.
      same_length: see `causal_mask`.
      mem_len: length that `same_length` counts with.
      scan_layers, remat: as in vit.BlockStack.
    """

    vocabulary: layers.Options
    layer: layers.Options
    num_layers: int
    embedding_scale: float
    clamp_len: int
    same_length: str
    mem_len: int
    scan_layers: bool
    remat: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        tokens: Integer[Array, "batch seq"],
        memory: Float[Array, "batch layers memory embed"],
        valid: Int[Array, " batch"],
        key: Key[Array, ""] | None = None,
        row: draws.Rows | None = None,
    ) -> tuple[
        Float[Array, "batch seq vocab"],
        Float[Array, "batch seq embed"],
        Float[Array, "batch layers seq embed"],
    ]:
        """A segment.

        Args:
          tokens: ids.
          memory: inputs of each layer, the newest last; any length.
          valid: how many places at its end hold something.
          key: of dropout; None = no dropout.
          row: numbers of the rows, with `key`.

        Returns:
          Logits, float32; the last layer's output; what the memory takes in, without gradient.
        """
        words = TiedVocabulary(**self.vocabulary, dtype=self.dtype, name="vocabulary")
        keys = None if key is None or row is None else draws.row_keys(key, row)
        rate, embed = self.layer["dropout"], self.vocabulary["embed_dim"]
        span = memory.shape[2] + tokens.shape[1]
        distance = jnp.arange(span - 1, -1, -1)
        positions = sinusoids(
            jnp.minimum(distance, self.clamp_len) if self.clamp_len else distance, embed
        )
        if key is not None:  # one mask for all rows, as published
            positions = draws.dropout(positions[None], rate, key[None], POSITION_SITE)[0]
        # They have no batch axis: left alone, the partitioner would shard their width as the
        # kernels'.
        positions = nn.with_logical_constraint(positions.astype(self.dtype), (None, None))
        shared: Shared = (positions, None, None)
        if not self.layer["untie_bias"]:
            heads = (self.layer["num_heads"], self.layer["head_dim"])
            std = self.layer["init_std"]
            shared = (
                shared[0],
                relative_bias(self, "content_bias", heads, std),
                relative_bias(self, "position_bias", heads, std),
            )
        mask = causal_mask(tokens.shape[1], memory.shape[2], valid, self.same_length, self.mem_len)
        x = words.embed(tokens) * self.embedding_scale
        x = draws.dropout(x, rate, keys, EMBEDDING_SITE).astype(self.dtype)
        x = nn.with_logical_constraint(x, ("batch", None, None))
        options = {**self.layer, "dtype": self.dtype}
        blocks = LayerStack(options, self.num_layers, self.scan_layers, self.remat, name="blocks")
        x, inputs = blocks(x, jax.lax.stop_gradient(memory), shared, keys, mask)
        hidden = draws.dropout(x, rate, keys, OUTPUT_SITE)
        return words.logits(hidden), hidden, jax.lax.stop_gradient(inputs)


def relative_bias(
    module: nn.Module, name: str, heads: tuple[int, int], init_std: float
) -> Float[Array, "heads kv"]:
    """The parameter u or v of the relative attention."""
    init = nn.with_logical_partitioning(nn.initializers.normal(init_std), ("heads", "kv"))
    return module.param(name, init, heads, jnp.float32)


def remember(
    memory: Float[Array, "batch layers memory embed"],
    valid: Int[Array, " batch"],
    inputs: Float[Array, "batch layers seq embed"],
) -> tuple[Float[Array, "batch layers memory embed"], Int[Array, " batch"]]:
    """The memory after a segment.

    Args:
      memory: before it.
      valid: filled places at its end.
      inputs: of `TransformerXL`.

    Returns:
      The memory with the newest last, and valid.
    """
    length = memory.shape[2]
    if not length:
        return memory, valid
    joined = (
        jnp.concatenate([memory, inputs.astype(memory.dtype)], 2)
        if inputs.shape[2] < length
        else inputs.astype(memory.dtype)
    )
    return joined[:, :, joined.shape[2] - length :], jnp.minimum(valid + inputs.shape[2], length)


def build(m: ConfigDict, dtype: DTypeLike, mem_len: int) -> TransformerXL:
    """The linen module of a model configuration."""
    return TransformerXL(
        vocabulary={
            "size": m.vocab_size,
            "embed_dim": m.embed_dim,
            "cutoffs": tuple(m.cutoffs),
            "div_val": m.div_val,
            "init_std": m.init_std,
            "logit_scale": parametrisation.logit_scale(m),
        },
        layer={
            "num_heads": m.num_heads,
            "head_dim": m.head_dim,
            "mlp_dim": m.mlp_dim,
            "norm": m.norm,
            "untie_bias": m.untie_bias,
            "dropout": m.dropout,
            "attention_dropout": m.attention_dropout,
            "init_std": m.init_std,
            "attention": m.attention,
        },
        num_layers=m.num_layers,
        embedding_scale=parametrisation.embedding_scale(m),
        clamp_len=m.clamp_len,
        same_length=m.same_length,
        mem_len=mem_len,
        scan_layers=m.scan_layers,
        remat=m.remat,
        dtype=dtype,
    )

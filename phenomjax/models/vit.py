"""Vision transformer: parallel-scaling and plain pre-norm blocks, stacks of them, and the encoder
over visible patches.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from phenomjax.models import draws, layers
from phenomjax.models.attention import attention as attend
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

REMAT = ("none", "full", "dots")
# residual branches of a block, each with its own drop-path draw
BRANCHES = {"parallel": 1, "prenorm": 2}

Tokens = Float[Array, "batch seq embed"]
Drop = Float[Array, "batch branch"] | None  # drop-path scales of a block
T = TypeVar("T")


class SelfAttention(nn.Module):
    """Multi-head self-attention with one packed projection and, by flag, LayerNorm of queries and
    keys per head.
    """

    num_heads: int
    qk_norm: bool
    use_bias: bool
    norm_eps: float
    attention: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens, bias: Float[Array, " 3*embed"] | None = None) -> Tokens:
        """Attention of all tokens to all; `bias` is added to the packed projection."""
        width = x.shape[-1]
        head_dim = width // self.num_heads
        qkv = layers.Dense(
            (3, self.num_heads, head_dim),
            ("embed", None, "heads", "kv"),
            use_bias=self.use_bias,
            fan_out=width,
            dtype=self.dtype,
            name="qkv",
        )(x)
        if bias is not None:
            qkv = layers.add(qkv, bias.reshape(3, self.num_heads, head_dim))
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.qk_norm:
            query = layers.LayerNorm(self.norm_eps, self.dtype, name="q_norm")(query)
            key = layers.LayerNorm(self.norm_eps, self.dtype, name="k_norm")(key)
        y = attend(query, key, value, self.attention)
        return layers.Dense((width,), ("heads", "kv", "embed"), 2, dtype=self.dtype, name="out")(y)


class Mlp(nn.Module):
    """Two dense layers with GELU between; `hidden_bias` replaces the first layer's own bias."""

    hidden: int
    gelu: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Tokens, hidden_bias: Float[Array, " hidden"] | None = None) -> Tokens:
        y = layers.Dense(
            (self.hidden,),
            ("embed", "mlp"),
            use_bias=hidden_bias is None,
            dtype=self.dtype,
            name="in",
        )(x)
        y = layers.gelu(y if hidden_bias is None else layers.add(y, hidden_bias), self.gelu)
        return layers.Dense((x.shape[-1],), ("mlp", "embed"), dtype=self.dtype, name="out")(y)


class LayerScale(nn.Module):
    """A learned factor for every feature of a residual branch, small at first (CaiT, arXiv
    2103.17239).
    """

    initial: float

    @nn.compact
    def __call__(self, y: Tokens) -> Tokens:
        init = nn.with_logical_partitioning(nn.initializers.constant(self.initial), (None,))
        return (y * self.param("gamma", init, y.shape[-1:], jnp.float32)).astype(y.dtype)


class Block(nn.Module):
    """What both kinds of block share; `__call__(x, drop)` returns (x, None), the form that a scan
    over layers wants.

    Attributes:
      mlp_dim: hidden units.
      qk_norm: LayerNorm of queries and keys over the head dimension.
      layer_scale: first value of the learned scale of each residual branch; 0 leaves the scale out.
      bias_order: "mlp" or "timm_legacy" (ParallelBlock).
      norm_eps: epsilon of every LayerNorm.
    """

    num_heads: int
    mlp_dim: int
    qk_norm: bool
    layer_scale: float
    bias_order: str
    norm_eps: float
    gelu: str
    attention: str
    dtype: DTypeLike

    def residual(
        self, x: Tokens, y: Tokens, drop: Float[Array, " batch"] | None, name: str
    ) -> Tokens:
        """x + drop path(layer scale(y))."""
        if self.layer_scale:
            y = LayerScale(self.layer_scale, name=name)(y)
        x = x + draws.drop_path(y, drop)
        return nn.with_logical_constraint(x, ("batch", None, None))

    def self_attention(self, use_bias: bool) -> SelfAttention:
        return SelfAttention(
            self.num_heads,
            self.qk_norm,
            use_bias,
            self.norm_eps,
            self.attention,
            self.dtype,
            name="attention",
        )


class ParallelBlock(Block):
    """Attention and MLP side by side on one norm (ViT-22B, arXiv 2302.05442): x + scale (attn(n) +
    mlp(n)).

    With `bias_order` "mlp" the hidden bias belongs to the MLP alone. "timm_legacy" repeats what
    timm computed up to 1.0.24, and what weights trained with it expect: outputs lie in the order
    (mlp, q, k, v), but the bias was concatenated as (3 * embed zeros, mlp bias), so all of it slips
    by 3 * embed places.
    """

    @nn.compact
    def __call__(self, x: Tokens, drop: Drop) -> tuple[Tokens, None]:
        width = x.shape[-1]
        mlp_bias = self.param(
            "bias",
            nn.with_logical_partitioning(nn.initializers.zeros, ("mlp",)),
            (self.mlp_dim,),
            jnp.float32,
        )
        qkv_bias = None
        if self.bias_order == "timm_legacy":
            slipped = jnp.concatenate([jnp.zeros(3 * width), mlp_bias])
            mlp_bias, qkv_bias = slipped[: self.mlp_dim], slipped[self.mlp_dim :]
        normed = layers.LayerNorm(self.norm_eps, self.dtype, name="norm")(x)
        y = self.self_attention(use_bias=False)(normed, qkv_bias)
        y = y + Mlp(self.mlp_dim, self.gelu, self.dtype, name="mlp")(normed, mlp_bias)
        return self.residual(x, y, None if drop is None else drop[:, 0], "scale"), None


class PreNormBlock(Block):
    """The plain block of ViT: x + attn(norm(x)), then x + mlp(norm(x)), with biases everywhere."""

    @nn.compact
    def __call__(self, x: Tokens, drop: Drop) -> tuple[Tokens, None]:
        y = self.self_attention(use_bias=True)(
            layers.LayerNorm(self.norm_eps, self.dtype, name="norm1")(x)
        )
        x = self.residual(x, y, None if drop is None else drop[:, 0], "scale1")
        normed = layers.LayerNorm(self.norm_eps, self.dtype, name="norm2")(x)
        y = Mlp(self.mlp_dim, self.gelu, self.dtype, name="mlp")(normed)
        return self.residual(x, y, None if drop is None else drop[:, 1], "scale2"), None


BLOCKS = {"parallel": ParallelBlock, "prenorm": PreNormBlock}


class BlockStack(nn.Module):
    """`depth` equal blocks, unrolled (parameters layer_0, layer_1, …) or scanned (one stacked
    `layers`).

    Attributes:
      block: "parallel" or "prenorm".
      options: the block's attributes.
      scan_layers: one compiled body for all layers: small programs and fast compilation for deep
        models.
      remat: what the backward pass recomputes: "none" nothing, "full" every block, "dots" all but
        matrix products.
    """

    block: str
    options: layers.Options
    depth: int
    scan_layers: bool
    remat: str

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        drop: Float[Array, "depth batch branch"] | None = None,
        blocks: Sequence[int] | None = None,
    ) -> Tokens | tuple[Tokens, ...]:
        """All blocks in turn; `drop` holds drop-path scales.

        With `blocks`, numbers from 1 to depth in any order, the outputs of these blocks, without
        drop path; the blocks after the last one of them are not computed.
        """
        block = _choose(BLOCKS, self.block, "block")
        if blocks is not None:
            return self._outputs(block(**self.options, parent=None), x, tuple(blocks))
        if _choose({name: name for name in REMAT}, self.remat, "remat") != "none":
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
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            return stack(**self.options, name="layers")(x, drop)[0]
        for layer in range(self.depth):
            x, _ = block(**self.options, name=f"layer_{layer}")(
                x, None if drop is None else drop[layer]
            )
        return x

    def _outputs(self, block: nn.Module, x: Tokens, blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        """The outputs of some blocks, from the stored parameters of either layout."""
        params = self.variables["params"]
        apply = lambda x, params: (block.apply({"params": params}, x, None)[0], None)  # noqa: E731
        outputs: dict[int, Array] = {}
        done = 0
        for number in sorted(set(blocks)):
            if self.scan_layers:
                part = slice(done, number)
                x, _ = lax.scan(
                    apply, x, jax.tree.map(lambda leaf, part=part: leaf[part], params["layers"])
                )
            else:
                for layer in range(done, number):
                    x, _ = apply(x, params[f"layer_{layer}"])
            outputs[number], done = x, number
        return tuple(outputs[number] for number in blocks)


class Encoder(nn.Module):
    """ViT encoder over the patches it is given (the visible ones in training, all at inference).

    Attributes:
      embed_dim: width.
      class_token: a learned first token without position.
      stack: attributes of the BlockStack.
    """

    embed_dim: int
    class_token: bool
    stack: layers.Options
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "batch seq patch"],
        positions: Float[Array, "#batch seq embed"],
        drop: Float[Array, "depth batch branch"] | None = None,
        blocks: Sequence[int] | None = None,
    ) -> Float[Array, "batch tokens embed"] | tuple[Float[Array, "batch tokens embed"], ...]:
        """Patches and their positions -> tokens of the last block, the class token first if there
        is one; with `blocks`, those of each of these blocks (from 1).
        """
        x = layers.Dense(
            (self.embed_dim,), ("patch", "embed"), dtype=self.dtype, name="patch_embed"
        )(patches)
        x = x + positions.astype(self.dtype)
        if self.class_token:
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None,))
            token = self.param("cls_token", init, (self.embed_dim,), jnp.float32)
            tokens = jnp.broadcast_to(token, (x.shape[0], 1, self.embed_dim)).astype(self.dtype)
            x = jnp.concatenate([tokens, x], axis=1)
        x = nn.with_logical_constraint(x, ("batch", None, None))
        return BlockStack(**self.stack, name="blocks")(x, drop, blocks)


def mlp_dim(model: ConfigDict) -> int:
    """Hidden units of the MLP of the encoder of a configuration."""
    return round(model.embed_dim * model.mlp_ratio)


def encoder_options(model: ConfigDict, dtype: DTypeLike) -> layers.Options:
    """Attributes of the `Encoder` of a model configuration, but its type."""
    block = {
        "num_heads": model.num_heads,
        "mlp_dim": mlp_dim(model),
        "qk_norm": model.qk_norm,
        "layer_scale": model.layer_scale,
        "bias_order": model.bias_order,
        "norm_eps": model.norm_eps,
        "gelu": model.gelu,
        "attention": model.attention,
        "dtype": dtype,
    }
    stack = {
        "block": model.block,
        "options": block,
        "depth": model.depth,
        "scan_layers": model.scan_layers,
        "remat": model.remat,
    }
    return {"embed_dim": model.embed_dim, "class_token": model.class_token, "stack": stack}


def _choose(table: Mapping[str, T], name: str, key: str) -> T:
    if name not in table:
        raise UserError(f"model.{key} is {name!r}; it can be {', '.join(table)}.")
    return table[name]


# Parameters between the unrolled and the scanned layout


def stack_layers(params: Params, leading_axes: int = 0) -> Params:
    """Parameters of an unrolled model (layer_0, layer_1, …) as a scanned one's (`layers`, stacked).

    Args:
      params: unboxed parameters, of any part of a model.
      leading_axes: axes before the layer axis; the stacks of a channel-agnostic decoder have one,
        their channel.
    """
    names = [name for name in params if re.fullmatch(r"layer_\d+", name)]
    if names and len(names) == len(params):
        ordered = [params[f"layer_{index}"] for index in range(len(names))]
        return {
            "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=leading_axes), *ordered)
        }
    return _descend(params, stack_layers, leading_axes)


def unstack_layers(params: Params, leading_axes: int = 0) -> Params:
    """The inverse of `stack_layers`."""
    if set(params) == {"layers"}:
        depth = jax.tree.leaves(params)[0].shape[leading_axes]
        take = lambda index: jax.tree.map(  # noqa: E731
            lambda leaf: leaf.take(index, axis=leading_axes), params["layers"]
        )
        return {f"layer_{index}": take(index) for index in range(depth)}
    return _descend(params, unstack_layers, leading_axes)


def _descend(params: Params, convert: Callable[[Params, int], Params], leading_axes: int) -> Params:
    return {
        name: (
            convert(value, 1 if name == "channel_blocks" else leading_axes)
            if isinstance(value, Mapping)
            else value
        )
        for name, value in params.items()
    }

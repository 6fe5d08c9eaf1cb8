"""The decoders of masked autoencoders: the standard one, and the channel-agnostic one.

Both are given the encoder's tokens in the order of a masking, and give patches back.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from phenomjax.models import layers, vit
from phenomjax.models import patches as models_patches
from phenomjax.models.attention import attention as attend
from phenomjax.system.types import Params


class Masking(NamedTuple):
    """Which tokens the encoder saw: `order` and `restore` of `layers.token_order`, and how many
    come first as seen.
    """

    order: Int[Array, "batch seq"]
    restore: Int[Array, "batch seq"]
    visible: int

    @property
    def mask(self) -> Float[Array, "batch seq"]:
        """In the natural order of tokens, 1 where masked."""
        return (self.restore >= self.visible).astype(jnp.float32)


class Decoder(nn.Module):
    """The MAE decoder: encoder tokens, a mask token for every other place, positions, blocks, norm,
    pixels.

    Attention does not care for the order of tokens, so they stay in the order of the masking (class
    token, visible, masked) and the positions are permuted instead: no gather has a gradient, and
    the masked tokens lie side by side.
    """

    dim: int
    class_token: bool
    patch_dim: int
    norm_eps: float
    stack: layers.Options
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "batch tokens embed"],
        positions: Float[Array, "seq dim"],
        channels: Int[Array, "batch channel"] | None,
        masking: Masking,
        all_tokens: bool,
    ) -> Float[Array, "batch predicted patch"]:
        """Encoder tokens and the table of positions -> patches of the masked tokens, or of all."""
        batch, extra = tokens.shape[0], int(self.class_token)
        x = layers.Dense((self.dim,), ("embed", None), dtype=self.dtype, name="embed")(tokens)
        masked = (batch, positions.shape[0] - masking.visible, self.dim)
        mask_tokens = jnp.broadcast_to(mask_token_param(self, self.dim), masked).astype(self.dtype)
        x = jnp.concatenate([x, mask_tokens], axis=1)
        x = x + jnp.pad(positions[masking.order].astype(self.dtype), ((0, 0), (extra, 0), (0, 0)))
        x = nn.with_logical_constraint(x, ("batch", None, None))
        x = vit.BlockStack(**self.stack, name="blocks")(x)
        x = x[:, extra:] if all_tokens else x[:, extra + masking.visible :]
        x = layers.LayerNorm(self.norm_eps, self.dtype, name="norm")(x)
        x = layers.Dense((self.patch_dim,), ("embed", "patch"), dtype=self.dtype, name="predict")(
            x
        ).astype(jnp.float32)
        return models_patches.permute_tokens(x, masking.restore, masking.order) if all_tokens else x


class CrossAttention(nn.Module):
    """Attention of queries to a context, without input biases."""

    dim: int
    num_heads: int
    attention: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, queries: Float[Array, "batch queries dim"], context: Float[Array, "batch keys dim"]
    ) -> Float[Array, "batch queries dim"]:
        head_dim = self.dim // self.num_heads
        options = {"use_bias": False, "fan_out": self.dim, "dtype": self.dtype}
        query = layers.Dense(
            (self.num_heads, head_dim), ("embed", "heads", "kv"), name="query", **options
        )(queries)
        packed = layers.Dense(
            (2, self.num_heads, head_dim), ("embed", None, "heads", "kv"), name="kv", **options
        )(context)
        y = attend(query, packed[:, :, 0], packed[:, :, 1], self.attention)
        return layers.Dense((self.dim,), ("heads", "kv", "embed"), 2, dtype=self.dtype, name="out")(
            y
        )


class ChannelDecoder(nn.Module):
    """The CA-MAE decoder: each channel's tokens attend once to all patch tokens, then go through
    that channel's blocks.

    Tokens get their position and a learned token of their channel. For channel m, without a
    residual around the cross attention: x_m = attend(norm(x_m), norm(all)); x_m += mlp(norm(x_m));
    x_m = blocks_m(x_m). There is no last norm. The parameters of all channels of the vocabulary are
    stacked, and `channels` picks the ones at hand.
    """

    dim: int
    class_token: bool
    patch_dim: int
    norm_eps: float
    stack: layers.Options
    dtype: DTypeLike
    num_channels: int
    cross_heads: int

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "batch tokens embed"],
        positions: Float[Array, "seq dim"],
        channels: Int[Array, "batch channel"],
        masking: Masking,
        all_tokens: bool,
    ) -> Float[Array, "batch predicted patch"]:
        """As `Decoder`, with `channels` ids into the vocabulary, equal in all rows."""
        batch, seq, extra = tokens.shape[0], masking.order.shape[1], int(self.class_token)
        ids, count = channels[0], channels.shape[1]
        norm = lambda name: layers.LayerNorm(self.norm_eps, self.dtype, name=name)  # noqa: E731
        x = layers.Dense((self.dim,), ("embed", None), dtype=self.dtype, name="embed")(tokens)
        masked = (batch, seq - masking.visible, self.dim)
        masked = jnp.broadcast_to(mask_token_param(self, self.dim), masked).astype(self.dtype)
        # the class token ends here: no channel's decoder sees it
        x = jnp.concatenate([x[:, extra:], masked], axis=1)
        x = models_patches.permute_tokens(x, masking.restore, masking.order)
        channel_tokens = self.param(
            "channel_tokens",
            nn.with_logical_partitioning(nn.initializers.normal(0.02), ("channel", None)),
            (self.num_channels, self.dim),
            jnp.float32,
        )[ids]
        x = layers.add(
            x,
            (positions.reshape(count, -1, self.dim) + channel_tokens[:, None]).reshape(
                seq, self.dim
            ),
        )
        x = nn.with_logical_constraint(x, ("batch", None, None))
        options = {"attention": self.stack["options"]["attention"], "dtype": self.dtype}
        cross = CrossAttention(self.dim, self.cross_heads, name="cross_attention", **options)
        # Queries of different channels do not see each other here, so one call serves all channels.
        x = cross(norm("query_norm")(x), norm("context_norm")(x))
        mlp_dim, gelu = self.stack["options"]["mlp_dim"], self.stack["options"]["gelu"]
        x = x + vit.Mlp(mlp_dim, gelu, self.dtype, name="mlp")(norm("out_norm")(x))
        x = self.channel_blocks(x.reshape(batch, count, -1, self.dim), ids).reshape(
            batch, seq, self.dim
        )
        if not all_tokens:
            x = models_patches.permute_tokens(x, masking.order, masking.restore)[
                :, masking.visible :
            ]
        return layers.Dense(
            (self.patch_dim,), ("embed", "patch"), dtype=self.dtype, name="predict"
        )(x).astype(jnp.float32)

    def channel_blocks(
        self, x: Float[Array, "batch channel seq dim"], ids: Int[Array, " channel"]
    ) -> Float[Array, "batch channel seq dim"]:
        """Tokens through the stack of their channel; parameters have a leading vocabulary axis."""
        stack = vit.BlockStack(**self.stack, parent=None)
        one = jnp.zeros((1, 1, self.dim), self.dtype)

        def init(key: Key[Array, ""]) -> Params:
            keys = jax.random.split(key, self.num_channels)
            stacked = jax.vmap(lambda k: nn.unbox(stack.init(k, one)["params"]))(keys)
            boxes = jax.eval_shape(lambda: stack.init(key, one)["params"])
            is_box = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)  # noqa: E731
            add_axis = lambda box, value: nn.LogicallyPartitioned(value, ("channel", *box.names))  # noqa: E731
            return jax.tree.map(add_axis, boxes, stacked, is_leaf=is_box)

        chosen = jax.tree.map(lambda leaf: leaf[ids], self.param("channel_blocks", init))
        return jax.vmap(
            lambda params, y: stack.apply({"params": params}, y), in_axes=(0, 1), out_axes=1
        )(chosen, x)


def mask_token_param(module: nn.Module, dim: int) -> Float[Array, " dim"]:
    """The learned token that stands at every masked place of a decoder."""
    return module.param(
        "mask_token",
        nn.with_logical_partitioning(nn.initializers.normal(0.02), (None,)),
        (dim,),
        jnp.float32,
    )

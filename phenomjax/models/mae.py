"""Masked autoencoders of multi-channel images: the standard one, and the channel-agnostic one
(CA-MAE).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Num

from phenomjax.models import layers, vit
from phenomjax.models import patches as models_patches
from phenomjax.models.attention import attention as attend


class Masking(NamedTuple):
    """Which tokens the encoder saw: `order` and `restore` of `layers.token_order`, and how many
    come first as seen.
    """

    order: Array
    restore: Array
    visible: int

    @property
    def mask(self) -> Array:
        """(batch, seq) float32 in the natural order of tokens, 1 where masked."""
        return (self.restore >= self.visible).astype(jnp.float32)


class Prediction(NamedTuple):
    """What a masked pass returns: predicted and true patches, float32, of the masked tokens in the
    order of the masking, or of all tokens in their natural order.
    """

    prediction: Array
    target: Array
    masking: Masking


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
    stack: Mapping[str, Any]
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        positions: Array,
        channels: Array | None,
        masking: Masking,
        all_tokens: bool,
    ) -> Array:
        """Encoder tokens (batch, [1 +] visible, embed) and the table (seq, dim) -> patches (batch,
        masked or seq, patch).
        """
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
    """Attention of queries (batch, queries, dim) to a context (batch, keys, dim), without input
    biases.
    """

    dim: int
    num_heads: int
    attention: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, queries: Array, context: Array) -> Array:
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
    stack: Mapping[str, Any]
    dtype: DTypeLike
    num_channels: int
    cross_heads: int

    @nn.compact
    def __call__(
        self, tokens: Array, positions: Array, channels: Array, masking: Masking, all_tokens: bool
    ) -> Array:
        """As `Decoder`, with `channels` (batch, C) ids into the vocabulary, equal in all rows."""
        batch, seq, extra, ids = (
            tokens.shape[0],
            masking.order.shape[1],
            int(self.class_token),
            channels[0],
        )
        count, norm = (
            ids.shape[0],
            lambda name: layers.LayerNorm(self.norm_eps, self.dtype, name=name),
        )
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

    def channel_blocks(self, x: Array, ids: Array) -> Array:
        """(batch, C, N, dim) through the stack of each channel; parameters have a leading
        vocabulary axis.
        """
        stack = vit.BlockStack(**self.stack, parent=None)
        one = jnp.zeros((1, 1, self.dim), self.dtype)

        def init(key: Array) -> Any:
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


def mask_token_param(module: nn.Module, dim: int) -> Array:
    """The learned token that stands at every masked place of a decoder."""
    return module.param(
        "mask_token",
        nn.with_logical_partitioning(nn.initializers.normal(0.02), (None,)),
        (dim,),
        jnp.float32,
    )


class MAE(nn.Module):
    """Encoder and decoder of a masked autoencoder.

    Attributes:
      patch_size: pixels along an edge.
      num_channels: channels of the images; of the whole vocabulary if channel-agnostic.
      channel_agnostic: tokens of single channels, embedded by one shared patch projection; the
        encoder is not told which channel a token is from, the decoder is.
      encoder: attributes of `vit.Encoder`.
      decoder: attributes of `Decoder` or `ChannelDecoder` but `patch_dim` and `num_channels`.
      norm_eps: epsilon of the encoder's last norm.
    """

    patch_size: int
    num_channels: int
    channel_agnostic: bool
    encoder: Mapping[str, Any]
    decoder: Mapping[str, Any]
    norm_eps: float
    dtype: DTypeLike

    def setup(self) -> None:
        self.encode = vit.Encoder(**self.encoder, dtype=self.dtype, name="encoder")
        self.norm = layers.LayerNorm(self.norm_eps, self.dtype, name="norm")
        options = {**self.decoder, "dtype": self.dtype, "class_token": self.encoder["class_token"]}
        if self.channel_agnostic:
            self.decode = ChannelDecoder(
                patch_dim=self.patch_size**2,
                num_channels=self.num_channels,
                **options,
                name="decoder",
            )
        else:
            self.decode = Decoder(
                patch_dim=self.patch_size**2 * self.num_channels, **options, name="decoder"
            )

    def __call__(
        self,
        pixels: Num[Array, "batch height width channel"],
        channels: Int[Array, "batch channel"],
        noise: Float[Array, "batch seq"],
        visible: int,
        drop: Array | None = None,
        all_tokens: bool = False,
    ) -> Prediction:
        """Masks, encodes the visible patches, and predicts the masked ones.

        Args:
          pixels: raw 8- or 16-bit images.
          channels: ids into the vocabulary.
          noise: the `visible` tokens with the smallest noise are seen.
          visible: how many tokens the encoder sees.
          drop: drop-path scales (depth, batch, branches) of the encoder, or None.
          all_tokens: predict every token, in natural order, instead of the masked ones alone.
        """
        patches = self.patches(pixels)
        masking = Masking(*models_patches.token_order(noise), visible)
        latent = self.latent(pixels, masking, drop)
        positions = self.positions(pixels, self.decoder["dim"])
        prediction = self.decode(latent, positions, channels, masking, all_tokens)
        target = (
            patches
            if all_tokens
            else models_patches.take_tokens(patches, masking.order[:, visible:])
        )
        return Prediction(prediction, target, masking)

    def latent(self, pixels: Array, masking: Masking, drop: Array | None = None) -> Array:
        """What the decoder is given: tokens of the visible patches (batch, [1 +] visible, embed)."""
        seen = masking.order[:, : masking.visible]
        # before the projection: it is applied to these alone
        visible = models_patches.take_tokens(self.patches(pixels), seen)
        tokens = self.encode(visible, self.positions(pixels, self.encoder["embed_dim"])[seen], drop)
        return self.last_norm(tokens)

    def last_norm(self, tokens: Array) -> Array:
        """The encoder's last norm where it is applied to tokens; the channel-agnostic layout norms
        the pooled token only.
        """
        normed = self.norm(tokens)
        return tokens if self.channel_agnostic else normed

    def tokens(
        self, pixels: Num[Array, "batch height width channel"]
    ) -> Float[Array, "batch seq embed"]:
        """Tokens of the last block without any mask (batch, [1 +] seq, embed), float32."""
        table = self.positions(pixels, self.encoder["embed_dim"])[None]
        return self.last_norm(self.encode(self.patches(pixels), table)).astype(jnp.float32)

    def block_tokens(
        self, pixels: Num[Array, "batch height width channel"], blocks: tuple[int, ...]
    ) -> tuple[Float[Array, "batch seq embed"], ...]:
        """`tokens` of several blocks, counted from 1, as they leave the block; the last one's as
        `tokens` has them.
        """
        table = self.positions(pixels, self.encoder["embed_dim"])[None]
        outputs = self.encode(self.patches(pixels), table, None, blocks)
        depth = self.encoder["stack"]["depth"]
        finished = [
            self.last_norm(x) if number == depth else x
            for number, x in zip(blocks, outputs, strict=True)
        ]
        return tuple(x.astype(jnp.float32) for x in finished)

    def pooled(
        self, pixels: Num[Array, "batch height width channel"]
    ) -> Float[Array, "batch embed"]:
        """The pooled head of the published layouts: the mean patch token, normed, or else the
        normed class token.
        """
        tokens = self.tokens(pixels)
        if not self.channel_agnostic:
            return tokens[:, 0]
        return self.norm(tokens[:, int(self.encoder["class_token"]) :].mean(1)).astype(jnp.float32)

    def patches(self, pixels: Array) -> Array:
        """Standardised patches (batch, seq, patch) in float32."""
        return models_patches.patchify(
            models_patches.self_standardise(pixels), self.patch_size, self.channel_agnostic
        )

    def positions(self, pixels: Array, dim: int) -> Array:
        """The position table (seq, dim), repeated for every channel if tokens are single channels."""
        rows, columns = pixels.shape[1] // self.patch_size, pixels.shape[2] // self.patch_size
        table = models_patches.sincos_positions(rows, columns, dim)
        return jnp.tile(table, (pixels.shape[3], 1)) if self.channel_agnostic else table

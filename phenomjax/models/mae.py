"""Masked autoencoders of multi-channel images: the standard one, and the channel-agnostic one
(CA-MAE).
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Num
from ml_collections import ConfigDict

from phenomjax.models import layers, vit
from phenomjax.models import patches as models_patches
from phenomjax.models.mae_decoders import ChannelDecoder, Decoder, Masking

Pixels = Num[Array, "batch height width channel"]
Drop = Float[Array, "depth batch branch"] | None


class Prediction(NamedTuple):
    """What a masked pass returns: predicted and true patches, float32, of the masked tokens in the
    order of the masking, or of all tokens in their natural order.
    """

    prediction: Float[Array, "batch tokens patch"]
    target: Float[Array, "batch tokens patch"]
    masking: Masking


class MAE(nn.Module):
    """Encoder and decoder of a masked autoencoder.

    Attributes:
      patch_size: pixels along an edge.
      position_grid: of `patches.places`.
      num_channels: channels of the images; of the whole vocabulary if channel-agnostic.
      channel_agnostic: tokens of single channels, embedded by one shared patch projection; the
        encoder is not told which channel a token is from, the decoder is.
      encoder: attributes of `vit.Encoder`.
      decoder: attributes of `Decoder` or `ChannelDecoder` but `patch_dim` and `num_channels`.
      norm_eps: epsilon of the encoder's last norm.
    """

    patch_size: int
    position_grid: float
    num_channels: int
    channel_agnostic: bool
    encoder: layers.Options
    decoder: layers.Options
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
        pixels: Pixels,
        channels: Int[Array, "batch channel"],
        noise: Float[Array, "batch seq"],
        visible: int,
        drop: Drop = None,
        all_tokens: bool = False,
    ) -> Prediction:
        """Masks, encodes the visible patches, and predicts the masked ones.

        Args:
          pixels: raw 8- or 16-bit images.
          channels: ids into the vocabulary.
          noise: the `visible` tokens with the smallest noise are seen.
          visible: how many tokens the encoder sees.
          drop: drop-path scales of the encoder, or None.
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

    def latent(
        self, pixels: Pixels, masking: Masking, drop: Drop = None
    ) -> Float[Array, "batch tokens embed"]:
        """What the decoder is given: the class token, if any, and those of the visible patches."""
        seen = masking.order[:, : masking.visible]
        # before the projection: it is applied to these alone
        visible = models_patches.take_tokens(self.patches(pixels), seen)
        tokens = self.encode(visible, self.positions(pixels, self.encoder["embed_dim"])[seen], drop)
        return self.last_norm(tokens)

    def last_norm(self, tokens: Float[Array, "batch seq embed"]) -> Float[Array, "batch seq embed"]:
        """The encoder's last norm where it is applied to tokens; the channel-agnostic layout norms
        the pooled token only.
        """
        normed = self.norm(tokens)
        return tokens if self.channel_agnostic else normed

    def tokens(self, pixels: Pixels) -> Float[Array, "batch seq embed"]:
        """Tokens of the last block without any mask (batch, [1 +] seq, embed), float32."""
        table = self.positions(pixels, self.encoder["embed_dim"])[None]
        return self.last_norm(self.encode(self.patches(pixels), table)).astype(jnp.float32)

    def block_tokens(
        self, pixels: Pixels, blocks: tuple[int, ...]
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

    def pooled(self, pixels: Pixels) -> Float[Array, "batch embed"]:
        """The pooled head of the published layouts: the mean patch token, normed, or else the
        normed class token.
        """
        tokens = self.tokens(pixels)
        if not self.channel_agnostic:
            return tokens[:, 0]
        return self.norm(tokens[:, int(self.encoder["class_token"]) :].mean(1)).astype(jnp.float32)

    def patches(self, pixels: Pixels) -> Float[Array, "batch seq patch"]:
        """Standardised patches in float32."""
        return models_patches.patchify(
            models_patches.self_standardise(pixels), self.patch_size, self.channel_agnostic
        )

    def positions(self, pixels: Pixels, dim: int) -> Float[Array, "seq dim"]:
        """The position table, repeated for every channel if tokens are single channels."""
        rows, columns = pixels.shape[1] // self.patch_size, pixels.shape[2] // self.patch_size
        table = models_patches.sincos_positions(rows, columns, dim, self.position_grid)
        return jnp.tile(table, (pixels.shape[3], 1)) if self.channel_agnostic else table


def num_tokens(model: ConfigDict, shape: tuple[int, ...]) -> int:
    """Tokens of an image batch (batch, height, width, C)."""
    _, height, width, channels = shape
    patches = (height // model.patch_size) * (width // model.patch_size)
    return patches * channels if model.channel_agnostic else patches


def build(model: ConfigDict, dtype: DTypeLike) -> MAE:
    """The linen module of a model configuration."""
    shared = {"gelu": model.gelu, "attention": model.attention, "dtype": dtype}
    layout = {"scan_layers": model.scan_layers, "remat": model.remat}
    decoder_block = {
        "num_heads": model.decoder_num_heads,
        "mlp_dim": 4 * model.decoder_dim,
        "qk_norm": False,
        "layer_scale": 0.0,
        "bias_order": "mlp",
        "norm_eps": model.decoder_norm_eps,
        **shared,
    }
    decoder = {
        "dim": model.decoder_dim,
        "norm_eps": model.decoder_norm_eps,
        "stack": {
            "block": "prenorm",
            "options": decoder_block,
            "depth": model.decoder_depth,
            **layout,
        },
    }
    if model.channel_agnostic:
        decoder["cross_heads"] = 8
    return MAE(
        patch_size=model.patch_size,
        position_grid=model.position_grid,
        num_channels=len(model.channels),
        channel_agnostic=model.channel_agnostic,
        encoder=vit.encoder_options(model, dtype),
        decoder=decoder,
        norm_eps=model.norm_eps,
        dtype=dtype,
    )

"""Masked autoencoders (standard and channel-agnostic) as a pretraining task: pure functions over parameters and a batch."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from phenomjax.errors import UserError
from phenomjax.models import layers, losses, vit
from phenomjax.models.mae import MAE, Masking, Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phenomjax.data.loader import ImageLoader

MASK_STREAM, DROP_PATH_STREAM = 0, 1  # folded into the step's key before the row
EVALUATION_SEED = 0  # masks of the validation set: the same at every evaluation and in every run


class MaskedAutoencoder:
    """The masked-autoencoder objective, made from a finalized config; its methods are pure functions.

    Args:
      config: reads `model.*`, `data.*`, `seed` and `global_batch_size`.

    Raises:
      UserError: a value of `model.*` that no model can be made from.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        check(config)

    @functools.cached_property
    def model(self) -> MAE:
        """The linen module; made on first use, because the automatic compute type asks for the backend."""
        return build(self.config.model, layers.compute_dtype(self.config.model.dtype))

    def loader(self, split: str, process_index: int, process_count: int) -> "ImageLoader":
        """The loader of "train" or "val" crops of the configured banks."""
        from phenomjax.data.bank import open_bank
        from phenomjax.data.loader import ImageLoader

        data = self.config.data
        return ImageLoader(
            [open_bank(path) for path in data.banks],
            channels=self.config.model.channels, weights=data.weights, split=split, split_by=data.split_by,
            val_groups=data.val_groups, val_fraction=data.val_fraction, crop_size=data.crop_size,
            crops_per_image=data.crops_per_image, flip=data.flip, rotate=data.rotate, seed=self.config.seed,
            global_batch_size=self.config.global_batch_size, process_index=process_index, process_count=process_count,
            threads=data.threads, prefetch_batches=data.prefetch_batches, on_bad_image=data.on_bad_image,
            max_bad_images=data.max_bad_images,
        )  # fmt: skip

    def init(self, key: Array, batch: Mapping[str, Any]) -> Any:
        """Fresh parameters, float32, in their boxes of logical axis names; works under `jax.eval_shape`."""
        tokens = self.num_tokens(batch["pixels"].shape)
        noise = jnp.zeros((batch["pixels"].shape[0], tokens))
        visible = layers.num_visible(tokens, self.config.model.mask_ratio)
        return self.model.init(key, batch["pixels"], batch["channels"], noise, visible)["params"]

    def carry(self, global_batch_size: int) -> tuple[()]:
        """Nothing is carried from step to step."""
        return ()

    def loss(self, params: Any, batch: Mapping[str, Array], key: Array, carry: tuple[()]) -> tuple[Array, dict[str, Array], tuple[()]]:
        """The training loss of a batch: mean over its rows, each with its own mask and drop path.

        Args:
          params: unboxed parameters.
          batch: `pixels`, `channels`, `row` (and `image`, unread).
          key: key of the step; draws come from (key, row) alone, so they survive any split of the batch.
          carry: `()`.

        Returns:
          (loss, metrics, carry): float32 scalars; metrics are `squared_error` and, where it has a weight, `fourier`.
        """
        model = self.config.model
        noise = layers.uniform_rows(
            jax.random.fold_in(key, MASK_STREAM), batch["row"], (self.num_tokens(batch["pixels"].shape),)
        )
        drop = None
        if model.drop_path:
            drop = layers.drop_path_scales(
                jax.random.fold_in(key, DROP_PATH_STREAM), batch["row"], model.drop_path, model.depth, vit.BRANCHES[model.block]
            )
        parts, _ = self.row_losses(params, batch, noise, drop)
        means = {name: value.mean() for name, value in parts.items()}
        return means.pop("loss"), means, carry

    def evaluate(self, params: Any, batch: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """Sums and counts over the rows of a validation batch, under masks that depend on the image alone.

        Besides the parts of the loss there is `loss_visible_mean`: the squared error of predicting, everywhere in a
        channel, the mean of that channel's visible pixels. A model that has learnt nothing does not beat it.
        """
        noise = self.evaluation_noise(batch)
        parts, prediction = self.row_losses(params, batch, noise, None)
        parts["loss_visible_mean"] = self.visible_mean_error(batch, prediction.masking)
        count = jnp.float32(noise.shape[0])
        return {name: (value.sum(), count) for name, value in parts.items()}

    def embed(self, params: Any, batch: Mapping[str, Array], channelwise: bool = False) -> Array:
        """Embeddings without a mask: the mean of the patch tokens.

        Args:
          channelwise: of a channel-agnostic model, one embedding a channel, side by side.

        Returns:
          (batch, embed) float32; channelwise (batch, C * embed).
        """
        tokens = self.model.apply({"params": params}, batch["pixels"], method="tokens")
        tokens = tokens[:, int(self.config.model.class_token) :]
        if not channelwise:
            return tokens.mean(1)
        if not self.config.model.channel_agnostic:
            raise UserError(
                "Channelwise embeddings need a channel-agnostic model, whose tokens belong to single channels; this one "
                "was trained with model.channel_agnostic=False. Leave channelwise out, or train a CA-MAE."
            )
        rows, channels = tokens.shape[0], batch["pixels"].shape[3]
        return tokens.reshape(rows, channels, -1, tokens.shape[-1]).mean(2).reshape(rows, -1)

    def figures(self, params: Any, batch: Mapping[str, Array]) -> "dict[str, Figure]":
        """Reconstructions of the batch's images under the fixed evaluation masks."""
        from phenomjax.figures import reconstructions

        original, visible, reconstruction = (np.asarray(x) for x in jax.jit(self.reconstruct)(params, batch))
        names = [self.config.model.channels[index] for index in np.asarray(batch["channels"])[0]]
        return {"reconstruction": reconstructions(original, visible, reconstruction, names)}

    def reconstruct(self, params: Any, batch: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        """Standardised images, which of their pixels the encoder saw, and the predicted images.

        Returns:
          original (batch, height, width, C) float32, visible likewise but bool, reconstruction likewise float32: the
          model's prediction at masked places and the original at visible ones. With `norm_pix_loss` the prediction is
          put back to the mean and spread of its true patch, which the model does not know.
        """
        _, height, width, channels = batch["pixels"].shape
        model = self.config.model
        out = self.predict(params, batch, self.evaluation_noise(batch), None, all_tokens=True)
        patches = out.prediction
        if model.norm_pix_loss:
            spread = jnp.sqrt(jnp.var(out.target, -1, keepdims=True, ddof=1) + 1e-6)
            patches = patches * spread + out.target.mean(-1, keepdims=True)
        seen = jnp.broadcast_to(out.masking.mask[..., None] == 0, patches.shape)
        patches = jnp.where(seen, out.target, patches)
        shape = (height, width, channels, model.patch_size, model.channel_agnostic)
        return tuple(layers.unpatchify(x, *shape) for x in (out.target, seen, patches))

    def flops(self, batch_spec: Mapping[str, Any]) -> float:
        """Model FLOPs of one training step: 3 x the forward pass, matrix products only, 2 a multiply-add.

        Args:
          batch_spec: {name: (global shape, dtype)}, or arrays.
        """
        shape = getattr(batch_spec["pixels"], "shape", None) or batch_spec["pixels"][0]
        return 3.0 * forward_flops(self.config.model, shape)

    # Shared by the above

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Tokens of an image batch (batch, height, width, C)."""
        return num_tokens(self.config.model, shape)

    def evaluation_noise(self, batch: Mapping[str, Array]) -> Array:
        return layers.uniform_rows(
            jax.random.key(EVALUATION_SEED), batch["image"], (self.num_tokens(batch["pixels"].shape),)
        )

    def predict(
        self, params: Any, batch: Mapping[str, Array], noise: Array, drop: Array | None, all_tokens: bool
    ) -> Prediction:
        """The masked forward pass; see `MAE.__call__`."""
        visible = layers.num_visible(noise.shape[1], self.config.model.mask_ratio)
        return self.model.apply({"params": params}, batch["pixels"], batch["channels"], noise, visible, drop, all_tokens)

    def row_losses(
        self, params: Any, batch: Mapping[str, Array], noise: Array, drop: Array | None
    ) -> tuple[dict[str, Array], Prediction]:
        """The loss and its parts for every row (batch,): (1 - a) squared error + a Fourier distance."""
        model = self.config.model
        weight = model.fourier_weight
        needs_all = weight > 0 and model.fourier_mode != "patch"
        out = self.predict(params, batch, noise, drop, all_tokens=needs_all)
        target = losses.normalise_patches(out.target) if model.norm_pix_loss else out.target
        prediction, masked = out.prediction, target
        if needs_all:
            hidden = out.masking.order[:, out.masking.visible :]
            masked, predicted = layers.take_tokens(target, hidden), layers.take_tokens(prediction, hidden)
        else:
            predicted = prediction
        parts = {"squared_error": losses.squared_error(predicted, masked)}
        parts["loss"] = parts["squared_error"]
        if weight:
            parts["fourier"] = self.fourier(prediction, target, out.masking, batch["pixels"].shape)
            parts["loss"] = (1.0 - weight) * parts["squared_error"] + weight * parts["fourier"]
        return parts, out

    def fourier(self, prediction: Array, target: Array, masking: Masking, shape: tuple[int, ...]) -> Array:
        """The Fourier distance of each row, in the configured mode."""
        model, (_, height, width, channels) = self.config.model, shape
        if model.fourier_mode == "patch":
            return losses.fourier_patch(prediction, target, 1 if model.channel_agnostic else channels)
        if model.fourier_mode == "legacy":
            return losses.fourier_legacy(prediction, target, masking.mask, channels if model.channel_agnostic else 1)
        layout = (height, width, channels, model.patch_size, model.channel_agnostic)
        return losses.fourier_image(layers.unpatchify(prediction, *layout), layers.unpatchify(target, *layout))

    def visible_mean_error(self, batch: Mapping[str, Array], masking: Masking) -> Array:
        """Squared error on the masked patches, per row, of each channel's mean over its visible pixels."""
        model, (rows, _, _, channels) = self.config.model, batch["pixels"].shape
        target = self.model.apply({"params": {}}, batch["pixels"], method="patches")
        target = losses.normalise_patches(target) if model.norm_pix_loss else target
        seen = 1.0 - masking.mask
        if model.channel_agnostic:  # (batch, C, tokens, pixels)
            pixels, seen = target.reshape(rows, channels, -1, target.shape[-1]), seen.reshape(rows, channels, -1, 1)
        else:
            pixels, seen = target.reshape(rows, target.shape[1], -1, channels).transpose(0, 3, 1, 2), seen[:, None, :, None]
        total = jnp.maximum(seen.sum(2, keepdims=True) * pixels.shape[-1], 1.0)
        mean = (pixels * seen).sum((2, 3), keepdims=True) / total
        error = jnp.square(pixels - mean) * (1.0 - seen)
        return error.sum((1, 2, 3)) / jnp.broadcast_to(1.0 - seen, pixels.shape).sum((1, 2, 3))


def check(config: ConfigDict) -> None:
    """Checks `model.*` and the crop size before anything is compiled.

    Raises:
      UserError: names the key and the mend.
    """
    model, crop = config.model, config.data.crop_size
    choices = {
        "block": tuple(vit.BRANCHES), "remat": vit.REMAT, "attention": layers.ATTENTION, "gelu": ("exact", "tanh"),
        "bias_order": ("mlp", "timm_legacy"), "fourier_mode": losses.FOURIER_MODES, "dtype": ("auto", "float32", "bfloat16"),
    }  # fmt: skip
    for key, allowed in choices.items():
        if model[key] not in allowed:
            raise UserError(f"model.{key} is {model[key]!r}; it can be {', '.join(allowed)}, e.g. --config.model.{key}={allowed[0]}.")
    if not model.channels:
        raise UserError(
            "model.channels is empty, so the model does not know how many channels its images have. It is filled from "
            "the banks: give one with --config.data.banks, or name the channels with --config.model.channels."
        )
    if crop % model.patch_size:
        raise UserError(
            f"data.crop_size {crop} is not a multiple of model.patch_size {model.patch_size}. "
            f"Use --config.data.crop_size={max(crop // model.patch_size, 2) * model.patch_size}."
        )
    for dim, heads in (("embed_dim", "num_heads"), ("decoder_dim", "decoder_num_heads")):
        if model[dim] % model[heads] or model[dim] % 4:
            raise UserError(
                f"model.{dim} {model[dim]} must be a multiple of 4 and of model.{heads} {model[heads]}. "
                f"Change one of them, e.g. --config.model.{dim}={model[heads] * 64}."
            )
    layers.num_visible(num_tokens(model, (1, crop, crop, len(model.channels))), model.mask_ratio)


def mlp_dim(model: ConfigDict) -> int:
    """Hidden units of the encoder's MLP."""
    return round(model.embed_dim * model.mlp_ratio)


def num_tokens(model: ConfigDict, shape: tuple[int, ...]) -> int:
    """Tokens of an image batch (batch, height, width, C)."""
    _, height, width, channels = shape
    patches = (height // model.patch_size) * (width // model.patch_size)
    return patches * channels if model.channel_agnostic else patches


def build(model: ConfigDict, dtype: Any) -> MAE:
    """The linen module of a model configuration."""
    shared = {"gelu": model.gelu, "attention": model.attention, "dtype": dtype}
    layout = {"scan_layers": model.scan_layers, "remat": model.remat}
    encoder_block = {
        "num_heads": model.num_heads, "mlp_dim": mlp_dim(model), "qk_norm": model.qk_norm,
        "layer_scale": model.layer_scale, "bias_order": model.bias_order, "norm_eps": model.norm_eps, **shared,
    }  # fmt: skip
    decoder_block = {
        "num_heads": model.decoder_num_heads, "mlp_dim": 4 * model.decoder_dim, "qk_norm": False, "layer_scale": 0.0,
        "bias_order": "mlp", "norm_eps": model.decoder_norm_eps, **shared,
    }  # fmt: skip
    decoder = {
        "dim": model.decoder_dim, "norm_eps": model.decoder_norm_eps,
        "stack": {"block": "prenorm", "options": decoder_block, "depth": model.decoder_depth, **layout},
    }  # fmt: skip
    if model.channel_agnostic:
        decoder["cross_heads"] = 8
    return MAE(
        patch_size=model.patch_size,
        num_channels=len(model.channels),
        channel_agnostic=model.channel_agnostic,
        encoder={
            "embed_dim": model.embed_dim, "class_token": model.class_token,
            "stack": {"block": model.block, "options": encoder_block, "depth": model.depth, **layout},
        },
        decoder=decoder,
        norm_eps=model.norm_eps,
        dtype=dtype,
    )  # fmt: skip


def forward_flops(model: ConfigDict, shape: tuple[int, ...]) -> float:
    """FLOPs of a masked forward pass over pixels (batch, height, width, C): matrix products, 2 a multiply-add.

    The encoder and the patch projection see the visible tokens (and the class token), the decoder all of them, and the
    pixel head the masked ones (all of them where the Fourier mode needs all). Fourier products are not counted.
    """
    batch, _, _, channels = shape
    tokens, extra = num_tokens(model, shape), int(model.class_token)
    visible = layers.num_visible(tokens, model.mask_ratio)
    patch = model.patch_size**2 * (1 if model.channel_agnostic else channels)
    embed, dim = model.embed_dim, model.decoder_dim

    def block(seq: int, width: int, hidden: int) -> float:
        return 2.0 * seq * (4 * width**2 + 2 * width * hidden) + 4.0 * seq**2 * width

    encoder = 2.0 * visible * patch * embed + model.depth * block(visible + extra, embed, mlp_dim(model))
    decoder = 2.0 * (visible + extra) * embed * dim
    if model.channel_agnostic:
        context = tokens + extra
        decoder += 2.0 * dim**2 * (2 * tokens + 2 * context) + 4.0 * tokens * context * dim + 16.0 * tokens * dim**2
        decoder += channels * model.decoder_depth * block(tokens // channels, dim, 4 * dim)
    else:
        decoder += model.decoder_depth * block(tokens + extra, dim, 4 * dim)
    everything = model.fourier_weight > 0 and model.fourier_mode != "patch"
    decoder += 2.0 * (tokens if everything else tokens - visible) * dim * patch
    return batch * (encoder + decoder)


def inference_flops(model: ConfigDict, shape: tuple[int, ...]) -> float:
    """FLOPs of `embed` on pixels (batch, height, width, C): the encoder over all tokens."""
    batch, _, _, channels = shape
    tokens, embed, hidden = num_tokens(model, shape), model.embed_dim, mlp_dim(model)
    seq, patch = tokens + int(model.class_token), model.patch_size**2 * (1 if model.channel_agnostic else channels)
    layer = 2.0 * seq * (4 * embed**2 + 2 * embed * hidden) + 4.0 * seq**2 * embed
    return batch * (2.0 * tokens * patch * embed + model.depth * layer)


def defaults() -> ConfigDict:
    """The keys that this task reads, with their defaults: `model` and `data` of `phenomjax.config.base()`."""
    from phenomjax.config import base

    config = base()
    return ConfigDict({"model": config.model, "data": config.data})

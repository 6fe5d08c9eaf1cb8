"""Masked autoencoders, standard and channel-agnostic, as a pretraining task: pure functions over
parameters and a batch.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from phenomjax.cluster import messages
from phenomjax.models import draws, flops, losses, parametrisation, vit
from phenomjax.models import mae as models_mae
from phenomjax.models import patches as models_patches
from phenomjax.models.mae import MAE, Prediction
from phenomjax.models.mae_decoders import Masking
from phenomjax.system.errors import UserError
from phenomjax.system.types import Batch, Figure, Params
from phenomjax.tasks import pictures
from phenomjax.tasks.image_objective import ImageObjective, row_sums
from phenomjax.tasks.protocol import Scalar, Sums

MASK_STREAM, DROP_PATH_STREAM = 0, 1  # folded into the step's key before the row
EVALUATION_SEED = 0  # masks of the validation set: the same at every evaluation and in every run


class MaskedAutoencoder(ImageObjective):
    """The masked-autoencoder objective, made from a finalized config; its methods are pure
    functions.

    Args:
      config: reads `model.*`, `data.*`, `seed` and `global_batch_size`.

    Raises:
      UserError: a value of `model.*` that no model can be made from.
    """

    training_only = ("decoder",)
    # what other decoders, and a run of another task, can begin with
    begins_with = ("encoder", "norm")

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        crop = config.data.crop_size
        # Raises now, not at the first batch, if the mask leaves nothing to see or to predict.
        models_patches.num_visible(
            self.num_tokens((1, crop, crop, len(config.model.channels))), config.model.mask_ratio
        )

    @functools.cached_property
    def model(self) -> MAE:
        """The linen module; made on first use, because the automatic compute type asks for the
        backend.
        """
        return models_mae.build(self.config.model, self.dtype)

    def init(self, key: Key[Array, ""], batch: Batch) -> Params:
        """Fresh parameters, float32, in their boxes of logical axis names; works under
        `jax.eval_shape`.
        """
        tokens = self.num_tokens(batch["pixels"].shape)
        noise = jnp.zeros((batch["pixels"].shape[0], tokens))
        visible = models_patches.num_visible(tokens, self.config.model.mask_ratio)
        args = batch["pixels"], batch["channels"], noise, visible
        return parametrisation.initialised(self.model.init(key, *args)["params"], self.config.model)

    def loss(
        self, params: Params, batch: Batch, key: Key[Array, ""], carry: tuple[()]
    ) -> tuple[Scalar, dict[str, Scalar], tuple[()]]:
        """The training loss of a batch: mean over its rows, each with its own mask and drop path.

        Args:
          params: unboxed parameters.
          batch: `pixels`, `channels`, `row` (and `image`, unread).
          key: key of the step; draws come from (key, row) alone, so they survive any split of the
            batch.
          carry: `()`.

        Returns:
          (loss, metrics, carry): float32 scalars; metrics are `squared_error` and, where it has a
          weight, `fourier`.
        """
        model = self.config.model
        noise = draws.uniform_rows(
            jax.random.fold_in(key, MASK_STREAM),
            batch["row"],
            (self.num_tokens(batch["pixels"].shape),),
        )
        drop = None
        if model.drop_path:
            drop = draws.drop_path_scales(
                jax.random.fold_in(key, DROP_PATH_STREAM),
                batch["row"],
                model.drop_path,
                model.depth,
                vit.BRANCHES[model.block],
            )
        parts, _ = self.row_losses(params, batch, noise, drop)
        means = {name: value.mean() for name, value in parts.items()}
        return means.pop("loss"), means, carry

    def evaluate(
        self, params: Params, batch: Batch, carry: tuple[()] = ()
    ) -> tuple[Sums, tuple[()]]:
        """Sums and counts over the rows of a validation batch, under masks that depend on the image
        alone.

        Besides the parts of the loss there is `loss_visible_mean`: the squared error of predicting,
        everywhere in a channel, the mean of that channel's visible pixels. A model that has learnt
        nothing does not beat it.
        """
        noise = self.evaluation_noise(batch)
        parts, prediction = self.row_losses(params, batch, noise, None)
        parts["loss_visible_mean"] = self.visible_mean_error(batch, prediction.masking)
        return row_sums(parts, batch), carry

    def embed(
        self,
        params: Params,
        batch: Batch,
        carry: tuple[()] = (),
        *,
        blocks: Sequence[int] = (),
        channelwise: bool = False,
    ) -> tuple[Float[Array, "batch blocks dim"], tuple[()]]:
        """Embeddings without a mask: the mean of the patch tokens, without the class token.

        Args:
          params: the encoder's are enough.
          batch: `pixels` (batch, height, width, C), uint8 or uint16 as they are in a bank.
          carry: `()`.
          blocks: of the encoder, numbers from 1; the last one if none is named. A block's tokens
            are taken as it gives them, those of the last one after the encoder's last norm in the
            standard layout. Blocks after the last one asked for are not computed.
          channelwise: of a channel-agnostic model, one embedding a channel, side by side: dim is
            C * embed.

        Raises:
          UserError: channelwise, of a model whose tokens mix the channels.
        """
        if channelwise and not self.config.model.channel_agnostic:
            raise UserError(
                "Channelwise embeddings need a channel-agnostic model, whose tokens belong to"
                " single channels; this one was trained with model.channel_agnostic=False. Leave"
                " channelwise out, or train a CA-MAE."
            )
        wanted = tuple(blocks) or (self.config.model.depth,)
        outputs = self.model.apply(
            {"params": params}, batch["pixels"], wanted, method="block_tokens"
        )
        rows, channels = batch["pixels"].shape[0], batch["pixels"].shape[3]
        means = []
        for tokens in outputs:
            tokens = tokens[:, int(self.config.model.class_token) :]
            if channelwise:
                tokens = tokens.reshape(rows, channels, -1, tokens.shape[-1])
                means.append(tokens.mean(2).reshape(rows, -1))
            else:
                means.append(tokens.mean(1))
        return jnp.stack(means, axis=1), ()

    def reconstruct(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Reconstructions under the fixed evaluation masks, for pictures.

        Returns:
          original (batch, height, width, C) float32, standardised; visible likewise but bool, what
          the encoder saw; reconstruction likewise float32, the prediction at masked places and the
          original at visible ones; channels (batch, C). With `norm_pix_loss` the prediction is put
          back to the mean and spread of its true patch, which the model does not know.
        """
        _, height, width, channels = batch["pixels"].shape
        model = self.config.model
        out = self.predict(params, batch, self.evaluation_noise(batch), None, all_tokens=True)
        patches = out.prediction
        if model.norm_pix_loss:
            spread = jnp.sqrt(jnp.var(out.target, -1, keepdims=True, ddof=1) + 1e-6)
            patches = patches * spread + out.target.mean(-1, keepdims=True)
        seen = jnp.broadcast_to(out.masking.mask[..., None] == 0, patches.shape)
        images = {
            "original": out.target,
            "visible": seen,
            "reconstruction": jnp.where(seen, out.target, patches),
        }
        shape = (height, width, channels, model.patch_size, model.channel_agnostic)
        return {name: models_patches.unpatchify(x, *shape) for name, x in images.items()} | {
            "channels": batch["channels"]
        }

    def figure(self, params: Params, batch: Batch, names: Sequence[str]) -> dict[str, Figure]:
        """Reconstructions of the first images; `names` are theirs."""
        arrays = pictures.computed(self.reconstruct, params, batch, len(names))
        if not messages.is_main():
            return {}
        from phenomjax.figures.reconstructions import reconstructions  # loads colour maps

        channels = [self.config.model.channels[index] for index in arrays["channels"][0]]
        drawn = reconstructions(
            arrays["original"],
            arrays["visible"],
            arrays["reconstruction"],
            channels,
            image_names=names,
        )
        return {"reconstruction": drawn}

    def flops(self, batch: Batch) -> float:
        """Model FLOPs of one training step: 3 x the forward pass."""
        return 3.0 * flops.masked_autoencoder(self.config.model, batch["pixels"].shape)

    @property
    def embedding_dim(self) -> int:
        return self.config.model.embed_dim

    @property
    def num_blocks(self) -> int:
        return self.config.model.depth

    @property
    def pixels_multiple(self) -> int:
        return self.config.model.patch_size

    # Shared by the above

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Tokens of an image batch (batch, height, width, C)."""
        return models_mae.num_tokens(self.config.model, shape)

    def evaluation_noise(self, batch: Batch) -> Float[Array, "batch seq"]:
        """What masks a validation batch: it depends on the image alone."""
        shape = (self.num_tokens(batch["pixels"].shape),)
        return draws.uniform_rows(jax.random.key(EVALUATION_SEED), batch["image"], shape)

    def predict(
        self,
        params: Params,
        batch: Batch,
        noise: Float[Array, "batch seq"],
        drop: Float[Array, "layer batch branch"] | None,
        all_tokens: bool,
    ) -> Prediction:
        """The masked forward pass; see `MAE.__call__`."""
        visible = models_patches.num_visible(noise.shape[1], self.config.model.mask_ratio)
        return self.model.apply(
            {"params": params}, batch["pixels"], batch["channels"], noise, visible, drop, all_tokens
        )

    def row_losses(
        self,
        params: Params,
        batch: Batch,
        noise: Float[Array, "batch seq"],
        drop: Float[Array, "layer batch branch"] | None,
    ) -> tuple[dict[str, Float[Array, " batch"]], Prediction]:
        """The loss and its parts for every row (batch,): (1 - a) squared error + a Fourier
        distance.
        """
        model = self.config.model
        weight = model.fourier_weight
        needs_all = weight > 0 and model.fourier_mode != "patch"
        out = self.predict(params, batch, noise, drop, all_tokens=needs_all)
        target = losses.normalise_patches(out.target) if model.norm_pix_loss else out.target
        prediction, masked = out.prediction, target
        if needs_all:
            hidden = out.masking.order[:, out.masking.visible :]
            masked, predicted = (
                models_patches.take_tokens(target, hidden),
                models_patches.take_tokens(prediction, hidden),
            )
        else:
            predicted = prediction
        parts = {"squared_error": losses.squared_error(predicted, masked)}
        parts["loss"] = parts["squared_error"]
        if weight:
            parts["fourier"] = self.fourier(prediction, target, out.masking, batch["pixels"].shape)
            parts["loss"] = (1.0 - weight) * parts["squared_error"] + weight * parts["fourier"]
        return parts, out

    def fourier(
        self,
        prediction: Float[Array, "batch tokens patch"],
        target: Float[Array, "batch tokens patch"],
        masking: Masking,
        shape: tuple[int, ...],
    ) -> Float[Array, " batch"]:
        """The Fourier distance of each row, in the configured mode."""
        model, (_, height, width, channels) = self.config.model, shape
        if model.fourier_mode == "patch":
            return losses.fourier_patch(
                prediction, target, 1 if model.channel_agnostic else channels
            )
        if model.fourier_mode == "legacy":
            return losses.fourier_legacy(
                prediction, target, masking.mask, channels if model.channel_agnostic else 1
            )
        layout = (height, width, channels, model.patch_size, model.channel_agnostic)
        return losses.fourier_image(
            models_patches.unpatchify(prediction, *layout),
            models_patches.unpatchify(target, *layout),
        )

    def visible_mean_error(self, batch: Batch, masking: Masking) -> Float[Array, " batch"]:
        """Squared error on the masked patches, per row, of each channel's mean over its visible
        pixels.
        """
        model, (rows, _, _, channels) = self.config.model, batch["pixels"].shape
        target = self.model.apply({"params": {}}, batch["pixels"], method="patches")
        target = losses.normalise_patches(target) if model.norm_pix_loss else target
        seen = 1.0 - masking.mask
        if model.channel_agnostic:  # (batch, C, tokens, pixels)
            pixels, seen = (
                target.reshape(rows, channels, -1, target.shape[-1]),
                seen.reshape(rows, channels, -1, 1),
            )
        else:
            pixels, seen = (
                target.reshape(rows, target.shape[1], -1, channels).transpose(0, 3, 1, 2),
                seen[:, None, :, None],
            )
        total = jnp.maximum(seen.sum(2, keepdims=True) * pixels.shape[-1], 1.0)
        mean = (pixels * seen).sum((2, 3), keepdims=True) / total
        error = jnp.square(pixels - mean) * (1.0 - seen)
        return error.sum((1, 2, 3)) / jnp.broadcast_to(1.0 - seen, pixels.shape).sum((1, 2, 3))


Objective = MaskedAutoencoder  # what config.task "mae" means

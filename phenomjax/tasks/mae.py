"""Masked autoencoders, standard and channel-agnostic, as a pretraining task: pure functions over
parameters and a batch.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from phenomjax.cluster import messages
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.opening import open_bank
from phenomjax.data.images.split import split_rows
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.models import draws, layers, losses, vit
from phenomjax.models import patches as models_patches
from phenomjax.models.mae import MAE, Masking, Prediction
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phenomjax.data.images.loader import ImageLoader

MASK_STREAM, DROP_PATH_STREAM = 0, 1  # folded into the step's key before the row
EVALUATION_SEED = 0  # masks of the validation set: the same at every evaluation and in every run


class MaskedAutoencoder:
    """The masked-autoencoder objective, made from a finalized config; its methods are pure
    functions.

    Args:
      config: reads `model.*`, `data.*`, `seed` and `global_batch_size`.

    Raises:
      UserError: a value of `model.*` that no model can be made from.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        crop = config.data.crop_size
        # Raises now, not at the first batch, if the mask leaves nothing to see or to predict.
        models_patches.num_visible(
            self.num_tokens((1, crop, crop, len(config.model.channels))), config.model.mask_ratio
        )

    @staticmethod
    def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
        """Simulates the banks if that is asked for, and fills `data.banks` and `model.channels`.

        Args:
          config: finalized.
          workdir: where a simulated bank goes; only process 0 writes.

        Raises:
          UserError: the banks' channels do not fit each other or `model.channels`.
        """
        with config.copy_and_resolve_references().unlocked() as config:
            if not config.data.banks:
                config.data.banks = (str(simulate_bank(config, workdir)),)
            config.model.channels = vocabulary(
                config, [open_bank(path) for path in config.data.banks]
            )
        return config.lock()

    @functools.cached_property
    def model(self) -> MAE:
        """The linen module; made on first use, because the automatic compute type asks for the
        backend.
        """
        return build(self.config.model, layers.compute_dtype(self.config.model.dtype))

    def loader(self, split: str, process_index: int, process_count: int) -> "ImageLoader | None":
        """The loader of "train" or "val" crops of the configured banks; None for "val" if nothing
        is held out.
        """
        from phenomjax.data.images.loader import ImageLoader

        data = self.config.data
        banks = [open_bank(path) for path in data.banks]
        groups = {
            "split_by": data.split_by,
            "val_groups": data.val_groups,
            "val_fraction": data.val_fraction,
        }
        if split == "val" and sum(map(len, split_rows(banks, "train", **groups))) == sum(
            map(len, banks)
        ):
            return None
        return ImageLoader(
            banks,
            channels=self.config.model.channels,
            weights=data.weights,
            split=split,
            **groups,
            crop_size=data.crop_size,
            crops_per_image=data.crops_per_image,
            flip=data.flip,
            rotate=data.rotate,
            seed=self.config.seed,
            global_batch_size=self.config.global_batch_size,
            process_index=process_index,
            process_count=process_count,
            threads=data.threads,
            prefetch_batches=data.prefetch_batches,
            on_bad_image=data.on_bad_image,
            max_bad_images=data.max_bad_images,
        )

    def init(self, key: Array, batch: Mapping[str, Any]) -> Any:
        """Fresh parameters, float32, in their boxes of logical axis names; works under
        `jax.eval_shape`.
        """
        tokens = self.num_tokens(batch["pixels"].shape)
        noise = jnp.zeros((batch["pixels"].shape[0], tokens))
        visible = models_patches.num_visible(tokens, self.config.model.mask_ratio)
        return self.model.init(key, batch["pixels"], batch["channels"], noise, visible)["params"]

    def carry(self, global_batch_size: int, split: str = "train") -> tuple[()]:
        """Nothing is carried from step to step."""
        return ()

    def loss(
        self, params: Any, batch: Mapping[str, Array], key: Array, carry: tuple[()]
    ) -> tuple[Array, dict[str, Array], tuple[()]]:
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
        self, params: Any, batch: Mapping[str, Array], carry: tuple[()] = ()
    ) -> tuple[dict[str, tuple[Array, Array]], tuple[()]]:
        """Sums and counts over the rows of a validation batch, under masks that depend on the image
        alone.

        Besides the parts of the loss there is `loss_visible_mean`: the squared error of predicting,
        everywhere in a channel, the mean of that channel's visible pixels. A model that has learnt
        nothing does not beat it.
        """
        noise = self.evaluation_noise(batch)
        parts, prediction = self.row_losses(params, batch, noise, None)
        parts["loss_visible_mean"] = self.visible_mean_error(batch, prediction.masking)
        count = jnp.float32(noise.shape[0])
        return {name: (value.sum(), count) for name, value in parts.items()}, carry

    def derive(self, means: dict[str, float]) -> dict[str, float]:
        """Nothing follows from the means."""
        return {}

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
                "Channelwise embeddings need a channel-agnostic model, whose tokens belong to"
                " single channels; this one was trained with model.channel_agnostic=False. Leave"
                " channelwise out, or train a CA-MAE."
            )
        rows, channels = tokens.shape[0], batch["pixels"].shape[3]
        return tokens.reshape(rows, channels, -1, tokens.shape[-1]).mean(2).reshape(rows, -1)

    def figure_arrays(self, params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Reconstructions under the fixed evaluation masks, for `figures`.

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

    def figures(
        self, arrays: Mapping[str, np.ndarray], names: Sequence[str] = ()
    ) -> dict[str, "Figure"]:
        """Draws what `figure_arrays` computed; `names` are those of the images."""
        # here, because it imports matplotlib
        from phenomjax.figures.reconstructions import reconstructions

        channels = [self.config.model.channels[index] for index in arrays["channels"][0]]
        figure = reconstructions(
            arrays["original"],
            arrays["visible"],
            arrays["reconstruction"],
            channels,
            image_names=names,
        )
        return {"reconstruction": figure}

    def next_command(self, workdir: Path) -> str:
        """Embeds the images it was trained on."""
        bank = self.config.data.banks[0]
        return (
            f"python -m phenomjax.embed --checkpoint {workdir} --bank {bank} --out embeddings.zarr"
        )

    def flops(self, batch_spec: Mapping[str, Any]) -> float:
        """Model FLOPs of one training step: 3 x the forward pass, matrix products only, 2 a
        multiply-add.

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
        return draws.uniform_rows(
            jax.random.key(EVALUATION_SEED),
            batch["image"],
            (self.num_tokens(batch["pixels"].shape),),
        )

    def predict(
        self,
        params: Any,
        batch: Mapping[str, Array],
        noise: Array,
        drop: Array | None,
        all_tokens: bool,
    ) -> Prediction:
        """The masked forward pass; see `MAE.__call__`."""
        visible = models_patches.num_visible(noise.shape[1], self.config.model.mask_ratio)
        return self.model.apply(
            {"params": params}, batch["pixels"], batch["channels"], noise, visible, drop, all_tokens
        )

    def row_losses(
        self, params: Any, batch: Mapping[str, Array], noise: Array, drop: Array | None
    ) -> tuple[dict[str, Array], Prediction]:
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
        self, prediction: Array, target: Array, masking: Masking, shape: tuple[int, ...]
    ) -> Array:
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

    def visible_mean_error(self, batch: Mapping[str, Array], masking: Masking) -> Array:
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


def simulate_bank(config: ConfigDict, workdir: Path) -> Path:
    """Writes (process 0) or awaits the simulated screen of `data.simulate`, in the workdir."""
    path, screen = workdir / "simulated.zarr", config.data.simulate
    if messages.is_main():
        settings = SimulationConfig(
            seed=config.seed,
            num_plates=screen.plates,
            wells_per_plate=screen.wells,
            sites_per_well=screen.sites,
            field_px=screen.size,
            cell_radius=screen.cell_radius,
        )
        write_screen(path, settings)
    messages.barrier("simulated screen")
    return path


def vocabulary(config: ConfigDict, banks: Sequence[ImageBank]) -> tuple[str, ...]:
    """Names of the model's channels: those of the banks (their union, in order, if
    channel-agnostic) or of the config.

    Raises:
      UserError: banks with other channels than the model's.
    """
    union = tuple(dict.fromkeys(name for bank in banks for name in bank.channels))
    names, given = tuple(config.model.channels) or union, bool(config.model.channels)
    for bank in banks:
        extra = [name for name in bank.channels if name not in names]
        fits = (
            not extra
            if config.model.channel_agnostic
            else bank.channels == (names if given else banks[0].channels)
        )
        if not fits:
            what = (
                f"config.model.channels is ({', '.join(names)})"
                if given
                else f"{banks[0].path} has ({', '.join(banks[0].channels)})"
            )
            mend = (
                "add them to config.model.channels"
                if config.model.channel_agnostic
                else (
                    "give banks of one channel set, in one order, or train a channel-agnostic model"
                    " with --config.model.channel_agnostic=True, which takes any mixture"
                )
            )
            raise UserError(
                f"The channels do not fit: {what}, but the bank {bank.path} has"
                f" ({', '.join(bank.channels)}); {mend}."
            )
    return names


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
        "num_heads": model.num_heads,
        "mlp_dim": mlp_dim(model),
        "qk_norm": model.qk_norm,
        "layer_scale": model.layer_scale,
        "bias_order": model.bias_order,
        "norm_eps": model.norm_eps,
        **shared,
    }
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
        num_channels=len(model.channels),
        channel_agnostic=model.channel_agnostic,
        encoder={
            "embed_dim": model.embed_dim,
            "class_token": model.class_token,
            "stack": {
                "block": model.block,
                "options": encoder_block,
                "depth": model.depth,
                **layout,
            },
        },
        decoder=decoder,
        norm_eps=model.norm_eps,
        dtype=dtype,
    )


def forward_flops(model: ConfigDict, shape: tuple[int, ...]) -> float:
    """FLOPs of a masked forward pass over pixels (batch, height, width, C): matrix products, 2 a
    multiply-add.

    The encoder and the patch projection see the visible tokens (and the class token), the decoder
    all of them, and the pixel head the masked ones (all of them where the Fourier mode needs all).
    Fourier products are not counted.
    """
    batch, _, _, channels = shape
    tokens, extra = num_tokens(model, shape), int(model.class_token)
    visible = models_patches.num_visible(tokens, model.mask_ratio)
    patch = model.patch_size**2 * (1 if model.channel_agnostic else channels)
    embed, dim = model.embed_dim, model.decoder_dim

    def block(seq: int, width: int, hidden: int) -> float:
        return 2.0 * seq * (4 * width**2 + 2 * width * hidden) + 4.0 * seq**2 * width

    encoder = 2.0 * visible * patch * embed + model.depth * block(
        visible + extra, embed, mlp_dim(model)
    )
    decoder = 2.0 * (visible + extra) * embed * dim
    if model.channel_agnostic:
        # cross attention and its MLP
        decoder += (8.0 + 16.0) * tokens * dim**2 + 4.0 * tokens**2 * dim
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
    seq, patch = (
        tokens + int(model.class_token),
        model.patch_size**2 * (1 if model.channel_agnostic else channels),
    )
    layer = 2.0 * seq * (4 * embed**2 + 2 * embed * hidden) + 4.0 * seq**2 * embed
    return batch * (2.0 * tokens * patch * embed + model.depth * layer)

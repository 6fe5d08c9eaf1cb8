"""The function that is exported, its settings, and crops to try it on: raw pixels in, embeddings
out, parameters inside.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, Integer
from ml_collections import ConfigDict

from phenomjax.data.images.opening import open_bank
from phenomjax.models import vit
from phenomjax.system.errors import UserError
from phenomjax.trained import image_model
from phenomjax.trained.model import ImageModel

log = logging.getLogger("phenomjax")
Pixels: TypeAlias = Integer[np.ndarray, "batch height width channels"]
Embeddings: TypeAlias = Float[np.ndarray, "batch blocks dim"]
TOLERANCE = 1e-4  # of float32 graphs: largest difference from JAX over the largest magnitude


@dataclasses.dataclass(frozen=True)
class GraphSettings:
    """What decides an exported graph besides the parameters.

    Attributes:
      blocks: encoder blocks whose embeddings are given, counted from 1.
      channelwise: of a channel-agnostic model, one embedding a channel, side by side.
      image_shape: (height, width, channels) of the crops; the batch size stays open.
      pixels: their type: "uint8", "uint16", or "int32" for runtimes without 16-bit inputs.
    """

    blocks: tuple[int, ...]
    channelwise: bool
    image_shape: tuple[int, int, int]
    pixels: str = "uint8"

    def describe(self, model: ImageModel) -> dict[str, object]:
        """As it is recorded in the files: plain JSON values, with what the model is."""
        config = model.config.model
        return {
            "checkpoint_fingerprint": model.fingerprint,
            "step": model.step,
            "blocks": list(self.blocks),
            "channelwise": self.channelwise,
            "image_shape": list(self.image_shape),
            "pixels": self.pixels,
            "channels": list(config.channels),
            "channel_agnostic": config.channel_agnostic,
        }


def settings(
    model: ImageModel,
    blocks: Sequence[int] = (),
    channelwise: bool = False,
    image_size: int = 0,
    channels: int = 0,
    pixels: str = "uint8",
) -> GraphSettings:
    """Settings with their defaults (the last block, the run's crop size and channels), checked.

    Raises:
      UserError: a block that is not there, crops that patches do not divide, or channels that the
        model does not take.
    """
    config = model.config.model
    if model.task.reads_cell_type:
        raise UserError(
            "This model is told the cell type of each image (model.cell_type=True), and a graph"
            " is given pixels alone. Embed with `python -m phenomjax.embed --runtime jax`, or train"
            " a model with --config.model.cell_type=False."
        )
    blocks = image_model.check_blocks(model, blocks)
    image_model.check_channelwise(model, channelwise)
    size, count = image_size or model.config.data.crop_size, len(config.channels)
    if size % model.task.pixels_multiple or size <= 0:
        raise UserError(
            f"`image_size` {size}: crops of this model are multiples of"
            f" {model.task.pixels_multiple} px. Give one."
        )
    if channels and channels != count and not config.channel_agnostic:
        raise UserError(
            f"`channels` {channels}: this model was trained on {count} channels"
            f" ({', '.join(config.channels)}) and takes exactly these. Leave `channels` out; only a"
            " channel-agnostic model (CA-MAE) takes other numbers."
        )
    return GraphSettings(blocks, channelwise, (size, size, channels or count), pixels)


def portable(model: ImageModel) -> ImageModel:
    """The same model as every runtime can run it: float32, explicit products, layers unrolled,
    without its decoder or head.
    """
    config = ConfigDict(model.config.to_dict())
    config.model.update(dtype="float32", attention="products", scan_layers=False, remat="none")
    params = vit.unstack_layers(image_model.encoder_params(model))
    return dataclasses.replace(model, config=config, task=type(model.task)(config), params=params)


def encoder(model: ImageModel, chosen: GraphSettings) -> Callable[[Array], Array]:
    """`encode(pixels [batch, h, w, C]) -> float32 [batch, blocks, dim]` with the parameters inside,
    of a `portable` model or another one.
    """
    encode = image_model.features(model)
    return lambda pixels: encode(
        image_model.encoder_params(model), pixels, chosen.blocks, chosen.channelwise
    )


def jax_reference(model: ImageModel, chosen: GraphSettings) -> Callable[[Pixels], Embeddings]:
    """What every exported graph is compared with: JAX in float32."""
    compiled = jax.jit(encoder(portable(model), chosen))
    return lambda pixels: np.asarray(compiled(pixels))


# Pixels to verify and to calibrate with


def sample_crops(
    model: ImageModel,
    chosen: GraphSettings,
    count: int,
    bank: str | Path = "",
    seed: int = 0,
) -> Pixels:
    """Crops from places all over a bank; drawn cells where no bank is at hand.

    Args:
      model: without `bank`, the first bank that it was trained on is taken, if it is there and
        fits.
      chosen: their shape and type.
      count: how many.
      bank: its folder.
      seed: of the places.

    Raises:
      UserError: the bank given does not fit.
    """
    height, width, channels = chosen.image_shape
    for path in [bank] if bank else [p for p in model.config.data.banks if Path(p).is_dir()]:
        source = open_bank(path)
        names = tuple(model.config.model.channels)
        by_name = channels == len(names) and set(names) <= set(source.channels)
        places = (
            [source.channels.index(name) for name in names] if by_name else list(range(channels))
        )
        fits = by_name or source.shape[3] == channels
        fits = (
            fits
            and min(source.shape[1] - height, source.shape[2] - width) >= 0
            and np.can_cast(source.dtype, chosen.pixels)
        )
        if fits and len(source):
            random = np.random.default_rng(seed)
            images = random.integers(len(source), size=count)
            ys, xs = (
                random.integers(source.shape[axis] - size + 1, size=count)
                for axis, size in ((1, height), (2, width))
            )
            corners = zip(images, ys, xs, strict=True)
            crops = [source.read(i)[y : y + height, x : x + width] for i, y, x in corners]
            return np.stack(crops)[..., places].astype(chosen.pixels)
        if bank:
            raise UserError(
                f"The bank {bank} has images {source.shape[1:]} of {source.dtype}; crops of"
                f" {chosen.image_shape} and {chosen.pixels} cannot be taken from it. Give a bank"
                " with the channels of the model, or take crops of another size or type."
            )
    return drawn_cells(chosen, count, seed)


def drawn_cells(chosen: GraphSettings, count: int, seed: int = 0) -> Pixels:
    """Crops of round blurred cells on a dim noisy background: what pixels look like, where there
    are none.
    """
    random, (height, width, channels) = np.random.default_rng(seed), chosen.image_shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    crops = np.empty((count, height, width, channels), np.float32)
    for crop in crops:
        crop[:] = random.uniform(4, 12, channels)
        for _ in range(max(3, height * width // 2000)):
            centre, radius = random.uniform(0, (height, width)), random.uniform(4, 14)
            bell = np.exp(-(((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / radius**2))
            crop += bell[..., None] * random.uniform(5, 90, channels)
    scale = 1.0 if chosen.pixels == "uint8" else 64.0
    return np.clip(random.poisson(crops) * scale, 0, np.iinfo(chosen.pixels).max).astype(
        chosen.pixels
    )


# How far two sets of embeddings are apart


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of embeddings with a reference.

    Attributes:
      largest: absolute difference, at most.
      relative: the same over the largest magnitude of the reference.
      cosine: of an embedding with its reference, at least.
    """

    largest: float
    relative: float
    cosine: float

    def __str__(self) -> str:
        return (
            f"cosine >= {self.cosine:.6f}, largest difference {self.largest:.2e}"
            f" ({self.relative:.2e} of the largest value)"
        )


def compare(values: Float[np.ndarray, "..."], reference: Float[np.ndarray, "..."]) -> Agreement:
    """Compares embeddings; a shape that differs or a value that is not finite
    agrees with nothing.
    """
    if values.shape != reference.shape or not np.isfinite(values).all():
        return Agreement(float("inf"), float("inf"), -1.0)
    a, b = (x.astype(np.float64) for x in (values, reference))
    difference = float(np.abs(a - b).max())
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return Agreement(
        difference,
        difference / max(float(np.abs(b).max()), 1e-30),
        float(((a * b).sum(-1) / np.maximum(norms, 1e-30)).min()),
    )

"""What an embedding of a bank is to be: the grid of crops, the channels, the settings that decide
its numbers, and its units of work.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from phenomjax.data import store
from phenomjax.data.images.bank import ImageBank
from phenomjax.engine import work_folder
from phenomjax.system.errors import UserError
from phenomjax.system.files import sha256_json
from phenomjax.trained import image_model
from phenomjax.trained.model import ImageModel

LEVELS = ("crop", "site", "well")
GROUP_BYTES = 512 << 20  # the most pixels that are decoded as one piece
MOST_UNITS = 20_000  # of one bank; each is two files
NOT_COMPARED = ("digest", "checkpoint", "bank", "format", "version", "computed_by")
# what is recorded only where it is given
OPTIONAL = (
    "random_weights",
    "statistics",
    "statistics_by",
    "control_weight",
    "statistics_batch",
    "statistics_banks",
)
NAMES = {"blocks": "block"}  # that options have for what is recorded
# what differs, where the values say nothing
WORDS = {
    "bank_fingerprint": "the bank",
    "images": "the number of images",
    "image_size": "the size of the images",
    "checkpoint_fingerprint": "the parameters of `checkpoint`",
    "step": "the step of `checkpoint`",
    "model": "the config of the model",
    "channels": "the channels",
    "statistics_banks": "the banks that have images of the same groups",
    "options": "the options of the runtime",
}


@dataclass(frozen=True)
class Grid:
    """Where the crops of an image lie: rows of crops from top to bottom, each from left to right.

    Attributes:
      ys, xs: first row and first column of each crop.
      left_out: (height, width) of the image that no crop covers, divided evenly over its two sides.
    """

    ys: tuple[int, ...]
    xs: tuple[int, ...]
    left_out: tuple[int, int]

    def __len__(self) -> int:
        return len(self.ys)


def grid(height: int, width: int, crop_size: int, stride: int) -> Grid:
    """The grid of an image, centred: what does not fit is left out, half on either side.

    Nothing is padded or shifted, so every pixel counts alike (with a stride below the crop size,
    those at the edge less).
    """
    axes, left_out = [], []
    for size in (height, width):
        count = (size - crop_size) // stride + 1
        rest = size - crop_size - (count - 1) * stride
        axes.append(rest // 2 + stride * np.arange(count))
        left_out.append(rest)
    ys, xs = np.meshgrid(*axes, indexing="ij")
    return Grid(tuple(ys.ravel().tolist()), tuple(xs.ravel().tolist()), (left_out[0], left_out[1]))


def check_wells(bank: ImageBank, level: str) -> None:
    """Raises UserError where rows cannot be put together to wells."""
    missing = bank.column("well").null_count
    if level == "well" and missing:
        raise UserError(
            f"{missing} of the {len(bank)} images of {bank.path} have no well in their metadata, so"
            " there can be no embedding a well. Give `level` site for one an image, or make the"
            " bank again with names of wells: `python -m phenomjax.prepare images --layout LAYOUT"
            " --metadata TABLE`."
        )


def check_grid(model: ImageModel, bank: ImageBank, crop_size: int, stride: int) -> None:
    """Raises UserError where no such grid can be laid over the images, or the model cannot read its
    crops.
    """
    step, (_, height, width, _) = model.task.pixels_multiple, bank.shape
    least = model.task.least_pixels
    if crop_size < least or crop_size % step:
        near = max(least, round(crop_size / step) * step)
        raise UserError(
            f"`crop_size` {crop_size}: this model reads crops of"
            + (f" multiples of {step} px" if step > 1 else "")
            + (f" {least} px or more" if least > step else "")
            + f", so give one, such as {near}."
        )
    if crop_size > min(height, width):
        fits = min(height, width) // step * step
        raise UserError(
            f"A crop of {crop_size} px does not fit into the images of {bank.path}, {height} x"
            f" {width} px. Give a `crop_size` of at most {fits} (the model was trained on"
            f" {model.config.data.crop_size} px)."
        )
    if not 1 <= stride <= crop_size:
        raise UserError(
            f"`stride` {stride}: give 1 to {crop_size} px (the crop size, at which crops touch;"
            " less makes them overlap, more would leave pixels unread)."
        )


def match_channels(
    model: ImageModel, bank: ImageBank, chosen: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The channels that the model gets, by name and as places in the bank, in the order of the
    model.

    A model of fixed channels needs all of them, and takes no other; a channel-agnostic one any of
    those it was trained with.

    Args:
      chosen: names, for a channel-agnostic model; empty = all that the bank has.

    Raises:
      UserError: names that do not fit; says which, and what there is.
    """
    known, have = tuple(model.config.model.channels), bank.channels
    listing = (
        f"the bank {bank.path} has ({', '.join(have)}), the model was trained with"
        f" ({', '.join(known)})"
    )
    if not model.config.model.channel_agnostic:
        if chosen:
            raise UserError(
                "`channels` is for channel-agnostic models; this one reads exactly"
                f" ({', '.join(known)}). Leave it out."
            )
        if missing := [name for name in known if name not in have]:
            hint = _hint(missing[0], have)
            raise UserError(
                f"The channels do not fit: {', '.join(missing)} of the model is not in the"
                f" bank{hint}: {listing}. Channels are matched by name. Prepare the bank with the"
                " model's names (`python -m phenomjax.prepare images --help`), or use a"
                " channel-agnostic model."
            )
        return known, tuple(have.index(name) for name in known)
    wanted = tuple(chosen) or have
    for name in wanted:
        if name not in have or name not in known:
            where = (
                "the bank has no such channel"
                if name not in have
                else "the model was not trained with it"
            )
            others = ", ".join(n for n in wanted if n in have and n in known)
            mend = (
                f"Embed the known ones alone with `channels` {others.replace(',', '')}."
                if others
                else "Prepare the bank with the model's names."
            )
            raise UserError(
                f"The channel {name} cannot be embedded: {where}{_hint(name, known)}: {listing}."
                f" {mend}"
            )
    if len(set(wanted)) < len(wanted):
        raise UserError(f"`channels` {' '.join(wanted)} names a channel twice. Name each once.")
    names = tuple(name for name in known if name in wanted)
    return names, tuple(have.index(name) for name in names)


def _hint(name: str, known: Sequence[str]) -> str:
    """Names the channel that differs by capitals alone: stains that are spelt alike are others."""
    same = [other for other in known if other.casefold() == name.casefold() and other != name]
    return f" (is '{same[0]}' the same?)" if same else ""


@dataclass(frozen=True)
class EmbeddingSettings:
    """Everything that decides the numbers of an embedding, and how its rows are made.

    Attributes:
      level: what a row stands for, in LEVELS.
      crop_size, stride: of the grid, in pixels.
      blocks: of the encoder, from 1.
      channelwise: one embedding a channel, side by side.
      channels: names, in the order of the model.
      runtime, precision, options: what computes, in which type, with which options.
      dtype: of the result.
      statistics: of batch norms, where they are no running ones (`StatisticsSettings.record`).
    """

    level: str
    crop_size: int
    stride: int
    blocks: tuple[int, ...]
    channelwise: bool
    channels: tuple[str, ...]
    runtime: str
    precision: str
    options: dict[str, str]
    dtype: str
    statistics: dict[str, object] = field(default_factory=dict)

    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays of the result, one a block."""
        return (
            ("embeddings",)
            if len(self.blocks) == 1
            else tuple(f"embeddings_block_{block}" for block in self.blocks)
        )


def describe(
    model: ImageModel, bank: ImageBank, settings: EmbeddingSettings
) -> work_folder.Description:
    """The settings with what they are applied to, as they are recorded beside the embeddings;
    `digest` sums them up.
    """
    described = vars(settings) | settings.statistics
    if not settings.statistics:
        del described["statistics"]
    entry = {
        "checkpoint_fingerprint": model.fingerprint,
        "step": model.step,
        "model": sha256_json(model.config.model.to_dict() | {"dtype": ""}),
        "bank_fingerprint": bank.fingerprint,
        "images": len(bank),
        "image_size": list(bank.shape[1:3]),
        **described,
        **({} if model.random_weights is None else {"random_weights": model.random_weights}),
    }
    entry = json.loads(json.dumps(entry))  # lists instead of tuples, as it will be read again
    return {
        "digest": sha256_json(entry),
        "checkpoint": str(model.path),
        "bank": str(store.absolute(bank.path)),
        **entry,
    }


def compared(
    description: work_folder.Description,
) -> tuple[work_folder.Description, work_folder.Description]:
    """A description as (what decides the numbers, by the names of the options; the rest): banks and
    checkpoints may be moved.
    """
    named = {NAMES.get(name, name): value for name, value in description.items()}
    settings = {**dict.fromkeys(OPTIONAL), **named}
    rest = {name: settings.pop(name) for name in NOT_COMPARED if name in settings}
    return settings, rest


@dataclass(frozen=True)
class WorkLayout:
    """How the work on a bank is divided. It is the same for all who do it, so that a unit's bytes
    do not depend on who makes them.

    Attributes:
      images: of the bank.
      crops_per_image: of the grid.
      batch_size: crops of a batch.
      group_images: images that are decoded as one piece, from which whole batches are cut.
      unit_images: images of a unit, which is committed as a whole; a multiple of group_images.
    """

    images: int
    crops_per_image: int
    batch_size: int
    group_images: int
    unit_images: int

    @property
    def units(self) -> int:
        """How many there are."""
        return -(-self.images // self.unit_images)

    def images_of(self, unit: int) -> range:
        """The images of a unit."""
        return range(unit * self.unit_images, min((unit + 1) * self.unit_images, self.images))

    def crops_of(self, unit: int) -> int:
        """Crops of a unit."""
        return len(self.images_of(unit)) * self.crops_per_image


def layout(
    images: int, crops_per_image: int, crop_bytes: int, batch_size: int, unit_crops: int
) -> WorkLayout:
    """Divides a bank.

    Args:
      images, crops_per_image: of the bank.
      crop_bytes: of the pixels of a crop.
      batch_size: crops of a batch.
      unit_crops: about how many crops a unit has.
    """
    most = min(
        max(GROUP_BYTES // (crops_per_image * crop_bytes), -(-batch_size // crops_per_image), 1),
        images,
    )
    # The last batch of a group is filled up: the smallest group that wastes the least.
    waste = lambda group: (-(group * crops_per_image) % batch_size) / (group * crops_per_image)  # noqa: E731
    group = min(range(1, most + 1), key=lambda g: (round(waste(g), 3), g))
    unit = max(-(-unit_crops // crops_per_image), -(-images // MOST_UNITS))
    return WorkLayout(images, crops_per_image, batch_size, group, -(-unit // group) * group)


def default_batch_size(model: ImageModel, crop_size: int, channels: int, devices: int) -> int:
    """Crops of a batch: on an accelerator 128 Ki tokens a device; on a CPU as few as keep
    activations in its caches (measured).
    """
    tokens = model.task.num_tokens((1, crop_size, crop_size, channels))
    per_device = (1 << 10) if jax.default_backend() == "cpu" else (128 << 10)
    return 2 ** max(0, math.floor(math.log2(1.01 * per_device / tokens))) * devices


def default_unit_crops(batch_size: int) -> int:
    """Crops of a unit: some ten seconds to minutes of work, which is what a kill costs."""
    return batch_size * (128 if jax.default_backend() == "cpu" else 64)


def dim(model: ImageModel, settings: EmbeddingSettings) -> int:
    """Length of an embedding."""
    return image_model.dim(model, len(settings.channels), settings.channelwise)

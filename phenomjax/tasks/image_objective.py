"""What objectives on images share: banks, their channels, the loader, the carry of nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from phenomjax.cluster import messages
from phenomjax.config import batches, image_data, mixtures
from phenomjax.data import node_cache, store
from phenomjax.data.images import archive
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.loading import staging
from phenomjax.data.images.loading.split import split_rows
from phenomjax.data.images.opening import open_banks
from phenomjax.data.images.rows import Rows
from phenomjax.data.mixture import Shares
from phenomjax.data.selections import Chosen, choose
from phenomjax.data.simulated.write_screen import write_screen
from phenomjax.models import layers
from phenomjax.system.errors import UserError
from phenomjax.system.types import Batch, Carry, Params
from phenomjax.tasks.protocol import Sums, reading

if TYPE_CHECKING:
    from phenomjax.data.images.loading.loader import ImageLoader


class ImageObjective:
    """Base of the objectives on images; a subclass adds the model and what it is to learn.

    Args:
      config: reads `model.channels`, `model.channel_agnostic`, `model.dtype`, `data.*`, `seed` and
        `global_batch_size`.

    Attributes:
      training_only: subtrees of the parameters that embedding does without.
    """

    training_only: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict):
        self.config = config

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
            banks, _ = banks_and_weights(config)
            config.model.channels = vocabulary(config, banks)
        return config.lock()

    @property
    def dtype(self) -> jnp.dtype:
        """The compute type; asks for the backend."""
        return layers.compute_dtype(self.config.model.dtype)

    @property
    def next_command(self) -> str:
        """Embeds the images it was trained on."""
        bank = next(iter(self.config.data.banks), "BANK")
        if archive.is_index(Path(bank)):
            bank = archive.read_index(Path(bank))[0].path
        bank = store.url(bank).replace("{", "{{").replace("}", "}}")  # of a later str.format
        return (
            f"python -m phenomjax.embed --checkpoint {{workdir}} --bank {bank}"
            " --out embeddings.zarr"
        )

    def data(self) -> tuple[list[ImageBank], Shares, list[Chosen]]:
        """The banks, where they are staged read from there; their weights; and what is chosen."""
        data = self.config.data
        banks, weights = banks_and_weights(self.config)
        chosen = choose(data.selection, banks)
        if data.staging:
            rows = [Rows.of(one.rows) for one in chosen] or [Rows.all(len(one)) for one in banks]
            staging.stage(banks, rows, data.staging, data.staging_share)
        return banks, weights, chosen

    def loader(self, split: str, process_index: int, process_count: int) -> "ImageLoader | None":
        """The loader of "train" or "val" crops of the configured banks; None for "val" if nothing
        is held out.
        """
        from phenomjax.data.images.loading.loader import ImageLoader

        data = self.config.data
        banks, weights, chosen = self.data()
        groups = {
            "chosen": chosen,
            "split_by": data.split_by,
            "val_groups": data.val_groups,
            "val_fraction": data.val_fraction,
        }
        if split == "val":
            trained_on = sum(map(len, split_rows(banks, "train", **groups)))
            if trained_on == sum(len(rows) for rows in [one.rows for one in chosen] or banks):
                return None
        settings = self.loader_settings(split, process_index, process_count)
        return ImageLoader(banks, weights=weights, **groups, **settings)

    def loader_settings(self, split: str, process_index: int, process_count: int) -> dict[str, Any]:
        """The arguments of an `ImageLoader` that do not say which images it reads."""
        data = self.config.data
        rows, seed = reading(self.config, split)
        return {
            "channels": self.config.model.channels,
            "split": split,
            "subset": data.subset,
            "crop_size": data.crop_size,
            "crops_per_image": data.crops_per_image,
            "flip": data.flip,
            "rotate": data.rotate,
            "once": split != "train" and not self.config.eval.num_batches,
            "seed": seed,
            "global_batch_size": rows,
            "stages": batches.stages(self.config) if split == "train" else (),
            "process_index": process_index,
            "process_count": process_count,
            "threads": data.threads,
            "prefetch_batches": data.prefetch_batches,
            "on_bad_image": data.on_bad_image,
            "max_bad_images": data.max_bad_images,
        }

    def carry(self, global_batch_size: int, split: str = "train") -> Carry:
        """Nothing is carried from step to step."""
        return ()

    # What a trained model is asked for

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding; of a channelwise one, for each channel.

        Raises:
          UserError: of a task that does not say it.
        """
        raise UserError(
            f"A model of task '{self.config.task}' cannot embed: its class says no"
            " `embedding_dim`. Give it one, and `embed` as in"
            " phenomjax/tasks/image_objective.py."
        )

    @property
    def num_blocks(self) -> int:
        """Layers, numbered from 1, whose output can be an embedding."""
        return 1

    @property
    def pixels_multiple(self) -> int:
        """Height and width of a crop are multiples of it."""
        return 1

    @property
    def least_pixels(self) -> int:
        """The least height and width of a crop."""
        return self.pixels_multiple

    @property
    def reads_cell_type(self) -> bool:
        """Whether `embed` wants `cell_type` (batch,) int32, places in `model.cell_types`."""
        return False

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Places at which the network computes for an image of a batch (batch, height, width, C):
        what the default size of a batch is measured by.
        """
        return max(shape[1] * shape[2] // 16**2, 1)

    def embed(
        self,
        params: Params,
        batch: Batch,
        carry: Carry = (),
        *,
        blocks: Sequence[int] = (),
        channelwise: bool = False,
    ) -> tuple[Float[Array, "batch blocks dim"], Carry]:
        """Embeddings of crops as they are in a bank, float32.

        Args:
          params: without `training_only` will do; statistics of batch norms, if there are any, are
            beside them as "batch_stats".
          batch: `pixels` (batch, height, width, C), uint8 or uint16; `cell_type`, if it is read;
            `domain` (batch,) int32, where statistics have an axis of domains in front: whose
            normalise each row.
          carry: `()`.
          blocks: numbers from 1; the last one if none is named.
          channelwise: of a channel-agnostic model, one embedding a channel, side by side.
        """
        raise NotImplementedError

    def moments(self, params: Params, batch: Batch, parts: int = 1) -> Params:
        """What the batch norms see of a batch that is normalised by itself: a tree like
        "batch_stats" of mean and variance [parts, channel].

        Args:
          params: as of `embed`.
          batch: likewise, with `weight` (batch,) float32: of each row in the moments of its part.
          parts: row r belongs to part r % parts.
        """
        raise NotImplementedError


def row_sums(values: Mapping[str, Float[Array, " batch"]], batch: Batch) -> Sums:
    """What an evaluation returns of values of rows: their sums and number, over the rows that
    count. Where `weight` (batch,) is in a batch it says which: the others fill it up.
    """
    sums: Sums = {}
    for name, value in values.items():
        counted = batch.get("weight", jnp.ones(value.shape, bool))
        sums[name] = jnp.where(counted, value, 0.0).sum(), counted.sum(dtype=jnp.float32)
    return sums


def banks_and_weights(config: ConfigDict) -> tuple[list[ImageBank], Shares]:
    """The banks that `data.banks` names, those of an index one by one; and the weights of each,
    where that of an index is divided by numbers of images.
    """
    node_cache.use(config.data.cache, config.data.cache_gb)
    named, weights = open_banks(config.data.banks), []
    for position, shares in mixtures.stages(config.data):
        if len(shares) == len(named):
            shares = tuple(
                share * len(bank) / max(sum(map(len, banks)), 1) if len(banks) > 1 else share
                for share, banks in zip(shares, named, strict=True)
                for bank in banks
            )
        weights.append((position, shares))
    return [bank for banks in named for bank in banks], weights


def simulate_bank(config: ConfigDict, workdir: Path) -> Path:
    """Writes (process 0) or awaits the simulated screen of `data.simulate`, in the workdir."""
    path = workdir / "simulated.zarr"
    if messages.is_main():
        write_screen(path, image_data.simulation(config))
    messages.barrier("simulated screen")
    return path


def vocabulary(config: ConfigDict, banks: Sequence[ImageBank]) -> tuple[str, ...]:
    """Names of the model's channels: those of the banks (their union, in order, if
    channel-agnostic) or of the config.

    Raises:
      UserError: banks with other channels than the model's.
    """
    agnostic, given = config.model.channel_agnostic, tuple(config.model.channels)
    names = given or tuple(dict.fromkeys(name for bank in banks for name in bank.channels))
    wanted = given or banks[0].channels
    for bank in banks:
        if set(bank.channels) <= set(names) if agnostic else bank.channels == wanted:
            continue
        what = (
            f"config.model.channels is ({', '.join(names)})"
            if given
            else f"{banks[0].path} has ({', '.join(banks[0].channels)})"
        )
        mend = (
            "add them to config.model.channels"
            if agnostic
            else "give banks of one channel set, in one order, or train a channel-agnostic model"
            " with --config.model.channel_agnostic=True, which takes any mixture"
        )
        raise UserError(
            f"The channels do not fit: {what}, but the bank {bank.path} has"
            f" ({', '.join(bank.channels)}); {mend}."
        )
    return names

"""The encoder of a trained image model as a pure function, and what may be asked of it."""

from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array

from phenomjax.system.errors import UserError
from phenomjax.system.types import Batch, Params
from phenomjax.trained.model import ImageModel


def encoder_params(model: ImageModel) -> Params:
    """The parameters that embedding needs: without a decoder's or a head's."""
    left = model.task.training_only
    return {name: value for name, value in model.params.items() if name not in left}


def features(model: ImageModel) -> Callable[..., Array]:
    """The encoder as a pure function, `encode(params, pixels, blocks, channelwise, rows)`, to be
    jitted, exported or sharded.

    params are `encoder_params(model)` (more does no harm); pixels (batch, height, width, C), uint8
    or uint16 as they are in a bank, with height and width that are multiples of
    `pixels_multiple`; blocks are numbers from 1 to `num_blocks`, the last one if none is named;
    channelwise gives, of a channel-agnostic model, one embedding a channel, side by side; rows are
    more arrays with a row a crop that the task reads, such as `cell_type`. The result is float32
    (batch, len(blocks), dim), or (…, C * dim), see `ImageObjective.embed`.
    """

    def encode(
        params: Params,
        pixels: Array,
        blocks: Sequence[int] = (),
        channelwise: bool = False,
        rows: Batch | None = None,
    ) -> Array:
        batch = {"pixels": pixels, **(rows or {})}
        return model.task.embed(params, batch, blocks=blocks, channelwise=channelwise)[0]

    return encode


def check_blocks(model: ImageModel, blocks: Sequence[int]) -> tuple[int, ...]:
    """The blocks asked for, or the last one; raises UserError for numbers that the model does not
    have.
    """
    depth = model.task.num_blocks
    for block in blocks:
        if not 1 <= block <= depth:
            raise UserError(
                f"`block` {block}: this model's encoder has blocks 1 to {depth}; without `block`"
                " it is the last one."
            )
    if len(set(blocks)) < len(blocks):
        raise UserError(
            f"`block` {' '.join(map(str, blocks))} names a block twice. Name each once."
        )
    return tuple(blocks) or (depth,)


def check_channelwise(model: ImageModel, channelwise: bool) -> None:
    """Raises UserError where channel-wise embeddings are asked of a model whose tokens mix the
    channels.
    """
    if channelwise and not model.config.model.channel_agnostic:
        raise UserError(
            "`channelwise` needs a channel-agnostic model, whose tokens belong to single channels;"
            " this one was trained with model.channel_agnostic=False. Leave `channelwise` out, or"
            " train a CA-MAE."
        )


def dim(model: ImageModel, channels: int, channelwise: bool) -> int:
    """Length of an embedding of images with this many channels."""
    return model.task.embedding_dim * (channels if channelwise else 1)


def on_devices(
    params: Params, devices: Sequence[jax.Device]
) -> tuple[Params, jax.sharding.NamedSharding]:
    """Copies parameters to all of the devices; returns them with the sharding that divides a batch
    over these.
    """
    mesh = jax.sharding.Mesh(devices, ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.device_put(params, everywhere), jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec("data")
    )

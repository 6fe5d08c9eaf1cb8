"""What a step changes: parameters, their moving average, optimiser state, carry and its number."""

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from phenomjax import sharding
from phenomjax.system.types import Batch, Carry, Params
from phenomjax.tasks import Task


@flax.struct.dataclass
class TrainState:
    """All arrays of a run; or their shapes, or their shardings.

    Attributes:
      step: int32 scalar, number of finished optimiser steps (the position in the data).
      params: nested dict of float32 arrays.
      opt_state: optax state.
      ema: moving average of `params`, or () when `optimizer.ema_decay` is 0.
      carry: what the task hands from step to step (segment memories); () for most tasks.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | tuple[()]
    carry: Carry


def abstract(
    task: Task, tx: optax.GradientTransformation, config: ConfigDict, mesh: Mesh, batch: Batch
) -> tuple[Callable[[jax.Array], TrainState], TrainState, TrainState]:
    """Shapes and shardings of the state, without any array.

    Args:
      task: the task of `config`.
      tx: the optimiser.
      config: finalized configuration.
      mesh: device mesh.
      batch: tree of jax.ShapeDtypeStruct of one global batch.

    Returns:
      (init, abstract, shardings): `init(key)` makes the state; `abstract` is its TrainState of
      ShapeDtypeStruct with shardings.
    """

    def boxed_init(key: jax.Array) -> TrainState:
        params = task.init(key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch))
        ema = params if config.optimizer.ema_decay else ()
        return TrainState(
            jnp.int32(0), params, tx.init(params), ema, task.carry(config.global_batch_size)
        )

    boxed = jax.eval_shape(lambda: boxed_init(jax.random.key(0)))
    shards = sharding.shardings(boxed, mesh, config.mesh.preset)
    rows = sharding.batch_sharding(mesh)
    shards = shards.replace(
        step=sharding.replicated(mesh), carry=jax.tree.map(lambda _: rows, boxed.carry)
    )
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(nn.unbox, boxed),
        shards,
    )
    return (lambda key: nn.unbox(boxed_init(key))), shapes, shards

"""One optimiser step as a pure function: gradients (accumulated over micro-batches), update, moving
average.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from phenomjax import sharding
from phenomjax.state import TrainState
from phenomjax.tasks import Task


def make_step(task: Task, tx: optax.GradientTransformation, config: ConfigDict) -> Callable:
    """The pure function (state, batch, key, data position) -> (state, metrics) of one optimiser
    step, with gradient accumulation.
    """
    micro = config.optimizer.accumulate_steps

    def gradients(params: Any, batch: Any, key: jax.Array, carry: Any) -> tuple[Any, Any, Any]:
        def loss(p: Any) -> tuple[jax.Array, Any]:
            value, values, next_carry = task.loss(p, batch, key, carry)
            return value, ({"loss": value, **values}, next_carry)

        grads, (values, next_carry) = jax.grad(loss, has_aux=True)(params)
        return grads, values, next_carry

    def accumulated(params: Any, batch: Any, key: jax.Array, carry: Any) -> tuple[Any, Any, Any]:
        # Each shard of rows keeps a sum of its own, over all micro-batches, so that gradients cross
        # the network once a step and not once a micro-batch. The price is an unsharded copy of the
        # gradients on every device, also where parameters are sharded.
        shards = jax.sharding.get_abstract_mesh().shape.get("data", 1)

        # micro-batch i takes every micro-th row of a shard from i on
        def split(x: jax.Array) -> jax.Array:
            return jnp.moveaxis(x.reshape(shards, -1, micro, *x.shape[1:]), 2, 0)

        def join(x: jax.Array) -> jax.Array:
            return jnp.moveaxis(x, 0, 2).reshape(-1, *x.shape[3:])

        def by_shard(part: Any) -> tuple[Any, Any, Any]:
            one = lambda batch, carry: gradients(params, batch, key, carry)  # noqa: E731
            with nn.logical_axis_rules(sharding.rules_within_shards(config.mesh.preset)):
                return jax.vmap(one, spmd_axis_name="data" if shards > 1 else None)(*part)

        def own(x: jax.Array) -> jax.Array:
            return sharding.split_over_data(x) if shards > 1 else x

        def body(total: Any, part: Any) -> tuple[Any, Any]:
            grads, values, next_carry = by_shard(part)
            return jax.tree.map(lambda a, b: own(a + b), total, (grads, values)), next_carry

        parts = jax.tree.map(split, (batch, carry))
        shapes = jax.eval_shape(lambda: by_shard(jax.tree.map(lambda x: x[0], parts))[:2])
        zeros = jax.tree.map(lambda x: own(jnp.zeros(x.shape, x.dtype)), shapes)
        sums, carries = jax.lax.scan(body, zeros, parts)
        grads, values = jax.tree.map(lambda x: x.sum(0) / (shards * micro), sums)
        return grads, values, jax.tree.map(join, carries)

    def step(
        state: TrainState, batch: Any, key: jax.Array, position: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, position)
        grads, values, carry = (accumulated if micro > 1 else gradients)(
            state.params, batch, key, state.carry
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = config.optimizer.ema_decay
        ema = (
            jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, params)
            if decay
            else ()
        )
        values = {f"train/{name}": value for name, value in values.items()} | {
            "train/grad_norm": optax.tree.norm(grads)
        }
        return TrainState(state.step + 1, params, opt_state, ema, carry), values

    return step


def jit_step(
    task: Task, tx: optax.GradientTransformation, config: ConfigDict, mesh: Mesh, shards: TrainState
) -> Any:
    """`make_step` under `jax.jit`: the state as `shards` says and donated, rows of the batch over
    the data axis, the rest everywhere.
    """
    rows, everywhere = sharding.batch_sharding(mesh), NamedSharding(mesh, P())
    return jax.jit(
        make_step(task, tx, config),
        in_shardings=(shards, rows, everywhere, everywhere),
        out_shardings=(shards, everywhere),
        donate_argnums=0,
    )

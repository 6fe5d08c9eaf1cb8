"""One optimiser step as a pure function: gradients (accumulated over micro-batches), update, moving average."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from phenomjax.state import TrainState
from phenomjax.tasks import Task


def make_step(task: Task, tx: optax.GradientTransformation, config: ConfigDict) -> Callable:
    """The pure function (state, batch, key, data position) -> (state, metrics) of one optimiser step, with gradient accumulation."""
    micro = config.optimizer.accumulate_steps

    def gradients(params: Any, batch: Any, key: jax.Array, carry: Any) -> tuple[Any, Any, Any]:
        def loss(p: Any) -> tuple[jax.Array, Any]:
            value, values, next_carry = task.loss(p, batch, key, carry)
            return value, ({"loss": value, **values}, next_carry)

        grads, (values, next_carry) = jax.grad(loss, has_aux=True)(params)
        return grads, values, next_carry

    def accumulated(params: Any, batch: Any, key: jax.Array, carry: Any) -> tuple[Any, Any, Any]:
        # Micro-batch i takes every micro-th row from i on, so that each device works on its own rows.
        split = jax.tree.map(lambda x: x.reshape(-1, micro, *x.shape[1:]).swapaxes(0, 1), (batch, carry))

        def body(total: Any, part: Any) -> tuple[Any, Any]:
            grads, values, next_carry = gradients(params, part[0], key, part[1])
            return jax.tree.map(jnp.add, total, (grads, values)), next_carry

        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(lambda: gradients(params, first[0], key, first[1])[:2])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (grads, values), carries = jax.lax.scan(body, zeros, split)
        grads, values = jax.tree.map(lambda x: x / micro, (grads, values))
        return grads, values, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), carries)

    def step(
        state: TrainState, batch: Any, key: jax.Array, position: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, position)
        grads, values, carry = (accumulated if micro > 1 else gradients)(state.params, batch, key, state.carry)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = config.optimizer.ema_decay
        ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, params) if decay else ()
        values = {f"train/{name}": value for name, value in values.items()} | {
            "train/grad_norm": optax.tree.norm(grads)
        }
        return TrainState(state.step + 1, params, opt_state, ema, carry), values

    return step

"""What a step changes: parameters, their moving average, optimiser state, carry and its number."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from phenomjax import sharding
from phenomjax.models import parameter_names
from phenomjax.system.types import Batch, Carry, Params, Shared
from phenomjax.tasks import Task


@flax.struct.dataclass
class TrainState:
    """All arrays of a run; or their shapes, or their shardings.

    Attributes:
      step: int32 scalar, number of finished optimiser steps (the position in the data).
      params: nested dict of float32 arrays.
      opt_state: optax state.
      ema: moving average of `params`, or () when `optimizer.ema_decay` is 0.
      carry: what the task hands from step to step (segment memories, statistics of batch norm); ()
        for most tasks.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | tuple[()]
    carry: Carry


def divide(carry: Carry) -> tuple[Carry, Carry]:
    """(what belongs to rows, what is `Shared`) of a carry, each with None in place of the other."""
    leaf = functools.partial(jax.tree.map, is_leaf=_is_shared)
    return (
        leaf(lambda x: None if _is_shared(x) else x, carry),
        leaf(lambda x: x if _is_shared(x) else None, carry),
    )


def unite(rows: Carry, shared: Carry) -> Carry:
    """The carry that `divide` divided."""
    ends = lambda x: x is None or _is_shared(x)  # noqa: E731
    return jax.tree.map(lambda x, y: y if x is None else x, rows, shared, is_leaf=ends)


def shared(carry: Carry) -> dict[str, Any]:
    """All that is `Shared` in a carry, as inference reads it beside the parameters."""
    leaves = jax.tree.leaves(carry, is_leaf=_is_shared)
    return {name: x for leaf in leaves if _is_shared(leaf) for name, x in leaf.value.items()}


def with_shared(carry: Carry, held: Mapping[str, Any]) -> Carry:
    """A carry with other trees in what is `Shared`, or other branches of them."""

    def fill(x: Any) -> Any:
        if not _is_shared(x):
            return x
        return Shared({name: {**tree, **held.get(name, {})} for name, tree in x.value.items()})

    return jax.tree.map(fill, carry, is_leaf=_is_shared)


def with_rows(
    state: TrainState, rows: int, task: Task, mesh: Mesh, exactly: bool = False
) -> TrainState:
    """A state whose carry belongs to so many rows: where it had others, the rows begin anew.

    Args:
      state: with a carry of any number of rows.
      rows: of the next batch.
      task: makes a carry.
      mesh: device mesh.
      exactly: they begin anew also where anything else of their shapes differs.
    """
    old, held = divide(state.carry)
    if not exactly and all(x.shape[0] == rows for x in jax.tree.leaves(old)):
        return state
    begin = functools.partial(task.carry, rows)
    wanted = jax.eval_shape(begin)
    shapes = [
        [(x.shape, x.dtype) for x in jax.tree.leaves(each)] for each in (old, divide(wanted)[0])
    ]
    if shapes[0] == shapes[1]:
        return state
    new, _ = divide(jax.jit(begin, out_shardings=carry_shardings(wanted, mesh))())
    return dataclasses.replace(state, carry=unite(new, held))


def carry_shardings(carry: Carry, mesh: Mesh) -> Carry:
    """The rows of a carry over the data axis, what is `Shared` everywhere."""
    rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    place = lambda x: jax.tree.map(lambda _: everywhere if _is_shared(x) else rows, x)  # noqa: E731
    return jax.tree.map(place, carry, is_leaf=_is_shared)


def _is_shared(x: object) -> bool:
    return isinstance(x, Shared)


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
        opt_state = tx.init(parameter_names.divide(params, config.freeze)[0])
        return TrainState(
            jnp.int32(0), params, opt_state, ema, task.carry(config.global_batch_size)
        )

    boxed = jax.eval_shape(lambda: boxed_init(jax.random.key(0)))
    shards = sharding.shardings(boxed, mesh, config.mesh.preset)
    shards = shards.replace(
        step=sharding.replicated(mesh), carry=carry_shardings(boxed.carry, mesh)
    )
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(nn.unbox, boxed),
        shards,
    )
    return (lambda key: nn.unbox(boxed_init(key))), shapes, shards

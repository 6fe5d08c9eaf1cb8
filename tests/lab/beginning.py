"""Runs that begin with another's parameters, without a loop: random values, nothing is compiled for
them.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from phenomjax import sharding, tasks
from phenomjax import state as state_lib
from phenomjax.checkpoints import init_from, loading
from phenomjax.state import TrainState


def shapes_of(c):
    """(task, boxed shapes of its parameters)."""
    task = tasks.make(c)
    if "alphabet" in c.model:
        batch = {"tokens": np.zeros((1, 18), np.uint8)}
    else:
        crop, channels = c.data.crop_size, len(c.model.channels)
        batch = {
            "pixels": np.zeros((2, crop, crop, channels), np.uint8),
            "channels": np.zeros((2, channels), np.int32),
        }
    return task, jax.eval_shape(task.init, jax.random.key(0), batch)


def fresh(c, seed=0):
    """(task, state) with values everywhere; nothing is compiled."""
    task, shapes = shapes_of(c)
    rng = np.random.default_rng(seed)
    draw = lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype)  # noqa: E731
    params = jax.tree.map(draw, nn.unbox(shapes))
    return task, TrainState(jnp.int32(0), params, (), (), task.carry(2))


def write(folder, c):
    """A checkpoint of random parameters, which are returned."""
    _, state = fresh(c, 1)
    shared = getattr(state.carry, "value", None)
    loading.write(folder, c, jax.device_get(state.params), shared)
    return jax.device_get(state.params)


def begin(folder, c, mesh=None):
    """(parameters and what is shared, fresh ones, report) of a run that begins with a folder; on
    a mesh they are sharded as its preset says.
    """
    c.init_from = str(folder)
    task, state = fresh(c)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = jax.tree.map(lambda _: one, state)
    if mesh is not None:
        params = sharding.shardings(shapes_of(c)[1], mesh, c.mesh.preset)
        places = dataclasses.replace(
            jax.tree.map(lambda _: sharding.replicated(mesh), state), params=params
        )
        state = jax.device_put(state, places)
    shape = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    parts = getattr(task, "begins_with", ())
    begun, report = init_from.begun(state, jax.tree.map(shape, state, places), parts, c)
    for x, place in zip(*map(jax.tree.leaves, (begun.params, places.params)), strict=True):
        assert x.sharding.is_equivalent_to(place, x.ndim)
    params = {**begun.params, **state_lib.shared(begun.carry)}
    return *jax.device_get((params, state.params)), report

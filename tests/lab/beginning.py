"""Runs that begin with another's parameters, without a loop: random values, nothing is compiled for
them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from phenomjax import state as state_lib
from phenomjax import tasks
from phenomjax.checkpoints import init_from, loading
from phenomjax.state import TrainState


def fresh(c, seed=0):
    """(task, state) with values everywhere; nothing is compiled."""
    task = tasks.make(c)
    if "alphabet" in c.model:
        batch = {"tokens": np.zeros((1, 18), np.uint8)}
    else:
        crop, channels = c.data.crop_size, len(c.model.channels)
        batch = {
            "pixels": np.zeros((2, crop, crop, channels), np.uint8),
            "channels": np.zeros((2, channels), np.int32),
        }
    rng = np.random.default_rng(seed)
    shapes = nn.unbox(jax.eval_shape(task.init, jax.random.key(0), batch))
    params = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), shapes)
    return task, TrainState(jnp.int32(0), params, (), (), task.carry(2))


def write(folder, c):
    _, state = fresh(c, 1)
    shared = getattr(state.carry, "value", None)
    loading.write(folder, c, jax.device_get(state.params), shared)
    return jax.device_get(state.params)


def begin(folder, c):
    """(parameters and what is shared, fresh ones, report) of a run that begins with a folder."""
    c.init_from = str(folder)
    task, state = fresh(c)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one)  # noqa: E731
    parts = getattr(task, "begins_with", ())
    begun, report = init_from.begun(state, jax.tree.map(shape, state), parts, c)
    params = {**begun.params, **state_lib.shared(begun.carry)}
    return *jax.device_get((params, state.params)), report

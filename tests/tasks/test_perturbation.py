"""The weakly supervised task: golden losses, the same on any number of devices and micro-batches
with the same running statistics, evaluation by running and by each part's statistics.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from phenomjax import config, optim, sharding, state
from phenomjax.step import jit_step
from phenomjax.tasks.perturbation import Perturbation

ROWS, CROP = 16, 16
TINY = {
    "block_config": (1, 1),
    "growth_rate": 4,
    "stem_features": 8,
    "neck_dim": 16,
    "channels": ("a", "b"),
    "classes": ("one", "two", "three"),
    "cell_types": ("HUVEC", "RPE"),
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "patch_size": 4,
}
EVERYTHING = {
    "model__arcface_weight": 0.2,
    "model__cutmix": 1.0,
    "model__label_smoothing": 0.1,
    "model__dropout": 0.2,
    "model__cell_type": True,
}
# Losses of the first two steps, pinned on a CPU in float32.
GOLDEN = {"densenet": [4.402055, 3.848843], "vit": [5.139217, 4.834606]}


def make_config(**changes):
    c = config.base("perturbation")
    c.model.update(TINY)
    c.data.crop_size, c.global_batch_size, c.num_steps = CROP, ROWS, 6
    c.data.groups, c.data.simulate.plates = 4, 2
    c.optimizer.learning_rate, c.optimizer.schedule = 1e-3, "constant"
    c.optimizer.name = "adamw"
    c.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config.finalize(c)


def make_batch(rows=ROWS):
    """Each part of four has a brightness and a contrast of its own."""
    random = np.random.default_rng(1)
    part = (np.arange(rows) % 4).reshape(-1, 1, 1, 1)
    pixels = random.normal(60 + 40 * part, 10 + 8 * part, (rows, CROP, CROP, 2))
    number = np.arange(rows, dtype=np.int32)
    batch = {
        "pixels": np.clip(pixels, 0, 255).astype(np.uint8),
        "channels": np.tile(np.arange(2, dtype=np.int32), (rows, 1)),
        "row": number,
        "image": number,
        "label": random.integers(0, 3, rows).astype(np.int32),
        "cell_type": (number % 4 // 2).astype(np.int32),
    }
    return jax.tree.map(jnp.asarray, batch)


def start(c):
    """(task, parameters, first carry)."""
    task = Perturbation(c)
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), make_batch()))
    return task, params, task.carry(ROWS)


def steps(c, devices=1, count=2):
    """Losses of a few steps of the loop's own program, and the state after them."""
    shape = (devices // 2, 2) if c.mesh.preset == "fsdp_tp" else (devices, 1)
    mesh = jax.make_mesh(
        shape, sharding.AXES, axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices]
    )
    task, tx, batch = Perturbation(c), optim.make(c), make_batch()
    spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.rules(c.mesh.preset)):
        init, _, shards = state.abstract(task, tx, c, mesh, spec)
        now = jax.jit(init, out_shardings=shards)(jax.random.key(0))
        step = jit_step(task, tx, c, mesh, shards)
        batch, losses = jax.device_put(batch, sharding.batch_sharding(mesh)), []
        for position in range(count):
            now, values = step(now, batch, jax.random.key(2), np.uint32(position))
            losses.append(float(values["train/loss"]))
    return losses, jax.device_get(now)


@pytest.fixture(scope="module")
def alone():
    """Losses and state of one device."""
    return steps(make_config(**EVERYTHING))


def test_golden_losses(alone):
    np.testing.assert_allclose(alone[0], GOLDEN["densenet"], rtol=1e-4)
    found, _ = steps(make_config(model__backbone="vit", **EVERYTHING))
    np.testing.assert_allclose(found, GOLDEN["vit"], rtol=1e-4)


@pytest.mark.parametrize("devices,micro,preset", [(4, 1, "dp"), (2, 2, "fsdp")])
def test_devices_and_micro_batches_change_neither_losses_nor_statistics(
    alone, devices, micro, preset
):
    losses, expected = alone
    c = make_config(mesh__preset=preset, optimizer__accumulate_steps=micro, **EVERYTHING)
    found, after = steps(c, devices)
    np.testing.assert_allclose(found, losses, rtol=2e-5)
    shared, theirs = (state.shared(each.carry)["batch_stats"] for each in (after, expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), shared, theirs
    )
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(theirs))

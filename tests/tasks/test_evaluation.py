"""`eval.num_batches = 0`: all that is held out counts once, and what comes of it does not depend on
the rows of a batch or on the devices.
"""

import collections

import flax.linen as nn
import jax
import numpy as np
import pytest

from phenomjax import config, sharding, tasks
from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.data.simulated.screen_config import SimulationConfig
from phenomjax.data.simulated.write_screen import write_screen
from tests.lab.tiny_language_models import SHAPES, proteins

TINY: dict[str, dict] = {
    **SHAPES,
    "mae": {
        "embed_dim": 8,
        "depth": 1,
        "num_heads": 2,
        "patch_size": 8,
        "decoder_dim": 8,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
    },
}


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("banks")
    names = {"train": proteins([30] * 8), "validation": proteins(range(9, 39), 1)}
    splits = {split: [(f"p{i}", s) for i, s in enumerate(all_)] for split, all_ in names.items()}
    write_token_bank(folder / "families.zarr", splits)
    screen = SimulationConfig(
        num_plates=2, wells_per_plate=13, field_px=40, cell_radius=4.0, plates_per_experiment=1
    )
    write_screen(folder / "screen.zarr", screen)
    return folder


def evaluated(made, params, mesh):
    """What the objective measures over one pass of its held-out batches, and how many count."""
    loader, totals = made.loader("val", 0, 1), collections.defaultdict(lambda: np.zeros(2))
    rows = sharding.batch_sharding(mesh)
    carry = made.carry(loader.global_batch_size, "val")
    step = jax.jit(made.evaluate)
    for index in range(loader.steps_per_epoch):
        batch = {name: jax.device_put(x, rows) for name, x in loader.batch(index).items()}
        sums, carry = step(params, batch, carry)
        for name, pair in sums.items():
            totals[name] += np.array(pair, np.float64)
    return {name: total / count for name, (total, count) in totals.items()}, totals["loss"][1]


@pytest.mark.parametrize("task", TINY)
def test_the_value_of_all_that_is_held_out_does_not_depend_on_the_batch(task, banks, tmp_path):
    c = config.base(task)
    c.model.update(TINY[task])
    c.data.banks, c.eval.num_batches = (str(banks / "families.zarr"),), 0
    c.global_batch_size = 8
    if task == "mae":
        c.data.banks, c.data.crop_size, c.data.flip = (str(banks / "screen.zarr"),), 24, True
        c.data.crops_per_image, c.data.val_fraction = 2, 0.5
    else:
        c.data.segment_len = 16
    found, params, draw = [], None, np.random.default_rng(0).standard_normal
    for rows, devices in ((5, 1), (16, 4)):
        c.eval.batch_size = rows
        made = tasks.make(tasks.resolve(config.finalize(c), tmp_path))
        if params is None:
            batch = made.loader("train", 0, 1).batch(0)
            shapes = nn.unbox(jax.eval_shape(made.init, jax.random.key(0), batch))
            params = jax.tree.map(lambda x: 0.1 * draw(x.shape, np.float32), shapes)
        mesh = sharding.mesh_of(devices, 1, devices=jax.devices()[:devices])
        found.append(evaluated(made, params, mesh))
    (first, counted), (second, again) = found
    loader = made.loader("val", 0, 1)
    wanted = {
        "mae": lambda: loader.num_images,
        "causal_lm": lambda: loader.corpus.num_tokens - 1,
        "bidirectional_lm": lambda: 2 * (loader.corpus.num_tokens - 1),
        "permutation_lm": lambda: -(-loader.corpus.num_tokens // 8) * 3,  # windows, targets of each
    }[task]()
    assert counted == again == wanted
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert second[name] == pytest.approx(value, rel=1e-6), name

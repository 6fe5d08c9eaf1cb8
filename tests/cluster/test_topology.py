"""The masked autoencoders give the same losses on every mesh, and scanned layers and micro-batches
change nothing.
"""

import json

import jax
import numpy as np
import pytest

from phenomjax import config, sharding, train
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen

GOLDEN = {
    False: [0.993345, 1.139862, 1.085202],
    True: [2.021579, 2.152359, 2.057443],
}  # channel_agnostic: losses of three steps


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "screen.zarr"
    write_screen(
        path,
        SimulationConfig(num_plates=2, wells_per_plate=24, sites_per_well=1, field_px=64),
        jobs=1,
    )
    return path


def losses(bank, workdir, monkeypatch, devices, **changes):
    c = config.base()
    c.data.banks, c.data.crop_size, c.data.val_fraction, c.global_batch_size, c.num_steps = (
        (str(bank),),
        32,
        0.0,
        8,
        3,
    )
    c.update_from_flattened_dict(
        {
            "model.embed_dim": 32,
            "model.depth": 2,
            "model.num_heads": 2,
            "model.patch_size": 8,
            "model.decoder_dim": 32,
            "model.decoder_depth": 1,
            "model.decoder_num_heads": 8,
            "optimizer.name": "adamw",
            "log.every_steps": 1,
            "log.tensorboard": False,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
    )
    shape = (devices // 2, 2) if c.mesh.preset == "fsdp_tp" else (devices, 1)
    mesh = sharding.mesh_of(*shape, devices=jax.devices()[:devices])
    monkeypatch.setattr(sharding, "make_mesh", lambda c: mesh)
    # Pictures are a program of their own: those of both axes are enough.
    drawn = {} if c.mesh.preset == "fsdp_tp" else {"evaluators": ()}
    assert train.run(c, workdir, **drawn) == 0
    return [
        json.loads(line)["train/loss"]
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def alone(bank, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return {
            agnostic: losses(
                bank, tmp_path_factory.mktemp("run"), patch, 1, model__channel_agnostic=agnostic
            )
            for agnostic in (False, True)
        }


@pytest.mark.parametrize(
    "agnostic,devices,preset,micro",
    [(False, 2, "fsdp", 4), (True, 4, "fsdp_tp", 1)],
)
def test_every_mesh_gives_the_same_losses_and_micro_batches_change_nothing(
    bank, alone, tmp_path, monkeypatch, agnostic, devices, preset, micro
):
    changes = {"model__channel_agnostic": agnostic, "mesh__preset": preset}
    changes["optimizer__accumulate_steps"] = micro
    found = losses(bank, tmp_path, monkeypatch, devices, **changes)
    np.testing.assert_allclose(found, alone[agnostic], rtol=1e-6)


def test_golden_losses(alone):
    """Pinned on a CPU in float32, so that a change of the mathematics cannot pass for a
    refactoring.
    """
    np.testing.assert_allclose(alone[False], GOLDEN[False], rtol=1e-4)
    np.testing.assert_allclose(alone[True], GOLDEN[True], rtol=1e-4)

"""Every experiment file builds: config, model, optimiser, sharding over 8 devices, without any
array; its docstring tells the truth.
"""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest

from phenomjax import config, optim, sharding, state, tasks
from phenomjax.data.sequences.bank import write_token_bank
from tests.lab import ROOT

FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
CHANNELS = ("Hoechst", "ConA", "Phalloidin", "SYTO14", "MitoTracker", "WGA")


def module(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def abstract_params(c, batch):
    task, mesh = tasks.make(c), sharding.make_mesh(c)
    with jax.set_mesh(mesh):
        _, abstract, _ = state.abstract(task, optim.make(c), c, mesh, batch)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(abstract.params))
    return task, abstract.params


@pytest.mark.parametrize(
    "name,arguments",
    [
        *((name, ()) for name in FILES if "PRESETS" not in vars(module(name))),
        ("mae", ("L/8,mask=0.5,ca=true",)),
        ("mae", ("B/16,plain=true",)),
    ],
)
def test_image_config_builds(name, arguments):
    loaded = module(name)
    c = loaded.get_config(*arguments)
    assert f"configs/{name}.py" in loaded.__doc__  # the page shows its command
    c.data.simulate.plates, c.model.channels = 1, c.model.channels or CHANNELS
    c = config.finalize(c)
    depth = len(c.model.channels)
    shape = (c.global_batch_size, c.data.crop_size, c.data.crop_size, depth)
    batch = {
        "pixels": jax.ShapeDtypeStruct(shape, jnp.uint8),
        "channels": jax.ShapeDtypeStruct((c.global_batch_size, depth), jnp.int32),
        "row": jax.ShapeDtypeStruct((c.global_batch_size,), jnp.int32),
    }
    task, _ = abstract_params(c, batch)
    if stated := re.search(r"([\d.]+) GFLOP per", loaded.__doc__):
        assert task.flops(batch) / c.global_batch_size == pytest.approx(
            1e9 * float(stated[1]), rel=0.005
        )


@pytest.mark.parametrize(
    "name,preset",
    [(name, preset) for name in FILES for preset in getattr(module(name), "PRESETS", ())],
)
def test_sequence_config_builds(name, preset, tmp_path):
    """The line of each preset in the docstring ends `… M … GFLOP …`: its parameters in millions and
    GFLOP of a step per row.
    """
    loaded = module(name)
    c = loaded.get_config(preset)
    assert f"configs/{name}.py:{preset}" in loaded.__doc__ or f"{preset} " in loaded.__doc__
    c.global_batch_size = 8
    alphabet = {"smiles_txl": "smiles", "code_txl": "bytes"}.get(name, "protein")
    letters = {"smiles": "CCO", "bytes": "x = 1", "protein": "MKV"}[alphabet]
    write_token_bank(
        tmp_path / "bank.zarr", {"train": [("long", letters * 5000)]}, alphabet=alphabet
    )
    c.data.banks = (str(tmp_path / "bank.zarr"),)
    c = tasks.resolve(config.finalize(c), tmp_path)
    spec = tasks.make(c).loader("train", 0, 1).specs[0]
    batch = {key: jax.ShapeDtypeStruct(shape, dtype) for key, (shape, dtype) in spec.items()}
    task, params = abstract_params(c, batch)
    line = re.search(rf"^{preset} .*?([\d.]+) M +([\d.]+) GFLOP", loaded.__doc__, re.MULTILINE)
    assert f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.1f}" == line[1]
    assert task.flops(batch) / 8e9 == pytest.approx(float(line[2]), rel=0.01)

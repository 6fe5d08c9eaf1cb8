"""Every experiment file builds: config, model, optimiser, sharding over 8 devices, without any array; its docstring tells the truth."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT

from phenomjax import config, optim, sharding, state, tasks

FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
CHANNELS = ("Hoechst", "ConA", "Phalloidin", "SYTO14", "MitoTracker", "WGA")


def module(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize(
    "name,arguments",
    [*((name, ()) for name in FILES), ("mae", ("L/8,mask=0.5,ca=true",)), ("mae", ("B/16,plain=true",))],
)
def test_config_builds(name, arguments):
    loaded = module(name)
    c = loaded.get_config(*arguments)
    assert f"configs/{name}.py" in loaded.__doc__  # the page shows its command
    c.data.simulate.plates, c.model.channels = 1, CHANNELS
    c = config.finalize(c)
    task, mesh = tasks.make(c), sharding.make_mesh(c)
    shape = (c.global_batch_size, c.data.crop_size, c.data.crop_size, len(CHANNELS))
    batch = {
        "pixels": jax.ShapeDtypeStruct(shape, jnp.uint8),
        "channels": jax.ShapeDtypeStruct((c.global_batch_size, len(CHANNELS)), jnp.int32),
        "row": jax.ShapeDtypeStruct((c.global_batch_size,), jnp.int32),
    }
    with jax.set_mesh(mesh):
        _, abstract, _ = state.abstract(task, optim.make(c), c, mesh, batch)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(abstract.params))
    if stated := re.search(r"([\d.]+) GFLOP per", loaded.__doc__):
        assert task.flops(batch) / c.global_batch_size == pytest.approx(1e9 * float(stated[1]), rel=0.005)

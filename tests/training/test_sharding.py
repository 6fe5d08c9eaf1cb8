"""Mesh and sharding table: every logical name has a rule, dimensions divide, mistakes are
explained.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from phenomjax import config, sharding
from phenomjax.system.errors import UserError


def boxed(names, shape):
    return {"kernel": nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)}


def mesh(**changes):
    c = config.base()
    c.update_from_flattened_dict({f"mesh.{name}": value for name, value in changes.items()})
    return sharding.make_mesh(c)


@pytest.mark.parametrize(
    "preset,expected",
    [("dp", (None, None)), ("fsdp", ("data", None)), ("fsdp_tp", ("data", "model"))],
)
def test_presets(preset, expected):
    model = 2 if preset == "fsdp_tp" else 1
    result = sharding.shardings(
        boxed(("embed", "mlp"), (64, 64)), mesh(preset=preset, model=model), preset
    )
    assert tuple(result["kernel"].spec) == expected


def test_a_name_without_a_rule_is_an_error():
    with pytest.raises(
        UserError, match=r"Logical axes \['embde'\] have no sharding rule in preset 'dp'"
    ):
        sharding.shardings(boxed(("embde", "mlp"), (64, 64)), mesh(), "dp")


def test_a_dimension_that_does_not_divide_is_an_error_unless_the_array_is_small():
    wide = (60, sharding.SMALL // 60 + 8)
    with pytest.raises(
        UserError,
        match=(
            r"\['kernel'\] has a dimension of 60 that does not divide over 8 devices on mesh axis"
            r" 'data'"
        ),
    ):
        sharding.shardings(boxed(("embed", "mlp"), wide), mesh(preset="fsdp"), "fsdp")
    result = sharding.shardings(
        boxed(("vocab", "embed"), (37, 64)), mesh(preset="fsdp_tp", model=2), "fsdp_tp"
    )
    # 37 residues: whole on the model axis, split over data
    assert tuple(result["kernel"].spec) == (None, "data")


def test_mesh_must_use_all_devices():
    with pytest.raises(UserError, match="do not make the 8 devices"):
        mesh(data=3)
    with pytest.raises(
        UserError, match=r"no effect with preset 'dp'; set --config.mesh.preset=fsdp_tp"
    ):
        mesh(model=2)


def test_describe_lists_the_largest_first():
    params = {
        "a": jax.ShapeDtypeStruct((8,), jnp.float32),
        "b": jax.ShapeDtypeStruct((1024, 1024), jnp.float32),
    }
    shards = jax.tree.map(lambda _: sharding.batch_sharding(mesh()), params)
    text = sharding.describe(params, shards)
    assert text.splitlines()[1].split() == ["b", "1024x1024", "('data',)", "0.50"]
    assert "1.05 M parameters in 2 arrays, 0.5 MiB per device" in text

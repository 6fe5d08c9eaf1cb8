"""Mesh and sharding table: every logical name has a rule, dimensions divide, mistakes are
explained.
"""

from unittest import mock

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
    [
        ("dp", (None, None)),
        ("fsdp", ("data", None)),
        ("hsdp", ("data", None)),
        ("fsdp_tp", ("data", "model")),
    ],
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
            r" 'data' .* Use --config.mesh.preset=hsdp with --config.mesh.data=4, --config"
        ),
    ):
        sharding.shardings(boxed(("embed", "mlp"), wide), mesh(preset="fsdp"), "fsdp")
    result = sharding.shardings(
        boxed(("vocab", "embed"), (37, 64)), mesh(preset="fsdp_tp", model=2), "fsdp_tp"
    )
    # 37 residues: whole on the model axis, split over data
    assert tuple(result["kernel"].spec) == (None, "data")


def test_mesh_must_use_all_devices():
    with pytest.raises(UserError, match=r"do not make the 8 devices .*config.mesh.model that"):
        mesh(data=3)
    with pytest.raises(UserError, match=r"do not make the 8 devices .*config.mesh.replica that"):
        mesh(preset="hsdp", replica=3)
    with pytest.raises(
        UserError, match=r"no effect with preset 'dp'; set --config.mesh.preset=fsdp_tp"
    ):
        mesh(model=2)
    with pytest.raises(UserError, match=r"no effect with preset 'fsdp'; set .*preset=hsdp"):
        mesh(preset="fsdp", replica=2)


@pytest.mark.parametrize(
    "sizes,expected",
    [({}, (4, 2)), ({"replica": 2}, (2, 4)), ({"data": 4}, (2, 4)), ({"replica": 8}, (8, 1))],
)
def test_a_group_of_hsdp_is_a_node_unless_it_is_said(monkeypatch, sizes, expected):
    """Devices come in the order of their processes, which SLURM may deal out to nodes in turn."""
    found = [mock.Mock(slice_index=i % 4, id=i) for i in range(8)]
    made = {}
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)
    monkeypatch.setattr(sharding, "mesh_of", lambda *args: made.update(args=args))
    mesh(preset="hsdp", **sizes)
    data, model, replica, devices = made["args"]
    assert (replica, data, model) == (*expected, 1)
    assert [device.id for device in devices] == [0, 4, 1, 5, 2, 6, 3, 7]


@pytest.mark.parametrize(
    "mesh,processes,blocks",
    [
        ((1, 8, 1), 2, [(0, 2), (1, 2)]),
        ((2, 4, 1), 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((1, 4, 2), 2, [(0, 2), (1, 2)]),
        ((1, 2, 4), 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),  # two share the model axis, and rows
        ((1, 1, 8), 2, [(0, 1), (0, 1)]),
    ],
)
def test_the_block_of_rows_of_each_process(monkeypatch, mesh, processes, blocks):
    devices = [mock.Mock(process_index=i * processes // 8) for i in range(8)]
    found = mock.Mock(shape=dict(zip(sharding.AXES, mesh, strict=True)), devices=mock.Mock())
    found.devices.flat = devices
    for index, block in enumerate(blocks):
        monkeypatch.setattr(sharding.jax, "process_index", lambda index=index: index)
        assert sharding.row_block(found) == block


def test_nodes_of_several_sizes_are_told(monkeypatch):
    found = [mock.Mock(slice_index=int(i > 2)) for i in range(8)]
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)
    monkeypatch.setattr(sharding, "mesh_of", lambda *sizes: sizes)
    with pytest.raises(UserError, match=r"nodes have 3 or 5 devices.* --config.mesh.data=1, the"):
        mesh(preset="hsdp")
    assert mesh(preset="hsdp", data=1) == (1, 1, 8, found)


def test_describe_lists_the_largest_first():
    params = {
        "a": jax.ShapeDtypeStruct((8,), jnp.float32),
        "b": jax.ShapeDtypeStruct((1024, 1024), jnp.float32),
    }
    shards = jax.tree.map(lambda _: sharding.batch_sharding(mesh()), params)
    text = sharding.describe(params, shards)
    assert text.splitlines()[1].split() == ["b", "1024x1024", "(('replica',", "'data'),)", "0.50"]
    assert "1.05 M parameters in 2 arrays, 0.5 MiB per device" in text

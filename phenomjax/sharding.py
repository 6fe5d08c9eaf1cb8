"""Mesh, the table from logical axis names to mesh axes, and what it means for each parameter.

Sharded with pjit, i.e. `jax.jit` with shardings. A new strategy is a new table and nothing else.
"""

import collections
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree
from ml_collections import ConfigDict

from phenomjax.system.errors import UserError

# `replica` counts the groups of devices that each hold all parameters, `data` is along a group.
AXES = ("replica", "data", "model")
# over which the rows of a batch are divided, and so what gradients are summed over
ROWS = ("replica", "data")
# what `jax.vmap` over the shards of a micro-batch is called: collectives of a task name it
SHARDS = "shards"
# Logical names of axes, and what each is the axis of. Where two names of an array want the same
# mesh axis, the first in this order gets it.
NAMES = {
    "batch": "rows of a batch, a carry or an activation",
    "embed": "width of the model",
    "mlp": "hidden width of an MLP, of an LSTM or of convolutions",
    "heads": "attention heads",
    "vocab": "tokens of a vocabulary, or classes",
    "seq": "positions",
    "kv": "width of a head",
    "patch": "pixels of a patch, or an input that has no other name",
    "layers": "layers that are stacked for a scan",
    "channel": "channels of an image",
}
_WHOLE: dict[str, str | tuple[str, ...] | None] = dict.fromkeys(NAMES)
_DP = _WHOLE | {"batch": ROWS}
_FSDP = _DP | {"embed": "data"}
RULES = {
    "dp": _DP,
    "fsdp": _FSDP,
    # within a group of devices, replicated over `mesh.replica` groups
    "hsdp": _FSDP,
    "fsdp_tp": _FSDP | {"mlp": "model", "heads": "model", "vocab": "model"},
}

# Elements: a bias or a vocabulary of residues that does not divide stays whole, since nothing is
# won by splitting it.
SMALL = 2**16
Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]


def make_mesh(config: ConfigDict) -> Mesh:
    """Builds the (replica, data, model) mesh over all devices of all processes.

    Raises:
      UserError: the axis sizes do not multiply to the number of devices, or the batch does not
        divide over them.
    """
    c, count, devices = config.mesh, jax.device_count(), jax.devices()
    for axis, preset in (("model", "fsdp_tp"), ("replica", "hsdp")):
        if c.preset != preset and c[axis] not in (1, -1):
            raise UserError(
                f"config.mesh.{axis}={c[axis]} has no effect with preset '{c.preset}'; set"
                f" --config.mesh.preset={preset}."
            )
    replica, data, model = 1, c.data, c.model
    if c.preset == "hsdp":
        devices = sorted(devices, key=_node)  # which SLURM may deal out to nodes in turn
        replica = c.replica if c.replica != -1 else count // (data if data != -1 else _of_a_node())
    if data == -1:
        data = max(count // (replica * model), 1)
    if replica * data * model != count:
        raise UserError(
            f"config.mesh has replica={c.replica}, data={c.data} and model={model}, which do not"
            f" make the {count} devices that JAX sees ({devices[0].device_kind}). Set"
            " --config.mesh.data=-1 and a"
            f" --config.mesh.{'replica' if c.preset == 'hsdp' else 'model'} that divides {count}."
        )
    parts = config.optimizer.accumulate_steps
    shards = replica * data
    if (micro := config.global_batch_size // parts) % shards:
        raise UserError(
            f"config.global_batch_size {config.global_batch_size} / optimizer.accumulate_steps"
            f" {parts} = {micro} crops do not divide over the {shards} devices that share the rows."
            f" Use a multiple of {shards * parts}, e.g."
            f" --config.global_batch_size={-(-micro // shards) * shards * parts}."
        )
    if uneven := [rows for _, rows in config.batch_ramp if rows % (shards * parts)]:
        raise UserError(
            f"config.batch_ramp has batches of {uneven[0]} rows, which do not divide over the"
            f" {shards} devices that share the rows, in {parts} micro-batches. Use multiples of"
            f" {shards * parts}."
        )
    if (rows := config.eval.batch_size) % shards:
        raise UserError(
            f"config.eval.batch_size {rows} does not divide over the {shards} devices that share"
            f" the rows. Set --config.eval.batch_size={-(-rows // shards) * shards}."
        )
    return mesh_of(data, model, replica, devices)


def mesh_of(
    data: int, model: int = 1, replica: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh of these sizes, over all devices if none are given."""
    # positional: the keyword differs between versions
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh((replica, data, model), AXES, axis_types=types, devices=devices)


def _node(device: jax.Device) -> int:
    """Number of a device's node: of GPUs JAX knows which share fast links, of others each process
    counts as a node.
    """
    return getattr(device, "slice_index", device.process_index)


def _of_a_node() -> int:
    """How many devices a node has.

    Raises:
      UserError: as many as another has not.
    """
    sizes = sorted(set(collections.Counter(map(_node, jax.devices())).values()))
    if len(sizes) > 1:
        raise UserError(
            f"config.mesh.preset is 'hsdp', but nodes have {' or '.join(map(str, sizes))} devices:"
            " a group is a node, and groups are equal. Use nodes with as many devices each, or set"
            f" --config.mesh.data={math.gcd(*sizes)}, the devices of a group."
        )
    return sizes[0]


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices the rows of a batch are divided."""
    return math.prod(mesh.shape.get(axis, 1) for axis in ROWS)


def row_block(mesh: Mesh) -> tuple[int, int]:
    """Which block of a global batch's rows this process's devices hold.

    Returns:
      (index, count): block `index` of `count` equal ones. Processes that share a model axis hold
      the same block.

    Raises:
      UserError: the devices hold rows that are no such block.
    """
    size = row_shards(mesh)
    mine = [d.process_index == jax.process_index() for d in mesh.devices.flat]
    held = np.unique(np.flatnonzero(mine) // mesh.shape["model"])
    if size % len(held) or held[0] % len(held) or held[-1] - held[0] + 1 != len(held):
        raise UserError(
            f"Process {jax.process_index()} would hold the shards {held.tolist()} of"
            f" {size} of the rows, which are no equal block. Use a config.mesh.model that divides,"
            " or is a multiple of, the number of devices of each process."
        )
    return int(held[0]) // len(held), size // len(held)


def rules(preset: str) -> Rules:
    """Returns the rule table of a preset in Flax's form."""
    return tuple(RULES[preset].items())


def rules_within_shards(preset: str) -> Rules:
    """The rule table for code that is mapped over the axes of rows already: rows within a shard are
    on one device.
    """
    return tuple((RULES[preset] | {"batch": None}).items())


def split_over_rows(x: jax.Array, axes: str | tuple[str, ...] = ROWS) -> jax.Array:
    """Constrains the leading axis to those of rows, and leaves the others to the partitioner."""
    return jax.lax.with_sharding_constraint(x, P(axes, *[P.UNCONSTRAINED] * (x.ndim - 1)))


def sum_over_rows(x: jax.Array) -> jax.Array:
    """The sum over a leading axis that is split over those of rows: within each group of devices
    first, so that only the shards of a group's sum cross to the other groups.
    """
    groups = jax.sharding.get_abstract_mesh().shape.get("replica", 1)
    if groups > 1:
        x = split_over_rows(x.reshape(groups, -1, *x.shape[1:]).sum(1), "replica")
    return x.sum(0)


def shardings(boxed: PyTree, mesh: Mesh, preset: str) -> PyTree:
    """Maps a tree with logical axis names (Flax boxes, abstract leaves) to NamedShardings.

    Raises:
      UserError: a logical name without a rule, or an array of more than `SMALL` elements with a
        dimension that the mesh axis does not divide.
    """
    specs = nn.get_partition_spec(boxed)
    used = {
        axis
        for spec in jax.tree.leaves(specs, is_leaf=lambda s: isinstance(s, P))
        for axis in spec
        if axis
    }
    if unknown := used - RULES[preset].keys():
        raise UserError(
            f"Logical axes {sorted(unknown)} have no sharding rule in preset '{preset}'; known:"
            f" {sorted(RULES[preset])}."
        )
    result = nn.logical_to_mesh_sharding(specs, mesh, rules(preset))

    def divided(
        path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct, sharding: NamedSharding
    ) -> NamedSharding:
        spec = list(sharding.spec)
        for i, axis in enumerate(spec):
            if axis and leaf.shape[i] % mesh.shape[axis]:
                if leaf.size > SMALL:
                    way = (
                        "fewer devices"
                        if preset == "hsdp" or axis == "model"
                        else (
                            "--config.mesh.preset=hsdp with --config.mesh.data="
                            f"{math.gcd(leaf.shape[i], mesh.shape[axis])}"
                        )
                    )
                    raise UserError(
                        f"{jax.tree_util.keystr(path)} has a dimension of {leaf.shape[i]} that does"
                        f" not divide over {mesh.shape[axis]} devices on mesh axis '{axis}' (preset"
                        f" '{preset}'). Use {way}, --config.mesh.preset=dp, or a model width that"
                        " divides."
                    )
                spec[i] = None
        return NamedSharding(mesh, P(*spec))

    return jax.tree_util.tree_map_with_path(divided, jax.eval_shape(nn.unbox, boxed), result)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over their axes, for every leaf of a batch."""
    return NamedSharding(mesh, P(ROWS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on all devices."""
    return NamedSharding(mesh, P())


def describe(params: PyTree, param_shardings: PyTree, rows: int = 12) -> str:
    """A table of parameter, shape, spec and MiB per device, the largest first, with the totals."""
    table, total, local = [], 0, 0.0
    for (path, leaf), sharding in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(param_shardings), strict=True
    ):
        mib = np.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize / 2**20
        table.append(
            (
                mib,
                jax.tree_util.keystr(path, simple=True, separator="/"),
                leaf.shape,
                tuple(sharding.spec),
            )
        )
        total, local = total + leaf.size, local + mib
    table.sort(key=lambda row: -row[0])
    lines = [
        f"  {name:<58} {'x'.join(map(str, shape)) or 'scalar':<16} {spec!s:<22} {mib:8.2f}"
        for mib, name, shape, spec in table[:rows]
    ]
    head = f"  {'parameter':<58} {'shape':<16} {'sharding':<22} MiB per device"
    more = [f"  … and {len(table) - rows} smaller ones"] if len(table) > rows else []
    return "\n".join(
        [
            head,
            *lines,
            *more,
            f"  {total / 1e6:.2f} M parameters in {len(table)} arrays, {local:.1f} MiB per device",
        ]
    )

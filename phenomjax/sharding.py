"""Mesh, the table from logical axis names to mesh axes, and what it means for each parameter.

Sharded with pjit, i.e. `jax.jit` with shardings. A new strategy is a new table and nothing else.
"""

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree
from ml_collections import ConfigDict

from phenomjax.system.errors import UserError

AXES = ("data", "model")
# what `jax.vmap` over the shards of a micro-batch is called: collectives of a task name it
SHARDS = "shards"
_NAMES = "batch", "embed", "mlp", "heads", "vocab", "seq", "kv", "patch", "layers", "channel"
# Where two names of an array want the same mesh axis, the first in this order gets it.
_WHOLE: dict[str, str | None] = dict.fromkeys(_NAMES)
_FSDP = _WHOLE | {"batch": "data", "embed": "data"}
RULES = {
    "dp": _WHOLE | {"batch": "data"},
    "fsdp": _FSDP,
    "fsdp_tp": _FSDP | {"mlp": "model", "heads": "model", "vocab": "model"},
}

# Elements: a bias or a vocabulary of residues that does not divide stays whole, since nothing is
# won by splitting it.
SMALL = 2**16


def make_mesh(config: ConfigDict) -> Mesh:
    """Builds the (data, model) mesh over all devices of all processes.

    Raises:
      UserError: the axis sizes do not multiply to the number of devices, or the batch does not
        divide over them.
    """
    count, data, model = jax.device_count(), config.mesh.data, config.mesh.model
    if data == -1:
        data = max(count // model, 1)
    if data * model != count:
        raise UserError(
            f"config.mesh has data={config.mesh.data} and model={model}, which do not make the"
            f" {count} devices that JAX sees ({jax.devices()[0].device_kind}). Set"
            f" --config.mesh.data=-1 and a --config.mesh.model that divides {count}."
        )
    if config.mesh.preset != "fsdp_tp" and model != 1:
        raise UserError(
            f"config.mesh.model={model} has no effect with preset '{config.mesh.preset}'; set"
            " --config.mesh.preset=fsdp_tp."
        )
    parts = config.optimizer.accumulate_steps
    micro = config.global_batch_size // parts
    if micro % data:
        raise UserError(
            f"config.global_batch_size {config.global_batch_size} / optimizer.accumulate_steps"
            f" {parts} = {micro} crops do not divide over {data} devices on the data axis. Use a"
            f" multiple of {data * parts}, e.g."
            f" --config.global_batch_size={-(-micro // data) * data * parts}."
        )
    if (rows := config.eval.batch_size) % data:
        raise UserError(
            f"config.eval.batch_size {rows} does not divide over {data} devices on the data axis."
            f" Set --config.eval.batch_size={-(-rows // data) * data}."
        )
    # positional: the keyword differs between versions
    return jax.make_mesh((data, model), AXES, axis_types=(AxisType.Auto,) * 2)


def row_block(mesh: Mesh) -> tuple[int, int]:
    """Which block of a global batch's rows this process's devices hold.

    Returns:
      (index, count): block `index` of `count` equal ones. Processes that share a model axis hold
      the same block.

    Raises:
      UserError: the devices hold rows that are no such block.
    """
    axis, size = mesh.axis_names.index("data"), mesh.shape["data"]
    mine = [d.process_index == jax.process_index() for d in mesh.devices.flat]
    held = np.unique(np.unravel_index(np.flatnonzero(mine), mesh.devices.shape)[axis])
    if size % len(held) or held[0] % len(held) or held[-1] - held[0] + 1 != len(held):
        raise UserError(
            f"Process {jax.process_index()} would hold the rows {held.tolist()} of a data axis of"
            f" {size}, which are no equal block. Use a config.mesh.model that divides, or is a"
            " multiple of, the number of devices of each process."
        )
    return int(held[0]) // len(held), size // len(held)


def rules(preset: str) -> tuple[tuple[str, str | None], ...]:
    """Returns the rule table of a preset in Flax's form."""
    return tuple(RULES[preset].items())


def rules_within_shards(preset: str) -> tuple[tuple[str, str | None], ...]:
    """The rule table for code that is mapped over the data axis already: rows within a shard are on
    one device.
    """
    return tuple((RULES[preset] | {"batch": None}).items())


def split_over_data(x: jax.Array) -> jax.Array:
    """Constrains the leading axis to the data axis, and leaves the others to the partitioner."""
    return jax.lax.with_sharding_constraint(x, P("data", *[P.UNCONSTRAINED] * (x.ndim - 1)))


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
                    raise UserError(
                        f"{jax.tree_util.keystr(path)} has a dimension of {leaf.shape[i]} that does"
                        f" not divide over {mesh.shape[axis]} devices on mesh axis '{axis}' (preset"
                        f" '{preset}'). Use --config.mesh.preset=dp, fewer devices, or a model"
                        " width that divides."
                    )
                spec[i] = None
        return NamedSharding(mesh, P(*spec))

    return jax.tree_util.tree_map_with_path(divided, jax.eval_shape(nn.unbox, boxed), result)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the data axis, for every leaf of a batch."""
    return NamedSharding(mesh, P("data"))


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

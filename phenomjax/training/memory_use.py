"""The memory that a run holds, and what is said when there is not enough: how much was wanted, the
largest arrays, and the keys that help most.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from phenomjax import sharding
from phenomjax.checkpoints.checkpointer import Checkpointer
from phenomjax.cluster import messages
from phenomjax.config import keys, stored
from phenomjax.config.checks import flatten
from phenomjax.state import TrainState
from phenomjax.step import Programs
from phenomjax.system import memory
from phenomjax.system.errors import EXIT_CONFIG, EXIT_FAILED, UserError
from phenomjax.system.files import in_units
from phenomjax.training.context import RunContext

SHOWN, MENDS = 5, 3  # arrays, and what helps
# What of a step lies in memory, whatever XLA fuses.
KEPT = ("dot_general", "conv_general_dilated", "scan", "while", "concatenate", "custom_call")


def metrics() -> dict[str, float]:
    """For the log, in GiB: what this process holds of its host, and of its fullest device."""
    now, most = memory.of_process()
    values = {"perf/host_memory_gib": now, "perf/host_memory_peak_gib": most}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    for name, key in (("", "bytes_in_use"), ("_peak", "peak_bytes_in_use")):
        if all(key in each for each in stats):
            values[f"perf/device_memory{name}_gib"] = max(each[key] for each in stats)
    if all("bytes_limit" in each for each in stats):
        values["perf/device_memory_limit_gib"] = min(each["bytes_limit"] for each in stats)
    return {name: value / 2**30 for name, value in values.items()}


@contextlib.contextmanager
def explained(
    run: RunContext,
    state: TrainState,
    shards: TrainState,
    programs: Programs,
    checkpoints: Checkpointer,
) -> Iterator[None]:
    """Tells the user what to do when inside there is not enough memory.

    Such a run is started again only where steps were done before: the memory may be there the next
    time. Before its first checkpoint a run can go on with another configuration.

    Args:
      run: what was made.
      state, shards: shapes of its state, and their shardings.
      programs, checkpoints: of it.

    Raises:
      UserError: how much was wanted, the largest arrays, and what helps.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory.ran_out(error):
            raise
        resumed = bool(checkpoints.source) or checkpoints.latest_step() is not None
        if messages.is_main() and not resumed:
            (run.workdir / "config.json").unlink(missing_ok=True)
        began = run.watchdog.step > run.goodput.now["first_step"]
        text = _told(error, run, state, shards, programs, resumed)
        raise UserError(text, EXIT_FAILED if began else EXIT_CONFIG) from error


def _told(
    error: Exception,
    run: RunContext,
    state: TrainState,
    shards: TrainState,
    programs: Programs,
    resumed: bool,
) -> str:
    phase, much = run.phase.broken or "step", memory.wanted(error)
    stats = jax.local_devices()[0].memory_stats() or {}
    there = (
        f"a device has {in_units(stats['bytes_limit'])}"
        if "bytes_limit" in stats
        else f"this host has {in_units(memory.available())} left"
    )
    if phase == "data":
        where, held = "of a batch on this host", ""
        arrays = _of_batch(run)
    else:
        where, held = "of a device", _held(run, state, shards, programs) + " "
        arrays = [*_sizes(state, shards), *_of_step(run, state)]
    arrays = sorted(arrays, key=lambda one: -one[0])[:SHOWN]
    listed = ", ".join(f"{name} ({in_units(size)})" for size, name in arrays)
    most = _bytes(state, shards) > programs.temporary
    mends = helping(run.config, phase, run.mesh, most, resumed)
    return (
        f"Memory ran out at step {run.watchdog.step + 1} ({phase}):"
        f" {in_units(much) if much else 'more'} was wanted, and {there}."
        f" {held}The largest arrays {where}: {listed}."
        + (
            f" What helps most, first: {'; '.join(mends)}."
            if mends
            else " Only more memory, more devices or a smaller model help."
        )
    )


def _bytes(tree: Any, shards: Any) -> float:
    """Bytes of a device."""
    return sum(size for size, _ in _sizes(tree, shards))


def _sizes(tree: Any, shards: Any) -> Iterator[tuple[float, str]]:
    for (path, leaf), shard in zip(
        jax.tree.leaves_with_path(tree), jax.tree.leaves(shards), strict=True
    ):
        local = shard.shard_shape(leaf.shape)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = ",".join(map(str, leaf.shape))
        size = math.prod(local) * np.dtype(leaf.dtype).itemsize if _numeric(leaf) else 0
        yield float(size), f"{name} {leaf.dtype}[{shape}]"


def _numeric(leaf: Any) -> bool:
    return not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)


def _held(run: RunContext, state: TrainState, shards: TrainState, programs: Programs) -> str:
    """What a device holds, by kind."""
    kinds = {
        "parameters": _bytes(state.params, shards.params),
        "state of the optimiser": _bytes(state.opt_state, shards.opt_state),
        "moving average": _bytes(state.ema, shards.ema),
        "what is carried": _bytes(state.carry, shards.carry),
    }
    kinds = {name: size for name, size in kinds.items() if size}
    if programs.temporary:
        kinds["gradients and activations"] = programs.temporary
    rows = run.config.global_batch_size // sharding.row_shards(run.mesh)
    held = ", ".join(f"{name} {in_units(size)}" for name, size in kinds.items())
    micro = run.config.optimizer.accumulate_steps
    more = f", {micro} micro-batches" if micro > 1 else ""
    return f"A device holds {held} ({rows} rows a device{more})."


def _of_batch(run: RunContext) -> list[tuple[float, str]]:
    """The arrays of a batch that this process reads; several wait at once."""
    return [
        (
            float(math.prod(x.shape) * np.dtype(x.dtype).itemsize)
            / sharding.row_block(run.mesh)[1],
            f"{name} {x.dtype}[{','.join(map(str, x.shape))}]",
        )
        for name, x in run.spec.items()
    ]


def _of_step(run: RunContext, state: TrainState) -> list[tuple[float, str]]:
    """The largest arrays that a step makes on a device, before XLA fuses: by tracing it."""
    parameters = {leaf.shape for leaf in jax.tree.leaves(state.params)}
    devices = sharding.row_shards(run.mesh) * run.config.optimizer.accumulate_steps

    def loss(params: Any, batch: Any, key: Any, carry: Any) -> Any:
        return run.task.loss(params, batch, key, carry)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr = jax.make_jaxpr(jax.grad(loss))(state.params, run.spec, key, state.carry)
    found = defaultdict[tuple[float, str], int](int)
    for equation in _equations(jaxpr.jaxpr):
        for variable in equation.outvars:
            value = variable.aval
            if value.shape in parameters or not hasattr(value, "dtype") or not _numeric(value):
                continue
            where = str(equation.source_info.name_stack).replace("(", "/").replace(")", "")
            shape = ",".join(map(str, value.shape))
            short = "/".join(part for part in where.split("/") if part)[-60:]
            size = math.prod(value.shape) * value.dtype.itemsize / devices
            found[size, f"{value.dtype}[{shape}] of {short or equation.primitive.name}"] += 1
    return [(size, name + (f", {n} of them" if n > 1 else "")) for (size, name), n in found.items()]


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Equations whose results lie in memory, with those of inner programs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in KEPT:
            yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def helping(
    c: ConfigDict, phase: str, mesh: jax.sharding.Mesh, state_is_most: bool, resumed: bool
) -> list[str]:
    """At most three changes of the configuration that are sound and need less memory, as flags
    with what they do, the most helpful first.

    Args:
      c: the configuration.
      phase: in which memory ran out.
      mesh: of the run.
      state_is_most: the state takes more than gradients and activations.
      resumed: only what may change in a run that goes on.
    """
    shards, devices = sharding.row_shards(mesh), mesh.devices.size
    rows, micro = c.global_batch_size // shards, c.optimizer.accumulate_steps
    more = next((n for n in range(2 * micro, rows + 1) if rows % n == 0), 0)
    half = c.global_batch_size // 2 // shards * shards
    evaluated = (c.eval.batch_size or c.global_batch_size) // 2 // shards * shards
    smaller = {"eval.batch_size": evaluated} if evaluated else {}
    sharded = {"mesh.preset": "fsdp"} if devices > 1 and c.mesh.preset == "dp" else {}
    activations: list[tuple[dict[str, Any], str]] = [
        ({"optimizer.accumulate_steps": more}, "the same mathematics, by smaller micro-batches"),
        ({"model.remat": "full"}, "activations are computed twice, a step takes a third longer"),
        ({"global_batch_size": half}, "another, smaller batch"),
    ]
    states: list[tuple[dict[str, Any], str]] = [
        (sharded, f"the state is divided over {devices} devices"),
        ({"optimizer.ema_decay": 0.0}, "no moving average"),
        ({"optimizer.name": "lion"}, "one moment a parameter; it wants another learning rate"),
    ]
    data: list[tuple[dict[str, Any], str]] = [
        activations[-1],
        ({"data.prefetch_batches": 1}, "fewer batches wait on the host"),
        ({"data.threads": 1}, "fewer images are decoded at once"),
    ]
    order = [*states, *activations] if state_is_most else [*activations, *states]
    if phase == "data":
        order = [*data, *order]
    elif phase.endswith("evaluation"):
        order = [(smaller, "evaluation by smaller batches"), *order]
    elif phase == "drawing":
        order = [({"figures.num_images": 0}, "no figures"), *order]
    found = list[str]()
    for changes, why in order:
        if changes and _sound(c, changes, resumed):
            flags = " ".join(f"--config.{key}={value}" for key, value in changes.items())
            found.append(f"{flags} ({why})")
    return found[:MENDS]


def _sound(c: ConfigDict, changes: dict[str, Any], resumed: bool) -> bool:
    """Whether a changed configuration differs, is accepted, and can go on in the same workdir."""
    flat = flatten(c)
    if any(key not in flat or flat[key] == value for key, value in changes.items()):
        return False
    changed = ConfigDict(c.to_dict())
    changed.update_from_flattened_dict(changes)
    try:
        changed = keys.finalize(changed)
    except UserError:
        return False
    return not resumed or not stored.changed(flat, flatten(changed))

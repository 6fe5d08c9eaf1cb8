"""Checks of a preflight that train: the first steps on all processes, and the same ones on one."""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled
from ml_collections import ConfigDict

from phenomjax import optim, sharding
from phenomjax import state as state_lib
from phenomjax.cluster import start
from phenomjax.models.layers import compute_dtype
from phenomjax.preflight.results import Problem, Skip
from phenomjax.preflight.stand import LIMITS, Bench, differences
from phenomjax.state import TrainState
from phenomjax.step import jit_step
from phenomjax.system import memory
from phenomjax.system.files import in_units
from phenomjax.training.feed import to_devices

STEPS = 10
# relative difference of losses: float32 products, and bfloat16 or TF32 ones
EXACT, ROUNDED = 1e-5, 2e-2
StepMetrics = dict[str, float]


class Stepped(TypedDict):
    """What one process saw of the first steps: their metrics, median seconds, GiB a device; and how
    many steps the run has.
    """

    metrics: list[StepMetrics]
    seconds: float
    GiB: float
    num_steps: int


class Alone(TypedDict):
    """The metrics of the steps on all processes and on one alone, which took some seconds a step on
    some devices, and how much they may differ.
    """

    all: list[StepMetrics]
    alone: list[StepMetrics]
    seconds: float
    limit: float
    devices: int


@contextlib.contextmanager
def on(mesh: Mesh, config: ConfigDict) -> Iterator[None]:
    """The context in which the loop runs."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.rules(config.mesh.preset)):
        yield


def abstract_state(
    bench: Bench, mesh: Mesh
) -> tuple[Callable[[jax.Array], TrainState], TrainState, TrainState]:
    """`state.abstract` of the run on a mesh."""
    spec = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in bench.loader.specs[0].items()
    }
    return state_lib.abstract(bench.task, optim.make(bench.config), bench.config, mesh, spec)


def steps(
    bench: Bench, mesh: Mesh, ready: Callable[[str, int], None]
) -> tuple[TrainState, list[StepMetrics], float]:
    """The first steps of the run on a mesh, as the loop does them.

    Args:
      bench: of this process.
      mesh: of all devices, or of some.
      ready: called before the first use of a compiled step, with a label and its bytes on a device.

    Returns:
      (state, metrics of each step, median seconds of a step).
    """
    c, compiled = bench.config, dict[object, Compiled]()
    found: list[StepMetrics] = []
    times: list[float] = []
    with on(mesh, c):
        rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        init, abstract, shards = abstract_state(bench, mesh)
        loader = bench.task.loader("train", *sharding.row_block(mesh))
        assert loader is not None
        step = jit_step(bench.task, optim.make(c), c, mesh, shards)
        state: TrainState | None = None
        for i in range(STEPS):
            batch = to_devices(loader.batch(i), rows)
            shapes = tuple((name, x.shape, str(x.dtype)) for name, x in batch.items())
            if shapes not in compiled:
                compiled[shapes] = step.lower(
                    abstract, batch, jax.random.key(0), np.uint32(0)
                ).compile()
                ready(f"compiled {len(compiled)}", _bytes(compiled[shapes]))
            if state is None:
                key = jax.device_put(jax.random.key(c.seed), everywhere)
                state = jax.jit(init, out_shardings=shards)(key)
                jax.block_until_ready(state)
            begin = time.perf_counter()
            state, values = compiled[shapes](state, batch, key, np.uint32(i))
            found.append({name: float(x) for name, x in jax.device_get(values).items()})
            times.append(time.perf_counter() - begin)
    assert state is not None
    return state, found, statistics.median(times[1:])


def run_steps(bench: Bench) -> Stepped:
    """Ten steps on all processes."""
    start.use_compilation_cache()
    memory = []

    def ready(label: str, need: int) -> None:
        memory.append(need)
        # The first collective of a program gives up when processes come more than half a minute
        # apart.
        bench.exchange.meet(label, LIMITS["steps"])

    assert bench.mesh is not None
    bench.state, bench.losses, seconds = steps(bench, bench.mesh, ready)
    return {
        "metrics": bench.losses,
        "seconds": seconds,
        "GiB": max(memory) / 2**30,
        "num_steps": bench.config.num_steps,
    }


def judge_steps(found: list[Stepped], names: list[str]) -> str:
    losses = [[m["train/loss"] for m in f["metrics"]] for f in found]
    if text := differences(losses, names):
        raise Problem(
            f"the processes have different losses: {text}",
            "A device or a network that returns other numbers: try other nodes.",
        )
    for step, m in enumerate(found[0]["metrics"], 1):
        if not np.isfinite([m["train/loss"], m["train/grad_norm"]]).all():
            raise Problem(
                f"step {step} has loss {m['train/loss']:.4g} and gradient norm"
                f" {m['train/grad_norm']:.4g}",
                "Lower --config.optimizer.learning_rate, or inspect the bank.",
            )
    slow = max(f["seconds"] for f in found)
    return (
        f"{STEPS} steps, loss {losses[0][0]:.4f} to {losses[0][-1]:.4f}; {slow:.3g} s a step,"
        f" {found[0]['GiB']:.2f} GiB a device"
    )


def numbers_of_steps(found: list[Stepped]) -> dict[str, float]:
    """What the steps foretell of the run: of all its steps at the rate of the slowest process,
    without evaluations and checkpoints.
    """
    slow = max(f["seconds"] for f in found)
    losses = [m["train/loss"] for m in found[0]["metrics"]]
    return {
        "steps_per_second": 1 / slow if slow else math.inf,
        "days_of_all_steps": found[0]["num_steps"] * slow / 86400,
        "gib_per_device": max(f["GiB"] for f in found),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def _bytes(compiled: Compiled) -> int:
    """What a program takes of a device's memory; 0 where the backend does not tell."""
    analysis = compiled.memory_analysis()
    return (analysis.argument_size_in_bytes + analysis.temp_size_in_bytes) if analysis else 0


def run_alone(bench: Bench) -> Alone | None:
    """Process 0 takes the same steps on its own devices, with the whole batch; the others wait."""
    if bench.exchange.count == 1 and jax.device_count() == 1:
        raise Skip("the steps above ran on one device: there is nothing to compare with")
    if bench.exchange.own:
        return None
    c, mesh = bench.config, _mesh_of_one(bench)
    devices, mend = mesh.devices.ravel(), "compare with a smaller --config.global_batch_size"
    batch = sum(
        int(np.prod(shape)) * np.dtype(dtype).itemsize
        for shape, dtype in bench.loader.specs[0].values()
    )
    free = memory.available()
    if 3 * batch > free:
        raise Skip(
            f"a whole batch of {in_units(batch)} does not fit into {in_units(free)} of one host:"
            f" {mend}"
        )

    def fits(_: str, need: int) -> None:
        room = _device_memory(devices[0])
        need *= len(devices) if devices[0].platform == "cpu" else 1  # they share the memory
        if need > 0.95 * room:
            raise Skip(
                f"the whole batch on {len(devices)} device(s) needs {in_units(need)}, and"
                f" {in_units(room)} are free: {mend}"
            )

    try:
        _, metrics, seconds = steps(bench, mesh, fits)
    except jax.errors.JaxRuntimeError as error:
        if not memory.ran_out(error):
            raise
        raise Skip(
            f"the whole batch does not fit into the memory of {len(devices)} device(s): {mend}"
        ) from None
    exact = compute_dtype(c.model.dtype) == jnp.float32 and (
        devices[0].platform == "cpu"
        or jax.config.jax_default_matmul_precision in ("highest", "float32")
    )
    return {
        "all": bench.losses,
        "alone": metrics,
        "seconds": seconds,
        "limit": EXACT if exact else ROUNDED,
        "devices": len(devices),
    }


def _mesh_of_one(bench: Bench) -> Mesh:
    """Devices of this process that hold a whole batch: one if there is one process, else all."""
    c = bench.config
    devices = jax.local_devices()[:1] if bench.exchange.count == 1 else jax.local_devices()
    micro, model = c.global_batch_size // c.optimizer.accumulate_steps, c.mesh.model
    if len(devices) % model or micro % (len(devices) // model):
        devices, model = devices[:1], 1
    return sharding.mesh_of(len(devices) // model, model, devices=devices)


def _device_memory(device: jax.Device) -> float:
    """Bytes that are free on a device."""
    stats = device.memory_stats()
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats else memory.available()


def judge_alone(found: list[Alone | None], names: list[str]) -> str:
    f = found[0]
    assert f is not None
    off = [
        abs(a["train/loss"] - b["train/loss"]) / max(abs(b["train/loss"]), 1e-12)
        for a, b in zip(f["all"], f["alone"], strict=True)
    ]
    norm = [
        abs(a["train/grad_norm"] / b["train/grad_norm"] - 1)
        for a, b in zip(f["all"], f["alone"], strict=True)
    ]
    kind = (
        ""
        if f["limit"] == EXACT
        else (
            " of bfloat16 or TF32 products (--config.model.dtype=float32,"
            " JAX_DEFAULT_MATMUL_PRECISION=highest: 1e-5)"
        )
    )
    # The first gradients are taken at the same parameters: their norm shows what a small learning
    # rate hides.
    worst, first = max(off), norm[0]
    if not worst <= f["limit"] or not first <= 10 * f["limit"]:
        step = next((i for i, x in enumerate(off) if not x <= f["limit"]), 0)
        a, b = f["all"][step]["train/loss"], f["alone"][step]["train/loss"]
        raise Problem(
            f"the losses are not those of one process: step {step + 1} has {a:.7g} on all, {b:.7g}"
            f" on {names[0]} alone (relative difference {off[step]:.1e}, limit"
            f" {f['limit']:g}{kind}; gradient norm of the first step: {first:.1e})",
            "Some process reads other rows, or a sum over hosts goes wrong. See the rows 'data' and"
            " 'versions'; try other pairs of nodes.",
        )
    return (
        f"the same {STEPS} losses on {f['devices']} device(s) of {names[0]} alone, to {worst:.1e}"
        f" (limit {f['limit']:g}{kind}), gradient norm to {first:.1e}; {f['seconds']:.3g} s a step"
    )

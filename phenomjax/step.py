"""One optimiser step as a pure function: gradients (accumulated over micro-batches), update, moving
average; and its programs, one for each set of shapes.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from phenomjax import sharding
from phenomjax.cluster import messages, programs
from phenomjax.models import parameter_names
from phenomjax.state import TrainState, divide, unite
from phenomjax.system import memory
from phenomjax.system.files import in_units
from phenomjax.system.types import Batch, Carry, Params
from phenomjax.tasks import Task
from phenomjax.tasks.work import step_flops

log = logging.getLogger("phenomjax")
StepMetrics = Mapping[str, Float[Array, ""]]
# What XLA is told for the step on GPUs: numbers are rounded where the program rounds them. Else it
# keeps float32 copies of bfloat16 arrays for what follows, 3 % more bytes (`bench.traffic`).
ROUNDED = {"xla_allow_excess_precision": False}
# What it is told on several of them, so that collectives run while layers compute: those
# of a layer beside the next turn of the scan over layers.
# Chosen by `python -m bench.collectives`; costs memory of about one layer's parameters.
OVERLAP = {
    "xla_gpu_enable_latency_hiding_scheduler": True,
    "xla_gpu_enable_pipelined_all_gather": True,
    "xla_gpu_enable_pipelined_reduce_scatter": True,
    "xla_gpu_enable_pipelined_all_reduce": True,
}
# gradients, metrics, next carry
Gradients = tuple[Params, StepMetrics, Carry]
# (state, batch, key, position in the data)
Step = Callable[
    [TrainState, Batch, jax.Array, jax.typing.ArrayLike], tuple[TrainState, StepMetrics]
]


def make_step(task: Task, tx: optax.GradientTransformation, config: ConfigDict) -> Step:
    """The pure function (state, batch, key, data position) -> (state, metrics) of one optimiser
    step, with gradient accumulation.
    """
    micro = config.optimizer.accumulate_steps

    def gradients(params: Params, batch: Batch, key: jax.Array, carry: Carry) -> Gradients:
        trained, held = parameter_names.divide(params, config.freeze)

        def loss(p: Params) -> tuple[jax.Array, tuple[StepMetrics, Carry]]:
            value, values, next_carry = task.loss(parameter_names.unite(p, held), batch, key, carry)
            return value, ({"loss": value, **values}, next_carry)

        grads, (values, next_carry) = jax.grad(loss, has_aux=True)(trained)
        return grads, values, next_carry

    def accumulated(params: Params, batch: Batch, key: jax.Array, carry: Carry) -> Gradients:
        # Each shard of rows keeps a sum of its own, over all micro-batches, so that gradients cross
        # the network once a step and not once a micro-batch. The price is an unsharded copy of the
        # gradients on every device, also where parameters are sharded.
        shards = sharding.row_shards(jax.sharding.get_abstract_mesh())

        # micro-batch i takes every micro-th row of a shard from i on
        def split(x: jax.Array) -> jax.Array:
            return jnp.moveaxis(x.reshape(shards, -1, micro, *x.shape[1:]), 2, 0)

        def join(x: jax.Array) -> jax.Array:
            return jnp.moveaxis(x, 0, 2).reshape(-1, *x.shape[3:])

        def one(batch: Batch, rows: Carry) -> tuple[Gradients, Carry]:
            grads, values, next_carry = gradients(params, batch, key, unite(rows, shared))
            rows, next_shared = divide(next_carry)
            return (grads, values, next_shared), rows

        def by_shard(
            part: tuple[Batch, Carry],
        ) -> tuple[Gradients, Carry]:
            over = sharding.ROWS if shards > 1 else None
            with nn.logical_axis_rules(sharding.rules_within_shards(config.mesh.preset)):
                return jax.vmap(one, axis_name=sharding.SHARDS, spmd_axis_name=over)(*part)

        def own(x: jax.Array) -> jax.Array:
            return sharding.split_over_rows(x) if shards > 1 else x

        def body(total: Gradients, part: tuple[Batch, Carry]) -> tuple[Gradients, Carry]:
            found, next_rows = by_shard(part)
            return jax.tree.map(lambda a, b: own(a + b), total, found), next_rows

        rows, shared = divide(carry)
        parts = jax.tree.map(split, (batch, rows))
        shapes = jax.eval_shape(lambda: by_shard(jax.tree.map(lambda x: x[0], parts))[0])
        zeros = jax.tree.map(lambda x: own(jnp.zeros(x.shape, x.dtype)), shapes)
        sums, next_rows = jax.lax.scan(body, zeros, parts)
        means = jax.tree.map(lambda x: sharding.sum_over_rows(x) / (shards * micro), sums)
        grads, values, mean_shared = means
        return grads, values, unite(jax.tree.map(join, next_rows), mean_shared)

    def step(
        state: TrainState, batch: Batch, key: jax.Array, position: jax.typing.ArrayLike
    ) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(key, position)
        grads, values, carry = (accumulated if micro > 1 else gradients)(
            state.params, batch, key, state.carry
        )
        trained, held = parameter_names.divide(state.params, config.freeze)
        updates, opt_state = tx.update(grads, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        params = parameter_names.unite(trained, held)
        ema: Params | tuple[()] = ()
        if config.optimizer.ema_decay and state.ema:  # what is frozen would change by rounding
            old, held = parameter_names.divide(state.ema, config.freeze)
            ema = parameter_names.unite(average(old, trained, state.step, config.optimizer), held)
        values = {f"train/{name}": value for name, value in values.items()} | {
            "train/grad_norm": optax.tree.norm(grads)
        }
        return TrainState(state.step + 1, params, opt_state, ema, carry), values

    return step


def average(ema: Params, params: Params, step: Int[Array, ""], optimizer: ConfigDict) -> Params:
    """The next exponential moving average of the parameters.

    With `ema_warmup` it keeps min(ema_decay, (1 + t) / (10 + t)) of itself behind t finished steps:
    what it began with, random parameters as a rule, has no weight in it after a few steps, and not
    only after many times 1 / (1 - ema_decay).

    Args:
      ema: so far.
      params: of this step.
      step: finished before.
      optimizer: `config.optimizer`.
    """
    kept = optimizer.ema_decay
    if optimizer.ema_warmup:
        kept = jnp.minimum(kept, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, ema, params)


def jit_step(
    task: Task, tx: optax.GradientTransformation, config: ConfigDict, mesh: Mesh, shards: TrainState
) -> jax.stages.Wrapped:
    """`make_step` under `jax.jit`: the state as `shards` says and donated, rows of the batch over
    the data axis, the rest everywhere.
    """
    rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    return jax.jit(
        make_step(task, tx, config),
        in_shardings=(shards, rows, everywhere, everywhere),
        out_shardings=(shards, everywhere),
        donate_argnums=0,
    )


def compile_step(lowered: jax.stages.Lowered, mesh: Mesh) -> jax.stages.Compiled:
    """Compiles a step, on GPUs with `ROUNDED` and `OVERLAP`, but for what XLA_FLAGS says."""
    said, options = os.environ.get("XLA_FLAGS", ""), dict[str, bool]()
    if jax.default_backend() == "gpu":
        wanted = ROUNDED | (OVERLAP if mesh.size > 1 else {})
        options = {name: value for name, value in wanted.items() if name not in said}
    try:
        return lowered.compile(options or None)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        log.warning("this XLA knows other options (%s): collectives may not overlap", error)
        return lowered.compile()


class Program(NamedTuple):
    """The step for the shapes of some batches.

    Attributes:
      step: compiled.
      flops: model FLOPs of it.
    """

    step: Step
    flops: float


def _check_room(need: float) -> None:
    """Raises MemoryError for a program that needs more than a device has; warns where all devices
    share the memory of a host, which may swap, or end the process without a word.
    """
    devices = jax.local_devices()
    limits = [(each.memory_stats() or {}).get("bytes_limit", float("inf")) for each in devices]
    if need > min(limits):
        raise MemoryError(f"unable to allocate {need:.0f} bytes for the program of a step")
    if devices[0].platform == "cpu" and need * len(devices) > memory.available():
        log.warning(
            "the step needs %s, and this host has %s left: it may swap, or end without a word",
            in_units(need * len(devices)),
            in_units(memory.available()),
        )


class Programs:
    """The step, compiled once for each set of shapes (of images, one for each channel set).

    Args:
      task, tx, config, mesh, shards: of `jit_step`.
      compiling: the context in which a program is compiled.

    Attributes:
      calling: seconds so far in calls of them. On a GPU they launch kernels; a CPU may compute
        within.
      temporary: bytes of a device that the last one takes besides its arguments.
    """

    def __init__(
        self,
        task: Task,
        tx: optax.GradientTransformation,
        config: ConfigDict,
        mesh: Mesh,
        shards: TrainState,
        compiling: Callable[[], AbstractContextManager[None]],
    ):
        self._task, self._config, self._compiling = task, config, compiling
        self._mesh, self._jitted = mesh, jit_step(task, tx, config, mesh, shards)
        self.calling, self.temporary = 0.0, 0.0
        self._compiled: dict[tuple[tuple[str, tuple[int, ...], str], ...], Program] = {}

    def get(self, state: TrainState, batch: Batch) -> Program:
        """The program for the shapes of a batch."""
        shapes = tuple((name, x.shape, str(x.dtype)) for name, x in sorted(batch.items()))
        if shapes not in self._compiled:
            with self._compiling():
                self._compiled[shapes] = self._compile(state, batch)
        return self._compiled[shapes]

    def _compile(self, state: TrainState, batch: Batch) -> Program:
        name, largest = max(batch.items(), key=lambda item: item[1].size)
        log.info("compiling the step for %s %s …", name, "x".join(map(str, largest.shape)))
        begin = time.perf_counter()
        lowered = self._jitted.lower(state, batch, jax.random.key(0), np.uint32(0))
        compiled = programs.compiled(lowered, lambda: compile_step(lowered, self._mesh))
        need, analysed = float("nan"), compiled.memory_analysis()
        if analysed:
            self.temporary = float(analysed.temp_size_in_bytes)
            need = analysed.argument_size_in_bytes + self.temporary
        flops = step_flops(self._task, self._config, state.params, batch)
        log.info(
            "compiled in %.1f s: %.3g model FLOPs a step, %.2f GiB per device",
            time.perf_counter() - begin,
            flops,
            need / 2**30,
        )
        _check_room(need)
        # The first collective of a program gives up when processes come more than half a minute
        # apart.
        messages.barrier("compiled", self._config.watchdog.slow_seconds)

        def step(*args: Any) -> tuple[TrainState, StepMetrics]:
            begin = time.perf_counter()
            result = compiled(*args)
            self.calling += time.perf_counter() - begin
            return result

        return Program(step, flops)

"""Compiles the train step for a mesh of any size without an array: on virtual CPU devices, or for
GPUs that are not there.

For GPUs the CUDA plugin of JAX has to be installed (`pip install -e '.[cuda]'`), and no
GPU: XLA compiles for a description of an H100. Nothing is tuned then, so products are left to
cuBLAS; which collectives there are, and their schedule, are the real ones.
"""

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from bench.hlo import Program
from phenomjax import optim, sharding, state, tasks
from phenomjax.step import OVERLAP, ROUNDED, jit_step

# NVIDIA's data sheet and CUDA's device properties of an H100 SXM, as XLA's target description wants
# them.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536 memory_bandwidth: 3352320000000
  l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 cuda_compute_capability { major: 9 }
}
runtime_version { major: 13 } dnn_version_info { major: 9 minor: 12 }
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
"""
GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False} | ROUNDED | OVERLAP


def has_cuda() -> bool:
    """Whether JAX's CUDA plugin is installed."""
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def devices(platform: str, count: int, per_node: int = 8) -> list[Any]:
    """Devices to compile for: CPUs of this process (jax_num_cpu_devices), or described H100s."""
    if platform == "cpu":
        return jax.devices("cpu")[:count]
    from jax.experimental import topologies

    shape = f"1x{max(count // per_node, 1)}x{min(count, per_node)}"
    return topologies.get_topology_desc("h100", "cuda", target_config=H100, topology=shape).devices


def batch_spec(config: ConfigDict) -> dict[str, tuple[tuple[int, ...], Any]]:
    """{name: (shape, type)} of a global batch, as the loader of the task gives it; no bank is
    needed.
    """
    rows = config.global_batch_size
    spec: dict[str, tuple[tuple[int, ...], Any]] = {"row": ((rows,), np.int32)}
    if config.task in ("mae", "perturbation"):
        crop, channels = config.data.crop_size, len(config.model.channels)
        images = {
            "pixels": ((rows, crop, crop, channels), np.uint8),
            "channels": ((rows, channels), np.int32),
        }
        names = ("image",) if config.task == "mae" else ("image", "label", "cell_type")
        return spec | images | {name: ((rows,), np.int32) for name in names}
    length = config.data.segment_len
    spec |= {"fresh": ((rows,), np.bool_), "sequence": ((rows,), np.uint32)}
    if config.task == "permutation_lm":
        shapes = {"tokens": np.uint8, "segment": np.uint8, "rank": np.int16}
        spec |= {name: ((rows, length), dtype) for name, dtype in shapes.items()}
        return spec | {
            "target": ((rows, config.model.num_predict), np.int32),
            "reverse": ((rows,), np.bool_),
        }
    spec |= {"tokens": ((rows, length + 2), np.uint8), "weight": ((rows, length), np.bool_)}
    if config.task == "bidirectional_lm":
        spec |= {f"backward_{name}": spec[name] for name in ("tokens", "weight")}
    return spec


@contextlib.contextmanager
def _as_on(platform: str) -> Iterator[None]:
    """Lets the models, and JAX's flash attention, choose what they would on a platform; a GPU is an
    H100.
    """
    from jax._src.cudnn import fused_attention_stablehlo as flash

    client = SimpleNamespace(platform_version="cuda 13")
    h100 = SimpleNamespace(client=client, compute_capability="9.0", device_kind="H100")
    with contextlib.ExitStack() as patched:
        put = lambda *what: patched.enter_context(mock.patch.object(*what))  # noqa: E731
        put(jax, "default_backend", lambda: platform)
        if platform == "gpu":
            put(jax, "local_devices", lambda: [h100])
            put(flash, "check_cudnn_version", lambda: 91200)
            put(flash, "check_compute_capability", lambda least: float(least) <= 9.0)
            put(flash, "is_cuda_compute_capability_equal", lambda other: other == "9.0")
        yield


@contextlib.contextmanager
def on_mesh(
    config: ConfigDict, found: list[Any], platform: str = "gpu"
) -> Iterator[tuple[Any, ...]]:
    """What the loop makes before its first step, for a mesh of these devices, abstractly.

    Args:
      config: with `mesh.preset`, `mesh.model` and `mesh.replica`; `model.dtype` and
        `model.attention` are honoured, "auto" means that of `platform`.
      platform: "gpu" or "cpu": what the models shall think they run on.

    Yields:
      (task, optimiser, mesh, batch, state, shardings of the state).
    """
    preset, model, replica = config.mesh.preset, config.mesh.model, max(config.mesh.replica, 1)
    mesh = Mesh(
        np.array(found).reshape(replica, -1, model),
        sharding.AXES,
        axis_types=(AxisType.Auto,) * 3,
    )
    task, tx, rows = tasks.make(config), optim.make(config), sharding.batch_sharding(mesh)
    with _as_on(platform), jax.set_mesh(mesh), nn.logical_axis_rules(sharding.rules(preset)):
        spec = batch_spec(config).items()
        batch = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows) for name, (shape, dtype) in spec
        }
        _, abstract, shards = state.abstract(task, tx, config, mesh, batch)
        yield task, tx, mesh, batch, abstract, shards


def lower(
    config: ConfigDict, found: list[Any], platform: str = "gpu", language: str = ""
) -> tuple[Any, Any]:
    """(jax.stages.Lowered, abstract TrainState) of the train step; arguments as `on_mesh`, and
    `language` = "cuda" for the operations of a GPU where `found` are CPUs, which cannot compile it.
    """
    with on_mesh(config, found, platform) as (task, tx, mesh, batch, abstract, shards):
        key = jax.eval_shape(lambda: jax.random.key(0))
        step = jit_step(task, tx, config, mesh, shards)
        traced = step.trace(abstract, batch, key, jax.ShapeDtypeStruct((), np.uint32))
        return traced.lower(lowering_platforms=(language,) if language else None), abstract


def partitioned(lowered: Any) -> Program:
    """The program as the SPMD partitioner leaves it, on virtual CPU devices.

    Later passes of the CPU's compiler turn bfloat16 sums into float32 ones and leave a sum of which
    each device keeps a slice as it is; those of a GPU do not. The backend's optimisation is
    switched off: nothing here is run.
    """
    with tempfile.TemporaryDirectory() as folder, _uncached():
        lowered.compile(
            {
                "xla_dump_to": folder,
                "xla_dump_hlo_pass_re": "spmd-partitioning",
                "xla_backend_optimization_level": 0,
                "xla_llvm_disable_expensive_passes": True,
                "xla_cpu_use_fusion_emitters": False,
                "xla_cpu_parallel_codegen_split_count": 1,
            }
        )
        (path,) = Path(folder).glob("*.after_spmd-partitioning.*.txt")
        return Program(path.read_text())


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Keeps a program out of the persistent cache: what comes from there leaves no dump, and nobody
    runs it.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    try:
        yield
    finally:
        jax.config.update(name, before)


def compiled(lowered: Any, platform: str) -> Program:
    """The program at the end of compilation."""
    return Program(lowered.compile(GPU_OPTIONS if platform == "gpu" else None).as_text())

"""What a run says before it compiles and after its last step."""

import logging
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from phenomjax import sharding
from phenomjax.state import TrainState
from phenomjax.system.versions import versions

log = logging.getLogger("phenomjax")


def banner(
    config: ConfigDict,
    workdir: Path,
    mesh: Mesh,
    abstract: TrainState,
    shardings: TrainState,
    flops: float,
) -> None:
    """Logs versions, devices, mesh, parameters, state size, FLOPs a step.

    Args:
      config: resolved configuration.
      workdir: folder of the run.
      mesh: device mesh.
      abstract: shapes of the state.
      shardings: its NamedShardings.
      flops: model FLOPs of one step.
    """
    v = versions()
    log.info(
        "phenomjax %s, jax %s, flax %s, Python %s, git %s",
        v["phenomjax"],
        v["jax"],
        v["flax"],
        v["python"],
        v["git"],
    )
    log.info(
        "%d process(es), %d device(s) of kind %s; mesh data %d x model %d, preset %s; %d rows a"
        " step, %d a device",
        jax.process_count(),
        jax.device_count(),
        jax.devices()[0].device_kind,
        mesh.shape["data"],
        mesh.shape["model"],
        config.mesh.preset,
        config.global_batch_size,
        config.global_batch_size // mesh.shape["data"],
    )
    log.info("parameters:\n%s", sharding.describe(abstract.params, shardings.params))
    pairs = zip(jax.tree.leaves(abstract), jax.tree.leaves(shardings), strict=True)
    size = sum(np.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in pairs)
    log.info("state: %.1f MiB per device; %.3g model FLOPs a step", size / 2**20, flops)
    log.info("workdir: %s", workdir)

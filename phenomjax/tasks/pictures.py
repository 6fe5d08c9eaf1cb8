"""What a picture shows, computed where the parameters are."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from phenomjax.system.types import Batch, Params

Compute = Callable[[Params, Batch], dict[str, jax.Array]]


def computed(compute: Compute, params: Params, batch: Batch, rows: int) -> dict[str, np.ndarray]:
    """The first rows of what a method of a task computes, on every process.

    Args:
      compute: the method, a pure function of parameters and a batch. It is compiled once.
      params: parameters, sharded in any way; all processes call this together.
      batch: of the same devices.
      rows: that are wanted, the same number on all processes.
    """
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params)]
    meshes = [each.mesh for each in shardings if isinstance(each, NamedSharding)]
    everywhere = NamedSharding(meshes[0], P()) if meshes else None
    return jax.device_get(_compiled(compute, rows, everywhere)(params, batch))


@functools.lru_cache(maxsize=4)  # a run asks for the same again and again
def _compiled(compute: Compute, rows: int, everywhere: NamedSharding | None) -> Compute:
    def first_rows(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return jax.tree.map(lambda x: x[:rows], compute(params, batch))

    return jax.jit(first_rows, **({"out_shardings": everywhere} if everywhere else {}))

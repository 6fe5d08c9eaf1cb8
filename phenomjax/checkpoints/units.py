"""Parts of a state that devices hold, and who copies which of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from phenomjax.state import TrainState

Region = tuple[tuple[int, int], ...]  # [begin, end) along each axis


@dataclass(frozen=True)
class Unit:
    """A part of one array that some devices hold.

    Attributes:
      leaf: number of the array in the state.
      region: its part.
      size: bytes.
      owners: the one or two processes that copy it.
      sent: whether the owner sends it to another node.
    """

    leaf: int
    region: Region
    size: int
    owners: tuple[int, ...]
    sent: bool


def units_of(state: TrainState, nodes: Sequence[str]) -> list[Unit]:
    """Who copies what, the same on all processes.

    Args:
      state: arrays, or their shapes with shardings.
      nodes: name of the node of each process.
    """
    found = []
    for leaf, x in enumerate(jax.tree.leaves(state)):
        holders: dict[Region, set[int]] = {}
        for device, index in x.sharding.devices_indices_map(x.shape).items():
            holders.setdefault(region_of(index, x.shape), set()).add(device.process_index)
        for region, them in holders.items():
            size = x.dtype.itemsize * int(np.prod([end - begin for begin, end in region]))
            found.append((size, leaf, region, sorted(them)))
    load, units = [0] * len(nodes), []
    for size, leaf, region, processes in sorted(found, key=lambda each: (-each[0], each[1:])):
        first = min(processes, key=lambda p: (load[p], p))
        away = [p for p in processes if nodes[p] != nodes[first]]
        owners = (first, min(away, key=lambda p: (load[p], p))) if away else (first,)
        for owner in owners:
            load[owner] += size
        units.append(Unit(leaf, region, size, owners, sent=not away))
    return units


def region_of(index: Sequence[slice], shape: Sequence[int]) -> Region:
    """The region of slices of an array."""
    return tuple(each.indices(size)[:2] for each, size in zip(index, shape, strict=True))


def inside(part: Region, of: Region) -> tuple[slice, ...]:
    """Where a part of an array is in a larger part of it."""
    return tuple(
        slice(begin - first, end - first) for (begin, end), (first, _) in zip(part, of, strict=True)
    )


def fingerprint(state: TrainState) -> str:
    """What a state is made of: names, shapes and dtypes, without values or shardings."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    text = [f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}" for path, x in leaves]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def as_region(region: Sequence[Sequence[int]]) -> Region:
    """A region that went through JSON."""
    return tuple((begin, end) for begin, end in region)

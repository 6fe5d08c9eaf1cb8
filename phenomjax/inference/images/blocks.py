"""Blocks of images that are normalised together while the moments of their domain are taken."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

from phenomjax.engine import units
from phenomjax.inference.images import domains, plan
from phenomjax.inference.images.job import BankEmbedding
from phenomjax.inference.images.plan import WorkLayout
from phenomjax.inference.runtimes.choose import Given, JaxRuntime
from phenomjax.system.types import Params
from phenomjax.trained.domain_statistics import Moments, flatten

Numbers: TypeAlias = Int64[np.ndarray, " images"]


class Block(NamedTuple):
    """Images of a domain and bank that are normalised together, and what each weighs in its domain,
    of 1.
    """

    images: Numbers
    weights: Float64[np.ndarray, " images"]


def block_images(job: BankEmbedding, batch: int) -> int:
    """Images that are decoded together, of which crops are mixed: as many as a batch has crops, if
    memory allows it.
    """
    return int(max(min(batch, plan.GROUP_BYTES // (len(job.grid) * job.crop_bytes)), 2))


def deal(
    strata: Sequence[Numbers],
    weights: Sequence[float],
    share: float,
    size: int,
    random: np.random.Generator,
) -> list[Block]:
    """Deals the images of a domain, shuffled, into blocks of one composition.

    A block has controls in their share, as batches of training had; those of a stratum that is
    smaller than that come in several blocks, with as much less weight in each.

    Args:
      strata: controls, and others.
      weights: of an image of each, in its domain.
      share: of the controls.
      size: images of a block.
      random: shuffles.
    """
    rows = [size, size]
    if 0 < share < 1 and sum(map(len, strata)) > size:
        controls = min(max(round(share * size), 1), size - 1)
        rows = [controls, size - controls]
    there = [
        (images, weight, min(row, len(images)))
        for images, weight, row in zip(strata, weights, rows, strict=True)
        if len(images) and weight
    ]
    if not there:  # a bank without controls, where these weigh all
        return []
    number = max(-(-len(images) // row) for images, _, row in there)
    dealt = []
    for images, weight, row in there:
        order = np.resize(random.permutation(images), max(len(images), number * row))
        _, place, times = np.unique(order, return_inverse=True, return_counts=True)
        dealt.append((np.array_split(order, number), np.array_split(weight / times[place], number)))
    return [
        Block(
            np.concatenate([images[block] for images, _ in dealt]),
            np.concatenate([weights[block] for _, weights in dealt]),
        )
        for block in range(number)
    ]


def measure(
    job: BankEmbedding,
    runtime: JaxRuntime,
    blocks: Sequence[Block],
    batch: int,
    stop: threading.Event,
) -> Moments | None:
    """The moments of blocks; None if `stop` was set before the end."""
    most = max(len(block.images) for block in blocks)
    # more are never full; to a power of two, for few programs
    rows = min(batch, 1 << (most * len(job.grid) - 1).bit_length())
    rows = -(-rows // runtime.num_devices) * runtime.num_devices
    layout = WorkLayout(len(job.bank), len(job.grid), rows, most, most)
    moments, waiting = Moments(), deque[tuple[float, Params]]()
    loader = job.loader(layout)
    try:
        groups = loader.groups(
            (number, block.images.tolist()) for number, block in enumerate(blocks)
        )
        for group in groups:
            weights = blocks[group.unit].weights.copy()
            weights[[image in group.bad for image in group.images]] = 0.0
            for pixels, given, weight in _batches(
                job, group.images, group.pixels, weights, batch, rows
            ):
                if stop.is_set():
                    return None
                waiting.append((weight, runtime.moments(pixels, given)))
                if len(waiting) > 1:
                    _collect(moments, waiting)
            group.release()
    finally:
        loader.close()
    while waiting:
        _collect(moments, waiting)
    return moments


def _collect(moments: Moments, waiting: deque[tuple[float, Params]]) -> None:
    weight, found = waiting.popleft()
    moments.add(weight, flatten(found)[0])


def _batches(
    job: BankEmbedding,
    images: Sequence[int],
    pixels: np.ndarray,
    weights: Float64[np.ndarray, " images"],
    batch: int,
    rows: int,
) -> Iterator[tuple[np.ndarray, Given, float]]:
    """Batches of the crops of a block, in rounds: one crop of each image, at places that differ.
    Rows that fill a batch up weigh 0.
    """
    count, crops = len(images), len(job.grid)
    rounds = np.arange(crops)
    for mine in np.array_split(rounds, -(-crops // max(batch // count, 1))):
        image = np.tile(np.arange(count), len(mine))
        place, weight = np.zeros(rows, np.int64), np.zeros(rows)
        place[: len(image)] = image * crops + (image + np.repeat(mine, count)) % crops
        weight[: len(image)] = weights[image] / crops
        if total := weight.sum():
            cells = job.cells(np.asarray(images)[place // crops]).rows
            given = Given({**cells, "weight": (weight / total).astype(np.float32)}, {})
            yield pixels[place], given, float(total)


def commit(work: Path, name: str, moments: Moments, features: int) -> None:
    """Makes a unit permanent."""
    units.Notes(work).commit(
        name, {}, {domains.moments_path(name): domains.moments_bytes(moments, features)}
    )

"""Statistics of batch norms for whole domains (experiments, plates), as moments of many batches.

A norm that is given the statistics of the images' own experiment is AdaBN (Li et al. 2016,
https://arxiv.org/abs/1603.04779). They are the moments that each norm sees while those before it
normalise by the batch at hand, as in training; over batches they are summed in float64, so that
mean and variance are those of all rows together: var = E[x^2] - E[x]^2.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from phenomjax.system.types import Params

# mean and variance of all features of all norms, in the order of the tree
Table: TypeAlias = Float[np.ndarray, "2 features"]


def flatten(statistics: Params) -> Float[np.ndarray, "*parts 2 features"]:
    """A tree of `mean` and `var` [*parts, channel] as one float64 array."""
    leaves = jax.tree.leaves_with_path(statistics)
    kinds = [
        np.concatenate(
            [np.asarray(leaf, np.float64) for path, leaf in leaves if path[-1].key == kind], axis=-1
        )
        for kind in ("mean", "var")
    ]
    return np.stack(kinds, axis=-2)


def unflatten(like: Params, tables: Sequence[Table]) -> Params:
    """The inverse: a tree like `like` of float32 arrays [tables, channel], for `domain` of
    `ImageObjective.embed`.
    """
    stacked = np.stack(tables).astype(np.float32)
    places, found = {"mean": 0, "var": 0}, []
    leaves, structure = jax.tree.flatten_with_path(like)
    for path, leaf in leaves:
        kind = path[-1].key
        start, size = places[kind], leaf.shape[-1]
        places[kind] += size
        found.append(stacked[:, ("mean", "var").index(kind), start : start + size])
    return jax.tree.unflatten(structure, found)


class Moments:
    """The moments of a domain while batches come.

    Attributes:
      weight: of the batches so far.
      sums: float64 [2, features], of means and of mean squares, times weight.
    """

    def __init__(self, weight: float = 0.0, sums: Table | float = 0.0):
        self.weight, self.sums = weight, sums

    def add(self, weight: float, table: Table) -> None:
        """Takes the mean and variance of a batch, with the weight that it has."""
        mean, var = table
        self += Moments(weight, weight * np.stack([mean, var + np.square(mean)]))

    def __iadd__(self, other: "Moments") -> "Moments":
        self.weight += other.weight
        self.sums = self.sums + other.sums
        return self

    def table(self) -> Table:
        """Mean and variance of all that was added; there must be something."""
        mean, square = np.asarray(self.sums) / self.weight
        return np.stack([mean, np.maximum(square - np.square(mean), 0.0)])

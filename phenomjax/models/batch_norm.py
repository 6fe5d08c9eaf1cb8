"""Batch normalisation whose statistics are told by whom they are of: the running ones, those of the
parts of a batch (an experiment each), or given ones, a set for each row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

RUNNING, MOMENTS = "batch_stats", "moments"  # collections of Flax


@struct.dataclass
class Statistics:
    """Which statistics normalise a batch; without any of these the running ones.

    Attributes:
      parts: of the batch, rows r % parts, each normalised by its own statistics (Ghost batch
        normalisation, Hoffer et al. 2017, https://arxiv.org/abs/1705.08741, with the experiment as
        ghost; at test time AdaBN, Li et al. 2016, https://arxiv.org/abs/1603.04779). 0: not by the
        batch.
      weight: (batch,) float32, of the rows in the statistics of their part; None: all the same.
        Rows of weight 0 are normalised and count nothing.
      axis: name of the mapped axis over which a part is continued, such as "shards".
      domain: (batch,) int32, which row of stored statistics of the shape [domains, channel]
        normalises a row.
    """

    parts: int = struct.field(pytree_node=False, default=0)
    weight: Float[Array, " batch"] | None = None
    axis: str | None = struct.field(pytree_node=False, default=None)
    domain: Int[Array, " batch"] | None = None


STORED = Statistics()


class Moments(NamedTuple):
    """Of each part: mean and biased variance, and of how many numbers they are; float32."""

    mean: Float[Array, "parts channel"]
    var: Float[Array, "parts channel"]
    count: Float[Array, "parts 1"]


class BatchNorm(nn.Module):
    """y = (x - mean) / sqrt(var + epsilon) * scale + bias, over all axes but the last.

    The statistics are float32 and two-pass; a batch is normalised by biased variances. Where the
    collection "batch_stats" is mutable, the running statistics move towards the mean over the
    parts of means and, as PyTorch's do, unbiased variances; where "moments" is, `mean` and `var`
    of each part [parts, channel] are put there.

    Attributes:
      momentum: share of the running statistics that stays at a step.
      epsilon: is added to variances.
      use_bias: whether there is a bias.
      dtype: of the output.
    """

    momentum: float
    epsilon: float
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *space channel"],
        statistics: Statistics = STORED,
        known: Moments | None = None,
    ) -> Float[Array, "batch *space channel"]:
        """Normalises; `known` are the moments of x, where somebody has them already."""
        shape, rows = x.shape[-1:], x.shape[0]
        scale = self._parameter("scale", nn.initializers.ones, shape)
        bias = self._parameter("bias", nn.initializers.zeros, shape) if self.use_bias else 0.0
        stored = {
            name: self.variable(RUNNING, name, fill, shape, jnp.float32)
            for name, fill in (("mean", jnp.zeros), ("var", jnp.ones))
        }
        mean, var = stored["mean"].value, stored["var"].value
        parts = 0 if self.is_initializing() else statistics.parts
        if parts:
            mean, var, count = known or moments(x, statistics)
            unbiased = var * (count / jnp.maximum(count - 1.0, 1.0))
            for name, value, moves in (("mean", mean, mean), ("var", var, unbiased)):
                if self.is_mutable_collection(RUNNING):
                    stays = self.momentum
                    moved = stays * stored[name].value + (1.0 - stays) * moves.mean(0)
                    stored[name].value = lax.stop_gradient(moved)
                if self.is_mutable_collection(MOMENTS):
                    self.put_variable(MOMENTS, name, value)
        elif statistics.domain is not None:
            mean, var = mean[statistics.domain], var[statistics.domain]
        # [groups of rows, parts or 1, space …, channel], so that statistics of parts, of rows and
        # of all are one broadcast
        groups = parts or 1
        split = x.astype(jnp.float32).reshape(rows // groups, groups, *x.shape[1:])
        spread = (*mean.shape[:-1], *[1] * (x.ndim - 2), *shape)
        if statistics.domain is not None and not parts:
            spread = (rows, 1, *spread[1:])
        mean, factor = mean.reshape(spread), (lax.rsqrt(var + self.epsilon) * scale).reshape(spread)
        return ((split - mean) * factor + bias).reshape(x.shape).astype(self.dtype)

    def _parameter(self, name: str, init: nn.initializers.Initializer, shape: Sequence[int]):
        boxed = nn.with_logical_partitioning(init, (None,))
        return self.param(name, boxed, shape, jnp.float32)


def moments(x: Float[Array, "batch *space channel"], statistics: Statistics) -> Moments:
    """Those of each part, over its rows, all places, and the mapped axis if there is one."""
    parts, rows = statistics.parts, x.shape[0]
    split = x.astype(jnp.float32).reshape(rows // parts, parts, -1, x.shape[-1])
    weight = jnp.ones(rows) if statistics.weight is None else statistics.weight
    weight = weight.reshape(rows // parts, parts, 1, 1)

    def whole(value: Array) -> Array:
        return lax.psum(value, statistics.axis) if statistics.axis else value

    count = whole(weight.sum((0, 2))) * split.shape[2]
    mean = whole((weight * split).sum((0, 2))) / count
    apart = jnp.square(split - mean[:, None])
    return Moments(mean, whole((weight * apart).sum((0, 2))) / count, count)


def beside(left: Moments, right: Moments) -> Moments:
    """Moments of features that are concatenated."""
    mean, var = (jnp.concatenate(pair, -1) for pair in zip(left[:2], right[:2], strict=True))
    return Moments(mean, var, left.count)

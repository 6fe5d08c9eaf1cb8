"""DenseNet-BC (Huang et al. 2017, https://arxiv.org/abs/1608.06993) of any number of channels:
images to pooled features.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from phenomjax.models import layers
from phenomjax.models.batch_norm import (
    STORED,
    BatchNorm,
    Moments,
    Statistics,
    beside,
    moments,
)
from phenomjax.system.errors import UserError

BOTTLENECK = 4  # channels between the two convolutions of a layer, in growth rates
Images = Float[Array, "batch height width channel"]
Features = Float[Array, "batch rows columns features"]


class Convolution(nn.Module):
    """A convolution without bias, (y, x, in, out), He's normal initialiser.

    The gradient of a kernel larger than a pixel is in the type of the product, as the libraries of
    accelerators give it, and so is its sum over devices where steps are not accumulated.

    Attributes:
      features: channels of the output.
      size: pixels along an edge of the kernel.
      stride: of its places.
      axes: logical names of the input and output channels.
    """

    features: int
    size: int
    stride: int = 1
    axes: Sequence[str | None] = (None, None)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Features:
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(init, (None, None, *self.axes)),
            (self.size, self.size, x.shape[-1], self.features),
            jnp.float32,
        )
        x = x.astype(self.dtype)
        if self.size == self.stride == 1:
            return layers.product(x, kernel[0, 0], 1)
        return lax.conv_general_dilated(
            x,
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            [(self.size // 2, self.size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class Layer(nn.Module):
    """Norm, ReLU, 1 x 1 convolution, norm, ReLU, 3 x 3 convolution: new channels from all before.

    Attributes:
      growth_rate: new channels.
      norm: attributes of `BatchNorm` but its type.
    """

    growth_rate: int
    norm: layers.Options
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Images, statistics: Statistics, known: Moments | None) -> Features:
        width, options = BOTTLENECK * self.growth_rate, {"dtype": self.dtype}
        x = nn.relu(BatchNorm(**self.norm, **options, name="norm1")(x, statistics, known))
        x = Convolution(width, 1, axes=(None, "embed"), **options, name="conv1")(x)
        x = nn.relu(BatchNorm(**self.norm, **options, name="norm2")(x, statistics))
        return Convolution(self.growth_rate, 3, axes=("embed", None), **options, name="conv2")(x)


class DenseNet(nn.Module):
    """The network up to its pooled features: standardised images to one vector a row.

    Attributes:
      block_config: layers of each block: (6, 12, 24, 16) is DenseNet-121, (6, 12, 36, 24) with
        growth rate 48 and 96 stem features DenseNet-161.
      growth_rate: channels that each layer adds.
      stem_features: channels of the first convolution.
      norm: attributes of `BatchNorm` but its type.
      remat: compute layers again for the gradient; else memory grows with the square of their
        number.
      dtype: of activations; parameters and statistics are float32.
    """

    block_config: Sequence[int]
    growth_rate: int
    stem_features: int
    norm: layers.Options
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Images, statistics: Statistics = STORED
    ) -> Float[Array, "batch features"]:
        """Standardised images to features, float32.

        Raises:
          UserError: images that are smaller than what the network makes one pixel of.
        """
        halved = len(self.block_config) + 1
        if min(x.shape[1:3]) < 2**halved:
            raise UserError(
                f"Images of {x.shape[1]} x {x.shape[2]} px are too small for this DenseNet, which"
                f" halves them {halved} times: it takes {2**halved} px along an edge or more."
            )
        norm = {**self.norm, "dtype": self.dtype}
        layer = nn.remat(Layer) if self.remat else Layer
        axes = None, "embed"
        x = Convolution(self.stem_features, 7, 2, axes, self.dtype, name="conv0")(x)
        x = nn.relu(BatchNorm(**norm, name="norm0")(x, statistics))
        # nothing is below 0 here, so zeros around are what torch's -inf is; jax2onnx knows no other
        # padding, and wants arguments by name
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        for number, count in enumerate(self.block_config, 1):
            # of what all layers before gave: once, and not again by the norm of every later layer
            known = moments(x, statistics) if statistics.parts else None
            for index in range(1, count + 1):
                # named as in torchvision's state dict
                make = layer(
                    self.growth_rate, self.norm, self.dtype, name=f"block{number}_layer{index}"
                )
                new = make(x, statistics, known)
                x = jnp.concatenate([x, new], -1)
                known = known and beside(known, moments(new, statistics))
            if number < len(self.block_config):
                name = f"transition{number}"
                x = nn.relu(BatchNorm(**norm, name=f"{name}_norm")(x, statistics, known))
                x = Convolution(
                    x.shape[-1] // 2,
                    1,
                    axes=("embed", None),
                    dtype=self.dtype,
                    name=f"{name}_conv",
                )(x)
                x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nn.relu(BatchNorm(**norm, name="norm5")(x, statistics, known))
        return x.astype(jnp.float32).mean((1, 2))


def num_features(block_config: Sequence[int], growth_rate: int, stem_features: int) -> int:
    """Length of the pooled features."""
    width = stem_features
    for number, count in enumerate(block_config, 1):
        width += count * growth_rate
        width //= 2 if number < len(block_config) else 1
    return width

"""Pieces that every model here is built from: the compute type, dense layers, norms, GELU."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from phenomjax.system.errors import UserError

Options = Mapping[str, Any]  # attributes of a module that another one makes


def compute_dtype(name: str) -> jnp.dtype:
    """The type of activations: "auto" is bfloat16 where the hardware multiplies it fast (GPU, TPU),
    else float32.

    A CPU has no fast bfloat16 product under XLA, so float32 is quicker there. Parameters, norms,
    softmax and losses are float32 whatever this says.
    """
    if name == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    if name not in ("float32", "bfloat16"):
        raise UserError(
            f"model.dtype is {name!r}; it can be auto, float32 or bfloat16, e.g."
            " --config.model.dtype=auto."
        )
    return jnp.dtype(name)


def xavier_uniform(inputs: int, outputs: int) -> Callable:
    """Glorot's uniform distribution for a kernel of any shape that maps `inputs` numbers to
    `outputs` numbers.
    """
    limit = (6.0 / (inputs + outputs)) ** 0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -limit, limit
    )


class Dense(nn.Module):
    """A linear layer over the last `input_axes` axes, to one or several new axes.

    Several axes (such as (3, heads, kv)) stay apart in the kernel, so that one of them can be
    sharded, and packed projections are sliced instead of split.

    Attributes:
      features: shape of the new axes.
      kernel_axes: logical names of the kernel's axes, inputs first.
      input_axes: how many trailing axes of the input are contracted.
      use_bias: whether there is a bias, of shape `features`.
      fan_out: outputs of one matrix, where several are packed in the kernel; only the initialiser
        reads it.
      init_std: standard deviation of a normal initialiser; 0 = Glorot's uniform one.
      whole: gather a sharded kernel first. For an input without a batch axis, for which the
        partitioner would split the sum over inputs and reduce the products instead.
      dtype: type of the product; the parameters are float32.
    """

    features: Sequence[int]
    kernel_axes: Sequence[str | None]
    input_axes: int = 1
    use_bias: bool = True
    fan_out: int = 0
    init_std: float = 0.0
    whole: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        features, kernel_axes = tuple(self.features), tuple(self.kernel_axes)
        inputs = x.shape[x.ndim - self.input_axes :]
        init = xavier_uniform(int(np.prod(inputs)), self.fan_out or int(np.prod(features)))
        if self.init_std:
            init = nn.initializers.normal(self.init_std)
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(init, kernel_axes),
            (*inputs, *features),
            jnp.float32,
        )
        if self.whole:
            kernel = nn.with_logical_constraint(
                kernel, tuple(None if a == "embed" else a for a in kernel_axes)
            )
        y = product(x.astype(self.dtype), kernel, self.input_axes)
        if self.use_bias:
            bias_init = nn.with_logical_partitioning(
                nn.initializers.zeros, kernel_axes[self.input_axes :]
            )
            y = add(y, self.param("bias", bias_init, features, jnp.float32))
        return y


# Gradients of parameters are summed over the batch, and so over devices, in the type in which the
# sum is written. Parameters therefore go into these functions as they are, float32, and not cast to
# the type of the activations.


def add(x: Float[Array, "*axes"], parameter: Float[Array, "..."]) -> Float[Array, "*axes"]:
    """x + a float32 parameter, in the type of x; the parameter's gradient is summed in float32."""
    return (x + parameter).astype(x.dtype)


def product(
    x: Float[Array, "..."], kernel: Float[Array, "..."], input_axes: int
) -> Float[Array, "..."]:
    """x times a kernel, contracted over the last `input_axes` axes of x and the first of the
    kernel.

    The product is in the type of x, to which the kernel is cast; the gradient of the kernel is
    summed and given in the kernel's own.
    """
    # Plain matrices on a CPU would gather what the model axis shards.
    plain = (
        jax.default_backend() == "cpu"
        and jax.sharding.get_abstract_mesh().shape.get("model", 1) == 1
    )
    return (_cpu_product if plain else _product)(x, kernel, input_axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, input_axes: int) -> Array:
    """`product` for accelerators: axes stay apart, so that each can be sharded."""
    contracted = tuple(range(x.ndim - input_axes, x.ndim)), tuple(range(input_axes))
    return lax.dot_general(x, kernel.astype(x.dtype), (contracted, ((), ())))


def _product_forward(x: Array, kernel: Array, input_axes: int) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, kernel, input_axes), (x, kernel)


def _product_backward(
    input_axes: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    rows = x.ndim - input_axes
    outputs = tuple(range(rows, gradient.ndim)), tuple(range(input_axes, kernel.ndim))
    to_x = lax.dot_general(gradient, kernel.astype(x.dtype), (outputs, ((), ())))
    summed = tuple(range(rows)), tuple(range(rows))
    return to_x, lax.dot_general(
        x, gradient, (summed, ((), ())), preferred_element_type=kernel.dtype
    )


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu_product(x: Array, kernel: Array, input_axes: int) -> Array:
    """`product` for XLA's CPU backend: plain row-major matrices whose makers are not fused into
    their transposition.

    Left alone, XLA transposes the operands of a weight gradient element by element, and computes
    them anew doing so.
    """
    rows, inputs = x.shape[: x.ndim - input_axes], int(np.prod(kernel.shape[:input_axes]))
    x, kernel_2d = lax.optimization_barrier(
        (x.reshape(-1, inputs), kernel.astype(x.dtype).reshape(inputs, -1))
    )
    return (x @ kernel_2d).reshape(*rows, *kernel.shape[input_axes:])


def _cpu_product_forward(
    x: Array, kernel: Array, input_axes: int
) -> tuple[Array, tuple[Array, Array]]:
    return _cpu_product(x, kernel, input_axes), (x, kernel)


def _cpu_product_backward(
    input_axes: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    inputs = int(np.prod(kernel.shape[:input_axes]))
    x_2d, kernel_2d = x.reshape(-1, inputs), kernel.astype(x.dtype).reshape(inputs, -1)
    gradient, x_2d = lax.optimization_barrier((gradient.reshape(-1, kernel_2d.shape[1]), x_2d))
    to_x = lax.dot_general(gradient, kernel_2d, (((1,), (1,)), ((), ())))
    to_kernel = lax.dot_general(
        x_2d, gradient, (((0,), (0,)), ((), ())), preferred_element_type=kernel.dtype
    )
    to_x, to_kernel = lax.optimization_barrier((to_x, to_kernel))
    return to_x.reshape(x.shape), to_kernel.reshape(kernel.shape)


_cpu_product.defvjp(_cpu_product_forward, _cpu_product_backward)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis; the statistics are float32 and two-pass, the output
    is `dtype`.
    """

    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
        shape = x.shape[-1:]
        scale = self.param(
            "scale", nn.with_logical_partitioning(nn.initializers.ones, (None,)), shape, jnp.float32
        )
        bias = self.param(
            "bias", nn.with_logical_partitioning(nn.initializers.zeros, (None,)), shape, jnp.float32
        )
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        variance = jnp.square(x).mean(-1, keepdims=True)
        return (x * (lax.rsqrt(variance + self.epsilon) * scale) + bias).astype(self.dtype)


def gelu(x: Float[Array, "*axes"], kind: str) -> Float[Array, "*axes"]:
    """GELU, "exact" (error function, as the published weights want) or its "tanh" approximation."""
    return jax.nn.gelu(x, approximate=True) if kind == "tanh" else _exact_gelu(x)


@jax.custom_vjp
def _exact_gelu(x: Array) -> Array:
    """x Phi(x) by erf: one loop, where jax.nn.gelu's erfc takes three on a CPU; only x is kept for
    the gradient.
    """
    return (0.5 * x * (1.0 + lax.erf(x * 2**-0.5))).astype(x.dtype)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return _exact_gelu(x), x


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    x32 = x.astype(jnp.float32)
    slope = (
        0.5 * (1.0 + lax.erf(x32 * 2**-0.5))
        + x32 * jnp.exp(-0.5 * x32 * x32) * (2.0 * np.pi) ** -0.5
    )
    return ((gradient * slope).astype(x.dtype),)


_exact_gelu.defvjp(_gelu_forward, _gelu_backward)

"""An LSTM with projection and clipping (Sak et al. 2014, https://arxiv.org/abs/1402.1128), with a
backward pass of its own.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# what the four gates were, where the backward pass wants them
Gates = Array | tuple[()]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def recurrence(
    inputs: Float[Array, "time rows 4 cell"],
    state_kernel: Float[Array, "projection 4 cell"],
    projection: Float[Array, "cell projection"],
    cell: Float[Array, "rows cell"],
    hidden: Float[Array, "rows projection"],
    cell_clip: float,
    projection_clip: float,
) -> tuple[Float[Array, "time rows projection"], Float[Array, "time rows cell"]]:
    """The LSTM after its input product: the part that has to go step by step.

    c' = clip(sigmoid(f) c + sigmoid(i) tanh(g)), h' = clip((sigmoid(o) tanh(c')) W_projection),
    where i, f, g, o are the input plus h W_state. The backward pass is written out: it leaves the
    gradients of the kernels to one product over all steps at the end, where differentiating the
    loop would add a full kernel at each. Gradients stop at the states, given and returned.

    Args:
      inputs: (time, rows, 4, cell), the input's share of the four gates with all biases; gates in
        the order i, f, g, o.
      state_kernel: (projection, 4, cell), float32, cast to the type of the inputs; its gradient is
        summed in its own type.
      projection: (cell, projection), likewise.
      cell: (rows, cell) float32, before the first step.
      hidden: (rows, projection) float32.
      cell_clip, projection_clip: bounds; 0 = none.

    Returns:
      (hidden, cell) after each step: (time, rows, projection) of the inputs' type and (time, rows,
      cell) float32.
    """
    return _run(inputs, state_kernel, projection, cell, hidden, cell_clip, projection_clip)[:2]


def _run(
    inputs: Array,
    state_kernel: Array,
    projection: Array,
    cell: Array,
    hidden: Array,
    cell_clip: float,
    projection_clip: float,
    *,
    save: bool = False,
) -> tuple[Array, Array, Gates]:
    dtype, shape = inputs.dtype, inputs.shape[1:]
    state_2d = state_kernel.astype(dtype).reshape(state_kernel.shape[0], *_flat(shape))
    projection = projection.astype(dtype)

    def step(
        carry: tuple[Array, Array], x: Array
    ) -> tuple[tuple[Array, Array], tuple[Array, Array, Gates]]:
        cell, hidden = carry
        gates = (x + _dot(hidden, state_2d, 1, 0).reshape(shape)).astype(jnp.float32)
        i, f, o = (nn.sigmoid(gates[:, k]) for k in (0, 1, 3))
        g = jnp.tanh(gates[:, 2])
        cell = _clip(f * cell + i * g, cell_clip)
        hidden = _clip(_dot((o * jnp.tanh(cell)).astype(dtype), projection, 1, 0), projection_clip)
        return (cell, hidden), (
            hidden,
            cell,
            jnp.stack([i, f, g, o], 1).astype(dtype) if save else (),
        )

    return lax.scan(step, (cell, hidden.astype(dtype)), inputs)[1]


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The gates side by side on a CPU, whose matrix product takes plain matrices; apart elsewhere,
    to be sharded.
    """
    return (shape[1] * shape[2],) if jax.default_backend() == "cpu" else shape[1:]


def _dot(
    x: Float[Array, "..."],
    y: Float[Array, "..."],
    axes_x: int | tuple[int, ...],
    axes_y: int | tuple[int, ...],
    dtype: DTypeLike | None = None,
) -> Float[Array, "..."]:
    contract = [(a,) if isinstance(a, int) else a for a in (axes_x, axes_y)]
    return lax.dot_general(
        x, y, ((contract[0], contract[1]), ((), ())), preferred_element_type=dtype
    )


def _clip(x: Array, limit: float) -> Array:
    return jnp.clip(x, -limit, limit) if limit else x


def _inside(x: Array, limit: float) -> Array | float:
    """1 where a clipped value was not clipped."""
    return (jnp.abs(x) < limit).astype(jnp.float32) if limit else 1.0


def _forward(
    *arguments: Array | float,
) -> tuple[tuple[Array, Array], tuple[Array | float, ...]]:
    hidden, cell, gates = _run(*arguments, save=True)
    return (hidden, cell), (gates, hidden, cell, *arguments[1:5])


def _backward(
    cell_clip: float,
    projection_clip: float,
    saved: tuple[Array, ...],
    gradient: tuple[Array, Array],
) -> tuple[Array, ...]:
    gates, hidden, cell, state_kernel, projection, cell_0, hidden_0 = saved
    dtype, shape = gates.dtype, gates.shape[1:]
    state_2d = state_kernel.astype(dtype).reshape(state_kernel.shape[0], *_flat(shape))
    projection_t = projection.astype(dtype)
    contracted = tuple(range(1, state_2d.ndim))
    before = jnp.concatenate([cell_0[None], cell[:-1]])

    def step(
        carry: tuple[Array, Array], at: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        to_cell, to_hidden = carry
        out, gate, cell, before, hidden = at
        i, f, g, o = (gate[:, k].astype(jnp.float32) for k in range(4))
        squashed = jnp.tanh(cell)
        to_product = ((out + to_hidden) * _inside(hidden, projection_clip)).astype(dtype)
        to_output = _dot(to_product, projection_t, 1, 1).astype(jnp.float32)
        to_cell = (to_cell + to_output * o * (1.0 - squashed**2)) * _inside(cell, cell_clip)
        parts = [
            to_cell * g * i * (1 - i),
            to_cell * before * f * (1 - f),
            to_cell * i * (1 - g**2),
            to_output * squashed * o * (1 - o),
        ]
        to_gates = jnp.stack(parts, 1).astype(dtype)
        to_hidden = _dot(
            to_gates.reshape(shape[0], *_flat(shape)), state_2d, contracted, contracted
        )
        return (to_cell * f, to_hidden.astype(jnp.float32)), (to_gates, to_product)

    zero = jnp.zeros_like(cell_0), jnp.zeros(hidden_0.shape, jnp.float32)
    _, (to_gates, to_product) = lax.scan(
        step, zero, (gradient[0], gates, cell, before, hidden), reverse=True
    )
    hidden_before = jnp.concatenate([hidden_0[None].astype(dtype), hidden[:-1]]).reshape(
        -1, hidden.shape[-1]
    )
    output = (
        (gates[:, :, 3].astype(jnp.float32) * jnp.tanh(cell))
        .astype(dtype)
        .reshape(-1, cell.shape[-1])
    )
    to_state = _dot(hidden_before, to_gates.reshape(-1, *_flat(shape)), 0, 0, state_kernel.dtype)
    to_projection = _dot(output, to_product.reshape(-1, hidden.shape[-1]), 0, 0, projection.dtype)
    return (
        to_gates,
        to_state.reshape(state_kernel.shape),
        to_projection,
        jnp.zeros_like(cell_0),
        jnp.zeros_like(hidden_0),
    )


recurrence.defvjp(_forward, _backward)

"""Attention, and the one place that chooses how it is computed."""

import logging

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")

ATTENTION = ("auto", "matmul", "products", "xla", "cudnn")
LOOPED_FROM = 128  # keys; below, all heads' scores fit into the cache together
Queries = Float[Array, "batch queries heads kv"]
Keys = Float[Array, "batch keys heads kv"]
_logged: set[str] = set()  # so that 48 equal layers give one log line


def attention(query: Queries, key: Keys, value: Keys, implementation: str = "auto") -> Queries:
    """Full (unmasked) attention with the scale 1/sqrt(kv); statistics of the softmax are float32.

    Args:
      query: (batch, queries, heads, kv).
      key: (batch, keys, heads, kv).
      value: (batch, keys, heads, kv).
      implementation: "matmul" (explicit products in batch, heads, time order, head after head on
        one CPU device), "products" (the same for all heads at once, whatever the device: what is
        exported), "xla" (jax.nn.dot_product_attention), "cudnn" (flash attention), or "auto": cudnn
        where its conditions hold, matmul on a CPU, else xla.

    Returns:
      (batch, queries, heads, kv) in the type of `query`.

    Raises:
      UserError: the implementation is unknown, or "cudnn" was asked for and cannot run here.
    """
    chosen, reason = choose_attention(implementation, query.dtype, query.shape[-1])
    slow = jax.default_backend() == "gpu" and chosen != "cudnn"
    say("attention", chosen, reason, logging.WARNING if slow else logging.INFO)
    if chosen == "products":
        return matmul_attention(query, key, value)
    if chosen == "matmul":
        # The loop would gather what is sharded, so it is for one device.
        looped = jax.device_count() == 1 and key.shape[1] >= LOOPED_FROM
        return (
            looped_attention(query, key, value) if looped else matmul_attention(query, key, value)
        )
    if chosen == "cudnn":
        return flash_attention(query, key, value)
    return jax.nn.dot_product_attention(query, key, value, implementation=chosen)


def flash_attention(
    query: Queries, key: Keys, value: Keys, implementation: str = "cudnn"
) -> Queries:
    """cuDNN's flash attention.

    JAX (0.10) refuses the gradient of an odd number of tokens, such as 256 patches and a class
    token: it counts the empty bias that it hands to cuDNN as one. So there is one token more, which
    nobody sees, until this is mended there.
    """
    queries, keys = query.shape[1], key.shape[1]
    if queries % 2 == keys % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation=implementation)
    # Read off the rows, and not a constant, so that vmap and the partitioner divide the lengths as
    # they divide the rows.
    lengths = [x.shape[1] - jnp.isnan(x[:, 0, 0, 0]).astype(jnp.int32) for x in (query, key)]
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    y = jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=lengths[0],
        key_value_seq_lengths=lengths[1],
        implementation=implementation,
    )
    return y[:, :queries]


def say(what: str, chosen: str, reason: str, level: int = logging.INFO) -> None:
    """Logs once which implementation attention takes, and why: among a run's first lines, since a
    fall-back costs a third of the speed of a GPU and nothing else tells it.
    """
    line = f"{what}: {chosen} ({reason})"
    if line not in _logged:
        _logged.add(line)
        log.log(level, line)


def choose_attention(implementation: str, dtype: DTypeLike, head_dim: int) -> tuple[str, str]:
    """Which implementation `attention` takes on this process's devices, and why, in words for the
    log.
    """
    if implementation not in ATTENTION:
        raise UserError(
            f"model.attention is {implementation!r}; it can be {', '.join(ATTENTION)}. "
            "Use --config.model.attention=auto to let the program choose."
        )
    if implementation in ("matmul", "products", "xla"):
        return implementation, "asked for by model.attention"
    platform = jax.default_backend()
    obstacle = _cudnn_obstacle(platform, jnp.dtype(dtype), head_dim)
    if implementation == "cudnn":
        if obstacle:
            raise UserError(
                f"model.attention=cudnn cannot be honoured: {obstacle}. "
                "Use --config.model.attention=auto, which takes cuDNN wherever it can run."
            )
        return "cudnn", "asked for by model.attention"
    if not obstacle:
        return "cudnn", "flash attention: bfloat16 or float16 on a GPU of capability 8.0 or newer"
    if platform == "cpu":
        return "matmul", "on a CPU explicit products are fastest"
    return "xla", f"no cuDNN flash attention: {obstacle}"


def _cudnn_obstacle(platform: str, dtype: DTypeLike, head_dim: int) -> str:
    """What keeps cuDNN flash attention from running, or ""; the conditions of jax 0.10's cuDNN
    front end.
    """
    if platform != "gpu":
        return f"it needs an NVIDIA GPU, and this program runs on {platform}"
    device = jax.local_devices()[0]
    if "cuda" not in device.client.platform_version.lower():
        return "it needs an NVIDIA GPU, and this one is not"
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"it needs bfloat16 or float16, and model.dtype gives {dtype.name}"
    capability = float(device.compute_capability)
    if capability < 8.0:
        return (
            f"it needs compute capability 8.0 or newer, and {device.device_kind} has {capability}"
        )
    largest = 256 if capability >= 9.0 else 128
    if head_dim % 8 or head_dim > largest:
        return (
            f"it needs a head dimension that is a multiple of 8 and at most {largest}, and this"
            f" model has {head_dim}"
        )
    return ""


def matmul_attention(query: Queries, key: Keys, value: Keys) -> Queries:
    """Explicit products over all heads at once."""
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5
    batch = (0, 1), (0, 1)
    scores = lax.dot_general(
        query * scale, key, (((3,), (3,)), batch), preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return lax.dot_general(weights, value, (((3,), (2,)), batch)).transpose(0, 2, 1, 3)


@jax.custom_vjp
def looped_attention(query: Queries, key: Keys, value: Keys) -> Queries:
    """Head after head, and again for the gradient: scores stay in the cache of a CPU core and are
    never kept.

    Half the time of `matmul_attention` with 257 tokens and 16 heads on one core, and no memory for
    scores.
    """
    return _looped_forward(query, key, value)[0]


def _looped_forward(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, ...]]:
    def one_head(arrays: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        q, k, v = arrays
        scores = jnp.matmul(q, k.T, preferred_element_type=jnp.float32)
        largest = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(-1, keepdims=True)
        y = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
        return y.astype(v.dtype), (largest + jnp.log(total))[:, 0]

    heads = by_head(query) * query.shape[-1] ** -0.5, by_head(key), by_head(value)
    y, log_total = lax.map(one_head, heads)
    return by_token(y, query.shape), (*heads, y, log_total)


def _looped_backward(saved: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    query, key, value, y, log_total = saved
    gradient_heads = by_head(gradient)
    mean = (gradient_heads.astype(jnp.float32) * y).sum(-1)

    def one_head(arrays: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        q, k, v, g, log_total, mean = arrays
        weights = jnp.exp(
            jnp.matmul(q, k.T, preferred_element_type=jnp.float32) - log_total[:, None]
        )
        scores = weights * (jnp.matmul(g, v.T, preferred_element_type=jnp.float32) - mean[:, None])
        scores = scores.astype(q.dtype)
        return scores @ k, scores.T @ q, weights.astype(g.dtype).T @ g

    to_query, to_key, to_value = lax.map(
        one_head, (query, key, value, gradient_heads, log_total, mean)
    )
    batch, _, heads, head_dim = gradient.shape
    keys = (batch, key.shape[1], heads, head_dim)
    return (
        by_token(to_query * head_dim**-0.5, gradient.shape),
        by_token(to_key, keys),
        by_token(to_value, keys),
    )


looped_attention.defvjp(_looped_forward, _looped_backward)


def by_head(x: Float[Array, "batch seq heads kv"]) -> Float[Array, "rows seq kv"]:
    """Rows of the batch and heads as one leading axis, heads fastest."""
    batch, seq, heads, head_dim = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch * heads, seq, head_dim)


def by_token(
    x: Float[Array, "rows seq kv"], shape: tuple[int, ...]
) -> Float[Array, "batch seq heads kv"]:
    """The inverse of `by_head`; `shape` is that of the result."""
    batch, seq, heads, head_dim = shape
    return x.reshape(batch, heads, seq, head_dim).transpose(0, 2, 1, 3)

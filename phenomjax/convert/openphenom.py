"""The state-dict layout of OpenPhenom and its relatives (`encoder.vit_backbone…`, `decoder…`) <->
parameters of `MAE`.

Written from a list of that layout's names and shapes. Published encoders have parallel blocks;
plain pre-norm ones get the names that timm's VisionTransformer gives them. Both decoders are
covered.
"""

import re
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from phenomjax import config
from phenomjax.convert import fitting
from phenomjax.models import mae, patches, vit
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

BACKBONE = "encoder.vit_backbone."
FIXED = (BACKBONE + "pos_embed", "decoder.pos_embeddings", "decoder.placeholder")
INFERRED = (
    "channel_agnostic",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "patch_size",
    "decoder_dim",
    "decoder_depth",
    "decoder_num_heads",
    "bias_order",
)
# Our path (layer and channel numbers as {0}, {1}) -> their name without its last part.
BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention/qkv": "attn.qkv",
    "attention/out": "attn.proj",
    "mlp/in": "mlp.fc1",
    "mlp/out": "mlp.fc2",
}
ENCODER_BLOCK = {
    "norm": "in_norm",
    "attention/q_norm": "q_norm",
    "attention/k_norm": "k_norm",
    "attention/out": "attn_out_proj",
    "mlp/out": "mlp_out_proj",
}
PRENORM_BLOCK = BLOCK | {
    "attention/q_norm": "attn.q_norm",
    "attention/k_norm": "attn.k_norm",
    "scale1": "ls1",
    "scale2": "ls2",
}
MODULES = {
    "encoder/patch_embed": BACKBONE + "patch_embed.proj",
    "decoder/embed": "encoder_decoder_proj",
    "decoder/predict": "decoder_pred",
    "decoder/norm": "decoder.norm",
    "decoder/cross_attention/query": "decoder.cross_attention.q",
    "decoder/cross_attention/kv": "decoder.cross_attention.kv",
    "decoder/cross_attention/out": "decoder.cross_attention.proj",
    "decoder/mlp/in": "decoder.mlp.fc1",
    "decoder/mlp/out": "decoder.mlp.fc2",
    **{f"decoder/{name}": f"decoder.{name}" for name in ("context_norm", "query_norm", "out_norm")},
}


def infer_model(state: Mapping[str, np.ndarray], decoder_num_heads: int = 16) -> ConfigDict:
    """The `model` part of the configuration that a state dict fits, with the legacy bias order it
    was trained with.

    Args:
      state: arrays by their names.
      decoder_num_heads: cannot be seen in the shapes.

    Raises:
      UserError: not this layout.
    """
    missing = [
        n
        for n in (BACKBONE + "patch_embed.proj.weight", BACKBONE + "blocks.0.in_proj.weight")
        if n not in state
    ]
    if missing:
        some = ", ".join(sorted(state)[:4])
        raise UserError(
            f"This is not the OpenPhenom layout: it has no {missing[0]} (its first names: {some})."
            " The converter knows encoders of parallel-scaling blocks; convert the state dict of"
            " the whole model, decoder included."
        )
    width, channels, patch, _ = fitting.shape(state, BACKBONE + "patch_embed.proj.weight", 4)
    agnostic = any(name.startswith("decoder.decoders.") for name in state)
    blocks = "decoder.decoders.0" if agnostic else "decoder.blocks"
    model = config.base().model
    model.channel_agnostic = agnostic
    model.channels = tuple(
        f"c{i}"
        for i in range(fitting.count(state, "decoder.modality_tokens") if agnostic else channels)
    )
    model.embed_dim, model.patch_size, model.depth = (
        width,
        patch,
        fitting.count(state, BACKBONE + "blocks"),
    )
    first = BACKBONE + "blocks.0."
    model.num_heads = width // fitting.shape(state, first + "q_norm.weight", 1)[0]
    model.mlp_ratio = (fitting.shape(state, first + "in_proj.weight", 2)[0] - 3 * width) / width
    model.decoder_dim, _ = fitting.shape(state, "encoder_decoder_proj.weight", 2)
    model.decoder_depth = fitting.count(state, blocks)
    model.class_token = BACKBONE + "cls_token" in state
    model.layer_scale = model.layer_scale if first + "ls.gamma" in state else 0.0
    model.decoder_num_heads, model.bias_order = decoder_num_heads, "timm_legacy"
    return model


def abstract_params(model: ConfigDict) -> Params:
    """Names and shapes of a model's parameters, unrolled layers, unboxed."""
    module = mae.build(
        ConfigDict({**model.to_dict(), "scan_layers": False}), jnp.dtype(jnp.float32)
    )
    count = len(model.channels)
    pixels = jnp.zeros((1, 2 * model.patch_size, 2 * model.patch_size, count), jnp.uint8)
    channels, tokens = jnp.arange(count)[None], mae.num_tokens(model, pixels.shape)
    init = lambda key: module.init(key, pixels, channels, jnp.zeros((1, tokens)), 1)["params"]  # noqa: E731
    return nn.unbox(jax.eval_shape(init, jax.random.key(0)))


def from_state_dict(state: Mapping[str, np.ndarray], model: ConfigDict) -> Params:
    """Parameters of `MAE` (unboxed, unrolled layers; see `vit.stack_layers`) from a state dict.

    Args:
      state: arrays by their names.
      model: what the parameters must fit; `infer_model(state)` gives one.

    Raises:
      UserError: names or shapes that differ, each with both sides; or fixed tables that are not the
        expected ones.
    """
    left = dict(state)
    check_tables({name: left.pop(name) for name in FIXED if name in left}, model)
    shapes = traverse_util.flatten_dict(abstract_params(model), sep="/")
    params, problems = taken(left, shapes, model)
    fitting.refuse(
        problems + fitting.without_place(left),
        "The state dict does",
        "Compare depth, width, patch size, channels and decoder in its configuration with model.*.",
    )
    return traverse_util.unflatten_dict(params, sep="/")


def taken(
    left: dict[str, np.ndarray], shapes: Mapping[str, jax.ShapeDtypeStruct], model: ConfigDict
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Takes arrays out of a state dict.

    Args:
      left: is emptied of what is used.
      shapes: wanted, by our paths.
      model: that they are of.

    Returns:
      ({our path: array}, what is missing or has another shape).
    """
    problems, params, used = list[str](), {}, set[str]()
    for path, shape in ((path, leaf.shape) for path, leaf in shapes.items()):
        values = []
        for name, index in _names(path, shape, model):
            part_shape = shape if index is None else shape[1:]
            if name not in left:
                problems.append(f"{name} is missing")
                continue
            used.add(name)
            try:
                values.append(_to_ours(path, np.asarray(left[name], np.float32), part_shape, model))
            except ValueError:
                problems.append(
                    f"{name} has the shape {left[name].shape}, the model's {path} is {part_shape}"
                )
        if values:
            params[path] = values[0] if index is None else np.stack(values)
    for name in used:  # one array may be of two paths
        del left[name]
    return params, problems


def to_state_dict(
    params: Params, model: ConfigDict, grid: int = 0, max_channels: int = 0
) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`; scanned layers are unstacked.

    Args:
      params: unboxed.
      model: the configuration they belong to.
      grid: patches along an edge, for the fixed position tables; 0 leaves the fixed tables out.
      max_channels: channels that the encoder's table of a channel-agnostic model is repeated for; 0
        = the vocabulary.
    """
    state: dict[str, np.ndarray] = {}
    for path, value in traverse_util.flatten_dict(vit.unstack_layers(params), sep="/").items():
        for name, index in _names(path, value.shape, model):
            part = np.asarray(value if index is None else value[index])
            part = _to_theirs(path, part, model)
            if name.endswith(".in_proj.weight") and name in state:
                first, second = (
                    (part, state[name]) if path.endswith("mlp/in/kernel") else (state[name], part)
                )
                part = np.concatenate([first, second])  # rows: mlp, then q, k, v
            state[name] = np.ascontiguousarray(part)
    if grid:
        state |= fixed_tables(model, grid, max_channels or len(model.channels))
    return state


def fixed_tables(model: ConfigDict, grid: int, max_channels: int) -> dict[str, np.ndarray]:
    """The entries of a state dict that are not learned: position tables, a row of zeros first for
    the class token.
    """
    repeats = (max_channels, len(model.channels)) if model.channel_agnostic else (1, 1)
    tables = {}
    for name, dim, repeat in zip(
        FIXED, (model.embed_dim, model.decoder_dim), repeats, strict=False
    ):
        table = np.tile(
            np.asarray(patches.sincos_positions(grid, grid, dim, model.position_grid)), (repeat, 1)
        )
        tables[name] = np.concatenate([np.zeros((1, dim), np.float32), table])[None]
    return tables | (
        {FIXED[2]: np.zeros((1, 1, model.decoder_dim), np.float32)}
        if model.channel_agnostic
        else {}
    )


def check_tables(tables: Mapping[str, np.ndarray], model: ConfigDict) -> None:
    """Compares stored fixed tables with computed ones, for any square grid and number of channels
    that they could be of.

    Raises:
      UserError: a table that no such grid gives: the weights were trained with other positions.
    """
    for name, table in tables.items():
        dim = table.shape[-1]
        if name == FIXED[2]:
            fits = not table.any()
        else:
            tokens = table.shape[1] - 1
            grids = [g for g in range(1, int(tokens**0.5) + 1) if tokens % g**2 == 0]
            grids = grids if model.channel_agnostic else [g for g in grids if g**2 == tokens]
            computed = (
                np.tile(
                    patches.sincos_positions(g, g, dim, model.position_grid), (tokens // g**2, 1)
                )
                for g in reversed(grids)
            )
            fits = not table[0, 0].any() and any(
                np.allclose(table[0, 1:], c, atol=1e-5) for c in computed
            )
        if not fits:
            raise UserError(
                f"{name} {tuple(table.shape)} is not the fixed table of this architecture"
                " (two-dimensional sin-cos, row before column, zeros for the class token). The"
                " weights were trained with other positions and cannot be used here."
            )


def _names(
    path: str, shape: tuple[int, ...], model: ConfigDict
) -> Iterator[tuple[str, int | None]]:
    """Their names for one of our arrays, each with its place on our leading channel axis (None:
    there is none).
    """
    last = {"kernel": "weight", "scale": "weight", "bias": "bias", "gamma": "gamma"}.get(
        path.rsplit("/", 1)[1], ""
    )
    if match := re.fullmatch(r"encoder/blocks/layer_(\d+)/(.+)", path):
        prefix, rest = f"{BACKBONE}blocks.{match[1]}.", match[2]
        if model.block == "prenorm":
            yield f"{prefix}{PRENORM_BLOCK[rest.rsplit('/', 1)[0]]}.{last}", None
            return
        special = {
            "bias": "mlp_bias",
            "scale/gamma": "ls.gamma",
            "attention/qkv/kernel": "in_proj.weight",
            "mlp/in/kernel": "in_proj.weight",
        }
        module = rest.rsplit("/", 1)[0]
        yield (
            prefix + (special[rest] if rest in special else f"{ENCODER_BLOCK[module]}.{last}"),
            None,
        )
    elif match := re.fullmatch(r"decoder/blocks/layer_(\d+)/(.+)/\w+", path):
        yield f"decoder.blocks.{match[1]}.{BLOCK[match[2]]}.{last}", None
    elif match := re.fullmatch(r"decoder/channel_blocks/layer_(\d+)/(.+)/\w+", path):
        for channel in range(shape[0]):
            yield f"decoder.decoders.{channel}.{match[1]}.{BLOCK[match[2]]}.{last}", channel
    elif path == "decoder/channel_tokens":
        for channel in range(shape[0]):
            yield f"decoder.modality_tokens.{channel}", channel
    elif path.startswith("norm/"):
        yield f"{BACKBONE}{'fc_norm' if model.channel_agnostic else 'norm'}.{last}", None
    elif path in ("encoder/cls_token", "decoder/mask_token"):
        yield {"encoder/cls_token": BACKBONE + "cls_token"}.get(path, "decoder.mask_token"), None
    else:
        yield f"{MODULES[path.rsplit('/', 1)[0]]}.{last}", None


def _to_ours(path: str, value: np.ndarray, shape: tuple[int, ...], model: ConfigDict) -> np.ndarray:
    """Raises ValueError if the shapes do not fit; a matrix of the right size but other sides does
    not either.
    """
    # (out, channel, y, x) -> (y, x, channel) in one axis, out
    if path == "encoder/patch_embed/kernel":
        if value.shape[2:] != (model.patch_size, model.patch_size):
            raise ValueError
        return value.transpose(2, 3, 1, 0).reshape(shape)
    if path.endswith("kernel"):
        packed = re.fullmatch(r"encoder/.+/(attention/qkv|mlp/in)/kernel", path)
        if packed and model.block == "parallel":  # rows: mlp, then q, k, v
            hidden = value.shape[0] - 3 * value.shape[1]
            value = value[hidden:] if "qkv" in path else value[:hidden]
        inputs = _inputs(path, shape)
        if value.shape != (np.prod(shape) // inputs, inputs):
            raise ValueError
        return value.T.reshape(shape)
    return value.reshape(shape)


def _to_theirs(path: str, value: np.ndarray, model: ConfigDict) -> np.ndarray:
    if path == "encoder/patch_embed/kernel":
        channels = 1 if model.channel_agnostic else len(model.channels)
        return value.reshape(model.patch_size, model.patch_size, channels, -1).transpose(3, 2, 0, 1)
    if path.endswith("kernel"):
        return value.reshape(_inputs(path, value.shape), -1).T
    if path.endswith(("_token", "_tokens")):
        return value.reshape(1, 1, -1)
    return value.reshape(-1)


def _inputs(path: str, shape: tuple[int, ...]) -> int:
    """How many numbers a kernel takes in: an output projection of attention contracts heads and
    head dimension.
    """
    return int(np.prod(shape[: 2 if path.endswith("out/kernel") and len(shape) == 3 else 1]))

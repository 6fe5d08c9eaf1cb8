"""State dicts of Transformer-XL <-> parameters of `TransformerXL`: Hugging Face's
`TransfoXLLMHeadModel`, Dai et al.'s PyTorch code.

Both layouts have the same names but for a prefix. They differ in the order of the clusters of an
adaptive softmax, which Dai et al.'s code (and NVIDIA's) has in reverse.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from phenomjax import config
from phenomjax.convert import fitting
from phenomjax.models import transformer_xl, vit
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

LAYOUTS = {"huggingface": "transformer.", "kimiyoung": ""}  # prefix of all but the softmax
INFERRED = (
    "num_layers",
    "embed_dim",
    "num_heads",
    "head_dim",
    "mlp_dim",
    "vocab_size",
    "untie_bias",
    "cutoffs",
    "div_val",
)
FIXED = ("pos_emb.inv_freq",)


@dataclass(frozen=True)
class TheirArray:
    """One array of theirs: the parameters it holds, and how to go between."""

    paths: tuple[str, ...]
    to_ours: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    to_theirs: Callable[..., np.ndarray]


def infer_model(
    state: Mapping[str, np.ndarray], layout: str = "", cutoffs: tuple[int, ...] = ()
) -> ConfigDict:
    """The `model` part of the configuration that a state dict fits.

    Args:
      state: arrays by their names.
      layout: one of LAYOUTS; "" = by the names.
      cutoffs: of the adaptive softmax; needed where div_val is 1, because the shapes do not show
        them.

    Raises:
      UserError: not this layout, or cutoffs that are needed and missing.
    """
    prefix = LAYOUTS[layout or layout_of(state)]
    bins = fitting.count(state, prefix + "word_emb.emb_layers")
    tables = [
        fitting.shape(state, f"{prefix}word_emb.emb_layers.{i}.weight", 2) for i in range(bins)
    ]
    known = "crit.cluster_bias" in state
    (clusters,) = fitting.shape(state, "crit.cluster_bias", 1) if known else (0,)
    model = config.base("causal_lm").model
    model.num_layers = fitting.count(state, prefix + "layers")
    model.vocab_size = sum(rows for rows, _ in tables)
    if bins > 1:
        cutoffs = tuple(int(x) for x in np.cumsum([rows for rows, _ in tables])[:-1])
        model.div_val = tables[0][1] // tables[1][1]
    if len(cutoffs) != clusters:
        raise UserError(
            f"The softmax has {clusters} clusters, and {len(cutoffs)} cutoffs are known. Give the"
            " first token of each cluster, as it was trained with, with `cutoffs`"
            " 20000,40000,200000."
        )
    model.cutoffs = cutoffs
    model.embed_dim, _ = fitting.shape(state, prefix + "layers.0.dec_attn.o_net.weight", 2)
    model.untie_bias = prefix + "r_w_bias" not in state
    name = prefix + ("layers.0.dec_attn.r_w_bias" if model.untie_bias else "r_w_bias")
    model.num_heads, model.head_dim = fitting.shape(state, name, 2)
    (model.mlp_dim,) = fitting.shape(state, prefix + "layers.0.pos_ff.CoreNet.0.bias", 1)
    model.scan_layers = False
    return model


def layout_of(state: Mapping[str, np.ndarray]) -> str:
    """The layout of a state dict, by its names."""
    for layout, prefix in LAYOUTS.items():
        if prefix + "word_emb.emb_layers.0.weight" in state:
            return layout
    raise UserError(
        "This is not a Transformer-XL: it has no word_emb.emb_layers.0.weight (its first names:"
        f" {', '.join(sorted(state)[:4])}). Convert the state dict of the whole language model,"
        " softmax included."
    )


def abstract_params(model: ConfigDict) -> Params:
    """Names and shapes of a model's parameters, unrolled layers, unboxed."""
    module = transformer_xl.build(
        ConfigDict({**model.to_dict(), "scan_layers": False}), jnp.dtype(jnp.float32), 0
    )
    tokens, memory = (
        jnp.zeros((1, 2), jnp.int32),
        jnp.zeros((1, model.num_layers, 0, model.embed_dim)),
    )
    init = lambda key: module.init(key, tokens, memory, jnp.zeros(1, jnp.int32))["params"]  # noqa: E731
    return nn.unbox(jax.eval_shape(init, jax.random.key(0)))


def from_state_dict(state: Mapping[str, np.ndarray], model: ConfigDict, layout: str = "") -> Params:
    """Parameters of `TransformerXL` (unboxed; stacked if `model.scan_layers`) from a state dict.

    Raises:
      UserError: names or shapes that differ, each with both sides; or arrays that should be one and
        are not.
    """
    layout = layout or layout_of(state)
    entries, copies = _entries(model, layout)
    shapes = traverse_util.flatten_dict(abstract_params(model), sep="/")
    left, problems = dict(state), list[str]()
    params: dict[str, np.ndarray] = {}
    for name, entry in entries.items():
        if (array := left.pop(name, None)) is None:
            problems.append(f"{name} is missing")
            continue
        try:
            parts = entry.to_ours(np.asarray(array, np.float32))
            fits = all(
                part.shape == shapes[path].shape
                for path, part in zip(entry.paths, parts, strict=True)
            )
        except ValueError:
            fits = False
        if not fits:
            wanted = ", ".join(f"{path} {shapes[path].shape}" for path in entry.paths)
            problems.append(f"{name} has the shape {array.shape}, the model has {wanted}")
            continue
        params |= dict(zip(entry.paths, parts, strict=True))
    for name, original in copies.items():
        array = left.pop(name, None)
        if array is not None and not np.array_equal(array, state.get(original, array)):
            problems.append(
                f"{name} and {original} should be the same array and are not: the model was trained"
                " untied"
            )
    for name in [*FIXED, *(LAYOUTS[layout] + name for name in FIXED)]:
        left.pop(name, None)
    problems += [f"{name} is in no place of the model" for name in left]
    fitting.refuse(
        problems,
        "The state dict does",
        "Compare its configuration with model.*.",
    )
    nested = traverse_util.unflatten_dict(
        {path: jnp.asarray(x) for path, x in params.items()}, sep="/"
    )
    return vit.stack_layers(nested) if model.scan_layers else nested


def to_state_dict(
    params: Params, model: ConfigDict, layout: str = "huggingface"
) -> dict[str, np.ndarray]:
    """The state dict of unboxed parameters, with the arrays that are tied under all their names."""
    flat = traverse_util.flatten_dict(
        vit.unstack_layers(params) if model.scan_layers else params, sep="/"
    )
    entries, copies = _entries(model, layout)
    state = {
        name: entry.to_theirs(*(np.asarray(flat[path]) for path in entry.paths))
        for name, entry in entries.items()
    }
    state |= {name: state[original] for name, original in copies.items()}
    frequencies = 1 / 10000.0 ** (np.arange(0, model.embed_dim, 2) / model.embed_dim)
    return state | {LAYOUTS[layout] + FIXED[0]: frequencies.astype(np.float32)}


def _entries(model: ConfigDict, layout: str) -> tuple[dict[str, TheirArray], dict[str, str]]:
    """All arrays of the layout, and {name: name of the array that it is a copy of}."""
    prefix, width, heads = LAYOUTS[layout], model.embed_dim, (model.num_heads, model.head_dim)
    order = slice(None, None, -1) if layout == "kimiyoung" else slice(None)
    inner = tuple(model.cutoffs) if model.div_val > 1 else ()
    edges = (0, *inner, model.vocab_size)
    entries, copies = {}, {}

    def same(path: str) -> TheirArray:
        return TheirArray((path,), lambda x: (x,), lambda x: x)

    def transposed(path: str) -> TheirArray:
        return TheirArray((path,), lambda x: (x.T,), lambda x: x.T)

    def reshaped(path: str, ours: tuple[int, ...], theirs: tuple[int, int]) -> TheirArray:
        return TheirArray((path,), lambda x: (x.T.reshape(ours),), lambda x: x.reshape(theirs).T)

    for i in range(len(edges) - 1):
        entries[f"{prefix}word_emb.emb_layers.{i}.weight"] = same(f"vocabulary/bin_{i}_embedding")
        entries[f"crit.out_layers.{i}.bias"] = same(f"vocabulary/bin_{i}_bias")
        copies[f"crit.out_layers.{i}.weight"] = f"{prefix}word_emb.emb_layers.{i}.weight"
        if model.div_val > 1:
            entries[f"{prefix}word_emb.emb_projs.{i}"] = transposed(f"vocabulary/bin_{i}_kernel")
            if i:
                copies[f"crit.out_projs.{i}"] = f"{prefix}word_emb.emb_projs.{i}"
    if model.div_val > 1:
        entries["crit.out_projs.0"] = transposed("vocabulary/head_kernel")
    if model.cutoffs:
        entries["crit.cluster_weight"] = TheirArray(
            ("vocabulary/cluster_kernel",), lambda x: (x[order].T,), lambda x: x.T[order]
        )
        entries["crit.cluster_bias"] = TheirArray(
            ("vocabulary/cluster_bias",), lambda x: (x[order],), lambda x: x[order]
        )
    for theirs, ours in (("r_w_bias", "content_bias"), ("r_r_bias", "position_bias")):
        if not model.untie_bias:
            entries[prefix + theirs] = same(ours)
        for i in range(model.num_layers):
            name = f"{prefix}layers.{i}.dec_attn.{theirs}"
            if model.untie_bias:
                entries[name] = same(f"blocks/layer_{i}/{ours}")
            elif layout == "huggingface":
                copies[name] = prefix + theirs
    for i in range(model.num_layers):
        ours, theirs = f"blocks/layer_{i}/", f"{prefix}layers.{i}."
        entries[theirs + "dec_attn.qkv_net.weight"] = TheirArray(
            (ours + "query/kernel", ours + "key_value/kernel"),
            lambda x: (
                x[: len(x) // 3].T.reshape(width, *heads),
                x[len(x) // 3 :].T.reshape(width, 2, *heads),
            ),
            lambda q, kv: np.concatenate([q.reshape(width, -1), kv.reshape(width, -1)], 1).T,
        )
        entries[theirs + "dec_attn.r_net.weight"] = reshaped(
            ours + "position/kernel", (width, *heads), (width, -1)
        )
        entries[theirs + "dec_attn.o_net.weight"] = reshaped(
            ours + "out/kernel", (*heads, width), (-1, width)
        )
        for their_norm, our_norm in (("dec_attn", "attention_norm"), ("pos_ff", "mlp_norm")):
            entries[f"{theirs}{their_norm}.layer_norm.weight"] = same(f"{ours}{our_norm}/scale")
            entries[f"{theirs}{their_norm}.layer_norm.bias"] = same(f"{ours}{our_norm}/bias")
        for number, name in ((0, "mlp_in"), (3, "mlp_out")):
            entries[f"{theirs}pos_ff.CoreNet.{number}.weight"] = transposed(f"{ours}{name}/kernel")
            entries[f"{theirs}pos_ff.CoreNet.{number}.bias"] = same(f"{ours}{name}/bias")
    return entries, copies

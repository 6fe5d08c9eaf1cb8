"""The layouts of XLNet, Hugging Face's state dict and the TensorFlow variables of zihangdai/xlnet
<-> parameters of `XLNet`.

Written from a list of their names and shapes. TensorFlow's weights want model.gelu=tanh, Hugging
Face's exact.
"""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from phenomjax import config
from phenomjax.convert import fitting
from phenomjax.models import vit, xlnet
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

LAYOUTS = ("huggingface", "tensorflow")
INFERRED = (
    "vocab_size",
    "embed_dim",
    "num_layers",
    "num_heads",
    "head_dim",
    "mlp_dim",
    "untie_bias",
    "gelu",
)
# Hugging Face writes the softmax's matrix too, though it is the embedding
OUTPUT = "lm_loss.weight"
# of TensorFlow's checkpoints
NOT_WEIGHTS = ("/Adam", "/Adam_1", "/ExponentialMovingAverage", "global_step")

# Our names, {} the layer, and theirs in the order of LAYOUTS.
TOP = {
    "word_embedding/embedding": (
        "transformer.word_embedding.weight",
        "model/transformer/word_embedding/lookup_table",
    ),
    "mask_token": ("transformer.mask_emb", "model/transformer/mask_emb/mask_emb"),
    "output_bias": ("lm_loss.bias", "model/lm_loss/bias"),
}
LAYER = {
    "attention/query/kernel": ("rel_attn.q", "rel_attn/q/kernel"),
    "attention/key/kernel": ("rel_attn.k", "rel_attn/k/kernel"),
    "attention/value/kernel": ("rel_attn.v", "rel_attn/v/kernel"),
    "attention/out/kernel": ("rel_attn.o", "rel_attn/o/kernel"),
    "attention/position/kernel": ("rel_attn.r", "rel_attn/r/kernel"),
    "attention_norm/scale": ("rel_attn.layer_norm.weight", "rel_attn/LayerNorm/gamma"),
    "attention_norm/bias": ("rel_attn.layer_norm.bias", "rel_attn/LayerNorm/beta"),
    "mlp_in/kernel": ("ff.layer_1.weight", "ff/layer_1/kernel"),
    "mlp_in/bias": ("ff.layer_1.bias", "ff/layer_1/bias"),
    "mlp_out/kernel": ("ff.layer_2.weight", "ff/layer_2/kernel"),
    "mlp_out/bias": ("ff.layer_2.bias", "ff/layer_2/bias"),
    "mlp_norm/scale": ("ff.layer_norm.weight", "ff/LayerNorm/gamma"),
    "mlp_norm/bias": ("ff.layer_norm.bias", "ff/LayerNorm/beta"),
}
# In TensorFlow these stand in one array for all layers; the biases only if they are not shared by
# the layers.
STACKED = {
    "content_bias": ("rel_attn.r_w_bias", "r_w_bias"),
    "position_bias": ("rel_attn.r_r_bias", "r_r_bias"),
    "segment_bias": ("rel_attn.r_s_bias", "r_s_bias"),
    "segment/embedding": ("rel_attn.seg_embed", "seg_embed"),
}


def layout_of(state: Mapping[str, np.ndarray]) -> str:
    """The layout of named arrays.

    Raises:
      UserError: none of them.
    """
    for number, layout in enumerate(LAYOUTS):
        if TOP["mask_token"][number] in state:
            return layout
    raise UserError(
        f"This is no XLNet layout: there is neither {' nor '.join(TOP['mask_token'])} (the first"
        f" names: {', '.join(sorted(state)[:4])}). The converter reads the state dict of Hugging"
        " Face's XLNetLMHeadModel and the variables of zihangdai/xlnet."
    )


def infer_model(state: Mapping[str, np.ndarray]) -> ConfigDict:
    """The `model` part of the configuration that arrays fit; memory, dropout and the like cannot be
    seen in them.

    Raises:
      UserError: not one of the layouts.
    """
    layout = layout_of(state)
    number = LAYOUTS.index(layout)
    prefix = _layer_prefix(layout)
    model = config.base("permutation_lm").model
    model.num_layers = len(
        {n[len(prefix) :].replace("/", ".").split(".")[0] for n in state if n.startswith(prefix)}
    )
    model.vocab_size, model.embed_dim = fitting.shape(
        state, TOP["word_embedding/embedding"][number], 2
    )
    kernel, hidden = (_name(path, 0, layout) for path in ("attention/query/kernel", "mlp_in/bias"))
    _, model.num_heads, model.head_dim = fitting.shape(state, kernel, 3)
    (model.mlp_dim,) = fitting.shape(state, hidden, 1)
    # Hugging Face's layout has the shared biases too in every layer.
    model.untie_bias = layout == "huggingface" or (
        np.ndim(state.get("model/transformer/r_w_bias", 0)) == 3
    )
    model.gelu = "exact" if layout == "huggingface" else "tanh"
    return model


def abstract_params(model: ConfigDict) -> Params:
    """Names and shapes of a model's parameters, unrolled layers, unboxed."""
    module = xlnet.build(
        ConfigDict({**model.to_dict(), "scan_layers": False}), jnp.dtype(jnp.float32)
    )
    init = lambda key: module.init(key, jnp.zeros((1, 4), jnp.int32))["params"]  # noqa: E731
    return nn.unbox(jax.eval_shape(init, jax.random.key(0)))


def from_state_dict(state: Mapping[str, np.ndarray], model: ConfigDict) -> Params:
    """Parameters of `XLNet` (unboxed, unrolled layers; see `vit.stack_layers`) from arrays of
    either layout.

    Args:
      state: arrays by their names.
      model: what the parameters must fit; `infer_model(state)` gives one.

    Raises:
      UserError: names or shapes that differ, each with both sides; or layers that differ where the
        model shares a bias.
    """
    layout = layout_of(state)
    left = {name: value for name, value in state.items() if not name.endswith(NOT_WEIGHTS)}
    problems: list[str] = []
    params: dict[str, np.ndarray] = {}
    if OUTPUT in left and not np.array_equal(
        left.pop(OUTPUT), state[TOP["word_embedding/embedding"][0]]
    ):
        problems.append(f"{OUTPUT} is not the embedding, and the model has one matrix for both")
    used = set()
    for path, leaf in traverse_util.flatten_dict(abstract_params(model), sep="/").items():
        values = []
        for name, index in _places(path, model, layout):
            if name not in left:
                problems.append(f"{name} is missing")
                continue
            used.add(name)
            value = np.asarray(left[name], np.float32)
            if index is not None:
                value = (
                    value[index]
                    if value.ndim == len(leaf.shape) + 1 and index < len(value)
                    else value[:0]
                )
            values.append(_transposed(path, value, layout))
            shape = (1, 1, *leaf.shape) if path == "mask_token" else leaf.shape
            if values[-1].shape != shape:
                problems.append(
                    f"{name} has the shape {state[name].shape}, the model's {path} is {leaf.shape}"
                )
        if len(values) > 1 and any(not np.array_equal(values[0], value) for value in values[1:]):
            problems.append(f"{path} differs between the layers (set model.untie_bias=True)")
        if values:
            params[path] = (
                values[0].reshape(leaf.shape) if values[0].size == leaf.size else values[0]
            )
    problems += [
        f"{name} {tuple(left[name].shape)} has no place in the model"
        for name in sorted(left.keys() - used)
    ]
    fitting.refuse(
        problems,
        "The arrays do",
        "Compare layers, widths, heads and vocabulary in their configuration with model.*.",
    )
    return traverse_util.unflatten_dict(params, sep="/")


def to_state_dict(
    params: Params, model: ConfigDict, layout: str = "huggingface"
) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`; scanned layers are unstacked.

    Args:
      params: unboxed.
      model: the configuration they belong to.
      layout: a name in LAYOUTS.

    Raises:
      UserError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise UserError(f"There is no XLNet layout '{layout}'; there are {' and '.join(LAYOUTS)}.")
    state: dict[str, np.ndarray] = {}
    stacked: dict[str, dict[int, np.ndarray]] = {}  # by layer
    for path, value in traverse_util.flatten_dict(vit.unstack_layers(params), sep="/").items():
        for name, index in _places(path, model, layout):
            part = _transposed(path, np.asarray(value), layout, back=True)
            part = part.reshape(1, 1, -1) if path == "mask_token" else part
            if index is None:
                state[name] = np.ascontiguousarray(part)
            else:
                stacked.setdefault(name, {})[index] = part
    for name, parts in stacked.items():
        state[name] = np.stack([parts[layer] for layer in range(model.num_layers)])
    return state | (
        {OUTPUT: state[TOP["word_embedding/embedding"][0]]} if layout == "huggingface" else {}
    )


def _places(path: str, model: ConfigDict, layout: str) -> Iterator[tuple[str, int | None]]:
    """Their names for one of our arrays, each with the layer's place on the leading axis of theirs
    (None: there is none).
    """
    number = LAYOUTS.index(layout)
    if path in TOP:
        yield TOP[path][number], None
    elif path in STACKED:  # shared by all layers
        if layout == "tensorflow":
            yield f"model/transformer/{STACKED[path][1]}", None
        else:
            for layer in range(model.num_layers):
                yield f"{_layer_prefix(layout)}{layer}.{STACKED[path][0]}", None
    else:
        _, name, rest = path.split("/", 2)  # blocks/layer_3/…
        layer, stacked = int(name.removeprefix("layer_")), rest.removeprefix("attention/")
        if stacked in STACKED and layout == "tensorflow":
            yield f"model/transformer/{STACKED[stacked][1]}", layer
        else:
            yield _name(rest, layer, layout), None


def _name(rest: str, layer: int, layout: str) -> str:
    """Their name of an array of a layer."""
    theirs = (LAYER[rest] if rest in LAYER else STACKED[rest.removeprefix("attention/")])[
        LAYOUTS.index(layout)
    ]
    return f"{_layer_prefix(layout)}{layer}{'.' if layout == 'huggingface' else '/'}{theirs}"


def _layer_prefix(layout: str) -> str:
    return "transformer.layer." if layout == "huggingface" else "model/transformer/layer_"


def _transposed(path: str, value: np.ndarray, layout: str, back: bool = False) -> np.ndarray:
    """Output projections lie as (embed, heads, kv) in both layouts; dense kernels as (outputs,
    inputs) in Hugging Face's.
    """
    if path.endswith("out/kernel") and "attention" in path and value.ndim == 3:
        return value.transpose(2, 0, 1) if back else value.transpose(1, 2, 0)
    if layout == "huggingface" and path.endswith(("mlp_in/kernel", "mlp_out/kernel")):
        return value.T
    return value

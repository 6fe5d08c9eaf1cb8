"""ELMo's weights <-> parameters of `ELMo`, in two layouts: bilm-tf's HDF5 file ("bilm") and
allennlp's state dict ("allennlp").

Written from lists of their names and shapes. Neither holds a softmax as its authors write it; ours
goes to the HDF5 file as `softmax/W` (vocab, projection) and `softmax/b`, which their readers pass
over, and a model from a file without one has a softmax of zeros: it has all features, and predicts
nothing until it is trained.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from phenomjax import config
from phenomjax.convert import fitting
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.models import elmo
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

LAYOUTS = ("bilm", "allennlp")
INFERRED = (
    "char_dim",
    "filters",
    "num_highway",
    "max_characters",
    "projection_dim",
    "cell_dim",
    "num_layers",
    "vocab_size",
)
TF_GATES = (0, 2, 1, 3)  # ours are i, f, g, o; TensorFlow's i, g, f, o
CELL = "RNN_{}/RNN/MultiRNNCell/Cell{}/LSTMCell/"
SOFTMAX = ("softmax/W", "softmax/b")


def layout_of(arrays: Mapping[str, np.ndarray]) -> str:
    """The layout of named arrays, which are of one."""
    return LAYOUTS[0] if "char_embed" in arrays else LAYOUTS[1]


def infer_model(arrays: Mapping[str, np.ndarray]) -> ConfigDict:
    """The `model` part of the configuration that weights of either layout fit.

    Clipping and skip connections cannot be seen in the shapes and have their published values, and
    the vocabulary is proteins, each between <bos> and <eos>.

    Raises:
      UserError: neither layout.
    """
    arrays = _as_bilm(arrays)
    model = config.base("bidirectional_lm").model
    model.alphabet, model.boundary = "protein", "bos_eos"
    known = "softmax/b" in arrays
    (model.vocab_size,) = (
        fitting.shape(arrays, "softmax/b", 1) if known else (len(vocabulary("protein")),)
    )
    count = lambda pattern: len([name for name in arrays if re.fullmatch(pattern, name)])  # noqa: E731
    _, model.char_dim = fitting.shape(arrays, "char_embed", 2)
    model.num_highway = count(r"CNN_high_\d+/b_carry")
    shapes = [fitting.shape(arrays, f"CNN/W_cnn_{k}", 4) for k in range(count(r"CNN/W_cnn_\d+"))]
    model.filters = tuple((shape[1], shape[3]) for shape in shapes)
    model.max_characters = 3 + max(shape[1] for shape in shapes)
    model.cell_dim, model.projection_dim = fitting.shape(arrays, CELL.format(0, 0) + "W_P_0", 2)
    model.num_layers = count(CELL.format(0, r"\d+") + "B")
    return model


def abstract_params(model: ConfigDict) -> Params:
    """Names and shapes of a model's parameters, unboxed."""
    tokens = vocabulary(model.alphabet or "protein").tokens
    module = elmo.build(model, tokens, jnp.dtype(jnp.float32))
    state = elmo.initial_state(1, model.num_layers, model.cell_dim, model.projection_dim)
    init = lambda key: module.init(key, jnp.zeros((1, elmo.DIRECTIONS, 1), jnp.int32), state)[  # noqa: E731
        "params"
    ]
    return nn.unbox(jax.eval_shape(init, jax.random.key(0)))


def from_state_dict(arrays: Mapping[str, np.ndarray], model: ConfigDict) -> Params:
    """Parameters of `ELMo`, unboxed, from weights of either layout.

    Args:
      arrays: by their names.
      model: what they must fit; `infer_model(arrays)` gives one.

    Raises:
      UserError: neither layout; or names or shapes that differ, each with both sides.
    """
    arrays = {name: np.asarray(x, np.float32) for name, x in _as_bilm(arrays).items()}
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), abstract_params(model))
    expected = {name: x.shape for name, x in to_state_dict(zeros, model, "bilm").items()}
    if not any(name in arrays for name in SOFTMAX):
        arrays |= {name: np.zeros(expected[name], np.float32) for name in SOFTMAX}
    problems = [f"{name} is missing" for name in expected if name not in arrays]
    problems += [
        f"{name} has the shape {x.shape}, the model's is {expected[name]}"
        for name, x in arrays.items()
        if name in expected and x.shape != expected[name]
    ]
    problems += [
        f"{name} {x.shape} has no place in the model"
        for name, x in arrays.items()
        if name not in expected
    ]
    fitting.refuse(
        problems,
        "The weights (names as in bilm-tf's file) do",
        "Compare filters, num_highway, projection_dim, cell_dim, num_layers and vocab_size of its"
        " configuration with model.*.",
    )
    width, cells = model.projection_dim, model.cell_dim
    flat = {
        "token_encoder/embedding": arrays["char_embed"],
        "token_encoder/projection/kernel": arrays["CNN_proj/W_proj"],
        "token_encoder/projection/bias": arrays["CNN_proj/b_proj"],
        "softmax/kernel": arrays["softmax/W"].T,
        "softmax/bias": arrays["softmax/b"],
    }
    for k in range(len(model.filters)):
        flat[f"token_encoder/filter_{k}/kernel"] = arrays[f"CNN/W_cnn_{k}"][0]
        flat[f"token_encoder/filter_{k}/bias"] = arrays[f"CNN/b_cnn_{k}"]
    for k in range(model.num_highway):
        for part in ("carry", "transform"):
            flat[f"token_encoder/highway_{k}_{part}/kernel"] = arrays[f"CNN_high_{k}/W_{part}"]
            flat[f"token_encoder/highway_{k}_{part}/bias"] = arrays[f"CNN_high_{k}/b_{part}"]
    for layer in range(model.num_layers):
        kernels, biases, projections = (
            np.stack([arrays[CELL.format(d, layer) + name] for d in range(elmo.DIRECTIONS)])
            for name in ("W_0", "B", "W_P_0")
        )
        kernels = kernels.reshape(elmo.DIRECTIONS, 2 * width, 4, cells)[:, :, TF_GATES]
        flat[f"layer_{layer}/input/kernel"], flat[f"layer_{layer}/state/kernel"] = (
            kernels[:, :width],
            kernels[:, width:],
        )
        flat[f"layer_{layer}/bias"] = biases.reshape(elmo.DIRECTIONS, 4, cells)[:, TF_GATES]
        flat[f"layer_{layer}/projection/kernel"] = projections
    return traverse_util.unflatten_dict(
        {name: np.ascontiguousarray(x) for name, x in flat.items()}, sep="/"
    )


def to_state_dict(params: Params, model: ConfigDict, layout: str = "bilm") -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`.

    Args:
      params: unboxed.
      model: the configuration they belong to.
      layout: "bilm", for an HDF5 file; or "allennlp", whose forget bias has the 1 in it that is
        ours to add, rounded to float32 as its own reader rounds it, and which has no softmax.
    """
    if layout not in LAYOUTS:
        raise UserError(
            f"There is no layout {layout!r} of ELMo's weights; it can be {' or '.join(LAYOUTS)}."
        )
    flat = {name: np.asarray(x) for name, x in traverse_util.flatten_dict(params, sep="/").items()}
    arrays = {
        "char_embed": flat["token_encoder/embedding"],
        "CNN_proj/W_proj": flat["token_encoder/projection/kernel"],
        "CNN_proj/b_proj": flat["token_encoder/projection/bias"],
        "softmax/W": flat["softmax/kernel"].T,
        "softmax/b": flat["softmax/bias"],
    }
    for k in range(len(model.filters)):
        arrays[f"CNN/W_cnn_{k}"] = flat[f"token_encoder/filter_{k}/kernel"][None]
        arrays[f"CNN/b_cnn_{k}"] = flat[f"token_encoder/filter_{k}/bias"]
    for k in range(model.num_highway):
        for part in ("carry", "transform"):
            arrays[f"CNN_high_{k}/W_{part}"] = flat[f"token_encoder/highway_{k}_{part}/kernel"]
            arrays[f"CNN_high_{k}/b_{part}"] = flat[f"token_encoder/highway_{k}_{part}/bias"]
    for layer in range(model.num_layers):
        kernels = np.concatenate(
            [flat[f"layer_{layer}/{name}/kernel"] for name in ("input", "state")], 1
        )
        for d in range(elmo.DIRECTIONS):
            arrays[CELL.format(d, layer) + "W_0"] = kernels[d][:, TF_GATES].reshape(
                2 * model.projection_dim, -1
            )
            arrays[CELL.format(d, layer) + "B"] = flat[f"layer_{layer}/bias"][d][
                TF_GATES, :
            ].reshape(-1)
            arrays[CELL.format(d, layer) + "W_P_0"] = flat[f"layer_{layer}/projection/kernel"][d]
    arrays = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
    return arrays if layout == "bilm" else _to_allennlp(arrays)


def _as_bilm(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of either layout by bilm-tf's names."""
    if "char_embed" in arrays:
        bilm = dict(arrays)
    elif known := [
        name for name in arrays if name.endswith("_token_embedder._char_embedding_weights")
    ]:
        bilm = _from_allennlp(
            arrays, known[0].removesuffix("_token_embedder._char_embedding_weights")
        )
    else:
        bilm = {}
    needed = ("char_embed", "CNN/W_cnn_0", CELL.format(0, 0) + "W_P_0")
    if missing := [name for name in needed if name not in bilm]:
        some = ", ".join(sorted(arrays)[:4])
        raise UserError(
            f"These are not ELMo's weights: there is no {missing[0]} (first names: {some}). The"
            " converter reads the HDF5 file that bilm-tf writes, and the state dict of allennlp's"
            " _ElmoBiLm, of models with a character CNN."
        )
    return bilm


def _to_allennlp(bilm: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    embedder, state = "_token_embedder.", {}
    table = bilm["char_embed"]
    state[embedder + "_char_embedding_weights"] = np.concatenate(
        [np.zeros((1, table.shape[1]), np.float32), table]
    )
    for name, x in bilm.items():
        if match := re.fullmatch(r"CNN/(W|b)_cnn_(\d+)", name):
            kind = {"W": "weight", "b": "bias"}[match[1]]
            state[f"{embedder}char_conv_{match[2]}.{kind}"] = (
                x[0].transpose(2, 1, 0) if kind == "weight" else x
            )
        elif match := re.fullmatch(r"CNN_high_(\d+)/(W|b)_transform", name):
            # Theirs is g x + (1 - g) f(x): the carry gate is negated.
            pair = np.concatenate([x.T, -bilm[name.replace("transform", "carry")].T])
            state[
                f"{embedder}_highways._layers.{match[1]}.{'weight' if match[2] == 'W' else 'bias'}"
            ] = pair
        elif match := re.fullmatch(r"CNN_proj/(W|b)_proj", name):
            state[f"{embedder}_projection.{'weight' if match[1] == 'W' else 'bias'}"] = x.T
        elif match := re.fullmatch(CELL.format(r"(\d)", r"(\d+)") + "(W_0|B|W_P_0)", name):
            module = f"_elmo_lstm.{('forward', 'backward')[int(match[1])]}_layer_{match[2]}."
            if match[3] == "W_P_0":
                state[module + "state_projection.weight"] = x.T
                continue
            gates = x.reshape(*x.shape[:-1], 4, -1)[..., TF_GATES, :].copy()
            if match[3] == "B":
                gates[1] += np.float32(elmo.FORGET_BIAS)
                state[module + "state_linearity.bias"] = gates.reshape(-1)
            else:
                rows, inputs = (
                    gates.reshape(len(gates), -1).T,
                    bilm[name.replace("W_0", "W_P_0")].shape[1],
                )
                state[module + "input_linearity.weight"] = rows[:, :inputs]
                state[module + "state_linearity.weight"] = rows[:, inputs:]
    return {name: np.ascontiguousarray(x) for name, x in state.items()}


def _from_allennlp(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """What has no place keeps its name, and is refused later; the weights of layer mixtures are not
    the model's and left out.
    """
    bilm: dict[str, np.ndarray] = {}
    for full, x in state.items():
        name, x = full.removeprefix(prefix), np.asarray(x, np.float32)
        if match := re.fullmatch(r"_token_embedder\.char_conv_(\d+)\.(weight|bias)", name):
            weight = match[2] == "weight"
            bilm[f"CNN/{'W' if weight else 'b'}_cnn_{match[1]}"] = (
                x.transpose(2, 1, 0)[None] if weight else x
            )
        elif match := re.fullmatch(
            r"_token_embedder\._highways\._layers\.(\d+)\.(weight|bias)", name
        ):
            transform, carry = np.split(x, 2)
            kind = "W" if match[2] == "weight" else "b"
            (
                bilm[f"CNN_high_{match[1]}/{kind}_transform"],
                bilm[f"CNN_high_{match[1]}/{kind}_carry"],
            ) = (
                transform.T,
                -carry.T,
            )
        elif match := re.fullmatch(r"_token_embedder\._projection\.(weight|bias)", name):
            bilm[f"CNN_proj/{'W' if match[1] == 'weight' else 'b'}_proj"] = x.T
        elif match := re.fullmatch(
            r"_elmo_lstm\.(forward|backward)_layer_(\d+)\.(\w+)\.(weight|bias)", name
        ):
            cell = CELL.format(("forward", "backward").index(match[1]), match[2])
            if match[3] == "state_projection":
                bilm[cell + "W_P_0"] = x.T
            elif match[4] == "bias":
                gates = x.reshape(4, -1).copy()
                gates[1] -= np.float32(elmo.FORGET_BIAS)
                bilm[cell + "B"] = gates[TF_GATES, :].reshape(-1)
            elif match[3] == "input_linearity":
                both = np.concatenate(
                    [x, state[full.replace("input_linearity", "state_linearity")]], 1
                ).T
                bilm[cell + "W_0"] = both.reshape(len(both), 4, -1)[:, TF_GATES].reshape(
                    len(both), -1
                )
        elif name == "_token_embedder._char_embedding_weights":
            bilm["char_embed"] = x[1:]  # the first is of the mask
        elif "scalar_mix" not in name:
            bilm[full] = x
    return bilm

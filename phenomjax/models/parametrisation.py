"""How first values and learning rates of parameters follow the width and depth of a model.

"standard" does not. Under "mup", the maximal update parametrisation (Yang et al. 2022,
https://arxiv.org/abs/2203.03466, table 3 for Adam), the learning rate that is best at a small width
is best at a large one, and so are the other settings of the optimiser. "complete_p" (Dey et al.
2025, https://arxiv.org/abs/2505.01618, with alpha = 1) does the same for the depth of a pre-norm
transformer. A family of models has all its widths in proportion (embedding, MLP and the number of
heads, whose size stays), and is "standard" at the width `base_width` and the depth `base_depth`.

With n = the width over that of the base, a kernel whose inputs are r_in times and outputs r_out
times as many as in the base (n, or 1 for what does not grow: patches, tokens, classes) has

  a learning rate of 1 / r_in,
  a standard deviation at first of min(1, (r_out / r_in)^(1/2)) / r_in^(1/2) that of the base,

and everything else, a vector or an embedding, is as in the base. Where the softmax is tied to the
embedding its logits are divided by n, and embeddings are multiplied as in the base; nothing else
changes in the forward pass. With d = the depth over that of the base, complete_p makes the branches
of a residual 1 / d times as large: the first value and the learning rate of what ends a branch, its
LayerScale or last layer, are divided by d, which is the same for Adam and Lion, whose updates do
not know the scale of a gradient. Adam's epsilon, which is compared with gradients, is divided by n
and d. The decay of weights, rate x weight_decay, stays.
"""

import re
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from phenomjax.models.parameter_names import name_of
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

# (name of a kernel, what its inputs grow with, its outputs): "width" of the model, "decoder", the
# width of that, or "": with nothing. The neck of a classifier has one width in the whole family.
KERNELS = (
    (r"encoder/patch_embed/kernel", "", "width"),
    (r"(encoder/)?blocks/.*kernel", "width", "width"),
    (r"decoder/embed/kernel", "width", "decoder"),
    (r"decoder/(blocks|channel_blocks|cross_attention|mlp)/.*kernel", "decoder", "decoder"),
    (r"decoder/predict/kernel", "decoder", ""),
    (r"neck/dense_0/kernel", "width", ""),
    (r"neck/dense_1/kernel", "", ""),
    (r"head/.*kernel", "embedding", ""),
    (r"vocabulary/(bin_\d+|head)_kernel", "width", "width"),
    # logits of clusters, beside those of tokens
    (r"vocabulary/cluster_kernel", "", ""),
)
# Its heads are wider in a wider model, and not more: scores, of queries and keys that come to point
# the same way, would grow with the root of that.
WIDER_HEADS = "decoder/cross_attention/query/kernel"
LAYER_SCALE = r".*blocks/.*gamma"
LAST_LAYER = r".*blocks/.*\b(mlp_)?out/(kernel|bias)"


class Multipliers(NamedTuple):
    """Of a parameter: its first value's, beside what the modules draw, and its learning rate's."""

    init: float
    rate: float


def kind_of(model: ConfigDict) -> str:
    """The parametrisation; "standard" of models that have no key for it."""
    return str(model.parametrisation) if "parametrisation" in model else "standard"


def width_ratio(model: ConfigDict) -> float:
    """n: the width over that of the base; 1 for a model that is its own base."""
    return _ratios(model)["width"]


def logit_scale(model: ConfigDict) -> float:
    """What logits of a softmax that is tied to the embedding are multiplied with: 1 / n."""
    return 1.0 / width_ratio(model)


def embedding_scale(model: ConfigDict) -> float:
    """Transformer-XL's sqrt(embed), which is that of the base."""
    return (model.embed_dim / width_ratio(model)) ** 0.5


def scales(model: ConfigDict) -> float:
    """1 / n where the forward pass knows it; 1 where parameters say all that a model computes."""
    return logit_scale(model) if "init_std" in model else 1.0


def epsilon_scale(model: ConfigDict) -> float:
    """What Adam's epsilon is multiplied with."""
    return 1.0 / (width_ratio(model) * _depths(model)[0])


def initialised(params: Params, model: ConfigDict) -> Params:
    """Fresh parameters, boxed or not, as the parametrisation has them."""
    if _is_base(model):
        return params
    return jax.tree.map_with_path(
        lambda path, x: _times(x, multipliers(name_of(path), x.shape, model).init), params
    )


def updates(tree: Params, model: ConfigDict) -> Params:
    """Updates of the parameters, times the multipliers of their learning rates."""
    if _is_base(model):
        return tree
    return jax.tree.map_with_path(
        lambda path, x: _times(x, multipliers(name_of(path), x.shape, model).rate), tree
    )


def multipliers(name: str, shape: tuple[int, ...], model: ConfigDict) -> Multipliers:
    """Of the parameter of a name and shape.

    Raises:
      UserError: a kernel that no rule, or more than one, covers.
    """
    init = rate = 1.0
    if name.endswith("kernel"):
        ratios, (grows_in, grows_out) = _ratios(model), _growth(name, model)
        r_in, r_out = ratios[grows_in], ratios[grows_out]
        init, rate = min(1.0, (r_out / r_in) ** 0.5) / r_in**0.5, 1.0 / r_in
        if "init_std" not in model:  # Glorot's, which has taken width into account its own way
            inputs, outputs = shape[-2:] if r_in != r_out else (1, 1)
            init *= ((inputs + outputs) / (inputs / r_in + outputs / r_out)) ** 0.5
    if name == WIDER_HEADS:
        init, rate = init / r_in**0.5, rate / r_in**0.5
    decoder = name.startswith("decoder/")
    scaled = not decoder and "layer_scale" in model and model.layer_scale
    if re.fullmatch(LAYER_SCALE if scaled else LAST_LAYER, name):
        depth = _depths(model)[decoder]
        init, rate = init / depth, rate / depth
    return Multipliers(init, rate)


def folded(params: Params, model: ConfigDict) -> Params:
    """Parameters that a "standard" model computes the same with; the last layer's features, where
    logits are divided, are divided too.

    Args:
      params: unboxed.
      model: what they were trained as.

    Raises:
      UserError: there are none.
    """
    if scales(model) == 1.0:
        return params
    ratio = width_ratio(model)
    if "norm" in model and model.norm == "pre":
        raise UserError(
            f"A model of config.model.parametrisation '{model.parametrisation}' divides its logits"
            f" by {ratio:g}, for which other programs have no place. Where norms come last"
            " (config.model.norm 'post') the last one takes it up; this model has norm 'pre', and"
            " none at its end. It can be exported as a graph, by `python -m phenomjax.export"
            " --format stablehlo`."
        )
    # Embeddings are e / a and the last hidden state is h a / n.
    a = ratio**0.5 if "div_val" in model else 1.0
    last = model.num_layers - 1

    def divided(path: jax.tree_util.KeyPath, x: np.ndarray) -> np.ndarray:
        name = name_of(path)
        factor = np.ones(())
        if re.fullmatch(r"vocabulary/(bin_\d+_embedding|cluster_kernel)", name):
            factor = np.asarray(1.0 / a)
        elif re.fullmatch(rf"blocks/layer_{last}/mlp_norm/(scale|bias)", name):
            factor = np.asarray(a / ratio)
        elif re.fullmatch(r"blocks/layers/mlp_norm/(scale|bias)", name):
            factor = np.where(np.arange(last + 1) == last, a / ratio, 1.0)[:, None]
        return np.asarray(x * factor, x.dtype)

    return jax.tree.map_with_path(divided, params)


def plain(model: ConfigDict) -> dict[str, Any]:
    """Settings of a "standard" model, for parameters that are `folded`."""
    keys = "base_width", "base_depth", "decoder_base_width", "decoder_base_depth"
    found: dict[str, Any] = {key: 0 for key in keys if key in model}
    return {"parametrisation": "standard", **found} if "parametrisation" in model else {}


def _growth(name: str, model: ConfigDict) -> tuple[str, str]:
    found = [(r_in, r_out) for pattern, r_in, r_out in KERNELS if re.fullmatch(pattern, name)]
    if len(found) != 1:
        raise UserError(
            f"config.model.parametrisation is '{model.parametrisation}', and {name} matches"
            f" {len(found)} of its rules instead of one; see KERNELS in"
            " phenomjax/models/parametrisation.py. Set --config.model.parametrisation=standard."
        )
    return found[0]


def _is_base(model: ConfigDict) -> bool:
    return {*_ratios(model).values(), *_depths(model)} == {1.0}


def _ratios(model: ConfigDict) -> dict[str, float]:
    """How many times its width in the base everything that grows has."""
    width = decoder = 1.0
    if kind_of(model) != "standard":
        width = model.embed_dim / (model.base_width or model.embed_dim)
        own = "decoder_base_width" in model and model.decoder_base_width
        decoder = model.decoder_dim / model.decoder_base_width if own else width
    embedding = 1.0 if "neck_dim" in model and model.neck_dim else width
    return {"": 1.0, "width": width, "decoder": decoder, "embedding": embedding}


def _depths(model: ConfigDict) -> tuple[float, float]:
    """Likewise depth: of the encoder (or the only stack), and of the decoder."""
    if kind_of(model) != "complete_p":
        return 1.0, 1.0
    layers = model.depth if "depth" in model else model.num_layers
    depth = layers / (model.base_depth or layers)
    own = "decoder_base_depth" in model and model.decoder_base_depth
    return depth, model.decoder_depth / model.decoder_base_depth if own else depth


def _times(x: jax.Array, multiplier: float) -> jax.Array:
    return x if multiplier == 1.0 else x * multiplier

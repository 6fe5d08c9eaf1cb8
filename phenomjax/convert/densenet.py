"""torchvision's state dict of a DenseNet (`features.…`, `classifier.…`) <-> variables of a
`Classifier`.

Without a neck (`neck_dim` 0) and ArcFace the names are all torchvision's, and its module loads
them. A neck is `neck.0` to `neck.5`, as of `Sequential(BatchNorm1d, Linear, ReLU, BatchNorm1d,
Linear, BatchNorm1d)`, and `arcface.weight` has a row for each class. A ViT in the place of the
DenseNet has OpenPhenom's names.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from phenomjax import config as config_lib
from phenomjax.convert import fitting, openphenom
from phenomjax.models import classifier
from phenomjax.models.batch_norm import RUNNING
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

LAYOUTS = ("torchvision",)
INFERRED = ("block_config", "growth_rate", "stem_features", "neck_dim")
STEM = "features.conv0.weight"
VIT = ("encoder/", "norm/")  # our parameters of a ViT
RGB = 3  # channels of a stem that can be stretched to others
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
STATISTICS = {"mean": "running_mean", "var": "running_var"}
NECK = {"norm_0": "0", "dense_0": "1", "norm_1": "3", "dense_1": "4", "norm_2": "5"}
# of layers before the neck's last norm, which takes them away again: ours have none
BIASES = ("neck.3.bias", "neck.4.bias")
COUNTER = "num_batches_tracked"  # of torch's batch norms, which nothing here reads


def layout_of(arrays: Mapping[str, np.ndarray]) -> str:
    """The layout that arrays have."""
    return LAYOUTS[0]


def plain(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict under its newest names: without what stands before all of them (`module.` of
    DataParallel), `norm1` where torchvision once wrote `norm.1`, and without counters.

    Raises:
      UserError: it is no DenseNet's.
    """
    ends = [name for name in state if name == STEM or name.endswith(f".{STEM}")]
    if len(ends) != 1:
        some = ", ".join(sorted(state)[:4])
        raise UserError(
            f"This is not torchvision's layout of a DenseNet: it has no {STEM} (its first names:"
            f" {some}). Convert the state dict of the whole model, classifier included."
        )
    before = ends[0].removesuffix(STEM)
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name.removeprefix(before)): x
        for name, x in state.items()
        if not name.endswith(COUNTER)
    }


def infer_model(state: Mapping[str, np.ndarray]) -> ConfigDict:
    """The `model` part of the configuration that a state dict fits; classes and channels are
    numbered.

    Raises:
      UserError: not this layout.
    """
    state = plain(state)
    model = config_lib.base("perturbation").model
    model.backbone = "densenet"
    blocks = fitting.count(
        (name for name in state if name.startswith("features.denseblock")), "features"
    )
    model.block_config = tuple(
        fitting.count(state, f"features.denseblock{number}") for number in range(1, blocks + 1)
    )
    model.stem_features, channels, *_ = fitting.shape(state, STEM, 4)
    layer = "features.denseblock1.denselayer1"
    model.growth_rate = fitting.shape(state, f"{layer}.conv2.weight", 4)[0]
    model.neck_dim = 0
    if "neck.4.weight" in state:
        model.neck_dim = fitting.shape(state, "neck.4.weight", 2)[0]
    heads = [name for name in ("classifier.weight", "arcface.weight") if name in state]
    classes, width = fitting.shape(state, heads[0] if heads else "classifier.weight", 2)
    model.arcface_weight = {1: 0.0, 2: 0.5}[len(heads)] if "classifier.weight" in heads else 1.0
    model.classes = tuple(f"class_{number}" for number in range(classes))
    model.channels = tuple(f"c{number}" for number in range(channels))
    if not model.neck_dim and width != classifier.pooled_dim(model):
        raise UserError(
            f"{heads[0]} takes {width} numbers in, and this DenseNet has"
            f" {classifier.pooled_dim(model)} features: something stands between them, or beside"
            " them, that torchvision's DenseNet does not have. These weights cannot be used here."
        )
    return model


def abstract_variables(model: ConfigDict) -> Params:
    """Names and shapes of all parameters and statistics of a model, unrolled and unboxed; the
    statistics under "batch_stats".
    """
    unrolled = ConfigDict({**model.to_dict(), "scan_layers": False, "remat": "none"})
    module = classifier.build(unrolled, jnp.dtype(jnp.float32))
    size = 4 * model.patch_size if model.backbone == "vit" else 64
    images = jnp.zeros((1, size, size, len(model.channels)))
    cells = jnp.zeros((1, len(model.cell_types))) if model.cell_type else None
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), images, cells))
    return {**shapes["params"], RUNNING: shapes.get(RUNNING, {})}


def from_state_dict(state: Mapping[str, np.ndarray], model: ConfigDict) -> Params:
    """Parameters and statistics of a model from a state dict.

    A stem of three channels is stretched to those of the model: each of C channels gets 3 / C times
    the mean of the three kernels, so that an image whose channels are all alike has the same
    features as before.

    Args:
      state: arrays by their names.
      model: what they must fit; `infer_model(state)` gives one.

    Raises:
      UserError: names or shapes that differ, each with both sides.
    """
    left = plain(state) if model.backbone == "densenet" else dict(state)
    left, count = _without_biases(left), len(model.channels)
    if STEM in left and left[STEM].ndim == 4 and left[STEM].shape[1] == RGB != count:
        left[STEM] = stretched(np.asarray(left[STEM], np.float32), count)
    shapes = traverse_util.flatten_dict(abstract_variables(model), sep="/")
    of_vit = {path: shapes.pop(path) for path in [*shapes] if path.startswith(VIT)}
    found, problems = openphenom.taken(left, of_vit, model)
    for path, leaf in shapes.items():
        name = their_name(path)
        if name not in left:
            problems.append(f"{name} is missing")
            continue
        value = to_ours(np.asarray(left.pop(name), np.float32))
        if value.shape != leaf.shape:
            problems.append(f"{name} has the shape {value.shape}, the model's is {leaf.shape}")
        found[path] = value
    fitting.refuse(
        problems + fitting.without_place({n: x for n, x in left.items() if COUNTER not in n}),
        "The state dict does",
        "Compare layers, widths, channels and classes in its configuration with model.*.",
    )
    return traverse_util.unflatten_dict(found, sep="/")


def to_state_dict(params: Params, model: ConfigDict, layout: str = "") -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`, with what torch's modules have beside: counters of batches
    and the neck's biases, which are 0. Scanned layers of a ViT are unstacked.
    """
    of_vit = {name: tree for name, tree in params.items() if f"{name}/" in VIT}
    state = openphenom.to_state_dict(of_vit, model)
    rest = {name: tree for name, tree in params.items() if name not in of_vit}
    for path, value in traverse_util.flatten_dict(rest, sep="/").items():
        name = their_name(path)
        state[name] = to_theirs(np.asarray(value))
        if name.endswith("running_var"):
            state[name.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    if "neck" in params:
        zeros = np.zeros_like(state["neck.5.bias"])
        state |= dict.fromkeys(BIASES, zeros)
    return state


def _without_biases(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The neck's last running mean takes up what is before it and adds the same to all rows."""
    if not all(name in state for name in (*BIASES, "neck.4.weight", "neck.5.running_mean")):
        return state
    of_norm, of_dense = (np.asarray(state.pop(name), np.float32) for name in BIASES)
    added = np.asarray(state["neck.4.weight"], np.float32) @ of_norm + of_dense
    return state | {"neck.5.running_mean": state["neck.5.running_mean"] - added}


def stretched(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A stem's kernel (out, 3, y, x) for other channels; see `from_state_dict`."""
    mean = kernel.mean(1, keepdims=True) * (kernel.shape[1] / channels)
    return np.repeat(mean, channels, 1)


def their_name(path: str) -> str:
    """Their name for one of our arrays outside of a ViT."""
    *modules, leaf = path.removeprefix(f"{RUNNING}/").split("/")
    if modules[0] == "head":
        return {"arcface_kernel": "arcface.weight"}.get(leaf, f"classifier.{LEAVES.get(leaf)}")
    leaf = (STATISTICS if path.startswith(f"{RUNNING}/") else LEAVES)[leaf]
    if modules[0] == "neck":
        return f"neck.{NECK[modules[1]]}.{leaf}"
    name = ".".join(["features", *modules[1:]])
    name = re.sub(r"block(\d+)_layer(\d+)", r"denseblock\1.denselayer\2", name)
    return re.sub(r"(transition\d+)_", r"\1.", name) + f".{leaf}"


def to_ours(value: np.ndarray) -> np.ndarray:
    """A kernel (out, in, y, x) to (y, x, in, out), a matrix (out, in) to (in, out)."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def to_theirs(value: np.ndarray) -> np.ndarray:
    """The inverse of `to_ours`."""
    return np.ascontiguousarray(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T)

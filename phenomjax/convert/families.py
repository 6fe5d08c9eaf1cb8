"""The models whose weights can be converted, and from parameters to names of other projects."""

import types

import numpy as np
from ml_collections import ConfigDict

from phenomjax.convert import densenet, elmo, openphenom, transformer_xl, xlnet
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

# name: (task, layouts)
LANGUAGE_MODELS: dict[str, tuple[str, types.ModuleType]] = {
    "transformer_xl": ("causal_lm", transformer_xl),
    "xlnet": ("permutation_lm", xlnet),
    "elmo": ("bidirectional_lm", elmo),
}
# likewise, of all whose modules have the same functions
MODELS = {"densenet": ("perturbation", densenet), **LANGUAGE_MODELS}
LAYOUTS = {"openphenom": ("openphenom",)} | {
    name: tuple(module.LAYOUTS) for name, (_, module) in MODELS.items()
}
TASKS = {"openphenom": "mae"} | {name: task for name, (task, _) in MODELS.items()}


def to_theirs(name: str, layout: str, config: ConfigDict, params: Params) -> dict[str, np.ndarray]:
    """Parameters of a run under the names of a layout."""
    if name == "openphenom":
        grid = config.data.crop_size // config.model.patch_size
        return openphenom.to_state_dict(params, config.model, grid)
    if name == "densenet" and config.model.backbone != "densenet":
        raise UserError(
            f"The run has model.backbone={config.model.backbone}, which is no DenseNet. Its weights"
            " are written by `python -m phenomjax.export --format safetensors`."
        )
    return MODELS[name][1].to_state_dict(params, config.model, layout)


def vocabulary_paths(name: str, model: ConfigDict) -> tuple[str, ...]:
    """Parameters whose first axis is the vocabulary."""
    if name == "transformer_xl" and not model.cutoffs:
        return "vocabulary/bin_0_embedding", "vocabulary/bin_0_bias"
    if name == "xlnet":
        return "word_embedding/embedding", "output_bias"
    raise UserError(
        "`vocabulary` renumbers a Transformer-XL without adaptive softmax, or an XLNet; clusters"
        " keep their order, and ELMo reads letters."
    )

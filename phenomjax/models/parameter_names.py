"""Parameters by their names: which ones patterns describe, how far from the input each is, and what
is frozen.
"""

import re
from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from phenomjax.system.errors import UserError, did_you_mean, first_of
from phenomjax.system.types import Params

# What comes before the layers of a model, and the layers: one by one, or stacked on an axis. All
# else (last norms, necks, heads, decoders) comes behind them.
INPUTS = re.compile(
    r"(encoder/(patch_embed|cls_token)|vocabulary|word_embedding|mask_token|token_encoder"
    r"|backbone/(conv0|norm0))\b.*"
)
LAYER = re.compile(r"(?:encoder/)?(?:blocks/)?layer_(\d+)/.*")
STACK = re.compile(r"(?:encoder/)?blocks/layers/.*")
DENSE_BLOCK = re.compile(r"backbone/(?:block|transition)(\d+)_.*")


def name_of(path: jax.tree_util.KeyPath) -> str:
    """A parameter's name, such as encoder/norm/scale."""
    # Flax's box adds "value"
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def matching(patterns: Sequence[str], names: Sequence[str], key: str) -> set[str]:
    """The names that one of the patterns of a key describes as a whole.

    Raises:
      UserError: a pattern that is none, or describes no parameter.
    """
    parts = sorted({"/".join(name.split("/")[:-1][:2]) or name for name in names})
    examples = [f"{part}/.*" for part in parts]
    found: set[str] = set()
    for pattern in patterns:
        try:
            these = {name for name in names if re.fullmatch(pattern, name)}
        except re.error as error:
            raise UserError(
                f"config.{key} has '{pattern}', which is no regular expression ({error}). Write it"
                f" as in --config.{key}=\"('{examples[0]}',)\"."
            ) from None
        if not these:
            stacked = "layer_" in pattern and any("/layers/" in name for name in names)
            raise UserError(
                f"config.{key} has '{pattern}', which describes no parameter."
                f"{did_you_mean(pattern, examples)} Patterns are regular expressions of whole"
                f" names; this model has {first_of(examples, 12)}, and for instance"
                f" {sorted(names)[0]}."
                + " Its layers are stacked: --config.model.scan_layers=False gives each a name."
                * stacked
            )
        found |= these
    return found


def depth_of(model: ConfigDict) -> int:
    """Layers between the input and the head."""
    if "backbone" in model and model.backbone == "densenet":
        return len(model.block_config)
    return int(model.depth if "depth" in model else model.num_layers)


def place_of(name: str, model: ConfigDict) -> int | Float[np.ndarray, " layers"]:
    """How far from the input a parameter is: 0 before the layers, 1, 2, … in them, their number + 1
    behind them (as in BEiT, Bao et al. 2021, https://arxiv.org/abs/2106.08254); of a stack of
    layers the place of each.
    """
    if INPUTS.fullmatch(name):
        return 0
    if match := LAYER.fullmatch(name):
        return int(match[1]) + 1
    if STACK.fullmatch(name):
        return np.arange(1.0, depth_of(model) + 1)
    if match := DENSE_BLOCK.fullmatch(name):
        return int(match[1])
    return depth_of(model) + 1


# Frozen parameters


def divide(params: Params, freeze: Sequence[str]) -> tuple[Params, Params]:
    """(what is trained, what `freeze` describes) of parameters, boxed or not, each with None in
    place of the other.

    Raises:
      UserError: a pattern that describes no parameter, or nothing is left to train.
    """
    whole = lambda x: isinstance(x, nn.meta.AxisMetadata)  # noqa: E731
    leaves, tree = jax.tree.flatten_with_path(params, is_leaf=whole)
    names = [name_of(path) for path, _ in leaves]
    held = matching(freeze, names, "freeze") if freeze else set()
    if len(held) == len(names):
        raise UserError(
            f"config.freeze {tuple(freeze)} describes all {len(names)} parameters: nothing"
            " is left to train. Leave a part out, such as the head, or set"
            ' --config.freeze="()".'
        )
    sides = [
        [
            x if (name in held) == frozen else None
            for name, (_, x) in zip(names, leaves, strict=True)
        ]
        for frozen in (False, True)
    ]
    return tree.unflatten(sides[0]), tree.unflatten(sides[1])


def unite(trained: Params, held: Params) -> Params:
    """The parameters that `divide` divided."""
    return jax.tree.map(
        lambda x, y: y if x is None else x, trained, held, is_leaf=lambda x: x is None
    )

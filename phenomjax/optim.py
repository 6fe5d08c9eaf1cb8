"""Schedules and optimisers. Every parameter matches exactly one weight-decay rule, or the run does not start."""

import re
from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from phenomjax.errors import UserError

# (last part of the parameter's name, decayed?). Matrices are decayed; biases, norms, LayerScale and tokens are not.
DECAY_RULES = (
    (r"kernel", True),
    (r"bias|scale|gamma|cls_token|mask_token|channel_tokens", False),
)


def schedule(config: ConfigDict) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Learning rate as a function of the step (0-based).

    "one_cycle" rises by a cosine from peak / 25 over `warmup_fraction` of the run and falls by a cosine to peak / 250000 (Smith 2018,
    https://arxiv.org/abs/1708.07120, with the usual divisors); "warmup_cosine" rises linearly from 0 and falls to 0.
    """
    o, steps = config.optimizer, config.num_steps
    warmup = max(round(o.warmup_fraction * steps), 1)
    if o.schedule == "one_cycle":
        return optax.cosine_onecycle_schedule(
            max(steps, 2), o.learning_rate, pct_start=max(o.warmup_fraction, 1 / max(steps, 2))
        )
    if o.schedule == "warmup_cosine":
        return optax.warmup_cosine_decay_schedule(0.0, o.learning_rate, warmup, max(steps, warmup + 1))
    return optax.constant_schedule(o.learning_rate)


def decay_mask(params: object) -> object:
    """Tree of booleans: which parameters are decayed.

    Raises:
      UserError: a parameter that no rule, or more than one rule, covers.
    """

    def decayed(path: tuple, _: object) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")  # Flax's box adds "value"
        matches = [flag for pattern, flag in DECAY_RULES if re.fullmatch(pattern, name.split("/")[-1])]
        if len(matches) != 1:
            raise UserError(
                f"Parameter {name} matches {len(matches)} weight-decay rules instead of one; see DECAY_RULES in phenomjax/optim.py."
            )
        return matches[0]

    return jax.tree.map_with_path(decayed, params)


def make(config: ConfigDict) -> optax.GradientTransformation:
    """Builds clipping and optimiser: Lion (https://arxiv.org/abs/2302.06675) or AdamW with decoupled decay."""
    o, rate = config.optimizer, schedule(config)
    arguments = dict(b1=o.b1, b2=o.b2, weight_decay=o.weight_decay, mask=decay_mask)
    update = {"lion": optax.lion, "adamw": optax.adamw}[o.name](rate, **arguments)
    return optax.chain(optax.clip_by_global_norm(o.clip_norm), update) if o.clip_norm else optax.chain(update)

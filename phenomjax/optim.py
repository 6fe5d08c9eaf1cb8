"""Schedules and optimisers.

Every parameter matches exactly one weight-decay rule, or the run does not start.
"""

import re
from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from phenomjax.system.errors import UserError

# (last part of the parameter's name, decayed?). Matrices and embeddings are decayed; biases, norms,
# LayerScale and tokens are not.
DECAY_RULES = (
    (r".*kernel|.*embedding", True),
    (r".*bias|scale|gamma|cls_token|mask_token|channel_tokens", False),
)


def schedule(config: ConfigDict) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Learning rate as a function of the step (0-based).

    "one_cycle" rises by a cosine from peak / 25 over `warmup_fraction` of the run and falls by a
    cosine to peak / 250000 (Smith 2018, https://arxiv.org/abs/1708.07120, with the usual divisors);
    "warmup_cosine" and "warmup_linear" rise linearly from 0 and fall to `final_fraction` of the
    peak.
    """
    o, steps = config.optimizer, config.num_steps
    end = o.final_fraction * o.learning_rate
    warmup = max(round(o.warmup_fraction * steps), 1)
    if o.schedule == "one_cycle":
        return optax.cosine_onecycle_schedule(
            max(steps, 2), o.learning_rate, pct_start=max(o.warmup_fraction, 1 / max(steps, 2))
        )
    if o.schedule == "warmup_cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, o.learning_rate, warmup, max(steps, warmup + 1), end
        )
    if o.schedule == "warmup_linear":
        fall = optax.linear_schedule(o.learning_rate, end, max(steps - warmup, 1))
        return optax.join_schedules(
            [optax.linear_schedule(0.0, o.learning_rate, warmup), fall], [warmup]
        )
    return optax.constant_schedule(o.learning_rate)


def decay_mask(params: object) -> object:
    """Tree of booleans: which parameters are decayed.

    Raises:
      UserError: a parameter that no rule, or more than one rule, covers.
    """

    def decayed(path: tuple, _: object) -> bool:
        # Flax's box adds "value"
        name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        matches = [
            flag for pattern, flag in DECAY_RULES if re.fullmatch(pattern, name.split("/")[-1])
        ]
        if len(matches) != 1:
            raise UserError(
                f"Parameter {name} matches {len(matches)} weight-decay rules instead of one; see"
                " DECAY_RULES in phenomjax/optim.py."
            )
        return matches[0]

    return jax.tree.map_with_path(decayed, params)


def make(config: ConfigDict) -> optax.GradientTransformation:
    """Builds clipping and optimiser.

    Lion (https://arxiv.org/abs/2302.06675), AdamW, Adam (Kingma and Ba 2015), LAMB
    (https://arxiv.org/abs/1904.00962) or Adagrad (Duchi et al. 2011). Lion, AdamW and LAMB decay
    weights; Adam and Adagrad do not.
    """
    o, rate = config.optimizer, schedule(config)
    moments = {"b1": o.b1, "b2": o.b2}
    decay = {"weight_decay": o.weight_decay, "mask": decay_mask}
    update = {
        "lion": lambda: optax.lion(rate, **moments, **decay),
        "adamw": lambda: optax.adamw(rate, eps=o.eps, **moments, **decay),
        "adam": lambda: optax.adam(rate, eps=o.eps, **moments),
        "lamb": lambda: optax.lamb(rate, eps=o.eps, **moments, **decay),
        "adagrad": lambda: optax.adagrad(rate, o.initial_accumulator, o.eps),
    }[o.name]()
    return (
        optax.chain(optax.clip_by_global_norm(o.clip_norm), update)
        if o.clip_norm
        else optax.chain(update)
    )

"""Schedules and optimisers.

Every parameter matches exactly one weight-decay rule, or the run does not start.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from ml_collections import ConfigDict

from phenomjax.config import schedules
from phenomjax.models import parametrisation
from phenomjax.models.parameter_names import depth_of, name_of, place_of
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
    cosine to peak / 250000 (Smith 2018, https://arxiv.org/abs/1708.07120, with the usual divisors).
    All others rise linearly from 0, but "constant", which is the peak from the first step.
    "warmup_cosine" and "warmup_linear" fall from there to `final_fraction` of the peak;
    "warmup_constant" stays; "wsd" stays and falls at the end (warm-up, stable, decay; Hu et al.
    2024, https://arxiv.org/abs/2404.06395), by the root where that is its shape (Hägele et al.
    2024, https://arxiv.org/abs/2405.18392, equation 1). With `lr_find` it rises by a constant
    factor.
    """
    if config.lr_find:
        lowest, highest, steps = schedules.SEARCHED
        return lambda step: lowest * (highest / lowest) ** (jnp.asarray(step) / (steps - 1))
    own, first = _from_its_beginning(config), config.optimizer.schedule_from
    return (lambda step: own(jnp.maximum(step - first, 0))) if first else own


def _from_its_beginning(config: ConfigDict) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """`schedule` without `schedule_from`."""
    o, (steps, warmup, cooldown) = config.optimizer, schedules.lengths(config)
    end = o.final_fraction * o.learning_rate
    if o.schedule == "one_cycle":
        share = o.warmup_steps / steps if o.warmup_steps else o.warmup_fraction
        return optax.cosine_onecycle_schedule(
            max(steps, 2), o.learning_rate, pct_start=max(share, 1 / max(steps, 2))
        )
    if o.schedule == "warmup_cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, o.learning_rate, warmup, max(steps, warmup + 1), end
        )
    rise = optax.linear_schedule(0.0, o.learning_rate, warmup)
    if o.schedule == "warmup_linear":
        fall = optax.linear_schedule(o.learning_rate, end, max(steps - warmup, 1))
        return optax.join_schedules([rise, fall], [warmup])
    stay = optax.constant_schedule(o.learning_rate)
    if o.schedule == "warmup_constant":
        return optax.join_schedules([rise, stay], [warmup])
    if o.schedule == "wsd":

        def fall(step: jax.typing.ArrayLike) -> jax.Array:
            over = jnp.clip(step / max(cooldown, 1), 0.0, 1.0)
            left = {
                "linear": lambda: 1 - over,
                "sqrt": lambda: 1 - jnp.sqrt(over),
                "cosine": lambda: (1 + jnp.cos(jnp.pi * over)) / 2,
            }[o.cooldown_shape]()
            return end + (o.learning_rate - end) * left

        return optax.join_schedules([rise, stay, fall], [warmup, steps - cooldown])
    return stay


def decay_mask(params: object) -> object:
    """Tree of booleans: which parameters are decayed.

    Raises:
      UserError: a parameter that no rule, or more than one rule, covers.
    """

    def decayed(path: tuple, _: object) -> bool:
        name = name_of(path)
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
    weights; Adam and Adagrad do not. The learning rates of Lion, AdamW and Adam are those of
    `model.parametrisation`, which leaves the decay as it is. `layer_decay` is of the whole step,
    decay included.
    """
    o, model, rate = config.optimizer, config.model, schedule(config)
    moments = {"b1": o.b1, "b2": o.b2}
    decay = {"weight_decay": o.weight_decay, "mask": decay_mask}
    fall = optax.scale_by_learning_rate(rate)

    def lion() -> optax.GradientTransformation:
        return _by_size(optax.scale_by_lion(**moments), model)

    def adam() -> optax.GradientTransformation:
        eps = o.eps * parametrisation.epsilon_scale(model)
        return _by_size(optax.scale_by_adam(eps=eps, **moments), model)

    update = {
        "lion": lambda: optax.chain(lion(), optax.add_decayed_weights(**decay), fall),
        "adamw": lambda: optax.chain(adam(), optax.add_decayed_weights(**decay), fall),
        "adam": lambda: optax.chain(adam(), fall),
        "lamb": lambda: optax.lamb(rate, eps=o.eps, **moments, **decay),
        "adagrad": lambda: optax.adagrad(rate, o.initial_accumulator, o.eps),
    }[o.name]()
    parts = [optax.clip_by_global_norm(o.clip_norm)] * bool(o.clip_norm) + [update]
    return optax.chain(*parts, *[_by_layer(config)] * (o.layer_decay != 1.0))


def _by_size(
    inner: optax.GradientTransformation, model: ConfigDict
) -> optax.GradientTransformation:
    """A transformation with the learning rates of the parametrisation, and the same state."""

    def update(
        gradients: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        found, state = inner.update(gradients, state, params)
        return parametrisation.updates(found, model), state

    return optax.GradientTransformation(inner.init, update)


def layer_rate(name: str, config: ConfigDict) -> float | Float[np.ndarray, " layers"]:
    """What the learning rate of a parameter is multiplied with: layer_decay to the power of how
    many layers are between it and the head; of a stack of layers a number for each.
    """
    behind = depth_of(config.model) + 1
    return config.optimizer.layer_decay ** (behind - place_of(name, config.model))


def _by_layer(config: ConfigDict) -> optax.GradientTransformation:
    """Multiplies updates by `layer_rate`."""

    def scaled(path: tuple, x: jax.Array) -> jax.Array:
        rate = np.asarray(layer_rate(name_of(path), config), np.float32)
        return x * rate.reshape(-1, *[1] * (x.ndim - 1)) if rate.ndim else x * rate

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        return jax.tree.map_with_path(scaled, updates), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)

"""The untrained twin of a model: the same network with random parameters.

Whatever a trained model is better at than its twin, it has learnt. Published microscopy encoders
have been found on a par with theirs: a random network of convolutions or patches already measures
texture and brightness.
"""

import dataclasses
import logging
from pathlib import Path
from typing import TypeVar, cast

import flax.linen as nn
import jax
import numpy as np

from phenomjax.state import shared
from phenomjax.system.files import sha256_json
from phenomjax.system.types import Batch, Params
from phenomjax.tasks import Task
from phenomjax.tasks.image_objective import ImageObjective
from phenomjax.trained import opening
from phenomjax.trained.model import ImageModel, Trained, fingerprint

log = logging.getLogger("phenomjax")
TaskT = TypeVar("TaskT")


def random_twin(model: Trained[TaskT], seed: int = 0) -> Trained[TaskT]:
    """The same task and configuration with random parameters, as training would begin with them."""
    task = cast(Task, model.task)
    params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(seed), _batch(model)))
    params = {**params, **shared(task.carry(model.config.global_batch_size))}
    if isinstance(model.task, ImageObjective):
        params = jax.device_get(params)  # each runtime places them itself
        known = _fingerprint(model, params, seed)
    else:
        known = fingerprint(params)
    return dataclasses.replace(model, step=0, params=params, fingerprint=known, random_weights=seed)


def load_images(path: str | Path, dtype: str = "", random_weights: int | None = None) -> ImageModel:
    """`opening.load_images`, or the twin of what it loads.

    Args:
      path, dtype: of `opening.load_images`.
      random_weights: seed of the twin; None: the trained model.

    Raises:
      UserError: as `opening.load_images`.
    """
    model = opening.load_images(path, dtype)
    if random_weights is None:
        return model
    log.warning(
        "random weights, seed %d: the network of %s, untrained. The output says so",
        random_weights,
        model.path,
    )
    return random_twin(model, random_weights)


def _fingerprint(model: Trained[TaskT], params: Params, seed: int) -> str:
    """Of the network and the seed instead of the parameters' bits, in which processors differ: all
    machines that share a work know one twin.
    """
    shapes = {
        jax.tree_util.keystr(name): list(leaf.shape)
        for name, leaf in jax.tree.leaves_with_path(params)
    }
    network = model.config.model.to_dict() | {"dtype": ""}
    return sha256_json({"random_weights": seed, "model": network, "shapes": shapes})


def _batch(model: Trained[TaskT]) -> Batch:
    """One row to begin with; parameters depend on its shape alone."""
    if isinstance(model.task, ImageObjective):
        crop, channels = model.config.data.crop_size, len(model.config.model.channels)
        return {
            "pixels": np.zeros((1, crop, crop, channels), np.uint8),
            "channels": np.arange(channels, dtype=np.int32)[None],
        }
    return {"tokens": np.zeros((1, 10), np.uint8)}

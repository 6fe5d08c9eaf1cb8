"""Opens a workdir, a checkpoint or a release folder as a model ready to be used."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from phenomjax import tasks
from phenomjax.checkpoints import loading
from phenomjax.data import store
from phenomjax.system.errors import UserError
from phenomjax.tasks.image_objective import ImageObjective
from phenomjax.tasks.language_model import LanguageModel
from phenomjax.trained import release
from phenomjax.trained.model import ImageModel, SequenceModel, Trained, fingerprint

log = logging.getLogger("phenomjax")
Wanted = TypeVar("Wanted")


def load(path: str | Path, dtype: str = "") -> Trained[Any]:
    """Loads the newest checkpoint of a run, the one that is named, or a release, and says which.

    Args:
      path: workdir, WORKDIR/checkpoints/STEP, or a release folder (`phenomjax.export`).
      dtype: compute type instead of that of the run: "auto", "float32" or "bfloat16".

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    if not Path(path).exists():
        raise UserError(
            f"`checkpoint` {path} does not exist.{store.beside(path)} Give"
            " the workdir of a training run, or one of its checkpoints/STEP folders."
        )
    if (Path(path) / release.SUMS).is_file():
        return release.load(path, dtype)
    folder = loading.find(path)
    config, params, step = loading.load(folder)
    config.model.dtype = dtype or config.model.dtype
    log.info(
        "model: %s, %.1f M parameters, step %d of %s",
        config.task,
        sum(x.size for x in jax.tree.leaves(params)) / 1e6,
        step,
        folder,
    )
    return Trained(folder, step, config, tasks.make(config), params, fingerprint(params))


def load_images(path: str | Path, dtype: str = "") -> ImageModel:
    """`load` for a model that reads images.

    Raises:
      UserError: as `load`, or it reads no images, or cannot embed them.
    """
    mend = (
        "Give a run of mae or perturbation; sequences go to `python -m phenomjax.embed sequences`."
    )
    model = _load_for(path, dtype, ImageObjective, f"images. {mend}")
    model.task.embedding_dim  # noqa: B018  # a task from outside may have none
    return model


def load_sequences(path: str | Path, dtype: str = "") -> SequenceModel:
    """`load` for a model that reads sequences; its parameters are on the device.

    Raises:
      UserError: as `load`, or it is of no language model.
    """
    mend = "Give a run of causal_lm, permutation_lm or bidirectional_lm."
    model = _load_for(path, dtype, LanguageModel, f"sequences. {mend}")
    return dataclasses.replace(model, params=jax.device_put(model.params))


def check_predicts(model: SequenceModel) -> None:
    """Raises UserError for a model whose softmax is all zeros, as of an ELMo whose weights came
    without one: it would find every token equally likely.
    """
    softmax = model.params.get("softmax") if isinstance(model.params, Mapping) else None
    if softmax is not None and not any(leaf.any() for leaf in jax.tree.leaves(softmax)):
        raise UserError(
            f"`checkpoint` {model.path} has no softmax (its weights came from a file without one):"
            " it has features, and no likelihoods, and every variant would score 0. Embed with it,"
            " or train it first: --config.init_from of `python -m phenomjax.main`."
        )


def _load_for(path: str | Path, dtype: str, kind: type[Wanted], what: str) -> Trained[Wanted]:
    model = load(path, dtype)
    if not isinstance(model.task, kind):
        raise UserError(
            f"`checkpoint` {path} holds a model of task '{model.config.task}', which does not read"
            f" {what}"
        )
    return model

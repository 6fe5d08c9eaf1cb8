"""A trained model that is ready to be used, whatever it reads: nothing of its banks is needed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from phenomjax.system.types import Params
from phenomjax.tasks.image_objective import ImageObjective
from phenomjax.tasks.language_model import LanguageModel

TaskT = TypeVar("TaskT", covariant=True)


@dataclass(frozen=True)
class Trained(Generic[TaskT]):
    """A model that is ready to be used.

    Attributes:
      path: of the checkpoint folder, or of the release.
      step: at which it was saved.
      config: of the run, resolved.
      task: that was trained.
      params: float32 parameters, all that were trained; a language model's are on the device.
      fingerprint: sha256 of the parameters; of a twin, of what they are drawn from.
      random_weights: the seed of an untrained twin (`twin.random_twin`); None of a trained model.
    """

    path: Path
    step: int
    config: ConfigDict
    task: TaskT
    params: Params
    fingerprint: str
    random_weights: int | None = None


ImageModel: TypeAlias = Trained[ImageObjective]
SequenceModel: TypeAlias = Trained[LanguageModel]


def fingerprint(params: Params) -> str:
    """sha256 of the names and values of parameters."""
    digest = hashlib.sha256()
    for name, leaf in jax.tree.leaves_with_path(params):
        digest.update(jax.tree_util.keystr(name).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()

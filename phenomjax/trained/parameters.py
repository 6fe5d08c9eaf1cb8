"""The parameters of a checkpoint for inference, with what identifies them."""

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from phenomjax.checkpoints import loading
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")


class Parameters(NamedTuple):
    """What a checkpoint holds for inference.

    Attributes:
      path: of the checkpoint folder.
      step: at which it was saved.
      config: of the run, resolved; `model.dtype` is the one asked for.
      params: float32 NumPy arrays.
      fingerprint: sha256 of the parameters.
    """

    path: Path
    step: int
    config: ConfigDict
    params: Any
    fingerprint: str


def read(path: str | Path, dtype: str = "") -> Parameters:
    """Reads the newest checkpoint of a run, or the one that is named, and says which.

    Args:
      path: workdir, or WORKDIR/checkpoints/STEP.
      dtype: compute type instead of that of the run: "auto", "float32" or "bfloat16".

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    if not Path(path).exists():
        raise UserError(
            f"--checkpoint {path} does not exist (looked in {Path(path).absolute().parent}). Give"
            " the --workdir of a training run, or one of its checkpoints/STEP folders."
        )
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
    return Parameters(folder, step, config, params, fingerprint(params))


def fingerprint(params: Any) -> str:
    """sha256 of the names and values of parameters."""
    digest = hashlib.sha256()
    for name, leaf in jax.tree.leaves_with_path(params):
        digest.update(jax.tree_util.keystr(name).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()

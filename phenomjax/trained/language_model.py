"""A trained language model, read from its checkpoint: nothing of its banks is needed any more."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from phenomjax import tasks
from phenomjax.data.sequences.vocabulary import Vocabulary
from phenomjax.system.errors import UserError, check_folder_of
from phenomjax.tasks.language_model import LanguageModel, vocabulary_of
from phenomjax.trained import parameters


def check_arguments(args: argparse.Namespace, **least: int) -> None:
    """Checks what the front doors share: numbers that are not below their least, and that the
    folder of `--out` is there.
    """
    for name, value in least.items():
        if getattr(args, name) < value:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least {value}.")
    check_folder_of(args.out)


@dataclass(frozen=True)
class Trained:
    """A model that is ready to be used.

    Attributes:
      path: of the checkpoint folder.
      step: at which it was saved.
      config: of the run, resolved.
      task: that was trained.
      params: parameters, on the device.
      fingerprint: sha256 of the parameters.
    """

    path: Path
    step: int
    config: ConfigDict
    task: LanguageModel
    params: Any
    fingerprint: str

    @property
    def words(self) -> Vocabulary:
        """The vocabulary."""
        return vocabulary_of(self.config)

    @property
    def rare(self) -> str:
        """What the banks did with rare letters, a name in encode.RARE_RULES."""
        return self.config.model.rare or "x"


def load(path: str | Path, dtype: str = "") -> Trained:
    """Loads the newest checkpoint of a run, or the one that is named.

    Args:
      path: workdir, or WORKDIR/checkpoints/STEP.
      dtype: compute type instead of that of the run: "auto", "float32" or "bfloat16".

    Raises:
      UserError: there is no checkpoint, or it is of no language model.
    """
    read = parameters.read(path, dtype)
    task = tasks.make(read.config)
    if not isinstance(task, LanguageModel):
        raise UserError(
            f"--checkpoint {path} holds a model of task '{read.config.task}', which does not read"
            " sequences. Give a run of causal_lm, permutation_lm or bidirectional_lm."
        )
    return Trained(
        read.path, read.step, read.config, task, jax.device_put(read.params), read.fingerprint
    )


def default_batch_tokens() -> int:
    """Tokens of a batch: many fill an accelerator, few stay in the caches of a CPU (measured: 2048
    is twice as fast there as 16384).
    """
    return 2048 if jax.default_backend() == "cpu" else 16384

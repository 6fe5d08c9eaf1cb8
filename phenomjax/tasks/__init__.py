"""Pretraining objectives. A task is a handful of pure functions; nothing else in the program knows which one is running."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from phenomjax.config import did_you_mean
from phenomjax.errors import UserError

TASKS = {"mae": ("phenomjax.tasks.mae", "MaskedAutoencoder")}


@runtime_checkable
class Task(Protocol):
    """What the loop needs of a pretraining objective.

    `params` are nested dicts of float32 arrays, a `batch` is a dict of arrays with the rows as leading axis, `carry` is a pytree with the rows
    as leading axis that the task hands from step to step (() for most).
    """

    def __init__(self, config: ConfigDict): ...

    @staticmethod
    def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
        """Makes or opens the data and fills in what depends on it (channel names, say); only process 0 may write."""
        ...

    def loader(self, split: str, process_index: int, process_count: int) -> Any:
        """The loader of a split, or None for a "val" split without data."""
        ...

    def init(self, key: jax.Array, batch: Any) -> Any:
        """Random parameters, boxed with their logical axis names."""
        ...

    def carry(self, global_batch_size: int) -> Any: ...

    def loss(self, params: Any, batch: Any, key: jax.Array, carry: Any) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        """Scalar loss, scalar metrics and the next carry; draws depend on (key, row) only."""
        ...

    def evaluate(self, params: Any, batch: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
        """{name: (sum, count)} with fixed draws."""
        ...

    def embed(self, params: Any, batch: Any) -> jax.Array: ...

    def figure_arrays(self, params: Any, batch: Any) -> dict[str, jax.Array]:
        """What `figures` draws; runs on the devices."""
        ...

    def figures(self, arrays: dict[str, Any], names: Sequence[str]) -> dict[str, Figure]:
        """Draws what `figure_arrays` computed; `names` are those of the rows."""
        ...

    def flops(self, batch: Any) -> float:
        """Model FLOPs of one training step on a global batch of these shapes."""
        ...


def _load(name: str) -> Any:
    if name not in TASKS:
        raise UserError(f"config.task is '{name}'.{did_you_mean(name, TASKS)} It can be {', '.join(TASKS)}.")
    module, attribute = TASKS[name]
    return getattr(importlib.import_module(module), attribute)


def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Completes a finalized config with what its data say."""
    return _load(config.task).resolve(config, workdir)


def make(config: ConfigDict) -> Task:
    """The task of a resolved config."""
    return _load(config.task)(config)

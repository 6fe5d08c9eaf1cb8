"""Pretraining objectives.

A task is a handful of pure functions; nothing else in the program knows which one is running.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from phenomjax.system.errors import UserError, did_you_mean

TASKS = {
    "mae": ("phenomjax.tasks.mae", "MaskedAutoencoder"),
    "causal_lm": ("phenomjax.tasks.causal_lm", "CausalLM"),
    "permutation_lm": ("phenomjax.tasks.permutation_lm", "PermutationLM"),
    "bidirectional_lm": ("phenomjax.tasks.bidirectional_lm", "BidirectionalLM"),
}


@runtime_checkable
class Task(Protocol):
    """What the loop needs of a pretraining objective.

    `params` are nested dicts of float32 arrays, a `batch` is a dict of arrays with the rows as
    leading axis, `carry` is a pytree with the rows as leading axis that the task hands from step to
    step (() for most).
    """

    def __init__(self, config: ConfigDict): ...

    @staticmethod
    def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
        """Makes or opens the data and fills in what depends on it (channel names, say); only
        process 0 may write.
        """
        ...

    def loader(self, split: str, process_index: int, process_count: int) -> Any:
        """The `Loader` of a split, or None for a "val" split without data."""
        ...

    def init(self, key: jax.Array, batch: Any) -> Any:
        """Random parameters, boxed with their logical axis names."""
        ...

    def carry(self, global_batch_size: int, split: str = "train") -> Any:
        """What the first step of a split starts from."""
        ...

    def loss(
        self, params: Any, batch: Any, key: jax.Array, carry: Any
    ) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        """Scalar loss, scalar metrics and the next carry; draws depend on (key, row) only."""
        ...

    def evaluate(
        self, params: Any, batch: Any, carry: Any
    ) -> tuple[dict[str, tuple[jax.Array, jax.Array]], Any]:
        """({name: (sum, count)}, next carry) of one validation batch, with fixed draws; one name is
        "loss".
        """
        ...

    def derive(self, means: dict[str, float]) -> dict[str, float]:
        """What follows from the means of an evaluation, such as a perplexity from the loss."""
        ...

    def embed(self, params: Any, batch: Any) -> jax.Array: ...

    def figure_arrays(self, params: Any, batch: Any) -> dict[str, jax.Array]:
        """What `figures` draws; runs on the devices."""
        ...

    def figures(self, arrays: dict[str, Any], names: Sequence[str]) -> dict[str, Figure]:
        """Draws what `figure_arrays` computed; `names` are those of the rows."""
        ...

    def next_command(self, workdir: Path) -> str:
        """What a user would run next on a finished run, for the last line of the log."""
        ...

    def flops(self, batch: Any) -> float:
        """Model FLOPs of one training step on a global batch of these shapes."""
        ...


class Loader(Protocol):
    """What the loop needs of data: batches that are addressed by their step.

    Attributes:
      specs: for each kind of batch, {name: (global shape, dtype)}; the leading axis of all is the
        row.
      items: what a row's data are called in messages: "images", "sequences".
      item_key: the array of a batch that holds an id of the row's item.
      unit, units_per_row: what rates count: "images", 1; "residues", the length of a segment.
      steps_per_epoch: batches in which every item of the split comes once.
      bad_items: different items that could not be read so far.
      fingerprints: {data set: checksum}; a run must not be continued with others.
    """

    specs: Any
    items: str
    item_key: str
    unit: str
    units_per_row: int
    steps_per_epoch: int
    bad_items: int
    fingerprints: dict[str, str]

    def batch(self, step: int) -> dict[str, Any]:
        """This process's rows of a step."""
        ...

    def iterate(self, start_step: int) -> Any:
        """A context manager over batches from a step on, made ahead; each has `arrays` and
        `release()`.
        """
        ...

    def names(self, ids: Any) -> list[str]:
        """What items are called."""
        ...

    def describe(self) -> str:
        """One paragraph for the start-up lines."""
        ...


def _load(name: str) -> Any:
    if name not in TASKS:
        raise UserError(
            f"config.task is '{name}'.{did_you_mean(name, TASKS)} It can be {', '.join(TASKS)}."
        )
    module, attribute = TASKS[name]
    return getattr(importlib.import_module(module), attribute)


def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Completes a finalized config with what its data say."""
    return _load(config.task).resolve(config, workdir)


def make(config: ConfigDict) -> Task:
    """The task of a resolved config."""
    return _load(config.task)(config)

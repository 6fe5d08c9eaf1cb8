"""What the loop needs of a pretraining objective, and of its data."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from phenomjax.system.types import Batch, Carry, Figure, Params

Scalar = Float[Array, ""]
Sums = dict[str, tuple[Scalar, Scalar]]  # {name: (sum, count)}


@runtime_checkable
class Task(Protocol):
    """A pretraining objective: a handful of pure functions, made from a resolved config.

    `params` are nested dicts of float32 arrays, a `batch` is a dict of arrays with the rows as
    leading axis, `carry` is what the task hands from step to step (() for most): a pytree with the
    rows as leading axis, and in it `Shared` (phenomjax/system/types.py) what belongs to no row,
    such as the statistics of batch norms. `loss` reads that from the carry; all others find it
    beside the parameters.

    Attributes:
      next_command: what a user would run next on a finished run; {workdir} stands for its folder.
      begins_with: where a task has it, parts (first level) of the parameters that stand for
        themselves: `init_from` takes them of a run of another task too, and where others do not
        fit they begin anew. Without it a run takes all or none.
    """

    @property
    def next_command(self) -> str: ...

    def __init__(self, config: ConfigDict): ...

    @staticmethod
    def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
        """Makes or opens the data and fills in what depends on it (channel names, say); only
        process 0 may write.
        """
        ...

    def loader(self, split: str, process_index: int, process_count: int) -> "Loader | None":
        """The loader of a split, or None for a "val" split without data."""
        ...

    def init(self, key: Key[Array, ""], batch: Batch) -> Params:
        """Random parameters, boxed with their logical axis names."""
        ...

    def carry(self, global_batch_size: int, split: str = "train") -> Carry:
        """What the first step of a split starts from."""
        ...

    def loss(
        self, params: Params, batch: Batch, key: Key[Array, ""], carry: Carry
    ) -> tuple[Scalar, dict[str, Scalar], Carry]:
        """Scalar loss, scalar metrics and the next carry; draws depend on (key, row) only."""
        ...

    def evaluate(self, params: Params, batch: Batch, carry: Carry) -> tuple[Sums, Carry]:
        """({name: (sum, count)}, next carry) of one validation batch, with fixed draws; see
        `means`. One name is "loss". Rows that a batch's `weight` (batch, …) bool calls False are
        there to fill it, and count nowhere; see `image_objective.row_sums`.
        """
        ...

    def embed(self, params: Params, batch: Batch, carry: Carry = ()) -> tuple[Array, Carry]:
        """Features of the rows of a batch, as inference wants them, and the next carry."""
        ...

    def figure(self, params: Params, batch: Batch, names: Sequence[str]) -> dict[str, Figure]:
        """{name: picture} of the first rows of a batch, one for each of `names`.

        All processes call it together; what others than process 0 return is not used.
        `pictures.computed` computes on all devices what is to be drawn.
        """
        ...

    def flops(self, batch: Batch) -> float:
        """Model FLOPs of one training step on a global batch of arrays of these shapes."""
        ...


MEMBERS = tuple(name for name in vars(Task) if name[0] != "_")


@runtime_checkable
class Loaded(Protocol):
    """A batch that was made ahead."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """As of `Loader.batch`."""
        ...

    def release(self) -> None:
        """Gives the memory of `arrays` back."""
        ...


@runtime_checkable
class Loader(Protocol):
    """What the loop needs of data: batches that are addressed by their step."""

    @property
    def specs(self) -> list[dict[str, tuple[tuple[int, ...], np.dtype]]]:
        """For each kind of batch, {name: (global shape, dtype)}; the leading axis of all is the
        row.
        """
        ...

    @property
    def items(self) -> str:
        """What a row's data are called in messages: "images", "sequences"."""
        ...

    @property
    def item_key(self) -> str:
        """The array of a batch that holds an id of the row's item."""
        ...

    @property
    def unit(self) -> str:
        """What rates count: "images", "residues"."""
        ...

    @property
    def units_per_row(self) -> int:
        """How many of them a row has: 1, the length of a segment."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every item of the split comes once."""
        ...

    @property
    def bad_items(self) -> int:
        """Different items that could not be read so far."""
        ...

    @property
    def fingerprints(self) -> dict[str, str]:
        """{data set: checksum}; a run must not be continued with others."""
        ...

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of a step."""
        ...

    def iterate(self, start_step: int) -> AbstractContextManager[Iterator[Loaded]]:
        """A context manager over batches from a step on, made ahead."""
        ...

    def names(self, ids: np.ndarray) -> list[str]:
        """What items are called."""
        ...

    def describe(self) -> str:
        """One paragraph for the start-up lines."""
        ...


def reading(config: ConfigDict, split: str) -> tuple[int, int]:
    """(rows of a global batch, seed of order and crops) of a split."""
    if split == "train":
        return config.global_batch_size, config.seed
    seed = config.seed if config.eval.seed < 0 else config.eval.seed
    return config.eval.batch_size or config.global_batch_size, seed


def means(sums: Mapping[str, Sequence[float] | np.ndarray]) -> dict[str, float]:
    """What the sums of an evaluation say: {name: sum / count}, and the exponential of that for a
    "perplexity"; nothing of what was counted nowhere.
    """
    found = {name: float(total / count) for name, (total, count) in sums.items() if count}
    return {
        name: float(np.exp(min(mean, 700.0))) if name == "perplexity" else mean
        for name, mean in found.items()
    }

"""Features of sequences from a frozen model, in memory."""

import logging
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from phenomjax.checkpoints import loading
from phenomjax.engine.units import Executor, Note
from phenomjax.engine.work_folder import DESCRIPTION
from phenomjax.inference.sequences import batches, cluster, embed, queries, segments
from phenomjax.probes.features.table import PER, FeatureStore, FeatureTable
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")


class Stopped(Exception):
    """A signal came before all features were there."""


def encode(model: SequenceModel, sequences: Sequence[str]) -> queries.Queries:
    """Sequences in the tokens of a model.

    Raises:
      UserError: one cannot be read.
    """
    return queries.of_sequences(sequences, model.task.words.name, model.task.rare)


class Embedder:
    """Computes features of one model, or of several that differ in nothing but parameters; compiles
    once.

    The vector of a protein is the mean over its residues. A model that reads in two directions
    gives both, one behind the other; long proteins are read by segments
    (phenomjax/inference/sequences/segments.py).

    Args:
      model: whose features.
      executor: of an engine whose workers compute; None: this process.
    """

    def __init__(self, model: SequenceModel, executor: Executor | None = None):
        self.model, self._executor = model, executor
        self._task: cluster.Task | None = None
        self._made: dict[tuple[str, str], segments.SegmentFeatures] = {}

    def use(self, model: SequenceModel) -> bool:
        """Goes on with the parameters of another model; False if it is of another kind."""
        if model.config != self.model.config or model.task.dtype != self.model.task.dtype:
            return False
        if model is not self.model:
            self.model = model
            for made in self._made.values():
                made.use(model.params)
        return True

    def plan(
        self, found: queries.Queries, work: Path = Path(), stop: threading.Event | None = None
    ) -> list[batches.SequenceBatch]:
        """The batches of `fill`.

        Args:
          found: the sequences.
          work: folder of an engine's work, which is made.
          stop: an event.

        Raises:
          Stopped: `stop` was set before an engine's worker was there.
        """
        seen: Note | None = cluster.machine(self.model, 0)
        if self._executor:
            self._task = self._begin(found, work)
            seen = cluster.look(self._executor, work, self._task, stop or threading.Event())
        if seen is None:
            raise Stopped
        frame = sum(map(len, self.model.task.boundary))
        shape = self.model.task.inference_segment_len, seen["batch_tokens"], seen["devices"]
        return batches.plan(found.lengths[found.order] + frame, *shape)

    def _begin(self, found: queries.Queries, work: Path) -> cluster.Task:
        """Writes what workers need. The parameters may be of no checkpoint, as a twin's."""
        config, dtype = self.model.config, np.dtype(self.model.task.dtype).name
        loading.write(work / "model", config, jax.device_get(self.model.params))
        files.write_bytes(work / "tokens", found.tokens.tobytes())
        files.write_json(work / DESCRIPTION, {"request": secrets.token_hex(8)})
        checkpoint = str((work / "model").absolute())
        return cluster.Task(checkpoint, dtype, self.model.fingerprint, None, None, "", 0, dtype)

    def features(self, per: str, dtype: str) -> segments.SegmentFeatures:
        """What computes."""
        if (per, dtype) not in self._made:
            pool = "mean" if per == "protein" else None
            self._made[per, dtype] = segments.SegmentFeatures(self.model, None, pool, dtype)
        return self._made[per, dtype]

    def fill(
        self,
        found: queries.Queries,
        per: str,
        dtype: str,
        store: FeatureStore,
        plan: Sequence[batches.SequenceBatch],
        stop: threading.Event,
        work: Path = Path(),
    ) -> None:
        """Fills a store with the batches of a plan, longest sequences first.

        Raises Stopped when `stop` was set before the end.
        """
        with np.errstate(over="ignore"):  # the store looks for infinite numbers
            if self._executor and self._task:
                task = self._task._replace(pool="mean" if per == "protein" else None, dtype=dtype)
                whole = cluster.embed(self._executor, work, task, found, store, plan, stop)
            else:
                made = self.features(per, dtype)
                whole = embed.embed(found, made, store, plan, range(len(plan)), stop)
        if not whole:
            raise Stopped

    def compute(
        self,
        sequences: Sequence[str] | queries.Queries,
        per: str,
        stop: threading.Event | None = None,
    ) -> FeatureTable:
        """Features of sequences, or of what `encode` made of them, in memory, float32.

        Raises Stopped when `stop` was set before the end.
        """
        check_per(per)
        found = (
            sequences if isinstance(sequences, queries.Queries) else encode(self.model, sequences)
        )
        rows = row_counts(found, per)
        dim = self.features(per, "float32").dim
        store = FeatureStore(np.empty((int(rows.sum()), dim), np.float32), rows)
        try:
            plan = self.plan(found)
            self.fill(found, per, "float32", store, plan, stop or threading.Event())
        except FloatingPointError:
            raise not_finite(self.model) from None
        return FeatureTable(
            [store.features],
            np.zeros(len(found), int),
            store.starts[found.groups],
            found.lengths,
            per,
        )


def compute(
    model: SequenceModel, sequences: Sequence[str], per: str, stop: threading.Event | None = None
) -> FeatureTable:
    """Features in memory, float32, on the local devices.

    Args:
      model: whose features.
      sequences: letters.
      per: a name in PER.
      stop: an event.

    Raises:
      UserError: a sequence that the model cannot read, or features that are no numbers.
      Stopped: `stop` was set before the end.
    """
    return Embedder(model).compute(sequences, per, stop)


def row_counts(found: queries.Queries, per: str) -> Int[np.ndarray, " different"]:
    """Rows of each different sequence, in the order of work."""
    return found.lengths[found.order] if per == "residue" else np.ones(len(found.order), np.int64)


def check_per(per: str) -> None:
    """Raises ValueError if vectors cannot stand for that."""
    if per not in PER:
        raise ValueError(f"per is {per!r}, not one of {PER}")


def not_finite(model: SequenceModel) -> UserError:
    """What is said of a model whose features are no numbers."""
    return UserError(
        f"The features of {model.path} are not all numbers: the run diverged, or its compute type"
        " is too narrow. Take an earlier checkpoint, or compute in float32.",
        EXIT_FAILED,
    )

"""Features of sequences in a folder that all tasks share, each computed once."""

import dataclasses
import errno
import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phenomjax.engine.units import Executor
from phenomjax.inference.sequences import queries
from phenomjax.probes.features.embeddings import (
    Embedder,
    Stopped,
    check_per,
    encode,
    not_finite,
    row_counts,
)
from phenomjax.probes.features.shards import Shard, Shards, ShardWriter
from phenomjax.probes.features.table import FeatureTable
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")
UNITS = f"{files.PARTIAL}units"  # the work folder of an engine


class FeatureCache:
    """Features in a folder, by what they are of: FOLDER/<parameters>-<layer>-<per>-<dtype>-<model>/
    with phenomjax/probes/features/shards.py.

    They are kept as float16, whose 11 bits are more than the 8 of a bfloat16 model and far less
    than what two proteins differ in (the relative error is below 5e-4; layers end in a
    normalisation or a bounded state, so that numbers are of order 1). A model with a number beyond
    float16's 65504 is kept as float32 instead, and a log line says so.

    Several processes may use one folder: one computes, the others wait for it and then read; what
    is whole is read without waiting.

    Args:
      folder: made when it is needed; seen by all workers of the engine.
      executor: of the engine that computes; None: this process.
    """

    def __init__(self, folder: str | Path, executor: Executor | None = None):
        self.folder, self._executor = Path(folder), executor
        self._embedder: Embedder | None = None
        self._shards: dict[Path, Shards] = {}

    def get(
        self,
        model: SequenceModel,
        sequences: Sequence[str],
        per: str,
        stop: threading.Event | None = None,
    ) -> FeatureTable:
        """Features of sequences; those that are missing are computed, each different one once, as a
        new shard.

        Args:
          model: whose features.
          sequences: letters.
          per: a name in PER.
          stop: an event; what was computed until then is kept.

        Raises:
          UserError: a sequence that the model cannot read, features that are no numbers, or a full
            disk.
          Stopped: `stop` was set before the end.
        """
        check_per(per)
        if self._embedder is None or not self._embedder.use(model):
            self._embedder = Embedder(model, self._executor)
        request = _Request(self._embedder, encode(model, sequences), per, stop or threading.Event())
        wide = self._at(request, "float32")
        if wide.folder.is_dir():
            return request.run(wide, "float32")
        try:
            return request.run(self._at(request, "float16"), "float16")
        except FloatingPointError:
            log.info(
                "features of %s go beyond float16's 65504: they are kept as float32", model.path
            )
            return request.run(wide, "float32")

    def _at(self, request: "_Request", dtype: str) -> Shards:
        folder = self.folder / request.folder(dtype)
        return self._shards.setdefault(folder, Shards(folder))


class _Request:
    """One request to the cache."""

    def __init__(self, embedder: Embedder, found: queries.Queries, per: str, stop: threading.Event):
        self._embedder, self._found, self._per, self._stop = embedder, found, per, stop
        self._names = [hashlib.sha256(found.sequence(i).tobytes()).hexdigest() for i in found.order]

    def about(self, dtype: str) -> dict[str, object]:
        """What decides the numbers."""
        model = self._embedder.model
        return {
            "fingerprint": model.fingerprint,
            "task": model.config.task,
            "layer": "default",
            "per": self._per,
            "pooling": "mean",
            "dtype": dtype,
            "compute_dtype": np.dtype(model.task.dtype).name,
            "segment_len": model.task.inference_segment_len,
            "model": model.config.model.to_dict() | {"dtype": ""},
        }

    def folder(self, dtype: str) -> str:
        """The name of the folder of such features; one set of parameters may be used with several
        compute types or segment lengths.
        """
        about = self.about(dtype)
        rest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        fingerprint = self._embedder.model.fingerprint
        return f"{fingerprint[:16]}-{about['layer']}-{self._per}-{dtype}-{rest[:8]}"

    def run(self, shards: Shards, dtype: str) -> FeatureTable:
        """Reads what is there, and computes the rest.

        Raises:
          FloatingPointError: a number is too large for float16.
        """
        have, damaged = shards.read()
        if self._missing(have):
            with shards.hold(self._stop.is_set) as mine:
                if not mine:
                    raise Stopped
                shards.describe(self.about(dtype))
                shards.remove(damaged)
                shards.seal()
                have, damaged = shards.read()  # another process may have computed them meanwhile
                if missing := self._missing(have):
                    self._compute(shards, missing, dtype)
                    have, _ = shards.read()
        return self._features(have)

    def _missing(self, have: list[Shard]) -> list[int]:
        """Numbers in the order of work."""
        there: set[str] = set().union(*(shard.places for shard in have))
        return [i for i, name in enumerate(self._names) if name not in there]

    def _compute(self, shards: Shards, missing: list[int], dtype: str) -> None:
        if len(missing) < len(self._names):
            log.info(
                "features of %d of %d different sequences are in %s",
                len(self._names) - len(missing),
                len(self._names),
                shards.folder,
            )
        found, numbers = self._found, np.arange(len(missing))
        chosen = found.order[missing]
        part = dataclasses.replace(
            found,
            lengths=found.lengths[chosen],
            starts=found.starts[chosen],
            order=numbers,
            groups=numbers,
        )
        names, work = [self._names[i] for i in missing], shards.folder / UNITS
        dim = self._embedder.features(self._per, dtype).dim
        try:
            files.remove(work)  # of an engine that was killed; what it had done is a shard
            plan = self._embedder.plan(part, work, self._stop)
            stops = [batch.stop for batch in plan]
            writer = ShardWriter(
                shards.folder, names, row_counts(part, self._per), dim, dtype, stops
            )
            try:
                self._embedder.fill(part, self._per, dtype, writer, plan, self._stop, work)
            except FloatingPointError:
                if dtype == "float32":
                    raise not_finite(self._embedder.model) from None
                raise
            finally:
                shards.seal()
                files.remove(work)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            raise UserError(
                f"Features cannot be written to {shards.folder}: {error.strerror}. Make space, or"
                " give another folder.",
                EXIT_FAILED,
            ) from error

    def _features(self, have: list[Shard]) -> FeatureTable:
        places = {
            name: (number, shard.firsts[i])
            for number, shard in enumerate(have)
            for name, i in shard.places.items()
        }
        where, firsts = np.array([places[name] for name in self._names]).T
        groups = self._found.groups
        return FeatureTable(
            [s.features for s in have],
            where[groups],
            firsts[groups],
            self._found.lengths,
            self._per,
        )

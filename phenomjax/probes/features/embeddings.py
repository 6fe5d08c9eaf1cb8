"""Features of sequences from a frozen model, each computed once: in memory, or in a folder that all
tasks share.
"""

import dataclasses
import errno
import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from phenomjax.inference.sequences import batches, embed, queries, segments
from phenomjax.probes.features.shards import Shard, Shards, Writer
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.trained.model import SequenceModel, fingerprint

log = logging.getLogger("phenomjax")
PER = ("protein", "residue")


class Stopped(Exception):
    """A signal came before all features were there."""


class Features:
    """Features of n sequences; nothing big is read before it is asked for.

    Args:
      arrays: [rows, dim] each, in memory or mapped.
      where: int [n], the array that holds a sequence.
      firsts: int64 [n], its first row there.
      lengths: int64 [n], residues.
      per: a name in PER; a protein has one row, or as many as residues.

    Attributes:
      dim: of a vector.
      per, lengths: as above.
    """

    def __init__(
        self,
        arrays: Sequence[np.ndarray],
        where: np.ndarray,
        firsts: np.ndarray,
        lengths: np.ndarray,
        per: str,
    ):
        self._arrays, self._where, self._firsts = (
            list(arrays),
            np.asarray(where),
            np.asarray(firsts),
        )
        self.lengths, self.per, self.dim = (
            np.asarray(lengths, np.int64),
            per,
            int(arrays[0].shape[1]),
        )

    @classmethod
    def of_arrays(
        cls, arrays: Sequence[np.ndarray] | np.ndarray, lengths: np.ndarray | None = None
    ) -> "Features":
        """From memory: [n, dim] of proteins (whose `lengths` are 1 unless they are given), or a
        list of [length, dim] of residues.
        """
        if isinstance(arrays, np.ndarray):
            n = len(arrays)
            return cls(
                [arrays],
                np.zeros(n, int),
                np.arange(n),
                np.ones(n) if lengths is None else lengths,
                "protein",
            )
        n = len(arrays)
        return cls(
            arrays, np.arange(n), np.zeros(n, int), np.array([len(a) for a in arrays]), "residue"
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Vectors of proteins: float32 [rows, dim]."""
        assert self.per == "protein", "a residue's vectors come in batches"
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), self.dim), np.float32)
        for number in np.unique(self._where[rows]):
            mine = self._where[rows] == number
            out[mine] = self._arrays[number][self._firsts[rows[mine]]]
        return out

    def batch(self, rows: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """Vectors of residues: float32 [rows, length, dim], zeros behind the end of a sequence, cut
        at `length`.
        """
        assert self.per == "residue", "a protein's vector is taken"
        out = np.zeros((len(rows), length, self.dim), np.float32)
        for i, row in enumerate(rows):
            size, first = min(int(self.lengths[row]), length), int(self._firsts[row])
            out[i, :size] = self._arrays[self._where[row]][first : first + size]
        return out


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
    """

    def __init__(self, model: SequenceModel):
        self.model = model
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

    def plan(self, found: queries.Queries) -> list[batches.SequenceBatch]:
        """The batches of `fill`."""
        frame = sum(map(len, self.model.task.boundary))
        return batches.plan(found.lengths[found.order] + frame, *self._shape())

    def _shape(self) -> tuple[int, int, int]:
        return (
            self.model.task.inference_segment_len,
            segments.default_batch_tokens(),
            len(jax.local_devices()),
        )

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
        store: embed.Destination,
        stop: threading.Event,
    ) -> None:
        """Fills a store, longest sequences first.

        Raises Stopped when `stop` was set before the end.
        """
        with np.errstate(over="ignore"):  # the store looks for infinite numbers
            whole = embed.embed(
                found, self.model, self.features(per, dtype), store, *self._shape(), stop
            )
        if not whole:
            raise Stopped

    def compute(
        self,
        sequences: Sequence[str] | queries.Queries,
        per: str,
        stop: threading.Event | None = None,
    ) -> Features:
        """Features of sequences, or of what `encode` made of them, in memory, float32.

        Raises Stopped when `stop` was set before the end.
        """
        _check(per)
        found = (
            sequences if isinstance(sequences, queries.Queries) else encode(self.model, sequences)
        )
        store = _Memory(_rows(found, per), self.features(per, "float32").dim)
        try:
            self.fill(found, per, "float32", store, stop or threading.Event())
        except FloatingPointError:
            raise _not_finite(self.model) from None
        return Features(
            [store.features],
            np.zeros(len(found), int),
            store.starts[found.groups],
            found.lengths,
            per,
        )


class _Memory:
    """Features in memory, as `sequence_job.embed` fills it; see `shards.Writer`."""

    done = 0

    def __init__(self, rows: np.ndarray, dim: int):
        self.starts = np.concatenate([[0], np.cumsum(rows)])
        self.features = np.empty((int(self.starts[-1]), dim), np.float32)

    def write(self, group: int, columns: slice, start: int, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            raise FloatingPointError
        first = self.starts[group] + start
        self.features[first : first + len(values), columns] = values

    def save(self, batches: int) -> None:
        """Memory forgets all or nothing."""


def compute(
    model: SequenceModel, sequences: Sequence[str], per: str, stop: threading.Event | None = None
) -> Features:
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


class Cache:
    """Features in a folder, by what they are of: FOLDER/<parameters>-<layer>-<per>-<dtype>-<model>/
    with phenomjax/probes/features/shards.py.

    They are kept as float16, whose 11 bits are more than the 8 of a bfloat16 model and far less
    than what two proteins differ in (the relative error is below 5e-4; layers end in a
    normalisation or a bounded state, so that numbers are of order 1). A model with a number beyond
    float16's 65504 is kept as float32 instead, and a log line says so.

    Several processes may use one folder: one computes, the others wait for it and then read; what
    is whole is read without waiting.

    Args:
      folder: made when it is needed.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._embedder: Embedder | None = None
        self._shards: dict[Path, Shards] = {}

    def get(
        self,
        model: SequenceModel,
        sequences: Sequence[str],
        per: str,
        stop: threading.Event | None = None,
    ) -> Features:
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
        _check(per)
        if self._embedder is None or not self._embedder.use(model):
            self._embedder = Embedder(model)
        job = _Job(self._embedder, encode(model, sequences), per, stop or threading.Event())
        wide = self._at(job, "float32")
        if wide.folder.is_dir():
            return job.run(wide, "float32")
        try:
            return job.run(self._at(job, "float16"), "float16")
        except FloatingPointError:
            log.info(
                "features of %s go beyond float16's 65504: they are kept as float32", model.path
            )
            return job.run(wide, "float32")

    def _at(self, job: "_Job", dtype: str) -> Shards:
        folder = self.folder / job.folder(dtype)
        return self._shards.setdefault(folder, Shards(folder))


class _Job:
    """One request to the cache."""

    def __init__(self, embedder: Embedder, found: queries.Queries, per: str, stop: threading.Event):
        self._embedder, self._found, self._per, self._stop = embedder, found, per, stop
        self._names = [hashlib.sha256(found.sequence(i).tobytes()).hexdigest() for i in found.order]

    def about(self, dtype: str) -> dict[str, Any]:
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
        return f"{about['fingerprint'][:16]}-{about['layer']}-{self._per}-{dtype}-{rest[:8]}"

    def run(self, shards: Shards, dtype: str) -> Features:
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
        stops = [batch.stop for batch in self._embedder.plan(part)]
        names, dim = (
            [self._names[i] for i in missing],
            self._embedder.features(self._per, dtype).dim,
        )
        try:
            writer = Writer(shards.folder, names, _rows(part, self._per), dim, dtype, stops)
            try:
                self._embedder.fill(part, self._per, dtype, writer, self._stop)
            except FloatingPointError:
                if dtype == "float32":
                    raise _not_finite(self._embedder.model) from None
                raise
            finally:
                shards.seal()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            raise UserError(
                f"Features cannot be written to {shards.folder}: {error.strerror}. Make space, or"
                " give another folder.",
                EXIT_FAILED,
            ) from error

    def _features(self, have: list[Shard]) -> Features:
        places = {
            name: (number, shard.firsts[i])
            for number, shard in enumerate(have)
            for name, i in shard.places.items()
        }
        where, firsts = np.array([places[name] for name in self._names]).T
        groups = self._found.groups
        return Features(
            [s.features for s in have],
            where[groups],
            firsts[groups],
            self._found.lengths,
            self._per,
        )


def random_twin(model: SequenceModel, seed: int = 0) -> SequenceModel:
    """The same task and configuration with random parameters, as training would begin with them,
    and their own fingerprint.
    """
    task: Any = model.task  # whose `init` stands in its subclasses
    one = {"tokens": np.zeros((1, 10), np.uint8)}  # parameters do not depend on the batch
    params = jax.device_get(nn.meta.unbox(jax.jit(task.init)(jax.random.key(seed), one)))
    return dataclasses.replace(
        model, step=0, params=jax.device_put(params), fingerprint=fingerprint(params)
    )


def _rows(found: queries.Queries, per: str) -> np.ndarray:
    """int64 [different sequences]: rows of each, in the order of work."""
    return found.lengths[found.order] if per == "residue" else np.ones(len(found.order), np.int64)


def _check(per: str) -> None:
    if per not in PER:
        raise ValueError(f"per is {per!r}, not one of {PER}")


def _not_finite(model: SequenceModel) -> UserError:
    return UserError(
        f"The features of {model.path} are not all numbers: the run diverged, or its compute type"
        " is too narrow. Take an earlier checkpoint, or --compute_dtype float32.",
        EXIT_FAILED,
    )

"""Features of whole sequences by segments: a batch is read segment after segment, memory or states
handed on.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, UInt8

from phenomjax.data.sequences.vocabulary import PAD
from phenomjax.inference.sequences.batches import SequenceBatch
from phenomjax.system.types import Carry, Params
from phenomjax.trained.model import SequenceModel

POOLS = ("mean", "max")
AHEAD = 16  # segments that wait on the device
Features: TypeAlias = Float[Array, "rows directions seq width"]
Pooled: TypeAlias = Float[Array, "rows directions width"]
# first place, features where there is no pooling, what is pooled
Step: TypeAlias = tuple[int, Features, Pooled]


def default_batch_tokens() -> int:
    """Tokens of a batch: many fill an accelerator, few stay in the caches of a CPU (measured: 2048
    is twice as fast there as 16384).
    """
    return 2048 if jax.default_backend() == "cpu" else 16384


def frame(
    sequences: Sequence[np.ndarray], shape: tuple[int, int], boundary: tuple, directions: int
) -> np.ndarray:
    """Sequences between their boundary tokens in reading order: [rows, directions, seq] uint8,
    padded at the end.
    """
    before, after = (np.array(tokens, np.uint8) for tokens in boundary)
    framed = np.full((shape[0], directions, shape[1]), PAD, np.uint8)
    for row, tokens in enumerate(sequences):
        whole = np.concatenate([before, tokens, after])
        framed[row, 0, : len(whole)] = whole
        if directions == 2:
            framed[row, 1, : len(whole)] = whole[::-1]
    return framed


class FeaturePiece(NamedTuple):
    """Features of part of a sequence.

    Attributes:
      row: of the batch.
      columns: of the features that these are.
      start: place of the first residue.
      values: of the residues from there on.
    """

    row: int
    columns: slice
    start: int
    values: Float[np.ndarray, "residues columns"]


class SegmentFeatures:
    """Computes features.

    Args:
      trained: the model.
      layer: see `LanguageModel.embed`.
      pool: a name in POOLS for one vector a sequence, None for one a residue.
      dtype: of the result.
      devices: over which the rows are divided.

    Attributes:
      dim: of the features.
      shapes: (rows, seq, whole) that were compiled.
    """

    def __init__(
        self,
        trained: SequenceModel,
        layer: int | None,
        pool: str | None,
        dtype: str,
        devices: Sequence[jax.Device] | None = None,
    ):
        self._task, self._layer, self._pool = trained.task, layer, pool
        self._dtype = np.dtype(dtype)
        mesh = jax.make_mesh(
            (len(devices or jax.local_devices()),),
            ("data",),
            axis_types=(AxisType.Auto,),
            devices=devices or jax.local_devices(),
        )
        self._rows = NamedSharding(mesh, P("data"))
        self._everywhere = NamedSharding(mesh, P())
        self.use(trained.params)
        self._step = jax.jit(
            self._segment, donate_argnums=(4, 5) if jax.default_backend() != "cpu" else ()
        )
        self.shapes: set[tuple[int, int, bool]] = set()
        task = self._task
        one = {"tokens": jnp.zeros((1, task.directions, 8), jnp.uint8), "lengths": jnp.full(1, 8)}
        first = task.inference_carry(1, whole=True)
        features, _ = jax.eval_shape(lambda p: task.embed(p, one, first, layer), trained.params)
        self._width = features.shape[-1]
        self.dim = self._width * task.directions

    def use(self, params: Params) -> None:
        """Goes on with other parameters of the same shapes; nothing is compiled again."""
        self._params = jax.device_put(params, self._everywhere)

    def _segment(
        self,
        params: Params,
        tokens: UInt8[Array, "rows directions seq"],
        start: Int[Array, ""],
        residues: Int[Array, " rows"],
        carry: Carry,
        pooled: Pooled,
    ) -> tuple[Features | None, Carry, Pooled]:
        """Features of the next segment where nothing is pooled, and what is pooled so far."""
        before, after = map(len, self._task.boundary)
        lengths = jnp.clip(residues + before + after - start, 0, tokens.shape[-1])
        segment = {"tokens": tokens, "lengths": lengths}
        features, carry = self._task.embed(params, segment, carry, self._layer)
        if not self._pool:
            return features.astype(self._dtype), carry, pooled
        first = jnp.array([before, after][: self._task.directions])[None, :, None]
        place = start + jnp.arange(tokens.shape[-1]) - first
        inside = ((place >= 0) & (place < residues[:, None, None]))[..., None]
        if self._pool == "mean":
            pooled = pooled + jnp.where(inside, features, 0.0).sum(2)
        else:
            pooled = jnp.maximum(pooled, jnp.where(inside, features, -jnp.inf).max(2))
        return None, carry, pooled

    def __call__(
        self,
        sequences: Sequence[np.ndarray],
        batch: SequenceBatch,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[FeaturePiece]:
        """Starts a batch, and returns an iterator that waits for its features: start the next one
        before reading it.

        Args:
          sequences: token ids of each, without boundaries.
          batch: their shape.
          stopped: whether to end after a segment that is not the last; then pieces are missing or
            wrong.
        """
        steps = self._steps(sequences, batch, stopped)
        residues = np.array([len(s) for s in sequences])
        if self._pool:
            pooled = None
            for number, (_, _, pooled) in enumerate(steps):
                if number % AHEAD == AHEAD - 1:
                    jax.block_until_ready(pooled)
            return self._pooled(pooled, residues)
        first = next(steps, None)  # a batch of one segment is now on its way
        return self._residues(itertools.chain([first] if first else [], steps), residues)

    def _steps(
        self, sequences: Sequence[np.ndarray], batch: SequenceBatch, stopped: Callable[[], bool]
    ) -> Iterator[Step]:
        """(first place, features, pooled) of each segment."""
        directions, whole = self._task.directions, batch.segments == 1
        framed = frame(
            sequences, (batch.rows, batch.segments * batch.seq), self._task.boundary, directions
        )
        self.shapes.add((batch.rows, batch.seq, whole))
        put = lambda x: jax.device_put(x, self._rows)  # noqa: E731
        sizes = put(
            np.array([len(s) for s in sequences] + [0] * (batch.rows - len(sequences)), np.int32)
        )
        carry = jax.tree.map(put, self._task.inference_carry(batch.rows, whole=whole))
        empty = -np.inf if self._pool == "max" else 0.0
        pooled = put(
            np.full((batch.rows, directions, self._width if self._pool else 0), empty, np.float32)
        )
        for segment in range(batch.segments):
            if segment and stopped():
                return
            start = segment * batch.seq
            tokens = put(np.ascontiguousarray(framed[:, :, start : start + batch.seq]))
            features, carry, pooled = self._step(
                self._params, tokens, np.int32(start), sizes, carry, pooled
            )
            yield start, features, pooled

    def _pooled(self, pooled: Pooled, residues: np.ndarray) -> Iterator[FeaturePiece]:
        values = np.asarray(pooled)[: len(residues)]
        if self._pool == "mean":
            values = values / residues[:, None, None].astype(np.float32)
        for row in range(len(residues)):
            yield FeaturePiece(row, slice(None), 0, values[row].reshape(1, -1).astype(self._dtype))

    def _residues(self, steps: Iterator[Step], residues: np.ndarray) -> Iterator[FeaturePiece]:
        before: Step | None = None
        # a segment is fetched when the next one is on its way
        for step in itertools.chain(steps, [None]):
            if before:
                yield from self._pieces(*before[:2], residues)
            before = step

    def _pieces(
        self, start: int, features: Features, residues: np.ndarray
    ) -> Iterator[FeaturePiece]:
        before, after = map(len, self._task.boundary)
        values = np.asarray(features)
        for direction in range(values.shape[1]):
            columns = slice(direction * self._width, (direction + 1) * self._width)
            for row, count in enumerate(residues):
                # of this segment, in residues, in reading order
                first = start - (after if direction else before)
                a, b = max(first, 0), min(first + values.shape[2], int(count))
                if a >= b:
                    continue
                part = values[row, direction, a - first : b - first]
                yield (
                    FeaturePiece(row, columns, int(count) - b, part[::-1])
                    if direction
                    else FeaturePiece(row, columns, a, part)
                )

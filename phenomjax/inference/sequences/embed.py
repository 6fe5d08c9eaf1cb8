"""Embeds the sequences of queries with a language model, batch by batch."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from phenomjax.inference.sequences import queries, segments
from phenomjax.inference.sequences.batches import SequenceBatch
from phenomjax.system import log as system_log

log = logging.getLogger("phenomjax")


SAVE_SECONDS = 2.0


class Destination(Protocol):
    """Where features go, as `store.FeatureStore`."""

    def write(self, group: int, columns: slice, start: int, values: np.ndarray) -> None: ...
    def wrote(self, batch: int) -> None:
        """All features of a batch are written."""
        ...

    def save(self) -> None:
        """Makes sure that what was written will not be lost."""
        ...


def embed(
    found: queries.Queries,
    features: segments.SegmentFeatures,
    store: Destination,
    plan: Sequence[SequenceBatch],
    numbers: Sequence[int],
    stop: threading.Event,
) -> bool:
    """Fills the store batch by batch, longest sequences first; False if it was stopped.

    Args:
      found: the sequences.
      features: what computes.
      store: where the result goes.
      plan: of all of them (`batches.plan`).
      numbers: the batches of it that are to be done.
      stop: ends the work.
    """
    work = residues(found, plan)
    tell(found, plan)
    total = int(work.sum())
    left = sum(int(work[number]) for number in numbers)
    bar = system_log.Progress("embed", total, "residues", total - left)
    saved, started, done = time.monotonic(), time.monotonic(), 0
    for number in fill(found.group, features, store, plan, numbers, stop.is_set):
        done += 1
        bar.update(int(work[number]))
        if time.monotonic() - saved > SAVE_SECONDS:
            store.save()
            saved = time.monotonic()
    store.save()
    if done:
        log.info(
            "%s in %s, %s included",
            system_log.counted(bar.done - bar.resumed, "residue"),
            system_log.duration(time.monotonic() - started),
            system_log.counted(len(features.shapes), "compilation"),
        )
    return done == len(numbers)


def residues(found: queries.Queries, plan: Sequence[SequenceBatch]) -> np.ndarray:
    """How many each batch has: int64 [batches]."""
    ends = np.cumsum(found.lengths[found.order])
    return np.diff(ends[[batch.stop - 1 for batch in plan]], prepend=0)


def tell(found: queries.Queries, plan: Sequence[SequenceBatch]) -> None:
    """Says what there is to do."""
    log.info(
        "%s (%d different), %s, the longest %d: %s of %s",
        system_log.counted(len(found), "sequence"),
        len(found.order),
        system_log.counted(int(found.lengths.sum()), "residue"),
        found.lengths.max(),
        system_log.counted(len(plan), "batch"),
        system_log.counted(len({(b.rows, b.seq, b.segments == 1) for b in plan}), "shape"),
    )
    if long := sum(batch.stop - batch.start for batch in plan if batch.segments > 1):
        log.info("%d sequences are longer than %d tokens: read by segments", long, plan[0].seq)


def fill(
    sequence: Callable[[int], np.ndarray],
    features: segments.SegmentFeatures,
    store: Destination,
    plan: Sequence[SequenceBatch],
    numbers: Iterable[int],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Computes batches, and yields each when it is written: the next one is then on its way.

    Args:
      sequence: tokens of a sequence by its place in the order of work.
      features, store, plan, numbers: of `embed`.
      stopped: whether to end early.
    """
    running: tuple[int, Iterator[segments.FeaturePiece]] | None = None
    for number in [*numbers, None]:
        following = None
        if number is not None and not stopped():
            batch = plan[number]
            tokens = [sequence(i) for i in range(batch.start, batch.stop)]
            following = number, features(tokens, batch, stopped)
        if running:
            before, pieces = running
            for piece in pieces:
                store.write(
                    plan[before].start + piece.row, piece.columns, piece.start, piece.values
                )
            if stopped() and plan[before].segments > 1:  # it may be incomplete
                return
            store.wrote(before)
            yield before
        running = following
        if running is None and stopped():
            return

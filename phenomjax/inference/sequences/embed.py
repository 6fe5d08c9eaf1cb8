"""Embeds the sequences of queries with a language model, batch by batch."""

import logging
import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from phenomjax.inference.sequences import batches, queries, segments
from phenomjax.system import log as system_log
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")


SAVE_SECONDS = 2.0


class Destination(Protocol):
    """Where features go, as `store.FeatureStore`."""

    @property
    def done(self) -> int: ...
    def write(self, group: int, columns: slice, start: int, values: np.ndarray) -> None: ...
    def save(self, batches: int) -> None: ...


def embed(
    found: queries.Queries,
    model: SequenceModel,
    features: segments.SegmentFeatures,
    store: Destination,
    segment_len: int,
    batch_tokens: int,
    devices: int,
    stop,
) -> bool:
    """Fills the store batch by batch, longest sequences first; False if it was stopped.

    Args:
      found: the sequences.
      model, features: what computes.
      store: where the result goes; its first batches may be there already.
      segment_len, batch_tokens: of the plan.
      devices: number of them.
      stop: an event.
    """
    frame = sum(map(len, model.task.boundary))
    lengths = found.lengths[found.order]
    plan = batches.plan(lengths + frame, segment_len, batch_tokens, devices)
    done = store.done
    work = np.array([lengths[batch.start : batch.stop].sum() for batch in plan])
    shapes = {(batch.rows, batch.seq, batch.segments == 1) for batch in plan}
    log.info(
        "%s (%d different), %s, the longest %d: %s of %s",
        system_log.counted(len(found), "sequence"),
        len(found.order),
        system_log.counted(int(found.lengths.sum()), "residue"),
        found.lengths.max(),
        system_log.counted(len(plan), "batch"),
        system_log.counted(len(shapes), "shape"),
    )
    if long := int((found.lengths + frame > segment_len).sum()):
        log.info("%d sequences are longer than %d tokens: read by segments", long, segment_len)
    bar = system_log.Progress("embed", int(work.sum()), "residues", int(work[:done].sum()))
    saved, started = time.monotonic(), time.monotonic()
    running: tuple[int, Iterator[segments.FeaturePiece]] | None = None
    for number in [*range(done, len(plan)), None]:
        following = None
        if number is not None and not stop.is_set():
            batch = plan[number]
            members = found.order[batch.start : batch.stop]
            following = number, features([found.sequence(i) for i in members], batch, stop.is_set)
        if running:
            number, pieces = running
            for piece in pieces:
                store.write(
                    plan[number].start + piece.row, piece.columns, piece.start, piece.values
                )
            if stop.is_set() and plan[number].segments > 1:  # it may be incomplete
                break
            done = number + 1
            bar.update(int(work[number]))
            if time.monotonic() - saved > SAVE_SECONDS:
                store.save(done)
                saved = time.monotonic()
        running = following
        if running is None and stop.is_set():
            break
    store.save(done)
    if done:
        seconds = time.monotonic() - started
        log.info(
            "%s in %s, %s included",
            system_log.counted(bar.done - bar.resumed, "residue"),
            system_log.duration(seconds),
            system_log.counted(len(features.shapes), "compilation"),
        )
    return done == len(plan)

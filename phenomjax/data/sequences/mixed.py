"""Several banks of sequences mixed by shares, which may change on the way, as lanes and a stream
that `lanes.LaneLoader` reads like those of one corpus.

A row reads a stretch of one bank, some segments one after the other, and then a stretch of the bank
whose turn it is; the rows change at different steps. Each bank is shuffled and cut into stretches
anew in each of its epochs, whose last tokens, less than a stretch, are left out until another one.
Stretches are counted over all rows and steps, so which one a row reads is a function of the
position, also where shares or the rows of a batch change: all rows begin another stretch there.
"""

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from phenomjax.data.batches import Batches
from phenomjax.data.mixture import Mixture, Shares
from phenomjax.data.sequences.segments import Segments

SEGMENTS = 64  # of a stretch
STRETCHES = 8  # at least, of the smallest bank, which shortens them


@dataclass(frozen=True)
class _Stage:
    """Positions with the same rows and shares: the first, the rows, the stretches begun before."""

    position: int
    rows: int
    before: int


class MixedPlan:
    """The segments of all positions; takes the place of `segments.LanePlan`.

    Args:
      batches: their sizes.
      weights: (position, share of each bank) from which on they are mixed so.
      tokens: of each bank.
      segment_len: tokens of a segment.
      reach: tokens on both sides of a stretch that its rows may read, too.

    Attributes:
      segments: of a stretch.
      stretch: its tokens.
      reach, window: positions of the stream that are kept for a stretch on each side, and in all.
      banks: `Mixture` of the stretches.
    """

    def __init__(
        self,
        batches: Batches,
        weights: Shares,
        tokens: Sequence[int],
        segment_len: int,
        reach: int,
    ):
        least = min(count for count in tokens if count)
        self.segments = min(max(least // (STRETCHES * segment_len), 1), SEGMENTS)
        self.stretch = self.segments * segment_len
        self.reach, self.window = reach, self.stretch + 2 * reach
        self._tokens, self._segment_len = sum(tokens), segment_len
        edges = {position for position, _ in batches.stages}
        edges |= {max(position, batches.begin) for position, _ in weights}
        self._stages: list[_Stage] = []
        for position in sorted(edges):
            before = self._begun(position) if self._stages else 0
            self._stages.append(_Stage(position, batches.rows(position), before))
        starts = {stage.position: stage.before for stage in self._stages}
        self.banks = Mixture([(starts[max(at, batches.begin)], shares) for at, shares in weights])

    def lanes(self, rows: int) -> int:
        """Stretches that are read at a time."""
        return rows

    def lane_len(self, rows: int) -> int:
        """Tokens of a stretch."""
        return self.stretch

    def steps(self, rows: int) -> int:
        """Steps of so many rows that read as many tokens as all banks have."""
        return self._tokens // rows // self._segment_len

    def at(self, position: int, rows: Sequence[int]) -> Segments:
        """What some rows of the batch at a position read."""
        stage = self._stage(position)
        row = np.array(rows, np.int64)
        turn, number = np.divmod(
            position - stage.position + row * self.segments // stage.rows, self.segments
        )
        lane = stage.before + turn * stage.rows + row
        fresh = (number == 0) | (position == stage.position)
        begin = lane * self.window + self.reach
        return Segments(0, self.stretch, self.segments, lane, begin, number, fresh)

    def _stage(self, position: int) -> _Stage:
        positions = [stage.position for stage in self._stages]
        return self._stages[max(bisect.bisect_right(positions, position) - 1, 0)]

    def _begun(self, position: int) -> int:
        """Stretches that are begun before a position, or left out."""
        last = self._stages[-1]
        steps = position - 1 - last.position + (last.rows - 1) * self.segments // last.rows
        return last.before + (steps // self.segments + 1) * last.rows


class MixedStream:
    """The stretches of all banks one behind the other, as their plan counts them.

    Args:
      plan: says which stretch is of which bank.
      tokens: of each bank.
      epoch: makes (the `corpus.EpochStream` of a bank's epoch, the place in it where its first
        stretch begins).
    """

    def __init__(self, plan: MixedPlan, tokens: Sequence[int], epoch):
        self._plan, self._stretches = plan, [max(n // plan.stretch, 1) for n in tokens]
        self._epoch = functools.lru_cache(maxsize=2 * len(tokens))(epoch)

    def __len__(self) -> int:
        """More than any run reads."""
        return self._plan.window << 36

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "tokens"]:
        """Tokens of the bank that has the stretch in whose window they begin."""
        stream, place = self._find(start)
        return stream.read(place, place + stop - start)

    def sequence_at(self, position: int) -> int:
        """The id of the sequence that a position belongs to."""
        stream, place = self._find(position)
        return stream.sequence_at(place)

    def elsewhere(self, near: int, draw: int, count: int) -> UInt8[np.ndarray, "tokens"]:
        """Tokens from anywhere in the same epoch of the same bank."""
        stream, _ = self._find(near)
        return stream.elsewhere(near, draw, count)

    def _find(self, position: int):
        """(stream of the bank's epoch, place in it) of a position."""
        stretch, offset = divmod(position % len(self), self._plan.window)
        bank, number = self._plan.banks.at(stretch)
        count = self._stretches[bank]
        epoch, number = divmod(number, count)
        stream, first = self._epoch(bank, epoch)
        # neighbours in the stream follow each other closely: rows would be of one part of it
        number = number * _stride(count) % count
        return stream, (first + number * self._plan.stretch + offset - self._plan.reach) % len(
            stream
        )


@functools.cache
def _stride(count: int) -> int:
    """A step that comes to each of `count` places once before any twice, and soon everywhere: near
    the golden section of them.
    """
    step = max(round(count * (math.sqrt(5) - 1) / 2), 1)
    while math.gcd(step, count) > 1:
        step += 1
    return step

"""Which segment of which lane a row of a batch reads, also where the number of rows changes in the
middle of an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from phenomjax.data.batches import Batches


class Segments(NamedTuple):
    """What the rows of a batch read.

    Attributes:
      epoch: from 0 on.
      lane_len: tokens of a lane of this epoch.
      steps: whole segments of a lane.
      lane: of each row.
      begin: where it begins in the epoch.
      number: of its segment, in the order in which the segments of a lane are read.
      fresh: whether the row read something else the step before than the segment before.
    """

    epoch: int
    lane_len: int
    steps: int
    lane: Int64[np.ndarray, " rows"]
    begin: Int64[np.ndarray, " rows"]
    number: Int64[np.ndarray, " rows"]
    fresh: Bool[np.ndarray, " rows"]


@dataclass(frozen=True)
class _Level:
    """Rows that share out what rows before have left of an epoch, or at first all of it.

    Attributes:
      rows: how many.
      steps: segments that each reads.
      taken: segments that each of those before has read.
      left: that each of those before has left.
    """

    rows: int
    steps: int
    taken: int = 0
    left: int = 0


@dataclass(frozen=True)
class _Stage:
    """Batches of one size.

    Attributes:
      position: of the first.
      rows: of each.
      epoch: in which it begins, or where it begins with an epoch the one before.
      levels: what is left of that epoch is shared out so, the last are its own rows; () = nothing
        is.
    """

    position: int
    rows: int
    epoch: int
    levels: tuple[_Level, ...]


class OncePlan:
    """The segments of an evaluation, whose sums do not depend on how many rows a batch has.

    The text is cut into lanes of a length that it alone decides, and a batch reads as many of them
    as it has rows, from end to end, before it goes on with the next. A lane begins without memory,
    so a shorter one costs context, and a longer one leaves rows without work where there are fewer
    lanes than rows.

    Args:
      batches: all of one size.
      tokens: of the text.
      segment_len: tokens of a segment.
    """

    LANES, SHORTEST, LONGEST = 256, 4, 32  # how many are wanted; segments of one

    def __init__(self, batches: Batches, tokens: int, segment_len: int):
        segments = -(-tokens // segment_len)
        self._rows, self._segment_len = batches.most, segment_len
        self._segments = min(max(segments // self.LANES, self.SHORTEST), self.LONGEST)
        self._lanes = -(-segments // self._segments)

    def lanes(self, rows: int) -> int:
        """How many there are, read by so many rows."""
        return self._lanes

    def lane_len(self, rows: int) -> int:
        """Tokens of each."""
        return self._segments * self._segment_len

    def steps(self, rows: int) -> int:
        """Steps in which so many rows read all of them."""
        return -(-self._lanes // rows) * self._segments

    def at(self, position: int, rows: Sequence[int]) -> Segments:
        """What some rows of the batch at a position read; a lane behind the last one is empty."""
        epoch, step = divmod(position, self.steps(self._rows))
        turn, segment = divmod(step, self._segments)
        lane = np.array(rows, np.int64) + turn * self._rows
        number, fresh = np.full_like(lane, segment), np.full(len(lane), segment == 0)
        length = self.lane_len(self._rows)
        return Segments(epoch, length, self._segments, lane, lane * length, number, fresh)


class LanePlan:
    """The segments of all steps.

    An epoch is cut into as many lanes as a batch has rows, and a step reads the next segment of
    each. Where the rows of a batch change, the segments that are left of all lanes, in their order,
    are shared out among the new rows; fewer than one a row are left out until another epoch, and
    none is read twice.

    Args:
      batches: their sizes.
      tokens: of an epoch.
      segment_len: tokens of a segment.
      whole: False: the last lanes may be shorter than the others, and all tokens are read.
    """

    def __init__(self, batches: Batches, tokens: int, segment_len: int, whole: bool = True):
        self._tokens, self._segment_len, self._whole = tokens, segment_len, whole
        self._stages: list[_Stage] = []
        for position, rows in batches.stages:
            self._stages.append(self._stage(position, rows))

    def lanes(self, rows: int) -> int:
        """As many as rows."""
        return rows

    def lane_len(self, rows: int) -> int:
        """Tokens of each of so many lanes."""
        return self._tokens // rows if self._whole else -(-self._tokens // rows)

    def steps(self, rows: int) -> int:
        """Steps of an epoch of so many lanes."""
        length = self.lane_len(rows)
        return length // self._segment_len if self._whole else -(-length // self._segment_len)

    def at(self, position: int, rows: Sequence[int]) -> Segments:
        """What some rows of the batch at a position read."""
        epoch, levels, segment = self._find(position)
        lane = np.array(rows, np.int64)
        number, fresh = np.full_like(lane, segment), np.full(len(lane), segment == 0)
        for level in reversed(levels[1:]):
            lane, within = np.divmod(lane * level.steps + number, level.left)
            number, fresh = level.taken + within, fresh | (within == 0)
        lane_len, begin = self.lane_len(levels[0].rows), lane * self.lane_len(levels[0].rows)
        return Segments(epoch, lane_len, levels[0].steps, lane, begin, number, fresh)

    def _stage(self, position: int, rows: int) -> _Stage:
        """The stage that begins at a position, behind those there are."""
        if not self._stages:
            return _Stage(position, rows, -1, ())
        epoch, levels, segment = self._find(position)
        if not segment and len(levels) == 1:
            return _Stage(position, rows, epoch - 1, ())
        left = levels[-1].steps - segment
        own = _Level(rows, levels[-1].rows * left // rows, segment, left)
        return _Stage(position, rows, epoch, (*levels, own))

    def _find(self, position: int) -> tuple[int, tuple[_Level, ...], int]:
        """(epoch, its levels, the segment of the last) at a position."""
        stage = next(each for each in reversed(self._stages) if each.position <= position)
        segment = position - stage.position
        if stage.levels:
            if segment < stage.levels[-1].steps:
                return stage.epoch, stage.levels, segment
            segment -= stage.levels[-1].steps
        steps = self.steps(stage.rows)
        epochs, segment = divmod(segment, steps)
        return stage.epoch + 1 + epochs, (_Level(stage.rows, steps),), segment

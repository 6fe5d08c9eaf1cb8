"""Batches of sequences by length, in few fixed shapes: which sequences, padded to what. Arrays and
numbers only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SHORTEST = 64  # tokens of the smallest bucket
WINDOW = 1024  # tokens of a row in which XLNet predicts hidden ones; of longer sequences a part
LADDER = 4  # an incomplete batch has its rows divided by this as often as that leaves room for it


class SequenceBatch(NamedTuple):
    """Sequences start to stop of those sorted by length, longest first.

    Attributes:
      start, stop: which.
      rows, seq: shape of each segment; rows beyond stop - start are padding.
      segments: that are read one after the other.
    """

    start: int
    stop: int
    rows: int
    seq: int
    segments: int


def buckets(segment_len: int) -> list[int]:
    """Lengths of sequences that are read in one piece: 64, 96, 128, 192, … and `segment_len`."""
    sizes, size = [], SHORTEST
    while size < segment_len:
        sizes += [size, size + size // 2]
        size *= 2
    return [*(size for size in sizes if size < segment_len), segment_len]


def window_width(length: int, window: int = WINDOW) -> int:
    """Tokens of a row that holds a framed sequence, or a window of it."""
    return min(next((size for size in buckets(window) if size >= length), window), window)


def rows_for(count: int, most: int, multiple: int) -> int:
    """The smallest of `most`, most / 4, most / 16, … rows that holds `count`, all multiples of
    `multiple`.
    """
    rows = most = max(multiple, most // multiple * multiple)
    while (
        rows > multiple
        and (smaller := max(rows // LADDER // multiple * multiple, multiple)) >= count
    ):
        rows = smaller
    return rows


def plan(
    lengths: Sequence[int] | np.ndarray, segment_len: int, batch_tokens: int, multiple: int = 1
) -> list[SequenceBatch]:
    """Divides sequences into batches; a function of the arguments alone.

    Long sequences are read by segments, together with others of at least half their length. A
    bucket has one shape, and a last, incomplete batch of a bucket without full ones has fewer rows.

    Args:
      lengths: of the sequences with their boundary tokens, falling.
      segment_len: tokens of a segment.
      batch_tokens: of a batch and segment, padding included.
      multiple: of the rows, for several devices.
    """
    lengths = np.asarray(lengths)
    batches: list[SequenceBatch] = []
    falling = -lengths
    start, most = 0, max(batch_tokens // segment_len, 1)
    end_of_long = int(np.searchsorted(falling, -segment_len))
    while start < end_of_long:
        longest = int(lengths[start])
        alike = int(np.searchsorted(falling, -(longest // 2), side="right"))
        stop = min(alike, start + rows_for(most, most, multiple), end_of_long)
        rows = rows_for(stop - start, most, multiple)
        batches.append(SequenceBatch(start, stop, rows, segment_len, -(-longest // segment_len)))
        start = stop
    sizes = buckets(segment_len)
    for size, below in zip(reversed(sizes), [*reversed(sizes[:-1]), 0], strict=True):
        end = int(np.searchsorted(falling, -below))
        most = max(batch_tokens // size, 1)
        full = rows_for(most, most, multiple)
        rows = full if end - start >= full else rows_for(end - start, most, multiple)
        while start < end:
            stop = min(start + rows, end)
            batches.append(SequenceBatch(start, stop, rows, size, 1))
            start = stop
    return batches

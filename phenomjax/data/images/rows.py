"""Rows of a bank in increasing order, kept as runs of neighbours: a split takes whole plates, so
those of 100 million images are a few thousand runs.
"""

import bisect
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Int64


class Rows:
    """Rows in increasing order.

    Args:
      starts: first row of each run, in increasing order.
      stops: the row behind each run; a run may begin there.
    """

    def __init__(self, starts: Int[np.ndarray, "runs"], stops: Int[np.ndarray, "runs"]):
        starts, stops = starts[stops > starts], stops[stops > starts]
        first = np.concatenate([[True], starts[1:] != stops[:-1]])[: len(starts)]
        last = np.concatenate([first[1:], [True]])[: len(starts)]
        self.starts, self.stops = starts[first].astype(np.int64), stops[last].astype(np.int64)
        before = np.concatenate([[0], np.cumsum(self.stops - self.starts)])
        # plain integers at a tenth of the time that NumPy takes for one
        self._starts, self._stops = memoryview(self.starts.data), memoryview(self.stops.data)
        self._before = memoryview(before.data)

    @classmethod
    def all(cls, count: int) -> "Rows":
        """The rows 0 to count - 1."""
        return cls(np.array([0]), np.array([count]))

    @classmethod
    def of(cls, rows: Int[np.ndarray, "rows"]) -> "Rows":
        """Rows that are in increasing order."""
        return cls(rows, rows + 1)

    def __len__(self) -> int:
        return self._before[-1]

    def __getitem__(self, place: int) -> int:
        """The row at a place from 0 on."""
        run = bisect.bisect_right(self._before, place) - 1
        return self._starts[run] + place - self._before[run]

    def __contains__(self, row: int) -> bool:
        run = bisect.bisect_right(self._starts, row) - 1
        return run >= 0 and row < self._stops[run]

    def __iter__(self) -> Iterator[int]:
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield from range(start, stop)

    def __and__(self, other: "Rows") -> "Rows":
        """The rows that both have."""
        edges = np.unique(np.concatenate([self.starts, self.stops, other.starts, other.stops]))
        inside = [
            np.searchsorted(one.starts, edges[:-1], side="right")
            > np.searchsorted(one.stops, edges[:-1], side="right")
            for one in (self, other)
        ]
        both = inside[0] & inside[1]
        return Rows(edges[:-1][both], edges[1:][both])

    def array(self) -> Int64[np.ndarray, "rows"]:
        """All of them, 8 bytes each."""
        sizes = self.stops - self.starts
        return np.arange(len(self)) + np.repeat(self.starts - self._before[:-1], sizes)

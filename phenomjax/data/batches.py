"""How many rows the batches of a run have, which may change with their position in the data."""

import bisect
import itertools
from collections.abc import Sequence

import numpy as np


class Batches:
    """The sizes of the batches of all positions.

    Args:
      stages: (position of the first batch, rows of a batch) of each stage, rising. The first says
        where these data begin: at 0, or where another run went on with other data than before.

    Attributes:
      stages: those whose rows differ from those before.
      begin: position of the first batch.
      most: rows of the largest.
    """

    def __init__(self, stages: Sequence[tuple[int, int]]):
        kept = [stages[0], *(b for a, b in itertools.pairwise(stages) if a[1] != b[1])]
        self.stages = kept
        self.begin, self.most = kept[0][0], max(rows for _, rows in kept)
        self._positions = [position for position, _ in kept]

    def rows(self, position: int) -> int:
        """Rows of the batch at a position."""
        return self.stages[max(bisect.bisect_right(self._positions, position) - 1, 0)][1]

    def block(self, position: int, index: int, count: int) -> range:
        """The rows that process `index` of `count` reads of the batch at a position."""
        rows = self.rows(position)
        return range(index * rows // count, (index + 1) * rows // count)

    def seed(self, seed: int) -> int:
        """The seed of the order of the data: that of the run, or where they begin later another
        one, or what was read before would be read again.
        """
        if not self.begin:
            return seed
        return int(np.random.SeedSequence([seed, self.begin]).generate_state(1)[0])

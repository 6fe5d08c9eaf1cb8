"""Where the records of each split and piece come to lie in the bank."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from phenomjax.prepare.sequences.plan import write_arrays


class BankLayout(NamedTuple):
    """Places are the pieces of each split, one split after the other.

    Attributes:
      records, tokens: int64 [splits * pieces + 1], the first record and token of each place; last,
        the total.
    """

    records: Int64[np.ndarray, "places_and_end"]
    tokens: Int64[np.ndarray, "places_and_end"]

    @classmethod
    def of(cls, records: np.ndarray, tokens: np.ndarray) -> "BankLayout":
        """The layout of so many records and tokens, int64 [splits, pieces] each."""
        edges = (np.concatenate([[0], counts.ravel().cumsum()]) for counts in (records, tokens))
        return cls(*edges)

    def write(self, work: Path) -> None:
        """Writes it into the work folder, for those who write parts."""
        write_arrays(work / "layout", self.records, self.tokens)

    @classmethod
    def read(cls, work: Path) -> "BankLayout":
        """What `write` wrote, mapped into memory."""
        records, tokens = np.memmap(work / "layout", np.int64, "r").reshape(2, -1)
        return cls(np.asarray(records), np.asarray(tokens))

    def places(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The places that hold the records [start:stop] of the bank, and which of each place's
        records those are: place, first, last + 1.
        """
        place = int(np.searchsorted(self.records, start, side="right")) - 1
        while start < stop:
            begin, end = (int(edge) for edge in self.records[place : place + 2])
            last = min(end, stop)
            if last > start:
                yield place, start - begin, last - begin
                start = last
            place += 1

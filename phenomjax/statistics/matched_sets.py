"""Sets of wells that share positions as the replicates of a perturbation do, but nothing else: the
null of consistency where every replicate of a perturbation lies in the same well of its plate.

Wells of one position on several plates look alike without a common perturbation: edges dry out,
cells settle unevenly, plates are read from one corner to the other. A set that shares its position
shows how much. Its wells are of different perturbations, or negative controls, of which a set may
hold several.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Int, Shaped

from phenomjax.statistics.groups import rows_of_groups

Pattern = tuple[int, ...]  # wells in each position of a set, most first: (3,) or (2, 1)
TRIED = 50000  # sets of wells that are looked through one by one rather than drawn


def patterns_of(
    codes: Int[np.ndarray, " wells"], positions: Shaped[np.ndarray, " wells"]
) -> list[Pattern]:
    """How the wells of each group lie: their numbers in each position, most first. A well whose
    position is unknown ("") shares it with none.

    Args:
      codes: group of each well, 0 … groups - 1.
    """
    counts: list[Counter[str]] = [Counter() for _ in range(int(codes.max(initial=-1)) + 1)]
    for well, (code, position) in enumerate(zip(codes.tolist(), positions.tolist(), strict=True)):
        counts[code][position or f"unknown {well}"] += 1
    return [tuple(sorted(count.values(), reverse=True)) for count in counts]


@dataclass(frozen=True)
class MatchedSets:
    """Draws sets of rows that share positions.

    Attributes:
      positions: of each row, "" where unknown.
      codes: perturbation of each row, -1 of a negative control.
    """

    positions: Shaped[np.ndarray, " rows"]
    codes: Int[np.ndarray, " rows"]

    def draw(self, pattern: Pattern, draws: int, seed: int) -> Int[np.ndarray, "sets count"]:
        """Row numbers of different sets that lie as the pattern says, at most `draws`: all there
        are where they are few.
        """
        rng = np.random.default_rng(seed)
        pools = {size: self._pools(size) for size in set(pattern)}
        if not all(pools.values()):
            return np.empty((0, sum(pattern)), np.int64)
        if len(pattern) == 1 and sum(comb(len(pool), pattern[0]) for pool in pools[pattern[0]]) <= (
            TRIED
        ):
            every = [
                rows
                for pool in pools[pattern[0]]
                for rows in combinations(pool.tolist(), pattern[0])
                if self._different(rows)
            ]
            kept = rng.choice(len(every), draws, replace=False) if len(every) > draws else None
            return np.array(every if kept is None else [every[k] for k in np.sort(kept)], np.int64)
        found: set[tuple[int, ...]] = set()
        for attempt in range(5 * draws):
            rows = tuple(
                row
                for size in pattern
                for pool in [pools[size][rng.integers(len(pools[size]))]]
                for row in rng.choice(pool, size, replace=False).tolist()
            )
            if len(set(self.positions[list(rows)])) == len(pattern) and self._different(rows):
                found.add(tuple(sorted(rows)))
            if len(found) == draws or (attempt > draws // 4 and not found):
                break
        return np.array(sorted(found), np.int64).reshape(-1, sum(pattern))

    def _different(self, rows: tuple[int, ...]) -> bool:
        treated = [code for code in self.codes[list(rows)].tolist() if code >= 0]
        return len(set(treated)) == len(treated)

    def _pools(self, size: int) -> list[Int[np.ndarray, " pool"]]:
        """The rows of each position that can give so many wells that share nothing else."""
        known = np.flatnonzero(self.positions != "")
        _, place = np.unique(self.positions[known].astype(str), return_inverse=True)
        kept = []
        for pool in (known[rows] for rows in rows_of_groups(place)):
            codes = self.codes[pool]
            if (codes < 0).sum() + len(np.unique(codes[codes >= 0])) >= size:
                kept.append(pool)
        return kept

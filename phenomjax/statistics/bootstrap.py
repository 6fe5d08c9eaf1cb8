"""The bootstrap: how far a number would move, had other samples of the same kind been drawn."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

DRAWS = 1000
LEVEL = 0.95
PAIRS_DRAWS_AT_ONCE = 20  # weights that stay in the cache
AT_ONCE = 2**20  # rows drawn at once, of all draws together


def drawn(
    count: int, draws: int = DRAWS, seed: int = 0, at_once: int | None = None
) -> Iterator[Int[np.ndarray, "some count"]]:
    """Rows that each draw takes, `count` of `count` with replacement; some draws at once.

    Args:
      count: of rows.
      draws: how many.
      seed: the rows of a draw are the same for every `at_once`.
      at_once: draws in one array; as many as fit by default.
    """
    random = np.random.default_rng(seed)
    block = at_once or max(1, AT_ONCE // max(count, 1))
    for start in range(0, draws, block):
        yield random.integers(0, count, (min(block, draws - start), count))


def times_drawn(rows: Int[np.ndarray, "some count"]) -> Int[np.ndarray, "some count"]:
    """How often each row is in each draw."""
    some, count = rows.shape
    cells = rows + count * np.arange(some)[:, None]
    return np.bincount(cells.ravel(), minlength=some * count).reshape(some, count)


def interval(values: Float[np.ndarray, " draws"], level: float = LEVEL) -> list[float] | None:
    """Percentile interval of draws; None where none of them is defined."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    return [float(q) for q in np.quantile(values, [(1 - level) / 2, (1 + level) / 2])]


def interval_of_mean(
    values: Num[np.ndarray, " n"] | Bool[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[float] | None:
    """95 % interval of a mean, by bootstrap over its values, or over groups of them that stay
    together; None without values.

    Args:
      values: NaN is left out.
      groups: any names.
      draws: of the bootstrap.
      seed: of the draws.
    """
    kept = np.isfinite(np.asarray(values, np.float64))
    values = np.asarray(values, np.float64)[kept]
    if not len(values) or not draws:
        return None
    codes = (
        np.arange(len(values))
        if groups is None
        else np.unique(np.asarray(groups)[kept].astype(str), return_inverse=True)[1]
    )
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes)
    means = [
        sums[rows].sum(1) / sizes[rows].sum(1) for rows in drawn(int(codes.max()) + 1, draws, seed)
    ]
    return interval(np.concatenate(means))


def interval_of_pairs(
    hit: Bool[np.ndarray, " pairs"],
    pairs: Int[np.ndarray, "pairs 2"],
    draws: int = DRAWS,
    seed: int = 0,
) -> list[float] | None:
    """95 % interval of the share of pairs that are hit, by bootstrap over the entities of these
    pairs; None without pairs.

    Pairs share entities (a gene of a large complex is in a hundred of them) and are not
    independent: in each draw entity i has a multinomial weight w_i, and pair (i, j) counts
    w_i w_j times.

    Args:
      hit: which pairs are.
      pairs: any numbers that name entities.
      draws: of the bootstrap.
      seed: of the draws.
    """
    if not len(pairs) or not draws:
        return None
    from scipy.sparse import coo_array

    names, codes = np.unique(pairs, return_inverse=True)
    codes, count = codes.reshape(-1, 2), len(names)
    places = (codes[:, 0], codes[:, 1])
    hits = coo_array((hit.astype(np.float32), places), shape=(count, count)).tocsr()
    every = coo_array((np.ones(len(pairs), np.float32), places), shape=(count, count)).tocsr()
    shares = []
    for rows in drawn(count, draws, seed, PAIRS_DRAWS_AT_ONCE):
        weight = np.ascontiguousarray(times_drawn(rows).T, np.float32)
        found, total = (((one @ weight) * weight).sum(0) for one in (hits, every))
        nothing = np.full(len(rows), np.nan, np.float32)
        shares.append(np.divide(found, total, out=nothing, where=total > 0))
    return interval(np.concatenate(shares))

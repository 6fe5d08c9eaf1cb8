"""Recall of known relationships: how many known pairs are among the most similar or most opposite
of all pairs of the map.

EFAAR's definition: the null is the cosines of all pairs of the map, the known ones included; for a
known pair with cosine q, left = share of the null below q, right = share at most q; it is recalled
at (low, high) when right <= low or left >= high. By chance low + (1 - high) of the pairs are.

The null of 17,000 genes has 144 million values, of which two order statistics a pair of thresholds
decide: q is recalled when it is less than the (K + 1)-th smallest, K the most that is at most low *
n, or greater than the k-th smallest, k the least that is at least high * n. They are found exactly
in one pass: a sample brackets them, the pass counts what lies below each bracket and keeps what
lies in it. The recall is that of sorting everything (in float32 cosines), and a hundred times as
fast as looking pairs up in a square table.

Less and greater are meant with a tolerance (`statistics.ties`): of cosines that are equal on paper
none is recalled and another not because of how a processor rounds them.

Intervals: bootstrap over entities, not over pairs (`bootstrap.interval_of_pairs`); the null is held
fixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Num

from phenomjax.maps.relations.cosines import upper_blocks
from phenomjax.statistics import ties
from phenomjax.system.errors import UserError

THRESHOLDS = ((0.05, 0.95),)
TAILS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25)  # (t, 1 - t) of the curves
LEAST_ENTITIES = 20  # of a map; EFAAR: with fewer, recall says nothing
SAMPLE = 10**6  # random pairs that bracket the order statistics


def too_few(entities: int) -> str:
    """Why recall cannot be had of a map with so many genes; "" where it can."""
    if entities >= LEAST_ENTITIES:
        return ""
    return f"the map has {entities} genes; below {LEAST_ENTITIES} recall says nothing"


def read_thresholds(words: Sequence[str]) -> list[tuple[float, float]]:
    """LOW,HIGH each, as numbers.

    Raises:
      UserError: not LOW,HIGH with 0 <= LOW < HIGH <= 1.
    """
    found = []
    for word in words:
        try:
            low, high = (float(part) for part in word.split(","))
        except ValueError:
            low, high = 1.0, 0.0
        if not 0 <= low < high <= 1:
            raise UserError(
                f"`thresholds` {word}: each is LOW,HIGH, two shares of all pairs with LOW < HIGH,"
                " as 0.05,0.95."
            )
        found.append((low, high))
    return found


def recall_of(
    null: Num[np.ndarray, " null"], query: Num[np.ndarray, " pairs"], low: float, high: float
) -> float:
    """The definition, with the whole null at hand; values that tie (`ties`) count as equal."""
    null = np.sort(null)
    left, right = ties.less(null, query) / len(null), ties.at_most(null, query) / len(null)
    return float(((right <= low) | (left >= high)).mean())


def order_statistics(
    rows: Float32[np.ndarray, "rows dim"], ranks: Sequence[int], seed: int = 0
) -> Float32[np.ndarray, " ranks"]:
    """The ranks-th smallest (from 0) cosines of all pairs i < j of unit rows, exactly, float32
    [ranks].

    Args:
      rows: float32 [n, dim], n >= 2.
    """
    count = len(rows) * (len(rows) - 1) // 2
    if count <= SAMPLE:
        null = all_cosines(rows)
        return np.partition(null, sorted(set(ranks)))[list(ranks)]
    sample = np.sort(sampled_cosines(rows, SAMPLE, seed))
    share = (np.asarray(ranks) + 0.5) / count
    margin = (
        8 * np.sqrt(share * (1 - share) / SAMPLE) + 4 / SAMPLE
    )  # missed about once in 10^15 brackets; then it is widened
    while True:
        low, high = (_at(sample, share + sign * margin, sign) for sign in (-1, 1))
        below, inside = _count(rows, low, high)
        within = [
            b <= rank < b + len(kept) for rank, b, kept in zip(ranks, below, inside, strict=True)
        ]
        if all(within):
            picked = [
                np.partition(kept, rank - b)[rank - b]
                for rank, b, kept in zip(ranks, below, inside, strict=True)
            ]
            return np.array(picked, np.float32)
        margin = margin * 4


def _at(
    ordered: Float32[np.ndarray, " sample"], share: Float[np.ndarray, " ranks"], sign: int
) -> Float32[np.ndarray, " ranks"]:
    """Quantiles of a sorted sample; beyond its ends -2 or 2, which no cosine passes."""
    place = np.floor(share * len(ordered)).astype(int)
    values = ordered[np.clip(place, 0, len(ordered) - 1)]
    return np.where((place < 0) | (place >= len(ordered)), np.float32(2 * sign), values).astype(
        np.float32
    )


def _count(
    rows: Float32[np.ndarray, "rows dim"],
    low: Float32[np.ndarray, " ranks"],
    high: Float32[np.ndarray, " ranks"],
) -> tuple[Int[np.ndarray, " ranks"], list[Float32[np.ndarray, "_"]]]:
    """In one pass over all pairs: how many lie below each bracket, and those that lie in it."""
    below = np.zeros(len(low), np.int64)
    inside: list[list[np.ndarray]] = [[] for _ in low]
    for _, block in upper_blocks(rows):
        # each pair once: NaN is below and in no bracket
        block[:, : len(block)][np.tril_indices(len(block))] = np.nan
        for k in range(len(low)):
            under = block < low[k]
            below[k] += np.count_nonzero(under)
            within = block <= high[k]
            np.not_equal(within, under, out=within)
            inside[k].append(block.reshape(-1)[np.flatnonzero(within)])
    return below, [np.concatenate(parts) for parts in inside]


def all_cosines(rows: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, " pairs"]:
    """The cosines of all pairs i < j of unit rows; for maps whose square fits the memory."""
    parts = [np.empty(0, np.float32)]
    for _, block in upper_blocks(rows):
        parts += [
            block[:, : len(block)][np.triu_indices(len(block), 1)],
            block[:, len(block) :].ravel(),
        ]
    return np.concatenate(parts)


def sampled_cosines(
    rows: Float32[np.ndarray, "rows dim"], count: int, seed: int
) -> Float32[np.ndarray, " pairs"]:
    """Cosines of `count` random pairs of different rows (a row drawn with itself is left out),
    float32.
    """
    pairs = np.random.default_rng(seed).integers(0, len(rows), (count, 2))
    return pair_cosines(rows, pairs[pairs[:, 0] != pairs[:, 1]])


def sorted_null(
    rows: Float32[np.ndarray, "rows dim"], seed: int = 0
) -> Float32[np.ndarray, " pairs"]:
    """All cosines of a map, sorted, where they are at most SAMPLE; else those of SAMPLE random
    pairs (a share is off by .0005 at most).
    """
    pairs = len(rows) * (len(rows) - 1) // 2
    return np.sort(all_cosines(rows) if pairs <= SAMPLE else sampled_cosines(rows, SAMPLE, seed))


def pair_cosines(
    rows: Float32[np.ndarray, "rows dim"], pairs: Int[np.ndarray, "pairs 2"]
) -> Float32[np.ndarray, " pairs"]:
    """Cosine of each pair of unit rows, float32 [pairs]."""
    parts = [
        np.einsum("pd,pd->p", rows[part[:, 0]], rows[part[:, 1]])
        for part in np.array_split(pairs, -(-len(pairs) * rows.shape[1] // 10**7) or 1)
    ]
    return np.concatenate(parts).astype(np.float32)


class Curve(TypedDict, total=False):
    """Recall over thresholds: the share of all pairs that is called (both tails together), that of
    the known pairs among them, and its interval, if it is known.
    """

    share: list[float]
    recall: list[float]
    low: list[float]
    high: list[float]
    pairs: int


@dataclass(frozen=True)
class Bounds:
    """A known pair is recalled when its cosine is less than `low` or greater than `high`, and does
    not tie with it.
    """

    low: Float32[np.ndarray, " thresholds"]
    high: Float32[np.ndarray, " thresholds"]

    def hits(self, cosine: Float[np.ndarray, " pairs"]) -> Bool[np.ndarray, "thresholds pairs"]:
        """Which pairs are recalled at which thresholds."""
        tied = np.float32(ties.TIED)
        return (cosine < self.low[:, None] - tied) | (cosine > self.high[:, None] + tied)


def bounds_of(count: int, thresholds: Sequence[tuple[float, float]]) -> list[int]:
    """Ranks (from 0) in a sorted null of `count` values of the bounds: low of each threshold, then
    high of each.

    A rank of -1 or `count` is beyond the null: nothing is less, or greater, than that bound.
    """
    steps = np.arange(count + 1) / count if count < 10**6 else None

    # the most that is at most low * count, as the division in floating point has it
    def most(low: float) -> int:
        guess = int(low * count) if steps is None else int(np.searchsorted(steps, low, "right")) - 1
        while guess + 1 <= count and (guess + 1) / count <= low:
            guess += 1
        while guess > 0 and guess / count > low:
            guess -= 1
        return guess

    def least(high: float) -> int:
        guess = (
            int(np.ceil(high * count))
            if steps is None
            else int(np.searchsorted(steps, high, "left"))
        )
        while guess > 0 and (guess - 1) / count >= high:
            guess -= 1
        while guess < count and guess / count < high:
            guess += 1
        return guess

    return [most(low) for low, _ in thresholds] + [least(high) - 1 for _, high in thresholds]


def bounds(
    rows: Float32[np.ndarray, "rows dim"],
    thresholds: Sequence[tuple[float, float]] = THRESHOLDS,
    *,
    null_pairs: int = 0,
    seed: int = 0,
) -> Bounds:
    """The cosines beyond which a known pair is recalled.

    Args:
      rows: unit rows of the map, float32 [n, dim].
      thresholds: (low, high) each.
      null_pairs: 0 for all pairs of the map; else so many random ones (`sampled_cosines`), as some
        published numbers have it.
    """
    if null_pairs:
        null = np.sort(sampled_cosines(rows, null_pairs, seed))
        at = bounds_of(len(null), thresholds)
        values = null[np.clip(at, 0, len(null) - 1)]
        count = len(null)
    else:
        count = len(rows) * (len(rows) - 1) // 2
        at = bounds_of(count, thresholds)
        values = order_statistics(rows, np.clip(at, 0, count - 1).tolist(), seed)
    values = np.where(np.array(at) < 0, -2, np.where(np.array(at) >= count, 2, values)).astype(
        np.float32
    )
    return Bounds(values[: len(thresholds)], values[len(thresholds) :])


def recalled(
    rows: Float32[np.ndarray, "rows dim"],
    pairs: Int[np.ndarray, "pairs 2"],
    thresholds: Sequence[tuple[float, float]] = THRESHOLDS,
) -> Bool[np.ndarray, "thresholds pairs"]:
    """Which known pairs are recalled at each (low, high), bool [thresholds, pairs].

    Args:
      rows: unit rows of the map (`cosines.units`), float32 [n, dim].
      pairs: rows of each known pair, int64 [pairs, 2].
    """
    return bounds(rows, thresholds).hits(pair_cosines(rows, pairs))


def curve(null: Float[np.ndarray, " null"], cosine: Float[np.ndarray, " pairs"]) -> Curve:
    """Recall of known pairs at (t, 1 - t) for each t of TAILS, against a sorted null."""
    left, right = ties.less(null, cosine) / len(null), ties.at_most(null, cosine) / len(null)
    deepest = np.sort(np.minimum(right, 1 - left))
    shares = np.searchsorted(deepest, np.array(TAILS), "right") / max(len(cosine), 1)
    return {"share": [2 * t for t in TAILS], "recall": shares.tolist(), "pairs": len(cosine)}

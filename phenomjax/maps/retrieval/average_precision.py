"""Average precision: a profile ranks others by their similarity to it; how early do those come that
should (Kalinin et al. 2025, Nature Communications; copairs)?

For a query with k positives and n - k negatives, ranked by falling similarity,

  AP = 1/k sum_j j / rank_j           rank_j: of the j-th positive
  E[AP] = (H_n + (k - 1) (n - H_n) / (n - 1)) / n

under a random order (H_n: the n-th harmonic number), and the normalised AP is (AP - E) / (1 - E),
0 at chance, 1 at best. Equal similarities are what 1 - similarity is equal for in float32, and a
positive then comes before a negative: both as in copairs 0.5.5, which the tests compare to 1e-12.
copairs lists all pairs first; here a block of queries meets its candidates in one product of
matrices, and ranks are counted rather than sorted. At 9,216 wells that is the difference between
gigabytes and a tenth of one (`bench.maps`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from phenomjax.maps.retrieval.pairs import Conditions
from phenomjax.statistics.cosines import unit_rows

Similarity: TypeAlias = Literal["cosine", "abs_cosine", "correlation"]
ANY = Conditions()
CELLS = 2**21  # pairs of one block
CANDIDATES = 1024  # profiles made float64 at once


@dataclass(frozen=True)
class Precision:
    """Average precision of each query.

    Attributes:
      row: of the profile that asks, int64 [queries].
      label: code of what it asks for, where profiles have several labels; else 0.
      value: average precision, float64; NaN without positives.
      positives: how many there are to be found, int64.
      total: positives and negatives, int64.
    """

    row: Int[np.ndarray, " queries"]
    label: Int[np.ndarray, " queries"]
    value: Float64[np.ndarray, " queries"]
    positives: Int[np.ndarray, " queries"]
    total: Int[np.ndarray, " queries"]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, chosen: Bool[np.ndarray, " queries"]) -> "Precision":
        """Some of the queries."""
        return Precision(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    @property
    def answerable(self) -> Bool[np.ndarray, " queries"]:
        """With something to find, and something else among which."""
        return (self.positives > 0) & (self.total > self.positives)

    @property
    def expected(self) -> Float64[np.ndarray, " queries"]:
        """E[AP] under a random order; 0 without positives, 1 without negatives."""
        most = int(self.total.max(initial=1))
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, most + 1))])
        k, n = self.positives.astype(np.float64), np.maximum(self.total, 2).astype(np.float64)
        sums = harmonic[np.minimum(self.total, most)]
        mean = ((k - 1) / (n - 1) * (n - sums) + sums) / n
        return np.where(self.positives == 0, 0.0, np.where(self.positives == self.total, 1.0, mean))

    @property
    def normalized(self) -> Float64[np.ndarray, " queries"]:
        """(AP - E) / (1 - E), within -1 and 1."""
        expected = self.expected
        return np.clip((self.value - expected) / np.maximum(1 - expected, 1e-10), -1.0, 1.0)


def average_precision(
    features: Float[np.ndarray, "rows dim"],
    positives: Conditions,
    negatives: Conditions,
    *,
    queries: Int[np.ndarray, " queries"] | None = None,
    similarity: Similarity = "cosine",
) -> Precision:
    """Average precision of each row, or of some that ask.

    Args:
      features: float [rows, dim]; computed with in float64.
      positives, negatives: of each row.
      queries: rows that ask; all by default.
      similarity: "cosine", its absolute value, or Pearson's correlation.
    """
    rows = np.arange(len(features)) if queries is None else queries
    order = np.lexsort([codes[rows] for codes in positives.same]) if positives.same else None
    place = np.arange(len(rows)) if order is None else order  # like ones meet in a block
    value, found = np.full(len(rows), np.nan), np.zeros((2, len(rows)), np.int64)
    step = max(1, CELLS // max(len(features), 1))
    for start in range(0, len(rows), step):
        at = place[start : start + step]
        pair = positives.partners(rows[at], len(features))
        other = negatives.partners(rows[at], len(features))
        found[0, at], found[1, at] = pair.sum(1), other.sum(1)
        asks = np.flatnonzero(pair.any(1))
        for k, keys in _ranked(features, rows[at], asks, pair, other, similarity):
            value[at[k]] = _precision(keys[pair[k]], keys[other[k]])
    return Precision(rows, np.zeros(len(rows), np.int64), value, found[0], found.sum(0))


def average_precision_of_labels(
    features: Float[np.ndarray, "rows dim"],
    labels: Sequence[Sequence[int]],
    positives: Conditions = ANY,
    negatives: Conditions = ANY,
    *,
    similarity: Similarity = "cosine",
) -> Precision:
    """Average precision of each row for each of its labels: others with that label should come
    before those that share none at all.

    Args:
      features: float [rows, dim].
      labels: codes of each row's labels, from 0.
      positives, negatives: what else must hold of a pair.
      similarity: see `average_precision`.
    """
    from scipy.sparse import csr_array

    counts = np.array([len(own) for own in labels], np.int64)
    flat = np.array([code for own in labels for code in own], np.int64)
    owner = np.repeat(np.arange(len(labels)), counts)
    shape = (len(labels), int(flat.max(initial=-1)) + 1)
    member = csr_array((np.ones(len(flat), np.float32), (owner, flat)), shape=shape)
    with_label = np.split(owner[np.argsort(flat, kind="stable")], np.cumsum(np.bincount(flat))[:-1])
    parts: list[tuple[int, int, float, int, int]] = []
    step = max(1, CELLS // max(len(features), 1))
    for start in range(0, len(features), step):
        rows = np.arange(start, min(start + step, len(features)))
        shared = (member[rows] @ member.T).toarray() > 0
        pair = positives.partners(rows, len(features)) & shared
        other = negatives.partners(rows, len(features)) & ~shared
        left = other.sum(1)
        asks = np.flatnonzero(pair.any(1))
        for k, keys in _ranked(features, rows, asks, pair, other, similarity):
            for label in labels[rows[k]]:
                own = with_label[label][pair[k, with_label[label]]]
                if len(own):
                    value = _precision(keys[own], keys[other[k]])
                    parts.append((int(rows[k]), label, value, len(own), len(own) + int(left[k])))
    columns = list(zip(*parts, strict=True)) if parts else [()] * 5
    kinds = (np.int64, np.int64, np.float64, np.int64, np.int64)
    return Precision(*(np.array(c, kind) for c, kind in zip(columns, kinds, strict=True)))


def _ranked(
    features: Float[np.ndarray, "rows dim"],
    rows: Int[np.ndarray, " block"],
    asks: Int[np.ndarray, " some"],
    pair: Bool[np.ndarray, "block rows"],
    other: Bool[np.ndarray, "block rows"],
    similarity: Similarity,
) -> Iterator[tuple[int, Float32[np.ndarray, " rows"]]]:
    """Of each row of a block that asks: its place in the block, and 1 - similarity to all rows that
    any of them looks at, float32.
    """
    if not len(asks):
        return
    used = np.flatnonzero((pair[asks] | other[asks]).any(0))
    own = _units(features[rows[asks]], similarity)
    keys = np.empty((len(asks), len(features)), np.float32)
    for start in range(0, len(used), CANDIDATES):
        some = used[start : start + CANDIDATES]
        found = own @ _units(features[some], similarity).T
        if similarity == "abs_cosine":
            found = np.abs(found)
        keys[:, some] = 1 - found.astype(np.float32)
    yield from zip(asks, keys, strict=True)


def _units(
    features: Float[np.ndarray, "some dim"], similarity: Similarity
) -> Float64[np.ndarray, "some dim"]:
    values = features.astype(np.float64)
    return unit_rows(
        values - values.mean(1, keepdims=True) if similarity == "correlation" else values
    )


def _precision(found: Float32[np.ndarray, " k"], others: Float32[np.ndarray, " m"]) -> float:
    """AP of a query from 1 - similarity of its positives and negatives."""
    ranked = np.sort(found)
    before = np.bincount(np.searchsorted(ranked, others, "right"), minlength=len(ranked) + 1)
    place = np.arange(1, len(ranked) + 1)
    return float((place / (place + np.cumsum(before)[: len(ranked)])).sum() / len(ranked))

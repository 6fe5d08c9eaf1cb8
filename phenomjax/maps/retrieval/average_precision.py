"""Average precision: a profile ranks others by their similarity to it; how early do those come that
should (Kalinin et al. 2025, Nature Communications; copairs)?

For a query with k positives and n - k negatives, ranked by falling similarity,

  AP = 1/k sum_j j / rank_j           rank_j: of the j-th positive
  E[AP] = (H_n + (k - 1) (n - H_n) / (n - 1)) / n

under a random order (H_n: the n-th harmonic number), and the normalised AP is (AP - E) / (1 - E),
0 at chance, 1 at best. Equal similarities are what 1 - similarity is equal for in float32, and a
positive then comes before a negative: both as in copairs 0.5.5, which the tests compare to 1e-12.
copairs lists all pairs first, and gathers the features of both sides of each; here a block of
queries meets its candidates in products of matrices, and how many negatives come before a positive
is counted rather than sorted (`bench.maps`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from phenomjax.maps.retrieval.pairs import Conditions
from phenomjax.statistics.cosines import unit_rows

Similarity: TypeAlias = Literal["cosine", "abs_cosine", "correlation"]
ANY = Conditions()
QUERIES, CANDIDATES = 256, 2048  # profiles made float64 at once, of either side


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
    like, others = positives.groups(len(features)), negatives.groups(len(features))
    value, counts = np.full(len(rows), np.nan), np.zeros((2, len(rows)), np.int64)
    for at in _blocks(others.codes[rows]):
        asks = []
        for k, row in enumerate(rows[at]):
            found = like.of(int(like.codes[row]))
            found = found[positives.partners(rows[at[k : k + 1]], found)[0]]
            counts[0, at[k]] = len(found)
            if len(found):
                asks.append((k, found))
        candidates = others.of(int(others.codes[rows[at[0]]]))
        answers, counts[1, at] = _answers(
            features, rows[at], asks, candidates, negatives.partners, similarity
        )
        value[at[[k for k, _ in asks]]] = answers
    return Precision(rows, np.zeros(len(rows), np.int64), value, counts[0], counts.sum(0))


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

    flat = np.array([code for own in labels for code in own], np.int64)
    owner = np.repeat(np.arange(len(labels)), [len(own) for own in labels])
    shape = (len(labels), int(flat.max(initial=-1)) + 1)
    member = csr_array((np.ones(len(flat), np.float32), (owner, flat)), shape=shape)
    of_label = member.tocsc()
    like, others = positives.groups(len(features)), negatives.groups(len(features))

    def unlike(
        rows: Int[np.ndarray, " some"], some: Int[np.ndarray, " others"]
    ) -> Bool[np.ndarray, "some others"]:
        shared = (member[rows] @ member[some].T).toarray() > 0
        return negatives.partners(rows, some) & ~shared

    parts = []
    for at in _blocks(others.codes):
        asks, asked = [], []
        for k, row in enumerate(at):
            for label in labels[row]:
                found = of_label.indices[of_label.indptr[label] : of_label.indptr[label + 1]]
                found = found[like.codes[found] == like.codes[row]].astype(np.int64)
                found = found[positives.partners(at[k : k + 1], found)[0]]
                if len(found):
                    asks.append((k, found))
                    asked.append((row, label))
        candidates = others.of(int(others.codes[at[0]]))
        answers, left = _answers(features, at, asks, candidates, unlike, similarity)
        for (k, found), (row, label), answer in zip(asks, asked, answers, strict=True):
            parts.append((row, label, answer, len(found), len(found) + left[k]))
    order = sorted(parts, key=lambda part: part[:2])
    columns = list(zip(*order, strict=True)) if order else [()] * 5
    kinds = (np.int64, np.int64, np.float64, np.int64, np.int64)
    return Precision(*(np.array(c, kind) for c, kind in zip(columns, kinds, strict=True)))


def _blocks(codes: Int[np.ndarray, " queries"]) -> Iterator[Int[np.ndarray, " block"]]:
    """Places of queries with the same code, at most `QUERIES` at once."""
    order = np.argsort(codes, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        yield from np.split(same, range(QUERIES, len(same), QUERIES))


def _answers(
    features: Float[np.ndarray, "rows dim"],
    rows: Int[np.ndarray, " block"],
    asks: list[tuple[int, Int[np.ndarray, " _"]]],
    candidates: Int[np.ndarray, " candidates"],
    pairs: Callable[..., Bool[np.ndarray, "block some"]],
    similarity: Similarity,
) -> tuple[list[float], Int[np.ndarray, " block"]]:
    """Average precision of queries of a block of rows, and how many negatives each row has.

    Args:
      rows: of the block.
      asks: each query's place in the block, and its positives.
      candidates: rows that hold all negatives of the block.
      pairs: which candidates are negatives of each row.
    """
    own, left = _units(features[rows], similarity), np.zeros(len(rows), np.int64)
    asking = [k for k, _ in asks]
    ranked = [np.sort(_keys(own[k : k + 1], features[found], similarity)[0]) for k, found in asks]
    before = [np.zeros(len(keys) + 1, np.int64) for keys in ranked]
    for start in range(0, len(candidates), CANDIDATES):
        some = candidates[start : start + CANDIDATES]
        negative = pairs(rows, some)
        left += negative.sum(1)
        if not asks:
            continue
        used = negative[asking].any(0)
        negative = negative[:, used]
        keys = _keys(own, features[some[used]], similarity)
        for (k, _), best, count in zip(asks, ranked, before, strict=True):
            places = np.searchsorted(best, keys[k, negative[k]], "right")
            count += np.bincount(places, minlength=len(count))
    found = []
    for count in before:
        place = np.arange(1, len(count))
        found.append(float((place / (place + np.cumsum(count)[:-1])).sum() / len(place)))
    return found, left


def _keys(
    own: Float64[np.ndarray, "some dim"],
    others: Float[np.ndarray, "others dim"],
    similarity: Similarity,
) -> Float32[np.ndarray, "some others"]:
    """1 - similarity."""
    found = own @ _units(others, similarity).T
    return np.float32(1) - (np.abs(found) if similarity == "abs_cosine" else found).astype(
        np.float32
    )


def _units(
    features: Float[np.ndarray, "some dim"], similarity: Similarity
) -> Float64[np.ndarray, "some dim"]:
    values = features.astype(np.float64)
    if similarity == "correlation":
        values -= values.mean(1, keepdims=True)
    return unit_rows(values)

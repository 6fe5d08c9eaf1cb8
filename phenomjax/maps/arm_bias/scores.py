"""Proximity bias as numbers: knock-outs on one chromosome arm look alike, because a cut can lose
the rest of the arm.

The score is P(cosine within an arm > cosine between arms) of the Brunner-Munzel test, 0.5 without
bias; the correction subtracts from the genes of an arm the mean of the arm's unexpressed genes,
which have no phenotype but the arm's. Definitions: Lazar et al., "High- resolution genome-wide
mapping of chromosome-arm-scale truncations induced by CRISPR-Cas9 editing", Nature Genetics 2024.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64, Num

from phenomjax.maps.relations.cosines import BINS, bin_of
from phenomjax.statistics import bootstrap, ties
from phenomjax.statistics.cosines import unit_rows
from phenomjax.system.errors import UserError

MIN_GENES = 5  # arms with so many genes or fewer are dropped
MIN_PAIRS = 20  # an arm's own test needs more pairs than this within the arm, and as many between


@dataclass(frozen=True)
class BrunnerMunzel:
    """Brunner-Munzel: is a value within greater than a value between?

    Attributes:
      probability: P(within > between) + P(within = between) / 2.
      statistic: normal deviate; positive where within is greater.
      p: one-sided p of "within is greater"; it takes pairs as independent, which pairs of one map
        are not.
      within, between: number of values.
    """

    probability: float
    statistic: float
    p: float
    within: int
    between: int


def on_large_arms(arm: Iterable[object], min_genes: int = MIN_GENES) -> Bool[np.ndarray, " rows"]:
    """True for the rows whose arm is known and has more than `min_genes` rows, bool [rows]."""
    codes, names = _codes(arm)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    return (codes >= 0) & (counts > min_genes)[codes] if names else codes >= 0


def brunner_munzel(
    within: Float[np.ndarray, " within"], between: Float[np.ndarray, " between"]
) -> BrunnerMunzel:
    """The test on two samples of at least 2 values each (Brunner & Munzel 2000, normal
    approximation).

    With the placements F_b(w) = P(b < w) + P(b = w) / 2 of the values within among those between,
    and the reverse, the probability is the mean of F_b(w), its variance var(F_b(w)) / n_w +
    var(F_w(b)) / n_b.
    """
    within, between = np.sort(np.ravel(within)), np.sort(np.ravel(between))
    return _compare(
        _placements(within, between),
        np.ones(within.size),
        _placements(between, within),
        np.ones(between.size),
    )


def drawn_probabilities(
    features: Float[np.ndarray, "genes dim"],
    arm: Iterable[object],
    draws: int = 1000,
    seed: int = 0,
) -> Float64[np.ndarray, " draws_and_one"]:
    """P(cosine within > between) over all pairs of genes, and of each draw of a bootstrap over
    genes.

    Gene i is in a draw w_i times, and pair (i, j) of different genes counts w_i w_j times. Equal
    seeds draw the same genes of maps with as many: their differences are paired.

    Args:
      features: float [genes, dim].
      arm: the arm of each gene, [genes].
      draws: of the bootstrap.
      seed: of the draws.

    Returns:
      float64 [1 + draws], the first of the genes as they are.
    """
    codes, _ = _codes(arm)
    units = unit_rows(features, np.float32)
    one, other = np.triu_indices(len(codes), 1)
    order = np.argsort((units @ units.T)[one, other], kind="stable")
    one, other = one[order], other[order]
    within = codes[one] == codes[other]

    def probability(times: Int[np.ndarray, "some genes"]) -> Float64[np.ndarray, " some"]:
        pairs = (times[:, one] * times[:, other]).astype(np.float64)
        inside, outside = pairs * within, pairs * ~within
        below = np.cumsum(outside, 1) * inside
        return below.sum(1) / np.maximum(inside.sum(1) * outside.sum(1), 1.0)

    sets = [np.ones((1, len(codes)), np.int64)]
    sets += map(bootstrap.times_drawn, bootstrap.drawn(len(codes), draws, seed, at_once=20))
    return np.concatenate([probability(times) for times in sets])


def genome_score(
    features: Float[np.ndarray, "genes dim"],
    arm: Iterable[object],
    *,
    trials: int = 200,
    samples: int = 500,
    seed: int = 0,
) -> dict[str, float]:
    """The genome-wide score: the mean probability over trials of `samples` pairs within and
    `samples` pairs between arms.

    The first gene of a pair is any gene; the second is another gene of its arm, or a gene of
    another arm.

    Args:
      features: float [genes, dim].
      arm: the arm of each gene, [genes].

    Returns:
      probability (mean), probability_sd (over trials), p (two-sided, combined over trials by
      Fisher; the trials draw from the same pairs, so a small p says "not by chance of the draw"),
      genes, arms, trials, samples.
    """
    from scipy import stats

    codes, names = _codes(arm)
    order = np.argsort(codes, kind="stable")
    vectors, codes = unit_rows(features, np.float32)[order], codes[order]
    counts = np.bincount(codes, minlength=len(names))
    if len(names) < 2 or counts.min() < 2:
        raise UserError(
            "A proximity score needs two chromosome arms with two genes each; see how many genes"
            " were found on which arm."
        )
    first, random = np.concatenate([[0], np.cumsum(counts)[:-1]]), np.random.default_rng(seed)
    total = len(codes)
    probabilities, ps = [], []
    for _ in range(trials):
        one, other = random.integers(total, size=(2, samples))
        size, start = counts[codes[one]], first[codes[one]]
        # Another gene of the arm: a step of 1 ... size - 1 around the arm; and likewise around the
        # rest of the genome.
        partner = start + (one - start + 1 + random.integers(size - 1)) % size
        size, start = counts[codes[other]], first[codes[other]]
        stranger = (start + size + random.integers(total - size)) % total
        within = np.einsum("ij,ij->i", vectors[one], vectors[partner])
        between = np.einsum("ij,ij->i", vectors[other], vectors[stranger])
        result = brunner_munzel(within, between)
        probabilities.append(result.probability)
        ps.append(min(1.0, 2 * stats.norm.sf(abs(result.statistic))))
    combined = float(
        stats.combine_pvalues(np.maximum(ps, np.finfo(float).tiny), method="fisher").pvalue
    )
    return {
        "probability": float(np.mean(probabilities)),
        "probability_sd": float(np.std(probabilities, ddof=1)) if trials > 1 else 0.0,
        "p": combined,
        "genes": total,
        "arms": len(names),
        "trials": trials,
        "samples": samples,
    }


def arm_scores(
    features: Float[np.ndarray, "genes dim"], arm: Iterable[object]
) -> tuple[dict[str, BrunnerMunzel | None], BrunnerMunzel]:
    """The score of each arm and of all pairs of the map, from every pair of genes.

    Args:
      features: float [genes, dim].
      arm: the arm of each gene, [genes].

    Returns:
      ({arm: its pairs within against its pairs with other arms; None where there are too few}, all
      pairs within against all between).
    """
    # of the 2^16 bins of [-1, 1]: a tie within a bin moves a probability by less than 1e-5
    codes, names = _codes(arm)
    vectors = unit_rows(features, np.float32)
    groups = [vectors[codes == code] for code in range(len(names))]
    within, between = np.zeros((2, len(names), BINS), np.int64)
    for a, left in enumerate(groups):
        within[a] = _histogram((left @ left.T)[np.triu_indices(len(left), 1)])
        for b in range(a + 1, len(groups)):
            pairs = _histogram(left @ groups[b].T)
            between[a] += pairs
            between[b] += pairs
    scores = {
        name: (
            _compare_histograms(within[a], between[a])
            if min(within[a].sum(), between[a].sum()) > MIN_PAIRS
            else None
        )
        for a, name in enumerate(names)
    }
    return scores, _compare_histograms(within.sum(0), between.sum(0) // 2)


def gene_scores(
    features: Float[np.ndarray, "genes dim"], arm: Iterable[object]
) -> Float64[np.ndarray, " genes"]:
    """P(cosine with its arm > cosine with other arms) of each gene, float64 [genes]; NaN where it
    is alone on its arm.
    """
    codes, names = _codes(arm)
    vectors = unit_rows(features, np.float32)
    scores = np.full(len(codes), np.nan)
    for code in range(len(names)):
        rows = np.flatnonzero(codes == code)
        others = vectors[codes != code]
        if len(rows) < 2 or not len(others):
            continue
        # 4096 bins are enough for one gene: its score is off by less than the share of its pairs in
        # a bin.
        inside, outside = (
            bin_of(vectors[rows] @ vectors[rows].T, np.uint16, ties.TIED) >> 4,
            bin_of(vectors[rows] @ others.T, np.uint16, ties.TIED) >> 4,
        )
        for i, row in enumerate(rows):
            counts = np.bincount(outside[i], minlength=BINS >> 4)
            placement = np.cumsum(counts) - counts / 2
            scores[row] = placement[np.delete(inside[i], i)].mean() / len(others)
    return scores


def telomere_trend(
    scores: Float[np.ndarray, " genes"],
    arm: Iterable[object],
    position: Float[np.ndarray, " genes"],
    min_genes: int = 20,
) -> dict[str, dict]:
    """Spearman correlation of the genes' scores with their rank from centromere to telomere, arm by
    arm.

    Args:
      scores: of `gene_scores`.
      position: from 0 at the centromere to 1 at the telomere, [genes].
      min_genes: arms with fewer are left out.

    Returns:
      {arm: rho, p, p_bonferroni (times the number of arms tested), genes}. A cut near the
      centromere loses more of the arm, so under
      bias the scores fall towards the telomere: rho < 0.
    """
    from scipy import stats

    places, result = np.asarray(arm, object), {}
    for name in dict.fromkeys(places.tolist()):
        rows = (places == name) & np.isfinite(scores) & np.isfinite(np.asarray(position, float))
        if rows.sum() >= max(min_genes, 3):
            test = stats.spearmanr(scores[rows], np.asarray(position, float)[rows])
            result[name] = {
                "rho": float(test.statistic),
                "p": float(test.pvalue),
                "genes": int(rows.sum()),
            }
    return {
        name: row | {"p_bonferroni": min(1.0, row["p"] * len(result))}
        for name, row in result.items()
    }


def centre_arms(
    features: Float[np.ndarray, "rows dim"],
    arm: Iterable[object],
    unexpressed: Bool[np.ndarray, " rows"],
    min_unexpressed: int = 20,
) -> tuple[Float[np.ndarray, "rows dim"], dict[str, int]]:
    """Subtracts from the genes of each arm the mean of the arm's unexpressed genes.

    Args:
      features: float [rows, dim].
      arm: the arm of each row, None or NaN where there is none (compounds, unknown genes): these
        rows stay as they are.
      unexpressed: bool [rows].
      min_unexpressed: arms with so many unexpressed genes or fewer stay as they are: a mean of few
        genes would add noise.

    Returns:
      (corrected, of the type and shape of `features`; {arm that was corrected: number of its
      unexpressed genes}).
    """
    codes, names = _codes(arm)
    corrected, used = np.array(features, copy=True), {}
    for code, name in enumerate(names):
        rows = codes == code
        silent = rows & np.asarray(unexpressed, bool)
        if silent.sum() > min_unexpressed:
            corrected[rows] -= np.mean(features[silent], axis=0, dtype=np.float64).astype(
                corrected.dtype
            )
            used[name] = int(silent.sum())
    return corrected, used


def within_share(
    arm_a: Iterable[object], arm_b: Iterable[object], arm_of_genes: Iterable[object]
) -> tuple[float, float]:
    """Share of edges within one arm, and the share expected of random pairs of the genes:
    (observed, expected).
    """
    counts = np.bincount(_codes(arm_of_genes)[0]).astype(float)
    total = counts.sum()
    observed = float(np.mean(np.asarray(arm_a, object) == np.asarray(arm_b, object)))
    return observed, float((counts * (counts - 1)).sum() / (total * (total - 1)))


def _codes(arm: Iterable[object]) -> tuple[Int64[np.ndarray, " rows"], list[str]]:
    """Number of each row's arm (-1: none), and the names in the order of their first row."""
    known = [name if isinstance(name, str) else None for name in np.asarray(arm, object).tolist()]
    names = list(dict.fromkeys(name for name in known if name is not None))
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([-1 if name is None else numbers[name] for name in known], np.int64), names


def _histogram(cosines: Float32[np.ndarray, "*shape"]) -> Int[np.ndarray, " bins"]:
    return np.bincount(bin_of(cosines, shift=ties.TIED).ravel(), minlength=BINS)


def _placements(
    values: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"]
) -> Float64[np.ndarray, " n"]:
    """P(other < value) + P(other = value) / 2 of each value, among sorted others."""
    return (ties.less(others, values) + ties.at_most(others, values)) / (2 * others.size)


def _compare_histograms(
    within: Int[np.ndarray, " bins"], between: Int[np.ndarray, " bins"]
) -> BrunnerMunzel:
    among_between = (np.cumsum(between) - between / 2) / between.sum()
    among_within = (np.cumsum(within) - within / 2) / within.sum()
    return _compare(among_between, within, among_within, between)


def _compare(
    of_within: Float64[np.ndarray, " n"],
    count_within: Num[np.ndarray, " n"],
    of_between: Float64[np.ndarray, " m"],
    count_between: Num[np.ndarray, " m"],
) -> BrunnerMunzel:
    """Brunner-Munzel from the placements and how often each occurs."""
    from scipy import stats

    spread = 0.0
    for placements, counts in ((of_within, count_within), (of_between, count_between)):
        n = counts.sum()
        mean = (placements * counts).sum() / n
        spread += (counts * (placements - mean) ** 2).sum() / (n - 1) / n
    probability = float((of_within * count_within).sum() / count_within.sum())
    # Without spread: no overlap at all, or one value only.
    distance = probability - 0.5
    statistic = (
        distance / np.sqrt(spread)
        if spread > 0
        else np.copysign(np.inf, distance)
        if distance
        else 0.0
    )
    return BrunnerMunzel(
        probability,
        float(statistic),
        float(stats.norm.sf(statistic)),
        int(count_within.sum()),
        int(count_between.sum()),
    )

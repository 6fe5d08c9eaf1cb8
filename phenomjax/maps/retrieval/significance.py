"""Mean average precision of groups of queries, beside what random rankings give.

The null of a query with k positives among n is the average precision of random orders; that of a
group is the mean of its queries' nulls, draw by draw; p = (1 + null above the mean) / (1 + null), q
is Benjamini and Hochberg's (Kalinin et al. 2025). The draws are those of copairs 0.5.5 for the same
seed, bit by bit, as it makes them with an empty cache (it keeps nulls in the home folder, so that
its p-values can depend on what was computed before; ours do not).

"copairs" takes its p-values as they are. "careful", the default, is equal to it on plates with as
many controls each and three or more replicates, and differs where copairs calls noise active:

* Queries of the same (k, n) share their draws in copairs, those of different ones do not, so that
  their mean varies less. Replicates do not rank their controls independently of each other, so on
  three plates with 24 controls p < .001 for 0 % of pure noise, but with 23, 24 and 25 controls for
  .7 %, where .1 % are due. Here draws of different (k, n) are joined from the lowest to the
  highest, which for equal ones is the same as sharing.
* Only what is strictly above counts in copairs. With two replicates each looks for one other well,
  and beside c controls a plate chance puts both first in 1 of 2 c + 1 perturbations; nothing is
  above that, so each gets the smallest p there is: 2 % of noise are active at FDR .05 with 24
  controls, 11 % with 4. Here what ties counts where a query has one positive, and where two such
  queries are a group they are each other's: one similarity s, uniform under the null, has
  Binomial(n_1 - 1, 1 - s) negatives before it on one side and Binomial(n_2 - 1, 1 - s) on the
  other, so that p of both first is 1 / (n_1 + n_2 - 1).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, Float64, Int, Shaped

from phenomjax.maps.retrieval.average_precision import Precision
from phenomjax.statistics.groups import rows_of_groups
from phenomjax.statistics.permutation import q_values

NULL_SIZE = 10_000
SEEDS = 8096  # copairs draws the seed of each null below this
CELLS = 2**22  # of random orders at once
Rule: TypeAlias = Literal["careful", "copairs"]
TIED = 1e-6  # above the rounding of float32 means, far below the steps of average precision


@dataclass(frozen=True)
class MeanPrecision:
    """Of each group of queries, in sorted order of their names.

    Attributes:
      names: of the groups.
      queries: how many each has.
      value: mean average precision.
      normalized: mean of the normalised ones.
      expected: mean of what chance gives.
      p, q: by the null of random rankings.
    """

    names: Shaped[np.ndarray, " groups"]
    queries: Int[np.ndarray, " groups"]
    value: Float64[np.ndarray, " groups"]
    normalized: Float64[np.ndarray, " groups"]
    expected: Float64[np.ndarray, " groups"]
    p: Float64[np.ndarray, " groups"]
    q: Float64[np.ndarray, " groups"]

    def __len__(self) -> int:
        return len(self.names)


def mean_average_precision(
    precision: Precision,
    groups: Shaped[np.ndarray, " queries"],
    *,
    null_size: int = NULL_SIZE,
    seed: int = 0,
    rule: Rule = "careful",
) -> MeanPrecision:
    """Mean average precision of each group, over its queries that have positives.

    Args:
      precision: of the queries.
      groups: name of each query's group.
      null_size: random rankings of each null.
      seed: of these.
      rule: "careful" or "copairs", see the first lines of this file.
    """
    asked = precision.positives > 0
    precision, groups = precision.take(asked), groups[asked]
    names, codes = np.unique(groups, return_inverse=True)
    counts = np.bincount(codes, minlength=len(names))
    kinds, kind = np.unique(
        np.stack([precision.positives, precision.total], 1), axis=0, return_inverse=True
    )

    def mean(values: Float64[np.ndarray, " queries"]) -> Float64[np.ndarray, " groups"]:
        return np.bincount(codes, weights=values, minlength=len(names)) / counts

    value = mean(precision.value)
    p = _p_values(value, codes, kind.reshape(-1), kinds, null_size, seed, rule)
    expected, normalized = mean(precision.expected), mean(precision.normalized)
    return MeanPrecision(names, counts, value, normalized, expected, p, q_values(p))


def _p_values(
    value: Float64[np.ndarray, " groups"],
    codes: Int[np.ndarray, " queries"],
    kind: Int[np.ndarray, " queries"],
    kinds: Int[np.ndarray, "kinds 2"],
    null_size: int,
    seed: int,
    rule: Rule,
) -> Float64[np.ndarray, " groups"]:
    """P-value of each group; groups whose queries are of the same kinds (positives, total) share a
    null.
    """
    seeds = np.random.default_rng(seed).integers(SEEDS, size=len(kinds))
    nulls: dict[int, Float32[np.ndarray, " draws"]] = {}
    parts = [kind[queries] for queries in rows_of_groups(codes)]
    alike: dict[bytes, list[int]] = {}
    for group, part in enumerate(parts):
        alike.setdefault(part.tobytes(), []).append(group)
    p = np.empty(len(value))
    for members in alike.values():
        part = parts[members[0]]
        lone = kinds[part, 0] == 1
        if rule == "careful" and len(part) == 2 and lone.all():
            totals = kinds[part, 1]
            null = random_pairs(int(totals[0]), int(totals[1]), null_size, int(seeds[part[0]]))
        else:
            total = np.zeros(null_size, np.float32)
            for one in part:
                if one not in nulls:
                    k, n = map(int, kinds[one])
                    drawn = random_precisions(k, n, null_size, int(seeds[one]))
                    nulls[one] = np.sort(drawn) if rule == "careful" else drawn
                total += nulls[one]
            null = np.sort(total / np.float32(len(part)))
        if rule == "careful" and lone.any():
            below = np.searchsorted(null.astype(np.float64), value[members] - TIED, "left")
        else:
            below = np.searchsorted(null, value[members].astype(np.float32), "right")
        p[members] = (null_size - below + 1) / (null_size + 1)
    return p


def random_precisions(
    positives: int, total: int, draws: int, seed: int
) -> Float32[np.ndarray, " {draws}"]:
    """Average precision of random orders, float32 [draws]: the places of the positives are the
    first of a random permutation.
    """
    rng = np.random.default_rng(seed)
    kind = np.uint16 if total < 2**16 else np.uint32
    out, step = np.empty(draws, np.float32), max(1, CELLS // total)
    rank = np.arange(1, positives + 1, dtype=np.float32)
    for start in range(0, draws, step):
        orders = np.tile(np.arange(total, dtype=kind), (min(step, draws - start), 1))
        rng.permuted(orders, axis=1, out=orders)
        place = np.sort(orders[:, :positives], axis=1)
        out[start : start + step] = np.divide(rank, place + 1).sum(1) / np.float32(positives)
    return out


def random_pairs(first: int, second: int, draws: int, seed: int) -> Float32[np.ndarray, " {draws}"]:
    """Mean average precision of two queries that look for each other, one among `first` - 1 and one
    among `second` - 1 negatives, sorted float32 [draws].
    """
    rng = np.random.default_rng(seed)
    above = (np.arange(draws) + rng.random(draws)) / draws  # share more similar than they are
    one, other = (1 / (1 + rng.binomial(total - 1, above)) for total in (first, second))
    return np.sort((one + other) / 2).astype(np.float32)

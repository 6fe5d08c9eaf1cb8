"""Perturbation magnitude: the energy distance between a perturbation's wells and the controls, with
a permutation p-value.

  E(X, Y) = 2 mean|x - y| - mean|x - x'| - mean|y - y'|, means over all ordered pairs, a well with
  itself included (0)

(Székely & Rizzo 2013; twice geomloss's "energy", as EFAAR has it.) At most `CONTROLS` controls,
drawn with a seed; NaN for perturbations with fewer than 5 wells. The null: sets of as many
controls, each against the controls that are left; p = (1 + sets at least as far) / (1 + sets).
Distances between batches that alignment left over are in the null too, because the sets are drawn
over all batches.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from phenomjax.statistics.groups import rows_of_groups
from phenomjax.statistics.permutation import p_values
from phenomjax.statistics.ties import TIED

CONTROLS = 1000
LEAST_REPLICATES = 5


@dataclass(frozen=True)
class Magnitude:
    """Energy distance of each group and its p-value; NaN where a group is too small.

    Attributes:
      distance, p: float64 [groups].
      tied: distances that differ by less are equal (`statistics.ties`), in units of the features.
    """

    distance: Float64[np.ndarray, " groups"]
    p: Float64[np.ndarray, " groups"]
    tied: float


def energy_distance(x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "m dim"]) -> float:
    """E(X, Y) of two samples, float [n, dim] and [m, dim]."""
    from scipy.spatial.distance import cdist

    return float(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean())


def magnitudes(
    features: Float[np.ndarray, "wells dim"],
    codes: Int[np.ndarray, " wells"],
    groups: int,
    controls: Float[np.ndarray, "controls dim"],
    *,
    draws: int,
    seed: int = 0,
    least: int = LEAST_REPLICATES,
) -> Magnitude:
    """Magnitude of each group of rows.

    Args:
      features: float [wells, dim]; codes: group of each, 0 … groups - 1.
      controls: float [controls, dim].
      draws: sets of controls of the null, one null for each number of replicates; 0 for no
        p-values.
      least: groups with fewer rows are NaN.
    """
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(seed)
    if len(controls) > CONTROLS:
        controls = controls[np.sort(rng.choice(len(controls), CONTROLS, replace=False))]
    features, controls = features.astype(np.float64), controls.astype(np.float64)
    among = cdist(controls, controls)
    tied = TIED * float(among.mean())
    counts = np.bincount(codes, minlength=groups)
    distance, p = np.full(groups, np.nan), np.full(groups, np.nan)
    for group, rows in enumerate(rows_of_groups(codes, groups)):
        if len(rows) >= least:
            own = features[rows]
            distance[group] = (
                2 * cdist(own, controls).mean() - cdist(own, own).mean() - among.mean()
            )
    for count in np.unique(counts[counts >= least]) if draws else []:
        if 2 * count > len(among):
            continue  # no two sets of controls to compare
        null = np.sort(_null(among, int(count), draws, rng))
        same = counts == count
        p[same] = p_values(null, distance[same], tied)
    return Magnitude(distance, p, tied)


def _null(
    among: Float64[np.ndarray, "controls controls"],
    count: int,
    draws: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, " {draws}"]:
    """Energy distances of random sets of controls to the controls that are left, from the distances
    among all, float64 [draws].
    """
    rows, total, left = among.sum(1), among.sum(), len(among) - count
    out = np.empty(draws)
    for draw in range(draws):
        chosen = rng.choice(len(among), count, replace=False)
        inside = among[np.ix_(chosen, chosen)].sum()
        across = rows[chosen].sum() - inside
        out[draw] = (
            2 * across / (count * left)
            - inside / count**2
            - (total - 2 * across - inside) / left**2
        )
    return out

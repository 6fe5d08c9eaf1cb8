"""Perturbation consistency: do the replicates of a perturbation look alike, more than wells that
share nothing?

The statistic is the mean cosine over all pairs of a perturbation's replicates (EFAAR: the mean of
the lower triangle); NaN with fewer than 2 replicates. It is compared with the same statistic of a
null:

  unexpressed genes, where they are named: perturbations that should do nothing (EFAAR: zFPKM < -3,
    or TPM = 0). They are the null and not under study, so they count in no share and no false
    discovery rate;
  else, matched by position (statistics/matched_sets.py): sets of wells that lie in the same
    positions of their plates as the replicates do, of different perturbations or controls;
  else random sets of as many wells of different perturbations: `draws` draws of k rows without
    replacement from all replicates,
  numpy's default_rng(seed); draws in which a perturbation occurs twice are dropped. Where more than
  half would be dropped (k is large beside the number of perturbations) they are kept, which makes p
  a little larger.

p = 1 - searchsorted(sorted null, statistic) / n, as EFAAR has it: 0 means "above all of the null",
so its resolution is 1 / n.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from phenomjax.statistics.cosines import unit_rows
from phenomjax.statistics.matched_sets import MatchedSets, patterns_of
from phenomjax.statistics.permutation import p_values, share_at_least
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")

Null = Literal["random", "position"]
DRAWS = 2000
LEAST_DRAWS = 20  # one of them is a share of .05
FEW_NAMES = 5  # perturbations
SURE = 1000  # sets of a null, from which on its size needs no word
GATHERED = 10**7  # numbers at once


def _mean_cosine(
    sums: Float64[np.ndarray, "sets dim"],
    lengths: Float64[np.ndarray, " sets"],
    count: Int[np.ndarray, " sets"] | int,
) -> Float64[np.ndarray, " sets"]:
    """Mean cosine over pairs, from the sum of unit rows: (|sum|^2 - sum of squared lengths) / (k (k
    - 1)).
    """
    pairs = np.asarray(count * (count - 1), np.float64)
    return np.divide(
        (sums**2).sum(-1) - lengths, pairs, out=np.full(sums.shape[:-1], np.nan), where=pairs > 0
    )


def group_sums(
    values: Float[np.ndarray, "rows dim"], codes: Int[np.ndarray, " rows"], groups: int
) -> Float64[np.ndarray, "{groups} dim"]:
    """Sum of the rows of each group, float64 [groups, dim]."""
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=groups)
    out = np.zeros((groups, values.shape[1]))
    filled = counts > 0
    starts = (np.cumsum(counts) - counts)[filled]
    if len(starts):
        out[filled] = np.add.reduceat(values[order].astype(np.float64, copy=False), starts, axis=0)
    return out


@dataclass(frozen=True)
class Consistency:
    """Of each perturbation, in sorted order of their names.

    Attributes:
      names: of the perturbations.
      replicates: int64 [perturbations].
      cosine: mean cosine between replicates, NaN with fewer than 2.
      p: probability of as much under the null, NaN where cosine is; EFAAR's, which may be 0.
      honest_p: (1 + null at least as large) / (1 + null), for false discovery rates.
      null: what the null was.
      in_null: perturbations of the null, that are not under study, bool [perturbations].
    """

    names: Shaped[np.ndarray, " perturbations"]
    replicates: Int[np.ndarray, " perturbations"]
    cosine: Float64[np.ndarray, " perturbations"]
    p: Float64[np.ndarray, " perturbations"]
    honest_p: Float64[np.ndarray, " perturbations"]
    null: str
    in_null: Bool[np.ndarray, " perturbations"]


@dataclass(frozen=True)
class Placed:
    """Where wells lie, for a null that is matched by position.

    Attributes:
      positions: of the wells under study, "" where unknown.
      controls: float [controls, dim], features of the negative controls.
      control_positions: theirs.
    """

    positions: Shaped[np.ndarray, " wells"]
    controls: Float[np.ndarray, "controls dim"]
    control_positions: Shaped[np.ndarray, " controls"]


def random_sets(
    codes: Int[np.ndarray, " rows"], count: int, draws: int, seed: int
) -> Int[np.ndarray, "sets {count}"]:
    """Row numbers of random sets of wells of different perturbations, at most `draws`."""
    rng = np.random.default_rng(seed)
    sets = np.stack([rng.choice(len(codes), count, replace=False) for _ in range(draws)])
    labels = np.sort(codes[sets], axis=1)
    different = (labels[:, 1:] != labels[:, :-1]).all(1)
    return sets[different] if different.mean() >= 0.5 else sets


def _blocks(sets: Int[np.ndarray, "sets count"], dim: int) -> list[Int[np.ndarray, "_ count"]]:
    return np.array_split(sets, -(-sets.size * dim // GATHERED))


def _cosine_of_sets(
    units: Float64[np.ndarray, "rows dim"], sets: Int[np.ndarray, "sets count"]
) -> Float64[np.ndarray, " sets"]:
    chosen = units[sets.ravel()].reshape(*sets.shape, -1)
    return _mean_cosine(chosen.sum(1), (chosen**2).sum((1, 2)), sets.shape[1])


def check_draws(draws: int) -> None:
    """Refuses a null too small for any p below .05.

    Raises:
      UserError: it is.
    """
    if draws < LEAST_DRAWS:
        raise UserError(f"`draws` is {draws}; it must be at least {LEAST_DRAWS}.")


def consistency(
    features: Float[np.ndarray, "wells dim"],
    labels: Shaped[np.ndarray, " wells"],
    *,
    unexpressed: Bool[np.ndarray, " wells"] | None = None,
    placed: Placed | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Consistency:
    """Consistency of each perturbation, and its p-value.

    Args:
      features: float [wells, dim], of treated wells only.
      labels: name of each well's perturbation.
      unexpressed: bool [wells]: perturbations of genes that the cells do not express, the null;
        random sets without it.
      placed: sets that share positions as the replicates do, instead of any random sets.
      draws, seed: of the random sets.

    Raises:
      UserError: no set of wells can be matched by position.
    """
    check_draws(draws)
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    if unexpressed is None and placed is None and len(codes) > 1 and len(names) < FEW_NAMES:
        log.warning(
            "consistency: %d perturbations are too few for a null of random wells: its sets are"
            " replicates of one perturbation themselves. Give more of them, or look at activity",
            len(names),
        )
    units = unit_rows(features)
    counts = np.bincount(codes)
    lengths = np.bincount(codes, weights=(units**2).sum(1))
    cosine = _mean_cosine(group_sums(units, codes, len(names)), lengths, counts)
    p, honest = np.full(len(names), np.nan), np.full(len(names), np.nan)
    if unexpressed is not None:
        idle = np.zeros(len(names), bool)
        idle[codes[unexpressed]] = True
        null = np.sort(cosine[idle & ~np.isnan(cosine)])
        p, honest = share_at_least(null, cosine), p_values(null, cosine)
        return Consistency(
            names,
            counts,
            cosine,
            p,
            honest,
            f"{len(null)} perturbations of unexpressed genes",
            idle,
        )
    if placed is None:
        text = f"{draws} random sets of as many wells of different perturbations, seed {seed}"
        families = _by_count(codes, counts, draws, seed)
    else:
        text = (
            f"at most {draws} sets of wells that lie in the same positions as the replicates, of"
            f" different perturbations or controls, seed {seed}"
        )
        units = np.concatenate([units, unit_rows(placed.controls)])
        families = _by_position(codes, placed, draws, seed)
    for same, sets in families:
        null = np.sort(
            np.concatenate([_cosine_of_sets(units, part) for part in _blocks(sets, units.shape[1])])
        )
        p[same] = share_at_least(null, cosine[same])
        honest[same] = p_values(null, cosine[same])
    return Consistency(names, counts, cosine, p, honest, text, np.zeros(len(names), bool))


Families = Iterator[tuple[Bool[np.ndarray, " perturbations"], Int[np.ndarray, "sets count"]]]


def _by_count(
    codes: Int[np.ndarray, " wells"],
    counts: Int[np.ndarray, " perturbations"],
    draws: int,
    seed: int,
) -> Families:
    """The perturbations with each number of replicates, and their null's sets of wells."""
    for count in np.unique(counts[counts > 1]):
        yield counts == count, random_sets(codes, int(count), draws, seed)


def _by_position(
    codes: Int[np.ndarray, " wells"], placed: Placed, draws: int, seed: int
) -> Families:
    """The perturbations whose replicates lie alike, and their null's sets of wells and controls.

    Raises:
      UserError: perturbations share positions, but no sets of other wells do.
    """
    patterns = patterns_of(codes, placed.positions)
    matched = MatchedSets(
        np.concatenate([placed.positions, placed.control_positions]),
        np.concatenate([codes, np.full(len(placed.controls), -1)]),
    )
    without, least = 0, draws
    for pattern in sorted({one for one in patterns if sum(one) > 1}):
        same = np.array([one == pattern for one in patterns])
        if pattern[0] == 1:
            yield same, random_sets(codes, len(pattern), draws, seed)
            continue
        sets = matched.draw(pattern, draws, seed)
        if len(sets):
            least = min(least, len(sets))
            yield same, sets
        else:
            without += int(same.sum())
    if without:
        log.warning(
            "%d perturbations have no p: no wells of other perturbations or controls lie as their"
            " replicates do, in the same positions of several plates",
            without,
        )
    if without and without == sum(sum(one) > 1 for one in patterns):
        raise UserError(
            "`null` position: replicates lie in the same position of their plates, and no other"
            " wells do: no position holds different perturbations, or controls, on as many plates."
            " The null of position is unknown here; `null` random compares with wells anywhere."
        )
    if least < SURE:
        log.info(
            "the position-matched null has %d sets, so that no p is below %.2g: for a false"
            " discovery rate of 0.05, %d of %d perturbations have to be above all of it. More"
            " controls, or more plates of them, make it finer",
            least,
            1 / (1 + least),
            ceil(len(patterns) / (1 + least) / 0.05),
            len(patterns),
        )

"""Whose turn it is among banks that are mixed by shares, which may change on the way.

A function of the place alone: nothing is drawn, and nobody has to remember how far a bank was read.
"""

import bisect
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from phenomjax.system.errors import UserError

WIDEST = 1e6  # times the smallest share is the largest: all turns are counted in whole numbers
MANY = 64  # parts; from here on the turns are found by a compiled loop
SHOWN = 8  # banks that are told of one by one
# (position, share of each bank) from which on banks are mixed so
Shares = Sequence[tuple[int, Sequence[float]]]


def turn(index, shares, total):
    """The part that has place `index` in the mixture, and how often it had its turn before.

    The parts are taken out one by one: of any places in a row that are left, the next part has the
    share that it has of the parts that are left, rounded. These are the turns of
    `grain.MapDataset.mix`.

    Args:
      index: from 0 on.
      shares: int, of each part.
      total: their sum.
    """
    here, behind, left = index, index + 1, total
    for part in range(len(shares)):
        others = left - shares[part]
        next_here, next_behind = here * others // left, behind * others // left
        taken = behind - next_behind
        if here - next_here != taken:
            return part, taken - 1
        here, behind, left = next_here, next_behind, others
    return -1, -1


class Mixture:
    """Parts that take turns by their shares, each going on where it was.

    Args:
      stages: (first place, share of each part) from which on they are mixed so; the first is at 0.
        A part may have no share for a while.
    """

    def __init__(self, stages: Shares):
        self._firsts = [first for first, _ in stages]
        self._turns = [_Turns(shares) for _, shares in stages]
        # turns of each part before each stage
        self._before = [[0] * len(stages[0][1])]
        for turns, length in zip(self._turns, np.diff(self._firsts).tolist(), strict=False):
            taken = turns.before(length)
            self._before.append([a + b for a, b in zip(self._before[-1], taken, strict=True)])

    def at(self, index: int) -> tuple[int, int]:
        """(the part that has a place, how often it had its turn before)."""
        stage = bisect.bisect_right(self._firsts, index) - 1
        part, number = self._turns[stage].at(index - self._firsts[stage])
        return part, self._before[stage][part] + number

    def before(self, index: int) -> list[int]:
        """How often each part has its turn before a place."""
        stage = bisect.bisect_right(self._firsts, index) - 1
        taken = self._turns[stage].before(index - self._firsts[stage])
        return [a + b for a, b in zip(self._before[stage], taken, strict=True)]


class _Turns:
    """Parts that take turns by shares that stay."""

    def __init__(self, shares: Sequence[float]):
        least = min((share for share in shares if share), default=1)
        self._shares = [int(share * (100 / least)) for share in shares]
        self._total = sum(self._shares)
        self._compiled = np.array(self._shares, np.int64) if len(shares) >= MANY else None

    def at(self, index: int) -> tuple[int, int]:
        if self._compiled is not None and (index + 1) * self._total < 2**63:
            return _compile()(index, self._compiled, self._total)
        return turn(index, self._shares, self._total)

    def before(self, index: int) -> list[int]:
        taken, left = [], self._total
        for share in self._shares:
            rest = index * (left - share) // left if left else 0
            taken.append(index - rest if left else 0)
            index, left = rest, left - share
        return taken


@functools.cache
def _compile() -> Callable:
    from numba import njit  # takes a second to import

    return njit(cache=True, nogil=True)(turn)


def resolved(weights: Shares, sizes: Mapping[str, int]) -> Shares:
    """Shares with a number for each bank.

    Args:
      weights: stages; () as shares = by how much there is of each bank.
      sizes: how much there is of each, by its name.

    Raises:
      UserError: shares that do not fit the banks, or a bank that never has any.
    """
    for position, shares in weights:
        if shares and (len(shares) != len(sizes) or min(shares) < 0 or not sum(shares)):
            key = "data.weights_later" if position else "data.weights"
            where = f", from step {position} on," if position else ""
            banks = "1 bank" if len(sizes) == 1 else f"{len(sizes)} banks"
            raise UserError(
                f"{key}={tuple(shares)}{where} does not fit the {banks}: give one number"
                " for each, 0 or more and not all 0, or () for as much of each as there is."
            )
        there = [share for share in shares if share]
        if there and max(there) * (100 / min(there)) > 100 * WIDEST:
            raise UserError(
                f"{'data.weights_later' if position else 'data.weights'}={tuple(shares)}: the"
                f" smallest is too small, or less than the largest by more than {WIDEST:,.0f}: give"
                " numbers such as (3.0, 1.0), and leave out of data.banks what is not to come."
            )
    full = [(position, tuple(shares or sizes.values())) for position, shares in weights]
    return full


def check_read(weights: Shares, sizes: Mapping[str, int]) -> None:
    """Raises UserError where a bank never has a share, or all that have one are empty."""
    for bank, (name, size) in enumerate(sizes.items()):
        if weights and size and not any(shares[bank] for _, shares in weights):
            raise UserError(
                f"data.weights never gives anything to {name}. A bank without weight is left out of"
                " data.banks, and its place out of the weights."
            )
    for position, shares in weights:
        if not any(size and share for size, share in zip(sizes.values(), shares, strict=True)):
            raise UserError(
                f"From step {position} on data.weights gives shares to banks alone of which nothing"
                " is left to train on. Give others a share, or hold out less of these."
            )


def mean(weights: Shares, sizes: Mapping[str, int]) -> Shares:
    """One stage, with the mean of the shares of all, of the banks that have something."""
    if not weights:
        return weights
    there = np.array(list(sizes.values())) > 0
    parts = np.array([shares for _, shares in weights], float) * there
    if not parts.any():
        return [(0, tuple(sizes.values()))]
    if len(parts) > 1:
        parts /= np.maximum(parts.sum(1, keepdims=True), np.finfo(float).tiny)
    return [(0, tuple(parts.mean(0).tolist()))]


def described(weights: Shares, names: Sequence[str]) -> str:
    """Which bank has which share, and from when on, in words; `weights` as of `resolved`."""
    told = []
    for position, shares in weights:
        parts = [
            f"{100 * share / sum(shares):.3g} % {name}"
            for name, share in list(zip(names, shares, strict=True))[:SHOWN]
        ]
        more = [f"{len(names) - SHOWN:,} more"] * (len(names) > SHOWN)
        told.append((f"from step {position:,} on " if position else "") + ", ".join(parts + more))
    return "; ".join(told)


def since(weights: Shares, begin: int) -> list[tuple[int, Sequence[float]]]:
    """The stages of data that begin at a position, counted from there."""
    last = max((n for n, (position, _) in enumerate(weights) if position <= begin), default=0)
    return [(max(position - begin, 0), shares) for position, shares in weights[last:]]

"""The rule by which a process or a device is called slow. Pure functions of what was measured.

All processes wait for the slowest one in every step, so their steps take equally long. What differs
is how long each of them waits: the slow one least. Its *excess* is the time that it spends outside
of waiting beyond the median of the others, as a share of the step. Without it a step would take
(1 - excess) of the time; 1/6 is a process that is 20 % slower than the others.

One is slow when over its last 4, 6, 8 or 12 samples the mean excess is at least `LIMIT`, by more
than chance: the one-sided t-test, at `CHANCE` for all who are compared together, shows that it is
above half of `LIMIT`.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

Unit = TypeVar("Unit", bound=Hashable)
LIMIT = 1 - 1 / 1.15  # one that is 20 % slow is above it, with some noise too
CHANCE = 1e-3
COUNTS = (4, 6, 8, 12)  # samples
LEAST, MOST = COUNTS[0], COUNTS[-1]
# Of a step: who waits longer than this for its own devices is not what its devices wait for.
BOUND = 0.1


def excesses(own: Mapping[Unit, float]) -> dict[Unit, float]:
    """How much more each has than the median of the others; nothing for one alone."""
    names, values = list(own), np.array(list(own.values()), float)
    if len(names) < 2:
        return {}
    order = np.argsort(values, kind="stable")
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    ranked, others = values[order], len(order) - 1
    low, high = (others - 1) // 2, others // 2  # of the others in their order
    found = {}
    for name, value, rank in zip(names, values, place, strict=True):
        middle = [ranked[i + (i >= rank)] for i in (low, high)]
        found[name] = float(value - sum(middle) / 2)
    return found


def host_excesses(waits: Mapping[Unit, float]) -> dict[Unit, float]:
    """Excesses by how long each waits for its own devices, as shares of the step: of those who
    hardly do, so that the devices wait for them; 0 of the others.
    """
    found = excesses({name: 1 - wait for name, wait in waits.items()})
    return {name: each if waits[name] <= BOUND else 0.0 for name, each in found.items()}


def is_slow(history: Sequence[float], compared: int) -> bool:
    """Whether the last excesses of one are those of a slow one.

    Args:
      history: its excesses, in order.
      compared: how many are compared.
    """
    chance = CHANCE / (compared * len(COUNTS))
    return any(_above(history[-n:], chance) for n in COUNTS if n <= len(history))


def _above(samples: Sequence[float], chance: float) -> bool:
    mean, count = float(np.mean(samples)), len(samples)
    if mean < LIMIT:
        return False
    from scipy.special import stdtrit  # every run imports this file, and few come here

    error = float(np.std(samples, ddof=1)) / count**0.5
    return mean + stdtrit(count - 1, chance) * error >= LIMIT / 2

"""What two numbers with intervals allow to say of each other, and how it is said.

One beats the other when their 95 % intervals do not overlap. Overlapping intervals are no proof of
equality, so the words are then "is not shown to beat".
"""

import math
from collections.abc import Sequence
from typing import TypeGuard

BEATS, NOT_SHOWN, BELOW = "beats", "is not shown to beat", "is below"


def outcome(
    interval: Sequence[float], other: Sequence[float], *, lower_is_better: bool = False
) -> str:
    """BEATS, NOT_SHOWN or BELOW.

    Args:
      interval, other: two ends each, in any order; ends that touch overlap.
      lower_is_better: as of an error.
    """
    (low, high), (other_low, other_high) = sorted(interval), sorted(other)
    if lower_is_better:
        low, high, other_low, other_high = -high, -low, -other_high, -other_low
    return BEATS if low > other_high else BELOW if high < other_low else NOT_SHOWN


def finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a number."""
    return value is not None and math.isfinite(value)


def number(value: float | None, interval: Sequence[float | None] | None = None) -> str:
    """0.681 [0.670, 0.692]; a dash where there is no value."""
    if not finite(value):
        return "-"
    ends = [f"{end:.3f}" for end in interval or () if finite(end)]
    return f"{value:.3f} [{', '.join(ends)}]" if len(ends) == 2 else f"{value:.3f}"


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

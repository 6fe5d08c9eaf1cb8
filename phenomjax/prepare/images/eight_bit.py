"""Rules that bring pixels to 8 bit: a fixed range, percentiles of the plate, or keep them as they
are.
"""

import functools
from typing import NamedTuple

import numpy as np

from phenomjax.system.errors import UserError

# Bright debris covers less than a thousandth of a field, and black corners less than that.
DEFAULT_16_BIT = "percentile:0.1:99.9"
_HELP = "Write --intensity range:LOW:HIGH, percentile:LOW:HIGH (0 to 100), or keep."


class Rule(NamedTuple):
    """A parsed --intensity.

    Attributes:
      kind: range, percentile or keep.
      low: pixel value or percentile that becomes 0.
      high: pixel value or percentile that becomes 255.
    """

    kind: str
    low: float
    high: float


def parse(text: str) -> Rule:
    """Parses --intensity."""
    if text == "keep":
        return Rule("keep", 0, 0)
    parts = text.split(":")
    try:
        kind, low, high = parts[0], float(parts[1]), float(parts[2])
    except (IndexError, ValueError) as error:
        raise UserError(f"--intensity {text!r} is not understood. {_HELP}") from error
    top = {"range": 65535, "percentile": 100}
    if kind not in top or len(parts) != 3:
        raise UserError(f"--intensity {text!r} is not understood. {_HELP}")
    if not 0 <= low < high <= top[kind] or (kind == "range" and (low % 1 or high % 1)):
        raise UserError(
            f"--intensity {text!r}: needs 0 <= LOW < HIGH <= {top[kind]}, whole for a range."
            f" {_HELP}"
        )
    return Rule(kind, low, high)


def percentile_range(counts: np.ndarray, rule: Rule) -> tuple[int, int]:
    """The pixel values at two percentiles of an exact histogram (inverted CDF, no interpolation).

    Args:
      counts: int64 [65536], pixels of each value.
      rule: a percentile rule.

    Returns:
      (low, high) with low < high.
    """
    cumulative = counts.cumsum()
    ranks = [
        max(1, int(np.ceil(cumulative[-1] * share / 100 - 1e-9))) for share in (rule.low, rule.high)
    ]
    low, high = (int(value) for value in np.searchsorted(cumulative, ranks))
    return (low, high) if high > low else (min(low, 65534), min(low, 65534) + 1)


@functools.lru_cache(maxsize=256)
def _table(low: int, high: int) -> np.ndarray:
    values = np.clip(np.arange(65536, dtype=np.int64), low, high) - low
    return ((values * 510 + (high - low)) // (2 * (high - low))).astype(np.uint8)


def to_8_bit(image: np.ndarray, numbers: list[tuple[int, int]]) -> np.ndarray:
    """Maps each channel's [low, high] to [0, 255], rounded to the nearest, clipped outside.

    Args:
      image: uint8 or uint16 [height, width, channels].
      numbers: (low, high) of each channel.

    Returns:
      uint8 [height, width, channels].
    """
    converted = np.empty(image.shape, np.uint8)
    for channel, (low, high) in enumerate(numbers):
        np.take(_table(low, high), image[..., channel], out=converted[..., channel])
    return converted

"""Rules that bring pixels to 8 bit: a fixed range, percentiles of the plate, or keep them as they
are.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from phenomjax.system.errors import UserError

# Bright debris covers less than a thousandth of a field, and black corners less than that.
DEFAULT_16_BIT = "percentile:0.1:99.9"
# What a range of no pixels was taken for once; no plate has it but one that is white all over.
NO_RANGE = (65534, 65535)
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
    if kind not in ("range", "percentile") or len(parts) != 3:
        raise UserError(f"--intensity {text!r} is not understood. {_HELP}")
    if not low < high or math.isinf(low) or math.isinf(high):
        raise UserError(f"--intensity {text!r}: needs LOW < HIGH. {_HELP}")
    if kind == "percentile" and not 0 <= low < high <= 100:
        raise UserError(f"--intensity {text!r}: needs 0 <= LOW < HIGH <= 100. {_HELP}")
    return Rule(kind, low, high)


def number(value: float) -> int | float:
    """The value as it is written: whole numbers without a point."""
    return int(value) if float(value).is_integer() else float(value)


def text(rule: Rule) -> str:
    """The rule as `parse` reads it."""
    return "keep" if rule.kind == "keep" else f"{rule.kind}:{number(rule.low)}:{number(rule.high)}"


def bank_dtype(rule: Rule, source_dtype: str) -> str:
    """The type of the bank's pixels. Whole numbers of another type are kept as uint16, where none
    is outside (`keep`).
    """
    if rule.kind != "keep":
        return "uint8"
    return {"uint8": "uint8", "bool": "uint8"}.get(source_dtype, "uint16")


def percentile_range(counts: np.ndarray, rule: Rule) -> tuple[int, int]:
    """The pixel values at two percentiles of an exact histogram (inverted CDF, no interpolation).

    Args:
      counts: int64 [65536], pixels of each value.
      rule: a percentile rule.

    Returns:
      (low, high) with low < high.

    Raises:
      ValueError: there are no pixels.
    """
    low, high = (_value_at(counts, share) for share in (rule.low, rule.high))
    return (low, high) if high > low else (min(low, 65534), min(low, 65534) + 1)


def _value_at(counts: np.ndarray, share: float) -> int:
    cumulative = counts.cumsum()
    if not cumulative[-1]:
        raise ValueError("there are no pixels, so they have no percentiles")
    rank = max(1, int(np.ceil(cumulative[-1] * share / 100 - 1e-9)))
    return int(np.searchsorted(cumulative, rank))


def is_flat(counts: np.ndarray, rule: Rule) -> bool:
    """Whether both percentiles of a histogram are the same value."""
    return _value_at(counts, rule.low) == _value_at(counts, rule.high)


def extremes(counts: np.ndarray) -> tuple[int, int]:
    """The lowest and the highest value of a histogram."""
    there = np.flatnonzero(counts)
    return int(there[0]), int(there[-1])


@functools.lru_cache(maxsize=256)
def _table(low: int, high: int) -> np.ndarray:
    values = np.clip(np.arange(65536, dtype=np.int64), low, high) - low
    return ((values * 510 + (high - low)) // (2 * (high - low))).astype(np.uint8)


def to_8_bit(image: np.ndarray, numbers: list[tuple[float, float]]) -> np.ndarray:
    """Maps each channel's [low, high] to [0, 255], rounded to the nearest, clipped outside.

    Args:
      image: whole numbers, floats (finite) or bool, [height, width, channels].
      numbers: (low, high) of each channel.

    Returns:
      uint8 [height, width, channels].
    """
    converted = np.empty(image.shape, np.uint8)
    for channel, (low, high) in enumerate(numbers):
        plane = image[..., channel]
        whole = float(low).is_integer() and float(high).is_integer()
        if image.dtype in (np.uint8, np.uint16) and whole and 0 <= low < high <= 65535:
            np.take(_table(int(low), int(high)), plane, out=converted[..., channel])
        elif (
            whole
            and image.dtype.kind in "bui"
            and image.dtype.itemsize < 8
            and _is_small(low, high)
        ):
            span = int(high) - int(low)
            values = np.clip(plane.astype(np.int64), int(low), int(high)) - int(low)
            converted[..., channel] = (values * 510 + span) // (2 * span)
        else:
            share = (np.clip(plane.astype(np.float64), low, high) - low) / (high - low)
            converted[..., channel] = np.floor(share * 255 + 0.5)
    return converted


def _is_small(low: float, high: float) -> bool:
    return -(2**40) < low < high < 2**40

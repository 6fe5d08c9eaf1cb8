"""Random numbers of the data: functions of a seed and a place alone, whoever asks for them."""

import numpy as np
from jaxtyping import Int64, UInt64

# What is drawn, each from a stream of its own.
CROPS, IMAGE_ORDER, SEQUENCE_ORDER, OFFSETS, SPANS, HELD_OUT_SPANS, CROPS_BY_IMAGE = range(7)


def raw(
    count: int, seed: int, stream: int, first: int, second: int, third: int = 0
) -> UInt64[np.ndarray, "count"]:
    """Random 64-bit numbers.

    They are the raw output of Philox: NumPy promises that it never changes, which it does not for
    integers() or random().

    Args:
      count: how many.
      seed: of the run.
      stream: what they are for.
      first, second, third: the place. Every four numbers the first moves on by one.
    """
    key, counter = np.array([seed, stream], np.uint64), np.array([first, second, third, 0], "u8")
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def permutation(
    count: int, seed: int, epoch: int, stream: int = IMAGE_ORDER, part: int = 0
) -> Int64[np.ndarray, "count"]:
    """The numbers 0 to count - 1, in another order for each seed, epoch and part."""
    return np.argsort(raw(count, seed, stream, 0, epoch, part), kind="stable")

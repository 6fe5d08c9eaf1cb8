"""`data.subset`: a share of what is trained on, such that a smaller share lies within a larger one.

Unlike a selection it needs no file, and what is held out for validation stays as it is: the runs of
a ladder that differ in their share are judged on the same.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt64

from phenomjax.data.selections import Bank, parts_of

RowNumbers = Integer[np.ndarray, " rows"]


def nested(banks: Sequence[Bank], rows: Sequence[RowNumbers], share: float) -> list[RowNumbers]:
    """Those of some rows whose hashes are the smallest, `share` of them over all banks and one at
    least.

    The hash is of the row and of the first table of its bank's metadata, so it is the same where
    the bank was copied or made longer.

    Args:
      banks: in order.
      rows: of each bank, ascending.
      share: above 0, up to 1.
    """
    hashes = [_hashes(bank, mine) for bank, mine in zip(banks, rows, strict=True)]
    every = np.concatenate([np.zeros(0, np.uint64), *hashes])
    if share == 1 or not len(every):
        return list(rows)
    last = max(round(share * len(every)), 1) - 1
    limit = np.partition(every, last)[last]
    return [mine[own <= limit] for mine, own in zip(rows, hashes, strict=True)]


def _hashes(bank: Bank, rows: RowNumbers) -> UInt64[np.ndarray, " rows"]:
    """The SplitMix64 numbers (Steele et al. 2014, https://doi.org/10.1145/2660193.2660195) at the
    places `rows` of a sequence that begins with the hash of the bank.
    """
    digest = hashlib.sha256(f"data.subset {parts_of(bank)[0].sha256}".encode()).digest()
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = np.uint64(int.from_bytes(digest[:8])) + (rows.astype(np.uint64) + np.uint64(1)) * golden
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))

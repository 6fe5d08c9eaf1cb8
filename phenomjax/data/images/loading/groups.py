"""Banks whose images can share a batch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.rows import Rows

log = logging.getLogger("phenomjax")


@dataclass(frozen=True)
class Group:
    """Banks of the same channels and dtype.

    Attributes:
      channels: names, in the order of the last axis.
      dtype: of the pixels.
      banks: positions in the loader's list of banks.
    """

    channels: tuple[str, ...]
    dtype: np.dtype
    banks: tuple[int, ...]


def groups_of(banks: Sequence[ImageBank], rows: Sequence[Rows], split: str) -> list[Group]:
    """The groups of banks by the rows of a split; a bank without any is left out, which is said."""
    members: dict[tuple[tuple[str, ...], np.dtype], list[int]] = {}
    for number, (bank, own) in enumerate(zip(banks, rows, strict=True)):
        if len(own):
            members.setdefault((bank.channels, bank.dtype), []).append(number)
        else:
            log.info("%s has no image in the %s split and is not used for it", bank.path, split)
    return [
        Group(channels, dtype, tuple(numbers)) for (channels, dtype), numbers in members.items()
    ]

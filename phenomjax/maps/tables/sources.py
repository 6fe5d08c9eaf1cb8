"""One file of profiles before its features are read: its metadata, the names of its features, and
a way to read them block by block, so that a table may be larger than memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float32

from phenomjax.maps.tables.profiles import Record
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Block: TypeAlias = Float32[np.ndarray, "rows dim"]
Blocks: TypeAlias = Iterator[Block]

# What libraries raise that meet a damaged file.
DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    *(ArithmeticError, AssertionError),
)
BLOCK_VALUES = 2**22  # of a block: 16 MiB of float32


@dataclass(frozen=True)
class Wanted:
    """What of a file is read.

    Attributes:
      block: which encoder block's embeddings, where an E.zarr holds several.
      features: the feature columns of a table, a regular expression for the whole name.
    """

    block: int | None = None
    features: str | None = None


EVERYTHING = Wanted()


@dataclass(frozen=True)
class Source:
    """One file of profiles.

    Attributes:
      path: of the file.
      metadata: one row a profile, index 0..rows-1.
      names: of the features.
      provenance: what the file says of its own past.
      read: features of the given names, in their order, as blocks of some rows; the blocks together
        are all rows, in order. May be called several times; each call reads anew.
    """

    path: Path
    metadata: "pd.DataFrame"
    names: tuple[str, ...]
    provenance: Record
    read: Callable[[tuple[str, ...]], Blocks]

    def blocks(self, names: Sequence[str] | None = None) -> Blocks:
        """The features as float32 blocks [some rows, dim], which together are all rows in order.

        Args:
          names: which features, in which order; all of them where None.

        Raises:
          UserError: the file is damaged.
        """
        chosen = self.names if names is None else tuple(names)
        try:
            yield from self.read(chosen)
        except DAMAGE as error:
            raise damaged(self.path, error) from None


def damaged(path: Path, error: Exception) -> UserError:
    """What is said of a file that a library cannot read."""
    return UserError(
        f"{path} cannot be read as profiles ({type(error).__name__}: {str(error)[:200]}). It may be"
        " cut off or of another format; copy it again, and look at its first lines."
    )


def rows_of_a_block(dim: int) -> int:
    """How many rows make a block of a bounded size."""
    return max(1, BLOCK_VALUES // max(1, dim))


def slices(features: Float32[np.ndarray, "rows dim"], places: Sequence[int]) -> Blocks:
    """Blocks of an array that is in memory already; all of it at once where it is taken as it
    is.
    """
    if list(places) == list(range(features.shape[1])):
        yield features
        return
    step = rows_of_a_block(len(places))
    for start in range(0, len(features), step):
        yield features[start : start + step, list(places)]

"""One file of profiles before its features are read: its metadata, the names of its features, and
a way to read them block by block, so that a table may be larger than memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float32

from phenomjax.maps.tables import scratch
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


@dataclass(frozen=True)
class Wanted:
    """What of a file is read.

    Attributes:
      block: which encoder block's embeddings, where an E.zarr holds several.
      features: the feature columns of a table, a regular expression for the whole name; "common":
        those that all files have.
      keep: columns that are features though their names are those of positions or bookkeeping, a
        regular expression for the whole name.
      layer, obsm: which array of an AnnData is the features, instead of X.
      objects: how the rows of single objects (cells) become one of a well: "mean", "median", or
        "apart" where they stay.
      hold: whether the features of a text, which are met while its metadata are read, are kept for
        the first call of `blocks`.
      folder: for what is larger than memory should hold, while it is read.
    """

    block: int | None = None
    features: str | None = None
    keep: str | None = None
    layer: str | None = None
    obsm: str | None = None
    objects: str = "mean"
    hold: bool = True
    folder: Path | None = None


EVERYTHING = Wanted()


@dataclass(frozen=True)
class Note:
    """What was found in a file and mended, of one kind; `notes.tell` makes sentences of them.

    Attributes:
      kind: a key of `notes.SENTENCES`.
      names: of columns.
      count: of cells or rows.
      example: of what was found.
    """

    kind: str
    names: tuple[str, ...] = ()
    count: int = 0
    example: str = ""


def noted(
    kind: str, names: Iterable[str] = (), count: int = 0, example: str = ""
) -> tuple[Note, ...]:
    """A note, where there is something to tell."""
    names = tuple(names)
    return (Note(kind, names, count, example),) if names or count or example else ()


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
      notes: what was found in it and mended.
    """

    path: Path
    metadata: "pd.DataFrame"
    names: tuple[str, ...]
    provenance: Record
    read: Callable[[tuple[str, ...]], Blocks]
    notes: tuple[Note, ...] = ()

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


def slices(array: Any) -> Iterator[np.ndarray]:  # of any type of numbers
    """Blocks of rows of an array [rows, dim] of NumPy, SciPy, pandas or HDF5."""
    for some in scratch.blocks(*array.shape):
        rows = array[some]
        yield rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)


def columns_of(
    blocks: Iterable[np.ndarray], names: Sequence[str], chosen: tuple[str, ...]
) -> Blocks:
    """Some columns of blocks that hold those of `names`, as float32 in the order of `chosen`."""
    place = {name: k for k, name in enumerate(names)}
    columns = [place[name] for name in chosen]
    whole = chosen == tuple(names)
    for block in blocks:
        with np.errstate(over="ignore"):
            yield np.asarray(block if whole else block[:, columns], np.float32)


def apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names of which each occurs once: a second "A" becomes "A#2"."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(found)

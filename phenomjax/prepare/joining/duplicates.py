"""Images of several banks that have one name, the same place in the same screen."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.selections import KEYS
from phenomjax.system.errors import UserError

NAMES = KEYS["images"]


def names(bank: ImageBank) -> list[pa.Array]:
    """What the images of a bank are called, a row group at a time; null where the metadata name no
    well.
    """
    found = []
    for part in bank.described.parts(NAMES):
        columns = [pc.fill_null(part[name], "") for name in NAMES]
        joined = pc.binary_join_element_wise(*columns, "/")
        named = pc.if_else(pc.is_valid(part["well"]), joined, pa.scalar(None, pa.string()))
        found.append(named.combine_chunks() if isinstance(named, pa.ChunkedArray) else named)
    return found


def in_earlier(banks: Sequence[ImageBank]) -> list[Bool[np.ndarray, "images"]]:
    """For each image of each bank, whether an earlier bank has one of its name. What is kept of the
    others is 8 bytes an image.
    """
    seen, found = np.zeros(0, np.uint64), []
    for number, bank in enumerate(banks):
        parts, hashes = names(bank), [np.zeros(0, np.uint64)]
        for part in parts:
            hashes.append(pd.util.hash_array(part.fill_null("").to_numpy(zero_copy_only=False)))
        mine = np.concatenate(hashes)
        known = np.concatenate([np.zeros(0, bool), *(~_is_null(part) for part in parts)])
        twice = known & np.isin(mine, seen)
        if twice.any():  # equal hashes are compared in full
            maybe = pa.array(set(_taken(parts, twice)), pa.string())
            there = {
                name
                for other in banks[:number]
                for part in names(other)
                for name in pc.unique(part.filter(pc.is_in(part, value_set=maybe))).to_pylist()
            }
            sure = pa.array(there, pa.string())
            twice &= np.concatenate([_numpy(pc.is_in(part, value_set=sure)) for part in parts])
        found.append(twice)
        seen = np.unique(np.concatenate([seen, mine[known]]))
    return found


def refuse(banks: Sequence[ImageBank], twice: Sequence[np.ndarray], mend: str) -> None:
    """Raises a UserError that says which images are there twice.

    Args:
      banks: of `in_earlier`.
      twice: what it found, of the images that are wanted.
      mend: what can be done.
    """
    if not any(mask.any() for mask in twice):
        return
    number = next(place for place, mask in enumerate(twice) if mask.any())
    name = _taken(names(banks[number]), twice[number])[0]
    total = sum(int(mask.sum()) for mask in twice)
    raise UserError(
        f"{total} images of {banks[number].path} and others are in an earlier bank too, such as"
        f" {name.strip('/')} (experiment, plate, well, site, time). {mend}"
    )


def _taken(parts: Sequence[pa.Array], mask: np.ndarray) -> list[str]:
    return pa.chunked_array(parts, pa.string()).filter(pa.array(mask)).to_pylist()


def _is_null(part: pa.Array) -> np.ndarray:
    return _numpy(pc.is_null(part))


def _numpy(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)

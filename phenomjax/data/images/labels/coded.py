"""Texts of the metadata as small numbers, one an image, over all banks."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.loading.split import group_name
from phenomjax.data.images.rows import Rows

# perturbation type, and the class of negative controls that the label column gives no name
CONTROL = "control"


class Coded(NamedTuple):
    """A text of each image.

    Attributes:
      names: all texts.
      codes: of each image, counted over all banks, the place of its text; -1 = none.
    """

    names: tuple[str, ...]
    codes: Int32[np.ndarray, "images"]

    def equal(self, name: str) -> Bool[np.ndarray, "images"]:
        """Whose text it is."""
        return self.where([one == name for one in self.names])

    def where(self, flags: Sequence[bool]) -> Bool[np.ndarray, "images"]:
        """Whose text has its flag."""
        return np.array([*flags, False], bool)[self.codes]

    def places(self, names: Sequence[str]) -> Int32[np.ndarray, "images"]:
        """Of each image, the place of its text among some names; -1 = none of them."""
        place = {name: number for number, name in enumerate(names)}
        return np.array([*(place.get(one, -1) for one in self.names), -1], np.int32)[self.codes]

    def there(self, images: np.ndarray) -> dict[str, int]:
        """{text: how many of some images (a mask, or numbers) have it}."""
        codes = self.codes[images]
        counts = np.bincount(codes[codes >= 0], minlength=len(self.names))
        return {self.names[code]: int(counts[code]) for code in np.flatnonzero(counts)}


def read(banks: Sequence[ImageBank], columns: Sequence[str]) -> Coded:
    """Columns of the metadata together as one text an image; several are joined by "/"."""
    place: dict[str, int] = {}
    codes = [np.zeros(0, np.int32)]
    for bank in banks:
        runs = bank.runs(columns)
        texts = (one[0] if len(columns) == 1 else group_name(one) for one in runs.values())
        own = [place.setdefault(one, len(place)) if one else -1 for one in texts]
        codes.append(runs.spread(np.array(own, np.int32), len(bank)))
    return Coded(tuple(place), np.concatenate(codes))


def controls(banks: Sequence[ImageBank]) -> Bool[np.ndarray, "images"]:
    """Which images are controls: `is_control`, which says so of negative ones, or of the
    perturbation type "control", which positive ones have.
    """
    negative = read(banks, ("is_control",)).equal("true")
    return negative | read(banks, ("perturbation_type",)).equal(CONTROL)


class Numbering:
    """Images counted over all banks.

    Args:
      banks: in order.
    """

    def __init__(self, banks: Sequence[ImageBank]):
        self._first = [0, *itertools.accumulate(len(bank) for bank in banks)]

    def __len__(self) -> int:
        return self._first[-1]

    def of(self, rows: Sequence[Rows]) -> Int64[np.ndarray, "images"]:
        """The numbers of rows of each bank."""
        return np.concatenate(
            [first + one.array() for first, one in zip(self._first, rows, strict=False)]
        )

    def rows(self, mask: Bool[np.ndarray, "images"]) -> list[Rows]:
        """The rows of each bank that a mask of all images has."""
        return [
            Rows.of(np.flatnonzero(mask[start:stop]))
            for start, stop in itertools.pairwise(self._first)
        ]

"""The rows of banks as wells: what is known of them, in small numbers.

Of 10 million images are kept: a number of its well and of its reason each; and of each well the
codes of its columns. No text is there twice.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.tables import MISSING

log = logging.getLogger("phenomjax")

KEY = ("experiment", "plate", "well", "time")  # what makes a well
TREATMENT = ("perturbation", "perturbation_type", "gene", "concentration", "is_control")
COLUMNS = (*KEY, "cell_type", *TREATMENT)
UNKNOWN = frozenset({"unknown", "?", "tbd", "not available"})
NONE = -1  # the code of what is not known


@dataclass(frozen=True)
class Column:
    """A column of wells.

    Attributes:
      codes: of each well, the place of its text; NONE where nothing is known.
      texts: all different ones.
    """

    codes: Int[np.ndarray, " wells"]
    texts: Sequence[str]

    def named(self, text: str) -> Bool[np.ndarray, " wells"]:
        """Which wells have this text."""
        return self.codes == self.texts.index(text) if text in self.texts else self.codes < NONE


@dataclass(frozen=True)
class Wells:
    """The images of banks, one after the other, and their wells.

    Attributes:
      banks: in their order.
      first: the first row of each bank, and their end.
      of_row: well of each image.
      columns: of COLUMNS.
      ambiguous: wells whose images have different metadata.
    """

    banks: Sequence[ImageBank]
    first: Int[np.ndarray, " banks_and_end"]
    of_row: Int[np.ndarray, " rows"]
    columns: dict[str, Column]
    ambiguous: Bool[np.ndarray, " wells"]

    def __len__(self) -> int:
        return len(self.ambiguous)

    @property
    def negative(self) -> Bool[np.ndarray, " wells"]:
        """Negative controls."""
        return self.columns["is_control"].named("true")

    @property
    def positive(self) -> Bool[np.ndarray, " wells"]:
        """Positive controls: `is_control` is of negative ones alone."""
        return self.columns["perturbation_type"].named("control") & ~self.negative

    def images(self, mask: Bool[np.ndarray, " rows"]) -> Int[np.ndarray, " wells"]:
        """How many of these images each well has."""
        return np.bincount(self.of_row[mask], minlength=len(self))

    def name(self, well: int) -> str:
        """ "EXP01/P03/B07"."""
        parts = [self.columns[name] for name in KEY]
        texts = [one.texts[one.codes[well]] for one in parts if one.codes[well] != NONE]
        return "/".join(texts)


def read_wells(banks: Sequence[ImageBank]) -> Wells:
    """Reads the metadata of banks."""
    texts: dict[str, dict[str, int]] = {name: {} for name in COLUMNS}
    parts, rows, base = [], [], 0
    for bank in banks:
        runs = bank.runs(COLUMNS)
        codes = np.empty((len(COLUMNS), runs.codes.shape[1]), np.int32)
        for place, name in enumerate(COLUMNS):
            known = [_code(texts[name], text) for text in runs.texts[place]]
            codes[place] = np.array([*known, NONE], np.int32)[runs.codes[place]]
        parts.append(codes)
        numbers = np.arange(base, base + codes.shape[1], dtype=np.int32)
        rows.append(runs.spread(numbers, len(bank)))
        base += codes.shape[1]
    codes = np.concatenate(parts, axis=1)
    # banks may tell of one well both, and in other words
    kind = distinct(codes)
    _, first = np.unique(kind, return_index=True)
    well_of_kind = distinct(codes[: len(KEY), first])
    well = well_of_kind[kind]
    _, of_well = np.unique(well, return_index=True)
    columns = {
        name: Column(codes[place, of_well], list(texts[name])) for place, name in enumerate(COLUMNS)
    }
    joined = np.concatenate(rows)
    for start in range(0, len(joined), 2**20):
        joined[start : start + 2**20] = well[joined[start : start + 2**20]]
    edges = np.cumsum([0, *map(len, banks)])
    return Wells(tuple(banks), edges, joined, columns, np.bincount(well_of_kind) > 1)


def _code(codes: dict[str, int], text: str | None) -> int:
    if text is None or text.strip() in MISSING or text.strip().lower() in UNKNOWN:
        return NONE
    return codes.setdefault(text, len(codes))


def distinct(codes: Int[np.ndarray, "columns rows"]) -> Int[np.ndarray, " rows"]:
    """A number for each different column of codes, from 0."""
    found = np.zeros(codes.shape[1], np.int64)
    for one in codes:
        both = found * (int(one.max(initial=NONE)) + 2) + one + 1
        found = np.unique(both, return_inverse=True)[1]
    return found.astype(np.int32)


def repeated(wells: Wells) -> Bool[np.ndarray, " rows"]:
    """Images that have the name, with the number of a site, of an image before them."""
    codes: dict[str, int] = {}
    parts = []
    for bank in wells.banks:
        column = bank.column("site")
        for chunk in column.chunks:
            known = chunk.dictionary.to_pylist() if pa.types.is_dictionary(chunk.type) else None
            if known is None:
                chunk = chunk.dictionary_encode()
                known = chunk.dictionary.to_pylist()
            numbers = np.array([*(_code(codes, text) for text in known), NONE], np.int32)
            parts.append(numbers[chunk.indices.fill_null(len(known)).to_numpy()])
    sites = np.concatenate([np.zeros(0, np.int32), *parts])
    names = wells.of_row.astype(np.int64) * (len(codes) + 1) + sites
    order = np.argsort(names, kind="stable")
    again = np.zeros(len(sites), bool)
    again[order[1:]] = np.diff(names[order]) == 0
    return again & (sites != NONE)

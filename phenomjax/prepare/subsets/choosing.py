"""Chooses rows of banks: by a condition, by a list, by a share of their groups."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.loading.split import path_of
from phenomjax.data.images.metadata import METADATA_SCHEMA
from phenomjax.data.selections import KEYS, Bank
from phenomjax.data.sequences.bank import METADATA_SCHEMA as TOKEN_SCHEMA
from phenomjax.data.sequences.bank import SPLITS, TokenBank
from phenomjax.data.zarr_files import opening
from phenomjax.prepare.subsets.lists import Listed
from phenomjax.prepare.subsets.where import Condition
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
Banks = Sequence[ImageBank | TokenBank]
BATCH = 2**16  # rows read at a time
MADE_UP = {"row": pa.int64(), "split": pa.string()}  # columns that no table holds
COUNTED = {"images": ("plate", "perturbation"), "sequences": ("split",)}


@dataclass(frozen=True)
class Wanted:
    """What to choose; all of it must hold.

    Attributes:
      where: a condition; "" = none.
      selection: a list.
      fraction: share of the groups.
      by: the column that names the groups.
      seed: of the share: another seed chooses other groups.
    """

    where: str = ""
    selection: Path | None = None
    fraction: float | None = None
    by: str = ""
    seed: int = 0


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
      rows: of each bank, ascending.
      counts: {what: (chosen, of)}, such as plates.
      missed: entries of the list that no bank has.
    """

    rows: list[np.ndarray]
    counts: dict[str, tuple[int, int]]
    missed: list[dict[str, str | None]]


def choose(kind: str, banks: Banks, wanted: Wanted) -> Choice:
    """Chooses.

    Args:
      kind: "images" or "sequences".
      banks: of that kind.
      wanted: what.

    Raises:
      UserError: a condition, column, list or share that cannot be; or nothing was chosen.
    """
    schema = _schema(kind)
    condition = Condition(wanted.where, schema) if wanted.where.strip() else None
    listed = Listed(wanted.selection, kind, list[Bank](banks)) if wanted.selection else None
    by = wanted.by or {"images": "plate", "sequences": "id"}[kind]
    share = _Share(wanted, by, schema) if wanted.fraction is not None else None
    columns = set(condition.columns if condition else ()) | set(listed.columns if listed else ())
    columns |= set(share.columns if share else ())
    groups = {name: _Groups(path_of(name)) for name in COUNTED[kind]}
    for group in groups.values():
        columns |= set(group.columns)
    rows = _pass(kind, banks, sorted(columns), condition, listed, share, groups)
    if share and not sum(map(len, rows)) and share.first:
        share.only = share.first
        rows = _pass(kind, banks, sorted(columns), condition, listed, share, groups)
    for one in condition.named if condition else ():
        for sentence in one.unseen():
            log.warning("%s", sentence)
    missed = listed.missed() if listed else []
    total = sum(map(len, banks))
    if not sum(map(len, rows)):
        raise _nothing(kind, banks, wanted, condition, missed, total)
    counts = {kind: (sum(map(len, rows)), total)}
    counts |= {f"{name}s": (len(g.chosen), len(g.all)) for name, g in groups.items() if g.all}
    return Choice(rows, counts, missed)


def names_of(kind: str, bank: ImageBank | TokenBank, rows: np.ndarray) -> Iterator[pa.Table]:
    """What the rows of a bank are called, in tables of KEYS[kind]."""
    for first, batch in batches(bank, KEYS[kind]):
        begin, end = np.searchsorted(rows, (first, first + len(batch)))
        if end > begin:
            yield pa.table(batch.take(pa.array(rows[begin:end] - first)))


def batches(
    bank: ImageBank | TokenBank, columns: Sequence[str]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Columns of the metadata of a bank, with those that are made up, and the first row of each
    batch.
    """
    first, stored = 0, [name for name in columns if name not in MADE_UP]
    with opening(bank.path):
        for batch in _stored(bank, stored):
            end = first + len(batch)
            made = {"row": np.arange(first, end), "split": _splits(bank, first, end)}
            arrays = [pa.array(made[n]) if n in MADE_UP else batch[n] for n in columns]
            yield first, pa.record_batch(arrays, names=list(columns))
            first = end
        if first != len(bank):
            raise ValueError(f"{first} rows of metadata for {len(bank)} entries")


def _stored(bank: ImageBank | TokenBank, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if isinstance(bank, ImageBank):
        for part in bank.described.parts(columns or ["plate"]):
            yield from part.combine_chunks().to_batches(max_chunksize=BATCH)
        return
    for name in bank.tables:
        with pq.ParquetFile(bank.table(name)) as file:
            yield from file.iter_batches(BATCH, columns=columns or ["id"])


def _splits(bank: ImageBank | TokenBank, first: int, end: int) -> np.ndarray:
    names = np.full(end - first, None, object)
    if isinstance(bank, TokenBank):
        for split in SPLITS:
            begin, stop = bank.splits[split]
            names[max(begin - first, 0) : max(stop - first, 0)] = split
    return names


def group_names(batch: pa.RecordBatch, column: str) -> pa.Array:
    """The group of each row as `images.split.group_name` has it, "experiment/plate" for plates."""
    # Not null_handling="skip": pyarrow 26 drops the rows where all parts are null.
    parts = [pc.fill_null(pc.cast(batch[name], pa.string()), "") for name in path_of(column)]
    return pc.utf8_ltrim(pc.binary_join_element_wise(*parts, "/"), "/")


def _schema(kind: str) -> pa.Schema:
    if kind == "images":
        fields = [*METADATA_SCHEMA, ("row", pa.int64())]
        return pa.schema(fields)
    return pa.schema([*TOKEN_SCHEMA, *MADE_UP.items()])


class _Groups:
    """Counts groups, among all and among what is chosen."""

    def __init__(self, columns: tuple[str, ...]):
        self.columns = columns
        self.all, self.chosen = set[str](), set[str]()

    def look(self, batch: pa.RecordBatch, mask: np.ndarray) -> None:
        names = group_names(batch, self.columns[-1])
        self.all.update(pc.unique(names).to_pylist())
        self.chosen.update(pc.unique(names.filter(pa.array(mask))).to_pylist())
        self.all.discard("")
        self.chosen.discard("")


class _Share:
    """A share of the groups: those whose hash falls below it, so that a smaller share lies within a
    larger one, and a group stays when others are added.

    The hash is another one than that which holds groups out for validation.

    Attributes:
      columns: that name a group.
      first: the group of the smallest hash among those that the other conditions leave.
      only: the one group that is taken, where no hash falls below.
    """

    def __init__(self, wanted: Wanted, by: str, schema: pa.Schema):
        self.fraction, self._seed, self._by = float(wanted.fraction or 0), wanted.seed, by
        if not 0 < self.fraction <= 1:
            raise UserError(
                f"`fraction` {wanted.fraction} must be above 0 and at most 1: 0.01 for 1 %."
            )
        if by not in schema.names or by == "row":
            there = [name for name in schema.names if name != "row"]
            raise UserError(
                f"`by` {by!r} is no column of the bank.{did_you_mean(by, there)} There are:"
                f" {', '.join(there)}."
            )
        self.columns = path_of(by)
        self.first, self._smallest, self.only = "", 1.0, ""

    def mask(self, batch: pa.RecordBatch, among: np.ndarray) -> np.ndarray:
        names = pc.dictionary_encode(group_names(batch, self._by))
        known, codes = names.dictionary.to_pylist(), names.indices.to_numpy()
        if self.only:
            return among & np.array([name == self.only for name in known], bool)[codes]
        places = np.array([self._place(name) for name in known])
        for code in np.unique(codes[among]):
            if places[code] < self._smallest:
                self.first, self._smallest = known[code], places[code]
        return among & (places < self.fraction)[codes]

    def _place(self, name: str) -> float:
        """Where a group stands between 0 and 1; one of all comes last of all."""
        digest = hashlib.sha256(f"subset {self._seed} {name}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64


def _pass(
    kind: str,
    banks: Banks,
    columns: list[str],
    condition: Condition | None,
    listed: Listed | None,
    share: _Share | None,
    groups: dict[str, _Groups],
) -> list[np.ndarray]:
    """The rows of each bank for which everything holds."""
    found, progress = [], Progress("choose", sum(map(len, banks)), kind)
    for number, bank in enumerate(banks):
        parts = [np.zeros(0, np.int64)]
        for first, batch in batches(bank, columns):
            mask = np.ones(len(batch), bool)
            if condition:
                mask &= condition.mask(batch)
            if listed:
                mask &= listed.mask(number, first, batch)
            if share:
                mask = share.mask(batch, mask)
            for group in groups.values():
                group.look(batch, mask)
            parts.append(first + np.flatnonzero(mask))
            progress.update(len(batch))
        found.append(np.concatenate(parts))
    return found


def _nothing(
    kind: str,
    banks: Banks,
    wanted: Wanted,
    condition: Condition | None,
    missed: list[dict[str, str | None]],
    total: int,
) -> UserError:
    """Nothing was chosen, and probably why."""
    names = ", ".join(str(bank.path) for bank in banks[:3]) + (", …" if len(banks) > 3 else "")
    unseen = [text for one in (condition.named if condition else ()) for text in one.unseen()]
    why = " ".join(unseen[:2])
    if missed and not why:
        first = ", ".join(f"{k} {v}" for k, v in list(missed[0].items())[1:6] if v is not None)
        why = f"None of the {len(missed)} entries of {wanted.selection} is there, such as {first}."
    if not why and condition:
        why = f"`where` {wanted.where!r} holds for none of them, or not together with the rest."
    look = banks[0].path
    return UserError(
        f"Nothing was chosen: of the {total} {kind} of {names} none fits. {why} Look at what is"
        f" there with `python -m phenomjax.prepare inspect {look} --quick`."
    )

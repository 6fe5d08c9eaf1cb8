"""The last pass of `prepare sequences`: the pieces into the bank's files.

Every file is a unit (phenomjax.engine). The order of the bank is split, source, piece, place in
the file; of equal sequences the first one in that order of files is kept.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from phenomjax.data.sequences import compiled
from phenomjax.data.sequences.bank import (
    BOUNDARIES,
    table_name,
)
from phenomjax.data.sequences.flat_array import write_flat_description
from phenomjax.engine.units import Note, Unit
from phenomjax.prepare.sequences.assembly import tables
from phenomjax.prepare.sequences.assembly.layout import BankLayout
from phenomjax.prepare.sequences.pieces import PieceSettings
from phenomjax.prepare.sequences.plan import PieceList, read_lengths, read_wanted
from phenomjax.system import files

WINDOW = 2**20


def write_part(settings: PieceSettings, work: Path, task: tuple[str, int]) -> Note:
    """Writes one of the bank's files into WORK/bank; tasks are those of `parts` (a unit function).

    Returns:
      {file: sha256} of those that the bank records.
    """
    kind, number = task
    bank, layout, plan = work / "bank", BankLayout.read(work), PieceList.read(settings)
    if kind == "tokens":
        return {"checksums": _write_tokens(plan, layout, bank / "tokens", number)}
    if kind == "offsets":
        return {"checksums": _write_offsets(plan, layout, bank / "offsets", number)}
    target = bank / (table_name(number) if kind == "metadata" else f"{kind}.parquet")
    with files.replacing(target, shared=True) as partial:
        if kind == "metadata":
            repeated = tables.write_metadata(plan, layout, partial, number)
        elif kind == "left_out":
            tables.write_left_out(plan, partial)
        else:
            tables.write_list(plan, kind, partial)
    if kind == "metadata":
        return {"checksums": {target.name: files.sha256(target)}, "repeated_ids": repeated}
    return {"checksums": {}}


def parts(settings: PieceSettings, layout: BankLayout) -> Iterator[Unit[tuple[str, int]]]:
    """The units of write_part, the long ones first."""
    records, tokens = int(layout.records[-1]), int(layout.tokens[-1])
    for number in range(max(1, -(-records // settings.table_rows))):
        yield Unit("write-metadata" + f"-{number}" * (number > 0), ("metadata", number))
    for kind in tables.LISTS:
        yield Unit(f"write-{kind}", (kind, 0))
    for number in range(-(-(records + 1) // (settings.chunk_bytes // 8))):
        yield Unit(f"write-offsets-{number}", ("offsets", number))
    for number in range(max(1, -(-tokens // settings.chunk_bytes))):
        yield Unit(f"write-tokens-{number}", ("tokens", number))


def _write_chunk(
    folder: Path,
    number: int,
    total: int,
    values: int,
    dtype: np.dtype,
    name: str,
    content: Iterator[np.ndarray],
) -> dict[str, str]:
    """Writes one chunk of a FlatArray, filled up with zeros, and with the first one its
    description; returns their {file: sha256}.

    Args:
      folder: of the array.
      number: of the chunk.
      total: values of the array.
      values: of a chunk; an array that is shorter is one chunk of its own length.
      dtype, name: of the values, and of the dimension.
      content: of the chunk.
    """
    values, target = min(values, max(total, 1)), folder / f"c.{number}"
    made = write_flat_description(folder, total, dtype, values, name) if number == 0 else {}
    digest, filled = hashlib.sha256(), 0
    with files.replacing(target, shared=True) as partial, partial.open("wb") as file:
        for part in content:
            digest.update(part.data)
            file.write(part.data)
            filled += len(part)
        padding = bytes((values - filled) * dtype.itemsize)
        digest.update(padding)
        file.write(padding)
    return made | {f"{folder.name}/{target.name}": digest.hexdigest()}


def _write_tokens(plan: PieceList, layout: BankLayout, folder: Path, number: int) -> dict[str, str]:
    total, values = int(layout.tokens[-1]), plan.settings.chunk_bytes
    content = _tokens(plan, layout, number * values, min((number + 1) * values, total))
    return _write_chunk(folder, number, total, values, np.dtype("uint8"), "token", content)


def _tokens(plan: PieceList, layout: BankLayout, start: int, stop: int) -> Iterator[np.ndarray]:
    """The bank's tokens [start:stop] in parts; each is valid until the next one. Parts are small
    enough for the cache.
    """
    extra = np.int32(sum(map(len, BOUNDARIES[plan.settings.boundary])))
    window, out = np.empty(WINDOW, np.uint8), np.empty(WINDOW, np.uint8)
    first = int(np.searchsorted(layout.tokens, start, side="right")) - 1
    for place in range(first, len(layout.tokens) - 1):
        if layout.tokens[place] >= stop:
            return
        if layout.tokens[place] == layout.tokens[place + 1]:
            continue
        split, index = divmod(place, len(plan))
        piece = plan.folder(index)
        sizes, wanted = read_lengths(piece) + extra, read_wanted(piece)
        ends = sizes.cumsum(dtype=np.int64)  # of each record in the piece
        # and in the bank
        found = np.where(wanted == split, sizes, 0).cumsum(dtype=np.int64) + layout.tokens[place]
        i, last = (int(np.searchsorted(found, edge, side="right")) for edge in (start, stop - 1))
        last = min(last + 1, len(sizes))
        with (piece / "tokens").open("rb", buffering=0) as file:
            while i < last:
                begin = int(ends[i] - sizes[i])
                j = min(max(int(np.searchsorted(ends, begin + WINDOW, side="right")), i + 1), last)
                size = int(ends[j - 1]) - begin
                if size > len(window):  # one record that is longer
                    window, out = np.empty(size, np.uint8), np.empty(size, np.uint8)
                file.seek(begin)
                file.readinto(window[:size].data)
                count = compiled.pack(window[:size], sizes[i:j], wanted[i:j], split, out)
                base = int(found[j - 1]) - count
                if count:
                    yield out[max(start - base, 0) : min(stop - base, count)]
                i = j


def _write_offsets(
    plan: PieceList, layout: BankLayout, folder: Path, number: int
) -> dict[str, str]:
    total, values = int(layout.records[-1]) + 1, plan.settings.chunk_bytes // 8
    content = _offsets(plan, layout, number * values, min((number + 1) * values, total))
    return _write_chunk(folder, number, total, values, np.dtype("<i8"), "sequence", content)


def _offsets(plan: PieceList, layout: BankLayout, start: int, stop: int) -> Iterator[np.ndarray]:
    """The bank's offsets [start:stop]; that of number i + 1 is where record i ends."""
    extra = np.int32(sum(map(len, BOUNDARIES[plan.settings.boundary])))
    if start == 0:
        yield np.zeros(1, np.int64)
    for place, first, last in layout.places(max(start - 1, 0), stop - 1):
        split, index = divmod(place, len(plan))
        piece = plan.folder(index)
        sizes = read_lengths(piece)[read_wanted(piece) == split] + extra
        yield (sizes.cumsum(dtype=np.int64) + layout.tokens[place])[first:last]

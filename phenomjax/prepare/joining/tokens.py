"""A token bank of sequences that other banks hold: all of several, or what is chosen.

Each chunk of tokens is a unit, copied from where it lies; boundaries and metadata are written by
the driver at constant memory. The sequences of a split stay in it, bank after bank.
"""

import functools
import hashlib
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from phenomjax import __version__
from phenomjax.data.images.rows import Rows
from phenomjax.data.sequences import bank as token_bank
from phenomjax.data.sequences.bank import METADATA_SCHEMA, SPLITS, TokenBank
from phenomjax.data.sequences.flat_array import FlatWriter, write_flat_description
from phenomjax.engine import choose, work_folder
from phenomjax.engine.options import EngineOptions
from phenomjax.engine.units import Note, Notes, Unit
from phenomjax.prepare import growing, next_steps
from phenomjax.prepare.opening import writing
from phenomjax.system import ending, files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.log import Progress, counted
from phenomjax.system.processes import stop_on_signals

log = logging.getLogger("phenomjax")
PART = 2**20  # sequences at a time
HELD_OUT_FIRST = ("test", "validation", "train")


class Range(NamedTuple):
    """Tokens of a bank that lie side by side."""

    bank: int
    start: int
    stop: int


class Piece(NamedTuple):
    """What is taken of one split of one bank."""

    bank: int
    split: str
    rows: Rows


def pieces_of(banks: Sequence[TokenBank], rows: Sequence[Rows]) -> list[Piece]:
    """What is taken, in the order of the new bank."""
    return [
        Piece(number, split, part & Rows(*(np.array([end]) for end in bank.splits[split])))
        for split in SPLITS
        for number, (bank, part) in enumerate(zip(banks, rows, strict=True))
    ]


def join(
    out: Path,
    banks: Sequence[TokenBank],
    rows: Sequence[Rows],
    arguments: growing.Arguments,
    options: EngineOptions,
) -> int:
    """Makes the bank, or goes on with it; returns the exit code.

    Args:
      out: its folder.
      banks: of one alphabet (`check_alike`).
      rows: what is taken of each.
      arguments: all that decides the result; they are recorded in it.
      options: who does the units.

    Raises:
      UserError: the disk is full, a bank is damaged, or something else is at `out`.
    """
    recorded = lambda path: (  # noqa: E731
        token_bank.open_token_bank(path).attributes["options"].get("prepare")
    )
    arguments = arguments | {"rare": rare_of(banks[0])}
    if growing.is_finished(out, arguments, "token bank", recorded):
        count = len(token_bank.open_token_bank(out))
        log.info("%s is finished already: %d sequences. Nothing to do.", out, count)
        return EXIT_DONE
    pieces, chunk = pieces_of(banks, rows), token_bank.CHUNK_BYTES
    size = sum(part.stop - part.start for part in ranges_of(banks, pieces))
    # an array that is shorter than a chunk is one chunk of its own length
    fill = chunk if size >= chunk else max(size, 1)
    with (
        writing(out),
        growing.at_work(out, arguments, begun=("tokens",)) as work,
        stop_on_signals() as stop,
    ):
        (out / "tokens").mkdir(exist_ok=True)
        units = functools.partial(units_of, banks, pieces, chunk)
        sources = tuple((bank.path, bank.fingerprint) for bank in banks)
        notes = Notes(work)
        done = sum(notes.read(u.name)["tokens"] for u in units() if notes.is_committed(u.name))
        progress = Progress("copy tokens", size, "tokens", done)
        function = functools.partial(copy, out, sources, fill)
        with choose.executor(options, work) as executor:
            for _, note in executor.run(work, function, units(), stop):
                progress.update(note["tokens"])
        if stop.is_set():
            log.warning("stopped. Run the same command again to continue.")
            return EXIT_STOPPED
        checksums = {f"tokens/c.{u.argument[0]}": notes.read(u.name)["sha256"] for u in units()}
        checksums |= write_flat_description(out / "tokens", size, np.dtype("uint8"), fill, "token")
        checksums |= _write_offsets(out, banks, pieces)
        checksums["metadata.parquet"] = _write_metadata(out, banks, pieces)
        ends = [0]
        for split in SPLITS:
            ends.append(ends[-1] + sum(len(p.rows) for p in pieces if p.split == split))
        spans = dict(zip(SPLITS, itertools.pairwise(ends), strict=True))
        made = {"prepare": arguments | {"phenomjax": __version__}}
        first = banks[0]
        token_bank.write_description(out, first.vocabulary, first.boundary, spans, made, checksums)
        os.replace(work, out / work_folder.DONE)
    work_folder.tidy(out)
    ending.wrote(out, f"{counted(ends[-1], 'sequence')}, {counted(size, 'token')}")
    ending.note(sequences=ends[-1], tokens=size)
    next_steps.look(out)
    return EXIT_DONE


def ranges_of(banks: Sequence[TokenBank], pieces: Sequence[Piece]) -> Iterator[Range]:
    """The tokens of the new bank, in its order, as they lie in the old ones."""
    for number, _, rows in pieces:
        offsets = banks[number].offsets
        for start, stop in zip(rows.starts.tolist(), rows.stops.tolist(), strict=True):
            yield Range(number, int(offsets[start]), int(offsets[stop]))


def units_of(
    banks: Sequence[TokenBank], pieces: Sequence[Piece], chunk: int
) -> Iterator[Unit[tuple[int, list[Range]]]]:
    """A chunk of tokens each: its number, and what is in it."""
    number, waiting, room = 0, list[Range](), chunk
    for one in ranges_of(banks, pieces):
        while one.stop > one.start:
            part = one._replace(stop=min(one.stop, one.start + room))
            waiting.append(part)
            room -= part.stop - part.start
            one = one._replace(start=part.stop)
            if not room:
                yield Unit(f"tokens-{number}", (number, waiting))
                number, waiting, room = number + 1, [], chunk
    if waiting or not number:
        yield Unit(f"tokens-{number}", (number, waiting))


def copy(
    out: Path,
    banks: tuple[tuple[Path, str], ...],
    fill: int,
    work: Path,
    argument: tuple[int, list[Range]],
) -> Note:
    """Writes a chunk of tokens (a unit function).

    Args:
      out: the new bank.
      banks: what the tokens are of, each with its fingerprint.
      fill: its size; what is left is zeros.
      work: not needed.
      argument: number of the chunk, and what is in it.
    """
    number, ranges = argument
    parts = [_opened(*banks[bank]).tokens[start:stop] for bank, start, stop in ranges]
    found = np.concatenate([np.zeros(0, np.uint8), *parts])
    content = found.tobytes() + bytes(fill - len(found))
    try:
        files.write_bytes(out / "tokens" / f"c.{number}", content, shared=True)
    except OSError as error:
        raise UserError(
            f"Cannot write to {out}: {error.strerror}. Is the disk full? What is finished is kept:"
            " make room, then run the same command again.",
            EXIT_FAILED,
        ) from error
    return {"tokens": len(found), "sha256": hashlib.sha256(content).hexdigest()}


@functools.lru_cache(maxsize=16)
def _opened(path: Path, fingerprint: str) -> TokenBank:
    bank = token_bank.open_token_bank(path)
    if bank.fingerprint != fingerprint:
        raise UserError(
            f"The bank {path} is another one than when this began: it was prepared again. Run the"
            " same command again, which tells what can be done."
        )
    return bank


def _write_offsets(
    out: Path, banks: Sequence[TokenBank], pieces: Sequence[Piece]
) -> dict[str, str]:
    files.remove(out / "offsets")  # of an end that was killed
    writer, end = FlatWriter(out / "offsets", "int64", token_bank.CHUNK_BYTES), 0
    writer.write(np.zeros(1, np.int64))
    for number, _, rows in pieces:
        offsets = banks[number].offsets
        for start, stop in zip(rows.starts.tolist(), rows.stops.tolist(), strict=True):
            for first in range(start, stop, PART):
                found = offsets[first : min(first + PART, stop) + 1]
                writer.write(found[1:] - found[0] + end)
                end += int(found[-1] - found[0])
    return writer.finish("sequence")


def _write_metadata(out: Path, banks: Sequence[TokenBank], pieces: Sequence[Piece]) -> str:
    target = out / "metadata.parquet"
    with (
        files.replacing(target) as partial,
        pq.ParquetWriter(partial, METADATA_SCHEMA, compression="zstd") as writer,
    ):
        for number, _, rows in pieces:
            for table in _described(banks[number], rows):
                writer.write_table(table)
    return files.sha256(target)


def _described(bank: TokenBank, rows: Rows) -> Iterator[pa.Table]:
    """The metadata of rows, from the row groups that have them."""
    wanted, first = rows.array(), 0
    for name in bank.tables:
        with pq.ParquetFile(bank.table(name)) as file:
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                begin, stop = np.searchsorted(wanted, (first, end))
                if stop > begin:
                    table = file.read_row_group(group, METADATA_SCHEMA.names)
                    table = table.take(pa.array(wanted[begin:stop] - first))
                    yield table.cast(METADATA_SCHEMA)
                first = end


def rare_of(bank: TokenBank) -> str:
    """What became of the rare letters of proteins when the bank was made."""
    return str((bank.attributes["options"].get("prepare") or {}).get("rare", "x"))


def check_alike(banks: Sequence[TokenBank]) -> None:
    """Raises a UserError for banks whose sequences do not fit into one."""
    kinds = [(b.vocabulary.name, f"boundary {b.boundary}", f"rare {rare_of(b)}") for b in banks]
    for bank, kind in zip(banks, kinds, strict=True):
        if kind != kinds[0]:
            raise UserError(
                f"{banks[0].path} holds {', '.join(kinds[0])}, and {bank.path}"
                f" {', '.join(kind)}: they do not fit into one bank. Prepare one of them again with"
                " `python -m phenomjax.prepare sequences` and the options of the other."
            )


def in_others(banks: Sequence[TokenBank]) -> list[Bool[np.ndarray, "sequences"]]:
    """For each sequence of each bank, whether another bank has it in a split that counts more, or
    an earlier bank in the same: what one bank holds out, none is trained on. 16 bytes a sequence.
    """
    hashes = [_hashes(bank) for bank in banks]
    twice = [np.zeros(len(bank), bool) for bank in banks]
    seen: list[tuple[int, np.ndarray]] = []
    for split in HELD_OUT_FIRST:
        for number, bank in enumerate(banks):
            first, last = bank.splits[split]
            mine = hashes[number][first:last]
            for other, theirs in seen:
                if other != number:
                    twice[number][first:last] |= _among(mine, theirs)
            seen.append((number, mine))
    return twice


def _hashes(bank: TokenBank) -> np.ndarray:
    """128 bits of each sequence: uint64 [sequences, 2]."""
    found = np.empty((len(bank), 2), np.uint64)
    progress = Progress(f"look for duplicates in {bank.path.name}", len(bank), "sequences")
    for first in range(0, len(bank), PART):
        offsets = bank.offsets[first : min(first + PART, len(bank)) + 1]
        tokens = bank.tokens[int(offsets[0]) : int(offsets[-1])].tobytes()
        edges = (offsets - offsets[0]).tolist()
        digests = b"".join(
            hashlib.blake2b(tokens[a:b], digest_size=16).digest()
            for a, b in itertools.pairwise(edges)
        )
        found[first : first + len(edges) - 1] = np.frombuffer(digests, np.uint64).reshape(-1, 2)
        progress.update(len(edges) - 1)
    return found


def _among(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Which of my hashes are among theirs."""
    maybe = np.isin(mine[:, 0], theirs[:, 0])
    near = theirs[np.isin(theirs[:, 0], mine[maybe, 0])]
    there = set(map(tuple, near.tolist()))
    maybe[maybe] = [tuple(one) in there for one in mine[maybe].tolist()]
    return maybe

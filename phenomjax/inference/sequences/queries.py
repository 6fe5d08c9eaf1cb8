"""The sequences that a trained model is asked about: files to tokens, at one byte a residue on
disk.
"""

import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from phenomjax.data.sequences.encode import Block, Encoder
from phenomjax.data.sequences.records import Record
from phenomjax.data.sequences.sources import SequenceFile, find_sources
from phenomjax.data.sequences.streams import Damaged, Fasta, Trouble
from phenomjax.data.sequences.vocabulary import RARE, UNITS, vocabulary
from phenomjax.inference.sequences import table_queries
from phenomjax.system.errors import UserError
from phenomjax.system.log import counted

log = logging.getLogger("phenomjax")
BLOCK_BYTES, RECORDS = 2**22, 2**14
SHOWN = 20  # rejected records on the screen


@dataclass
class Queries:
    """Sequences in the order of their files.

    Attributes:
      names, descriptions, sources: Arrow strings [n].
      lengths: int64 [n], without boundary tokens.
      starts: int64 [n], where each begins in `tokens`.
      tokens: uint8, memory-mapped.
      order: int64 [unique], one number of each different sequence, longest first, then by hash: the
        order of the files has no say.
      groups: int64 [n], the place in `order` of each sequence.
      rejected: {"file", "id", "offset", "reason", "detail"} of each.
      fingerprint: sha256 of names and tokens.
    """

    names: pa.Array
    descriptions: pa.Array
    sources: pa.Array
    lengths: np.ndarray
    starts: np.ndarray
    tokens: np.ndarray
    order: np.ndarray
    groups: np.ndarray
    rejected: list[dict] = field(default_factory=list)
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.lengths)

    def sequence(self, number: int) -> np.ndarray:
        """Tokens of a sequence without boundaries: [tokens] uint8."""
        start = self.starts[number]
        return self.tokens[start : start + self.lengths[number]]

    def group(self, place: int) -> np.ndarray:
        """`sequence` by its place in `order`."""
        return self.sequence(self.order[place])


def read(
    paths: list[Path],
    alphabet: str,
    rare: str,
    spool: Path,
    kind: str | None = None,
    wanted: table_queries.Wanted = table_queries.ANY,
    gaps: str = "reject",
    nucleotides: bool = True,
) -> Queries:
    """Reads FASTA, one sequence a line, tables or JSON lines, plain or compressed.

    Args:
      paths: the files.
      alphabet: of the model.
      rare: what the model's banks did with rare letters; "x" counts them, and says so.
      spool: a file for the tokens.
      kind: a format that is forced upon all files; None: told file by file.
      wanted: of tables and JSON lines, the columns or fields.
      gaps: strip or reject those of alignments.
      nucleotides: whether sequences that look like DNA are taken as proteins.

    Raises:
      UserError: a file is missing or of another kind, or no sequence can be read.
    """
    reader = _Reader(alphabet, rare, gaps, nucleotides)
    with spool.open("wb") as out:
        for source in find_sources(paths, kind):
            reader.read(source, out, wanted)
    return reader.finish(spool)


def of_sequences(sequences: Sequence[str], alphabet: str, rare: str) -> Queries:
    """Encodes sequences that are in memory, under the rules of `read`; they have the names "1",
    "2", …

    Args:
      sequences: letters.
      alphabet, rare: see `read`.

    Raises:
      UserError: a sequence that cannot be read (none is left out, so that rows stay rows), or there
        is none.
    """
    reader, out = _Reader(alphabet, rare), io.BytesIO()
    for start in range(0, len(sequences), RECORDS):
        part = sequences[start : start + RECORDS]
        reader.add(
            [Record(start + i, str(start + i + 1), text.encode()) for i, text in enumerate(part)],
            out,
        )
    return reader.finish(out.getvalue())


class _Reader:
    def __init__(self, alphabet: str, rare: str, gaps: str = "reject", nucleotides: bool = True):
        # Rare letters come with ids of their own first, so that they can be counted.
        self.alphabet = alphabet
        rule = "keep" if rare == "x" else rare
        self._encoder = Encoder(alphabet, rule, "eos", 1, None, 1.0, gaps, nucleotides)
        words = vocabulary(alphabet)
        self._map, self._rare = np.arange(256).astype(np.uint8), np.zeros(256, bool)
        if alphabet == "protein" and rare == "x":
            ids = [words.ids[letter] for letter in RARE]
            self._rare[ids], self._map[ids] = True, words.ids["X"]
        self._unit, self._changed, self._with_changes = UNITS[alphabet], 0, 0
        self._blocks: list[Block] = []
        self._sources: list[tuple[str, int]] = []
        self._digest = hashlib.sha256()
        self.rejected: list[dict] = []

    def read(
        self,
        source: SequenceFile,
        out,
        wanted: table_queries.Wanted = table_queries.ANY,
    ) -> None:
        """Adds one file."""
        count, held = 0, list[Record]()
        if source.kind in ("csv", "table"):
            for record in table_queries.records(source.path, self.alphabet, wanted):
                held.append(record)
                if len(held) == RECORDS:
                    count += self._add(self._encoder.records(held), source, out)
                    held = []
            count += self._add(self._encoder.records(held), source, out)
            self._sources.append((source.name, count))
            return
        with source.open() as stream:
            if source.kind == "fasta":
                fasta = Fasta(stream, 0, min(BLOCK_BYTES, max(2 * source.size, 2**12)))
                for start, stop in fasta.blocks():
                    count += self._add(self._encoder.fasta(fasta, start, stop), source, out)
                self._reject(fasta.troubles, source)
            else:
                fields, name = list[str](), None
                if source.kind == "jsonl":
                    field, name = table_queries.json_fields(source.path, self.alphabet, wanted)
                    fields = [field]
                found = source.records(stream, fields, name, self.alphabet == "bytes")
                try:
                    for record in found:
                        held.append(record)
                        if len(held) == RECORDS:
                            count += self._add(self._encoder.records(held), source, out)
                            held = []
                except Damaged as error:
                    self._reject([Trouble(error.offset, "truncated", str(error))], source)
                count += self._add(self._encoder.records(held), source, out)
        self._sources.append((source.name, count))

    def add(self, records: list[Record], out) -> None:
        """Adds records of no file; one that cannot be read is an error."""
        block = self._encoder.records(records)
        if block.troubles:
            t = block.troubles[0]
            text = records[t.offset - records[0].offset].data.decode()
            raise UserError(
                f"Sequence {t.name} ({text[:20]}{'…' if len(text) > 20 else ''}, {len(text)}"
                f" letters) cannot be read: {t.reason}, {t.detail}. Correct it or leave it out, or"
                f" use a model of its alphabet (this one reads {self._encoder.alphabet})."
            )
        self._sources.append(("", self._add(block, None, out)))

    def _add(self, block: Block, source: SequenceFile | None, out) -> int:
        counted = self._rare[block.tokens]
        self._changed += int(counted.sum())
        # one <eos> each
        starts = np.concatenate([[0], np.cumsum(block.lengths.astype(np.int64) + 1)])
        if counted.any():
            self._with_changes += int(np.count_nonzero(np.add.reduceat(counted, starts[:-1])))
        tokens = self._map[block.tokens]
        out.write(memoryview(tokens))
        self._digest.update(memoryview(tokens))
        for name in block.names.to_pylist():
            self._digest.update(name.encode() + b"\n")
        if source:
            self._reject(block.troubles, source)
        self._blocks.append(block._replace(tokens=np.zeros(0, np.uint8), troubles=[]))
        return len(block.lengths)

    def _reject(self, troubles: list[Trouble], source: SequenceFile) -> None:
        for t in troubles:
            if len(self.rejected) < SHOWN:
                log.warning(
                    "rejected: %s, record %s at byte %d: %s, %s",
                    source.path,
                    t.name or "?",
                    t.offset,
                    t.reason,
                    t.detail,
                )
            self.rejected.append(
                {
                    "file": str(source.path),
                    "id": t.name,
                    "offset": t.offset,
                    "reason": t.reason,
                    "detail": t.detail,
                }
            )

    def finish(self, written: Path | bytes) -> Queries:
        """All that was read; its tokens are what was written."""
        if len(self.rejected) > SHOWN:
            log.warning("rejected: and %s more", counted(len(self.rejected) - SHOWN, "record"))
        if not sum(count for _, count in self._sources):
            first = self.rejected[0] if self.rejected else {}
            why = (
                f" The first of {len(self.rejected)} bad records: {first['reason']},"
                f" {first['detail']}."
                if first
                else ""
            )
            files = ", ".join(name for name, _ in self._sources) or "an empty list"
            raise UserError(
                f"There is no sequence to read in {files}.{why} Give FASTA files of the alphabet"
                " that the model reads."
            )
        if self._changed:
            log.info(
                "%d %s in %d sequences are rare letters (%s) and are read as X, as in training",
                self._changed,
                self._unit,
                self._with_changes,
                ", ".join(RARE),
            )
        tokens = (
            np.frombuffer(written, np.uint8)
            if isinstance(written, bytes)
            else np.memmap(written, np.uint8, "r")
        )
        blocks = self._blocks
        lengths = np.concatenate([block.lengths for block in blocks]).astype(np.int64)
        hashes = np.concatenate([block.hashes for block in blocks])
        sizes = np.cumsum(lengths + 1)
        names, descriptions = (
            pa.concat_arrays([getattr(block, column) for block in blocks])
            for column in ("names", "descriptions")
        )
        order, groups = _unique(lengths, hashes)
        sources = pa.array(
            np.repeat([name for name, _ in self._sources], [count for _, count in self._sources]),
            pa.string(),
        )
        return Queries(
            names,
            descriptions,
            sources,
            lengths,
            sizes - (lengths + 1),
            tokens,
            order,
            groups,
            self.rejected,
            self._digest.hexdigest(),
        )


def _unique(lengths: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first of each different sequence in the order of work, the place in that order of every
    sequence).
    """
    order = np.lexsort((hashes[:, 1], hashes[:, 0], -lengths))
    same = (hashes[order[1:]] == hashes[order[:-1]]).all(1) & (
        lengths[order[1:]] == lengths[order[:-1]]
    )
    number = np.concatenate([[0], np.cumsum(~same)])
    groups = np.empty(len(order), np.int64)
    groups[order] = number
    return order[np.concatenate([[True], ~same])], groups

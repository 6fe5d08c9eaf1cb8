"""Records of sequences to tokens: the table of an alphabet, the filters, and what is wrong with
what is rejected.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from phenomjax.data.sequences import compiled
from phenomjax.data.sequences.bank import BOUNDARIES
from phenomjax.data.sequences.records import Record
from phenomjax.data.sequences.streams import Fasta, Trouble
from phenomjax.data.sequences.vocabulary import RARE, SPECIALS, UNK, smiles_tokens, vocabulary

RARE_RULES = ("x", "keep", "reject")
GAP_RULES = ("reject", "strip")
GAPS = "-."  # of alignments; in A2M and A3M residues beside the columns are lower case
REASONS = {
    compiled.ILLEGAL: "illegal_letter",
    compiled.INNER_STOP: "internal_stop",
    compiled.EMPTY: "empty",
    compiled.NO_ID: "no_id",
    compiled.NUCLEOTIDES: "nucleotides",
}
LETTERS = {"protein": "no amino acid", "smiles": "in no SMILES", "bytes": "in no UTF-8 text"}


def byte_table(alphabet: str, rare: str, gaps: str = "reject") -> np.ndarray:
    """[256] uint8: the id of each byte, or what `compiled` calls it.

    Args:
      alphabet: a name in vocabulary.ALPHABETS. For smiles the bytes are ids already.
      rare: what becomes of U, Z, O, B: "x", "keep" or "reject". J (leucine or isoleucine) has no id
        of its own, and is kept as X.
      gaps: proteins: what becomes of the gaps of alignments, a name in GAP_RULES.
    """
    words = vocabulary(alphabet)
    if alphabet == "smiles":
        table = np.arange(256).astype(np.uint8)
        table[len(words) :] = compiled.BAD
        table[: len(SPECIALS)] = compiled.BAD
        return table
    table = words.table.copy()
    table[table == UNK] = compiled.BAD
    if alphabet == "protein":
        for letter in RARE + "J":
            if rare == "reject":
                table[ord(letter)] = compiled.BAD
            elif rare == "x" or letter == "J":
                table[ord(letter)] = words.ids["X"]
        for byte in range(ord("A"), ord("Z") + 1):
            table[byte + 32] = table[byte]  # lower case is soft masking, not another residue
        table[[ord(c) for c in "\r\t " + (GAPS if gaps == "strip" else "")]] = compiled.BLANK
        table[ord("\n")], table[ord("*")] = compiled.NEWLINE, compiled.STOP
    return table


class Block(NamedTuple):
    """Kept records of a part of a file, and what was found besides them.

    Attributes:
      tokens: uint8, all records end to end with their boundary tokens; valid until the encoder's
        next block.
      lengths: int32 [records], without boundary tokens.
      hashes: uint64 [records, 2].
      names, descriptions: Arrow strings [records].
      troubles: rejected records.
      counts: int64 [compiled.OUTCOMES].
    """

    tokens: np.ndarray
    lengths: np.ndarray
    hashes: np.ndarray
    names: pa.Array
    descriptions: pa.Array
    troubles: list[Trouble]
    counts: np.ndarray


class Encoder:
    """Encodes records of one alphabet.

    Args:
      alphabet: a name in vocabulary.ALPHABETS.
      rare: a name in RARE_RULES.
      boundary: a name in BOUNDARIES.
      min_length, max_length: of kept sequences, in tokens without boundaries.
      max_ambiguous: the largest share of X.
      gaps: a name in GAP_RULES.
      nucleotides: whether a protein may consist of A, C, G, T, U and N; else it is rejected as DNA.
    """

    def __init__(
        self,
        alphabet: str,
        rare: str,
        boundary: str,
        min_length: int,
        max_length: int | None,
        max_ambiguous: float,
        gaps: str = "reject",
        nucleotides: bool = True,
    ):
        self.alphabet, self._table = alphabet, byte_table(alphabet, rare, gaps)
        self._words = vocabulary(alphabet)
        unknown = self._words.ids["X"] if alphabet == "protein" else UNK
        self._limits = np.array(
            [
                min_length,
                max_length or np.inf,
                max_ambiguous,
                unknown,
                alphabet == "protein" and not nucleotides,
            ],
            np.float64,
        )
        self._before, self._after = (np.array(ids, np.uint8) for ids in BOUNDARIES[boundary])
        self._buffers: list[np.ndarray] = []

    def _room(self, size: int) -> list[np.ndarray]:
        """Buffers of that many bytes: scratch, tokens, names, texts. They are used again: fresh
        memory costs page faults.
        """
        if not self._buffers or len(self._buffers[0]) < size + compiled.PADDING:
            words = (size + compiled.PADDING + 7) // 8
            self._buffers = [np.zeros(words, np.uint64).view(np.uint8) for _ in range(4)]
        return self._buffers

    def fasta(self, fasta: Fasta, start: int, stop: int) -> Block:
        """Encodes the whole records fasta.data[start:stop]."""
        data = fasta.data
        most = int(np.count_nonzero(data[start:stop] == ord(">")))
        lengths, hashes = np.empty(most, np.int32), np.empty((most, 2), np.uint64)
        bad, counts = np.empty((most, 5), np.int64), np.zeros(compiled.OUTCOMES, np.int64)
        tokens, names, texts = self._room(stop - start)[1:]
        name_ends, text_ends = np.empty(most + 1, np.int32), np.empty(most + 1, np.int32)
        kept, filled, rejected, high = compiled.scan_fasta(
            data,
            start,
            stop,
            self._table,
            self._limits,
            self._before,
            self._after,
            self._buffers[0],
            (tokens, names, name_ends, texts, text_ends),
            lengths,
            hashes,
            bad,
            counts,
        )
        names = _strings(names, name_ends[: kept + 1], high)
        descriptions = _strings(texts, text_ends[: kept + 1], high)
        troubles = [self._fasta_trouble(fasta, *map(int, row)) for row in bad[:rejected]]
        return Block(
            tokens[:filled], lengths[:kept], hashes[:kept], names, descriptions, troubles, counts
        )

    def records(self, records: list[Record]) -> Block:
        """Encodes records one by one; those that have no sequence are troubles."""
        troubles = {
            i: Trouble(r.offset, r.reason, r.detail, r.name)
            for i, r in enumerate(records)
            if r.reason
        }
        good = [i for i, record in enumerate(records) if not record.reason]
        parts = [self._bytes(records[i].data) for i in good]
        starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        data = np.frombuffer(b"".join(parts), np.uint8)
        scratch, tokens = self._room(len(data) + 2 * len(parts))[:2]
        lengths = np.empty(len(parts), np.int32)
        hashes, outcomes = np.empty((len(parts), 2), np.uint64), np.empty(len(parts), np.int64)
        faults = np.empty(len(parts), np.int64)
        kept, filled = compiled.encode_records(
            data,
            starts,
            self._table,
            self._limits,
            self._before,
            self._after,
            scratch,
            tokens,
            outcomes,
            faults,
            lengths,
            hashes,
        )
        for i, outcome, fault in zip(good, outcomes.tolist(), faults.tolist(), strict=True):
            if outcome in REASONS:
                record = records[i]
                where = (
                    self._token_place(record.data, fault) if self.alphabet == "smiles" else fault
                )
                detail = self._detail(outcome, record.data, where, f"place {where} of the sequence")
                troubles[i] = Trouble(record.offset, REASONS[outcome], detail, record.name)
        kept_ones = [
            records[i]
            for i, outcome in zip(good, outcomes, strict=True)
            if outcome == compiled.KEPT
        ]
        counts = np.bincount(outcomes, minlength=compiled.OUTCOMES)
        ordered = [troubles[i] for i in sorted(troubles)]
        names, texts = (
            pa.array([_printable(text) for text in column], pa.string())
            for column in ([r.name for r in kept_ones], [r.description for r in kept_ones])
        )
        return Block(tokens[:filled], lengths[:kept], hashes[:kept], names, texts, ordered, counts)

    def _bytes(self, data: bytes) -> bytes:
        if self.alphabet == "bytes":
            try:
                data.decode()
            except UnicodeDecodeError as error:
                return data[: error.start] + b"\xff"
        if self.alphabet != "smiles":
            return data
        ids, text = self._words.ids, data.decode("latin-1").strip()
        if text and "*" not in text and not any(map(str.isalpha, text)):
            return bytes([UNK])  # a number has no atom
        return bytes([ids.get(token, UNK) for token in smiles_tokens(text)])

    def _token_place(self, data: bytes, fault: int) -> int:
        return (
            len("".join(smiles_tokens(data.decode("latin-1").strip())[:fault]))
            if fault >= 0
            else -1
        )

    def _fasta_trouble(
        self, fasta: Fasta, record: int, outcome: int, fault: int, id_end: int, end: int
    ) -> Trouble:
        name = bytes(fasta.data[record + 1 : id_end]).decode("utf-8", "replace").strip()
        around = bytes(fasta.data[fault : min(fault + 4, end)]) if fault >= 0 else b""
        detail = self._detail(outcome, around, 0, f"byte {fasta.base + fault}")
        return Trouble(fasta.base + record, REASONS[outcome], detail, name)

    def _detail(self, outcome: int, data: bytes, place: int, where: str) -> str:
        if outcome == compiled.ILLEGAL:
            letter = data[place : place + 4].decode("utf-8", "backslashreplace")[0:1] or "?"
            if letter in GAPS and self.alphabet == "protein":
                return f"{letter!r} at {where} is a gap of an alignment"
            return f"{letter!r} at {where} is {LETTERS[self.alphabet]}"
        if outcome == compiled.INNER_STOP:
            return "a stop ('*') inside the sequence"
        if outcome == compiled.NUCLEOTIDES:
            return "over 95 % of its letters are A, C, G, T, U or N, as in DNA or RNA"
        return "no sequence" if outcome == compiled.EMPTY else "the header has no id after '>'"


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode() if text else text


def _strings(text: np.ndarray, ends: np.ndarray, high: bool) -> pa.Array:
    """Arrow strings text[ends[i]:ends[i + 1]], without a Python object for each."""
    raw = text[: ends[-1]].tobytes()
    if high:  # Latin-1 names of authors and the like, in a file that should be UTF-8
        return pa.array(
            [raw[a:b].decode("utf-8", "replace") for a, b in itertools.pairwise(ends)], pa.string()
        )
    return pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(raw))

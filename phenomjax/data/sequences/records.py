"""Sequence files that are no FASTA, record by record: plain text, CSV, JSON lines; and which format
a file has.
"""

import csv
import io
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from phenomjax.data.sequences.streams import Stream, lines
from phenomjax.system.errors import UserError, did_you_mean

# and their usual alphabet
FORMATS = {"fasta": "protein", "text": "protein", "csv": "smiles", "jsonl": "bytes"}
EXTENSIONS = {
    "fasta": (".fasta", ".fa", ".faa", ".fas", ".fsa", ".pep", ".aa"),
    "csv": (".csv", ".tsv"),
    "jsonl": (".jsonl", ".ndjson"),
    "text": (".txt", ".seq"),
}
LINE_BYTES = 2**20
QUOTED_LINES = 1000  # the most lines of one quoted cell


class Record(NamedTuple):
    """One record, or what is wrong with it.

    Attributes:
      offset: of its first byte in the (decompressed) file.
      name: its id.
      data: the sequence.
      reason, detail: set if it has no sequence.
    """

    offset: int
    name: str
    data: bytes
    reason: str = ""
    detail: str = ""


def find_format(path: Path) -> str:
    """The format of a file, by its extension (that of compression aside), else by its first letter.

    Raises:
      UserError: neither says.
    """
    suffixes = [
        suffix.lower()
        for suffix in path.suffixes
        if suffix.lower() not in (".gz", ".zst", ".zstd", ".gzip")
    ]
    for name, known in EXTENSIONS.items():
        if suffixes and suffixes[-1] in known and name != "text":
            return name
    with Stream(path) as stream:
        buffer = bytearray(4096)
        head = (
            bytes(buffer[: stream.readinto(memoryview(buffer))])
            .removeprefix(b"\xef\xbb\xbf")
            .lstrip()
        )
    if head.startswith(b">"):
        return "fasta"
    if head.startswith(b"{"):
        return "jsonl"
    if suffixes and suffixes[-1] in EXTENSIONS["text"]:
        return "text"
    raise UserError(
        f"{path}: neither its name nor its beginning ({head[:20]!r}) tells what format it has. If"
        " it is sequences, let its name say so (NAME.fasta, NAME.csv, NAME.jsonl, NAME.txt);"
        " `python -m phenomjax.prepare sequences` and `python -m phenomjax.embed sequences --format"
        f" {'|'.join(FORMATS)}` can be told."
    )


def check_columns(path: Path, kind: str, wanted: list[str]) -> None:
    """Looks whether the first record of a CSV or JSON-lines file has the columns or fields that
    were asked for.

    Raises:
      UserError: it has not; the message lists those that there are.
    """
    with Stream(path) as stream:
        first = next((line for _, line in lines(stream, LINE_BYTES) if line.strip()), b"").decode(
            "utf-8", "replace"
        )
    if kind == "csv":
        there = next(csv.reader([first.removeprefix("\ufeff")], delimiter=_delimiter(first)), [])
        option, what = "--column", "column"
    else:
        try:
            parsed = json.loads(first)
        except ValueError:
            return  # the reader names the record
        there = list(parsed) if isinstance(parsed, dict) else []
        option, what = "--field", "field"
    for name in wanted:
        if name not in there:
            raise UserError(
                f"{path} has no {what} '{name}'.{did_you_mean(name, there)} There are:"
                f" {', '.join(there[:30])}. Name the one that holds the sequences with {option},"
                " and the one with their ids with --id."
            )


def read_records(
    path: Path, kind: str, column: list[str], name: str | None, stream: Stream
) -> Iterator[Record]:
    """The records of a file that is no FASTA.

    Args:
      path: for ids: FILE:NUMBER, where no column holds them.
      kind: text, csv or jsonl.
      column: the columns or fields whose texts, joined, are the sequence.
      name: the column or field with the id.
      stream: the file.

    Raises:
      Damaged: a compressed file ends too early; all whole records were given before.
    """
    numbered = lines(stream, LINE_BYTES)
    if kind == "text":
        for number, (offset, line) in enumerate(numbered, 1):
            if line.strip():
                yield Record(offset, f"{path.name}:{number}", line.strip())
    elif kind == "jsonl":
        for number, (offset, line) in enumerate(numbered, 1):
            if line.strip():
                yield _parse_json(offset, f"{path.name}:{number}", line, column, name)
    else:
        yield from _read_csv(path, numbered, column, name)


def _parse_json(
    offset: int, label: str, line: bytes, column: list[str], name: str | None
) -> Record:
    try:
        found = json.loads(line)
    except ValueError as error:
        return Record(offset, label, b"", "unparsable", f"no JSON: {error}")
    found = found if isinstance(found, dict) else {}
    label = str(found.get(name, label)) if name else label
    texts = [found[field] for field in column if isinstance(found.get(field), str)]
    if len(texts) < len(column):
        return Record(offset, label, b"", "missing_field", f"no text in {', '.join(column)}")
    try:
        return Record(offset, label, "".join(texts).encode())
    except UnicodeEncodeError as error:
        return Record(
            offset, label, b"", "unparsable", f"half of a surrogate pair at character {error.start}"
        )


def _delimiter(line: str) -> str:
    return "\t" if "\t" in line else ";" if ";" in line and "," not in line else ","


def _read_csv(
    path: Path, numbered: Iterator[tuple[int, bytes]], column: list[str], name: str | None
) -> Iterator[Record]:
    # offset, number, text of lines that were looked at too early
    waiting: deque[tuple[int, int, str]] = deque()

    def take() -> tuple[int, int, str] | None:
        if waiting:
            return waiting.popleft()
        for number, (offset, line) in rows:
            return offset, number, line.decode("utf-8", "surrogateescape")
        return None

    rows = enumerate(numbered, 1)
    _, _, first = take() or (0, 0, "")
    delimiter = _delimiter(first)
    header = next(csv.reader([first.removeprefix("\ufeff")], delimiter=delimiter), [])
    wanted = [header.index(title) for title in column]
    named = header.index(name) if name else -1
    while line := take():
        offset, number, text = line
        more: list[tuple[int, int, str]] = []
        while (
            text.count('"') % 2 and len(more) < QUOTED_LINES and (line := take())
        ):  # a quoted cell with line ends in it
            more.append(line)
            text += "\n" + line[2]
        label = f"{path.name}:{number}"
        try:
            if text.count('"') % 2:
                waiting.extendleft(reversed(more))  # the quote is the fault of this line alone
                raise csv.Error("a quote is not closed")
            row = next(
                csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), []
            )
            if row and len(row) != len(header):
                raise csv.Error(f"{len(row)} cells, the header has {len(header)}")
        except csv.Error as error:
            yield Record(offset, label, b"", "unparsable", f"no CSV row: {error}")
            continue
        if row:
            data = "".join(row[place] for place in wanted).encode("utf-8", "surrogateescape")
            yield Record(offset, row[named] if named >= 0 else label, data)

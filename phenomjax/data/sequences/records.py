"""Sequence files that are no plain FASTA, record by record: text, name and sequence, SMILES, CSV,
JSON lines, tables, and FASTA's relatives.
"""

import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import tables
from phenomjax.data.separators import Form
from phenomjax.data.sequences.streams import Recoded, Stream, lines

EXTENSIONS = {
    "fasta": (".fasta", ".fa", ".faa", ".fas", ".fsa", ".pep", ".aa", ".mpfa", ".a3m", ".a2m"),
    "csv": (".csv", ".tsv", ".tab"),
    "jsonl": (".jsonl", ".ndjson"),
    "smi": (".smi", ".smiles", ".ism", ".can", ".cxsmiles"),
    "text": (".txt", ".seq"),
}
LINE_BYTES = 2**20
QUOTED_LINES = 1000  # the most lines of one quoted cell
SMILES_TITLE = re.compile(r"\W*(\w*smiles\w*|smi)\W*", re.IGNORECASE)
_TITLE = re.compile(
    r"\W*((protein|aa|amino[ _]?acids?|peptide)?[ _]?(sequences?|seqs?)|smiles)\W*", re.IGNORECASE
)
PIR_HEADER = re.compile(r">\s*(?:P1|F1|D[LC]|R[LC]|N[13]|X[XN]);\s*(\S*)\s*$")


class Record(NamedTuple):
    """One record, or what is wrong with it.

    Attributes:
      offset: of its first byte in the (decompressed) file; of a table without lines, its row.
      name: its id.
      data: the sequence.
      reason, detail: set if it has no sequence.
      description: what else its file says of it.
    """

    offset: int
    name: str
    data: bytes
    reason: str = ""
    detail: str = ""
    description: str = ""


def is_title(text: str) -> bool:
    """Whether a text is rather the name of a column than a sequence, though its letters are those
    of residues: sequence, Seq, SEQUENCE, but not the tripeptide SEQ.
    """
    return bool(_TITLE.fullmatch(text)) and not (text.isupper() and len(text) < 6)


def read_records(
    path: Path,
    kind: str,
    column: list[str],
    name: str | None,
    stream: Stream | Recoded,
    *,
    form: Form | None = None,
    header: bool = True,
    words: bool = False,
) -> Iterator[Record]:
    """The records of a file that is no plain FASTA.

    Args:
      path: for ids: FILE:NUMBER, where no column holds them.
      kind: text, named, smi, pir, pearson, csv, table (Parquet, .xlsx) or jsonl.
      column: the columns or fields whose texts, joined, are the sequence.
      name: the column or field with the id.
      stream: the file.
      form: csv: separator and columns; None: commas, tabs or semicolons, by the first line.
      header: table: whether its first row names the columns.
      words: text: a line may have blanks in it, as source code has.

    Raises:
      Damaged: a compressed file ends too early; all whole records were given before.
    """
    if kind == "table":
        yield from _read_table(path, column, name, header)
        return
    numbered = _without_mark(lines(stream, LINE_BYTES))
    if kind == "text":
        for number, (offset, line) in enumerate(numbered, 1):
            if line.strip():
                yield _parse_line(offset, f"{path.name}:{number}", line.strip(), words)
    elif kind == "named":
        for number, (offset, line) in enumerate(numbered, 1):
            if line.strip():
                record = _parse_named(offset, f"{path.name}:{number}", line.strip())
                if number == 1 and is_title(record.data.decode("latin-1")):
                    detail = "names of columns, of which no sequence must be made"
                    record = Record(offset, record.name, b"", "header", detail)
                yield record
    elif kind == "smi":
        yield from _read_smi(path, numbered)
    elif kind == "pir":
        yield from _read_pir(numbered)
    elif kind == "pearson":
        yield from _read_pearson(numbered)
    elif kind == "jsonl":
        for number, (offset, line) in enumerate(numbered, 1):
            if line.strip():
                yield _parse_json(offset, f"{path.name}:{number}", line, column, name)
    else:
        yield from _read_csv(path, numbered, column, name, form)


def _without_mark(numbered: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Lines without the byte order mark that editors of Windows write."""
    for offset, line in numbered:
        yield offset, line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line


def _parse_line(offset: int, label: str, line: bytes, words: bool) -> Record:
    if not words and line.startswith(b">"):
        return Record(offset, label, b"", "header", "a header of FASTA, no sequence")
    if not words and (count := len(line.split())) > 1:
        detail = (
            f"{count} words on a line, of which one sequence must not be made. Formats with names"
            " are called named (a name and a sequence) and smi (a SMILES and a name)"
        )
        return Record(offset, label, b"", "several_words", detail)
    return Record(offset, label, line)


def _parse_named(offset: int, label: str, line: bytes) -> Record:
    """A name, blanks or tabs, and a sequence; with tabs a name may have blanks in it."""
    name, tab, data = line.rpartition(b"\t")
    parts = [name.strip(), data.strip()] if tab else line.split()
    if len(parts) != 2 or not parts[0] or len(parts[1].split()) != 1:
        detail = f"{len(line.split())} words on a line, not a name and a sequence"
        return Record(offset, label, b"", "several_words", detail)
    return Record(offset, parts[0].decode("utf-8", "replace"), parts[1])


def _read_smi(path: Path, numbered: Iterator[tuple[int, bytes]]) -> Iterator[Record]:
    """A SMILES, an extension of ChemAxon between bars if there is one, and a name if there is one;
    where a header names the columns, in its order.
    """
    place, named, started = 0, 1, False
    for number, (offset, line) in enumerate(numbered, 1):
        text = line.decode("utf-8", "replace").strip()
        if not text or text.startswith("#"):
            continue
        titles = text.split("\t") if "\t" in text else text.split()
        if not started and (
            found := [i for i, title in enumerate(titles) if SMILES_TITLE.fullmatch(title)]
        ):
            place, named, started = found[0], 0 if found[0] else 1, True
            continue
        started, label = True, f"{path.name}:{number}"
        if place:  # names first, as in PubChem's lists
            if len(titles) <= place:
                detail = f"{len(titles)} words, and the header has the SMILES in place {place + 1}"
                yield Record(offset, label, b"", "missing_field", detail)
                continue
            yield Record(offset, titles[named].strip(), titles[place].strip().encode())
            continue
        data, _, rest = (*text.replace("\t", " ", 1).partition(" "),)
        rest, extension = rest.strip(), ""
        if rest.startswith("|") and (end := rest.find("|", 1)) > 0:
            extension, rest = rest[: end + 1], rest[end + 1 :].strip()
        first = rest.split("\t")[0].strip()
        yield Record(
            offset,
            first or label,
            data.encode(),
            description=" ".join(part for part in (extension, *rest.split("\t")[1:]) if part),
        )


def _read_pir(numbered: Iterator[tuple[int, bytes]]) -> Iterator[Record]:
    """NBRF: `>P1;ID`, a line of description, and the sequence up to a star."""
    offset, name, title, parts = 0, "", "", list[str]()
    state = "outside"
    for at, line in numbered:
        text = line.decode("utf-8", "replace").strip()
        if text.startswith(">"):
            if state != "outside":
                yield _pir_record(offset, name, title, parts)
            found = PIR_HEADER.match(text)
            offset, name, title, parts = at, found[1] if found else "", "", []
            state = "title"
            if found is None:
                detail = f"the header {text[:40]!r} is none of PIR, '>P1;ID', as the others are"
                yield Record(at, text[1:].split(" ")[0], b"", "unparsable", detail)
                state = "outside"
            elif not name:
                yield Record(at, "", b"", "no_id", "the header has no id after '>P1;'")
                state = "outside"
        elif state == "title":
            title, state = text, "sequence"
        elif state == "sequence":
            body, star, _ = text.partition("*")
            parts.append(body)
            if star:
                yield _pir_record(offset, name, title, parts)
                state = "outside"
    if state != "outside":
        yield _pir_record(offset, name, title, parts)


def _pir_record(offset: int, name: str, title: str, parts: list[str]) -> Record:
    return Record(offset, name, "".join(parts).encode(), description=title)


def _read_pearson(numbered: Iterator[tuple[int, bytes]]) -> Iterator[Record]:
    """The first FASTA: `;ID description`, more lines that begin with `;`, and the sequence."""
    offset, header, parts = 0, "", list[str]()
    reading = False
    for at, line in numbered:
        text = line.decode("utf-8", "replace").strip()
        if text.startswith(";") and (reading or not header):
            if header:
                yield _pearson_record(offset, header, parts)
            offset, header, parts, reading = at, text[1:].strip() or ";", [], False
        elif text and not text.startswith(";"):
            parts.append(text)
            reading = True
    if header:
        yield _pearson_record(offset, header, parts)


def _pearson_record(offset: int, header: str, parts: list[str]) -> Record:
    name, _, title = header.partition(" ")
    if name == ";":
        return Record(offset, "", b"", "no_id", "the header has no id after ';'")
    return Record(offset, name, "".join(parts).encode(), description=title.strip(" -"))


def _parse_json(
    offset: int, label: str, line: bytes, column: list[str], name: str | None
) -> Record:
    try:
        found = json.loads(line)
    except ValueError as error:
        return Record(offset, label, b"", "unparsable", f"no JSON: {error}")
    found = found if isinstance(found, dict) else {}
    label = str(found[name]) if name and found.get(name) is not None else label
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


def _cells(offset: int, label: str, texts: list[str], id_text: str | None) -> Record:
    """A record of a table's row."""
    label = label if id_text is None else id_text
    for text in texts:
        if text.strip() and text.strip() in tables.MISSING:
            detail = f"{text.strip()!r} says that there is no sequence"
            return Record(offset, label, b"", "empty", detail)
    return Record(offset, label, "".join(texts).encode("utf-8", "surrogateescape"))


def _read_table(path: Path, column: list[str], name: str | None, header: bool) -> Iterator[Record]:
    found = tables.open_rows(path, missing=(), header=header)
    wanted, named = [found.place(title) for title in column], found.place(name) if name else -1
    for row in found.rows:
        label = f"{path.name}:{row.line}"
        if row.fault:
            yield Record(row.line, label, b"", "unparsable", row.fault)
            continue
        texts = [row.values[place] or "" for place in wanted]
        yield _cells(row.line, label, texts, row.values[named] if named >= 0 else None)


def _read_csv(
    path: Path,
    numbered: Iterator[tuple[int, bytes]],
    column: list[str],
    name: str | None,
    form: Form | None,
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
    if form is None:
        _, _, first = take() or (0, 0, "")
        delimiter = _delimiter(first)
        header = next(csv.reader([first], delimiter=delimiter), [])
        width = len(header)
    else:
        delimiter, header, width = form.separator, list(form.columns), form.width
        for _ in range(form.first_row):
            take()
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
            reader = csv.reader(
                io.StringIO(text, newline=""),
                delimiter=delimiter,
                strict=True,
                skipinitialspace=delimiter == " ",
            )
            row = next(reader, [])
            if row and len(row) != width:
                raise csv.Error(f"{len(row)} cells, the header has {len(header)}")
        except csv.Error as error:
            yield Record(offset, label, b"", "unparsable", f"no CSV row: {error}")
            continue
        if row:
            id_text = row[named].strip() if named >= 0 else None
            yield _cells(offset, label, [row[place] for place in wanted], id_text)

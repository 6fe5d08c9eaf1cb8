"""Files of labelled sequences as records: CSV, TSV and FASTA in the forms of biotrainer, FLIP, PBC
and TAPE; plain, gzip, Zstandard.
"""

import csv
import io
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import store
from phenomjax.data.sequences.records import EXTENSIONS
from phenomjax.data.sequences.streams import Damaged, Stream
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, RARE, smiles_tokens, vocabulary
from phenomjax.probes.suites.suite import Source
from phenomjax.system.errors import UserError, did_you_mean

PROTEIN = frozenset(
    AMINO_ACIDS + RARE + "XJ"
)  # J: leucine or isoleucine; the model's encoder maps what it does not know
OPTIONAL = ("split", "set", "validation", "mask")  # fields that need no label to ask for them
_KEY = re.compile(r"(?:^|\s)([A-Za-z_][A-Za-z_0-9]*)=")


class LabelledSequence(NamedTuple):
    """One sequence and what its file says of it.

    Attributes:
      file: where it stands.
      number: of the record in a FASTA file, from 1; of the line in a table, the header being 1.
      id: its name.
      sequence: as it stands there, without white space.
      fields: {name: text}.
    """

    file: Path
    number: int
    id: str
    sequence: str
    fields: dict[str, str]

    @property
    def where(self) -> str:
        """To begin a message with."""
        return (
            f"{self.file}, {'row' if is_table(self.file) else 'record'} {self.number} ({self.id})"
        )


def fail(faults: Sequence[str], mend: str) -> None:
    """Raises UserError if there are faults: the first in full, how many there are, and what mends
    them.
    """
    if faults:
        more = f" {len(faults)} records have such a fault." if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{'' if faults[0].endswith(('.', '?')) else '.'}{more} {mend}")


def is_table(path: Path) -> bool:
    """Whether a file is CSV or TSV by its name."""
    return _suffix(path) in EXTENSIONS["csv"]


def read(source: Source, data: Path, wanted: Iterable[str]) -> list[LabelledSequence]:
    """The records of a source with the fields that labels ask for, and those in OPTIONAL that there
    are.

    Args:
      source: the entry.
      data: its paths are below this folder.
      wanted: fields that every record must have.

    Raises:
      UserError: a missing file, column, field or partner, a header that does not match, or a file
        that is no table or FASTA.
    """
    path = data / source.path
    names = [*dict.fromkeys([*wanted, *OPTIONAL])]
    records = (
        _read_table(path, source, names)
        if is_table(path)
        else _read_labelled_fasta(path, source, data)
    )
    renamed = [
        {
            name: record.fields[source.fields.get(name, name)]
            for name in names
            if source.fields.get(name, name) in record.fields
        }
        | source.constants
        for record in records
    ]
    needed = [*dict.fromkeys([*wanted, *(name for name in OPTIONAL if name in source.fields)])]
    fail(
        [
            f"{record.where} has no field '{source.fields.get(name, name)}'; it has"
            f" {', '.join(record.fields) or 'none'}"
            for record, fields in zip(records, renamed, strict=True)
            for name in needed
            if name not in fields
        ],
        "Labels are read from `KEY=value` in a header (keys in lower case), from a named group of"
        ' the entry\'s `header`, from `labels_path` (field "target"), or said for the whole file by'
        ' `constants` ("" = not known).',
    )
    return [record._replace(fields=fields) for record, fields in zip(records, renamed, strict=True)]


def _suffix(path: Path) -> str:
    suffixes = [
        suffix.lower()
        for suffix in path.suffixes
        if suffix.lower() not in (".gz", ".gzip", ".zst", ".zstd")
    ]
    return suffixes[-1] if suffixes else ""


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise UserError(
            f"There is no file {path}.{store.beside(path)} Correct the"
            " entry's path; it counts from the suite's data folder, which `python -m"
            " phenomjax.evaluate --data` replaces (in training --config.probes.data)."
        )
    buffer, parts = memoryview(bytearray(2**20)), []
    try:
        with Stream(path) as stream:
            while count := stream.readinto(buffer):
                parts.append(bytes(buffer[:count]))
    except Damaged as error:
        raise UserError(
            f"{path} cannot be read to its end: {error}. Copy or download it again."
        ) from None
    try:
        return b"".join(parts).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no UTF-8 text: byte {error.start} is {error.object[error.start]:#x}. Save"
            " it as UTF-8, for instance with `iconv -f latin1 -t utf8`."
        ) from None


def _read_table(path: Path, source: Source, names: list[str]) -> list[LabelledSequence]:
    text = _read_text(path)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # coordinates of all atoms in one cell
    first = text.split("\n", 1)[0]
    rows = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if "\t" in first else ",", strict=True
    )
    header = next(rows, [])
    columns = {
        name: source.fields.get(name, name) for name in names if name not in source.constants
    }
    asked = {source.sequence: "`sequence`", **({source.id: "`id`"} if source.id else {})}
    asked |= {
        column: f"field '{name}'"
        for name, column in columns.items()
        if name not in OPTIONAL or name in source.fields
    }
    for column, of in asked.items():
        if column not in header:
            raise UserError(
                f"{path} has no column '{column}' ({of} of its"
                f" entry).{did_you_mean(column, header)} There are:"
                f" {', '.join(name or '(no name)' for name in header[:30])}. Name another, or say"
                " what holds for the whole file with `constants`."
            )
    places = {column: header.index(column) for column in columns.values() if column in header}
    sequence, named = header.index(source.sequence), header.index(source.id) if source.id else -1
    records: list[LabelledSequence] = []
    faults: list[str] = []
    while True:
        number = rows.line_num + 1  # a quoted cell may have several lines
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            raise UserError(
                f"{path}, row {number} is no CSV row ({error}). Close the quotes, or remove it."
            ) from None
        if not any(row):
            continue  # a blank line
        if len(row) != len(header):
            faults.append(f"{path}, row {number} has {len(row)} cells, the header {len(header)}")
            continue
        name = row[named].strip() if source.id else f"{path.name}:{number}"
        fields = {column: row[place].strip() for column, place in places.items()}
        records.append(LabelledSequence(path, number, name, "".join(row[sequence].split()), fields))
    fail(faults, "Quote cells that hold the delimiter, or remove the rows.")
    return records


def read_fasta(path: Path) -> list[LabelledSequence]:
    """The records of a FASTA file; what follows ">" is the field "header", and the id its first
    word.

    Raises:
      UserError: no such file, or it does not begin with ">".
    """
    text = _read_text(path).lstrip()
    if not text.startswith(">"):
        raise UserError(
            f"{path} begins with {text[:20]!r}, not with '>', and is not named .csv or .tsv: it is"
            " neither FASTA nor a table. Name the right file."
        )
    records = []
    for number, part in enumerate(re.split(r"^>", text, flags=re.MULTILINE)[1:], 1):
        header, _, body = part.partition("\n")
        name = (header.split() or [""])[0]
        records.append(
            LabelledSequence(path, number, name, "".join(body.split()), {"header": header.strip()})
        )
    return records


def header_fields(text: str) -> dict[str, str]:
    """`id KEY=value KEY=value`, the form of biotrainer and FLIP: {key in lower case: value}. A
    value goes on to the next key.
    """
    found = list(_KEY.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return {
        match[1].lower(): text[match.end() : end].strip()
        for match, end in zip(found, ends, strict=False)
    }


def _read_labelled_fasta(path: Path, source: Source, data: Path) -> list[LabelledSequence]:
    records = read_fasta(path)
    if source.header:
        records = _match_headers(records, source)
    else:
        records = [
            record._replace(fields=header_fields(record.fields["header"])) for record in records
        ]
    for name, partner in (("target", source.labels_path), ("mask", source.mask_path)):
        if partner:
            records = _join(records, read_fasta(data / partner), name)
    return records


def _match_headers(records: list[LabelledSequence], source: Source) -> list[LabelledSequence]:
    try:
        pattern = re.compile(source.header)
    except re.error as error:
        raise UserError(
            f"The `header` of the entry for {records[0].file} is no regular expression ({error}):"
            f" {source.header}"
        ) from None
    if "id" not in pattern.groupindex:
        raise UserError(
            f"The `header` of the entry for {records[0].file} has no group `(?P<id>...)`:"
            f" {source.header}. Its named groups are the fields, and `id` names the sequence."
        )
    matches = [pattern.fullmatch(record.fields["header"]) for record in records]
    fail(
        [
            f"{record.where} has the header {record.fields['header']!r}, which `header` ="
            f" {source.header!r} does not match from its beginning to its end"
            for record, match in zip(records, matches, strict=True)
            if match is None
        ],
        "Mend the expression or the header.",
    )
    groups = [
        {key: (text or "").strip() for key, text in match.groupdict().items()}
        for match in matches
        if match
    ]
    return [
        record._replace(id=fields.pop("id"), fields=fields)
        for record, fields in zip(records, groups, strict=True)
    ]


def _join(
    records: list[LabelledSequence], partners: list[LabelledSequence], name: str
) -> list[LabelledSequence]:
    """Adds a second file's bodies as the field `name`, and the fields of its headers, by id."""
    fail(
        [*_repeated(records), *_repeated(partners)],
        "Two files are matched by their ids; make them unique.",
    )
    found, ids = {partner.id: partner for partner in partners}, {record.id for record in records}
    faults = [
        f"{record.where} is not in {partners[0].file}"
        for record in records
        if record.id not in found
    ]
    faults += [
        f"{partner.where} is not in {records[0].file}"
        for partner in partners
        if partner.id not in ids
    ]
    fail(
        faults,
        "Both files must hold the same ids, that is, first words of the headers. Remove the record,"
        " or add its partner.",
    )
    joined = []
    for record in records:
        partner = found[record.id]
        fields = header_fields(partner.fields["header"]) | {name: partner.sequence}
        joined.append(record._replace(fields=record.fields | fields))
    return joined


def _repeated(records: list[LabelledSequence]) -> list[str]:
    first: dict[str, LabelledSequence] = {}
    return [
        f"{record.where} has the id of record {first[record.id].number}"
        for record in records
        if first.setdefault(record.id, record) is not record
    ]


def clean_sequences(records: list[LabelledSequence], alphabet: str) -> list[str]:
    """The sequences for a model: proteins in upper case and without the stop sign at their end.

    Raises:
      UserError: an empty sequence, or a character that is not of the alphabet, with its position
        from 1.
    """
    protein, known = alphabet == "protein", vocabulary(alphabet).ids
    sequences, faults = [], []
    for record in records:
        text = record.sequence.upper().rstrip("*") if protein else record.sequence
        sequences.append(text)
        if not text:
            faults.append(f"{record.where} has no sequence")
            continue
        tokens = text if protein else smiles_tokens(text)
        if (protein and PROTEIN.issuperset(text)) or (
            not protein and all(token in known for token in tokens)
        ):
            continue
        bad = next(
            i for i, t in enumerate(tokens) if (t not in PROTEIN if protein else t not in known)
        )
        what = "amino acid" if protein else "part of SMILES"
        faults.append(
            f"{record.where} has {tokens[bad]!r} at position {sum(map(len, tokens[:bad])) + 1} of"
            f" its sequence, which is no {what}"
        )
    mend = (
        "Remove gaps and stop signs inside, write X for what is unknown"
        if protein
        else "Correct or remove it"
    )
    fail(faults, f"{mend}; or name the column that holds the sequences with `sequence`.")
    return sequences

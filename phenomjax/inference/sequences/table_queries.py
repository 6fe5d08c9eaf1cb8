"""Sequences in the rows of a table or in JSON lines: which column has them, and row after row."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import tables
from phenomjax.data.sequences.records import Record
from phenomjax.data.sequences.streams import Stream, lines
from phenomjax.system.errors import UserError, did_you_mean

log = logging.getLogger("phenomjax")
# What columns of sequences and ids are called, the likeliest first; `sequence` of JSON lines too
COLUMNS = {
    "protein": (
        *("sequence", "seq", "protein_sequence", "aa_seq", "aa_sequence", "amino_acid_sequence"),
        *("target_seq", "mutated_sequence", "sequences", "primary", "protein", "aa"),
    ),
    "smiles": ("smiles", "canonical_smiles", "isomeric_smiles", "smile", "structure"),
    "bytes": ("code", "content", "text", "source"),
}
IDS = (
    *("id", "ids", "name", "entry", "accession", "protein_id", "sequence_id", "seq_id"),
    *("uniprot_id", "uniprot", "dms_id", "identifier", "header", "protein_name", "label_id"),
)


class Wanted(NamedTuple):
    """Which columns (of JSON lines: fields) are read.

    Attributes:
      column: with the sequences; None: found by its name.
      name: with the ids; None: found by its name, else they are FILE:LINE.
      column_setting, name_setting: what the user calls these two.
    """

    column: str | None = None
    name: str | None = None
    column_setting: str = "column"
    name_setting: str = "id"


ANY = Wanted()


def records(path: Path, alphabet: str, wanted: Wanted = ANY) -> Iterator[Record]:
    """The sequences of a table, read row by row; `offset` of each is its line.

    Args:
      path: any table that `data.tables` reads.
      alphabet: of the model.
      wanted: which columns.

    Raises:
      UserError: no such column, or no table.
    """
    table = tables.open_rows(path, missing=())
    place, label = _places(path, alphabet, table.columns, wanted, "column")
    log.info(
        "%s: %ssequences are in column '%s', ids %s",
        path,
        f"{table.said}; " if table.said else "",
        table.columns[place],
        "are FILE:LINE" if label is None else f"in column '{table.columns[label]}'",
    )
    for row in table.rows:
        named = f"{path.name}:{row.line}"
        if row.fault:
            yield Record(row.line, named, b"", "unparsable", row.fault)
            continue
        text, given = row.values[place] or "", label is not None and row.values[label]
        yield Record(row.line, given or named, text.encode("utf-8", "replace"))


def json_fields(path: Path, alphabet: str, wanted: Wanted = ANY) -> tuple[str, str | None]:
    """The fields of JSON lines with the sequences and the ids, as `records` finds columns.

    Raises:
      UserError: the first line has no such field, or is no object.
    """
    with Stream(path) as stream:
        first = next((line for _, line in lines(stream, 2**20) if line.strip()), b"")
    try:
        there = json.loads(first)
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise UserError(
            f"The first line of {path} is no JSON object ({first[:30]!r}). JSON lines have one a"
            " line; if the file has another format, let its name end with that (.fasta, .csv, …)."
        )
    fields = list(there)
    place, label = _places(path, alphabet, fields, wanted, "field")
    return fields[place], None if label is None else fields[label]


def _places(
    path: Path, alphabet: str, columns: Sequence[str], wanted: Wanted, what: str
) -> tuple[int, int | None]:
    """Where the sequences and the ids stand."""
    settings = wanted.column_setting, wanted.name_setting
    place = _place(path, columns, wanted.column, COLUMNS[alphabet], settings[0], what)
    if place is None:
        raise UserError(
            f"Which {what} of {path} has the sequences cannot be told by the names. There are:"
            f" {', '.join(name or '(no name)' for name in columns[:30]) or 'none'}. Name it with"
            f" `{settings[0]}`."
        )
    return place, _place(path, columns, wanted.name, IDS, settings[1], what)


def _place(
    path: Path,
    columns: Sequence[str],
    name: str | None,
    known: Sequence[str],
    option: str,
    what: str,
) -> int | None:
    """Where a column stands: that of a name, or the first that has one of the usual names."""
    if name is None:
        plain = [column.strip().lower().replace(" ", "_") for column in columns]
        name = next((columns[plain.index(usual)] for usual in known if usual in plain), None)
        if name is None:
            return None
    if columns.count(name) != 1:
        many = f"{columns.count(name)} {what}s" if name in columns else f"no {what}"
        raise UserError(
            f"{path} has {many} '{name}' (`{option}`).{did_you_mean(name, columns)} There are:"
            f" {', '.join(c or '(no name)' for c in columns[:30])}."
        )
    return list(columns).index(name)

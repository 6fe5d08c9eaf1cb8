"""Sequences in the rows of a table or in JSON lines: which column has them, and row after row."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import tables
from phenomjax.data.sequences import sources
from phenomjax.data.sequences.formats.guess import looks_like
from phenomjax.data.sequences.formats.letters import SAMPLE
from phenomjax.data.sequences.formats.recognise import head_lines, look
from phenomjax.data.sequences.records import Record
from phenomjax.data.sequences.sources import SequenceFile
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
      header: whether the first line names the columns; else they are called 1, 2, 3.
      column_setting, name_setting: what the user calls these two.
    """

    column: str | None = None
    name: str | None = None
    header: bool = True
    column_setting: str = "column"
    name_setting: str = "id"


ANY = Wanted()
WORD = 20  # letters of a name of a column that is taken for a sequence though others are names
NO_HEADER = ", or say so with `no_header` and name the column by its number, `column` {}"


def first_texts(source: SequenceFile, alphabet: str, wanted: Wanted = ANY) -> list[str]:
    """The first sequences of a table or of JSON lines.

    Raises:
      UserError: as `records` and `json_fields`.
    """
    if source.kind != "jsonl":
        found = records(source.path, alphabet, wanted, log.debug)
        return [record.data.decode("utf-8", "replace") for record in islice(found, SAMPLE)]
    field, _ = json_fields(source.path, alphabet, wanted)
    return list(sources.first_texts(source, [field]))


def records(
    path: Path, alphabet: str, wanted: Wanted = ANY, tell: Callable[..., None] = log.info
) -> Iterator[Record]:
    """The sequences of a table, read row by row; `offset` of each is its line.

    Args:
      path: any table that `data.tables` reads.
      alphabet: of the model.
      wanted: which columns.
      tell: what they are.

    Raises:
      UserError: no such column, no header, or no table.
    """
    table = tables.open_rows(path, missing=(), header=wanted.header)
    if wanted.column is None:
        wanted = wanted._replace(column=_only(path, alphabet, table.columns, wanted))
    place, label = _places(path, alphabet, table.columns, wanted, "column")
    tell(
        "%s: %ssequences are in column '%s', ids %s",
        path,
        f"{table.said}; " if table.said else "",
        table.columns[place],
        "are FILE:LINE" if label is None else f"in column '{table.columns[label]}'",
    )
    rows, last = iter(table.rows), 0
    while True:
        try:
            row = next(rows, None)
        except UserError as error:  # damaged here; what was before is read
            yield Record(last, f"{path.name}:{last}", b"", "truncated", str(error).rstrip("."))
            return
        if row is None:
            return
        last = row.line
        named = f"{path.name}:{row.line}"
        if row.fault:
            yield Record(row.line, named, b"", "unparsable", row.fault)
            continue
        text, given = row.values[place] or "", label is not None and row.values[label]
        named = given if given and given not in tables.MISSING else named
        # code may be None or null, and no protein is called NA
        if text in tables.MISSING and alphabet != "bytes":
            detail = f"{text!r} says that there is no sequence" if text else "the cell is empty"
            yield Record(row.line, named, b"", "empty", detail)
            continue
        yield Record(row.line, named, text.encode("utf-8", "replace"))


def json_fields(path: Path, alphabet: str, wanted: Wanted = ANY) -> tuple[str, str | None]:
    """The fields of JSON lines with the sequences and the ids, as `records` finds columns.

    Raises:
      UserError: the first line has no such field, or is no object.
    """
    first = next((line for line in head_lines(look(path)) if line.strip()), "")
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
    if what == "column" and wanted.header:
        _check_header(path, alphabet, columns, wanted)
    place = _place(path, columns, wanted.column, COLUMNS[alphabet], settings[0], what)
    if place is None:
        raise UserError(
            f"Which {what} of {path} has the sequences cannot be told by the names. There are:"
            f" {', '.join(name or '(no name)' for name in columns[:30]) or 'none'}. Name it with"
            f" `{settings[0]}`."
        )
    return place, _place(path, columns, wanted.name, IDS, settings[1], what)


def _check_header(path: Path, alphabet: str, columns: Sequence[str], wanted: Wanted) -> None:
    """Refuses a table whose first line has a sequence in it: SEQUENCE and PEPTIDE are none."""
    usual = {*COLUMNS[alphabet], *IDS} & {_plain(name) for name in columns}
    least = WORD if wanted.column or usual else 0
    titles = [name for name in columns if len(name) >= least and looks_like([name]) == "protein"]
    if not titles or alphabet != "protein":
        return
    flag = NO_HEADER.format(columns.index(titles[0]) + 1)
    raise UserError(
        f"{path} has no header: its first line ({', '.join(columns)[:60]}) has a sequence in it,"
        " which would be lost. Write a line with names, such as id,sequence, above it"
        f"{flag if wanted.column_setting == 'column' else ''}."
    )


def _only(path: Path, alphabet: str, columns: Sequence[str], wanted: Wanted) -> str | None:
    """Of several columns with usual names the one that holds sequences.

    Raises:
      UserError: several do.
    """
    named = [name for name in columns if _plain(name) in COLUMNS[alphabet]]
    if len(named) < 2 or len(set(named)) < len(named):
        return None
    rows = list(islice(tables.open_rows(path, missing=tables.MISSING).rows, SAMPLE))
    held = [
        name
        for name in named
        if looks_like([row.values[columns.index(name)] or "" for row in rows if not row.fault])
    ]
    if len(held) > 1:
        raise UserError(
            f"{path} has several columns that may hold the sequences: {', '.join(held)}. Say which"
            f" one with `{wanted.column_setting}`, such as `{wanted.column_setting}` {held[0]}."
        )
    return held[0] if held else None


def _plain(column: str) -> str:
    return column.strip().lower().replace(" ", "_")


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
        plain = [_plain(column) for column in columns]
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

"""Which column of a table has the sequences, and whether they are proteins or SMILES."""

import contextlib
import csv
import itertools
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import tables
from phenomjax.data.compressed import SUFFIXES
from phenomjax.data.separators import Form, find_form
from phenomjax.data.sequences.formats.guess import looks_like
from phenomjax.data.sequences.formats.recognise import Format, head_lines, look
from phenomjax.data.sequences.records import is_title
from phenomjax.system.errors import UserError, did_you_mean

SAMPLE = 200  # rows
LONG = 20  # letters of a sequence that is surely no name of a column
# Names of columns, in lower case without other signs than letters and digits
_SMILES = re.compile(r"\w*smiles\w*|smi")
_PROTEINS = re.compile(
    r"(protein|aa|aminoacid|mutated|mutant|target|full|peptide|primary)?(sequences?|seq)|primary|"
    r"protein|peptide|aa"
)


class Unsaid(UserError):
    """Of a table or JSON lines more must be said.

    Attributes:
      flags: what says it, where one thing is the likeliest; else "".
    """

    def __init__(self, message: str, flags: str = ""):
        super().__init__(message)
        self.flags = flags


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are wanted.

    Attributes:
      names: of those whose texts, joined, are the sequence.
      alphabet: what they look like: protein, smiles, or "" where that cannot be told.
      form: how the text is a table; None of Parquet and .xlsx.
      said: what is unusual about the file, in words.
    """

    names: tuple[str, ...]
    alphabet: str
    form: Form | None
    said: str


def find_columns(
    found: Format, column: str | None, name: str | None, alphabet: str | None, header: bool
) -> Columns:
    """The column with the sequences.

    Args:
      found: the file.
      column: of the user; None: the one whose name says it.
      name: the column with the ids, which is looked for.
      alphabet: of the user: the name is of that.
      header: whether the first line names the columns; else they are called "1", "2", ...

    Raises:
      UserError: there is no such column, several may be meant, or the first line is no header.
    """
    path = found.contents.path
    form, columns, rows, said = sample_rows(found, header)
    for wanted in (column, name):
        if wanted is not None and columns.count(wanted) > 1:
            raise _same_name(path, wanted)
        if wanted is not None and wanted not in columns:
            raise UserError(
                f"{path} has no column '{wanted}'.{did_you_mean(wanted, columns)} {_there(columns)}"
                " Name the one that holds the sequences with --column, and the one with their ids"
                " with --id."
            )
    looks = {title: _look(rows, place) for place, title in enumerate(columns)}
    if column is None:
        column = _choose(found, columns, rows, looks, alphabet, header)
    elif header:
        like_below = (t for t in columns if len(t) >= LONG and looks_like([t]) == looks[t] != "")
        if title := next(like_below, None):
            raise _no_header(path, columns, title)
    plain, kind = _plain(column), looks[column]
    first = (rows[0][columns.index(column)] or "") if rows and not header else ""
    if is_title(first):
        raise UserError(
            f"{path} has a header: '{first}' is the name of a column. Leave --no_header out."
        )
    if re.search("selfies|inchi", plain) and alphabet != "bytes":
        raise UserError(
            f"{path}: column '{column}' holds no SMILES by its name, and would be read as such."
            " Name a column of SMILES with --column (RDKit and the package selfies convert), or"
            " read the letters as they are with --alphabet bytes."
        )
    if _SMILES.fullmatch(plain):
        kind = "smiles"
    elif _PROTEINS.fullmatch(plain):  # short peptides may look like SMILES
        kind = "protein"
    return Columns((column,), kind, form, said)


def _look(rows: Sequence[Sequence[str | None]], place: int) -> str:
    values = [row[place] or "" for row in rows if len(row) > place]
    return looks_like([value for value in values if value.strip() not in tables.MISSING])


def check_fields(path: Path, wanted: Sequence[str], alphabet: str | None) -> None:
    """Looks whether the first record of a file of JSON lines has the fields that are asked for.

    Args:
      path: the file.
      wanted: fields, that with the sequences first.
      alphabet: of the user; None: bytes, which proteins and SMILES must not become unasked.

    Raises:
      UserError: it has not; the message lists those that there are. Or the alphabet must be said.
    """
    lines = [line for line in head_lines(look(path)) if line.strip()]
    try:
        parsed = json.loads(lines[0] if lines else "")
    except ValueError:
        return  # the reader names the record
    there = list(parsed) if isinstance(parsed, dict) else []
    for name in wanted:
        if name not in there:
            raise UserError(
                f"{path} has no field '{name}'.{did_you_mean(name, there)} {_there(there)} Name the"
                " one that holds the sequences with --field, and the one with their ids with --id."
            )
    texts = list[str]()
    for line in lines[:SAMPLE]:
        with contextlib.suppress(ValueError, TypeError, KeyError):  # the reader names the record
            texts.append(str(json.loads(line)[wanted[0]]))
    if alphabet is None and (looks := looks_like(texts)):
        raise Unsaid(
            f"{path}: field '{wanted[0]}' looks like {looks}, and JSON lines are read as bytes, as"
            f" of source code. Say which: --alphabet {looks}, or --alphabet bytes.",
            f"--alphabet {looks}",
        )


def _choose(
    found: Format,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | None]],
    looks: dict[str, str],
    alphabet: str | None,
    header: bool,
) -> str:
    path = found.contents.path
    smiles = [title for title in columns if _SMILES.fullmatch(_plain(title))]
    proteins = [title for title in columns if _PROTEINS.fullmatch(_plain(title))]
    if "smiles" in smiles:  # the plain name before canonical_smiles and the like
        smiles = ["smiles"]
    wanted = {"smiles": smiles, "protein": proteins, None: smiles + proteins}.get(alphabet, [])
    if len(wanted) == 1:
        return wanted[0]
    if len(set(wanted)) < len(wanted):
        raise _same_name(path, next(title for title in wanted if wanted.count(title) > 1))
    if len(wanted) > 1:
        raise Unsaid(
            f"{path} has several columns that may hold the sequences: {', '.join(wanted)}. Say"
            f" which one, for instance --column {_quoted(wanted[0])}.",
            f"--column={shlex.quote(wanted[0])}",
        )
    alike = [title for title in columns if looks[title] and alphabet in (None, looks[title])]
    alike = [title for title in alike if not re.search("selfies|inchi", _plain(title))]
    # Short ids (P1, C2) are SMILES too: proteins come first, then what is longer.
    sizes = {
        title: sum(len(row[place] or "") for row in rows if len(row) > place)
        for place, title in enumerate(columns)
    }
    alike.sort(key=lambda title: (looks[title] != "protein", -sizes[title]))
    titles = [title for title in columns if looks_like([title])]
    like_below = [title for title in alike if looks_like([title]) == looks[title]]
    if header and titles and (like_below or not alike):
        raise _no_header(path, columns, [*like_below, *titles][0])
    sure = [title for title in alike if looks[title] == "protein"] or alike
    if not header and len(sure) == 1:
        return sure[0]
    mend, flags = "Name it with --column, and the one with their ids with --id.", ""
    if alike:
        flags = f"--column={shlex.quote(alike[0])}"
        mend = f"'{alike[0]}' looks like it: say --column {_quoted(alike[0])}."
    raise Unsaid(
        f"{path} has no column whose name says that it holds the sequences. {_there(columns)}"
        f" {mend}",
        flags,
    )


def _same_name(path: Path, title: str) -> UserError:
    return UserError(
        f"{path} has several columns '{title}', and which is meant cannot be said: give them"
        " different names in the first line, then name the one with the sequences with --column."
    )


def _no_header(path: Path, columns: Sequence[str], title: str) -> UserError:
    return Unsaid(
        f"{path} has no header: its first line ({', '.join(columns)[:60]!r}) has a sequence in"
        " it, which would be lost. Say so with --no_header, and name the column by its number:"
        f" --column {columns.index(title) + 1}.",
        f"--no_header --column={columns.index(title) + 1}",
    )


def _plain(title: str) -> str:
    return re.sub(r"[\W_]", "", title).lower()


def _quoted(title: str) -> str:
    return title if re.fullmatch(r"[\w.-]+", title) else f"'{title}'"


def _there(columns: Sequence[str]) -> str:
    return f"There are: {', '.join(title or '(no name)' for title in columns[:30])}."


class Sample(NamedTuple):
    """The beginning of a table.

    Attributes:
      form: how the text is one; None of Parquet and .xlsx.
      columns: their names.
      rows: the first ones.
      said: what is unusual about the file, in words.
    """

    form: Form | None
    columns: list[str]
    rows: list[Sequence[str | None]]
    said: str


def sample_rows(found: Format, header: bool) -> Sample:
    """How a file is a table, its columns, and the first rows.

    Args:
      found: the file.
      header: whether the first line names the columns.

    Raises:
      UserError: there is nothing in it.
    """
    contents = found.contents
    if found.kind == "table":
        table = tables.open_rows(contents.path, missing=(), header=header)
        rows = [row.values for row in itertools.islice(table.rows, SAMPLE)]
        return Sample(None, list(table.columns), list(rows), table.said)
    name = contents.path.name.lower()
    name = next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)
    form = find_form(contents.head, whole=contents.whole, name=name, header=header)
    if not form.columns:
        raise UserError(f"{contents.path} is empty: it has no line that names columns.")
    lines = contents.head.splitlines(keepends=True)[form.first_row :]
    reader = csv.reader(lines, delimiter=form.separator, skipinitialspace=form.separator == " ")
    first: list[Sequence[str | None]] = []
    with contextlib.suppress(csv.Error):  # the reader of the rows names it
        first += [row for row in itertools.islice(reader, SAMPLE) if row]
    said = ", ".join(part for part in (contents.said, *form.said) if part)
    return Sample(form, list(form.columns), first, said)

"""Tables of mutants: reading `A12G:K34R` and checking it against the wild type."""

import csv
import io
import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, vocabulary
from phenomjax.inference.sequences import queries
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.files import listing

log = logging.getLogger("phenomjax")
WILD_TYPE = ("", "wt", "_wt", "wildtype", "wild-type")
_MUTATION = re.compile(r"([A-Z])(-?\d+)([A-Z])")
TELLING = 5  # different positions that must agree before an offset is proposed
Mutation = tuple[int, str]  # place from 0, new letter


@dataclass
class Mutants:
    """Variants of one wild type.

    Attributes:
      rows: the table's rows as they are, or made by a scan.
      columns: their names.
      mutations: of each row; None for one that was skipped.
      targets: float64 [rows] measured values, NaN where there is none; or None.
    """

    rows: list[list[str]]
    columns: list[str]
    mutations: list[list[Mutation] | None]
    targets: np.ndarray | None = None


@dataclass(frozen=True)
class Wording:
    """What the user calls the settings that errors speak of; `skip` follows what mends bad rows."""

    table: str = "`mutants`"
    wild_type: str = "`wild_type`"
    column: str = "`mutant_column`"
    target: str = "`target_column`"
    offset: str = "`offset` {}"
    skip: str = ", or give `skip_invalid` to leave them without a score"


COMMAND_LINE = Wording()


def read_wild_type(path: Path, rare: str, wording: Wording = COMMAND_LINE) -> str:
    """The one sequence of a FASTA file.

    Args:
      path: the file.
      rare: what becomes of rare letters, a name in encode.RARE_RULES.

    Raises:
      UserError: there is none, or more than one.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = queries.read([path], "protein", rare, Path(folder) / "tokens")
        if len(found) != 1 or found.rejected:
            raise UserError(
                f"{wording.wild_type} {path} holds {len(found) + len(found.rejected)} records"
                f" ({', '.join(found.names[:3].to_pylist())}, …); it must be one protein. Write the"
                " one that the variants are of to a file of its own."
            )
        log.info("wild type: %s, %d residues", found.names[0], found.lengths[0])
        return vocabulary("protein").decode(found.sequence(0))


def scan(wild_type: str, offset: int = 0) -> Mutants:
    """All 19 substitutions of every position; letters that are no standard amino acid have 20."""
    found = [
        (place, letter)
        for place, old in enumerate(wild_type)
        for letter in AMINO_ACIDS
        if letter != old
    ]
    rows = [[f"{wild_type[place]}{place + 1 + offset}{letter}"] for place, letter in found]
    return Mutants(rows, ["mutant"], [[mutation] for mutation in found])


def read(
    path: Path,
    wild_type: str,
    column: str,
    target: str | None,
    offset: int,
    offset_column: str | None = None,
    skip_invalid: bool = False,
    wording: Wording = COMMAND_LINE,
) -> Mutants:
    """Reads a CSV or TSV file with a header.

    Args:
      path: the file.
      wild_type: the sequence that positions count in.
      column: with texts like A12G or A12G:K34R; empty or "WT" is the wild type itself.
      target: column with measured values.
      offset: position 1 + offset is the first residue of the wild type.
      offset_column: a column that holds the offset of each row.
      skip_invalid: leave bad rows without mutations, where they otherwise are an error.
      wording: of errors.

    Raises:
      UserError: no such file or column, or a row that does not fit the wild type.
    """
    if not path.is_file():
        raise UserError(
            f"There is no file {path} ({wording.table}). In {path.parent}: {listing(path.parent)}."
        )
    text = path.read_text(encoding="utf-8-sig", errors="replace").lstrip("\ufeff")
    header = text.split("\n", 1)[0]
    table = list(
        csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",")
    )
    columns, rows = (table or [[]])[0], [row for row in table[1:] if row]
    places = {
        name: _place(path, columns, name, option)
        for name, option in (
            (column, wording.column),
            (target, wording.target),
            (offset_column, "`offset_column`"),
        )
        if name
    }
    mutations: list[list[Mutation] | None] = []
    problems: list[str] = []
    for number, row in enumerate(rows, 2):
        try:
            if len(row) != len(columns):
                raise ValueError(f"has {len(row)} cells, the header {len(columns)}")
            shift = offset + (int(float(row[places[offset_column]])) if offset_column else 0)
            mutations.append(parse(row[places[column]], wild_type, shift))
        except ValueError as error:
            problems.append(f"row {number} {error}")
            mutations.append(None)
    if problems and not skip_invalid:
        better = _better_offset(rows, places[column], wild_type, offset, wording)
        more = f" {len(problems)} rows have such a fault." if len(problems) > 1 else ""
        raise UserError(f"{path}, {problems[0]}.{more}{better} Mend or remove them{wording.skip}.")
    targets = None
    if target:
        targets = np.array(
            [_number(row[places[target]]) if len(row) == len(columns) else np.nan for row in rows]
        )
    return Mutants(rows, columns, mutations, targets)


def parse(text: str, wild_type: str, offset: int = 0) -> list[Mutation]:
    """The mutations of one variant.

    Raises:
      ValueError: what is wrong, to follow "row N".
    """
    if text.strip().lower() in WILD_TYPE:
        return []
    found: dict[int, str] = {}
    for part in re.split(r"[:;,/+\s]+", text.strip()):
        match = _MUTATION.fullmatch(part.upper())
        if not match or match[3] not in AMINO_ACIDS:
            raise ValueError(
                f"has the mutant '{text}', of which '{part}' is not wild type, position, new amino"
                " acid, as in A12G"
            )
        old, place, new = match[1], int(match[2]) - 1 - offset, match[3]
        if not 0 <= place < len(wild_type):
            raise ValueError(
                f"has the mutant '{part}', but the wild type has {len(wild_type)} residues, "
                f"positions {1 + offset} to {len(wild_type) + offset}"
            )
        if wild_type[place] != old:
            raise ValueError(
                f"has the mutant '{part}', but the wild type has {wild_type[place]} at position"
                f" {match[2]}"
            )
        if place in found:
            raise ValueError(f"has the mutant '{text}', which changes position {match[2]} twice")
        found[place] = new
    return sorted(found.items())


def _place(path: Path, columns: list[str], name: str, option: str) -> int:
    if name not in columns:
        raise UserError(
            f"{path} has no column '{name}' ({option}).{did_you_mean(name, columns)} There are:"
            f" {', '.join(c or '(no name)' for c in columns[:30])}."
        )
    return columns.index(name)


def _better_offset(
    rows: list[list[str]], place: int, wild_type: str, offset: int, wording: Wording
) -> str:
    """Says with which offset all letters would agree, if there is one."""
    parts = [m for row in rows if len(row) > place for m in _MUTATION.findall(row[place].upper())]
    wanted = {(old, int(position)) for old, position, _ in parts}
    if len(wanted) < TELLING:  # a few letters agree somewhere by chance
        return ""
    lowest, highest = min(p for _, p in wanted), max(p for _, p in wanted)
    for shift in sorted(range(highest - len(wild_type), lowest), key=abs):
        if shift != offset and all(wild_type[p - 1 - shift] == old for old, p in wanted):
            return f" With {wording.offset.format(shift)} all of them agree with the wild type."
    return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation; ties share their mean rank. NaN if one of them does not vary."""
    from scipy.stats import spearmanr

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)

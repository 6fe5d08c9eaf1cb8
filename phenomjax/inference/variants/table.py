"""Tables of variants, as published, checked against the wild type."""

import collections
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from phenomjax.data import store, tables
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.inference.variants import agreement, measured, notation
from phenomjax.inference.variants.agreement import COMMAND_LINE, Wording
from phenomjax.inference.variants.notation import Problem, Variant
from phenomjax.system.errors import UserError, did_you_mean

log = logging.getLogger("phenomjax")
# What columns of variants are called, the likeliest first: ProteinGym, MaveDB, Sarkisyan et al.,
# FLIP, TAPE, and what people write by hand
COLUMNS = (
    *("mutant", "mutants", "variant", "variants", "mutation", "mutations", "hgvs_pro", "hgvs_p"),
    *("hgvsp", "hgvs", "aamutations", "aa_mutations", "aa_change", "aa_substitutions"),
    *("substitutions", "mutated_sequence", "mutant_sequence", "sequence", "seq", "aa_seq"),
    *("protein_sequence", "primary"),
)
NEVER_EMPTY = ("hgvs_pro", "hgvs_p", "hgvsp", "hgvs")  # an empty cell there is no wild type
LEAST_RESIDUES = 20  # of a word that is taken for a sequence where nobody said so
spearman = measured.spearman


@dataclass(frozen=True)
class Fault:
    """A row that cannot be scored.

    Attributes:
      line: where it stands in the file.
      text: the variant.
      reason: what kind of fault it is, one or two words.
      message: what is wrong, to follow "row N".
    """

    line: int
    text: str
    reason: str
    message: str


@dataclass
class Mutants:
    """Variants of one wild type.

    Attributes:
      rows: the table's rows as they are, or made by a scan.
      columns: their names.
      mutations: of each row; None for one that was skipped.
      targets: float64 [rows] measured values, NaN where there is none; or None.
      target: the column that they are from.
      faults: of the rows that were skipped.
    """

    rows: list[list[str]]
    columns: list[str]
    mutations: list[Variant | None]
    targets: np.ndarray | None = None
    target: str = ""
    faults: list[Fault] = field(default_factory=list)


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
    """Reads a table with a header.

    Args:
      path: the file: any table that `data.tables` reads.
      wild_type: the sequence that positions count in.
      column: with texts as `notation.read` understands them; "": found by its name or content.
      target: column with measured values; "": found where it is unmistakable; None: not wanted.
      offset: position 1 + offset is the first residue of the wild type.
      offset_column: a column that holds the offset of each row.
      skip_invalid: leave bad rows without mutations, where they otherwise are an error.
      wording: of errors.

    Raises:
      UserError: no such file or column, or a row that does not fit the wild type.
    """
    columns, rows, lines, broken = _load(path, wording)
    column = column or _find_column(path, columns, rows, wording)
    place = _place(path, columns, column, wording.column)
    if _is_a_variant(column):
        raise UserError(
            f"{path} ({wording.table}) has no header: its first line begins with '{column}', a"
            " variant, which would be lost. Write a line with the names of the columns above it,"
            " such as mutant,fitness."
        )
    by_row = _place(path, columns, offset_column, "`offset_column`") if offset_column else None
    asked = target
    if target == "":
        target = measured.find(
            columns, rows, [column, offset_column or "", ""], wording.setting("target")
        )
    value = _place(path, columns, target, wording.target) if target else None

    _check_targets(path, [row[place] for row in rows])
    understood: list[list[notation.Edit] | str | None] = []
    shifts = np.zeros(len(rows), int)
    faults: dict[int, Fault] = {}
    empty_is_fault = column.lower() in NEVER_EMPTY
    for number, row in enumerate(rows):
        text = row[place]
        try:
            if number in broken:
                raise Problem("row", f"is damaged: {broken[number]}")
            if empty_is_fault and not text:
                raise Problem("missing", f"has an empty cell in '{column}': no variant is known")
            found = notation.read(text)
            if by_row is not None and found and not isinstance(found, str):
                shifts[number] = _shift(row[by_row])
            understood.append(found)
        except Problem as problem:
            faults[number] = Fault(lines[number], text, problem.reason, str(problem))
            understood.append(None)
    _check_whole(path, understood, lines, shifts, wild_type, offset, len(faults), wording)
    mutations: list[Variant | None] = []
    for number, edits in enumerate(understood):
        try:
            fitting = None
            if edits is not None:
                fitting = notation.applied(edits, wild_type, offset + int(shifts[number]))
            mutations.append(fitting)
        except Problem as problem:
            text = rows[number][place]
            faults[number] = Fault(lines[number], text, problem.reason, str(problem))
            mutations.append(None)
    ordered = [faults[number] for number in sorted(faults)]
    if ordered and not skip_invalid:
        raise UserError(_faulty(path, ordered, wording))
    _tell(rows, place, mutations)
    targets = None
    if value is not None:
        targets = _targets(path, [row[value] for row in rows], target or "", bool(asked), wording)
    return Mutants(rows, columns, mutations, targets, target or "", ordered)


def parse(text: str, wild_type: str, offset: int = 0) -> Variant:
    """The mutations of one variant.

    Raises:
      ValueError: what is wrong, to follow "row N".
    """
    return notation.applied(notation.read(text), wild_type, offset)


def _load(
    path: Path, wording: Wording
) -> tuple[list[str], list[list[str]], list[int], dict[int, str]]:
    """(columns, rows, the line of each, what is wrong with damaged ones)."""
    file, _ = tables.file_of(path)
    if file.is_dir():
        raise UserError(f"{path} ({wording.table}) is a folder. Name a table in it.")
    if not file.is_file():
        raise UserError(f"There is no file {path} ({wording.table}).{store.beside(path)}")
    table = tables.open_rows(path, missing=())
    columns = list(table.columns)
    rows, lines, broken = list[list[str]](), list[int](), dict[int, str]()
    for row in table.rows:
        if row.fault:
            broken[len(rows)] = row.fault.rstrip(".")
        rows.append([value or "" for value in row.values] or [""] * len(columns))
        lines.append(row.line)
    if not rows:
        raise UserError(f"{path} ({wording.table}) has no row below its header: nothing to score.")
    if table.said:
        log.info("%s: read as %s", path, table.said)
    return columns, rows, lines, broken


def _find_column(
    path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], wording: Wording
) -> str:
    """The column with the variants: by a usual name, else the only one that can be read so."""
    named = {name.strip().lower().replace(" ", "_"): name for name in reversed(columns)}
    found = next((named[name] for name in COLUMNS if name in named), None)
    if found is None:
        fitting = [
            name for i, name in enumerate(columns) if _is_of_variants([row[i] for row in rows])
        ]
        if len(fitting) != 1:
            raise UserError(
                f"Which column of {path} has the variants cannot be told by the names. There are:"
                f" {', '.join(c or '(no name)' for c in columns[:30])}. Name it with"
                f" {wording.column}."
            )
        (found,) = fitting
    log.info("variants: column '%s' (%s names another)", found, wording.setting("column"))
    return found


def _is_of_variants(cells: Sequence[str], looked: int = 1000) -> bool:
    cells = [cell for cell in cells if cell][:looked]
    return sum(map(_is_a_variant, cells)) > len(cells) / 2


def _is_a_variant(text: str) -> bool:
    """Whether a text is one, though it may not be scored; neither a word nor the wild type is."""
    try:
        found = notation.read(text)
    except Problem as problem:
        return problem.reason in ("stop", "frameshift", "start or end", "no amino acid")
    return len(found) >= LEAST_RESIDUES if isinstance(found, str) else bool(found)


def _check_targets(path: Path, cells: Sequence[str]) -> None:
    """Refuses a table whose variants say that they are of several proteins."""
    counts = collections.Counter(name for cell in cells if (name := notation.target(cell)))
    if len(counts) > 1:
        named = ", ".join(f"{name}: {count}" for name, count in counts.most_common(5))
        raise UserError(
            f"{path} has variants of {len(counts)} proteins ({named} rows). Give the rows of each"
            " as a table of their own, with its wild type."
        )


def _shift(text: str) -> int:
    number = measured.number(text)
    if not number.is_integer() or abs(number) > agreement.FARTHEST:
        raise Problem("offset", f"has the offset '{text}', which is no whole number")
    return int(number)


def _check_whole(
    path: Path,
    understood: Sequence[list[notation.Edit] | str | None],
    lines: Sequence[int],
    shifts: np.ndarray,
    wild_type: str,
    offset: int,
    faults: int,
    wording: Wording,
) -> None:
    """Refuses a table that is of another protein, or counts otherwise."""
    named = [edits if isinstance(edits, list) else [] for edits in understood]
    claims = agreement.Claims(
        [
            [(position - int(shift), letter) for edit in edits for position, letter in edit.claims]
            for edits, shift in zip(named, shifts, strict=True)
        ],
        wild_type,
    )
    from_zero = any(notation.counts_from_zero(edit) for edits in named for edit in edits)

    def explain(row: int) -> str:
        try:
            notation.applied(named[row], wild_type, offset + int(shifts[row]))
        except Problem as problem:
            return str(problem)
        return "agrees"

    agreement.check(path, claims, lines, explain, offset, faults, wording, from_zero=from_zero)
    wholes = [edits for edits in understood if isinstance(edits, str)]
    like = sum(_is_like(sequence, wild_type) for sequence in wholes)
    if like < agreement.LEAST_SHARE * len(wholes):
        raise UserError(
            f"Only {like} of {len(wholes)} sequences of {path} are like the wild type, so nothing"
            f" is scored: they are of other proteins. Check {wording.table} and"
            f" {wording.wild_type}."
        )


def _is_like(sequence: str, wild_type: str) -> bool:
    try:
        notation.applied(sequence, wild_type)
    except Problem as problem:
        return problem.reason != "disagrees"
    return True


def _faulty(path: Path, faults: Sequence[Fault], wording: Wording) -> str:
    first, more = faults[0], ""
    if len(faults) > 1:
        kinds = collections.Counter(fault.reason for fault in faults)
        named = ", ".join(f"{kind}: {count}" for kind, count in kinds.most_common())
        more = f" {len(faults)} rows cannot be scored ({named})."
    return f"{path}, row {first.line} {first.message}.{more} Mend or remove them{wording.skip}."


def _tell(rows: Sequence[Sequence[str]], place: int, mutations: Sequence[Variant | None]) -> None:
    """Says what in the table is scored without being a variant of its own."""
    same = [i for i, variant in enumerate(mutations) if variant == []]
    if same:
        empty = sum(not rows[i][place].strip() for i in same)
        log.info(
            "rows of the wild type or synonymous: %d (score 0)%s",
            len(same),
            f", {empty} of them because the cell is empty" if empty else "",
        )
    there = [str(variant) for variant in mutations if variant]
    if repeats := len(there) - len(set(there)):
        log.info("rows that repeat a variant of another row: %d; each has its score", repeats)


def _targets(
    path: Path, cells: Sequence[str], name: str, asked: bool, wording: Wording
) -> np.ndarray:
    """Measured values of the rows, NaN where there is none."""
    values = measured.numbers(cells)
    if not np.isfinite(values).any():
        example = next((cell for cell in cells if cell.strip()), "")
        raise UserError(
            f"The column '{name}' ({wording.target}) of {path} holds no number"
            f" (its first text is '{example}'). Name the one with the measured values."
        )
    measured.report_missing(name, cells, values)
    return values


def _place(path: Path, columns: Sequence[str], name: str | None, option: str) -> int:
    if name not in columns:
        raise UserError(
            f"{path} has no column '{name}' ({option}).{did_you_mean(name or '', columns)} There"
            f" are: {', '.join(c or '(no name)' for c in columns[:30])}."
        )
    if columns.count(name) > 1:
        raise UserError(
            f"{path} has {columns.count(name)} columns '{name}' ({option}). Rename all but one: a"
            " variant of several substitutions is one cell, such as K2R:Y5F."
        )
    return columns.index(name)

"""Measured effects of mutations against a model that never saw a measurement, BLOSUM62, and
published methods.
"""

import csv
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from phenomjax.data import store
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, RARE
from phenomjax.inference.variants import likelihood
from phenomjax.inference.variants import table as variants_table
from phenomjax.inference.variants import wild_type as wild_types
from phenomjax.inference.variants.notation import Mutation
from phenomjax.probes import metrics
from phenomjax.probes.methods import blosum
from phenomjax.probes.reports import results
from phenomjax.probes.reports.details import MutationMap
from phenomjax.probes.suites.dataset import Dataset, Labels
from phenomjax.probes.suites.suite import VALUE, Mutations
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.files import listing
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")
ALL = "all variants"
# Columns of ProteinGym's table, and what the report calls them. Single-sequence models near ours in
# kind or size, and one alignment.
PROTEINGYM = {
    "Unirep": "UniRep",
    "ESM2 (8M)": "ESM2 (8M)",
    "RITA S": "RITA S",
    "ESM-1b": "ESM-1b",
    "Site-Independent": "site-independent, from an alignment",
}
PROTEINGYM_SOURCE = (
    "ProteinGym's table of zero-shot Spearman correlations by assay (Notin et al. 2023), row {}"
)
ESM1V = ("UniRep", "TAPE", "ProtBERT-BFD", "ESM-1b", "ESM-1v (zero shot)")
ESM1V_SOURCE = (
    "table of absolute Spearman correlations of the ESM-1v paper (Meier et al. 2021), protein {}"
)
WORDING = variants_table.Wording(
    table="path",
    wild_type="wild_type",
    column="mutant",
    target="target",
    which="",
    offset="offset={}",
    by_row="mend the table",
    skip="",
    skip_too="",
)


def run(
    name: str,
    entry: Mutations,
    model: SequenceModel,
    data: Path,
    draws: int,
    method: str = "model",
    twin: bool = False,
) -> tuple[list[results.Row], MutationMap]:
    """Spearman's correlation of a model's zero-shot scores with what was measured.

    Args:
      name: of the task.
      entry: of the suite.
      model: loaded with dtype "float32", of proteins.
      data: folder of the suite's files.
      draws: of the bootstrap over variants.
      method: short name of the model.
      twin: it is the random-weights twin of that model.

    Returns:
      Rows of results, and the map of single substitutions.

    Raises:
      UserError: no such file, column or wild type, or a variant that does not fit it.
    """
    wild_type, variants, measured, split = _read(name, entry, data)
    # Variants are checked against the letters as they are; the model reads rare ones as its banks
    # had them.
    known = (
        wild_type
        if model.task.rare == "keep"
        else wild_type.translate(str.maketrans(RARE, "X" * len(RARE)))
    )
    scores = likelihood.variant_scores(model, known, variants).sum(1)
    row = _row(entry, split, measured, scores, draws)
    label = results.twin_row if twin else results.model_row
    rows = [label(row, name, method, results.ZERO_SHOT, str(model.path))]
    return rows, _map(wild_type, entry.offset, variants, measured, scores)


def baseline_rows(name: str, entry: Mutations, data: Path, draws: int) -> list[results.Row]:
    """Rows of BLOSUM62: the sum over mutations of the score of new for old. Stands on no model."""
    wild_type, variants, measured, split = _read(name, entry, data)
    scores = np.array(
        [sum(blosum.score(wild_type[place], new) for place, new in v) for v in variants], float
    )
    return [results.baseline_row(_row(entry, split, measured, scores, draws), name, "blosum62")]


def published_rows(name: str, entry: Mutations, data: Path) -> list[results.Row]:
    """Rows of what `entry.published` says.

    A table is that of ProteinGym (columns "DMS ID" and one a method) or that of the ESM-1v paper
    (protein_name, prediction_name, rho).

    Raises:
      UserError: no such table, row or column.
    """
    _, _, measured, split = _read(name, entry, data)
    # method, rho, source, variants if they are known
    found: list[tuple[str, float, str, int | None]] = []
    if isinstance(entry.published, dict):
        found = [(key, value, "given in the suite", None) for key, value in entry.published.items()]
    else:
        texts = [entry.published] if isinstance(entry.published, str) else entry.published
        for text in texts:
            found += _published(name, text, data)
    rows = []
    for method, rho, source, count in found:
        if count is not None and count != len(measured):
            source += f"; of other variants than here: {count:,}"
        elif split != ALL:
            source += "; of all variants"
        row = results.published_row(
            name, entry.target, split, "spearman", method, rho, source, count=count
        )
        rows.append(row)
    return rows


def _row(
    entry: Mutations,
    split: str,
    measured: Float[np.ndarray, " variants"],
    scores: Float[np.ndarray, " variants"],
    draws: int,
) -> metrics.Measured:
    """Spearman's correlation with its interval over variants."""
    names = [str(i) for i in range(len(measured))]
    labels = {entry.target: Labels(VALUE, (), measured, "spearman")}
    data = Dataset("", "protein", names, names, labels, np.full(len(names), split), {}, "")
    return next(
        r
        for r in metrics.evaluate(data, [{entry.target: scores}], draws)
        if r["metric"] == "spearman"
    )


def _map(
    wild_type: str,
    offset: int,
    variants: Sequence[Sequence[Mutation]],
    measured: Float[np.ndarray, " variants"],
    scores: Float[np.ndarray, " variants"],
) -> MutationMap:
    maps = np.full((2, len(AMINO_ACIDS), len(wild_type)), np.nan)
    for mutations, *pair in zip(variants, measured, scores, strict=True):
        if len(mutations) == 1:
            ((place, letter),) = mutations
            maps[:, AMINO_ACIDS.index(letter), place] = pair
    return MutationMap(wild_type, offset, *maps)


def _read(
    name: str, entry: Mutations, data: Path
) -> tuple[str, list[list[Mutation]], Float[np.ndarray, " variants"], str]:
    """Wild type, measured variants, their values, and what the rows are called."""
    wild_type = read_wild_type(name, entry.wild_type, data)
    table = variants_table.read(
        data / entry.path, wild_type, entry.mutant, entry.target, entry.offset, wording=WORDING
    )
    assert table.targets is not None
    variants = [variant for variant in table.mutations if isinstance(variant, list)]
    if len(variants) < len(table.rows):
        raise UserError(
            f"{data / entry.path} (task {name}) has variants of another length than the wild type;"
            " the suite's tasks are of substitutions. Score them with `python -m phenomjax.score`."
        )
    rows = np.flatnonzero(np.isfinite(table.targets))
    if len(rows) < 3:
        raise UserError(
            f"{data / entry.path} has {len(rows)} variants with a number in the column"
            f" '{entry.target}' (task {name}); a correlation needs at least 3. Name another column"
            " as the task's target."
        )
    split = ALL
    if 0 < entry.max_variants < len(rows):
        place = table.columns.index(entry.mutant)
        kept = sorted(rows, key=lambda i: hashlib.sha256(table.rows[i][place].encode()).digest())[
            : entry.max_variants
        ]
        rows, split = np.sort(kept), f"{entry.max_variants:,} of {len(rows):,} variants"
    return wild_type, [variants[i] for i in rows], table.targets[rows], split


def read_wild_type(name: str, text: str, data: Path) -> str:
    """The wild type that an entry names.

    Args:
      name: of the task.
      text: the sequence, "TABLE.csv:NAME" (column target_seq of the row whose DMS_id is NAME), or a
        FASTA file.
      data: folder of the suite's files.

    Raises:
      UserError: none of these.
    """
    table, _, row = text.rpartition(":")
    if table.endswith((".csv", ".tsv")):
        rows = _table(name, data / table, ("DMS_id", "target_seq"), "wild_type")
        return _find(name, data / table, rows, "DMS_id", row)["target_seq"]
    if text and set(text) <= set(AMINO_ACIDS + RARE + "X"):
        return text
    if not (data / text).is_file():
        raise UserError(
            f"The wild type of the task {name}, '{text}', is no protein sequence in capital"
            f" letters, no file TABLE.csv:NAME and no FASTA file in {data}. There:"
            f" {listing(data) if data.is_dir() else 'no such folder'}."
        )
    return wild_types.read(data / text, "keep", WORDING)


def _table(name: str, path: Path, columns: tuple[str, ...], what: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(
            f"There is no file {path}, the {what} of the task {name}.{store.beside(path)}"
        )
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    there = list(rows[0]) if rows else []
    for column in columns:
        if column not in there:
            raise UserError(
                f"{path}, the {what} of the task {name}, has no column"
                f" '{column}'.{did_you_mean(column, there)} There are:"
                f" {', '.join(c or '(no name)' for c in there[:12])}."
            )
    return rows


def _find(
    name: str, path: Path, rows: list[dict[str, str]], column: str, wanted: str
) -> dict[str, str]:
    found = next((row for row in rows if row[column] == wanted), None)
    if found is None:
        known = [row[column] for row in rows]
        raise UserError(
            f"{path} (task {name}) has no row whose {column} is"
            f" '{wanted}'.{did_you_mean(wanted, known)} It has {len(rows)} rows:"
            f" {', '.join(known[:4])}, …"
        )
    return found


def _published(name: str, text: str, data: Path) -> list[tuple[str, float, str, int | None]]:
    table, _, wanted = text.rpartition(":")
    path = data / table
    rows = _table(name, path, (), "table of published numbers")
    if rows and "prediction_name" in rows[0]:
        _find(name, path, rows, "protein_name", wanted)
        rho = {
            row["prediction_name"]: float(row["rho"])
            for row in rows
            if row["protein_name"] == wanted
        }
        return [
            (f"{m} (ESM-1v paper)", rho[m], ESM1V_SOURCE.format(wanted), None)
            for m in ESM1V
            if m in rho
        ]
    rows = _table(name, path, ("DMS ID", "Number of Mutants"), "table of published numbers")
    row = _find(name, path, rows, "DMS ID", wanted)
    count = int(float(row["Number of Mutants"]))
    return [
        (f"{short} (ProteinGym)", float(row[column]), PROTEINGYM_SOURCE.format(wanted), count)
        for column, short in PROTEINGYM.items()
        if row.get(column)
    ]

"""Predicts effects of mutations with a trained language model, without having seen a measurement.

python -m phenomjax.score --checkpoint runs/txl --wild_type wt.fasta --scan --out scan.csv
python -m phenomjax.score --checkpoint runs/txl --wild_type wt.fasta --mutants mutants.csv
  --target_column fitness --out scores.csv

A variant is A12G or A12G:K34R (any separator), HGVS as in MaveDB (p.Ala12Gly, p.[…;…], =, del, ins,
dup, delins), or a whole mutated sequence (ProteinGym, FLIP). The table is CSV, TSV, Parquet or
.xlsx as published: compression, encoding, separator and decimal commas are told by its content.

Scores are differences of log-likelihood to the wild type in nats; higher is more like a natural
protein. Transformer-XL: of the whole sequence. ELMo: the sum of both directions, which are given
too. XLNet: of each mutated residue, hidden alone in the wild type (masked marginals), summed. Where
a variant of the table has another length, all of them are scored as whole sequences, XLNet by
pseudo-log-likelihood; beside the difference of the sums then stands that of the means by residue
(phenomjax/inference/variants/whole.py names the sources).

Rows that are no variant of the wild type are an error, or with --skip_invalid stay without a score
and are listed in OUT.invalid.csv. If fewer than half of the rows agree with the wild type, or
nearly all would at another --offset, nothing is scored. Exit codes: 0 done; 1 done, but rows were
skipped, or the correlation that was asked for cannot be computed; 2 a mistake in the arguments or
the input.
"""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar, cast

import numpy as np
from jaxtyping import Float
from tyro.conf import arg

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, RARE
from phenomjax.inference.options import Checkpoint, check_numbers_and_folder
from phenomjax.inference.variants import agreement, likelihood, measured, whole
from phenomjax.inference.variants import table as variants_table
from phenomjax.inference.variants import wild_type as wild_types
from phenomjax.inference.variants.notation import Mutation, Variant
from phenomjax.inference.variants.table import Mutants
from phenomjax.system import ending, files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError, exit_on_user_error
from phenomjax.system.log import counted
from phenomjax.system.options import run_command
from phenomjax.system.outputs import Overwrite, refuse
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")
Table = Annotated[Path, arg(metavar="CSV")]
Column = Annotated[str, arg(metavar="NAME")]
Count = Annotated[int, arg(metavar="N")]


@dataclass(frozen=True, kw_only=True)
class Options(Overwrite):
    """Of `python -m phenomjax.score`."""

    GROUPS: ClassVar[dict[str, str]] = {
        "mutant_column": "table",
        "batch_tokens": "machine",
    }

    checkpoint: Checkpoint
    """workdir of a run (its newest checkpoint), or one of its checkpoints/STEP folders"""
    wild_type: Annotated[Path, arg(metavar="FASTA")]
    """a file with one protein: FASTA, or a table with columns of ids and sequences"""
    wild_type_id: Annotated[str | None, arg(metavar="ID")] = None
    """which of several records of `wild_type` it is"""
    wild_type_column: Annotated[str | None, arg(metavar="NAME")] = None
    """of a table as `wild_type`: the column with the sequences (None: found by its name, such as
    sequence, target_seq, and told)"""
    mutants: Annotated[Path | None, arg(metavar="CSV")] = None
    """a table with variants such as A12G, A12G:K34R, p.Ala12Gly, or whole mutated sequences"""
    scan: bool = False
    """all 19 substitutions of every position; draws a heat map beside the table"""
    out: Table
    """the table to write: the columns of that of the mutants, and the scores"""
    mutant_column: Column = ""
    """with the variants; empty or WT is the wild type; nothing: found by its name (mutant, variant,
    hgvs_pro, mutated_sequence, …) and told"""
    target_column: Column = ""
    """with measured effects: prints Spearman's correlation with them; nothing: found where it is
    unmistakable (DMS_score, fitness, score, target, …) and told"""
    score_column: Column = ""
    """of the scores in `out`; nothing: score, or model_score where the table has a score already"""
    offset: Count = 0
    """the first residue of the wild type is position 1 + N in the table"""
    offset_column: Column = ""
    """a column with such an offset for each row"""
    skip_invalid: bool = False
    """leave rows that do not fit the wild type without a score, instead of ending; they are listed
    in OUT.invalid.csv"""
    batch_tokens: Count = 0
    """of a batch, padding included; less if memory runs out; 0: 16384, 2048 on a CPU"""
    segment_len: Count = 0
    """longer proteins are read by segments of N tokens with the model's memory or states; 0: as in
    the run's evaluation; ELMo: 512; XLNet reads 1024 tokens around each residue"""


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and scores; returns the exit code."""
    return run_command(Options, run, "python -m phenomjax.score", __doc__ or "", argv) or EXIT_DONE


def run(options: Options) -> int:
    """Scores; returns the exit code.

    Raises:
      UserError: a mistake in the options or the input.
    """
    _check(options)
    model = opening.load_sequences(options.checkpoint, "float32")  # differences of sums
    if model.task.words.name != "protein":
        raise UserError(
            f"`checkpoint` {options.checkpoint} reads {model.task.words.name}, and mutations are of"
            " proteins. Give a model of proteins."
        )
    # letters are compared as they are written; the model reads rare ones as its banks had them
    rare = "reject" if model.task.rare == "reject" else "keep"
    wild_type = wild_types.read(
        options.wild_type, rare, name=options.wild_type_id, column=options.wild_type_column
    )
    table = _table(options, wild_type)
    name = _score_name(options, table)
    scored = np.flatnonzero([m is not None for m in table.mutations])
    variants = [table.mutations[i] or [] for i in scored]
    if not any(variants):
        raise UserError(
            f"No row of {options.mutants} is a variant of the wild type {options.wild_type} that"
            f" can be scored (rows of the wild type itself: {len(scored)}, rows that do not fit:"
            f" {len(table.faults)}). Check both, and `offset`.{_first_fault(table)}"
        )
    known, read = wild_type, variants
    if model.task.rare != "keep":
        known, read = without_rare(wild_type), [without_rare(variant) for variant in variants]
    columns = _scores(options, model, known, read, name)
    _write(options.out, table, scored, columns)
    sums = columns[name]
    done = _correlate(options, table, scored, columns)
    if options.scan:
        draw(options.out.with_suffix(".png"), wild_type, variants, sums, options.offset)
    skipped = len(table.rows) - len(scored)
    if skipped:
        log.warning(
            "%d of %d rows have no score; they are listed in %s",
            skipped,
            len(table.rows),
            _invalid(options.out),
        )
    tell_next(options, name)
    return EXIT_DONE if done and not skipped else EXIT_FAILED


def tell_next(options: Options, column: str) -> None:
    """What can be done next, with the same wild type.

    Args:
      options: of the command.
      column: of the scores.
    """
    said = {
        name: value
        for name in ("wild_type", "wild_type_id", "wild_type_column", "offset")
        if (value := getattr(options, name))
    }
    words = [word for name, value in said.items() for word in (f"--{name}", value)]
    places = " {}" * len(words)
    if options.scan:
        ending.then(
            "set another model beside it",
            f"python -m phenomjax.score --checkpoint runs/other{places} --mutants {{}}"
            " --target_column {} --score_column other --out both.csv",
            *words,
            options.out,
            column,
        )
    else:
        ending.then(
            "score all substitutions",
            f"python -m phenomjax.score --checkpoint {{}}{places} --scan --out scan.csv",
            options.checkpoint,
            *words,
        )


def _first_fault(table: Mutants) -> str:
    return f" Row {(f := table.faults[0]).line} {f.message}." if table.faults else ""


def _check(options: Options) -> None:
    """Raises UserError for options that cannot be honoured, before anything is loaded."""
    check_numbers_and_folder(options, options.out, batch_tokens=0, segment_len=0)
    if options.out.suffix not in (".csv", ".tsv"):
        raise UserError(
            f"`out` {options.out} must end in .csv (or .tsv): scores are written as a table."
        )
    for source in (options.mutants, options.wild_type):
        if source and options.out.exists() and source.exists() and options.out.samefile(source):
            raise UserError(f"`out` {options.out} is what is read: give another name.")
    if abs(options.offset) > agreement.FARTHEST:
        raise UserError(f"`offset` {options.offset} is beyond the end of any protein.")
    if options.scan:
        refuse(options.out.with_suffix(".png"), options.overwrite)
    if options.scan == (options.mutants is not None):
        raise UserError(
            "One of `mutants` CSV, a table of variants, and `scan`, all substitutions, is wanted."
        )
    for name in ("target_column", "offset_column", "mutant_column", "skip_invalid"):
        if options.scan and getattr(options, name):
            raise UserError(
                f"`{name}` is of a table; `scan` has none. Leave it out, or give `mutants`."
            )


def _table(options: Options, wild_type: str) -> Mutants:
    """The variants to score.

    Raises:
      UserError: the table cannot be read, or has another row of the wild type.
    """
    if options.mutants is None:
        return variants_table.scan(wild_type, options.offset)
    return variants_table.read(
        options.mutants,
        wild_type,
        options.mutant_column,
        options.target_column,
        options.offset,
        options.offset_column or None,
        options.skip_invalid,
    )


def _score_name(options: Options, table: Mutants) -> str:
    """The column that the scores get.

    Raises:
      UserError: the table has it already.
    """
    taken = options.score_column or "score"
    if taken not in table.columns:
        return taken
    if not options.score_column and "model_score" not in table.columns:
        log.info("%s has a column 'score' already: ours is 'model_score'", options.mutants)
        return "model_score"
    raise UserError(
        f"{options.mutants} has a column '{taken}' already, and `score_column` is what the model's"
        " scores are to be called: give it another name, so that nothing is overwritten. If"
        f" '{taken}' holds the measured values, say so with `target_column` {taken}."
    )


VariantT = TypeVar("VariantT", str, Variant)


def without_rare(variant: VariantT) -> VariantT:
    """A variant or sequence with its rare letters as X; substitutions have none."""
    if isinstance(variant, str):
        return variant.translate(str.maketrans(RARE, "X" * len(RARE)))
    return variant


def _scores(
    options: Options,
    model: SequenceModel,
    wild_type: str,
    variants: Sequence[Variant],
    name: str,
) -> dict[str, Float[np.ndarray, " variants"]]:
    """Columns of scores of the variants: their sum first, then its parts."""
    size = options.segment_len, options.batch_tokens
    lengths = [variant for variant in variants if isinstance(variant, str)]
    masked = model.task.scoring == "masked"
    if not lengths:
        parts = likelihood.variant_scores(model, wild_type, variants, *size)
        columns = {name: parts.sum(1)}
    else:
        log.info(
            "%d variants have another length than the wild type: all are scored as whole"
            " sequences, and '%s_per_residue' is their mean by residue%s",
            len(lengths),
            name,
            # masked marginals take one prediction a position, however many variants there are
            "; a table without them is scored much faster" if masked else "",
        )
        parts, means = whole.scores(model, wild_type, variants, *size)
        columns = {name: parts.sum(1), f"{name}_per_residue": means.sum(1)}
    if parts.shape[1] == 2:
        columns |= {f"{name}_forward": parts[:, 0], f"{name}_backward": parts[:, 1]}
    return columns


def _write(
    path: Path,
    table: Mutants,
    scored: np.ndarray,
    scores: Mapping[str, Float[np.ndarray, " variants"]],
) -> None:
    """Writes the table with its scores, and the list of rows that have none."""
    values = np.stack(list(scores.values()), 1)
    texts = {int(i): [f"{x:.6g}" for x in row] for i, row in zip(scored, values, strict=True)}
    rows = [[*row, *texts.get(i, [""] * len(scores))] for i, row in enumerate(table.rows)]
    _write_rows(path, [[*table.columns, *scores], *rows])
    invalid = _invalid(path)
    files.remove(invalid)  # of an earlier run
    if table.faults:
        found = [[str(f.line), f.text, f.reason, f.message] for f in table.faults]
        _write_rows(invalid, [["row", "variant", "reason", "detail"], *found])
    sums = values[:, 0]
    ending.wrote(
        path,
        f"{counted(len(scored), 'score')}, mean {sums.mean():.3f}, range {sums.min():.3f} to"
        f" {sums.max():.3f} nats",
    )
    ending.note(scores=len(scored), without_score=len(table.rows) - len(scored))


def _write_rows(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    separator = "\t" if path.suffix == ".tsv" else ","
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(rows)
    files.write_text(path, text.getvalue())


def _invalid(out: Path) -> Path:
    """The list of rows without a score."""
    return out.with_name(f"{out.stem}.invalid{out.suffix}")


def _correlate(
    options: Options,
    table: Mutants,
    scored: np.ndarray,
    columns: Mapping[str, Float[np.ndarray, " variants"]],
) -> bool:
    """Prints correlations with what was measured; whether all that was asked for could be."""
    if table.targets is None:
        return True
    found = []
    for name, scores in columns.items():
        if name.endswith(("_forward", "_backward")):
            continue
        label = " by residue" if name.endswith("_per_residue") else ""
        found.append(measured.correlate(table.target, table.targets[scored], scores, label))
        ending.note(**{f"spearman_{name}": found[-1]})
    return bool(np.isfinite(found).all()) or not options.target_column


def draw(
    path: Path,
    wild_type: str,
    variants: Sequence[Variant],
    scores: np.ndarray,
    offset: int,
) -> None:
    """The scores of a scan as a heat map: amino acids by position."""
    from phenomjax.figures.sequences import mutation_scan  # here, because it imports matplotlib

    effects = np.full((len(AMINO_ACIDS), len(wild_type)), np.nan)
    for variant, score in zip(variants, scores, strict=True):
        ((place, letter),) = cast(list[Mutation], variant)
        effects[AMINO_ACIDS.index(letter), place] = score
    files.save_figure(mutation_scan(effects, wild_type, AMINO_ACIDS, offset), path, dpi=120)
    ending.wrote(path)


if __name__ == "__main__":
    exit_on_user_error(main)

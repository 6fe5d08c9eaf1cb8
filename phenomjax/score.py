"""Predicts effects of mutations with a trained language model, without having seen a measurement.

python -m phenomjax.score --checkpoint runs/txl --wild_type wt.fasta --scan --out scan.csv
python -m phenomjax.score --checkpoint runs/txl --wild_type wt.fasta --mutants mutants.csv
  --target_column fitness --out scores.csv

Scores are differences of log-likelihood to the wild type in nats; higher is more like a natural
protein. Transformer-XL: of the whole sequence. ELMo: the sum of both directions, which are given
too. XLNet: of each mutated residue, hidden alone in the wild type (masked marginals), summed. Exit
codes: 0 done; 1 done, but rows were skipped; 2 a mistake in the arguments or the input.
"""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float
from tyro.conf import arg

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.inference.options import Checkpoint, check_numbers_and_folder
from phenomjax.inference.variants import likelihood
from phenomjax.inference.variants import table as variants_table
from phenomjax.inference.variants.table import Mutants, Mutation
from phenomjax.system import files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError, exit_on_user_error
from phenomjax.system.options import run_command
from phenomjax.trained import opening

log = logging.getLogger("phenomjax")
Table = Annotated[Path, arg(metavar="CSV")]
Column = Annotated[str, arg(metavar="NAME")]
Count = Annotated[int, arg(metavar="N")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of `python -m phenomjax.score`."""

    checkpoint: Checkpoint
    """workdir of a run (its newest checkpoint), or one of its checkpoints/STEP folders"""
    wild_type: Annotated[Path, arg(metavar="FASTA")]
    """a file with one protein"""
    mutants: Annotated[Path | None, arg(metavar="CSV")] = None
    """a table (CSV or TSV) with variants such as A12G, or A12G:K34R for several at once"""
    scan: bool = False
    """all 19 substitutions of every position; draws a heat map beside the table"""
    out: Table
    """the table to write: the columns of that of the mutants, and `score`"""
    mutant_column: Column = "mutant"
    """with the variants; empty or WT is the wild type"""
    target_column: Column = ""
    """with measured effects: prints Spearman's correlation with them"""
    offset: Count = 0
    """the first residue of the wild type is position 1 + N in the table"""
    offset_column: Column = ""
    """a column with such an offset for each row"""
    skip_invalid: bool = False
    """leave rows that do not fit the wild type without a score, instead of ending"""
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
    wild_type = variants_table.read_wild_type(options.wild_type, model.task.rare)
    table = _table(options, wild_type)
    scored = np.flatnonzero([m is not None for m in table.mutations])
    if not len(scored):
        raise UserError(
            f"No row of {options.mutants} fits the wild type {options.wild_type}. Check both, and"
            " `offset`."
        )
    variants = [table.mutations[i] or [] for i in scored]
    scores = likelihood.variant_scores(
        model, wild_type, variants, options.segment_len, options.batch_tokens
    )
    sums = _write(options.out, table, scored, scores)
    if table.targets is not None:
        report_correlation(table.targets[scored], sums, options.target_column)
    if options.scan:
        draw(options.out.with_suffix(".png"), wild_type, variants, sums, options.offset)
    skipped = len(table.rows) - len(scored)
    if skipped:
        log.warning("%d rows do not fit the wild type and have no score", skipped)
    return EXIT_FAILED if skipped else EXIT_DONE


def _check(options: Options) -> None:
    """Raises UserError for options that cannot be honoured, before anything is loaded."""
    check_numbers_and_folder(options, options.out, batch_tokens=0, segment_len=0)
    if options.out.suffix not in (".csv", ".tsv"):
        raise UserError(
            f"`out` {options.out} must end in .csv (or .tsv): scores are written as a table."
        )
    if options.scan == (options.mutants is not None):
        raise UserError(
            "One of `mutants` CSV, a table of variants, and `scan`, all substitutions, is wanted."
        )
    if options.scan and (options.target_column or options.offset_column):
        raise UserError(
            "`target_column` and `offset_column` are of a table; `scan` has none. Leave them"
            " out, or give `mutants`."
        )


def _table(options: Options, wild_type: str) -> Mutants:
    """The variants to score.

    Raises:
      UserError: the table cannot be read, or has scores already.
    """
    if options.mutants is None:
        return variants_table.scan(wild_type, options.offset)
    table = variants_table.read(
        options.mutants,
        wild_type,
        options.mutant_column,
        options.target_column or None,
        options.offset,
        options.offset_column or None,
        options.skip_invalid,
    )
    if "score" in table.columns:
        raise UserError(
            f"{options.mutants} has a column 'score' already. Rename it, so that nothing is"
            " overwritten."
        )
    return table


def _write(
    path: Path,
    table: Mutants,
    scored: np.ndarray,
    scores: Float[np.ndarray, "variants directions"],
) -> Float[np.ndarray, " variants"]:
    """Writes the table with its scores, by direction where there are two; returns the sums."""
    names, columns = ["score"], scores.sum(1, keepdims=True)
    if scores.shape[1] == 2:
        names += ["score_forward", "score_backward"]
        columns = np.concatenate([columns, scores], 1)
    texts = {int(i): [f"{x:.6g}" for x in row] for i, row in zip(scored, columns, strict=True)}
    rows = [[*row, *texts.get(i, [""] * len(names))] for i, row in enumerate(table.rows)]
    text = io.StringIO()
    separator = "\t" if path.suffix == ".tsv" else ","
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(
        [[*table.columns, *names], *rows]
    )
    files.write_text(path, text.getvalue())
    sums = columns[:, 0]
    log.info(
        "wrote %s: %d scores, mean %.3f, range %.3f to %.3f nats",
        path,
        len(scored),
        sums.mean(),
        sums.min(),
        sums.max(),
    )
    return sums


def report_correlation(targets: np.ndarray, scores: np.ndarray, name: str) -> float:
    """Prints Spearman's correlation with what was measured, over the rows that have it."""
    there = np.isfinite(targets)
    rho = (
        variants_table.spearman(targets[there], scores[there]) if there.sum() > 1 else float("nan")
    )
    print(f"Spearman correlation with {name}: {rho:.4f} ({there.sum()} variants)")
    return rho


def draw(
    path: Path,
    wild_type: str,
    variants: Sequence[Sequence[Mutation]],
    scores: np.ndarray,
    offset: int,
) -> None:
    """The scores of a scan as a heat map: amino acids by position."""
    from phenomjax.figures.sequences import mutation_scan  # here, because it imports matplotlib

    effects = np.full((len(AMINO_ACIDS), len(wild_type)), np.nan)
    for ((place, letter),), score in zip(variants, scores, strict=True):
        effects[AMINO_ACIDS.index(letter), place] = score
    files.save_figure(mutation_scan(effects, wild_type, AMINO_ACIDS, offset), path, dpi=120)
    log.info("wrote %s", path)


if __name__ == "__main__":
    exit_on_user_error(main)

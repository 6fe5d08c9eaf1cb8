"""Predicts the effect of mutations with a trained language model, without having seen a
measurement.

python -m phenomjax.score --checkpoint runs/prot_txl --wild_type wt.fasta --mutants mutants.csv --out scores.csv [--target_column fitness]
python -m phenomjax.score --checkpoint runs/prot_txl --wild_type wt.fasta --scan --out scan.csv
"""

import argparse
import csv
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.inference.options import check_arguments
from phenomjax.inference.variants import likelihood
from phenomjax.inference.variants import table as variants_table
from phenomjax.system import errors
from phenomjax.system import log as system_log
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from phenomjax.trained import opening

log = logging.getLogger("phenomjax")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m phenomjax.score",
        description=__doc__.split("\n")[0],
        epilog=(
            "Scores are differences of log-likelihood to the wild type in nats; higher is more like"
            " a natural protein. Transformer-XL: of the whole sequence. ELMo: the sum of both"
            " directions, which are given too. XLNet: of each mutated residue, hidden alone in the"
            " wild type (masked marginals), summed. Exit codes: 0 done; 1 done, but rows were"
            " skipped; 2 a mistake in the arguments or the input."
        ),
    )
    add = p.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="workdir of a run (its newest checkpoint), or one of its checkpoints/STEP folders",
    )
    add("--wild_type", type=Path, required=True, metavar="FASTA", help="a file with one protein")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--mutants",
        type=Path,
        metavar="CSV",
        help="a table (CSV or TSV) with variants such as A12G, or A12G:K34R for several at once",
    )
    what.add_argument(
        "--scan",
        action="store_true",
        help="all 19 substitutions of every position; draws a heat map beside --out",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="CSV",
        help="the table to write: the columns of --mutants, and `score`",
    )
    add(
        "--mutant_column",
        default="mutant",
        metavar="NAME",
        help="with the variants; empty or WT is the wild type (default mutant)",
    )
    add(
        "--target_column",
        metavar="NAME",
        help="with measured effects: prints Spearman's correlation with them",
    )
    add(
        "--offset",
        type=int,
        default=0,
        metavar="N",
        help="the first residue of the wild type is position 1 + N in the table (default 0)",
    )
    add("--offset_column", metavar="NAME", help="a column with such an offset for each row")
    add(
        "--skip_invalid",
        action="store_true",
        help="leave rows that do not fit the wild type without a score, instead of ending",
    )
    add(
        "--batch_tokens",
        type=int,
        default=0,
        metavar="N",
        help="of a batch, padding included; less if memory runs out (default 16384, 2048 on a CPU)",
    )
    add(
        "--segment_len",
        type=int,
        default=0,
        metavar="N",
        help=(
            "longer proteins are read by segments of N tokens with the model's memory or states"
            " (default: as in the run's evaluation; ELMo: 512); XLNet reads 1024 tokens around each"
            " residue"
        ),
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and scores."""
    args = parser().parse_args(argv)
    system_log.log_to_stderr()
    return run(args)


def run(args: argparse.Namespace) -> int:
    """Scores; returns the exit code.

    Raises:
      UserError: a mistake in the arguments or the input.
    """
    check_arguments(args, batch_tokens=0, segment_len=0)
    if args.out.suffix not in (".csv", ".tsv"):
        raise UserError(
            f"--out {args.out} must end in .csv (or .tsv): scores are written as a table."
        )
    model = opening.load_sequences(args.checkpoint, "float32")  # differences of sums
    if model.task.words.name != "protein":
        raise UserError(
            f"--checkpoint {args.checkpoint} reads {model.task.words.name}, and mutations are of"
            " proteins. Give a model of proteins."
        )
    wild_type = variants_table.read_wild_type(args.wild_type, model.task.rare)
    if args.scan:
        if args.target_column or args.offset_column:
            raise UserError(
                "--target_column and --offset_column are of a table; --scan has none. Leave them"
                " out, or give --mutants."
            )
        table = variants_table.scan(wild_type, args.offset)
    else:
        table = variants_table.read(
            args.mutants,
            wild_type,
            args.mutant_column,
            args.target_column,
            args.offset,
            args.offset_column,
            args.skip_invalid,
        )
    if "score" in table.columns:
        raise UserError(
            f"{args.mutants} has a column 'score' already. Rename it, so that nothing is"
            " overwritten."
        )
    scored = np.flatnonzero([m is not None for m in table.mutations])
    if not len(scored):
        raise UserError(
            f"No row of {args.mutants} fits the wild type {args.wild_type}. Check both, and"
            " --offset."
        )
    variants = [table.mutations[i] or [] for i in scored]
    scores = likelihood.variant_scores(
        model, wild_type, variants, args.segment_len, args.batch_tokens
    )
    names = ["score", *(["score_forward", "score_backward"] if scores.shape[1] == 2 else [])]
    columns = np.concatenate(
        [scores.sum(1, keepdims=True), *([scores] if scores.shape[1] == 2 else [])], 1
    )
    texts = {int(i): [f"{x:.6g}" for x in row] for i, row in zip(scored, columns, strict=True)}
    write(
        args.out,
        [*table.columns, *names],
        [[*row, *texts.get(i, [""] * len(names))] for i, row in enumerate(table.rows)],
    )
    log.info(
        "wrote %s: %d scores, mean %.3f, range %.3f to %.3f nats",
        args.out,
        len(scored),
        columns[:, 0].mean(),
        columns[:, 0].min(),
        columns[:, 0].max(),
    )
    if table.targets is not None:
        report_correlation(table.targets[scored], columns[:, 0], args.target_column)
    if args.scan:
        draw(args.out.with_suffix(".png"), wild_type, variants, columns[:, 0], args.offset)
    skipped = len(table.rows) - len(scored)
    if skipped:
        log.warning("%d rows do not fit the wild type and have no score", skipped)
    return EXIT_FAILED if skipped else EXIT_DONE


def report_correlation(targets: np.ndarray, scores: np.ndarray, name: str) -> float:
    """Prints Spearman's correlation with what was measured, over the rows that have it."""
    there = np.isfinite(targets)
    rho = (
        variants_table.spearman(targets[there], scores[there]) if there.sum() > 1 else float("nan")
    )
    print(f"Spearman correlation with {name}: {rho:.4f} ({there.sum()} variants)")
    return rho


def write(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    """Writes a table, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(
            file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n"
        ).writerows([columns, *rows])
    os.replace(partial, path)


def draw(path: Path, wild_type: str, variants: Sequence, scores: np.ndarray, offset: int) -> None:
    """The scores of a scan as a heat map: amino acids by position."""
    from phenomjax.figures.sequences import mutation_scan  # here, because it imports matplotlib

    effects = np.full((len(AMINO_ACIDS), len(wild_type)), np.nan)
    for ((place, letter),), score in zip(variants, scores, strict=True):
        effects[AMINO_ACIDS.index(letter), place] = score
    mutation_scan(effects, wild_type, AMINO_ACIDS, offset).savefig(path, dpi=120)
    log.info("wrote %s", path)


if __name__ == "__main__":
    errors.exit_on_user_error(lambda: main(sys.argv[1:]))

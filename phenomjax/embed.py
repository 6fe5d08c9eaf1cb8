"""Embeds what a trained model reads: the images of banks, or sequences. One command, any number of
processes and hosts for images.

python -m phenomjax.embed --checkpoint runs/phenom --bank plates.zarr --out embeddings.zarr
python -m phenomjax.embed --checkpoint runs/prot_txl --source proteins.fasta.gz --out embeddings.zarr
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from phenomjax.inference.images import command
from phenomjax.inference.sequences import command as sequences_command
from phenomjax.system import errors
from phenomjax.system.errors import UserError
from phenomjax.system.log import log_to_stderr


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m phenomjax.embed",
        description=__doc__.split("\n")[0],
        epilog=(
            "The command can be killed at any time and run again: it goes on where it was."
            " Sequences: equal ones are computed once, and the order of the records changes no"
            " number; other records in the same files may, by rounding. Exit codes: 0 done; 1 done,"
            " but images or records were rejected; 2 a mistake in the arguments or the input; 75"
            " stopped by a signal."
        ),
    )
    add = p.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="workdir of a run (its newest checkpoint), or one of its checkpoints/STEP folders",
    )
    add(
        "--out",
        type=Path,
        help=(
            "what to write. Images: NAME.zarr, or with several banks a folder, in which each gets"
            " BANK.zarr. Sequences: NAME.zarr (array `embeddings` and metadata.parquet, rows in the"
            " order of the files), NAME.h5 (one dataset an id, as bio_embeddings reads; for"
            " biotrainer: phenomjax.probes.biotrainer) or NAME.npz (one array an id)"
        ),
    )
    add(
        "--dtype",
        choices=("float16", "float32"),
        help="of the result (default float16 for images, float32 for sequences)",
    )
    add(
        "--compute_dtype",
        choices=("auto", "float32", "bfloat16"),
        default="",
        help="of the computation (default: as in the run)",
    )
    add(
        "--devices",
        type=int,
        default=0,
        metavar="N",
        help="of this machine, over which a batch is divided (default all)",
    )
    command.add_arguments(p.add_argument_group("images"))
    sequences_command.add_arguments(p.add_argument_group("sequences"))
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and embeds; returns the exit code.

    Raises:
      UserError: a mistake in the arguments or the input.
    """
    p = parser()
    args = p.parse_args(argv)
    log_to_stderr()
    sequences = bool(args.source)
    if sequences and args.bank:
        raise UserError(
            "--bank (images) and --source (sequences) cannot be given together: a model reads one"
            " or the other."
        )
    if not (sequences or args.bank or args.dry_run):
        raise UserError(
            "Nothing to embed is named. Give --bank BANK.zarr for images, or --source FILE for"
            " sequences."
        )
    others = command if sequences else sequences_command
    only = argparse.ArgumentParser()
    others.add_arguments(only.add_argument_group())
    foreign = [
        name
        for name, default in vars(only.parse_args([])).items()
        if getattr(args, name) != default
    ]
    if foreign:
        mine, theirs = ("--source", "--bank") if sequences else ("--bank", "--source")
        raise UserError(f"--{foreign[0]} goes with {theirs}, not with {mine}. Leave it out.")
    if args.out is None and not args.dry_run:
        raise UserError(
            "--out is missing: the name of what to write, for instance --out embeddings.zarr."
        )
    return (sequences_command if sequences else command).run(args)


if __name__ == "__main__":
    errors.exit_on_user_error(lambda: main(sys.argv[1:]))

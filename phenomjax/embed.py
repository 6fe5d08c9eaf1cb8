"""Embeds what a trained model reads: the images of banks, or sequences. One command, any number of
processes and hosts for images.

python -m phenomjax.embed images --checkpoint runs/phenom --bank plates.zarr --out embeddings.zarr
python -m phenomjax.embed sequences --checkpoint runs/txl --source p.fasta.gz --out embeddings.zarr

Without `images` or `sequences`, --bank or --source says which.
"""

import dataclasses
import importlib
import sys
from collections.abc import Sequence

from phenomjax.system.errors import EXIT_DONE, UserError, exit_on_user_error
from phenomjax.system.options import run_chosen

PROGRAM = "python -m phenomjax.embed"
COMMANDS = {
    "images": (
        "phenomjax.inference.images.command",
        "the images of banks: one vector a crop, a site or a well",
    ),
    "sequences": (
        "phenomjax.inference.sequences.command",
        "proteins, molecules or source code: one vector a sequence, or one a residue",
    ),
}
INPUTS = {"images": "--bank", "sequences": "--source"}


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and embeds; returns the exit code.

    Raises:
      UserError: a mistake in the arguments or the input.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        words = [what(words), *words]
    return run_chosen(COMMANDS, PROGRAM, __doc__ or "", words) or EXIT_DONE


def what(words: Sequence[str]) -> str:
    """The command that arguments without one are of.

    Raises:
      UserError: flags of both, or nothing to embed.
    """
    given = {
        word.partition("=")[0].removeprefix("--").replace("-", "_")
        for word in words
        if word.startswith("--")
    }
    named = [name for name, flag in INPUTS.items() if flag.removeprefix("--") in given]
    if len(named) > 1:
        raise UserError(
            "--bank (images) and --source (sequences) cannot be given together: a model reads one"
            " or the other."
        )
    if not named and "dry_run" not in given:
        raise UserError(
            "Nothing to embed is named. Give --bank BANK.zarr for images, or --source FILE for"
            " sequences."
        )
    chosen = named[0] if named else "images"
    other = next(name for name in COMMANDS if name != chosen)
    if foreign := sorted(given & (_flags(other) - _flags(chosen))):
        raise UserError(
            f"--{foreign[0]} goes with {INPUTS[other]}, not with {INPUTS[chosen]}. Leave it out."
        )
    return chosen


def _flags(command: str) -> set[str]:
    module = importlib.import_module(COMMANDS[command][0])
    return {field.name for field in dataclasses.fields(module.Options)}


if __name__ == "__main__":
    exit_on_user_error(main)

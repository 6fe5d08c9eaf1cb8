"""Seals checkpoints that have no digests, for one who trusts them: they were written by an older
version, or copied without them.

python -m phenomjax.checkpoints.seal runs/mae_demo/checkpoints/300

One core hashed 1.2 GiB/s on a busy machine; seconds a GiB: python -m timeit -s "import hashlib; b =
bytes(2**30)" "hashlib.sha256(b)"
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from phenomjax.checkpoints import seal
from phenomjax.system import ending, owners
from phenomjax.system.errors import EXIT_DONE, UserError, exit_on_user_error
from phenomjax.system.options import run_command

PROGRAM = "python -m phenomjax.checkpoints.seal"


@dataclass(frozen=True)
class Options:
    """Of `python -m phenomjax.checkpoints.seal`."""

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STEP …")]
    """WORKDIR/checkpoints/STEP folders"""


def run(options: Options) -> int:
    """Seals the checkpoints that are named.

    Raises:
      UserError: one is no folder, has digests, or is of a run that is going on.
    """
    if not options.checkpoints:
        raise UserError(
            f"No checkpoint is named: {PROGRAM} WORKDIR/checkpoints/STEP (--help says more)."
        )
    for folder in options.checkpoints:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder. Give a WORKDIR/checkpoints/STEP.")
        if not (folder / "params").is_dir():
            raise UserError(
                f"{folder} is no checkpoint: it has no folder params. Give a"
                " WORKDIR/checkpoints/STEP."
            )
        if seal.shares(folder)[0]:
            raise UserError(
                f"{folder} has digests already, and they are not written anew: they say what is"
                " damaged."
            )
        owner = owners.owner_of(folder.absolute().parent.parent)
        if owner and owners.lives(owner):
            raise UserError(
                f"{folder} is of {owner}, which is going on: it seals its checkpoints itself."
            )
        seal.write_share(folder)
        ending.wrote(folder, "SHA-256 of each of its files")
    return EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command line."""
    return run_command(Options, run, PROGRAM, __doc__ or "", argv)


if __name__ == "__main__":
    exit_on_user_error(main)

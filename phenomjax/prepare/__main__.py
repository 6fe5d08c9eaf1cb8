"""Raw files to banks, and a look at what is in a bank.

python -m phenomjax.prepare images --source DIR --layout phenix --out plates.zarr
python -m phenomjax.prepare sequences --source proteins.fasta.gz --out proteins.zarr
"""

import sys
from collections.abc import Sequence

from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.options import run_chosen

COMMANDS = {  # name: (module, what it does)
    "images": (
        "phenomjax.prepare.images.command",
        "raw microscopy files (PNG, TIFF, JPEG 2000, OME-Zarr plates) to an image bank",
    ),
    "sequences": (
        "phenomjax.prepare.sequences.command",
        "proteins (FASTA), molecules (SMILES) or source code to a token bank",
    ),
    "mirror": (
        "phenomjax.prepare.mirror.command",
        "copies folders, banks and files between disks and object stores, verified",
    ),
    "inspect": (
        "phenomjax.prepare.inspect.images",
        "what is in an image bank or a token bank, and whether all of it can be read",
    ),
    "append": ("phenomjax.prepare.append", "a new experiment joins an image bank"),
    "subset": (
        "phenomjax.prepare.subsets.command",
        "a part of banks by a condition, a list or a share of plates: a list that a run reads",
    ),
    "curate": (
        "phenomjax.prepare.curate.command",
        "the images worth training on, by their pixels, their metadata and what models see",
    ),
    "merge": ("phenomjax.prepare.joining.command", "several banks to one"),
    "index": (
        "phenomjax.prepare.index",
        "one file that names thousands of image banks, which a run opens at once",
    ),
    "simulate": (
        "phenomjax.prepare.simulate",
        "a simulated Cell Painting screen, or protein families (--kind proteins), with known truth",
    ),
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Imports the module of the command that was asked for, and runs it."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["simulate"]:  # its flags depend on what is simulated
        from phenomjax.prepare import simulate

        return simulate.main(words[1:])
    return run_chosen(COMMANDS, "python -m phenomjax.prepare", __doc__ or "", words)


if __name__ == "__main__":
    exit_on_user_error(main)

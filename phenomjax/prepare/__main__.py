"""python -m phenomjax.prepare COMMAND: raw files to banks, and a look at what is in a bank."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.log import log_to_stderr

COMMANDS = {
    "images": "raw microscopy files (PNG, TIFF, JPEG 2000, OME-Zarr plates) to an image bank",
    "sequences": "proteins (FASTA), molecules (SMILES) or source code to a token bank",
    "inspect": "what is in an image bank or a token bank, and whether all of it can be read",
    "simulate": "a simulated Cell Painting screen with known truth",
}


MODULES = {
    "images": "images.command",
    "sequences": "sequences.command",
    "inspect": "inspect.images",
    "simulate": "simulate",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Imports the module of the command that was asked for, and runs it."""
    parser = argparse.ArgumentParser(
        prog="python -m phenomjax.prepare", description=__doc__, allow_abbrev=False
    )
    arguments = sys.argv[1:] if argv is None else list(argv)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in arguments if word in COMMANDS), None)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name == chosen:
            module = importlib.import_module(f"phenomjax.prepare.{MODULES[name]}")
            module.add_arguments(command)
    args = parser.parse_args(arguments)
    log_to_stderr()
    return module.run(args)


if __name__ == "__main__":
    exit_on_user_error(main)

"""python -m phenomjax.maps COMMAND: align, aggregate, relate and benchmark profiles, ours or
anyone's (Parquet, CSV, AnnData).
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.log import log_to_stderr

COMMANDS = {  # name: (module, what it does)
    "intensity": (
        "tables.intensity",
        "hand-made intensity features of images, the baseline of every embedding",
    ),
    "align": ("build.align", "remove what differs between batches: PCA and centre-scale, TVN"),
    "aggregate": (
        "build.aggregate",
        "crops to wells to perturbations: mean, median or MAD-weighted",
    ),
    "filter": (
        "build.filters",
        "consistency and magnitude of each perturbation, with permutation p-values and FDR",
    ),
    "relate": (
        "relations.relate",
        "the cosines between all perturbations: nearest neighbours, quantiles, p-values",
    ),
    "query": (
        "relations.query",
        "the nearest neighbours of one gene or compound, similar and opposite",
    ),
    "proximity": (
        "arm_bias.proximity",
        "chromosome-arm proximity bias: score it, correct it, before and after",
    ),
    "benchmark": (
        "benchmark.command",
        "recall of known relationships, consistency, siblings, probe, with intervals",
    ),
    "blocks": (
        "benchmark.blocks",
        "which encoder block separates perturbations best, by a linear probe",
    ),
    "pictures": (
        "views.pictures",
        "heat map of chosen genes, UMAP, recall curves, chromosome-order heat map",
    ),
    "explore": ("views.explore", "one interactive HTML page of the whole map"),
    "demo": ("demo", "a simulated screen from images to an explored map"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Imports the module of the command that was asked for, and runs it."""
    parser = argparse.ArgumentParser(
        prog="python -m phenomjax.maps", description=__doc__, allow_abbrev=False
    )
    arguments = sys.argv[1:] if argv is None else list(argv)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in arguments if word in COMMANDS), None)
    for name, (module_name, text) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen:
            module = importlib.import_module(f"phenomjax.maps.{module_name}")
            command.description = module.__doc__
            module.add_arguments(command)
    args = parser.parse_args(arguments)
    log_to_stderr()
    return module.run(args)


if __name__ == "__main__":
    exit_on_user_error(main)

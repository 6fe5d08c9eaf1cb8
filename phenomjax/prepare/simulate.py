"""`python -m phenomjax.prepare simulate`: writes simulated data with known truth: a Cell Painting
screen, or protein families.
"""

import argparse
import dataclasses
import logging
import re
import time

from phenomjax.data.images import opening
from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.data.simulated.families import FamilyConfig, write_families
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.system.log import duration

log = logging.getLogger("phenomjax")

KINDS = {"cells": SimulationConfig, "proteins": FamilyConfig}
SHORT_FLAGS = {"num_plates": "--plates", "wells_per_plate": "--wells", "sites_per_well": "--sites"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--kind`, `--out` and `--jobs`, and one flag for each field of the kind's configuration."""
    parser.description = (
        "cells: a Cell Painting screen: 6 channels, plates with batch effects, controls, knock-outs"
        " of genes in complexes, compounds at several doses. proteins: families evolved along trees"
        " from random ancestors, with conserved and free positions. The truth is written into"
        " OUT/truth/*.parquet. It can be killed and run again: finished images are kept. The flags"
        " below are those of the kind: see also `simulate --kind proteins --help`."
    )
    parser.add_argument(
        "--kind", choices=KINDS, default="cells", help="what is simulated (default cells)"
    )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--kind", default="cells")
    config = KINDS.get(first.parse_known_args()[0].kind, SimulationConfig)
    parser.add_argument("--out", required=True, help="the bank to write, NAME.zarr")
    if config is SimulationConfig:
        parser.add_argument(
            "--jobs", type=int, default=0, help="parallel processes; 0 = one a core (default)"
        )
    explanations = dict(re.findall(r"^ {6}(\w+): (.+)$", config.__doc__ or "", re.MULTILINE))
    for field in dataclasses.fields(config):
        flag = SHORT_FLAGS.get(field.name, "--" + field.name.replace("_", "-"))
        explanation = f"{explanations.get(field.name, '')} Default {field.default}."
        parser.add_argument(
            flag, dest=field.name, type=type(field.default), default=field.default, help=explanation
        )


def run(args: argparse.Namespace) -> int:
    """Writes the data; returns the exit code."""
    kind, start = KINDS[args.kind], time.monotonic()
    config = kind(**{field.name: getattr(args, field.name) for field in dataclasses.fields(kind)})
    if isinstance(config, FamilyConfig):
        write_families(args.out, config)
        proteins = open_token_bank(args.out)
        what = f"{len(proteins)} proteins, {len(proteins.tokens):,} tokens"
    else:
        write_screen(args.out, config, args.jobs)
        screen = opening.open_bank(args.out)
        size = sum(screen.shard_path(i).stat().st_size for i in range(len(screen))) / 1e6
        what = (
            f"{len(screen)} images of {' x '.join(map(str, screen.shape[1:]))}, {screen.dtype},"
            f" {size:.0f} MB"
        )
    log.info(
        "%s: %s, in %s. Truth: %s/truth/*.parquet. Look at it: python -m phenomjax.prepare"
        " inspect %s",
        args.out,
        what,
        duration(time.monotonic() - start),
        args.out,
        args.out,
    )
    return 0

"""`python -m phenomjax.prepare simulate`: writes a simulated Cell Painting screen with known truth as an image bank."""

import argparse
import dataclasses
import logging
import re
import time

from phenomjax.data import bank
from phenomjax.data.simulate import SimulationConfig, write_screen
from phenomjax.progress import duration

log = logging.getLogger("phenomjax")

SHORT_FLAGS = {"num_plates": "--plates", "wells_per_plate": "--wells", "sites_per_well": "--sites"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one flag for each field of SimulationConfig, and `--out` and `--jobs`."""
    parser.description = (
        "Simulates a Cell Painting screen: 6 channels, plates with batch effects, controls, knock-outs of genes in "
        "complexes, compounds at several doses. The truth is written into OUT/truth/*.parquet. It can be killed and "
        "run again: finished images are kept."
    )
    parser.add_argument("--out", required=True, help="the bank to write, NAME.zarr")
    parser.add_argument("--jobs", type=int, default=0, help="parallel processes; 0 = one a core (default)")
    explanations = dict(re.findall(r"^ {6}(\w+): (.+)$", SimulationConfig.__doc__ or "", re.MULTILINE))
    for field in dataclasses.fields(SimulationConfig):
        flag = SHORT_FLAGS.get(field.name, "--" + field.name.replace("_", "-"))
        explanation = f"{explanations.get(field.name, '')} Default {field.default}."
        parser.add_argument(flag, dest=field.name, type=type(field.default), default=field.default, help=explanation)


def run(args: argparse.Namespace) -> int:
    """Writes the screen; returns the exit code."""
    settings = {field.name: getattr(args, field.name) for field in dataclasses.fields(SimulationConfig)}
    config, start = SimulationConfig(**settings), time.monotonic()
    write_screen(args.out, config, args.jobs)
    screen = bank.open_bank(args.out)
    size = sum(screen.shard_path(i).stat().st_size for i in range(len(screen))) / 1e6
    log.info(
        "%s: %d images of %s, %s, %.0f MB, in %s. Truth: %s/truth/*.parquet. "
        "Look at it: python -m phenomjax.prepare inspect %s",
        args.out, len(screen), " x ".join(map(str, screen.shape[1:])), screen.dtype, size,
        duration(time.monotonic() - start), args.out, args.out,
    )  # fmt: skip
    return 0

"""Simulates data with known truth: images of cells, or protein sequences.

python -m phenomjax.prepare simulate --out screen.zarr
python -m phenomjax.prepare simulate --kind proteins --out families.zarr

--kind cells: a Cell Painting screen: 6 channels, plates with batch effects, controls, knock-outs of
genes in complexes, compounds at several doses. --kind proteins: families evolved along trees from
random ancestors, with conserved and free positions. The truth is written into OUT/truth/*.parquet.
It can be killed and run again: finished images are kept. The flags below are those of the kind: see
also `simulate --kind proteins --help`.
"""

import dataclasses
import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from tyro.conf import arg

from phenomjax.data.images import opening
from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.data.simulated.families import FamilyConfig, write_families
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.log import duration
from phenomjax.system.mistakes import flag_names
from phenomjax.system.options import run_command

KINDS = {"cells": SimulationConfig, "proteins": FamilyConfig}
GROUPS = {
    "num_plates": "plate",
    "num_cell_types": "biology",
    "batch_effect": "artefact",
    "cell_variation": "cell",
}
SHORT_FLAGS = {"num_plates": "plates", "wells_per_plate": "wells", "sites_per_well": "sites"}


def options_of(kind: str) -> type[Any]:
    """The options of a kind: its name, where it goes, and a flag for each field of its
    configuration.
    """
    config = KINDS[kind]
    help_of = dict(
        re.findall(r"^ {6}(\w+): (.+(?:\n {8}.+)*)$", config.__doc__ or "", re.MULTILINE)
    )
    out = Annotated[Path, arg(help="the bank to write, NAME.zarr")]
    what = Annotated[Literal["cells", "proteins"], arg(help="what is simulated")]
    fields: list[Any] = [("out", out), ("kind", what, dataclasses.field(default=kind))]
    if config is SimulationConfig:
        jobs = Annotated[int, arg(help="parallel processes; 0 = one a core")]
        fields.append(("jobs", jobs, dataclasses.field(default=0)))
    for field in dataclasses.fields(config):
        text = " ".join(help_of.get(field.name, "").split())
        flag = arg(name=SHORT_FLAGS.get(field.name, field.name), help=text)
        default = dataclasses.field(default=field.default)
        fields.append((field.name, Annotated[type(field.default), flag], default))
    titles = GROUPS if config is SimulationConfig else {}
    return dataclasses.make_dataclass("Options", fields, frozen=True, namespace={"GROUPS": titles})


def any_options() -> type[Any]:
    """The options of all kinds at once."""
    cells, proteins = map(options_of, KINDS)
    there = get_type_hints(cells, include_extras=True)
    hints = get_type_hints(proteins, include_extras=True)
    more = [
        (field.name, hints[field.name], dataclasses.field(default=field.default))
        for field in dataclasses.fields(proteins)
        if field.name not in there
    ]
    return dataclasses.make_dataclass("Options", more, bases=(cells,), frozen=True)


def main(argv: Sequence[str]) -> int | None:
    """Reads the flags of the kind that they name, and runs it."""
    words = list(argv)
    named = [word.removeprefix("--kind=") for word in words if word.startswith("--kind=")]
    named += [after for word, after in itertools.pairwise(words) if word == "--kind"]
    kind = named[-1] if named and named[-1] in KINDS else "cells"
    prog = "python -m phenomjax.prepare simulate"
    _check_kind(words, kind)
    return run_command(options_of(kind), run, prog, __doc__ or "", words)


def _check_kind(words: Sequence[str], kind: str) -> None:
    """Raises UserError for a flag of another kind."""
    given = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words}
    own = flag_names(options_of(kind)).keys()
    for other in KINDS:
        strange = given & (flag_names(options_of(other)).keys() - own)
        if strange:
            raise UserError(
                f"--{min(strange)} goes with --kind {other}, not with {kind}. Leave it out."
            )


def run(options: Any) -> int:
    """Writes the data; returns the exit code."""
    try:
        return _write(options)
    except UserError as error:
        if options.kind == "proteins":
            raise
        # settings of a configuration have the same names, without a dash
        names = "|".join(field.name for field in dataclasses.fields(SimulationConfig))
        told = re.sub(
            rf"(?<![\w`])({names})(?!\w)",
            lambda match: f"--{SHORT_FLAGS.get(match[1], match[1])}",
            str(error),
        )
        raise UserError(told.removeprefix("Simulated screen: "), error.exit_code) from error


def _write(options: Any) -> int:
    kind, start = KINDS[options.kind], time.monotonic()
    config = kind(
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}
    )
    if isinstance(config, FamilyConfig):
        write_families(options.out, config)
        proteins = open_token_bank(options.out)
        what = f"{len(proteins)} proteins, {len(proteins.tokens):,} tokens"
    else:
        write_screen(options.out, config, options.jobs)
        screen = opening.open_bank(options.out)
        size = sum(screen.shard_path(i).stat().st_size for i in range(len(screen))) / 1e6
        what = (
            f"{len(screen)} images of {' x '.join(map(str, screen.shape[1:]))}, {screen.dtype},"
            f" {size:.0f} MB"
        )
    took = duration(time.monotonic() - start)
    ending.wrote(options.out, f"{what}, in {took}. Truth: {options.out}/truth/*.parquet")
    ending.then("look at it", "python -m phenomjax.prepare inspect {}", options.out)
    return 0

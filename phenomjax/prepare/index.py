"""python -m phenomjax.prepare index: one file that names many image banks, so that a run opens
thousands at once.

Example:
  python -m phenomjax.prepare index banks/*.zarr --out archive.parquet
  python -m phenomjax.main --config configs/mae.py --config.data.banks="('archive.parquet',)" ...
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from phenomjax.data import store
from phenomjax.data.images.archive import write_index
from phenomjax.data.images.opening import open_banks
from phenomjax.prepare import next_steps
from phenomjax.prepare.opening import refuse_twice
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, UserError
from phenomjax.system.log import counted
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")


@dataclass(frozen=True)
class Options(Overwrite):
    """Writes what is known of many image banks into one file, an index, which `data.banks` of a run
    may name.

    A run with an index opens each bank when it first reads an image of it. After images were
    appended to a bank, the index is written again; a run notices an index of before.
    """

    banks: Positional[tuple[Path, ...]]
    """folders NAME.zarr, or indices, whose banks go into the new one"""
    out: Path
    """the index: NAME.parquet"""


def run(options: Options) -> int:
    """Writes the index; returns the exit code."""
    if options.out.suffix != ".parquet":
        raise UserError(f"`out` {options.out}: an index is a Parquet file, NAME.parquet.")
    if store.is_remote(options.out):
        there = store.url(options.out)
        raise UserError(
            f"`out` {there} lies in a store: write the index to a disk, and"
            f" copy it with `python -m phenomjax.prepare mirror NAME.parquet {there}`."
        )
    banks = [bank for found in open_banks(options.banks) for bank in found]
    refuse_twice(banks, "banks")
    for bank in banks:
        bank.check()
    write_index(banks, options.out)
    images = sum(map(len, banks))
    ending.wrote(options.out, f"{counted(len(banks), 'bank')}, {counted(images, 'image')}")
    ending.note(banks=len(banks), images=images)
    next_steps.look(options.out)
    return EXIT_DONE

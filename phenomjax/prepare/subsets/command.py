"""python -m phenomjax.prepare subset: a part of banks, as a list that a run reads, or as a bank of
its own.

A list (OUT.parquet) costs no room: train on it with --config.data.banks="('bank.zarr',)"
--config.data.selection=OUT.parquet; train and validation are divided within it as they are within a
bank. It holds on when `prepare append` makes the bank longer.

python -m phenomjax.prepare subset --bank b.zarr --where 'plate == "P01"' --out P01.parquet
python -m phenomjax.prepare subset --bank b.zarr --where 'gene in ["TP53", "MDM2"] or is_control'
    --out two_genes.parquet
python -m phenomjax.prepare subset --bank a.zarr b.zarr --fraction 0.01 --by plate --out 1p.parquet
python -m phenomjax.prepare subset --bank b.zarr --selection wells.csv --out wells.parquet
python -m phenomjax.prepare subset --bank proteins.zarr --where 'length < 512 and split == "train"'
    --out short.parquet
python -m phenomjax.prepare subset --bank b.zarr --where 'plate == "P01"' --out P01.zarr

Conditions compare columns with values: ==, !=, <, <=, >, >=, in, is null, and, or, not, "text" in
COLUMN, COLUMN.startswith("text"), .endswith, .contains, .matches("regular expression"). A missing
value equals nothing else. `row` counts from 0; sequences have `split` too.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from tyro.conf import arg

from phenomjax import __version__
from phenomjax.data import selections, store
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.rows import Rows
from phenomjax.data.sequences.bank import TokenBank
from phenomjax.engine.options import EngineOptions
from phenomjax.prepare import growing, next_steps, publishing
from phenomjax.prepare.joining import duplicates, images, tokens
from phenomjax.prepare.opening import open_banks, writing
from phenomjax.prepare.subsets import choosing
from phenomjax.prepare.subsets.choosing import Choice, Wanted
from phenomjax.system import ending, files, outputs
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError, check_folder_of
from phenomjax.system.options import unrecorded

log = logging.getLogger("phenomjax")


@dataclass(frozen=True)
class Options(EngineOptions):
    """The banks, what is chosen of them, and what becomes of it."""

    bank: tuple[Path, ...]
    """image banks or token banks, NAME.zarr"""

    out: Path
    """NAME.parquet, a list for --config.data.selection; or NAME.zarr, a bank of its own"""

    where: Annotated[str, arg(metavar="CONDITION")] = ""
    """on the columns of the metadata (below); what is chosen meets it"""

    selection: Annotated[Path | None, arg(metavar="TABLE")] = None
    """a table (CSV, Parquet, …) of what is wanted: rows (column row, counted from 0, and bank where
    there are several), or names (some of experiment, plate, well, site, time; id of sequences); or
    an earlier selection, also one of other banks, whose names are then looked up"""

    fraction: Annotated[float | None, arg(metavar="SHARE")] = None
    """this share of the groups of `by`, chosen by the hash of their names: 0.01 lies within 0.1"""

    by: Annotated[str, arg(metavar="COLUMN")] = ""
    """the groups of `fraction` ('': plates; of sequences each one alone)"""

    seed: int = 0
    """of `fraction`: another seed chooses other groups"""

    images_per_shard: Annotated[int | None, arg(metavar="N")] = None
    """of a bank of images: images in a file (None: as in the first bank)"""

    overwrite: bool = unrecorded(False)
    """replace the list that is at OUT"""


def run(options: Options) -> int:
    """Writes the subset; returns 1 where entries of the list are in no bank."""
    if store.is_remote(options.out):
        return publishing.publish(
            options, options.out, lambda here: run(dataclasses.replace(options, out=here))
        )
    kind, banks = open_banks(options.bank, "bank")
    _check(options)
    wanted = Wanted(options.where, options.selection, options.fraction, options.by, options.seed)
    choice = choosing.choose(kind, banks, wanted)
    told = ", ".join(f"{some:,} of {of:,} {what}" for what, (some, of) in choice.counts.items())
    log.info("chose %s", told)
    made = _made(options)
    if options.out.suffix == ".zarr":
        made.pop("phenomjax")
        code = copy(options.out, banks, choice.rows, made, options, options.images_per_shard)
        return max(code, _report_missed(options, choice))
    names = (
        table
        for bank, rows in zip(banks, choice.rows, strict=True)
        for table in choosing.names_of(kind, bank, rows)
    )
    with writing(options.out):
        selections.write(options.out, kind, list(zip(banks, choice.rows, strict=True)), names, made)
    ending.wrote(options.out, told)
    ending.note(chosen={what: some for what, (some, _) in choice.counts.items()})
    next_steps.train(banks, options.out)
    return _report_missed(options, choice)


def copy(
    out: Path,
    banks: Sequence[ImageBank | TokenBank],
    chosen: Sequence[np.ndarray],
    made: dict,
    engine: EngineOptions,
    images_per_shard: int | None = None,
) -> int:
    """Makes a bank of rows of others; returns the exit code.

    Args:
      out: the bank.
      banks: of one kind.
      chosen: rows of each, ascending.
      made: how they were chosen, recorded.
      engine: who copies.
      images_per_shard: of a bank of images; None: as in the first bank.
    """
    arguments: growing.Arguments = {
        "bank": [str(bank.path) for bank in banks],
        "fingerprints": [bank.fingerprint for bank in banks],
        "rows": [hashlib.sha256(rows.tobytes()).hexdigest() for rows in chosen],
    }
    rows = [Rows.of(rows) for rows in chosen]
    of_images = [bank for bank in banks if isinstance(bank, ImageBank)]
    of_tokens = [bank for bank in banks if isinstance(bank, TokenBank)]
    if of_tokens:
        tokens.check_alike(of_tokens)
        return tokens.join(out, of_tokens, rows, arguments | made, engine)
    images.check_alike(of_images)
    twice = duplicates.in_earlier(of_images)
    for mask, mine in zip(twice, chosen, strict=True):
        mask[np.setdiff1d(np.arange(len(mask)), mine)] = False
    duplicates.refuse(of_images, twice, "Make the subset of one of them, or choose others of each.")
    if images_per_shard:
        arguments["images_per_shard"] = images_per_shard
    return images.join(out, of_images, rows, arguments | made, engine, images_per_shard)


def _check(options: Options) -> None:
    if not options.where.strip() and options.selection is None and options.fraction is None:
        raise UserError(
            "Nothing says what to choose. Give `where`, `selection` or `fraction`, or several; all"
            " of it would be --fraction 1."
        )
    if options.out.suffix not in (".parquet", ".zarr"):
        raise UserError(
            f"`out` {options.out} must end with .parquet, for a list, or with .zarr, for a bank."
        )
    if options.by and options.fraction is None:
        raise UserError("`by` goes with `fraction`, the share of the groups. Give both.")
    check_folder_of(options.out)
    if options.out.suffix == ".parquet":  # a bank is continued
        outputs.refuse(options.out, options.overwrite)


def _made(options: Options) -> dict:
    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name in ("where", "selection", "fraction", "by", "seed")
    }
    found = {name: value for name, value in given.items() if value not in ("", None)}
    if options.selection:
        found |= {"selection": str(options.selection), "sha256": files.sha256(options.selection)}
    return found | {"phenomjax": __version__}


def _report_missed(options: Options, choice: Choice) -> int:
    if not choice.missed:
        return EXIT_DONE
    listed = options.out.with_name(f"{options.out.stem}.missed.csv")
    table = pd.DataFrame(choice.missed)
    with files.replacing(listed) as partial:
        table.to_csv(partial, index=False)
    first = ", ".join(f"{k} {v}" for k, v in list(choice.missed[0].items())[1:6] if v is not None)
    log.error(
        "%d entries of %s are in no bank, for instance %s; they are listed in %s. The others are"
        " chosen.",
        *(len(choice.missed), options.selection, first, listed),
    )
    return EXIT_FAILED

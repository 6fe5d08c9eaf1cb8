"""python -m phenomjax.prepare merge: one bank of several, in the order in which they are named.

Images must have one size, one type and the same channels; pixels are taken over as they are, where
possible without a copy, and each bank's numbers of intensity are recorded under `sources`.
Sequences must have one alphabet, boundary and rule of rare letters; each stays in its split, and of
duplicates (--duplicates first) the one that is held out stays, so that nothing of a test split is
trained on. Similar sequences may still be on both sides: for a split by clusters prepare all files
together. Training needs no such bank: a run reads several, and images may differ in size.

python -m phenomjax.prepare merge --banks a.zarr b.zarr --out all.zarr
python -m phenomjax.prepare merge --banks a.zarr b.zarr --out all.zarr --duplicates first
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import arg

from phenomjax.data import selections, store
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.rows import Rows
from phenomjax.data.sequences.bank import TokenBank
from phenomjax.engine.options import EngineOptions
from phenomjax.prepare import growing, publishing
from phenomjax.prepare.joining import duplicates, images, tokens
from phenomjax.prepare.opening import open_banks
from phenomjax.system.errors import UserError, check_folder_of

MEND = "Take the first of each with --duplicates first, or both with --duplicates keep."
log = logging.getLogger("phenomjax")


@dataclass(frozen=True)
class Options(EngineOptions):
    """The banks, and what becomes of what they share."""

    banks: tuple[Path, ...]
    """two or more, NAME.zarr"""

    out: Path
    """the bank to make, NAME.zarr"""

    duplicates: Literal["refuse", "first", "keep"] = "refuse"
    """of images that two banks have by name (experiment, plate, well, site, time), or of equal
    sequences: stop, take that of the bank named first, or take both"""

    images_per_shard: Annotated[int | None, arg(metavar="N")] = None
    """images in a file (None: as in the first bank)"""


def run(options: Options) -> int:
    """Makes the bank; returns the exit code: 0 done, 75 stopped by a signal."""
    if store.is_remote(options.out):
        return publishing.publish(
            options, options.out, lambda here: run(dataclasses.replace(options, out=here))
        )
    _, banks = open_banks(options.banks, "banks")
    if len(banks) < 2:
        raise UserError("`banks` names one bank. Name two or more, in the order of their images.")
    check_folder_of(options.out)
    arguments: growing.Arguments = {
        "banks": [str(bank.path) for bank in banks],
        "fingerprints": [bank.fingerprint for bank in banks],
        "duplicates": options.duplicates,
    }
    of_images = [bank for bank in banks if isinstance(bank, ImageBank)]
    of_tokens = [bank for bank in banks if isinstance(bank, TokenBank)]
    if of_tokens:
        if options.images_per_shard:
            raise UserError("`images_per_shard` is for images, and these banks hold sequences.")
        tokens.check_alike(of_tokens)
        rows = _without(options, banks, tokens.in_others(of_tokens))
        return tokens.join(options.out, of_tokens, rows, arguments, options)
    images.check_alike(of_images)
    if options.images_per_shard:
        arguments["images_per_shard"] = options.images_per_shard
    twice = duplicates.in_earlier(of_images)
    if options.duplicates == "refuse":
        duplicates.refuse(of_images, twice, MEND)
    rows = _without(options, banks, twice)
    return images.join(options.out, of_images, rows, arguments, options, options.images_per_shard)


def _without(
    options: Options, banks: Sequence[ImageBank | TokenBank], twice: Sequence[np.ndarray]
) -> list[Rows]:
    """What is taken of each bank, given what others have too."""
    rows = [Rows.all(len(bank)) for bank in banks]
    total = sum(int(mask.sum()) for mask in twice)
    if not total or options.duplicates == "keep":
        return rows
    number = next(place for place, mask in enumerate(twice) if mask.any())
    kind = selections.kind_of(banks[0])
    if options.duplicates == "refuse":
        place = int(np.flatnonzero(twice[number])[0])
        raise UserError(
            f"{total} {kind} are in two of the banks, such as sequence {place} of"
            f" {banks[number].path}. {MEND}"
        )
    log.info("%d %s that another bank has too are left out", total, kind)
    return [Rows.of(np.flatnonzero(~mask)) for mask in twice]

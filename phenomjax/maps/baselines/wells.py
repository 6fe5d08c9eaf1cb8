"""A function of an image, measured over banks: one row a well, the mean over its images."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float, Num

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.opening import open_bank
from phenomjax.maps.tables.options import Table, require_some
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.writing import check_out, write
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.log import Progress, counted
from phenomjax.system.outputs import Overwrite
from phenomjax.system.processes import core_count

log = logging.getLogger("phenomjax")

Measure = Callable[[Num[np.ndarray, "height width channels"]], Float[np.ndarray, " features"]]
WELL = ("experiment", "plate", "well", "time")  # time points are not averaged
OF_IMAGES = ("site", "source", "checksum")  # metadata that a well has not


@dataclass(frozen=True, kw_only=True)
class WellOptions(Overwrite):
    """Of the commands that measure images by hand."""

    bank: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="BANK ...")]
    """image banks with the same channels"""
    out: Table
    """.parquet, .csv[.gz] or .h5ad"""


def open_all(paths: Sequence[Path]) -> list[ImageBank]:
    """Banks of the same channels.

    Raises:
      UserError: none, one that cannot be read, or one without a channel of the first.
    """
    banks = [open_bank(path) for path in require_some(tuple(paths), "bank")]
    for bank in banks[1:]:
        if missing := [name for name in banks[0].channels if name not in bank.channels]:
            raise UserError(
                f"The banks differ in their channels: {banks[0].path} has"
                f" {', '.join(banks[0].channels)}, and {bank.path} has no {missing[0]} (it has"
                f" {', '.join(bank.channels)}). Measure them with two commands."
            )
    return banks


def well_profiles(
    banks: Sequence[ImageBank], measure: Measure, names: Sequence[str], **step: object
) -> Profiles:
    """One row a well of the banks, in the order in which wells first come.

    Args:
      banks: of the channels of the first.
      measure: features of one image, uint8 or uint16 [height, width, channels of the first bank].
      names: of the features.
      step: what the provenance says of it.
    """
    import pandas as pd

    metadata = pd.concat([bank.metadata.to_pandas() for bank in banks], ignore_index=True)
    wells = metadata.groupby([name for name in WELL if name in metadata], dropna=False, sort=False)
    well = wells.ngroup().to_numpy()
    sums = np.zeros((int(well.max()) + 1, len(names)))
    bar, image = Progress(str(step["command"]), len(metadata), "images"), 0
    with ThreadPoolExecutor(core_count()) as pool:
        for bank in banks:
            order = [bank.channels.index(channel) for channel in banks[0].channels]
            for values in pool.map(
                lambda i, bank=bank, order=order: measure(bank.read(i)[..., order]),
                range(len(bank)),
            ):
                sums[well[image]] += values
                image += 1
                bar.update()
    images = np.bincount(well)
    first = metadata.loc[~pd.Series(well).duplicated()].reset_index(drop=True)
    provenance = {
        "sources": [
            {"path": bank.path.name, "bank_fingerprint": bank.fingerprint} for bank in banks
        ],
        "steps": [step],
    }
    return Profiles(
        (sums / images[:, None]).astype(np.float32),
        first.drop(columns=[name for name in OF_IMAGES if name in first]),
        tuple(names),
        provenance,
    )


def write_wells(profiles: Profiles, out: str) -> int:
    """Writes them and says so; the exit code."""
    write(profiles, check_out(out))
    ending.wrote(out, f"{counted(len(profiles), 'well')}, {len(profiles.names)} features")
    ending.then(
        "align plates and batches",
        "python -m phenomjax.maps align --profiles {} --out aligned.parquet",
        out,
    )
    return 0

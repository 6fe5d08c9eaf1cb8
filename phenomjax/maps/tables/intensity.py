"""Hand-made features of images: the intensities of each channel, the baseline that a learned
embedding has to beat.

  python -m phenomjax.maps intensity --bank plates.zarr --out intensity.parquet

Of each channel of a field, over its pixels: what CellProfiler's MeasureImageIntensity measures
(mean, standard deviation, median, median absolute deviation, quartiles, minimum, maximum), averaged
over the fields of a well. One row a well, with the well's metadata.
"""

import logging
from collections.abc import Sequence
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
from phenomjax.system.log import Progress
from phenomjax.system.processes import core_count

log = logging.getLogger("phenomjax")

MEASURES = ("mean", "std", "median", "mad", "lower_quartile", "upper_quartile", "min", "max")


def intensities(image: Num[np.ndarray, "height width channels"]) -> Float[np.ndarray, " measures"]:
    """MEASURES of each channel: uint8 or uint16 [height, width, C] -> float64 [C * len(MEASURES)],
    channel by channel.
    """
    pixels = image.reshape(-1, image.shape[-1]).astype(np.float32)
    low, lower, median, upper, high = np.percentile(pixels, [0, 25, 50, 75, 100], axis=0)
    mad = np.median(np.abs(pixels - median), axis=0)
    return np.stack(
        [pixels.mean(0), pixels.std(0), median, mad, lower, upper, low, high], 1
    ).ravel()


def intensity_profiles(banks: Sequence[ImageBank]) -> Profiles:
    """One row a well of the banks: float32 [wells, channels * len(MEASURES)]."""
    import pandas as pd

    names = tuple(f"{channel}_{measure}" for channel in banks[0].channels for measure in MEASURES)
    metadata = pd.concat([bank.metadata.to_pandas() for bank in banks], ignore_index=True)
    bar, rows = Progress("intensity", len(metadata), "images"), []
    with ThreadPoolExecutor(core_count()) as pool:
        for bank in banks:
            order = [bank.channels.index(channel) for channel in banks[0].channels]
            for values in pool.map(
                lambda i, bank=bank, order=order: intensities(bank.read(i)[..., order]),
                range(len(bank)),
            ):
                rows.append(values)
                bar.update()
    well = metadata.groupby(["experiment", "plate", "well"], dropna=False, sort=False)
    features = pd.DataFrame(np.array(rows)).groupby(well.ngroup()).mean().to_numpy(np.float32)
    first = metadata.drop(columns=["site", "source", "checksum"]).loc[
        ~metadata.duplicated(["experiment", "plate", "well"])
    ]
    sources = [{"path": bank.path.name, "bank_fingerprint": bank.fingerprint} for bank in banks]
    provenance = {
        "sources": sources,
        "steps": [{"command": "intensity", "measures": list(MEASURES)}],
    }
    return Profiles(features, first.reset_index(drop=True), names, provenance)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of `python -m phenomjax.maps intensity`."""

    bank: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="BANK ...")]
    """image banks with the same channels"""
    out: Table
    """.parquet, .csv[.gz] or .h5ad"""


def run(options: Options) -> int:
    """Measures and writes."""
    out = check_out(options.out)
    profiles = intensity_profiles([open_bank(path) for path in require_some(options.bank, "bank")])
    write(profiles, out)
    log.info(
        "intensity: wrote %d wells, %d features to %s",
        len(profiles),
        profiles.features.shape[1],
        out,
    )
    return 0

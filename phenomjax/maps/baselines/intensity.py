"""Intensities of each channel, a baseline that a learned embedding has to beat.

  python -m phenomjax.maps intensity --bank plates.zarr --out intensity.parquet

Of each channel of a field, over its pixels: what CellProfiler's MeasureImageIntensity measures
(mean, standard deviation, median, median absolute deviation, quartiles, minimum, maximum), averaged
over the fields of a well. One row a well, with the well's metadata.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from phenomjax.data.images.bank import ImageBank
from phenomjax.maps.baselines.wells import WellOptions, open_all, well_profiles, write_wells
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.writing import check_out

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
    names = [f"{channel}_{measure}" for channel in banks[0].channels for measure in MEASURES]
    return well_profiles(banks, intensities, names, command="intensity", measures=list(MEASURES))


@dataclass(frozen=True, kw_only=True)
class Options(WellOptions):
    """Of `python -m phenomjax.maps intensity`."""


def run(options: Options) -> int:
    """Measures and writes."""
    check_out(options.out)
    return write_wells(intensity_profiles(open_all(options.bank)), options.out)

"""Cell counts and areas by a simple threshold, the structural baseline of a learned embedding.

  python -m phenomjax.maps structure --bank plates.zarr --out structure.parquet

Nuclei are the connected regions of the nuclear channel, smoothed by a Gaussian, that are brighter
than Otsu's threshold (1979) and than the background by 5 of its robust standard deviations; those
below --min_area are dust. Of a field: how many there are, mean and standard deviation of their
areas, and the share of the field that they cover; of every other channel the share of the field
above Otsu's threshold, and the area that this is a nucleus. No cell is told from its neighbour, no
intensity is measured: a map that is no better than this one has found how many cells there are and
how large. Averaged over the fields of a well; one row a well, with the well's metadata.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float, Float32, Num

from phenomjax.data.images.bank import ImageBank
from phenomjax.maps.baselines.wells import WellOptions, open_all, well_profiles, write_wells
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.writing import check_out
from phenomjax.system.errors import UserError, did_you_mean

log = logging.getLogger("phenomjax")

# what the name of a nuclear stain holds, in lower case; the first of these that a bank has
NUCLEAR = ("hoechst", "dapi", "dna", "nuclei", "nucleus", "nuclear", "h2b", "draq")
OF_NUCLEI = ("count", "area_mean", "area_std", "covered")
OF_OTHERS = ("covered", "area_per_nucleus")
SMOOTHING = 1.0  # px, standard deviation
BACKGROUND = 5.0  # robust standard deviations above the median
BINS = 256


def otsu(values: Num[np.ndarray, "*shape"]) -> float:
    """The threshold that makes the variance between the two classes largest (Otsu 1979, eq. 14), of
    a histogram with 256 bins of equal width; the value itself where all are equal.
    """
    counts, edges = np.histogram(values, BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(float)  # nothing is above the last bin
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:][np.argmax(below * above * (mean_above - mean_below) ** 2)])


def nuclei_areas(
    channel: Float32[np.ndarray, "height width"], min_area: int
) -> Float[np.ndarray, " nuclei"]:
    """Area of each nucleus of a smoothed nuclear channel, pixels."""
    from scipy import ndimage

    median = np.median(channel)
    spread = 1.4826 * np.median(np.abs(channel - median))
    regions, count = ndimage.label(channel > max(otsu(channel), median + BACKGROUND * spread))
    areas = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    return areas[areas >= min_area].astype(float)


def structures(
    image: Num[np.ndarray, "height width channels"], nuclear: int, min_area: int
) -> Float[np.ndarray, " measures"]:
    """OF_NUCLEI of the nuclear channel, then OF_OTHERS of each other channel, float64.

    Args:
      image: uint8 or uint16.
      nuclear: the channel of nuclei.
      min_area: of a nucleus, pixels.
    """
    from scipy import ndimage

    pixels = image.shape[0] * image.shape[1]
    smooth = [
        ndimage.gaussian_filter(image[..., channel].astype(np.float32), SMOOTHING)
        for channel in range(image.shape[-1])
    ]
    areas = nuclei_areas(smooth[nuclear], min_area)
    count = len(areas)
    found = [count, areas.mean() if count else 0, areas.std() if count else 0, areas.sum() / pixels]
    for channel, plane in enumerate(smooth):
        if channel != nuclear:
            covered = np.count_nonzero(plane > otsu(plane))
            found += [covered / pixels, covered / max(count, 1)]
    return np.array(found, float)


def nuclear_channel(channels: Sequence[str], named: str | None = None) -> int:
    """Which channel shows nuclei: the one that is named, or whose stain is known for it.

    Raises:
      UserError: no such channel, or none that is known.
    """
    if named is not None:
        if named not in channels:
            raise UserError(
                f"`nuclei` {named}: the bank has no such channel.{did_you_mean(named, channels)} It"
                f" has {', '.join(channels)}."
            )
        return list(channels).index(named)
    lower = [name.lower() for name in channels]
    for stain in NUCLEAR:
        for place, name in enumerate(lower):
            if stain in name:
                return place
    raise UserError(
        f"None of the channels {', '.join(channels)} is known to show nuclei (as"
        " Hoechst, DAPI and DNA are). Name it with `nuclei`, for instance `nuclei`"
        f" {channels[0]!r}."
    )


def structure_profiles(
    banks: Sequence[ImageBank], nuclei: str | None = None, min_area: int = 30
) -> Profiles:
    """One row a well of the banks: float32 [wells, 4 + 2 * (channels - 1)].

    Raises:
      UserError: the channel of nuclei is not known.
    """
    channels = banks[0].channels
    nuclear = nuclear_channel(channels, nuclei)
    names = [f"{channels[nuclear]}_{measure}" for measure in OF_NUCLEI]
    names += [
        f"{channel}_{measure}"
        for channel in channels
        if channel != channels[nuclear]
        for measure in OF_OTHERS
    ]
    log.info("structure: nuclei are regions of %s of at least %d px", channels[nuclear], min_area)
    measure = partial(structures, nuclear=nuclear, min_area=min_area)
    about = {"command": "structure", "nuclei": channels[nuclear], "min_area": min_area}
    return well_profiles(banks, measure, names, **about)


@dataclass(frozen=True, kw_only=True)
class Options(WellOptions):
    """Of `python -m phenomjax.maps structure`."""

    nuclei: Annotated[str | None, tyro.conf.arg(metavar="CHANNEL")] = None
    """the channel that shows nuclei; by default DNA, Hoechst, DAPI or the like"""
    min_area: Annotated[int, tyro.conf.arg(metavar="PX")] = 30
    """of a nucleus, in pixels"""


def run(options: Options) -> int:
    """Measures and writes."""
    check_out(options.out)
    found = structure_profiles(open_all(options.bank), options.nuclei, options.min_area)
    return write_wells(found, options.out)

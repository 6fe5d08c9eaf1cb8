"""Cell counts and areas by a simple threshold, the structural baseline of a learned embedding.

  python -m phenomjax.maps structure --bank plates.zarr --out structure.parquet

Nuclei are regions of the nuclear channel above a threshold (phenomjax.data.images.nuclei); those
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
from jaxtyping import Float, Num

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.nuclei import (
    MIN_AREA,
    nuclear_channel,
    nuclei_areas,
    otsu,
    smoothed,
)
from phenomjax.maps.baselines.wells import WellOptions, open_all, well_profiles, write_wells
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.writing import check_out

log = logging.getLogger("phenomjax")

OF_NUCLEI = ("count", "area_mean", "area_std", "covered")
OF_OTHERS = ("covered", "area_per_nucleus")


def structures(
    image: Num[np.ndarray, "height width channels"], nuclear: int, min_area: int
) -> Float[np.ndarray, " measures"]:
    """OF_NUCLEI of the nuclear channel, then OF_OTHERS of each other channel, float64.

    Args:
      image: uint8 or uint16.
      nuclear: the channel of nuclei.
      min_area: of a nucleus, pixels.
    """
    pixels = image.shape[0] * image.shape[1]
    smooth = [smoothed(image[..., channel]) for channel in range(image.shape[-1])]
    areas = nuclei_areas(smooth[nuclear], min_area)
    count = len(areas)
    found = [count, areas.mean() if count else 0, areas.std() if count else 0, areas.sum() / pixels]
    for channel, plane in enumerate(smooth):
        if channel != nuclear:
            covered = np.count_nonzero(plane > otsu(plane))
            found += [covered / pixels, covered / max(count, 1)]
    return np.array(found, float)


def structure_profiles(
    banks: Sequence[ImageBank], nuclei: str | None = None, min_area: int = MIN_AREA
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
    min_area: Annotated[int, tyro.conf.arg(metavar="PX")] = MIN_AREA
    """of a nucleus, in pixels"""


def run(options: Options) -> int:
    """Measures and writes."""
    check_out(options.out)
    found = structure_profiles(open_all(options.bank), options.nuclei, options.min_area)
    return write_wells(found, options.out)

"""Nuclei of a field by a simple threshold: how many there are, and how large.

They are the connected regions of the nuclear channel, smoothed by a Gaussian, that are brighter
than Otsu's threshold (1979) and than the background by 5 of its standard deviations. Level and
deviation of the background are those of the normal distribution with the channel's 1st and 10th
percentile, so that nuclei may cover most of a field.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Num

from phenomjax.system.errors import UserError, did_you_mean

# what the name of a nuclear stain holds, in lower case; the first of these that a bank has
NUCLEAR = ("hoechst", "dapi", "dna", "nuclei", "nucleus", "nuclear", "h2b", "draq")
SMOOTHING = 1.0  # px, standard deviation
BACKGROUND = 5.0  # its standard deviations
NORMAL_1, NORMAL_10 = 2.326, 1.282  # its 1st and 10th percentile, so far below the mean
BINS = 256
MIN_AREA = 30  # px


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


def smoothed(plane: Num[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
    """A channel as its regions are looked for."""
    from scipy import ndimage

    return ndimage.gaussian_filter(plane.astype(np.float32), SMOOTHING)


def nuclei_areas(
    channel: Float32[np.ndarray, "height width"], min_area: int
) -> Float[np.ndarray, " nuclei"]:
    """Area of each nucleus of a smoothed nuclear channel, pixels."""
    from scipy import ndimage

    lowest, low = np.percentile(channel, [1, 10])
    spread = (low - lowest) / (NORMAL_1 - NORMAL_10)
    level = low + NORMAL_10 * spread
    regions, count = ndimage.label(channel > max(otsu(channel), level + BACKGROUND * spread))
    areas = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    return areas[areas >= min_area].astype(float)


def known_nuclear(channels: Sequence[str]) -> str | None:
    """The channel whose stain is known for nuclei, if there is one."""
    for stain in NUCLEAR:
        for name in channels:
            if stain in name.lower():
                return name
    return None


def nuclear_channel(channels: Sequence[str], named: str | None = None) -> int:
    """Which channel shows nuclei: the one that is named, or whose stain is known for it.

    Raises:
      UserError: no such channel, or none that is known.
    """
    if named is not None and named not in channels:
        raise UserError(
            f"`nuclei` {named}: the bank has no such channel.{did_you_mean(named, channels)} It"
            f" has {', '.join(channels)}."
        )
    name = named or known_nuclear(channels)
    if name is None:
        raise UserError(
            f"None of the channels {', '.join(channels)} is known to show nuclei (as"
            " Hoechst, DAPI and DNA are). Name it with `nuclei`, for instance `nuclei`"
            f" {channels[0]!r}."
        )
    return list(channels).index(name)

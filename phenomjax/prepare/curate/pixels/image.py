"""Measures of the pixels of one image, see `measure`."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from phenomjax.data.images import nuclei

TILE = 256  # px, side of the squares whose spectra are averaged
LOW, HIGH = 1 / 64, 1 / 4  # cycles a pixel, between which the slope is fitted
BANDS = 4  # an octave
NOISE_ONLY = 0.5  # cycles a pixel: in the corners of the spectrum beyond there is no picture
SCATTER = 0.1  # variance of the logarithm of a band's power around a power law
ROUNDING = 1 / np.sqrt(12)  # standard deviation of what rounding to whole grey levels adds
SHARES = (0.005, 0.995)  # of the pixels, between whose values the contrast is


class Spectrum(NamedTuple):
    """The power spectrum of a channel.

    Attributes:
      frequency: of each band, cycles a pixel.
      power: in it, squared grey levels.
      noise: power of the noise, the same in all bands.
      certainty: of the power of a band, of its logarithm: one over its variance.
    """

    frequency: Float[np.ndarray, " bands"]
    power: Float[np.ndarray, " bands"]
    noise: float
    certainty: Float[np.ndarray, " bands"]


def spectrum(plane: Num[np.ndarray, "height width"]) -> Spectrum:
    """The power spectrum of a channel by Welch's method (1967): the mean over square tiles, each
    under a Hann window.
    """
    from scipy import fft

    side = min(TILE, *plane.shape)
    window, bands, corners, frequencies = _bands(side)
    rows, columns = (size // side for size in plane.shape)
    top, left = ((size - size // side * side) // 2 for size in plane.shape)
    part = plane[top : top + rows * side, left : left + columns * side].astype(np.float32)
    tiles = part.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    mean = (tiles * window).sum((1, 2), keepdims=True) / window.sum()
    found = fft.rfft2((tiles - mean) * window)
    power = (found.real**2 + found.imag**2).mean(0) / np.square(window).sum()
    sums = np.bincount(bands.ravel(), power.ravel(), len(frequencies) + 1)[1:]
    counts = np.bincount(bands.ravel(), minlength=len(frequencies) + 1)[1:]
    # power of noise in one place of a spectrum is exponential: its median is log(2) of its mean
    noise = float(np.median(power[corners]) / np.log(2))
    # of so many exponential powers; a picture is no exact power law either
    certainty = 1 / (SCATTER + 1 / (counts * len(tiles)))
    return Spectrum(frequencies, sums / counts, noise, certainty)


@functools.lru_cache(maxsize=4)
def _bands(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of tiles: the window, each frequency's band (0: none), where noise is, the bands' means."""
    line = np.hanning(side + 2)[1:-1].astype(np.float32)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    low = max(LOW, min(2 / side, HIGH / 2))
    edges = np.geomspace(low, HIGH, max(2, round(BANDS * np.log2(HIGH / low)) + 1))
    bands = np.digitize(frequency, edges)
    bands[bands == len(edges)] = 0
    there = np.unique(bands[bands > 0])  # of small tiles some bands hold no frequency
    bands = np.searchsorted(there, bands) * np.isin(bands, there) + np.isin(bands, there)
    means = [frequency[bands == band].mean() for band in range(1, len(there) + 1)]
    return line[:, None] * line, bands, frequency > NOISE_ONLY, np.array(means)


def sharpness(found: Spectrum) -> float:
    """Slope of log power over log frequency, of the picture without its noise.

    The power of the noise is taken off, and each band counts by the share of its power that was not
    noise, and no more than any coarser band: so a picture that is blurred before the camera adds
    noise, whose fine bands hold noise alone, gets the slope of its coarse ones, and not the flat
    spectrum of noise, by which a plain slope takes it for sharp.

    Returns:
      About -3 of cells in focus, -5 and less where they are blurred; NaN of a plane of one value.
    """
    if not found.power.any():
        return np.nan
    least = 1e-12 * found.power.max()
    power, noise = np.maximum(found.power, least), max(found.noise, least)
    weights = np.minimum.accumulate(np.clip(1 - noise / power, 0, 1))
    weights[:BANDS] = np.maximum(weights[:BANDS], 0.01)
    weights *= found.certainty
    height = np.log10(np.maximum(power - noise, 0.05 * noise))
    place = np.log10(found.frequency)
    apart = place - np.average(place, weights=weights)
    return float((weights * apart * height).sum() / (weights * apart**2).sum())


def histogram(
    plane: Num[np.ndarray, "height width"],
) -> tuple[Num[np.ndarray, " values"], Int[np.ndarray, " values"]]:
    """Values that occur in a channel, ascending, and how many pixels have each."""
    if plane.dtype.kind != "u" or plane.itemsize > 2:
        return np.unique(plane, return_counts=True)
    counts = np.bincount(plane.ravel())
    values = np.flatnonzero(counts)
    return values, counts[values]


def saturated(values: Num[np.ndarray, " values"], counts: Int[np.ndarray, " values"]) -> float:
    """% of pixels that have the largest value of the image, where they are more than have the next
    lower one: what was brighter lies in a heap there. 0 of a plane of one value.
    """
    heap = len(counts) > 1 and counts[-1] > counts[-2]
    return 100 * float(counts[-1] / counts.sum()) if heap else 0.0


def measures_of(
    image: Num[np.ndarray, "height width channels"], nuclear: int | None, min_area: int
) -> Float[np.ndarray, " measures"]:
    """OF_CHANNELS of each channel, channel by channel, then OF_IMAGES; float32.

    Args:
      image: of any type of numbers.
      nuclear: the channel of nuclei; None: cells are not counted (NaN).
      min_area: of a nucleus, pixels.
    """
    found = list[float]()
    rounding = ROUNDING if image.dtype.kind in "iu" else 0.0
    for plane in np.moveaxis(image, -1, 0):
        values, counts = histogram(plane)
        cumulative = np.cumsum(counts)
        low, high = values[np.searchsorted(cumulative, np.array(SHARES) * cumulative[-1])]
        spectral = spectrum(plane)
        contrast = (float(high) - float(low)) / (max(np.sqrt(spectral.noise), rounding) or 1.0)
        found += [sharpness(spectral), contrast, low, saturated(values, counts)]
    if nuclear is None:
        return np.array([*found, np.nan, np.nan], np.float32)
    areas = nuclei.nuclei_areas(nuclei.smoothed(image[..., nuclear]), min_area)
    covered = 100 * areas.sum() / (image.shape[0] * image.shape[1])
    return np.array([*found, len(areas), covered], np.float32)

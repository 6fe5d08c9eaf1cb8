"""Limits of what is measured of images, learnt from the controls of each experiment.

A limit is the median of the controls less (of saturated pixels: plus) so many of their robust
standard deviations (1.4826 times the median absolute deviation), so that some of the controls may
be bad themselves. Contrast and nuclei are compared by their logarithms, as shares of the controls.
Experiments of one cell type are compared with each other: where the controls of one are far worse
than those of the others, or too few, the others give its limits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from tyro.conf import arg

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.nuclei import MIN_AREA

NOISE_CONTRAST = 6.5  # of noise alone 5.2, and a little of uneven light
LEAST_BATCHES = 3  # experiments of a cell type of which one can be told to be odd
MAD = 1.4826  # robust standard deviation of a normal, in its median absolute deviations


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """How pixels are measured, and where the limits are."""

    SHOWN_LAST: ClassVar[bool] = True
    GROUPS: ClassVar[dict[str, str]] = {"nuclei": "pixel"}

    nuclei: Annotated[str | None, arg(metavar="CHANNEL")] = None
    """the channel that shows nuclei; by default DNA, Hoechst, DAPI or the like"""

    min_area: Annotated[int, arg(metavar="PX")] = MIN_AREA
    """of a nucleus, in pixels"""

    limits: Literal["experiment", "all", "images"] = "experiment"
    """what teaches the limits: the controls of each experiment, the controls of all experiments of
    a cell type together, or all images of each experiment, which teach them too where no image of
    the banks is marked as a control"""

    spreads: Annotated[float, arg(metavar="N")] = 5.0
    """robust standard deviations from the median of the controls to a limit; more drops less"""

    focus_spreads: Annotated[float, arg(metavar="N")] = 3.5
    """the same of sharpness, of which half of the channels must be beyond their limits"""

    min_controls: Annotated[int, arg(metavar="N")] = 8
    """images of controls that an experiment's own limits need; one with fewer gets the limits of
    the other experiments"""

    saturated: Annotated[float, arg(metavar="PERCENT")] = 2.0
    """an image of which no channel has more saturated pixels than this is never dropped for it"""


class Measured(NamedTuple):
    """How a measure is compared.

    Attributes:
      name: of it.
      sign: 1 where more is better, -1 where less is.
      scale: to where its spread does not depend on its level, and back.
      floor: the least spread that is believed, on that scale.
      worse: how the controls of an experiment are that is odd, in words.
    """

    name: str
    sign: int
    scale: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    floor: float
    worse: str


def _same(values: np.ndarray) -> np.ndarray:
    return values


SHARPNESS = Measured("sharpness", 1, _same, _same, 0.05, "out of focus")

CONTRAST = Measured(
    "contrast", 1, lambda v: np.log10(np.maximum(v, 0.1)), lambda v: 10.0**v, 0.06, "empty"
)

SATURATED = Measured("saturated", -1, _same, _same, 0.0, "saturated")

# Fewer cells are a phenotype: below a third of those of the controls, at 5 spreads, they are dead.
CELLS = Measured(
    "cells", 1, lambda v: np.log10(v + 0.5), lambda v: np.maximum(10.0**v - 0.5, 0), 0.1, "dead"
)

COVERED = Measured(
    "covered", 1, lambda v: np.log10(v + 0.01), lambda v: np.maximum(10.0**v - 0.01, 0), 0.1, "dead"
)


class Groups(NamedTuple):
    """Images that have the same in two columns of the metadata.

    Attributes:
      names: the two values of each group.
      of: the group of each image.
    """

    names: list[tuple[str | None, str | None]]
    of: Int[np.ndarray, " images"]

    def second(self) -> Int[np.ndarray, " groups"]:
        """Groups by the second column alone, as numbers."""
        numbers: dict[str | None, int] = {}
        return np.array([numbers.setdefault(name, len(numbers)) for _, name in self.names], int)


class Learnt(NamedTuple):
    """Limits of a measure for each batch, a group of one experiment and one cell type.

    Attributes:
      medians: of its controls; NaN: it has none.
      limits: NaN where none could be learnt.
      counts: its controls.
      origin: what taught the limit.
    """

    medians: Float[np.ndarray, " batches"]
    limits: Float[np.ndarray, " batches"]
    counts: Int[np.ndarray, " batches"]
    origin: list[str]


def groups_of(banks: Sequence[ImageBank], one: str, other: str) -> Groups:
    """The images of banks by two columns."""
    numbers: dict[tuple[str | None, str | None], int] = {}
    parts = [np.zeros(0, np.int32)]
    for bank in banks:
        runs = bank.runs([one, other])
        groups = [numbers.setdefault((a, b), len(numbers)) for a, b in runs.values()]
        parts.append(runs.spread(np.array(groups, np.int32), len(bank)))
    return Groups(list(numbers), np.concatenate(parts))


def controls_of(banks: Sequence[ImageBank]) -> Bool[np.ndarray, " images"]:
    """Which images are controls."""
    columns = [bank.column("is_control").fill_null(False).to_numpy() for bank in banks]
    return np.concatenate([np.zeros(0, bool), *columns])


def robust(values: Float[np.ndarray, " values"]) -> tuple[float, float]:
    """Median and robust standard deviation."""
    median = float(np.median(values))
    return median, float(MAD * np.median(np.abs(values - median)))


def learn(
    measured: Measured,
    values: Float[np.ndarray, " images"],
    teachers: Bool[np.ndarray, " images"],
    batches: Groups,
    options: GateOptions,
) -> Learnt:
    """Limits of a measure for each batch.

    Args:
      measured: how it is compared.
      values: of each image; NaN ones teach nothing.
      teachers: the images that teach.
      batches: of all images.
      options: how many controls a batch needs, and how far the limit is.
    """
    count, k = len(batches.names), options.spreads
    if measured is SHARPNESS:
        k = options.focus_spreads
    floor = options.saturated / k if measured is SATURATED else measured.floor
    use = teachers & np.isfinite(values)
    scaled = measured.sign * measured.scale(values[use].astype(np.float64))  # more is better
    own = batches.of[use]
    counts = np.bincount(own, minlength=count)
    parts = np.split(scaled[np.argsort(own, kind="stable")], np.cumsum(counts)[:-1])
    medians, widths = np.full((2, count), np.nan)
    for batch in np.flatnonzero(counts):
        medians[batch], widths[batch] = robust(parts[batch])
    limits, origin = np.full(count, np.nan), ["none"] * count
    kinds = batches.second()
    for kind in np.unique(kinds):
        mine = np.flatnonzero(kinds == kind)
        good = mine[counts[mine] >= options.min_controls]
        if options.limits == "all" or not len(good):
            together = np.concatenate([parts[batch] for batch in mine])
            if len(together) < options.min_controls:
                continue
            middle, width = robust(together)
            limits[mine] = middle - k * max(width, floor)
            for batch in mine:
                origin[batch] = "all"
            continue
        typical = max(np.median(widths[good]), floor)
        middle, between = robust(medians[good])
        reach = np.hypot(between, typical)
        # of few experiments the spread between them is hardly known
        far = middle - k * reach * (1 + 4 / max(len(good) - 1, 1))
        for batch in mine:
            odd = len(good) >= LEAST_BATCHES and medians[batch] < far
            if counts[batch] < options.min_controls or (odd and measured is not CONTRAST):
                limits[batch], origin[batch] = middle - k * reach, "others"
            else:
                # controls of which many are bad are wider, and some happen to be narrow
                width = max(np.clip(widths[batch], typical / 2, typical * 2), floor)
                limits[batch], origin[batch] = medians[batch] - k * width, "experiment"
    return Learnt(
        measured.back(measured.sign * medians),
        measured.back(measured.sign * limits),
        counts,
        origin,
    )

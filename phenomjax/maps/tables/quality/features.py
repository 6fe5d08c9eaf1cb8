"""Features that are no measurements, and values that are none: found from where most values lie,
so that what is wrong does not hide itself by spoiling the mean and deviation it is judged by.

A feature's centre is its median in each batch, its spread 1.4826 times the median of the distances
to it (MAD): of all batches, or of its own where that is more (a plate in other units). Both come
from at most SAMPLE rows; everything else is counted over all rows, block by block.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from phenomjax.maps.tables import scratch
from phenomjax.statistics.groups import rows_of_groups

SAMPLE = 10_000  # rows that medians are taken of
OWN_CENTRE = 16  # rows of a batch whose median is known well enough
LEAST_ROWS = 20  # of a table that outliers can be told in
LEAST_CONTROLS = 3  # of a batch; two may be alike by chance
MAD = 1.4826  # of a normal distribution it makes the standard deviation
WILD = 1e6  # spreads; no camera has such a range: a division by nothing, as a rule
SPREADLESS = 1e3  # typical spreads of a table that stand for the spread of a feature that has none
OUTLIERS = 0.01  # of the rows; a feature with more outliers than that is itself wrong
ALIKE = 0.95  # of the rows; a feature with one value there says nothing of most wells
MOSTLY = 0.5  # of the features; a row that lacks more is no measurement
OTHER_UNITS = 100.0  # times the spread of all batches, or one so-manieth of it
MANY = 0.1  # of the features
ROUNDING = 4 * float(np.finfo(np.float32).eps)  # relative; less is no spread

MISSING, BEYOND, CONSTANT, ONE_VALUE, SPREADLESS_CONTROLS = (
    "missing in too many rows",
    f"far out of bounds in more than {OUTLIERS:.0%} of the rows",
    "constant",
    f"of one value in more than {ALIKE:.0%} of the rows",
    "nearly constant among the controls of a batch, not so among its other wells",
)


@dataclass(frozen=True)
class Bounds:
    """What is told from where most values lie.

    Attributes:
      centre: median of each feature in each batch, float64 [batches, dim].
      wild: a distance beyond which a value is none, float64 [batches, dim].
      far: a distance beyond which a value is an outlier, float64 [batches, dim].
      alike: share of the rows that have the most usual value, float64 [dim].
      relative: spread of each batch over that of all, float64 [batches, dim]; NaN where unknown.
    """

    centre: Float64[np.ndarray, "batches dim"]
    wild: Float64[np.ndarray, "batches dim"]
    far: Float64[np.ndarray, "batches dim"]
    alike: Float64[np.ndarray, " dim"]
    relative: Float64[np.ndarray, "batches dim"]

    def in_other_units(self) -> dict[int, Bool[np.ndarray, " dim"]]:
        """Batches of which many features vary very much more, or less, than those of all batches,
        and which.
        """
        found = {}
        for batch, relative in enumerate(self.relative):
            wider, narrower = relative > OTHER_UNITS, relative < 1 / OTHER_UNITS
            other = wider if wider.sum() >= narrower.sum() else narrower
            if other.sum() > max(MANY * len(other), 1):
                found[batch] = other
        return found

    def judge(
        self,
        values: Float32[np.ndarray, "rows dim"],
        codes: Int[np.ndarray, " rows"],
        chosen: Int[np.ndarray, " some"] | slice = slice(None),
    ) -> tuple[
        Float64[np.ndarray, "rows dim"],
        Bool[np.ndarray, "rows dim"],
        Bool[np.ndarray, "rows dim"],
        Bool[np.ndarray, "rows dim"],
    ]:
        """(distance to the centre, missing, wild, far) of values of the chosen features; a value is
        one of the last three at most.
        """
        distance = values.astype(np.float64) - self.centre[:, chosen][codes]
        missing = ~np.isfinite(values)
        size = np.abs(distance)
        wild = ~missing & (size > self.wild[:, chosen][codes])
        far = ~missing & ~wild & (size > self.far[:, chosen][codes])
        return distance, missing, wild, far


def bounds_of(
    features: Float32[np.ndarray, "rows dim"],
    codes: Int[np.ndarray, " rows"],
    max_deviation: float,
    *,
    seed: int = 0,
) -> Bounds:
    """Centres and bounds of each feature.

    Args:
      features: float32 [rows, dim], NaN and infinite where nothing was measured.
      codes: batch of each row, 0 … batches - 1.
      max_deviation: robust standard deviations from the centre at which outliers begin; where inf,
        nothing is out of bounds.
      seed: of the sample of rows.
    """
    rows, dim = features.shape
    by_batch = rows_of_groups(codes)
    centre, spread, alike = np.empty((len(by_batch), dim)), np.empty(dim), np.empty(dim)
    own = np.full(centre.shape, np.nan)  # spread of a batch
    rng = np.random.default_rng(seed)

    def some_of(chosen: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " sample"]:
        if len(chosen) <= SAMPLE:
            return chosen
        return np.sort(rng.choice(chosen, SAMPLE, replace=False))

    sample = some_of(np.arange(rows))
    overall = np.empty(dim)
    for part, values in _columns(features, sample):
        overall[part] = _median(values)
        there = np.maximum((~np.isnan(values)).sum(0), 1)
        alike[part] = (values == overall[part]).sum(0) / there
    for batch, group in enumerate(by_batch):
        centre[batch] = overall
        if len(group) >= OWN_CENTRE:
            for part, values in _columns(features, some_of(group)):
                median = _median(values)
                centre[batch, part] = np.where(np.isnan(median), overall[part], median)
                own[batch, part] = MAD * _median(np.abs(values - centre[batch, part]))
    for part, values in _columns(features, sample):
        spread[part] = MAD * _median(np.abs(values - centre[:, part][codes[sample]]))
    wild, far = np.full(centre.shape, np.inf), np.full(centre.shape, np.inf)
    has_spread = spread > 0  # NaN has not
    own[(own == 0) | ~has_spread] = np.nan  # a feature of zeros in most wells is in no units
    if np.isfinite(max_deviation) and rows >= LEAST_ROWS and has_spread.any():
        wild[:] = WILD * SPREADLESS * np.median(spread[has_spread])
        wider = np.fmax(own, spread)[:, has_spread]
        wild[:, has_spread] = WILD * wider
        far[:, has_spread] = max_deviation * wider
    return Bounds(np.nan_to_num(centre), wild, far, alike, own / np.where(has_spread, spread, 1))


def _columns(
    features: Float32[np.ndarray, "rows dim"], rows: Int[np.ndarray, " some"]
) -> Iterator[tuple[slice, Float64[np.ndarray, "some part"]]]:
    """Some columns after the other of some rows, with NaN for all that is not finite."""
    for part in scratch.blocks(features.shape[1], len(rows)):
        values = scratch.gather(features, rows, part).astype(np.float64)
        values[~np.isfinite(values)] = np.nan
        yield part, values


def _median(values: Float64[np.ndarray, "rows dim"]) -> Float64[np.ndarray, " dim"]:
    """Median of each column without its NaN; NaN where there is nothing else."""
    holed = np.isnan(values).any(0)
    median = np.median(values, axis=0)
    for column in np.flatnonzero(holed):
        rest = values[:, column][~np.isnan(values[:, column])]
        median[column] = np.median(rest) if len(rest) else np.nan
    return median


@dataclass
class Counts:
    """What is counted over the rows of a table; `add` takes them block by block.

    Attributes:
      rows: that were counted.
      out: rows that are out of bounds in most features, which are not.
      missing, wild, far: of each feature, int64 [dim].
      low, high: least and greatest value of each feature.
      reach: greatest distance to the centre within the bounds, over the bound, float64 [dim];
        outliers are brought to it, so that they neither rule their row nor lose their direction.
    """

    bounds: Bounds
    rows: int = 0
    out: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        batches, dim = self.bounds.centre.shape
        self.missing, self.wild, self.far = (np.zeros(dim, np.int64) for _ in range(3))
        self.low, self.high, self.reach = np.full(dim, np.inf), np.full(dim, -np.inf), np.zeros(dim)
        # of all rows, and of the controls: number, sum and sum of squares
        self._moments = np.zeros((2, 3, batches, dim))

    def add(
        self,
        start: int,
        values: Float32[np.ndarray, "rows dim"],
        codes: Int[np.ndarray, " rows"],
        controls: Bool[np.ndarray, " rows"],
    ) -> None:
        """Counts a block of rows, the first of which is row `start`."""
        distance, missing, wild, far = self.bounds.judge(values, codes)
        out = wild.mean(1) > MOSTLY
        if out.any():
            self.out += (start + np.flatnonzero(out)).tolist()
            values, codes, controls = values[~out], codes[~out], controls[~out]
            distance, missing, wild, far = (a[~out] for a in (distance, missing, wild, far))
        self.rows += len(values)
        self.missing += missing.sum(0)
        self.wild += wild.sum(0)
        self.far += far.sum(0)
        none = missing | wild
        self.low = np.minimum(self.low, np.where(none, np.inf, values).min(0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(none, -np.inf, values).max(0, initial=-np.inf))
        distance[none] = 0
        bound = self.bounds.far[codes]
        within = np.where(far, 0, np.abs(distance) / bound).max(0, initial=0)
        self.reach = np.maximum(self.reach, within)
        np.clip(distance, -bound, bound, out=distance)
        for batch in np.unique(codes):
            of_batch = codes == batch
            for place, chosen in enumerate((of_batch, of_batch & controls)):
                there = distance[chosen]
                self._moments[place, 0, batch] += (~none[chosen]).sum(0)
                self._moments[place, 1, batch] += there.sum(0)
                self._moments[place, 2, batch] += np.square(there).sum(0)

    def wrong(self, max_missing: float, min_spread: float) -> dict[str, Bool[np.ndarray, " dim"]]:
        """Features that are no measurements, by what is wrong; a feature counts once.

        Args:
          max_missing: share of the rows that a feature may lack.
          min_spread: of the controls of a batch, in standard deviations of all its rows.
        """
        total = max(self.rows, 1)
        found = {MISSING: self.missing > max_missing * total}
        found[BEYOND] = self.wild + self.far > OUTLIERS * total
        size = np.maximum(np.abs(self.low), np.abs(self.high))
        with np.errstate(invalid="ignore"):
            found[CONSTANT] = ~(self.high - self.low > ROUNDING * size)
        usual = self.bounds.alike > ALIKE
        found[ONE_VALUE] = usual & (usual.mean() <= MOSTLY)  # a sparse table is so by nature
        found[SPREADLESS_CONTROLS] = self._spreadless(min_spread)
        before = np.zeros(len(size), bool)
        for mask in found.values():
            mask &= ~before
            before |= mask
        return {kind: mask for kind, mask in found.items() if mask.any()}

    def _spreadless(self, min_spread: float) -> Bool[np.ndarray, " dim"]:
        """Features that hardly vary among the controls of a batch while its other wells do."""
        number, total, square = np.moveaxis(self._moments, 1, 0)
        least = np.maximum(number, 1)
        variance = np.maximum(square / least - np.square(total / least), 0)
        everything, controls = np.sqrt(variance)
        varies = everything > ROUNDING * np.abs(self.bounds.centre)
        judged = varies & (number[1] >= LEAST_CONTROLS)
        return (judged & (controls < min_spread * everything)).any(0)


def mended(
    values: Float32[np.ndarray, "rows some"],
    codes: Int[np.ndarray, " rows"],
    counts: Counts,
    chosen: Int[np.ndarray, " some"],
) -> Float64[np.ndarray, "rows some"]:
    """Values of the chosen features: what is missing or wild at the centre of its batch, what is
    far within reach of it, all others as they were; float64 [rows, some].
    """
    distance, missing, wild, far = counts.bounds.judge(values, codes, chosen)
    distance[missing | wild] = 0
    reach = counts.reach[chosen] * np.nan_to_num(counts.bounds.far[:, chosen][codes], posinf=0)
    inside = counts.bounds.centre[:, chosen][codes] + np.clip(distance, -reach, reach)
    return np.where(missing | wild | far, inside, values)

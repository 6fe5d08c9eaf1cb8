"""Groups of rows to one row each, a few at a time: features may be larger than memory."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from phenomjax.maps.tables import scratch
from phenomjax.statistics.consistency import group_sums
from phenomjax.system.log import Progress

HUBER = 2.0  # distances up to twice the median one count in full


def combine(
    features: Float[np.ndarray, "rows dim"],
    codes: Int[np.ndarray, " rows"],
    groups: int,
    method: str,
) -> Float32[np.ndarray, "{groups} dim"]:
    """One row a group, computed in float64, float32 [groups, dim]; every group has a row.

    Args:
      features: float [rows, dim], in memory or mapped.
      codes: group of each row, 0 … groups - 1.
      method: see the first lines of aggregate.py.
    """
    dim = features.shape[1]
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=groups)
    ends = np.cumsum(counts)
    starts = ends - counts
    out = scratch.beside(features, groups, dim)
    bar = Progress("aggregate", len(order), "rows")
    first = 0
    while first < groups:
        # as many groups as make a block, at least one
        end = starts[first] + scratch.rows_of_a_block(dim)
        last = max(first + 1, int(np.searchsorted(ends, end, side="right")))
        rows = order[starts[first] : ends[last - 1]]
        if last - first == 1:
            out[first] = ONE[method](features, rows)
        elif method == "mean":
            sums = group_sums(scratch.gather(features, rows), codes[rows] - first, last - first)
            out[first:last] = sums / counts[first:last, None]
        else:
            for number in range(first, last):
                out[number] = ONE[method](features, order[starts[number] : ends[number]])
        if scratch.is_mapped(features):
            scratch.release(out)
            bar.update(len(rows))
        first = last
    return out


def _mean(
    features: Float[np.ndarray, "rows dim"],
    rows: Int[np.ndarray, " some"],
    weights: Float64[np.ndarray, " some"] | None = None,
) -> Float64[np.ndarray, " dim"]:
    """(Weighted) mean of some rows, which may be too many for memory."""
    weights = np.ones(len(rows)) if weights is None else weights
    total = np.zeros(features.shape[1])
    for some, values in _blocks(features, rows):
        total += weights[some] @ values
    return total / weights.sum()


def _median(
    features: Float[np.ndarray, "rows dim"], rows: Int[np.ndarray, " some"]
) -> Float64[np.ndarray, " dim"]:
    """Median of each feature over some rows, a few features at a time where rows are many."""
    out = np.empty(features.shape[1])
    for columns in scratch.blocks(len(out), len(rows)):
        values = scratch.gather(features, rows, columns).astype(np.float64)
        out[columns] = np.median(values, axis=0)
    return out


def _mad(
    features: Float[np.ndarray, "rows dim"], rows: Int[np.ndarray, " some"]
) -> Float64[np.ndarray, " dim"]:
    """Huber-weighted mean; see the first lines of aggregate.py."""
    middle, distance = _median(features, rows), np.empty(len(rows))
    for some, values in _blocks(features, rows):
        distance[some] = np.linalg.norm(values - middle, axis=1)
    typical = np.median(distance)
    if typical == 0:
        return _mean(features, rows)
    return _mean(features, rows, np.minimum(1, HUBER * typical / np.maximum(distance, 1e-300)))


ONE = {"mean": _mean, "median": _median, "mad": _mad}


def _blocks(
    features: Float[np.ndarray, "rows dim"], rows: Int[np.ndarray, " some"]
) -> Iterator[tuple[slice, Float64[np.ndarray, "block dim"]]]:
    for some in scratch.blocks(len(rows), features.shape[1]):
        yield some, scratch.gather(features, rows[some]).astype(np.float64)

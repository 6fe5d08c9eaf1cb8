"""Features brought to mean 0 and deviation 1 in each batch, over all its rows or its controls."""

import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped

from phenomjax.maps.build.methods.streams import Rows, Stream, Values
from phenomjax.statistics.groups import rows_of_groups
from phenomjax.statistics.moments import Moments
from phenomjax.system.log import Progress


def mean_and_scale(
    stream: Stream, rows: Rows | None = None
) -> tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, " dim"]]:
    """Mean and deviation (ddof 0) of each feature over some rows, or all; a deviation that is
    rounding error counts as none, and becomes 1.
    """
    found = Moments(stream.dim)
    for _, values in stream.blocks(rows):
        found.add(values)
    scale = np.sqrt(found.covariance())
    # a sum over rows may be off by a unit in the last place a row, as a rule by the root of that
    error = np.finfo(np.float64).eps * max(10.0, found.rows**0.5)
    return found.mean, np.where(scale > error * np.maximum(np.abs(found.mean), 1e-300), scale, 1.0)


def standardize(
    stream: Stream,
    batches: Shaped[np.ndarray, " rows"],
    fitted_on: Bool[np.ndarray, " rows"] | None = None,
) -> Stream:
    """Brings each feature of each batch to mean 0 and deviation 1 over some of its rows.

    Args:
      stream: of the features.
      batches: name of each row's batch, [rows].
      fitted_on: bool [rows], e.g. the controls ("center-scale"); all rows by default.
    """
    code, groups = batches_of(batches)
    means, scales = [], []
    bar = Progress("align: means and deviations", len(stream), "rows")
    for rows in groups:
        mean, scale = mean_and_scale(stream, rows if fitted_on is None else rows[fitted_on[rows]])
        means.append(mean)
        scales.append(scale)
        if stream.is_large:
            bar.update(len(rows))
    mean, scale = np.stack(means), np.stack(scales)

    def step(values: Values, rows: Rows) -> Values:
        values = values - mean[code[rows]]
        values /= scale[code[rows]]
        return values

    return stream.then(step)


def batches_of(
    batches: Shaped[np.ndarray, " rows"],
) -> tuple[Int[np.ndarray, " rows"], list[Int[np.ndarray, "_"]]]:
    """Number of each row's batch in the order of the batches' names, and the rows of each batch."""
    import pandas as pd

    codes = pd.factorize(batches, sort=True)[0]
    return codes, rows_of_groups(codes)

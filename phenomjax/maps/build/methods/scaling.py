"""Features brought to mean 0 and deviation 1 in each batch, over all its rows or its controls."""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped


def mean_and_scale(
    values: Float64[np.ndarray, "rows dim"],
) -> tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, " dim"]]:
    """Mean and deviation (ddof 0) of each feature; a deviation that is rounding error counts as
    none, and becomes 1.
    """
    mean, scale = values.mean(0), values.std(0)
    # a sum over rows may be off by a unit in the last place a row, as a rule by the root of that
    error = np.finfo(values.dtype).eps * max(10.0, len(values) ** 0.5)
    return mean, np.where(scale > error * np.maximum(np.abs(mean), 1e-300), scale, 1.0)


def standardize(
    features: Float[np.ndarray, "rows dim"],
    batches: Shaped[np.ndarray, " rows"],
    fitted_on: Bool[np.ndarray, " rows"] | None = None,
) -> Float64[np.ndarray, "rows dim"]:
    """Brings each feature of each batch to mean 0 and deviation 1 over some of its rows.

    Args:
      features: float [rows, dim].
      batches: name of each row's batch, [rows].
      fitted_on: bool [rows], e.g. the controls ("center-scale"); all rows by default.

    Returns:
      float64 [rows, dim].
    """
    out = np.empty(features.shape, np.float64)
    for rows in rows_of(batches).values():
        fit = rows if fitted_on is None else rows[fitted_on[rows]]
        mean, scale = mean_and_scale(features[fit].astype(np.float64))
        out[rows] = (features[rows] - mean) / scale
    return out


def rows_of(batches: Shaped[np.ndarray, " rows"]) -> dict[str, Int[np.ndarray, "_"]]:
    """The rows of each batch, in the order of their names."""
    names, codes = np.unique(batches.astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return dict(
        zip(names.tolist(), np.split(order, np.cumsum(np.bincount(codes))[:-1]), strict=True)
    )

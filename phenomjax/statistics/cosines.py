"""Cosines of rows: rows of length 1, and their products without any error of adding."""

import numpy as np
from jaxtyping import Float, Float64, Num

FIXED = 2.0**26


def unit_rows(
    features: Num[np.ndarray, "*rows dim"], dtype: type = np.float64
) -> Float[np.ndarray, "*rows dim"]:
    """Rows divided by their length; a row of zeros stays one, so that its cosines are 0."""
    features = features.astype(dtype)
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(length > 0, length, 1)


def exact_cosines(
    rows: Float[np.ndarray, "rows dim"], columns: Float[np.ndarray, "columns dim"]
) -> Float64[np.ndarray, "rows columns"]:
    """Cosines of unit rows without any error of adding: the same bits for every block, thread and
    processor.

    The numbers of a unit row are taken as multiples of 2^-26 (off by at most 7.5e-9), so products
    are multiples of 2^-52; no partial sum of a cosine is greater than the lengths of the rows, 1
    but for the rounding (Cauchy and Schwarz), and a multiple of 2^-52 below 2 is a float64. So
    nothing is ever rounded, and equal rows tie.
    """
    return _fixed(rows) @ _fixed(columns).T


def _fixed(rows: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows dim"]:
    return np.rint(rows.astype(np.float64) * FIXED) / FIXED

"""Rows that are no measurements: wells without cells, whatever their features were made of."""

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt64

from phenomjax.maps.tables import scratch

LEAST_FEATURES = 10  # so many numbers are not equal by chance

NEARLY = 0.95  # of the features; a row with more zeros is none, where most rows have few
FEW = 0.5  # of the features

MISSING, ZERO, NEARLY_ZERO, EQUAL, COPIES = (
    "have no value at all",
    "are all zeros",
    "are zeros in nearly all features",
    "are one number all over",
    "are the same in every feature as another well of their plate",
)


def empty_rows(
    features: Float32[np.ndarray, "rows dim"], wells: Shaped[np.ndarray, "rows 2"] | None
) -> dict[str, Bool[np.ndarray, " rows"]]:
    """Rows that no microscope gave, by what they look like, bool [rows] each; a row counts once.

    An empty well is a row of NaN or of zeros as it comes from the segmentation, a row of one number
    where it was filled, and, once its plate was normalised, the same row again and again.

    Args:
      features: float32 [rows, dim].
      wells: batch and well of each row, [rows, 2]; without them rows are not compared.
    """
    rows, dim = features.shape
    found = {kind: np.zeros(rows, bool) for kind in (MISSING, ZERO, NEARLY_ZERO, EQUAL)}
    zeros = np.zeros(rows)
    for some in scratch.blocks(rows, dim):
        values = features[some]
        known = np.isfinite(values)
        first = np.take_along_axis(values, known.argmax(1)[:, None], 1)
        same = (~known | (values == first)).all(1)
        found[MISSING][some] = nothing = ~known.any(1)
        found[ZERO][some] = zero = same & ~nothing & (first[:, 0] == 0) & (dim > 1)
        zeros[some] = (values == 0).sum(1) / np.maximum(known.sum(1), 1)
        found[EQUAL][some] = same & ~nothing & ~zero & (dim >= LEAST_FEATURES)
        scratch.release(features)
    if dim >= LEAST_FEATURES and np.median(zeros) < FEW:
        found[NEARLY_ZERO] = (zeros > NEARLY) & ~found[ZERO]
    if wells is not None and dim >= LEAST_FEATURES:
        empty = np.any(list(found.values()), axis=0)
        found[COPIES] = _copies(features, wells) & ~empty
    return {kind: mask for kind, mask in found.items() if mask.any()}


def _copies(
    features: Float32[np.ndarray, "rows dim"], wells: Shaped[np.ndarray, "rows 2"]
) -> Bool[np.ndarray, " rows"]:
    """Rows that equal a row of another well of the same batch, and have enough different numbers
    not to do so by chance.
    """
    import pandas as pd

    table = pd.DataFrame({"batch": wells[:, 0], "well": wells[:, 1], "digest": digests(features)})
    if not table.duplicated(["batch", "digest"]).any():
        return np.zeros(len(table), bool)
    others = table.groupby(["batch", "digest"], dropna=False)["well"].transform("nunique")
    copies = (others > 1).to_numpy()
    for row in np.flatnonzero(copies):
        copies[row] = len(np.unique(features[row])) >= LEAST_FEATURES
    return copies


def digests(features: Float32[np.ndarray, "rows dim"]) -> UInt64[np.ndarray, " rows"]:
    """A number of each row that is the same for equal rows only.

    It is made of whole numbers: a sum of floats depends on where the row stands, and would miss
    duplicates.
    """
    rows, dim = features.shape
    weights = np.random.default_rng(0).integers(2**63, size=dim, dtype=np.uint64)
    sums = np.empty(rows, np.uint64)
    for some in scratch.blocks(rows, dim):
        plain = np.nan_to_num(features[some]) + np.float32(0)  # one zero, not two
        sums[some] = np.einsum(
            "rd,d->r", plain.view(np.uint32), weights, dtype=np.uint64, casting="safe"
        )
        scratch.release(features)
    return sums

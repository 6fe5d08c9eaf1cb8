"""Cosines of all pairs of a map in blocks, never the whole square, and their histogram."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Integer

from phenomjax.statistics.cosines import unit_rows
from phenomjax.statistics.ties import TIED
from phenomjax.system.errors import UserError

BINS = 2**16
QUANTILES = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)
# of a block of cosines, for the caches; but at least 64 rows, so that the columns are not read for
# a few
NUMBERS_AT_ONCE = 3 * 10**6


def units(features: Float[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
    """Rows of length 1, float32 C-contiguous.

    Raises:
      UserError: a row of zeros, whose cosine with anything is undefined.
    """
    zero = ~features.any(1)
    if zero.any():
        raise UserError(
            f"{int(zero.sum())} of {len(features)} profiles are zero in all features (the first is"
            f" row {int(np.argmax(zero))}), so their cosine with any other is undefined. Leave them"
            " out, or look at how they were made: an image without cells?"
        )
    return np.ascontiguousarray(unit_rows(features), np.float32)


def blocks(
    rows: Float32[np.ndarray, "rows dim"], columns: Float32[np.ndarray, "columns dim"] | None = None
) -> Iterator[tuple[int, Float32[np.ndarray, "block columns"]]]:
    """(first row, cosines float32 [rows of the block, columns]) for all pairs of unit rows."""
    columns = rows if columns is None else columns
    step = max(64, NUMBERS_AT_ONCE // max(len(columns), 1))
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step] @ columns.T


def upper_blocks(
    rows: Float32[np.ndarray, "rows dim"],
) -> Iterator[tuple[int, Float32[np.ndarray, "block rest"]]]:
    """Each pair i < j: (first row a, cosines [b, n - a] of rows a … a + b with rows a … n); the
    leading square [b, b] holds both orders.
    """
    start = 0
    while start < len(rows):
        step = max(1, min(NUMBERS_AT_ONCE // (len(rows) - start), len(rows) - start))
        yield start, rows[start : start + step] @ rows[start:].T
        start += step


def cosines(
    features: Float[np.ndarray, "rows dim"],
) -> Iterator[tuple[int, Float32[np.ndarray, "block rows"]]]:
    """(first row, cosines float32 [rows of the block, all rows]) of a map's features, block after
    block.
    """
    yield from blocks(units(features))


def bin_of(
    cosine: Float[np.ndarray, "*shape"], dtype: type = np.int64, shift: float = 0.0
) -> Integer[np.ndarray, "*shape"]:
    """The histogram's bin of each cosine.

    Args:
      cosine: any shape.
      dtype: of the bins.
      shift: is added to the cosines. 0 and 1/2, which are what often ties, lie on the edge of two
        bins, where rounding decides; with a shift of TIED they do not.
    """
    scaled = np.multiply(cosine, np.float32(BINS / 2), dtype=np.float32)
    scaled += np.float32(BINS / 2 * (1 + shift))
    return np.clip(scaled, 0, BINS - 1, out=scaled).astype(dtype)


def histogram(rows: Float32[np.ndarray, "rows dim"]) -> Int64[np.ndarray, " bins"]:
    """How many pairs i < j of unit rows fall in each of BINS bins of equal width over [-1, 1],
    int64 [BINS].
    """
    counts = np.zeros(BINS, np.int64)
    for _, block in upper_blocks(rows):
        above = block[:, : len(block)][np.triu_indices(len(block), 1)]
        for values in (above, block[:, len(block) :].ravel()):
            counts += np.bincount(bin_of(values), minlength=BINS)
    return counts


def quantiles(
    counts: Int64[np.ndarray, " bins"], probabilities: tuple[float, ...] = QUANTILES
) -> dict[str, float]:
    """Quantiles from a histogram: the middle of the bin that holds them, so off by at most half a
    bin's width, 1.5e-5.
    """
    total, below = int(counts.sum()), np.cumsum(counts)
    return {
        str(p): float((np.searchsorted(below, p * total) + 0.5) / (BINS / 2) - 1)
        for p in (probabilities if total else ())
    }


def p_values(
    counts: Int64[np.ndarray, " bins"], cosine: Float[np.ndarray, " n"], side: str
) -> Float64[np.ndarray, " n"]:
    """Share of the null that is as similar ("similar") or as opposite ("opposite"), the whole bin
    counted of the cosine and of what may tie with it; at least 1 / n.
    """
    total = max(int(counts.sum()), 1)
    below = np.cumsum(counts)
    if side == "similar":
        codes = bin_of(cosine - np.float32(TIED))
        shares = total - below[codes] + counts[codes]
    else:
        shares = below[bin_of(cosine + np.float32(TIED))]
    return np.maximum(shares, 1) / total

"""P-values against a null of permutations or random sets, and false discovery rates.

What ties with a value counts as at least as large (`ties`), so a p-value is the same on every
machine and errs upwards.
"""

import numpy as np
from jaxtyping import Float, Float64, Num

from phenomjax.statistics import ties


def share_at_least(
    null: Num[np.ndarray, " n"], values: Float[np.ndarray, " k"], tied: float = ties.TIED
) -> Float64[np.ndarray, " k"]:
    """Share of a sorted null that is at least each value: 0 for one above all of it; NaN for NaN or
    without a null.
    """
    if not len(null):
        return np.full(len(values), np.nan)
    return np.where(np.isnan(values), np.nan, 1 - ties.less(null, values, tied) / len(null))


def p_values(
    null: Num[np.ndarray, " n"], values: Float[np.ndarray, " k"], tied: float = ties.TIED
) -> Float64[np.ndarray, " k"]:
    """(1 + null at least as large) / (1 + null), which is never 0 (Phipson & Smyth 2010); NaN for
    NaN or without a null.
    """
    above = len(null) - ties.less(null, values, tied)
    undefined = np.isnan(values) | (len(null) == 0)
    return np.where(undefined, np.nan, (1 + above) / (1 + len(null)))


def q_values(p: Float[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    """Benjamini-Hochberg false discovery rates; NaN stays NaN and does not count."""
    from scipy.stats import false_discovery_control

    q, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q

"""One p-value of several, which may depend on each other in any way."""

import numpy as np
from jaxtyping import Float, Float64, Int


def cauchy_combination(
    p: Float[np.ndarray, " n"], of: Int[np.ndarray, " n"], tests: int, finest: float = 0.0
) -> Float64[np.ndarray, "{tests}"]:
    """The Cauchy combination test (Liu & Xie 2020, J Am Stat Assoc 115:393, equations 1 and 2).

    T = mean of tan((1/2 - p_i) pi) is standard Cauchy in its tail if each p_i is uniform, however
    they depend on each other, so p = 1/2 - arctan(T) / pi. One small p_i suffices, if it is smaller
    than the level divided by their number; and one at 1 would outweigh them all.

    Args:
      p: between 0 and 1; NaN is left out.
      of: the test to which each belongs, 0 … tests - 1.
      tests: how many.
      finest: resolution of p-values from so many permutations, 1 / (1 + permutations): those at 1
        count as 1 - finest, as the authors of the test advise.

    Returns:
      p: of each test; NaN where there is none to combine.
    """
    from scipy.stats import cauchy

    known = ~np.isnan(p)
    terms = cauchy.isf(np.minimum(p[known], 1 - finest))
    count = np.bincount(of[known], minlength=tests)
    total = np.bincount(of[known], weights=terms, minlength=tests)
    out = np.full(tests, np.nan)
    out[count > 0] = cauchy.sf(total[count > 0] / count[count > 0])
    return out

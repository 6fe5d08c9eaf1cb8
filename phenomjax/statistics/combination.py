"""One p-value of several, which may depend on each other in any way."""

import numpy as np
from jaxtyping import Float, Float64


def cauchy_combination(
    p: Float[np.ndarray, "tests several"], finest: float = 0.0
) -> Float64[np.ndarray, " tests"]:
    """The Cauchy combination test (Liu & Xie 2020, J Am Stat Assoc 115:393, equations 1 and 2).

    T = mean of tan((1/2 - p_i) pi) is standard Cauchy in its tail if each p_i is uniform, however
    they depend on each other, so p = 1/2 - arctan(T) / pi. One small p_i suffices, if it is smaller
    than the level by the number of tests; and one at 1 would outweigh them all.

    Args:
      p: between 0 and 1; NaN is left out.
      finest: resolution of p-values from so many permutations, 1 / (1 + permutations): those at 1
        count as 1 - finest, as the authors of the test advise.

    Returns:
      p: NaN where there is none to combine.
    """
    from scipy.stats import cauchy

    known = ~np.isnan(p)
    terms = np.where(known, cauchy.isf(np.where(known, np.minimum(p, 1 - finest), 0.5)), 0.0)
    count = known.sum(1)
    mean = np.divide(terms.sum(1), count, out=np.full(len(p), np.nan), where=count > 0)
    return np.where(count > 0, cauchy.sf(mean), np.nan)

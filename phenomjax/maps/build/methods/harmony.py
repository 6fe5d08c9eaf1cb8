"""Harmony (Korsunsky et al. 2019), by its authors' harmonypy: wells are clustered softly, so that
each cluster holds all batches, and each batch is moved to its clusters' centres.
"""

import numpy as np
from jaxtyping import Float64, Shaped

from phenomjax.system.errors import UserError

ITERATIONS = 50  # at most; it stops where its objective does
WELLS_PER_CLUSTER, MOST_CLUSTERS, LEAST_CLUSTERS = 30, 100, 2  # as harmonypy has it


def harmony(
    values: Float64[np.ndarray, "rows dim"], batches: Shaped[np.ndarray, " rows"], seed: int = 0
) -> Float64[np.ndarray, "rows dim"]:
    """Components without what batches differ in, float64 [rows, dim].

    Args:
      values: components of a PCA, all wells.
      batches: name of each row's batch.

    Raises:
      UserError: harmonypy is not installed, or there is one batch.
    """
    if len(set(batches.tolist())) < 2:
        raise UserError(
            "`align` harmony brings batches together, and there is one. Give the other plates too"
            " (`profiles` A B …), name a finer `batch`, or use `align` pca_center_scale."
        )
    try:
        from harmonypy import run_harmony
    except ImportError:
        raise UserError(
            "`align` harmony needs harmonypy, which is not installed (it is GPL-3, and therefore no"
            " part of phenomjax). Install it with `pip install 'phenomjax[harmony]'`."
        ) from None
    clusters = np.clip(round(len(values) / WELLS_PER_CLUSTER), LEAST_CLUSTERS, MOST_CLUSTERS)
    found = run_harmony(
        np.ascontiguousarray(values.T),  # components x wells, which it never takes for the other
        {"batch": batches.astype(str)},
        ["batch"],
        nclust=int(clusters),
        max_iter_harmony=ITERATIONS,
        random_state=seed,
        verbose=False,
    )
    corrected = np.asarray(found.Z_corr, np.float64)
    return corrected if corrected.shape == values.shape else corrected.T

"""Typical variation normalisation (TVN; Ando et al. 2017, as EFAAR has it): the controls vary alike
in every batch.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64, Shaped

from phenomjax.maps.build.methods.components import fit_pca
from phenomjax.maps.build.methods.scaling import rows_of, standardize

RIDGE = 0.5  # of step 4


def tvn(
    features: Float[np.ndarray, "rows dim"],
    batches: Shaped[np.ndarray, " rows"],
    controls: Bool[np.ndarray, " rows"],
) -> Float64[np.ndarray, "rows components"]:
    """Typical variation normalisation; see the first lines of align.py. float64 [rows,
    components].
    """
    everything = np.full(len(features), "all", object)
    values = standardize(features, everything, controls)
    pca = fit_pca(values[controls], None)
    spread = (
        pca.explained_variance_ > 1e-9 * pca.explained_variance_[0]
    )  # directions in which controls do not vary at all
    values = standardize(pca.transform(values)[:, spread], everything, controls)
    for rows in rows_of(batches).values():
        covariance = np.atleast_2d(np.cov(values[rows[controls[rows]]], rowvar=False, ddof=1))
        variances, axes = np.linalg.eigh(covariance + RIDGE * np.eye(values.shape[1]))
        values[rows] = values[rows] @ (axes / np.sqrt(variances)) @ axes.T
    return values

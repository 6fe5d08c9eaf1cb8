"""PCA of profiles, exact, fitted on all rows or on the controls."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float64

from phenomjax.maps.build.methods.scaling import mean_and_scale

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


def fit_pca(values: Float64[np.ndarray, "rows dim"], dims: int | None) -> "PCA":
    """Exact PCA (no random solver: the same table gives the same map), through the covariance where
    rows are more than features.
    """
    from sklearn.decomposition import PCA

    rows, features = values.shape
    solver = "covariance_eigh" if rows >= features else "full"
    return PCA(min(rows, features) if dims is None else dims, svd_solver=solver).fit(values)


def pca_on(
    features: Float[np.ndarray, "rows dim"],
    controls: Bool[np.ndarray, " rows"],
    dims: int,
    fit: str,
) -> Float64[np.ndarray, "rows {dims}"]:
    """PCA scores, fitted on the controls of all batches ("controls"), or on all rows, standardised
    over all of them ("all").
    """
    if fit == "controls":
        return fit_pca(features[controls].astype(np.float64), dims).transform(
            features.astype(np.float64)
        )
    mean, scale = mean_and_scale(features.astype(np.float64))
    values = (features - mean) / scale
    return fit_pca(values, dims).transform(values)

"""Where the points of a map's scatter lie: two main axes where there are few, UMAP where there are
many.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int64

from phenomjax.statistics.cosines import unit_rows
from phenomjax.system.errors import UserError

Layout = Literal["auto", "umap", "pca", "none"]
# rows: numba compiles UMAP for 10 to 60 s, whatever the map's size; a map of fewer is drawn sooner
UMAP_FROM = 1000
LEAST = 5
TEXTS = {
    "umap": "UMAP: neighbours stay together, distances between far groups mean little",
    "pca": "The two main axes (PCA): close points may still differ in other ways",
}


def place(
    features: Float[np.ndarray, "rows dim"], layout: Layout = "auto", seed: int = 42
) -> tuple[Float32[np.ndarray, "rows 2"] | None, str]:
    """Points of the scatter, and how they were made: (float32 [rows, 2], "umap" or "pca"); (None,
    "") for the layout none and below LEAST rows.

    Args:
      features: of the map; only their directions count.
      layout: auto: pca below UMAP_FROM rows, else umap.
      seed: of the UMAP.

    Raises:
      UserError: of `umap`.
    """
    if layout == "none" or len(features) < LEAST:
        return None, ""
    if layout == "umap" or (layout == "auto" and len(features) >= UMAP_FROM):
        return umap(features, seed, "choose `layout` pca"), "umap"
    vectors = unit_rows(features, np.float32)
    centred = vectors - vectors.mean(0)
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred.astype(np.float64))
    return (centred @ axes[:, ::-1][:, :2]).astype(np.float32), "pca"


def in_unit_square(xy: Float32[np.ndarray, "rows 2"]) -> Float[np.ndarray, "rows 2"]:
    """Points with a margin of 2 %."""
    low, high = xy.min(0), xy.max(0)
    return 0.02 + 0.96 * (xy - low) / np.maximum(high - low, 1e-9)


def umap(
    features: Float[np.ndarray, "rows dim"],
    seed: int = 42,
    otherwise: str = "leave it out",
    neighbors: int = 15,
) -> Float32[np.ndarray, "rows 2"]:
    """UMAP of the rows by cosine, float32 [rows, 2]; the same for the same seed. `otherwise` is
    what can be done without one, for errors.

    Raises:
      UserError: umap-learn is not installed, or there are too few rows.
    """
    import warnings

    try:
        from umap import UMAP
    except ImportError as error:
        raise UserError(
            f"A UMAP needs the package umap-learn ({error}): pip install umap-learn. Or"
            f" {otherwise}."
        ) from None
    if len(features) < LEAST:
        raise UserError(
            f"A UMAP of {len(features)} rows says nothing; it needs {LEAST}: {otherwise}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread
        start = "spectral" if len(features) > 50 else "random"
        reducer = UMAP(
            n_neighbors=min(neighbors, len(features) - 1),
            metric="cosine",
            min_dist=0.2,
            random_state=seed,
            init=start,
        )
        return np.asarray(reducer.fit_transform(unit_rows(features, np.float32)), np.float32)


def clusters(
    vectors: Float32[np.ndarray, "rows dim"], count: int | None = None, seed: int = 42
) -> Int64[np.ndarray, " rows"] | None:
    """Clusters of unit rows by k-means, the largest is 0; None where there are fewer than 20 rows,
    or `count` is 0.

    Args:
      vectors: unit rows.
      count: of clusters; None: sqrt(rows / 2), at most 20.
      seed: of the start.
    """
    if count == 0 or len(vectors) < 20:
        return None
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    count = min(20, round(np.sqrt(len(vectors) / 2))) if count is None else count
    method = KMeans if len(vectors) < 20_000 else MiniBatchKMeans
    with threadpool_limits(1):
        found = method(min(count, len(vectors)), n_init=2, random_state=seed).fit_predict(vectors)
    order = np.argsort(-np.bincount(found), kind="stable")
    return np.argsort(order)[found].astype(np.int64)

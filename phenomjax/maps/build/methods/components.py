"""PCA of profiles, exact, fitted on all rows or on the controls."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from phenomjax.maps.build.methods.scaling import standardize
from phenomjax.maps.build.methods.streams import Rows, Stream
from phenomjax.statistics.moments import Moments


@dataclass(frozen=True)
class Components:
    """A fitted PCA.

    Attributes:
      mean: of the rows it was fitted on, [dim].
      axes: of unit length, by falling variance, [components, dim]; the largest number of each is
        positive, as scikit-learn has it.
      variances: along them, ddof 1, [components].
    """

    mean: Float64[np.ndarray, " dim"]
    axes: Float64[np.ndarray, "components dim"]
    variances: Float64[np.ndarray, " components"]

    def scores(self, stream: Stream) -> Stream:
        """The stream with its coordinates along the axes."""
        return stream.then(lambda values, _: (values - self.mean) @ self.axes.T, dim=len(self.axes))


def fit_pca(stream: Stream, rows: Rows, dims: int | None = None) -> Components:
    """Exact PCA of some rows (no random solver: the same table gives the same map): through the
    covariance, gathered block by block, where rows are more than features; else by their singular
    values.

    Args:
      stream: of the features.
      rows: that it is fitted on.
      dims: components that are kept; all of them where None.
    """
    kept = min(len(rows), stream.dim) if dims is None else dims
    if len(rows) >= stream.dim:
        found = Moments(stream.dim, products=True)
        for _, values in stream.blocks(rows, "align: covariance"):
            found.add(values)
        mean = found.mean
        variances, vectors = np.linalg.eigh(found.covariance(ddof=1))
        variances, axes = np.maximum(variances[::-1], 0), vectors.T[::-1]
    else:
        values = stream.at(rows)
        mean = values.mean(0)
        _, spread, axes = np.linalg.svd(values - mean, full_matrices=False)
        variances = spread**2 / max(1, len(rows) - 1)
    axes = axes[:kept]
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(1)]
    return Components(mean, axes * np.sign(largest)[:, None], variances[:kept])


def pca_on(stream: Stream, controls: Bool[np.ndarray, " rows"], dims: int, fit: str) -> Stream:
    """PCA scores, fitted on the controls of all batches ("controls"), or on all rows, standardised
    over all of them ("all").
    """
    if fit == "controls":
        return fit_pca(stream, np.flatnonzero(controls), dims).scores(stream)
    scaled = standardize(stream, np.zeros(len(stream), np.int64))
    return fit_pca(scaled, np.arange(len(stream)), dims).scores(scaled)

"""Typical variation normalisation (TVN; Ando et al. 2017, as EFAAR has it): the controls vary alike
in every batch.
"""

import functools

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from phenomjax.maps.build.methods.components import Components, fit_pca
from phenomjax.maps.build.methods.scaling import batches_of, standardize
from phenomjax.maps.build.methods.streams import Rows, Stream, Values
from phenomjax.statistics.moments import Moments

RIDGE = 0.5  # of step 4


def tvn(
    stream: Stream, batches: Shaped[np.ndarray, " rows"], controls: Bool[np.ndarray, " rows"]
) -> Stream:
    """Typical variation normalisation; see the first lines of align.py."""
    from threadpoolctl import threadpool_limits  # of scikit-learn

    everything = np.zeros(len(stream), np.int64)
    stream = standardize(stream, everything, controls)
    pca = fit_pca(stream, np.flatnonzero(controls))
    # not the directions in which controls do not vary at all
    kept = pca.variances > 1e-9 * pca.variances[0]
    stream = Components(pca.mean, pca.axes[kept], pca.variances[kept]).scores(stream)
    stream = standardize(stream, everything, controls)
    code, groups = batches_of(batches)

    # few of them are held, for batches may be many: rows come batch by batch
    @functools.lru_cache(maxsize=2)
    def whitening(number: int) -> Float64[np.ndarray, "dim dim"]:
        rows, found = groups[number], Moments(stream.dim, products=True)
        for _, values in stream.blocks(rows[controls[rows]]):
            found.add(values)
        ridge = RIDGE * np.eye(stream.dim)
        with threadpool_limits(1):  # threads would wait for each other more than they do
            variances, axes = np.linalg.eigh(found.covariance(ddof=1) + ridge)
        return (axes / np.sqrt(variances)) @ axes.T

    def step(values: Values, rows: Rows) -> Values:
        out = np.empty_like(values)
        for number in np.unique(code[rows]):
            mine = code[rows] == number
            out[mine] = values[mine] @ whitening(int(number))
        return out

    return stream.then(step)

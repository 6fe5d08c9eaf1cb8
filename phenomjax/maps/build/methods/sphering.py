"""Sphering: the directions in which controls vary are made equally long, so that what varies
without a perturbation counts less (ZCA; Kessy et al. 2018).

The covariance is of the controls of all batches, shrunk towards a multiple of the identity as
Ledoit & Wolf (2004) estimate it: controls are seldom more than features, and a covariance without
shrinkage would blow up the directions in which they happen not to vary. Arevalo et al. (2024)
choose that regularisation by the mAP of the very perturbations that are then judged; this choice
looks at controls only.
"""

import numpy as np
from jaxtyping import Bool

from phenomjax.maps.build.methods.streams import Stream
from phenomjax.statistics.moments import Moments


def sphering(stream: Stream, controls: Bool[np.ndarray, " rows"]) -> tuple[Stream, float]:
    """The stream times (Cov(controls) shrunk)^(-1/2), and the shrinkage, 0 to 1.

    Args:
      stream: of features with mean 0 over the controls of each batch.
      controls: bool [rows].
    """
    found, fourth = Moments(stream.dim, products=True), 0.0
    for _, values in stream.blocks(np.flatnonzero(controls), "align: covariance"):
        found.add(values)
        fourth += float(((values**2).sum(1) ** 2).sum())
    covariance = found.covariance()
    level = np.trace(covariance) / stream.dim
    square = (covariance**2).sum()
    # equations 14 and 15 of Ledoit & Wolf (2004): the error of the covariance over its distance
    # from the multiple of the identity
    error = (fourth / found.rows - square) / found.rows
    distance = square - stream.dim * level**2
    shrinkage = float(np.clip(error / distance, 0, 1)) if distance > 0 else 1.0
    shrunk = (1 - shrinkage) * covariance + shrinkage * level * np.eye(stream.dim)
    variances, axes = np.linalg.eigh(shrunk)
    variances = np.maximum(variances, 1e-9 * variances[-1])
    whitening = (axes / np.sqrt(variances)) @ axes.T
    return stream.then(lambda values, _: values @ whitening), shrinkage

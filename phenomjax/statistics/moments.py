"""Means and covariances of more rows than memory holds, gathered block by block in float64."""

import numpy as np
from jaxtyping import Float64


class Moments:
    """Mean and centred sums of squares of rows that come in blocks.

    Blocks are centred on their own means and then merged (Chan, Golub & LeVeque 1983, equations 2.1
    of the pairwise form), so that features far from zero lose no digits.

    Args:
      dim: numbers of a row.
      products: of all pairs of features [dim, dim] rather than of each with itself [dim].
    """

    def __init__(self, dim: int, *, products: bool = False):
        self.rows = 0
        self.mean = np.zeros(dim)
        self.products = products
        self.squares = np.zeros((dim, dim) if products else dim)

    def add(self, block: Float64[np.ndarray, "rows dim"]) -> None:
        """Takes a block in."""
        if not len(block):
            return
        mean = block.mean(0)
        centred = block - mean
        apart = mean - self.mean
        share = len(block) / (self.rows + len(block))
        if self.products:
            self.squares += centred.T @ centred + self.rows * share * np.outer(apart, apart)
        else:
            self.squares += np.einsum("rd,rd->d", centred, centred) + self.rows * share * apart**2
        self.mean = self.mean + share * apart
        self.rows += len(block)

    def covariance(self, ddof: int = 0) -> Float64[np.ndarray, "..."]:
        """Covariance of the features [dim, dim], or their variances [dim] without `products`."""
        return self.squares / (self.rows - ddof)

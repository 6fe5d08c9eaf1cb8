"""What position does to features, told from the controls of that position, of its row and column
and of the wells around it.

The mean of the n controls of position p over the plates is

  m_p = row(p) + column(p) + around(p) + own(p) + noise / sqrt(n)

with independent Gaussian effects: a row or column of the plate shares its own, `around` has the
correlation exp(-distance / 4 wells), `own` is of the position alone. Their four variances, as
multiples of the noise of one well, are one set for all features and are fitted by maximum
likelihood; the effect of every position, with controls or without, is its best linear unbiased
prediction (kriging; Rasmussen & Williams 2006, equation 2.23). Where position does nothing the
variances, and so the effects, go to 0: nothing is subtracted but what controls tell.

A control is corrected by what the controls of all *other* positions tell of its own (equation 5.12,
leave one out), as a perturbation is whose position holds no controls: by its own mean it would look
better corrected than the perturbations are, and every later null of controls would be wrong.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

AROUND = 4.0  # wells over which an effect falls to 1/e
PARTS = ("row", "column", "around", "own")


@dataclass(frozen=True)
class PositionEffects:
    """What to subtract from the wells of each position, in units of the controls' deviation.

    Attributes:
      effects: of the perturbations there, [positions, dim].
      of_controls: of the controls there, told by those of other positions, [positions, dim].
      variances: of each of PARTS, as a multiple of a well's noise.
    """

    effects: Float64[np.ndarray, "positions dim"]
    of_controls: Float64[np.ndarray, "positions dim"]
    variances: dict[str, float]


def _kernels(
    a: Int[np.ndarray, "a 2"], b: Int[np.ndarray, "b 2"]
) -> tuple[Float64[np.ndarray, "a b"], ...]:
    """Correlation of the effects of two lists of places (row, column), for each of PARTS."""
    rows, columns = (np.subtract.outer(a[:, k], b[:, k]) for k in (0, 1))
    around = np.exp(-np.hypot(rows, columns) / AROUND)
    return (rows == 0) * 1.0, (columns == 0) * 1.0, around, ((rows == 0) & (columns == 0)) * 1.0


def position_effects(
    means: Float64[np.ndarray, "controlled dim"],
    counts: Int[np.ndarray, " controlled"],
    noise: Float64[np.ndarray, " dim"],
    places: Int[np.ndarray, "positions 2"],
    controlled: Int[np.ndarray, " controlled"],
) -> PositionEffects:
    """Effects of all positions, by the means of the controls of some.

    Args:
      means: of the controls of a position, each well relative to its batch.
      counts: of these controls.
      noise: variance of the controls of one position, of each feature; one without (0) has no
        effects.
      places: row and column of each position, from 1.
      controlled: which positions the means are of.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    scale = np.sqrt(np.where(noise > 0, noise, 1))
    values = np.where(noise > 0, means / scale, 0)
    square = values @ values.T / max(1, int((noise > 0).sum()))
    among = _kernels(places[controlled], places[controlled])
    sampling = np.diag(1 / counts)

    def covariance(variances: Float64[np.ndarray, " parts"]) -> Float64[np.ndarray, "n n"]:
        return sum(v * one for v, one in zip(variances, among, strict=True)) + sampling

    def deviance(logs: Float64[np.ndarray, " parts"]) -> float:
        factor = cho_factor(covariance(np.exp(logs)), lower=True)
        fitted = np.trace(cho_solve(factor, square))
        return float(2 * np.log(np.diag(factor[0])).sum() + fitted)

    start = np.log(np.full(len(PARTS), 0.1))
    bounds = [(np.log(1e-6), np.log(1e4))] * len(PARTS)
    variances = np.exp(minimize(deviance, start, method="L-BFGS-B", bounds=bounds).x)
    inverse = np.linalg.inv(covariance(variances))
    solved = inverse @ values
    everywhere = _kernels(places, places[controlled])
    effects = sum(v * one for v, one in zip(variances, everywhere, strict=True)) @ solved * scale
    of_controls = effects.copy()
    of_controls[controlled] = (values - solved / np.diag(inverse)[:, None]) * scale
    found = dict(zip(PARTS, variances.tolist(), strict=True))
    return PositionEffects(effects, of_controls, found)

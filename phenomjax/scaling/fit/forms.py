"""The form of the law that forecasts, chosen on the fitted runs alone.

A law that fits well between its runs can bend the wrong way beyond them. Two changes to L(N, D) =
E + A / N^alpha + B / D^beta make it stiffer where it is used: one exponent for both terms (as Gadre
et al. 2024, arXiv 2403.08540, fit it), and D - D0 for D: the first units count for nothing while
the rate warms up. Which of the four forms forecasts is decided by two questions to the fitted runs:
which forms do they refute (by Akaike's criterion with its correction for few runs), and which of
the others forecasts their own largest budgets best from the smaller ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from phenomjax.scaling.fit import projection
from phenomjax.scaling.fit.projection import PLAIN, Problem, Solutions

ONE_EXPONENT = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0]])
WITH_OFFSET = np.diag([0.0, 0, 1])
REFUTED = 10.0  # of Akaike's criterion, above the best (Burnham and Anderson's "no support")
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)  # of the runs that are fitted when budgets are left out
# with fewer, errors of left-out budgets say less than the criterion does
FEWEST_FITTED, FEWEST_CUTS = 20, 2
_EXACT = 1e-6  # in units of delta: residuals below are no evidence for one form over another


@dataclass(frozen=True)
class Form:
    """One form of the law.

    Attributes:
      along: projects steps of the search.
      unknowns: how many numbers are fitted.
      words: for a reader.
    """

    along: Float[np.ndarray, "3 3"]
    unknowns: int
    words: str


FORMS = {
    "plain": Form(PLAIN, 5, "E + A / N^alpha + B / D^beta"),
    "one_exponent": Form(ONE_EXPONENT, 4, "E + A / N^gamma + B / D^gamma"),
    "offset": Form(PLAIN + WITH_OFFSET, 6, "E + A / N^alpha + B / (D - D0)^beta"),
    "one_exponent_offset": Form(
        ONE_EXPONENT + WITH_OFFSET, 5, "E + A / N^gamma + B / (D - D0)^gamma"
    ),
}


def fitted(
    problem: Problem,
    form: str,
    starts: Float[np.ndarray, "k 2"],
    weights: Float[np.ndarray, "1 runs"] | None = None,
) -> Solutions:
    """The best fit of a form: one row.

    Args:
      problem: the runs.
      form: of `FORMS`.
      starts: alpha and beta where the search begins, beside a few usual ones.
      weights: of the runs.
    """
    along = FORMS[form].along
    weights = np.ones((1, len(problem.size))) if weights is None else weights
    exponents = np.vstack([starts, [[0.35, 0.35], [0.15, 0.15], [0.6, 0.6]]])
    begin = np.column_stack([exponents @ along[:2, :2].T, np.zeros(len(exponents))])
    if along[2, 2]:
        begin = np.vstack([begin, begin + np.array([0, 0, 0.4])])
    found = projection.polish(problem, begin, weights, along=along[None])
    best = [int(found.objective.argmin())]
    return Solutions(found.searched[best], found.linear[best], found.objective[best])


def criterion(objective: float, runs: int, unknowns: int, delta: float) -> float:
    """Akaike's criterion, corrected for few runs (Hurvich and Tsai 1989), of Laplace residuals, as
    the Huber loss has them outside delta.
    """
    free = runs - unknowns - 1
    if free <= 0:
        return np.inf
    loss = objective + runs * _EXACT * delta**2
    return 2 * runs * float(np.log(loss)) + 2 * unknowns + 2 * unknowns * (unknowns + 1) / free


def chosen(
    params: Float[np.ndarray, " runs"],
    seen: Float[np.ndarray, " runs"],
    loss: Float[np.ndarray, " runs"],
    flops: Float[np.ndarray, " runs"],
    delta: float,
    starts: Float[np.ndarray, "k 2"],
) -> tuple[str, dict[str, dict[str, float]]]:
    """The form that forecasts, and what spoke for it.

    Args:
      params: N.
      seen: D.
      loss: L.
      flops: C, by whose size runs are left out.
      delta: of the Huber loss.
      starts: alpha and beta of the plain law.

    Returns:
      Its name; {form: {"criterion": Akaike's, above the best; "error": mean |log(forecast / loss)|
      of the largest budgets, absent where none could be left out}}.
    """
    problem = Problem.of(params, seen, loss, delta)
    solved = {form: fitted(problem, form, starts) for form in FORMS}
    values = {
        name: criterion(float(solved[name].objective[0]), len(loss), form.unknowns, delta)
        for name, form in FORMS.items()
    }
    best = min(values.values())
    scores = {
        name: {"criterion": value - best} for name, value in values.items() if np.isfinite(value)
    }
    left = [name for name, value in values.items() if value - best < REFUTED]
    cuts = _cuts(flops)
    if len(cuts) >= FEWEST_CUTS and len(left) > 1:
        for name in left:
            errors = [
                _error(params, seen, loss, below, delta, name, solved[name].searched[:, :2])
                for below in cuts
            ]
            scores[name]["error"] = float(np.mean(errors))
        return min(left, key=lambda name: scores[name]["error"]), scores
    return min(values, key=lambda name: values[name]), scores


def _cuts(flops: Float[np.ndarray, " runs"]) -> Sequence[Bool[np.ndarray, " runs"]]:
    """Which runs are fitted as the largest budgets are left out."""
    ordered = np.sort(flops)
    ends = sorted({float(ordered[int(share * len(ordered))]) for share in SHARES})
    masks = [flops < end * (1 - 1e-9) for end in ends]
    return [below for below in masks if below.sum() >= FEWEST_FITTED]


def _error(
    params: Float[np.ndarray, " runs"],
    seen: Float[np.ndarray, " runs"],
    loss: Float[np.ndarray, " runs"],
    below: Bool[np.ndarray, " runs"],
    delta: float,
    form: str,
    starts: Float[np.ndarray, "k 2"],
) -> float:
    """Mean |log(forecast / loss)| of the runs that were left out."""
    problem = Problem.of(params[below], seen[below], loss[below], delta)
    found = fitted(problem, form, starts)
    named = problem.named(found.searched, found.linear)
    said = law(named, params[~below], seen[~below])[0]
    return float(np.abs(np.log(said / loss[~below])).mean())


def law(
    parameters: Float[np.ndarray, "k values"],
    params: Float[np.ndarray, " m"],
    seen: Float[np.ndarray, " m"] | Float[np.ndarray, "#k m"],
) -> Float[np.ndarray, "k m"]:
    """E + A / N^alpha + B / (D - D0)^beta of several laws at several N and D.

    Args:
      parameters: E, A, B, alpha, beta, and D0 if it is not 0.
      params: N.
      seen: D, of each law if need be; D - D0 is at least a tenth of it.
    """
    floor, size, data, alpha, beta = (column[:, None] for column in parameters.T[:5])
    if parameters.shape[1] > 5:
        seen = np.maximum(seen - parameters[:, 5:], seen * (1 - projection.LARGEST_OFFSET))
    return floor + size * params**-alpha + data * seen**-beta

"""What runs must have before a law can be fitted to them, whichever way they came."""

import dataclasses
import itertools
import logging

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

from phenomjax.scaling.observations.runs import Observations
from phenomjax.system.errors import UserError, first_of

log = logging.getLogger("phenomjax")
FEWEST = 6  # runs, for five values of a law
ONE_BUDGET = 2.0  # runs within this factor of FLOPs say nothing of more FLOPs
BITS = 1 / np.log(2)  # bits in a nat
OUTLIER = 0.3  # of log(loss) away from what runs around it reach: diverged, or another unit
EXPONENTS = 0.1, 0.2, 0.35, 0.5, 0.8  # of laws that are tried, for which runs lie away from all
MANY = 15  # runs, for a function of second degree
RISING = 0.5  # rank correlation of loss and FLOPs
LADDER = "python -m phenomjax.scaling ladder --config FILE --budgets 1e12,3e12,1e13 --out DIR"
Values = Float64[np.ndarray, " runs"]


def checked(runs: Observations, where: str) -> Observations:
    """The runs without those that are there twice, which are named.

    Args:
      runs: finite and positive where known.
      where: they come from.

    Raises:
      UserError: fewer than six, of one budget, one size or one amount of data; or losses that no
        law has.
    """
    runs = _once(runs)
    enough(runs, where)
    if np.ptp(runs.loss) == 0:
        raise UserError(
            f"All runs of {where} have the same loss, {runs.loss[0]:.6g}: nothing is learnt from"
            " more of anything. Name the column, or give the runs, of the loss at the end."
        )
    rising = float(stats.spearmanr(runs.cost, runs.loss).statistic)
    if rising > RISING:
        raise UserError(
            f"The loss of {where} grows with the FLOPs of the runs (rank correlation {rising:.2f}),"
            " and that of a law falls. Is it an accuracy, or a likelihood? Name the column, or give"
            " the runs, of a loss."
        )
    return runs


def _once(runs: Observations) -> Observations:
    """The runs without copies: to the last digit the same parameters, data and loss."""
    first, copies = dict[tuple[float, ...], int](), dict[int, int]()
    for place, key in enumerate(zip(runs.params, runs.seen, runs.loss, strict=True)):
        if first.setdefault(key, place) != place:
            copies[place] = first[key]
    if not copies:
        return runs
    told = [f"{runs.names[copy]} is {runs.names[of]} again" for copy, of in copies.items()]
    log.warning(
        "left out, for the same parameters, data and loss to the last digit are one run: %s",
        first_of(told),
    )
    kept = runs.take(np.array([place not in copies for place in range(len(runs))]))
    return dataclasses.replace(kept, left_out=(*runs.left_out, *told))


def enough(runs: Observations, where: str) -> None:
    """Raises UserError where five values cannot be told from so few runs, or from such."""
    if len(runs) < FEWEST:
        more = (
            f" {len(runs.left_out)} were left out:"
            f" {first_of([one.rstrip('.') for one in runs.left_out], 3)}."
            if runs.left_out
            else ""
        )
        raise UserError(
            f"{where} has {len(runs)} run{'s' * (len(runs) != 1)} that can be fitted, and a law of"
            f" five values wants {FEWEST} or more, better twenty.{more} Train more, at three"
            f" budgets or more: `{LADDER}`."
        )
    for name, values, least, mend in (
        ("budget", runs.cost, ONE_BUDGET, f"Add budgets: `{LADDER}` again with more of them"),
        ("size of model", runs.params, 1.2, f"Add sizes: `{LADDER}` takes several at each budget"),
        ("amount of data", runs.seen, 1.2, f"Add lengths: `{LADDER}` takes several budgets"),
    ):
        if values.max() < least * values.min():
            unit = {"budget": "FLOPs", "size of model": "parameters"}.get(
                name, runs.unit or "units"
            )
            raise UserError(
                f"All {len(runs)} runs of {where} are of one {name}: {values.min():.4g} to"
                f" {values.max():.4g} {unit}. How the loss falls with more cannot be told from one."
                f" {mend}."
            )
    together = np.corrcoef(np.log(runs.params), np.log(runs.seen))[0, 1]
    if abs(together) > 0.999:
        log.warning(
            "the data of all runs grow with their parameters (%.3g units a parameter): the two"
            " exponents cannot be told apart, and forecasts hold for runs of this kind alone",
            float(np.median(runs.seen / runs.params)),
        )


def in_bits(params: Values, seen: Values, loss: Values) -> Bool[np.ndarray, " runs"]:
    """Which runs have their loss in bits, where the rest have it in nats; none, where one cannot
    tell.

    The log of the loss is a smooth function of log N and log D, plus log(1 / ln 2) of some runs:
    which ones is searched from the residuals of a robust fit, largest first, and then by turns.
    What is found must leave next to nothing of residuals that are large without it.
    """
    target, features = np.log(loss), _features(params, seen)
    before = float(np.std(target - features @ np.linalg.lstsq(features, target, rcond=None)[0]))
    if before < 0.06:
        return np.zeros(len(loss), bool)
    plain = target - features @ _robust(features, target)
    shift, best, found = np.log(BITS), np.inf, np.zeros(len(loss), bool)
    order = np.argsort(-plain)
    for count in np.unique(np.linspace(1, len(loss) - 1, 40).astype(int)):
        bits = np.zeros(len(loss), bool)
        bits[order[:count]] = True
        for _ in range(10):
            rest = target - shift * bits
            residual = target - features @ _robust(features, rest)
            again = residual > shift / 2
            if (again == bits).all():
                break
            bits = again
        error = float(np.median(np.abs(residual - shift * bits)))
        if error < best and 0 < bits.sum() < len(loss):
            best, found = error, bits
    # one run that is off is off by any amount: only by the very factor it is in bits
    shifted = target - shift * found
    rest = shifted - features @ _robust(features, shifted)
    exact = np.abs(rest[found]).max(initial=0.0) < 0.08
    # of few runs many choices fit a plane
    if exact and float(np.std(rest)) < before / (4 if len(loss) >= 10 else 10):
        return found
    return np.zeros(len(loss), bool)


def outliers(params: Values, seen: Values, loss: Values) -> Values:
    """By how much log(loss) lies away from what the law of most runs gives; 0 where that is less
    than `OUTLIER`, or than ten times what is usual among the runs.

    The law is the best in absolute deviations over a coarse grid of exponents: a run that is wrong
    does not bend it.
    """
    best, residual = np.inf, np.zeros_like(loss)
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        terms = (params / params.min()) ** -alpha, (seen / seen.min()) ** -beta
        columns = np.column_stack([np.ones_like(loss), *terms])
        expected = columns @ _robust(columns, loss)
        away = np.log(loss / np.maximum(expected, loss.min() / 10))
        if np.abs(away).sum() < best:
            best, residual = float(np.abs(away).sum()), away
    limit = max(OUTLIER, 10 * float(np.median(np.abs(residual))))
    return np.where(np.abs(residual) > limit, residual, 0.0)


def _features(params: Values, seen: Values) -> Float64[np.ndarray, "runs features"]:
    """1, log N, log D and, of many runs, their squares and product; centred and scaled."""
    size, data = (
        (np.log(one) - np.log(one).mean()) / max(float(np.log(one).std()), 1e-9)
        for one in (params, seen)
    )
    columns = [np.ones_like(size), size, data]
    if len(size) >= MANY:
        columns += [size**2, data**2, size * data]
    return np.column_stack(columns)


def _robust(
    features: Float64[np.ndarray, "runs features"], target: Values
) -> Float64[np.ndarray, " features"]:
    """Coefficients of least absolute residuals, by reweighted least squares."""
    weights = np.ones_like(target)
    coefficients = np.zeros(features.shape[1])
    for _ in range(30):
        root = np.sqrt(weights)[:, None]
        coefficients = np.linalg.lstsq(features * root, target * root[:, 0], rcond=None)[0]
        weights = 1 / np.maximum(np.abs(target - features @ coefficients), 1e-3)
    return coefficients

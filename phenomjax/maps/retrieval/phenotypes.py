"""Three questions to profiles, each answered by mean average precision (Kalinin et al. 2025):

activity         are the replicates of a perturbation nearer to each other than to the negative
                 controls (of the same plate, unless told)?
distinctiveness  … than to the wells of other perturbations?
consistency      are perturbations of the same target nearer to each other than to those that
                 share no target?
"""

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Shaped

from phenomjax.maps.retrieval.average_precision import (
    Precision,
    average_precision,
    average_precision_of_labels,
)
from phenomjax.maps.retrieval.options import RetrievalOptions, conditions_of
from phenomjax.maps.retrieval.significance import MeanPrecision, mean_average_precision
from phenomjax.maps.tables.columns import Columns, shown
from phenomjax.maps.tables.names import targets_of
from phenomjax.maps.tables.profiles import Profiles

log = logging.getLogger("phenomjax")

ONE_FEATURE = "of one feature every similarity is 1 or -1, and nothing ranks equal ones"


@dataclass(frozen=True)
class Retrieval:
    """Answer to one question.

    Attributes:
      mean: of each perturbation or target that can be asked; None where `reason` says why none can.
      reason: "" where there is an answer.
      alone: wells left out because no other well is to be found, or none among which.
      rules: what was compared with what, in words.
      lone: perturbations or targets whose profiles have one other to find.
      least: the smallest p that any of these can have.
    """

    mean: MeanPrecision | None = None
    reason: str = ""
    alone: int = 0
    rules: str = ""
    lone: int = 0
    least: float = 0.0


def activity(
    profiles: Profiles,
    columns: Columns,
    options: RetrievalOptions,
    *,
    labels: Shaped[np.ndarray, " wells"],
    seed: int,
) -> Retrieval:
    """Are replicates nearer to each other than to negative controls?

    Args:
      profiles: wells under study and negative controls, aligned alike.
      columns: of their metadata.
      options: rules and null.
      labels: what the replicates of each row under study share, in the order of these rows.
      seed: of the null.
    """
    controls = columns.controls(profiles.metadata)
    if not controls.any():
        return Retrieval(reason="no row is a negative control (--control)")
    return _of_wells(profiles, columns, options, controls, "negative controls", labels, seed)


def distinctiveness(
    profiles: Profiles,
    columns: Columns,
    options: RetrievalOptions,
    *,
    labels: Shaped[np.ndarray, " wells"],
    seed: int,
) -> Retrieval:
    """Are replicates nearer to each other than to wells of other perturbations? See `activity`."""
    under_study = columns.treatments(profiles.metadata)
    return _of_wells(profiles, columns, options, under_study, "wells under study", labels, seed)


def _of_wells(
    profiles: Profiles,
    columns: Columns,
    options: RetrievalOptions,
    others: Bool[np.ndarray, " rows"],
    among: str,
    labels: Shaped[np.ndarray, " wells"],
    seed: int,
) -> Retrieval:
    if profiles.features.shape[1] == 1:
        return Retrieval(reason=ONE_FEATURE)
    under_study = columns.treatments(profiles.metadata)
    queries = np.flatnonzero(under_study)
    every = np.full(len(profiles), "", object)
    every[queries] = labels
    positives, negatives = conditions_of(options, profiles, columns, every, (under_study, others))
    precision = average_precision(
        profiles.features, positives, negatives, queries=queries, similarity=options.similarity
    )
    return _answer(precision, labels, options, seed, _rules(options, among))


def consistency(
    perturbations: Profiles, columns: Columns, options: RetrievalOptions, *, seed: int
) -> Retrieval:
    """Are perturbations of a target nearer to each other than to those that share none?

    Args:
      perturbations: the map; rows without a target take no part.
      columns: of its metadata.
      options: similarity and null.
      seed: of the null.
    """
    if perturbations.features.shape[1] == 1:
        return Retrieval(reason=ONE_FEATURE)
    targets = targets_of(perturbations, columns)
    named = np.array([bool(own) for own in targets], bool)
    names = sorted({name for own in targets for name in own})
    code = {name: k for k, name in enumerate(names)}
    labels = [sorted(code[name] for name in own) for own in targets if own]
    if not named.any():
        column = shown(columns.gene)
        return Retrieval(
            reason=f"no perturbation names a target; their column is {column} (--gene)"
        )
    precision = average_precision_of_labels(
        perturbations.features[np.flatnonzero(named)], labels, similarity=options.similarity
    )
    groups = np.array(names, object)[precision.label]
    rules = "perturbations that share a target, among those that share none"
    return _answer(precision, groups, options, seed, rules)


def _answer(
    precision: Precision,
    groups: Shaped[np.ndarray, " queries"],
    options: RetrievalOptions,
    seed: int,
    rules: str,
) -> Retrieval:
    kept = precision.answerable
    alone = int((~kept).sum())
    if not kept.any():
        reason = (
            "no two rows are a pair by these rules"
            if not (precision.positives > 0).any()
            else "no row has others among which to find its like by these rules"
        )
        return Retrieval(None, f"{reason} ({rules})", alone, rules)
    mean = mean_average_precision(
        precision.take(kept),
        groups[kept],
        null_size=options.null_size,
        seed=seed,
        rule=options.p_values,
    )
    pairs = kept & (precision.positives == 1) & (options.p_values == "careful")
    lone = len(np.unique(groups[pairs]))
    least = 1 / (2 * int(precision.total[pairs].max()) - 1) if lone else 0.0
    return Retrieval(mean, "", alone, rules, lone, least)


def tell_coarse_null(options: RetrievalOptions, *found: Retrieval) -> None:
    """Says, once for all answers, when a null is too small for as many tests."""
    tests = max((len(one.mean) for one in found if one.mean is not None), default=0)
    if tests > 0.05 * (options.null_size + 1):
        log.warning(
            "mAP: %d tests with p-values of at least 1/%d: one that is active alone cannot reach a"
            " false discovery rate of 0.05. Use --null_size %d or more",
            *(tests, options.null_size + 1, 20 * tests),
        )


def _rules(options: RetrievalOptions, others: str) -> str:
    """As "wells of the same perturbation, found among negative controls of the same plate and of
    another perturbation".
    """

    def words(same: tuple[str, ...], other: tuple[str, ...]) -> str:
        parts = [f"of the same {name}" for name in same] + [f"of another {name}" for name in other]
        return " and ".join(dict.fromkeys(parts)) or "of any kind"

    found = words(options.pos_sameby, options.pos_diffby)
    return f"wells {found}, found among {others} {words(options.neg_sameby, options.neg_diffby)}"

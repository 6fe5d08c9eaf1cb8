"""Mean average precision in the benchmark: map.activity, map.distinctiveness, map.consistency (see
`maps/retrieval/phenotypes.py` for what each asks).

An alignment that is fitted on the controls knows them: whitened, they lie apart from each other by
its fit to their noise, and whatever was not fitted seems to lie together. On CPJUMP1 plates 10 to
12 half of the controls, on which TVN was fitted at 128 dimensions, make .60 of the compounds
active, the half that it has not seen .16 (sphering .73 and .41, center_scale .45 and .42). So
map.activity_unseen says what is left among unseen controls, beside what those fitted say. It errs
downwards a little: with half of the controls batches are aligned less well.
"""

import logging
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np

from phenomjax.maps.benchmark.measures import Entry, entry, missing
from phenomjax.maps.build import aggregate
from phenomjax.maps.retrieval.options import RetrievalOptions
from phenomjax.maps.retrieval.phenotypes import (
    Retrieval,
    activity,
    consistency,
    distinctiveness,
    tell_coarse_null,
)
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.statistics import bootstrap
from phenomjax.system.errors import UserError
from phenomjax.system.help_pages import with_flags

log = logging.getLogger("phenomjax")

LEVEL = 0.05
LEAST_CONTROLS = 4  # of a batch, so that each half has a mean and a spread


def retrieval_entries(
    aligned: Profiles | None,
    wells: Profiles,
    perturbations: Profiles,
    columns: Columns,
    options: RetrievalOptions,
    *,
    doses: str,
    seed: int,
) -> dict[str, Entry]:
    """map.activity, .distinctiveness and .consistency, each .mean and .share_q05; and
    map.consistency_of_active.mean, of the perturbations that are active only, as the paper has it.

    Args:
      aligned: wells with their controls; None where the table is a map already.
      wells: those under study.
      perturbations: the map.
      columns: of their metadata.
      options: rules and null.
      doses: "apart" or "together".
      seed: of the nulls.
    """
    found: dict[str, Entry] = {}
    nothing = Retrieval(reason="the table is a map already (--map), without replicates")
    active, others, labels = nothing, nothing, np.empty(0, object)
    if aligned is not None:
        labels = aggregate.labels_of(wells, columns, doses).astype(str)
        active = activity(aligned, columns, options, labels=labels, seed=seed)
        others = distinctiveness(wells, columns, options, labels=labels, seed=seed)
    found |= _entries("activity", active, "perturbations", options, seed)
    found |= _entries("distinctiveness", others, "perturbations", options, seed)
    alike = consistency(perturbations, columns, options, seed=seed)
    found |= _entries("consistency", alike, "target genes", options, seed)
    tell_coarse_null(options, active, others, alike)
    some = Retrieval(reason=active.reason)
    if aligned is not None and active.mean is not None:
        rows = np.isin(labels, active.mean.names[active.mean.q <= LEVEL])
        names = wells.metadata[columns.perturbation][rows].astype(str)
        kept = perturbations.metadata[columns.perturbation].astype(str).isin(names).to_numpy()
        some = (
            consistency(perturbations.take(kept), columns, options, seed=seed)
            if kept.any()
            else Retrieval(reason="no perturbation is active")
        )
    name = "consistency_of_active"
    found[f"map.{name}.mean"] = _entries(name, some, "target genes", options, seed)[
        f"map.{name}.mean"
    ]
    return found


def _entries(
    name: str, found: Retrieval, over: str, options: RetrievalOptions, seed: int
) -> dict[str, Entry]:
    keys = (f"map.{name}.mean", f"map.{name}.share_q05")
    mean = found.mean
    if mean is None:
        return {key: missing(found.reason) for key in keys}
    more = {
        "compared": found.rules,
        "profiles_left_out": found.alone,
        "null": f"{options.null_size} random rankings, seed {seed}",
    }
    below = (mean.q <= LEVEL).astype(float)
    chance = float(mean.expected.mean())
    return {
        keys[0]: entry(
            mean.value.mean(),
            bootstrap.interval_of_mean(mean.value),
            len(mean),
            over,
            chance=chance,
            normalized=float(mean.normalized.mean()),
            **more,
        ),
        keys[1]: entry(below.mean(), bootstrap.interval_of_mean(below), len(mean), over, **more),
    }


def unseen_controls_entry(
    wells: Profiles,
    columns: Columns,
    options: RetrievalOptions,
    align: Callable[[Profiles, Columns], Profiles],
    *,
    doses: str,
    seed: int,
) -> Entry:
    """map.activity_unseen.share_q05: activity among half of the controls after an alignment on the
    other half; "fitted" is the same among those of the alignment.

    Args:
      wells: before the alignment.
      columns: of their metadata.
      options: rules and null.
      align: fitted on the controls that the columns name.
      doses: "apart" or "together".
      seed: of the halves and of the null.
    """
    controls = columns.controls(wells.metadata)
    batches = columns.batches(wells.metadata)
    fitted = np.zeros(len(wells), bool)
    rng = np.random.default_rng(seed)
    for batch in np.unique(batches):
        rows = np.flatnonzero(controls & (batches == batch))
        if len(rows) < LEAST_CONTROLS:
            return missing(f"a batch has {len(rows)} controls, too few to leave half of them out")
        fitted[rng.permutation(rows)[: len(rows) // 2]] = True
    roles = {
        "fitted_control": fitted,
        "unseen_control": controls & ~fitted,
        "under_study": columns.treatments(wells.metadata),
    }
    log.info("activity among unseen controls: aligned once more, on half of the controls")
    marked = replace(wells, metadata=wells.metadata.assign(**roles))
    half = replace(columns, control="fitted_control", positive="", treatment="under_study")
    try:
        aligned = align(marked, half)
    except UserError as error:  # the whole did suffice
        why = with_flags(str(error), [one.name for one in fields(options)])
        return missing(f"half of the controls are too few for this alignment: {why}")
    labels = aggregate.labels_of(aggregate.chosen(aligned, half), half, doses).astype(str)
    shares = {}
    for name in ("fitted", "unseen"):
        among = replace(half, control=f"{name}_control")
        found = activity(aligned, among, options, labels=labels, seed=seed)
        if found.mean is None:
            return missing(found.reason)
        shares[name] = (found.mean.q <= LEVEL).astype(float)
    seen, unseen = shares["fitted"].mean(), shares["unseen"]
    interval = bootstrap.interval_of_mean(unseen)
    if interval and seen > interval[1] and seen - unseen.mean() > LEVEL:
        log.warning(
            "activity: %.3f of the perturbations are active among the controls that the alignment"
            " was fitted on, and %.3f among as many that it has not seen: most of the difference is"
            " its fit to the noise of the controls. The second errs downwards a little, since half"
            " of the controls had to do for the alignment (map.activity_unseen.share_q05)",
            seen,
            unseen.mean(),
        )
    return entry(
        unseen.mean(), interval, len(unseen), "perturbations", fitted=float(seen), seed=seed
    )

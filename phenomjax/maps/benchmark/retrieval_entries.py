"""Mean average precision in the benchmark: map.activity, map.distinctiveness, map.consistency (see
`maps/retrieval/phenotypes.py` for what each asks).
"""

import numpy as np

from phenomjax.maps.benchmark.measures import Entry, entry, missing
from phenomjax.maps.build import aggregate
from phenomjax.maps.retrieval.options import RetrievalOptions
from phenomjax.maps.retrieval.phenotypes import Retrieval, activity, consistency, distinctiveness
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.statistics import bootstrap

LEVEL = 0.05


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
    nothing = Retrieval(None, "the table is a map already (--map), without replicates", 0, "")
    active, others, labels = nothing, nothing, np.empty(0, object)
    if aligned is not None:
        labels = aggregate.labels_of(wells, columns, doses).astype(str)
        active = activity(aligned, columns, options, labels=labels, seed=seed)
        others = distinctiveness(wells, columns, options, labels=labels, seed=seed)
    found |= _entries("activity", active, "perturbations", options, seed)
    found |= _entries("distinctiveness", others, "perturbations", options, seed)
    alike = consistency(perturbations, columns, options, seed=seed)
    found |= _entries("consistency", alike, "target genes", options, seed)
    some = Retrieval(None, active.reason, 0, "")
    if aligned is not None and active.mean is not None:
        rows = np.isin(labels, active.mean.names[active.mean.q <= LEVEL])
        names = wells.metadata[columns.perturbation][rows].astype(str)
        kept = perturbations.metadata[columns.perturbation].astype(str).isin(names).to_numpy()
        some = (
            consistency(perturbations.take(kept), columns, options, seed=seed)
            if kept.any()
            else Retrieval(None, "no perturbation is active", 0, "")
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

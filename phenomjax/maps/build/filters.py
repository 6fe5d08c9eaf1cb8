"""Filter perturbations: do the replicates agree, and are they far from the controls? With
permutation p-values and FDR.

  python -m phenomjax.maps filter --profiles aligned.parquet --max_fdr 0.05 --out active/

Writes into --out: filter.parquet (one row a perturbation: replicates, consistency, consistency_p,
consistency_q, magnitude, magnitude_p, magnitude_q, active), filter.json (counts), and
profiles.parquet: the wells of the active perturbations, and of the controls.

consistency: mean cosine over all pairs of replicates, NaN with one replicate. Null: random sets of
wells of different perturbations (seeded), or with --null position sets of wells in the same
positions of their plates, or the perturbations of --unexpressed genes. magnitude:
energy distance to the controls, NaN with fewer than 5 replicates. Null: sets of controls. Here p =
(1 + null at least as large) / (1 + null), never 0, so that FDR is honest (the benchmark's shares
are of EFAAR's p, without the 1s). q: Benjamini-Hochberg over the perturbations that have a p and
are not of the null.
active: q of --by at most --max_fdr.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from phenomjax.maps.build import aggregate
from phenomjax.maps.build.confounding import confounding, placed
from phenomjax.maps.build.consistency import DRAWS, Null, consistency, refuse_two_nulls
from phenomjax.maps.build.magnitude import LEAST_REPLICATES, magnitudes
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.options import Doses, Folder, TableOptions
from phenomjax.maps.tables.unexpressed import unexpressed_wells
from phenomjax.maps.tables.writing import write
from phenomjax.statistics.permutation import p_values, q_values
from phenomjax.system.errors import UserError
from phenomjax.system.files import write_json, write_table

log = logging.getLogger("phenomjax")


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions):
    """Of `python -m phenomjax.maps filter`."""

    max_fdr: float = 0.05
    """false discovery rate"""
    by: Literal["consistency", "magnitude", "either", "both"] = "consistency"
    """what must be significant"""
    unexpressed: Annotated[str | None, tyro.conf.arg(metavar="FILE|QUERY")] = None
    """genes that are not expressed, the null of both: one a line, or a query on the profiles'
    columns"""
    null: Null = "random"
    """of consistency: any random sets of wells, or sets that share their position on the plates as
    the replicates do"""
    doses: Doses = "apart"
    """a compound at each dose is a perturbation of its own, or not"""
    draws: int = DRAWS
    """of each null"""
    seed: int = 0
    """of the draws"""
    out: Folder
    """of the results"""


def run(options: Options) -> int:
    """Scores, filters and writes."""
    import pandas as pd

    if options.draws < 1:
        raise UserError(f"`draws` is {options.draws}; it must be at least 1.")
    if not 0 < options.max_fdr <= 1:
        raise UserError(f"`max_fdr` is {options.max_fdr:g}; it must be above 0 and at most 1.")
    refuse_two_nulls(options.null, options.unexpressed)
    profiles, columns = load(options)
    if columns.well in profiles.metadata.columns:
        profiles = aggregate.to_wells(profiles, columns)
    controls = columns.controls(profiles.metadata)
    wells = aggregate.chosen(profiles, columns)
    labels = aggregate.labels_of(wells, columns, options.doses)
    idle = unexpressed_wells(options.unexpressed, wells, columns)
    drawn = {"draws": options.draws, "seed": options.seed}
    where = confounding(profiles, wells, labels, columns, null=options.null, **drawn)
    found = consistency(
        wells.features,
        labels,
        unexpressed=idle,
        placed=placed(profiles, wells, columns) if options.null == "position" else None,
        **drawn,
    )
    if not (found.replicates > 1).any():
        raise UserError(
            f"Each of the {len(found.names)} perturbations has one replicate, so that nothing can"
            " agree with itself. Give the other plates of the same layout too (`profiles` A B …),"
            " or look at `perturbation`: it must name what replicates share."
        )
    if options.by != "consistency" and not controls.any():
        raise UserError(
            f"`by` {options.by} measures the distance to controls, but `control`"
            f" {columns.control!r} is true nowhere. Name them."
        )
    codes = np.searchsorted(found.names, labels.astype(str))
    table = pd.DataFrame(
        {"perturbation": found.names, "replicates": found.replicates, "consistency": found.cosine}
    )
    table["consistency_p"] = found.honest_p
    table["consistency_q"] = q_values(np.where(found.in_null, np.nan, found.honest_p))
    table["magnitude"] = table["magnitude_p"] = np.nan
    if controls.any():
        size = magnitudes(
            wells.features,
            codes,
            len(found.names),
            profiles.features[controls],
            draws=options.draws,
            seed=options.seed,
        )
        table["magnitude"], table["magnitude_p"] = size.distance, size.p
        if idle is not None:
            passive = np.isin(np.arange(len(found.names)), codes[idle])
            null = np.sort(size.distance[passive & ~np.isnan(size.distance)])
            table["magnitude_p"] = p_values(null, size.distance, tied=size.tied)
    table["magnitude_q"] = q_values(table["magnitude_p"].where(~found.in_null).to_numpy())
    by_consistency, by_magnitude = (
        table[f"{name}_q"].to_numpy() <= options.max_fdr for name in ("consistency", "magnitude")
    )
    table["active"] = {
        "consistency": by_consistency,
        "magnitude": by_magnitude,
        "either": by_consistency | by_magnitude,
        "both": by_consistency & by_magnitude,
    }[options.by]
    out = Path(options.out)
    write_table(out / "filter.parquet", table)
    few = int((found.replicates < 2).sum()), int((found.replicates < LEAST_REPLICATES).sum())
    record = {
        "perturbations": len(table),
        "active": int(table["active"].sum()),
        "by": options.by,
        "max_fdr": options.max_fdr,
        "null": found.null,
        "positions": where.sentence(),
        "without_consistency": few[0],
        "without_magnitude": few[1],
        "seed": options.seed,
        "draws": options.draws,
    }
    kept = controls.copy()
    kept[columns.treatments(profiles.metadata)] = np.isin(
        labels.astype(str), found.names[table["active"]]
    )
    write(profiles.take(kept).after("filter", **record), out / "profiles.parquet")
    write_json(out / "filter.json", record)
    log.info(
        "filter: %d of %d perturbations are active (%s, FDR %g); %d have one replicate, %d fewer"
        " than %d for a magnitude; wrote %s",
        record["active"],
        len(table),
        options.by,
        options.max_fdr,
        few[0],
        few[1],
        LEAST_REPLICATES,
        out,
    )
    return 0

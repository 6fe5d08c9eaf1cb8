"""Filter perturbations: do the replicates agree, can they be told from the controls, and are they
far from them? With permutation p-values and FDR.

  python -m phenomjax.maps filter --profiles aligned.parquet --max_fdr 0.05 --out active/

Writes into --out: filter.parquet (one row a perturbation: replicates, consistency, activity and
magnitude, each also with _p and _q, and active), filter.json (counts), and profiles.parquet: the
wells of the active perturbations, and of the controls.

  consistency  are replicates more alike than wells of different perturbations? Mean cosine over
               all pairs of replicates. Null: random sets of wells of different perturbations
               (seeded), or with --null position sets of wells in the same positions of their
               plates, or the perturbations of --unexpressed genes
  activity     are replicates nearer to each other than to the negative controls of their plate?
               Mean average precision (mAP, as copairs; other comparisons by --pos_sameby …
               --neg_diffby, see maps/retrieval). Null: random rankings
  magnitude    are the wells far from the controls? Energy distance. Null: sets of controls

The three ask different things, so they count different perturbations. The first two are NaN with
one replicate, the third with fewer than 5. Here p = (1 + null at least as large) / (1 + null),
never 0, so that FDR is honest (the benchmark's shares are of EFAAR's p, without the 1s). q:
Benjamini-Hochberg over the perturbations that have a p and are not of the null. active: q of --by
at most --max_fdr.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Bool

from phenomjax.maps.build import aggregate
from phenomjax.maps.build.doubts import tell_doubts
from phenomjax.maps.build.magnitude import LEAST_REPLICATES, magnitudes
from phenomjax.maps.build.replicates import ReplicateOptions, replicates_of
from phenomjax.maps.retrieval.options import RetrievalOptions
from phenomjax.maps.retrieval.phenotypes import Retrieval, activity, tell_coarse_null
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.options import Folder, TableOptions
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.writing import write
from phenomjax.statistics.permutation import p_values, q_values
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.files import write_json, write_table
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd

ASKED = {
    "consistency": "replicates are more alike than wells of different perturbations",
    "activity": "replicates are nearer to each other than to the negative controls",
    "magnitude": "wells are far from the negative controls",
}


@dataclass(frozen=True, kw_only=True)
class Options(RetrievalOptions, ReplicateOptions, TableOptions, Overwrite):
    """Of `python -m phenomjax.maps filter`."""

    MAKES: ClassVar[tuple[str, ...]] = ("filter.parquet",)

    max_fdr: float = 0.05
    """false discovery rate"""
    by: Literal["consistency", "activity", "magnitude", "either", "both"] = "consistency"
    """what must be significant; either, both: of consistency and magnitude"""
    out: Folder
    """of the results"""


def run(options: Options) -> int:
    """Scores, filters and writes."""
    import pandas as pd

    if not 0 < options.max_fdr <= 1:
        raise UserError(f"`max_fdr` is {options.max_fdr:g}; it must be above 0 and at most 1.")
    options.check_null()
    options.check()
    profiles, columns = load(options)
    profiles = aggregate.wells_of(profiles, columns)
    controls = columns.controls(profiles.metadata)
    tell_doubts(profiles)
    replicates = replicates_of(profiles, columns, options)
    wells, labels, found = replicates.wells, replicates.labels.astype(str), replicates.consistency
    if not (found.replicates > 1).any():
        raise UserError(
            f"Each of the {len(found.names)} perturbations has one replicate, so that nothing can"
            " agree with itself. Give the other plates of the same layout too (`profiles` A B …),"
            " or look at `perturbation`: it must name what replicates share."
        )
    if options.by != "consistency" and not controls.any():
        raise UserError(
            f"`by` {options.by} compares with controls, but `control`"
            f" {columns.control!r} is true nowhere. Name them."
        )
    codes = np.searchsorted(found.names, labels)
    table = pd.DataFrame(
        {"perturbation": found.names, "replicates": found.replicates, "consistency": found.cosine}
    )
    table["consistency_p"] = found.honest_p
    table["consistency_q"] = q_values(np.where(found.in_null, np.nan, found.honest_p))
    among_controls = activity(profiles, columns, options, labels=labels, seed=options.seed)
    tell_coarse_null(options, among_controls)
    table = table.join(_activity_columns(among_controls), on="perturbation")
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
        if found.in_null.any():
            null = np.sort(size.distance[found.in_null & ~np.isnan(size.distance)])
            table["magnitude_p"] = p_values(null, size.distance, tied=size.tied)
    table["magnitude_q"] = q_values(table["magnitude_p"].where(~found.in_null).to_numpy())
    significant = {name: table[f"{name}_q"].to_numpy() <= options.max_fdr for name in ASKED}
    asked = {name: int(table[f"{name}_q"].notna().sum()) for name in ASKED}
    by_consistency, by_magnitude = significant["consistency"], significant["magnitude"]
    table["active"] = {
        **significant,
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
        "positions": replicates.positions.sentence(),
        "significant": {name: int(found.sum()) for name, found in significant.items()},
        "asked": asked,
        "activity_compares": among_controls.rules,
        "activity_left_out": among_controls.reason or f"{among_controls.alone} wells",
        "without_consistency": few[0],
        "without_magnitude": few[1],
        "seed": options.seed,
        "draws": options.draws,
    }
    kept = controls.copy()
    kept[columns.treatments(profiles.metadata)] = np.isin(labels, found.names[table["active"]])
    write(profiles.take(kept).after("filter", **record), out / "profiles.parquet")
    write_json(out / "filter.json", record)
    log.info("%s", _said(significant, asked, among_controls, options.max_fdr, whitened(profiles)))
    log.info(
        "filter: %d of %d perturbations are active (%s, FDR %g); %d have one replicate, %d fewer"
        " than %d for a magnitude",
        record["active"],
        len(table),
        options.by,
        options.max_fdr,
        few[0],
        few[1],
        LEAST_REPLICATES,
    )
    ending.wrote(out, "filter.parquet with all p and q, profiles.parquet of the active ones")
    ending.note(active=record["active"], perturbations=len(table))
    if record["active"]:
        ending.then(
            "a map of the active ones",
            "python -m phenomjax.maps aggregate --profiles {} --out map.parquet",
            out / "profiles.parquet",
        )
    return 0


def _activity_columns(found: Retrieval) -> "pd.DataFrame":
    """activity, activity_p, activity_q of each perturbation that can be asked, by its name."""
    import pandas as pd

    columns = ["activity", "activity_p", "activity_q"]
    if found.mean is None:
        return pd.DataFrame(columns=columns, dtype=float)
    values = np.stack([found.mean.value, found.mean.p, found.mean.q], axis=1)
    return pd.DataFrame(values, index=found.mean.names, columns=columns)


def whitened(profiles: Profiles) -> str:
    """The alignment of the profiles, where it made the covariance of the controls the identity."""
    steps = profiles.provenance.get("steps", [])
    methods = [step.get("method") for step in steps if step.get("command") == "align"]
    return next((method for method in methods if method in ("tvn", "sphering")), "")


def _said(
    significant: dict[str, Bool[np.ndarray, " perturbations"]],
    asked: dict[str, int],
    activity: Retrieval,
    fdr: float,
    whitened: str,
) -> str:
    """How many pass each test, and what each asks."""
    lines = [f"significant at FDR {fdr:g}, of the perturbations that have a p:"]
    for name, question in ASKED.items():
        number, of = int(significant[name].sum()), asked[name]
        count = f"{number:>6} of {of:>6} ({number / of:.3f})" if of else f"{'-':>6}{'':>18}"
        lines.append(f"  {name:<12}{count}  {question}")
    if activity.reason:
        lines.append(f"  activity could not be asked: {activity.reason}")
    else:
        lines.append(f"  activity is mAP: {activity.rules}")
    if whitened and not activity.reason:
        lines.append(
            f"  the profiles were fitted on these controls ({whitened}), which raises activity;"
            " maps benchmark says how much remains among controls that were not"
            " (map.activity_unseen.share_q05)"
        )
    if activity.lone:
        lines.append(
            f"  {activity.lone} perturbations have two replicates only, and no p of theirs can be"
            f" below {activity.least:.2g}: more replicates or more controls help"
        )
    if activity.alone and not activity.reason:
        lines.append(
            f"  {activity.alone} wells take no part in it: no other well is to be found, or none"
            " among which"
        )
    return "\n".join(lines)

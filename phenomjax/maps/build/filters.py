"""Filter perturbations: do the replicates agree, and are they far from the controls? With
permutation p-values and FDR.

  python -m phenomjax.maps filter --profiles aligned.parquet --max_fdr 0.05 --out active/

Writes into --out: filter.parquet (one row a perturbation: replicates, consistency, consistency_p,
consistency_q, magnitude, magnitude_p, magnitude_q, active), filter.json (counts), and
profiles.parquet: the wells of the active perturbations, and of the controls.

consistency: mean cosine over all pairs of replicates, NaN with one replicate. Null: random sets of
wells of different perturbations (seeded), or the perturbations of --unexpressed genes. magnitude:
energy distance to the controls, NaN with fewer than 5 replicates. Null: sets of controls. Here p =
(1 + null at least as large) / (1 + null), never 0, so that FDR is honest (the benchmark's shares
are of EFAAR's p, without the 1s). q: Benjamini-Hochberg over the perturbations that have a p.
active: q of --by at most --max_fdr.
"""

import argparse
import logging
from pathlib import Path

import numpy as np

from phenomjax.maps.build import aggregate
from phenomjax.maps.build.consistency import DRAWS, consistency
from phenomjax.maps.build.magnitude import LEAST_REPLICATES, magnitudes
from phenomjax.maps.tables.input import define_input, load
from phenomjax.maps.tables.names import unexpressed_rows
from phenomjax.maps.tables.profiles import write
from phenomjax.statistics.permutation import p_values, q_values
from phenomjax.system.errors import UserError
from phenomjax.system.files import write_json, write_table

log = logging.getLogger("phenomjax")

RULES = ("consistency", "magnitude", "either", "both")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    define_input(parser)
    parser.add_argument("--max_fdr", type=float, default=0.05, help="%(default)s")
    parser.add_argument(
        "--by", choices=RULES, default="consistency", help="what must be significant (%(default)s)"
    )
    parser.add_argument(
        "--unexpressed",
        metavar="FILE",
        default=None,
        help="genes that are not expressed, one a line: the null of both",
    )
    parser.add_argument(
        "--doses",
        choices=("apart", "together"),
        default="together",
        help="a compound at each dose is a perturbation of its own, or not (%(default)s)",
    )
    parser.add_argument("--draws", type=int, default=DRAWS, help="of each null (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """Scores, filters and writes."""
    import pandas as pd

    profiles, columns = load(args)
    if columns.well in profiles.metadata.columns:
        profiles = aggregate.to_wells(profiles, columns)
    controls = columns.controls(profiles.metadata)
    wells = aggregate.chosen(profiles, columns)
    labels = aggregate.labels_of(wells, columns, args.doses)
    idle = unexpressed_rows(args.unexpressed, wells, columns)
    found = consistency(wells.features, labels, unexpressed=idle, draws=args.draws, seed=args.seed)
    if not (found.replicates > 1).any():
        raise UserError(
            f"Each of the {len(found.names)} perturbations has one replicate, so that nothing can"
            " agree with itself. Give the other plates of the same layout too (--profiles A B …),"
            " or look at --perturbation: it must name what replicates share."
        )
    if args.by != "consistency" and not controls.any():
        raise UserError(
            f"--by {args.by} measures the distance to controls, but --control {columns.control!r}"
            " is true nowhere. Name them."
        )
    codes = np.searchsorted(found.names, labels.astype(str))
    table = pd.DataFrame(
        {"perturbation": found.names, "replicates": found.replicates, "consistency": found.cosine}
    )
    table["consistency_p"] = found.honest_p
    table["consistency_q"] = q_values(found.honest_p)
    table["magnitude"] = table["magnitude_p"] = np.nan
    if controls.any():
        size = magnitudes(
            wells.features,
            codes,
            len(found.names),
            profiles.features[controls],
            draws=args.draws,
            seed=args.seed,
        )
        table["magnitude"], table["magnitude_p"] = size.distance, size.p
        if idle is not None:
            passive = np.isin(np.arange(len(found.names)), codes[idle])
            null = np.sort(size.distance[passive & ~np.isnan(size.distance)])
            table["magnitude_p"] = p_values(null, size.distance, tied=size.tied)
    table["magnitude_q"] = q_values(table["magnitude_p"].to_numpy())
    by_consistency, by_magnitude = (
        table[f"{name}_q"].to_numpy() <= args.max_fdr for name in ("consistency", "magnitude")
    )
    table["active"] = {
        "consistency": by_consistency,
        "magnitude": by_magnitude,
        "either": by_consistency | by_magnitude,
        "both": by_consistency & by_magnitude,
    }[args.by]
    out = Path(args.out)
    write_table(out / "filter.parquet", table)
    few = int((found.replicates < 2).sum()), int((found.replicates < LEAST_REPLICATES).sum())
    record = {
        "perturbations": len(table),
        "active": int(table["active"].sum()),
        "by": args.by,
        "max_fdr": args.max_fdr,
        "null": found.null,
        "without_consistency": few[0],
        "without_magnitude": few[1],
        "seed": args.seed,
        "draws": args.draws,
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
        args.by,
        args.max_fdr,
        few[0],
        few[1],
        LEAST_REPLICATES,
        out,
    )
    return 0

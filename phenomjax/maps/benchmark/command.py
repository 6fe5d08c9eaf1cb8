"""Benchmark a map: known relationships, replicates, siblings, compounds and their targets, a linear
probe; each with its interval.

  python -m phenomjax.maps benchmark --profiles P1.csv.gz P2.csv.gz P3.csv.gz --batch Metadata_Plate \\
      --control 'Metadata_control_type == "negcon"' --perturbation Metadata_broad_sample --gene
      Metadata_gene \\ --align pca_center_scale --dims 128 --relationships CORUM.txt StringDB.txt
      --out report/

Takes wells (crops are averaged to wells first), aligns them, averages replicates to a map. Writes
into --out:
  benchmark.json        flat keys, each {"value", "interval" (95 %, bootstrap), "bootstrap_over", "count", …}, and "about":
      consistency.mean_cosine, .share_p05, .share_p01   replicates of a perturbation agree (what the null is, stands beside it)
      sibling.recall                  perturbations with the same target are among the nearest or most opposite 5 % of all pairs
      recall.CORUM, …                 known pairs are, one key a file; recall.CORUM@0.1,0.9 at further --thresholds;
                                      recall.CORUM.within_arm, .between_arms where --genes and
                                      --centromeres are given
      compound_gene.average_precision targets of a compound are first among all genes (maps with
      both)
      probe.balanced_accuracy         a linear classifier tells the perturbation in a batch it never saw
    A key that could not be had has the value null and a "reason".
  consistency.parquet   one row a perturbation        recall_curves.png, .json   recall over thresholds
  benchmark.md          the table for people

A table that is a map already (one row a gene, no controls) is benchmarked with --map:
  … --profiles counts.csv --features 'Mito|ConA|DAPI|WGA|Phalloidin' --map --perturbation Gene
  --gene Gene --transform sqrt \\
      --align standardize --relationships CORUM.txt --out report/

Measured on CPJUMP1, U2OS, 260 compounds, plates 10, 11, 12 (shares are of p < .05 and p < .01;
chance recall .10):
  --align                       mean cosine   share_p05   share_p01   sibling.recall
  none                                 .459        .696        .546             .200
  center_scale                         .427        .712        .565             .223
  pca_center_scale --dims 128          .240        .712        .527             .262
  tvn --dims 128 (rank-starved)        .234        .469        .354             .231
  pca_center_scale, plate 25 too       .235        .796        .631             .277
"""

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from phenomjax.maps.benchmark import measures
from phenomjax.maps.benchmark.measures import Entry
from phenomjax.maps.build import aggregate
from phenomjax.maps.build.align import align_as_told, define_alignment
from phenomjax.maps.build.consistency import DRAWS, Consistency, consistency
from phenomjax.maps.relations import recall
from phenomjax.maps.relations.cosines import units
from phenomjax.maps.relations.relationships import Relationships, read_relationships
from phenomjax.maps.tables import names as tables_names
from phenomjax.maps.tables.columns import Columns, require
from phenomjax.maps.tables.input import define_input, load
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.statistics import bootstrap
from phenomjax.system.errors import UserError
from phenomjax.system.files import save_figure, write_json, write_table, write_text

log = logging.getLogger("phenomjax")

TAILS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    define_input(parser)
    define_alignment(parser, "pca_center_scale")
    group = parser.add_argument_group("benchmark")
    group.add_argument(
        "--relationships",
        nargs="*",
        default=[],
        metavar="FILE",
        help="pairs (entity1, entity2) or complexes",
    )
    group.add_argument(
        "--thresholds",
        nargs="+",
        default=["0.05,0.95"],
        metavar="LOW,HIGH",
        help="the first names the plain keys (%(default)s)",
    )
    group.add_argument(
        "--targets",
        metavar="FILE",
        default=None,
        help="compound-gene pairs; default: the compounds' --gene column",
    )
    group.add_argument(
        "--map",
        action="store_true",
        help="the table is a map already: one row a perturbation, no controls",
    )
    group.add_argument(
        "--genes",
        metavar="FILE",
        default=None,
        help="gene positions, or a table gene, arm: recall within and between arms",
    )
    group.add_argument(
        "--centromeres",
        metavar="FILE",
        default=None,
        help="UCSC's centromeres or cytoBand, with --genes",
    )
    group.add_argument(
        "--only_mapped",
        action="store_true",
        help="only genes whose arm is known (--genes), of a map aligned on all of them",
    )
    group.add_argument(
        "--unexpressed",
        metavar="FILE",
        default=None,
        help="genes that are not expressed, one a line: the null of consistency",
    )
    group.add_argument(
        "--null_pairs",
        type=int,
        default=0,
        help=(
            "recall against so many random pairs (seed --seed) instead of all; some published"
            " numbers are"
        ),
    )
    group.add_argument(
        "--draws",
        type=int,
        default=DRAWS,
        help="random sets of the consistency's null (%(default)s)",
    )
    group.add_argument(
        "--doses",
        choices=("apart", "together"),
        default="together",
        help=(
            "replicates, for consistency and probe, share the dose too, or not (%(default)s); the"
            " map joins doses"
        ),
    )
    group.add_argument(
        "--probe",
        choices=("auto", "logistic", "ridge", "none"),
        default="auto",
        help="classifier; auto: logistic up to 100 classes",
    )
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--out", required=True, metavar="FOLDER")


def read_thresholds(words: list[str]) -> list[tuple[float, float]]:
    """--thresholds as numbers.

    Raises:
      UserError: not LOW,HIGH with 0 <= LOW < HIGH <= 1.
    """
    found = []
    for word in words:
        try:
            low, high = (float(part) for part in word.split(","))
        except ValueError:
            low, high = 1.0, 0.0
        if not 0 <= low < high <= 1:
            raise UserError(
                f"--thresholds {word}: each is LOW,HIGH, two shares of all pairs with LOW < HIGH,"
                " as 0.05,0.95."
            )
        found.append((low, high))
    return found


def maps_of(aligned: Profiles, columns: Columns) -> tuple[Profiles, Profiles | None]:
    """The map of perturbations (doses together), and the map of genes, None where no column names
    one.

    Genes are those of genetic perturbations where the map has any, else the targets of its
    compounds.
    """
    perturbations = aggregate.to_perturbations(aligned, columns)
    return perturbations, gene_map(perturbations, columns)


def gene_map(perturbations: Profiles, columns: Columns) -> Profiles | None:
    """One profile a gene, named in the column of perturbations; None where none is named."""
    targets = tables_names.targets_of(perturbations, columns)
    named = targets != ""
    if not named.any():
        return None
    genetic = aggregate.genetic(perturbations, columns)
    chosen = perturbations.take(genetic if genetic.any() else named)
    metadata = chosen.metadata.copy()
    metadata[columns.perturbation] = metadata[columns.gene].astype(str)
    return aggregate.collapse(replace(chosen, metadata=metadata), [columns.perturbation])


def wells_entries(
    wells: Profiles, columns: Columns, args: argparse.Namespace
) -> tuple[dict[str, Entry], Consistency]:
    """What is measured on aligned wells: consistency and the probe."""
    from phenomjax.maps.benchmark.linear_probe import probe

    labels = aggregate.labels_of(wells, columns, args.doses)
    idle = tables_names.unexpressed_rows(args.unexpressed, wells, columns)
    result = consistency(wells.features, labels, unexpressed=idle, draws=args.draws, seed=args.seed)
    entries = measures.consistency_entries(result)
    if args.probe == "none":
        return entries, result
    found = probe(wells.features, labels, columns.batches(wells.metadata), args.probe)
    if found is None:
        entries["probe.balanced_accuracy"] = measures.missing(
            "fewer than 2 perturbations are in at least 2 batches, so none can be held out"
        )
    else:
        entries["probe.balanced_accuracy"] = measures.entry(
            found.balanced_accuracy,
            bootstrap.interval_of_mean(found.recall),
            len(found.classes),
            "perturbations",
            wells=found.wells,
            folds=found.folds,
            classifier=found.classifier,
            chance=1 / len(found.classes),
        )
    return entries, result


def map_entries(
    perturbations: Profiles,
    genes: Profiles | None,
    columns: Columns,
    sources: list[Relationships],
    args: argparse.Namespace,
) -> tuple[dict[str, Entry], dict[str, Any]]:
    """What is measured on the maps: siblings, known relationships, compounds and genes; and the
    recall curves.
    """
    thresholds = read_thresholds(args.thresholds)
    targets = tables_names.targets_of(perturbations, columns)
    entries: dict[str, Entry] = {}
    named = targets != ""
    entries["sibling.recall"] = measures.sibling_entry(
        units(perturbations.features), targets, thresholds
    )
    curves: dict[str, Any] = {}
    if sources:
        if genes is None:
            reason = f"no perturbation names a gene in column '{columns.gene}' (--gene)"
            return (
                entries | {f"recall.{source.name}": measures.missing(reason) for source in sources},
                curves,
            )
        names = genes.metadata[columns.perturbation].astype(str).to_numpy(object)
        arm = None
        if args.genes:
            from phenomjax.maps.arm_bias.arms import read_arms

            arm = measures.arms_of(names, read_arms(args.genes, args.centromeres))
            unknown = names[arm == ""]
            log.info(
                "%d of %d genes have a chromosome arm%s",
                len(arm) - len(unknown),
                len(arm),
                _some_unknown(unknown),
            )
            if len(unknown) == len(names):
                raise UserError(
                    f"None of the {len(names)} genes of the map ({', '.join(names[:3])}, …) is in"
                    f" the annotation {args.genes}. Are these gene symbols of the same species?"
                    f" Name their column with --gene (now '{columns.gene}')."
                )
            if args.only_mapped:
                genes, names, arm = genes.take(arm != ""), names[arm != ""], arm[arm != ""]
        if len(names) < recall.LEAST_ENTITIES:
            reason = (
                f"the map has {len(names)} genes; below {recall.LEAST_ENTITIES} recall says nothing"
            )
            return (
                entries | {f"recall.{source.name}": measures.missing(reason) for source in sources},
                curves,
            )
        rows = units(genes.features)
        bounds = recall.bounds(rows, thresholds, null_pairs=args.null_pairs, seed=args.seed)
        null = (
            np.sort(recall.sampled_cosines(rows, args.null_pairs, args.seed))
            if args.null_pairs
            else recall.sorted_null(rows)
        )
        for source in sources:
            entries |= measures.recall_entries(rows, names, source, bounds, thresholds, arm)
            pairs = source.within(names)
            if len(pairs):
                shares = recall.curve(null, recall.pair_cosines(rows, pairs), np.array(TAILS))
                curves[source.name] = {
                    "share": [2 * t for t in TAILS],
                    "recall": shares.tolist(),
                    "pairs": len(pairs),
                }
    kinds = aggregate.genetic(perturbations, columns) & named
    has_kinds = columns.kind in perturbations.metadata.columns
    if genes is not None and has_kinds and kinds.any() and not kinds.all():
        compounds = perturbations.take(~kinds)
        entries["compound_gene.average_precision"] = measures.compound_gene_entry(
            units(compounds.features),
            compounds.metadata[columns.perturbation].astype(str).to_numpy(object),
            units(genes.features),
            genes.metadata[columns.perturbation].astype(str).to_numpy(object),
            read_relationships(args.targets) if args.targets else None,
            tables_names.targets_of(compounds, columns),
            args.seed,
        )
    else:
        entries["compound_gene.average_precision"] = measures.missing(
            f"the map has not both genes and compounds (column '{columns.kind}', --kind)"
        )
    return entries, curves


def _some_unknown(unknown: np.ndarray) -> str:
    return (
        "; unknown to the annotation:"
        f" {', '.join(map(str, unknown[:5]))}{', …' if len(unknown) > 5 else ''}"
        if len(unknown)
        else ""
    )


def benchmark(
    profiles: Profiles, columns: Columns, args: argparse.Namespace
) -> tuple[dict[str, Entry], dict[str, Any], Consistency | None, Profiles]:
    """All entries, the recall curves, the consistency of each perturbation, and the map of
    perturbations.
    """
    sources = [read_relationships(path) for path in args.relationships]
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise UserError(
            f"Two files of --relationships are named {max(names, key=names.count)}, and so would be"
            " their results. Rename one."
        )
    entries: dict[str, Entry] = {}
    result = None
    if args.map:
        if args.align not in ("none", "standardize", "pca"):
            raise UserError(
                "--map: a table of one row a perturbation has no controls for --align"
                f" {args.align}. Use --align none or standardize."
            )
        columns = replace(columns, batch=())
        labels = require(profiles.metadata, columns.perturbation, "--perturbation")
        twice = labels[labels.duplicated()]
        if len(twice):
            raise UserError(
                f"--map: {len(twice)} rows are a second row of their perturbation (the first:"
                f" '{twice.iloc[0]}'), and a map has one row each. Aggregate first (python -m"
                " phenomjax.maps aggregate), or give wells without --map."
            )
        wells = align_as_told(profiles, columns, args)
        reason = "the table is a map already (--map), without replicates"
        keys = (
            "consistency.mean_cosine",
            "consistency.share_p05",
            "consistency.share_p01",
            "probe.balanced_accuracy",
        )
        entries = {key: measures.missing(reason) for key in keys}
        perturbations, genes = maps_of(wells, columns)
    else:
        if columns.well in profiles.metadata.columns:
            profiles = aggregate.to_wells(profiles, columns)
        wells = aggregate.chosen(align_as_told(profiles, columns, args), columns)
        entries, result = wells_entries(wells, columns, args)
        perturbations, genes = maps_of(wells, columns)
    more, curves = map_entries(perturbations, genes, columns, sources, args)
    return entries | more, curves, result, perturbations


def run(args: argparse.Namespace) -> int:
    """Measures and writes."""
    import pandas as pd

    started = time.monotonic()
    profiles, columns = load(args)
    entries, curves, result, perturbations = benchmark(profiles, columns, args)
    out = Path(args.out)
    settings = {name: value for name, value in vars(args).items() if name not in ("command", "out")}
    about = {
        "settings": settings,
        "provenance": perturbations.provenance,
        "perturbations": len(perturbations),
    }
    write_json(out / "benchmark.json", {**entries, "about": about})
    if result is not None:
        table = {
            "perturbation": result.names,
            "replicates": result.replicates,
            "cosine": result.cosine,
            "p": result.p,
        }
        write_table(out / "consistency.parquet", pd.DataFrame(table))
    if curves:
        from phenomjax.maps.views.figures import recall_curves

        write_json(out / "recall_curves.json", curves)
        save_figure(
            recall_curves({source: {args.align: curve} for source, curve in curves.items()}),
            out / "recall_curves.png",
        )
    text = as_table(entries)
    write_text(out / "benchmark.md", text)
    print(text)
    log.info("benchmark: wrote %s in %.1f s", out / "benchmark.json", time.monotonic() - started)
    return 0


def as_table(entries: dict[str, Entry]) -> str:
    """The results as a Markdown table, and why what is missing is missing."""
    lines = ["| | value | 95 % interval | of | chance |", "| --- | --- | --- | --- | --- |"]
    reasons = []
    for key, one in entries.items():
        if one["value"] is None:
            reasons.append(f"- {key}: {one.get('reason', 'undefined')}")
            continue
        ends = " to ".join(f"{end:.3f}" for end in one["interval"]) if one["interval"] else ""
        chance = f"{one['chance']:.3g}" if one.get("chance") is not None else ""
        lines.append(f"| {key} | {one['value']:.3f} | {ends} | {one['count']} | {chance} |")
    return "\n".join(lines + (["", *reasons] if reasons else [])) + "\n"

"""Benchmark a map: known relationships, replicates, mAP, siblings, compounds and their targets, a
linear probe; each with its interval.

  python -m phenomjax.maps benchmark --profiles P1.csv.gz P2.csv.gz P3.csv.gz \\
      --align pca_center_scale --dims 128 --relationships CORUM.txt StringDB.txt --out report/

Takes wells (crops are averaged to wells first), aligns them, averages replicates to a map. Writes
into --out:
  benchmark.json        flat keys, each {"value", "interval" (95 %, bootstrap), "bootstrap_over",
                        "count", …}, and "about":
      consistency.mean_cosine, .share_p05, .share_p01
                        replicates of a perturbation agree (what the null is, stands beside it)
      position.share_p05
                        positions of the plates that hold nothing but controls, and would pass as
                        perturbations: what position alone does (chance .05); how many perturbations
                        have all replicates in one position stands beside it
      map.activity.mean, .share_q05; map.distinctiveness.…; map.consistency.…
                        mean average precision (mAP, as copairs), and the share with q <= .05:
                        replicates are found among the negative controls of their plate; among the
                        other wells of their plate; perturbations of a target among those of others
                        (map.consistency_of_active.mean: where only those active take part).
                        map.activity_unseen.share_q05: among controls that the alignment has not
                        seen, half of them; beside it what those fitted say, which can be far more
      sibling.recall    perturbations with the same target are among the nearest or most opposite
                        5 % of all pairs
      recall.CORUM, …   known pairs are, one key a file; recall.CORUM@0.1,0.9 at further
                        --thresholds; recall.CORUM.within_arm, .between_arms where --genes and
                        --centromeres are given
      compound_gene.average_precision
                        targets of a compound are first among all genes (maps with both)
      probe.balanced_accuracy
                        a linear classifier tells the perturbation in a batch it never saw
    A key that could not be had is null with a "reason". With --against each key also has
    "against": {NAME: {"value", "interval", "count", "outcome"}}, about.against says it in words.
  consistency.parquet   one row a perturbation
  recall_curves.png, .json   recall over thresholds
  benchmark.md          the table for people

A table that is a map already (one row a gene, no controls) is benchmarked with --map:
  … --profiles counts.csv --features 'Mito|ConA|DAPI|WGA|Phalloidin' --map --perturbation Gene \\
      --gene Gene --transform sqrt --align standardize --relationships CORUM.txt --out report/

RxRx3-core's own benchmark (phenomjax/maps/benchmark/protocols/rxrx3_core.py says what it is):
  … --protocol rxrx3-core --profiles OpenPhenom_rxrx3_core_embeddings.parquet \\
      --metadata metadata_rxrx3_core.csv --targets compound_gene_interactions.csv \\
      --relationships CORUM.txt --out report/

Beside what it must beat (a baseline is measured as the profiles are; one that was measured before
is given by its benchmark.json):
  python -m phenomjax.embed --checkpoint DIR --bank B.zarr --random_weights 0 --out twin.zarr
  python -m phenomjax.maps intensity --bank B.zarr --out intensity.parquet
  python -m phenomjax.maps structure --bank B.zarr --out structure.parquet
  … --profiles E.zarr --against untrained=twin.zarr intensity=intensity.parquet \\
      structure=structure.parquet --out report/

Measured on CPJUMP1, U2OS, 260 compounds, plates 10, 11, 12 (shares are of p < .05 and p < .01;
chance recall .10):
  --align                       mean cosine   share_p05   share_p01   sibling.recall
  none                                 .459        .696        .546             .200
  center_scale                         .427        .712        .565             .223
  pca_center_scale --dims 128          .240        .712        .527             .262
  tvn --dims 128 (rank-starved)        .234        .469        .354             .231
  pca_center_scale, plate 25 too       .235        .796        .631             .277
map.activity.share_q05 of these lines: .454, .381, .338, .773 (.158 among unseen controls), .431.
"""

import logging
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from phenomjax.maps.benchmark import against, entries, measures
from phenomjax.maps.benchmark.against import Baseline
from phenomjax.maps.benchmark.measures import Entry
from phenomjax.maps.benchmark.protocols import rxrx3_core
from phenomjax.maps.benchmark.retrieval_entries import retrieval_entries, unseen_controls_entry
from phenomjax.maps.build import aggregate
from phenomjax.maps.build.align import AlignmentOptions, align_as_told
from phenomjax.maps.build.doubts import tell_doubts
from phenomjax.maps.build.replicates import ReplicateOptions, replicates_of
from phenomjax.maps.relations import recall
from phenomjax.maps.relations.recall import Curve
from phenomjax.maps.relations.relationships import Relationships, read_relationships
from phenomjax.maps.retrieval.options import RetrievalOptions
from phenomjax.maps.tables.columns import Columns, require
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.metadata.symbols import read_aliases
from phenomjax.maps.tables.options import Files, Folder, of_others
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.statistics.consistency import Consistency
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.files import save_figure, write_json, write_table, write_text
from phenomjax.system.options import recorded
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

FITTED_ON_CONTROLS = ("center_scale", "pca_center_scale", "tvn", "sphering", "harmony")


@dataclass(frozen=True, kw_only=True)
class Options(RetrievalOptions, ReplicateOptions, AlignmentOptions, Overwrite):
    """Of `python -m phenomjax.maps benchmark`."""

    MAKES: ClassVar[tuple[str, ...]] = ("benchmark.json",)

    relationships: Files = ()
    """pairs (entity1, entity2) or complexes"""
    thresholds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LOW,HIGH ...")] = ("0.05,0.95",)
    """the first names the plain keys"""
    targets: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """compound-gene pairs; by default the compounds' --gene column"""
    protocol: Literal["none", "rxrx3-core"] = "none"
    """a published benchmark instead of all below and of --align: RxRx3-core's compounds and genes
    (phenomjax/maps/benchmark/protocols says how it is done)"""
    map: bool = False
    """the table is a map already: one row a perturbation, no controls"""
    genes: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """gene positions, or a table gene, arm: recall within and between arms"""
    centromeres: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """UCSC's centromeres or cytoBand, with --genes"""
    only_mapped: bool = False
    """only genes whose arm is known (--genes), of a map aligned on all of them"""
    null_pairs: int = 0
    """recall against so many random pairs (seed --seed) instead of all; some published numbers
    are"""
    probe: Literal["auto", "logistic", "ridge", "none"] = "auto"
    """classifier; auto: logistic up to 100 classes"""
    against: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH ...")] = ()
    """baselines: profiles of an untrained twin (`phenomjax.embed --random_weights`), of `maps
    intensity` and `maps structure`, of any other model, or their benchmark.json"""
    out: Folder
    """of the results"""


def wells_entries(
    aligned: Profiles, columns: Columns, options: Options
) -> tuple[dict[str, Entry], Consistency, Profiles]:
    """What is measured on aligned wells: consistency, position and the probe; and the wells under
    study.
    """
    found = replicates_of(aligned, columns, options)
    measured = measures.consistency_entries(found.consistency)
    measured["position.share_p05"] = measures.position_entry(found.positions)
    if options.probe != "none":
        measured["probe.balanced_accuracy"] = entries.probe_entry(
            found.wells, found.labels, columns, options.probe
        ) or measures.missing(
            "fewer than 2 perturbations are in at least 2 batches, so none can be held out"
        )
    return measured, found.consistency, found.wells


def map_entries(
    perturbations: Profiles,
    genes: Profiles | None,
    columns: Columns,
    sources: list[Relationships],
    options: Options,
) -> tuple[dict[str, Entry], dict[str, Curve]]:
    """What is measured on the maps: siblings, known relationships, compounds and genes; and the
    recall curves.
    """
    thresholds = recall.read_thresholds(options.thresholds)
    found = {"sibling.recall": entries.sibling_entry(perturbations, columns, thresholds)}
    arm = None
    if sources and genes is not None and options.genes:
        files = (options.genes, options.centromeres)
        genes, arm = entries.with_arms(genes, columns, files, options.only_mapped)
    recalls, curves = entries.known_pairs_entries(
        genes,
        columns,
        sources,
        thresholds,
        arm=arm,
        null_pairs=options.null_pairs,
        seed=options.seed,
    )
    found |= recalls
    found["compound_gene.average_precision"] = entries.compound_gene_entry(
        perturbations, genes, columns, options.targets, options.seed
    )
    return found, curves


def benchmark(
    profiles: Profiles, columns: Columns, options: Options
) -> tuple[dict[str, Entry], dict[str, Curve], Consistency | None, Profiles]:
    """All entries, the recall curves, the consistency of each perturbation, and the map of
    perturbations.
    """
    if options.protocol == "rxrx3-core":
        refuse_other_ways(options)
        interactions, sources = rxrx3_core.found_interactions(
            options.targets, options.relationships, (*options.profiles, *options.metadata)
        )
        measured, curves, rows = rxrx3_core.benchmark(
            profiles, interactions, sources, recall.read_thresholds(options.thresholds)
        )
        return measured, curves, None, rows
    sources = [read_relationships(path) for path in options.relationships]
    if options.aliases:
        aliases = read_aliases(options.aliases)
        sources = [source.renamed(aliases) for source in sources]
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise UserError(
            f"Two files of `relationships` are named {max(names, key=names.count)}, and so would be"
            " their results. Rename one."
        )
    options.check()
    found: dict[str, Entry] = {}
    result, aligned = None, None
    aggregate.require_one_context(profiles, columns)
    if options.map:
        if options.align not in ("none", "standardize", "pca"):
            raise UserError(
                "`map`: a table of one row a perturbation has no controls for `align`"
                f" {options.align}. Use `align` none or standardize."
            )
        columns = replace(columns, batch=())
        labels = require(profiles.metadata, columns.perturbation, "`perturbation`")
        twice = labels[labels.duplicated()]
        if len(twice):
            raise UserError(
                f"`map`: {len(twice)} rows are a second row of their perturbation (the first:"
                f" '{twice.iloc[0]}'), and a map has one row each. Aggregate first (python -m"
                " phenomjax.maps aggregate), or give wells without `map`."
            )
        wells = align_as_told(profiles, columns, options, options.align)
        reason = "the table is a map already (--map), without replicates"
        keys = (
            "consistency.mean_cosine",
            "consistency.share_p05",
            "consistency.share_p01",
            "position.share_p05",
            "probe.balanced_accuracy",
        )
        found = {key: measures.missing(reason) for key in keys}
    else:
        profiles = aggregate.wells_of(profiles, columns)
        _refuse_map(profiles, columns)
        aligned = align_as_told(profiles, columns, options, options.align)
        tell_doubts(aligned)
        found, result, wells = wells_entries(aligned, columns, options)
        if options.align in FITTED_ON_CONTROLS and columns.controls(profiles.metadata).any():
            found["map.activity_unseen.share_q05"] = unseen_controls_entry(
                profiles,
                columns,
                options,
                lambda some, roles: align_as_told(some, roles, options, options.align),
                doses=options.doses,
                seed=options.seed,
            )
    perturbations, genes = entries.maps_of(wells, columns)
    found |= retrieval_entries(
        aligned, wells, perturbations, columns, options, doses=options.doses, seed=options.seed
    )
    more, curves = map_entries(perturbations, genes, columns, sources, options)
    return found | more, curves, result, perturbations


def _refuse_map(profiles: Profiles, columns: Columns) -> None:
    """Refuses a map where wells are asked for.

    Raises:
      UserError: each row is another perturbation, and none a control.
    """
    names = profiles.metadata.get(columns.perturbation)
    if names is None or names.duplicated().any() or columns.controls(profiles.metadata).any():
        return
    raise UserError(
        f"Each of the {len(names)} rows is another perturbation and none is a negative control, as"
        " in a map: nothing tells what replicates share. If it is one, add `map` and `align` none."
        " If they are wells, give other plates of the layout too, and say which are `control`."
    )


def refuse_other_ways(options: Options) -> None:
    """A protocol says how profiles are aligned.

    Raises:
      UserError: an option says it otherwise.
    """
    ways = ("align", "dims", "pca_fit", "transform", "correct_positions", "map")
    usual = {one.name: one.default for one in fields(options)}
    other = [f"`{name}`" for name in ways if getattr(options, name) != usual[name]]
    if other:
        raise UserError(
            f"`protocol` {options.protocol} aligns profiles as it was published. Leave out"
            f" {', '.join(other)}, or the protocol."
        )


def measure_baseline(baseline: Baseline, options: Options) -> Baseline:
    """A baseline with its entries, found by the same options.

    Raises:
      UserError: its table cannot be read with them.
    """
    if (before := against.measured_before(baseline)) is not None:
        return before
    log.info("against %s: %s", baseline.name, ", ".join(baseline.paths))
    same = of_others(options, baseline.paths)
    try:
        profiles, columns = load(same)
        if same.dims is not None:  # of few features there are no more components
            same = replace(same, dims=min(same.dims, profiles.features.shape[1]))
        found, _, _, perturbations = benchmark(profiles, columns, same)
    except UserError as error:
        raise UserError(
            f"`against` {baseline.name}: {error} (It is read with the options of this command. Does"
            " it need others, benchmark it by itself and give its benchmark.json.)"
        ) from error
    return replace(baseline, entries=found, provenance=perturbations.provenance)


def run(options: Options) -> int:
    """Measures and writes."""
    import pandas as pd

    started = time.monotonic()
    baselines = against.named(options.against)
    options.check_null()
    profiles, columns = load(options)
    found, curves, result, perturbations = benchmark(profiles, columns, options)
    baselines = [measure_baseline(one, options) for one in baselines]
    found = against.beside(found, baselines)
    said = [against.sentence(found, one) for one in baselines]
    if not baselines and (offered := against.offer(perturbations.provenance)):
        log.info("%s", offered)
    if options.protocol == "rxrx3-core":
        said.append(rxrx3_core.beside_published(found))
    if seeds := against.seeds_of(perturbations.provenance):
        said.insert(0, f"These profiles are of an untrained network (seed {', '.join(seeds)}).")
    out = Path(options.out)
    settings = {name: value for name, value in recorded(options).items() if name != "out"}
    about = {
        "settings": settings,
        "provenance": perturbations.provenance,
        "perturbations": len(perturbations),
        "positions": found.get("position.share_p05", {}).get("said"),
        "against": {one.name: against.about(found, one) for one in baselines},
    }
    write_json(out / "benchmark.json", {**found, "about": about})
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

        aligned = options.align if options.protocol == "none" else options.protocol
        write_json(out / "recall_curves.json", curves)
        save_figure(
            recall_curves({source: {aligned: curve} for source, curve in curves.items()}),
            out / "recall_curves.png",
        )
    text = against.as_table(found, [one.name for one in baselines]) + "".join(
        f"\n{s}\n" for s in said
    )
    write_text(out / "benchmark.md", text)
    print(text)
    ending.wrote(out / "benchmark.json", f"in {time.monotonic() - started:.1f} s")
    ending.wrote(out / "benchmark.md", "the table above")
    ending.note(benchmark={name: one.get("value") for name, one in found.items()})
    ending.then(
        "set another map beside it",
        "python -m phenomjax.maps benchmark --profiles other.parquet --against {} --out compared",
        f"{out.absolute().name}={out}",
    )
    return 0

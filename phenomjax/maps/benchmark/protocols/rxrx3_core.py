"""RxRx3-core's benchmark (Kraus et al. 2025, arXiv 2503.20158): do compounds lie by the genes that
they act on, and genes by the genes that they work with? Zero-shot: nothing is learned.

  python -m phenomjax.maps benchmark --protocol rxrx3-core \\
      --profiles OpenPhenom_rxrx3_core_embeddings.parquet --metadata metadata_rxrx3_core.csv \\
      --targets compound_gene_interactions.csv --relationships CORUM.txt HuMAP.txt --out report/

The protocol, as recursionpharma/EFAAR_benchmarking has it (RxRx3-core_benchmarks/README.md and its
notebook):
  map        rows of a well averaged; PCA of all components fitted on the wells of EMPTY_control;
             centered and scaled on those of each experiment; wells averaged by perturbation (a gene
             over its guides) and concentration; compounds' controls and other concentrations than
             CONCENTRATIONS are left out
  compounds  a compound's targets are the genes with a measurement of at most 1,000 nM; beside them
             are drawn twice as many others (at least LEAST_NEGATIVES) of all genes with
             measurements, but for those between 1,000 and 10,000 nM with this compound. Genes are
             ranked by |cosine|: average precision and AUC of each concentration, and of the
             greatest |cosine| over the concentrations. The median and mean over compounds, each the
             mean over SEEDS seeds of the draw; chance: the same with random numbers for |cosine|.
             A seed draws from genes in the order of their names; the original draws from a set,
             whose order is another in each run
  genes      recall of known relationships (relations/recall.py); recall.SOURCE has the cosines of
             all rows of the map as null, compounds too, as the notebook has it;
             recall.SOURCE.among_genes only those of genes
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64

from phenomjax.maps.benchmark import measures
from phenomjax.maps.benchmark.measures import Entry
from phenomjax.maps.build import aggregate
from phenomjax.maps.build.align import align
from phenomjax.maps.relations import recall
from phenomjax.maps.relations.cosines import units
from phenomjax.maps.relations.interactions import Interactions, is_interactions, read_interactions
from phenomjax.maps.relations.relationships import Relationships, read_relationships
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.statistics import bootstrap
from phenomjax.statistics.cosines import exact_cosines
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")

NEEDED = ("well_id", "experiment_name", "treatment", "concentration", "perturbation_type")
CONTROL = "EMPTY_control"
CONCENTRATIONS = (0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0)  # µM
LEAST_NEGATIVES = 20
SEEDS = 100
KEYS = ("median_average_precision", "mean_average_precision", "median_auc", "mean_auc")
MAXIMUM = "max"  # over concentrations
INTERACTIONS = "*compound_gene_interactions*.csv*"
# Average precision, as quoted from Kenyon-Dean et al. 2025 (PMLR 267:29735); the quotation does not
# say whether over compounds it is the mean or the median.
PUBLISHED = (
    ("random", 0.222),
    ("CellProfiler", 0.274),
    ("CA-MAE-S/16 (OpenPhenom)", 0.273),
    ("MAE-L/8 (RPI-93M)", 0.290),
    ("MAE-G/8, trimmed", 0.309),
)
COLUMNS = Columns(
    batch=("experiment_name",),
    control=f'perturbation == "{CONTROL}"',
    perturbation="perturbation",
    dose="concentration",
    kind="perturbation_type",
)


@dataclass(frozen=True)
class Scores:
    """Average precision and AUC of each compound at one concentration (or the greatest over all).

    Attributes:
      precision, auc: float64 [seeds, compounds].
      random_precision, random_auc: the same with random numbers for |cosine|.
    """

    precision: Float64[np.ndarray, "seeds compounds"]
    auc: Float64[np.ndarray, "seeds compounds"]
    random_precision: Float64[np.ndarray, "seeds compounds"]
    random_auc: Float64[np.ndarray, "seeds compounds"]


def built(profiles: Profiles) -> Profiles:
    """The map: one row a perturbation and concentration.

    Raises:
      UserError: columns of metadata_rxrx3_core.csv are missing, or there are no controls.
    """
    missing = [name for name in NEEDED if name not in profiles.metadata]
    if missing:
        raise UserError(
            f"`protocol` rxrx3-core needs the columns {', '.join(NEEDED)} of"
            f" metadata_rxrx3_core.csv, but the profiles lack {', '.join(missing)}; they have"
            f" {', '.join(map(str, profiles.metadata.columns[:12]))}. Join them: `metadata`"
            " metadata_rxrx3_core.csv."
        )
    unknown = profiles.metadata["experiment_name"].isna().to_numpy()
    if unknown.any():
        log.warning(
            "rxrx3-core: %d of %d profiles are not in the metadata, and are left out: give the"
            " release's whole metadata_rxrx3_core.csv",
            *(unknown.sum(), len(profiles)),
        )
        profiles = profiles.take(~unknown)
    metadata = profiles.metadata[list(NEEDED)].copy()
    treatment = metadata["treatment"].astype(str)
    gene = treatment.str.split("_").str[0]  # GENE_guide_1
    metadata["perturbation"] = gene.where(~treatment.str.contains("_control"), treatment)
    profiles = replace(profiles, metadata=metadata)
    if metadata["well_id"].duplicated().any():
        profiles = aggregate.collapse(profiles, ["well_id"])
    controls = int((profiles.metadata["perturbation"] == CONTROL).sum())
    if controls < 3:
        raise UserError(
            f"`protocol` rxrx3-core aligns on the wells of {CONTROL}, of which there are"
            f" {controls}. Are these RxRx3-core's metadata, and all of its experiments?"
        )
    dims = min(profiles.features.shape[1], controls - 1)
    aligned = align(profiles, COLUMNS, "pca_center_scale", dims, "controls")
    table = aligned.metadata
    kind, dose = table["perturbation_type"].astype(str), table["concentration"].astype(float)
    used = np.isclose(dose.to_numpy()[:, None], CONCENTRATIONS, rtol=1e-6, atol=0).any(1)
    other = (kind == "COMPOUND") & table["perturbation"].str.contains("_control")
    kept = (~other & (used | dose.isna())).to_numpy()
    left = int((~kept & ~other.to_numpy()).sum())
    if left:
        log.info(
            "rxrx3-core: %d wells of concentrations that are not the benchmark's left out", left
        )
    keys = ["perturbation_type", "perturbation", "concentration"]
    return aggregate.collapse(
        aligned.take(kept), keys, may_differ=("well_id", "experiment_name", "treatment")
    )


def precision_and_auc(
    scores: Float[np.ndarray, "rows genes"], targets: Bool[np.ndarray, " genes"]
) -> tuple[Float64[np.ndarray, " rows"], Float64[np.ndarray, " rows"]]:
    """Average precision and area under the ROC curve of each row of scores, some of whose genes are
    targets, which should have the greatest scores.

    AUC = chance that a target has more than another gene, ties as a half (Mann and Whitney).
    """
    from scipy.stats import rankdata

    ranked = targets[np.argsort(-scores, axis=1, kind="stable")]
    count = int(targets.sum())
    ranks = rankdata(scores, axis=1)[:, targets].sum(1)
    pairs = count * (len(targets) - count)
    return measures.precision_of(ranked), (ranks - count * (count + 1) / 2) / pairs


def compound_scores(
    rows: Profiles, interactions: Interactions, seeds: Sequence[int]
) -> tuple[list[str], dict[str, Scores]]:
    """Scores of each compound with targets, at each concentration it was given at, and MAXIMUM.

    Args:
      rows: the map (`built`).
      interactions: measured.
      seeds: of the draws of negatives.

    Returns:
      (compounds, {concentration as text, or MAXIMUM: Scores of those compounds; NaN where a
      compound has not this concentration}).
    """
    names = rows.metadata["perturbation"].to_numpy(object)
    doses = rows.metadata["concentration"].to_numpy(np.float64)
    place = {name: k for k, name in enumerate(names) if np.isnan(doses[k])}
    measured = np.unique(interactions.gene.astype(str))
    genes = [name for name in measured if name in place]
    if len(genes) < len(measured):
        log.info(
            "rxrx3-core: %d of %d genes of %s are not in the map, and are left out",
            *(len(measured) - len(genes), len(measured), interactions.name),
        )
    column = {name: k for k, name in enumerate(genes)}
    ofgenes = units(rows.features[[place[name] for name in genes]])
    keys = [*(f"{dose:g}" for dose in CONCENTRATIONS), MAXIMUM]
    compounds: list[str] = []
    found: list[Float64[np.ndarray, "keys four seeds"]] = []
    for compound in np.unique(interactions.compound.astype(str)):
        own = np.flatnonzero((names == compound) & ~np.isnan(doses))
        active = np.array([g for g in interactions.active(compound) if g in column], object)
        others = sorted(set(genes) - set(active) - set(interactions.unclear(compound)))
        count = max(2 * len(active), LEAST_NEGATIVES)
        if not len(own) or not len(active) or len(others) < count:
            continue
        cosines = np.abs(exact_cosines(units(rows.features[own]), ofgenes))
        at = np.abs(doses[own][:, None] - CONCENTRATIONS).argmin(1)
        scores = np.full((len(keys), len(genes)), np.nan)
        scores[at], scores[-1] = cosines, cosines.max(0)
        targets = np.arange(len(active) + count) < len(active)
        there = np.append(np.isin(np.arange(len(CONCENTRATIONS)), at), True)
        values = np.full((len(keys), 4, len(seeds)), np.nan)
        for k, seed in enumerate(seeds):
            rng = np.random.default_rng(seed)
            drawn = rng.choice(others, count, replace=False)
            chosen = [column[name] for name in (*active, *drawn)]
            values[there, 0, k], values[there, 1, k] = precision_and_auc(
                scores[there][:, chosen], targets
            )
            noise = rng.random((int(there.sum()), len(chosen)))
            values[there, 2, k], values[there, 3, k] = precision_and_auc(noise, targets)
        compounds.append(str(compound))
        found.append(values)
    if not compounds:
        return [], {}
    of = np.stack(found, axis=-1)  # keys, four, seeds, compounds
    return compounds, {key: Scores(*of[k]) for k, key in enumerate(keys)}


def compound_entries(
    compounds: Sequence[str], scores: Mapping[str, Scores], genes: int
) -> dict[str, Entry]:
    """compound_gene.median_average_precision, .mean_average_precision, .median_auc and .mean_auc:
    of the greatest |cosine| over the concentrations, with those of each concentration in
    "by_concentration". The interval is over compounds; seeds_std is the deviation over seeds.
    """
    found = {}
    for what, name in (("average_precision", "precision"), ("auc", "auc")):
        for how, center in (("median", np.nanmedian), ("mean", np.nanmean)):

            def of(one: Scores, kind: str, center=center) -> Float64[np.ndarray, " seeds"]:
                values = getattr(one, kind)
                there = ~np.isnan(values).all(0)
                return center(values[:, there], axis=1) if there.any() else np.full(1, np.nan)

            value, chance = (of(scores[MAXIMUM], kind) for kind in (name, f"random_{name}"))
            spread = float(chance.std(ddof=1))
            draws = [
                center(getattr(scores[MAXIMUM], name)[:, rows], axis=1).mean()
                for block in bootstrap.drawn(len(compounds))
                for rows in block
            ]
            found[f"compound_gene.{how}_{what}"] = measures.entry(
                float(value.mean()),
                bootstrap.interval(np.array(draws)),
                len(compounds),
                "compounds",
                chance=float(chance.mean()),
                z=float(value.mean() - chance.mean()) / spread if spread else None,
                seeds=len(value),
                seeds_std=float(value.std(ddof=1)),
                genes=genes,
                by_concentration={
                    key: None if np.isnan(each := of(one, name).mean()) else float(each)
                    for key, one in scores.items()
                    if key != MAXIMUM
                },
            )
    return found


def recall_entries(
    rows: Profiles, sources: Sequence[Relationships], thresholds: Sequence[tuple[float, float]]
) -> tuple[dict[str, Entry], dict[str, recall.Curve]]:
    """Recall of known relationships among the genes, and its curves (the null is all rows)."""
    is_gene = (rows.metadata["perturbation_type"] == "CRISPR").to_numpy()
    names = rows.metadata["perturbation"].to_numpy(object)[is_gene]
    if not sources:
        return {}, {}
    if reason := recall.too_few(len(names)):
        return {f"recall.{source.name}": measures.missing(reason) for source in sources}, {}
    everything = units(rows.features)
    genes = everything[is_gene]
    nulls = {"": everything, ".among_genes": genes}
    limits = {suffix: recall.bounds(null, thresholds) for suffix, null in nulls.items()}
    null = recall.sorted_null(everything)
    found: dict[str, Entry] = {}
    curves: dict[str, recall.Curve] = {}
    for source in sources:
        for suffix, bounds in limits.items():
            named = replace(source, name=source.name + suffix)
            found |= measures.recall_entries(genes, names, named, bounds, thresholds)
        pairs = source.within(names)
        if len(pairs):
            curves[source.name] = recall.curve(null, recall.pair_cosines(genes, pairs))
    return found, curves


def found_interactions(
    targets: str | None, relationships: Sequence[str], beside: Sequence[str]
) -> tuple[Interactions | None, list[Relationships]]:
    """The measured activities, and the other relationships.

    Args:
      targets: a file of measured activities, if it was named.
      relationships: files, one of which may hold them.
      beside: files beside which compound_gene_interactions.csv is looked for.
    """
    if targets is not None:
        return read_interactions(targets), [read_relationships(path) for path in relationships]
    measured = [path for path in relationships if is_interactions(path)]
    others = [read_relationships(path) for path in relationships if path not in measured]
    if not measured:
        folders = dict.fromkeys(Path(path).parent for path in beside)
        measured = [str(path) for folder in folders for path in sorted(folder.glob(INTERACTIONS))]
        if measured:
            log.info("rxrx3-core: activities of compounds from %s", measured[0])
    return (read_interactions(measured[0]) if measured else None), others


def benchmark(
    profiles: Profiles,
    interactions: Interactions | None,
    sources: Sequence[Relationships],
    thresholds: Sequence[tuple[float, float]],
    seeds: Sequence[int] | None = None,
) -> tuple[dict[str, Entry], dict[str, recall.Curve], Profiles]:
    """All entries, the recall curves, and the map.

    Args:
      profiles: wells with the metadata of the release.
      interactions: measured, if they are known.
      sources: of known relationships between genes.
      thresholds: of recall, (low, high) each.
      seeds: of the draws of negatives; 0 … SEEDS - 1 by default.

    Raises:
      UserError: see `built`.
    """
    rows = built(profiles)
    seeds = range(SEEDS) if seeds is None else seeds
    compounds, scores, genes = list[str](), dict[str, Scores](), 0
    reason = (
        "no measured activities of compounds are given (--targets compound_gene_interactions.csv;"
        " recursionpharma/EFAAR_benchmarking has it)"
    )
    if interactions is not None:
        compounds, scores = compound_scores(rows, interactions, seeds)
        genes = len(np.unique(interactions.gene.astype(str)))
        reason = (
            f"no compound of {interactions.name} is in the map with a target and"
            f" {LEAST_NEGATIVES} other genes"
        )
    found = (
        compound_entries(compounds, scores, genes)
        if compounds
        else {f"compound_gene.{key}": measures.missing(reason) for key in KEYS}
    )
    recalls, curves = recall_entries(rows, sources, thresholds)
    done = rows.after("rxrx3-core", rows=len(rows), seeds=len(seeds))
    return found | recalls, curves, done


def beside_published(found: Mapping[str, Entry]) -> str:
    """The average precision beside the published ones, and by concentration, in Markdown."""
    median, mean = (found[f"compound_gene.{how}_average_precision"] for how in ("median", "mean"))
    if median["value"] is None:
        return ""
    lines = [
        "| average precision of compounds by their genes | mean | median | as published |",
        "| --- | --- | --- | --- |",
        f"| these profiles | {mean['value']:.3f} | {median['value']:.3f} | |",
    ]
    here = {"random": f"{mean['chance']:.3f} | {median['chance']:.3f}"}
    lines += [f"| {name} | {here.get(name, '|')} | {value:.3f} |" for name, value in PUBLISHED]
    doses = [key for key, value in median["by_concentration"].items() if value is not None]
    lines += ["", f"| µM | {' | '.join(doses)} |", f"| --- {'| --- ' * len(doses)}|"]
    for key, text in (("median_average_precision", "median AP"), ("mean_auc", "mean AUC")):
        values = found[f"compound_gene.{key}"]["by_concentration"]
        lines.append(f"| {text} | {' | '.join(f'{values[dose]:.3f}' for dose in doses)} |")
    return "\n".join(lines) + "\n"

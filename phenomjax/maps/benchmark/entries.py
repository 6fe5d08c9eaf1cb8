"""What the benchmark measures on aligned wells, and on the maps made of them."""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from phenomjax.maps.arm_bias.arms import read_arms
from phenomjax.maps.benchmark import measures
from phenomjax.maps.benchmark.measures import Entry
from phenomjax.maps.build import aggregate
from phenomjax.maps.relations import recall
from phenomjax.maps.relations.cosines import units
from phenomjax.maps.relations.relationships import Relationships, read_relationships
from phenomjax.maps.tables.columns import Columns, shown
from phenomjax.maps.tables.names import are_named, targets_of
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.statistics import bootstrap
from phenomjax.system.errors import UserError, first_of

log = logging.getLogger("phenomjax")


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
    genetic = aggregate.genetic(perturbations, columns)
    named = genetic if genetic.any() else are_named(targets_of(perturbations, columns))
    if not named.any():
        return None
    genes = aggregate.named_by_gene(perturbations.take(named), columns)
    return aggregate.collapse(genes, [columns.perturbation], may_differ=genes.metadata.columns)


def probe_entry(
    wells: Profiles,
    labels: Shaped[np.ndarray, " wells"],
    columns: Columns,
    classifier: str,
) -> Entry | None:
    """Balanced accuracy of the linear probe; None where no batch can be held out."""
    from phenomjax.maps.benchmark.linear_probe import probe

    found = probe(wells.features, labels, columns.batches(wells.metadata), classifier)
    if found is None:
        return None
    return measures.entry(
        found.balanced_accuracy,
        bootstrap.interval_of_mean(found.recall),
        len(found.classes),
        "perturbations",
        wells=found.wells,
        folds=found.folds,
        classifier=found.classifier,
        chance=1 / len(found.classes),
    )


def sibling_entry(
    perturbations: Profiles, columns: Columns, thresholds: Sequence[tuple[float, float]]
) -> Entry:
    """Recall of the pairs of perturbations with the same target."""
    return measures.sibling_entry(
        units(perturbations.features), targets_of(perturbations, columns), thresholds
    )


def with_arms(
    genes: Profiles, columns: Columns, files: tuple[str, str | None], only_mapped: bool
) -> tuple[Profiles, Shaped[np.ndarray, " genes"]]:
    """The map of genes, and the chromosome arm of each, "" where it is unknown.

    Args:
      genes: the map.
      columns: of its metadata.
      files: of gene positions and centromeres.
      only_mapped: leave out genes without an arm.

    Raises:
      UserError: the arm of no gene is known.
    """
    names = genes.metadata[columns.perturbation].astype(str).to_numpy(object)
    arm = measures.arms_of(names, read_arms(*files))
    unknown = names[arm == ""]
    some = f"; unknown to the annotation: {first_of(unknown)}"
    log.info(
        "%d of %d genes have a chromosome arm%s",
        len(arm) - len(unknown),
        len(arm),
        some if len(unknown) else "",
    )
    if len(unknown) == len(names):
        raise UserError(
            f"None of the {len(names)} genes of the map ({', '.join(names[:3])}, …) is in the"
            f" annotation {files[0]}. Are these gene symbols of the same species? Name their column"
            f" with `gene` (now '{columns.gene}')."
        )
    return (genes.take(arm != ""), arm[arm != ""]) if only_mapped else (genes, arm)


def known_pairs_entries(
    genes: Profiles | None,
    columns: Columns,
    sources: Sequence[Relationships],
    thresholds: Sequence[tuple[float, float]],
    *,
    arm: Shaped[np.ndarray, " genes"] | None = None,
    null_pairs: int = 0,
    seed: int = 0,
) -> tuple[dict[str, Entry], dict[str, recall.Curve]]:
    """Recall of known relationships, and its curves.

    Args:
      genes: the map of genes, if there is one.
      columns: of its metadata.
      sources: of known relationships.
      thresholds: (low, high) each.
      arm: of each gene, for the recall within and between chromosome arms.
      null_pairs: recall against so many random pairs instead of all.
      seed: of these.
    """
    reason = (
        f"no perturbation names a gene; their column is {shown(columns.gene)} (--gene)"
        if genes is None
        else recall.too_few(len(genes))
    )
    if not sources or genes is None or reason:
        return {f"recall.{source.name}": measures.missing(reason) for source in sources}, {}
    names = genes.metadata[columns.perturbation].astype(str).to_numpy(object)
    rows = units(genes.features)
    bounds = recall.bounds(rows, thresholds, null_pairs=null_pairs, seed=seed)
    null = (
        np.sort(recall.sampled_cosines(rows, null_pairs, seed))
        if null_pairs
        else recall.sorted_null(rows)
    )
    entries: dict[str, Entry] = {}
    curves: dict[str, recall.Curve] = {}
    for source in sources:
        entries |= measures.recall_entries(rows, names, source, bounds, thresholds, arm)
        pairs = source.within(names)
        if len(pairs):
            curves[source.name] = recall.curve(null, recall.pair_cosines(rows, pairs))
    return entries, curves


def compound_gene_entry(
    perturbations: Profiles,
    genes: Profiles | None,
    columns: Columns,
    targets: str | None = None,
    seed: int = 0,
) -> Entry:
    """Are the targets of a compound first among all genes?

    Args:
      perturbations: the map.
      genes: the map of genes, if there is one.
      columns: of their metadata.
      targets: a file of pairs of compounds and genes; by default the compounds' column of genes.
      seed: of the permutations that tell chance.
    """
    kinds = aggregate.genetic(perturbations, columns) & are_named(
        targets_of(perturbations, columns)
    )
    has_kinds = columns.kind in perturbations.metadata.columns
    if genes is None or not has_kinds or not kinds.any() or kinds.all():
        return measures.missing(
            "the map has not both genes and compounds; the column of kinds is"
            f" {shown(columns.kind)} (--kind)"
        )
    compounds = perturbations.take(~kinds)
    return measures.compound_gene_entry(
        units(compounds.features),
        compounds.metadata[columns.perturbation].astype(str).to_numpy(object),
        units(genes.features),
        genes.metadata[columns.perturbation].astype(str).to_numpy(object),
        read_relationships(targets) if targets else None,
        targets_of(compounds, columns),
        seed,
    )

"""What the benchmark measures, each as one entry {"value", "interval", "count", …} under a flat
dotted key.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Shaped

from phenomjax.maps.build.confounding import LEVEL, Confounding
from phenomjax.maps.relations import recall
from phenomjax.maps.relations.relationships import Relationships
from phenomjax.maps.tables.profiles import Record
from phenomjax.statistics import bootstrap
from phenomjax.statistics.consistency import Consistency
from phenomjax.statistics.cosines import exact_cosines

if TYPE_CHECKING:
    import pandas as pd

Entry = Record
PERMUTATIONS = 200


def entry(
    value: float | None, interval: Sequence[float] | None, count: int, over: str, **more: object
) -> Entry:
    """One result: its value, 95 % bootstrap interval, the count of what was averaged, and what the
    bootstrap resampled.
    """
    value = None if value is None or not np.isfinite(value) else float(value)
    kept = None if value is None or interval is None else [float(end) for end in interval]
    return {"value": value, "interval": kept, "count": int(count), "bootstrap_over": over, **more}


def missing(reason: str, **more: object) -> Entry:
    """A result that could not be had, and why."""
    return {"value": None, "interval": None, "count": 0, "reason": reason, **more}


def consistency_entries(result: Consistency) -> dict[str, Entry]:
    """consistency.mean_cosine, .share_p05 and .share_p01 over the perturbations with at least 2
    replicates, without those of the null.
    """
    known = ~np.isnan(result.cosine) & ~result.in_null
    if not known.any():
        reason = (
            "all perturbations with replicates are of unexpressed genes, which are the null"
            if (~np.isnan(result.cosine)).any()
            else "every perturbation has one replicate, so nothing can agree with itself; give"
            " several plates (--profiles A B …) of one layout"
        )
        return {
            f"consistency.{key}": missing(reason)
            for key in ("mean_cosine", "share_p05", "share_p01")
        }
    more = {
        "without_replicates": int(np.isnan(result.cosine).sum()),
        "replicates": int(result.replicates[known].sum()),
        "null": result.null,
    }
    values = {"mean_cosine": result.cosine[known]}
    values |= {
        key: (result.p[known] < level).astype(float)
        for key, level in (("share_p05", 0.05), ("share_p01", 0.01))
    }
    return {
        f"consistency.{key}": entry(
            value.mean(), bootstrap.interval_of_mean(value), len(value), "perturbations", **more
        )
        for key, value in values.items()
    }


def position_entry(found: Confounding) -> Entry:
    """position.share_p05: positions with nothing but controls that would pass for perturbations."""
    lie = {
        "perturbations": found.perturbations,
        "in_one_position": found.in_one_position,
        "said": found.sentence(),
    }
    if found.controls is None:
        return missing("controls do not lie in the same positions of several plates", **lie)
    return entry(
        found.share,
        found.interval,
        len(found.controls.names),
        "control positions",
        chance=LEVEL,
        null=found.controls.null,
        **lie,
    )


def same_target_pairs(
    targets: Shaped[np.ndarray, " rows"],
) -> tuple[Int[np.ndarray, "pairs 2"], Shaped[np.ndarray, " pairs"]]:
    """All pairs of rows that share a target, once each, and the first target that they share.

    Args:
      targets: a set of genes each, object [rows].
    """
    members: dict[str, list[int]] = {}
    for row, genes in enumerate(targets):
        for gene in genes:
            members.setdefault(gene, []).append(row)
    shared = sorted(gene for gene, rows in members.items() if len(rows) > 1)
    if not shared:
        return np.empty((0, 2), int), np.empty(0, object)
    rows = [
        np.array(members[gene])[np.stack(np.triu_indices(len(members[gene]), 1), 1)]
        for gene in shared
    ]
    pairs = np.concatenate(rows)
    _, first = np.unique(pairs @ [len(targets), 1], return_index=True)  # of several targets, one
    kept = np.sort(first)
    return pairs[kept], np.repeat(np.array(shared, object), [len(some) for some in rows])[kept]


def sibling_entry(
    rows: Float32[np.ndarray, "rows dim"],
    targets: Shaped[np.ndarray, " rows"],
    thresholds: Sequence[tuple[float, float]],
) -> Entry:
    """sibling.recall: recall of the pairs of perturbations with the same target, at the first
    thresholds.

    Args:
      rows: unit rows of the map of perturbations.
      targets: genes of each, a set, empty where unknown.
    """
    pairs, groups = same_target_pairs(targets)
    if not len(pairs):
        return missing("no two perturbations name the same target gene (--gene)")
    hit = recall.recalled(rows, pairs, thresholds[:1])[0]
    chance = thresholds[0][0] + 1 - thresholds[0][1]
    return entry(
        hit.mean(),
        bootstrap.interval_of_mean(hit, groups),
        len(pairs),
        "target genes",
        targets=len(set(groups)),
        perturbations=len(rows),
        thresholds=list(thresholds[0]),
        chance=chance,
    )


def name_of(thresholds: tuple[float, float]) -> str:
    """The end of the key at other than the first thresholds: @0.1,0.9."""
    return f"@{thresholds[0]:g},{thresholds[1]:g}"


def recall_entries(
    rows: Float32[np.ndarray, "rows dim"],
    names: Shaped[np.ndarray, " rows"],
    source: Relationships,
    bounds: recall.Bounds,
    thresholds: Sequence[tuple[float, float]],
    arm: Shaped[np.ndarray, " rows"] | None = None,
) -> dict[str, Entry]:
    """recall.SOURCE, recall.SOURCE@LOW,HIGH for further thresholds, recall.SOURCE.within_arm and
    .between_arms.

    Args:
      rows, names: unit rows and entities of the map.
      bounds: of this map at these thresholds.
      arm: chromosome arm of each entity, "" where unknown.
    """
    key = f"recall.{source.name}"
    pairs = source.within(names)
    unmatched = source.describe_unmatched(names)
    entities = len(np.unique(pairs))
    about = {
        "known_pairs_in_file": len(source.pairs),
        "entities": entities,
        "map": len(names),
        **unmatched,
    }
    if not len(pairs):
        hint = (
            " (their symbols differ in case only: is it another species? Rename one side)"
            if unmatched["symbols_that_differ_in_case"]
            else (
                f" (the map has {', '.join(map(str, names[:3]))}, …; the file"
                f" {', '.join(unmatched['examples'][:3])}, …)"
            )
        )
        return {key: missing(f"no pair of {source.name} is in the map{hint}", **about)}
    hits = bounds.hits(recall.pair_cosines(rows, pairs))
    strata: dict[str, Bool[np.ndarray, " pairs"]] = {"": np.ones(len(pairs), bool)}
    if arm is not None:
        first, second = arm[pairs[:, 0]], arm[pairs[:, 1]]
        placed = (first != "") & (second != "")
        strata |= {
            ".within_arm": placed & (first == second),
            ".between_arms": placed & (first != second),
        }
    entries = {}
    for k, pair in enumerate(thresholds):
        low, high = float(bounds.low[k]), float(bounds.high[k])
        for suffix, chosen in strata.items():
            value = hits[k][chosen].mean() if chosen.any() else None
            entries[key + suffix + ("" if k == 0 else name_of(pair))] = entry(
                value,
                bootstrap.interval_of_pairs(hits[k][chosen], pairs[chosen]),
                int(chosen.sum()),
                "entities",
                thresholds=list(pair),
                cosines=[low, high],
                chance=pair[0] + 1 - pair[1],
                **(about if not suffix else {}),
            )
    return entries


def precision_of(ranked: Bool[np.ndarray, "rows genes"]) -> Float64[np.ndarray, " rows"]:
    """Average precision of each row, whose genes are ranked: the mean over targets of the share of
    targets among all genes down to this one.
    """
    share = np.cumsum(ranked, axis=1) / np.arange(1, ranked.shape[1] + 1)
    return (share * ranked).sum(1) / ranked.sum(1)


def compound_gene_entry(
    compounds: Float32[np.ndarray, "compounds dim"],
    compound_names: Shaped[np.ndarray, " compounds"],
    genes: Float32[np.ndarray, "genes dim"],
    gene_names: Shaped[np.ndarray, " genes"],
    targets: Relationships | None,
    own_targets: Shaped[np.ndarray, " compounds"],
    seed: int = 0,
) -> Entry:
    """compound_gene.average_precision: are a compound's targets first among all genes, ranked by
    |cosine| to the compound?

    The mean over compounds with a target in the map; chance is the same with the genes' names
    permuted (`PERMUTATIONS` times), z the distance from it in standard deviations of the
    permutations.

    Args:
      compounds, genes: unit rows, float32.
      targets: relationships compound-gene; else `own_targets`, sets of genes of the compounds.
    """
    known = np.zeros((len(compounds), len(genes)), bool)
    place = {name: k for k, name in enumerate(gene_names)}
    if targets is not None:
        rows = {name: k for k, name in enumerate(compound_names)}
        for one, other in targets.pairs:
            for compound, gene in ((one, other), (other, one)):
                if compound in rows and gene in place:
                    known[rows[compound], place[gene]] = True
    else:
        for row, own in enumerate(own_targets):
            for gene in own:
                if gene in place:
                    known[row, place[gene]] = True
    tested = known.any(1)
    if not tested.any():
        return missing(
            "no compound has a known target among the genes of the map (--gene, or --targets FILE)"
        )
    score = np.abs(exact_cosines(compounds[tested], genes))
    known = known[tested]
    order = np.argsort(-score, axis=1, kind="stable")

    def precision(labels: Bool[np.ndarray, "tested genes"]) -> Float64[np.ndarray, " tested"]:
        return precision_of(np.take_along_axis(labels, order, 1))

    value = precision(known)
    rng = np.random.default_rng(seed)
    chance = np.array(
        [precision(known[:, rng.permutation(known.shape[1])]).mean() for _ in range(PERMUTATIONS)]
    )
    z = float((value.mean() - chance.mean()) / chance.std()) if chance.std() > 0 else None
    return entry(
        value.mean(),
        bootstrap.interval_of_mean(value),
        len(value),
        "compounds",
        genes=len(gene_names),
        chance=float(chance.mean()),
        z=z,
        targets=int(known.sum()),
    )


def arms_of(
    names: Shaped[np.ndarray, " names"], table: "pd.DataFrame"
) -> Shaped[np.ndarray, " names"]:
    """Chromosome arm of each gene by a table of arms (columns gene, arm), "" where unknown, object
    [names].
    """
    lookup = dict(zip(table["gene"], table["arm"], strict=True))
    return np.array([lookup.get(name, "") for name in names], object)

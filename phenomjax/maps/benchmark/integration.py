"""How well batches are mixed and perturbations kept apart: the measures by which Arevalo et al.
(2024, Nature Communications 15:6516) compare methods of batch correction, most of them from Luecken
et al. (2022, scIB). Each is between 0 and 1, 1 the best, over the wells under study; distances are
cosine distances.

  batch    graph_connectivity  wells of a perturbation hang together in the graph of nearest
                               neighbours: share in the largest component, mean over perturbations
           kbet                share of wells among whose nearest neighbours the batches are as
                               frequent as everywhere (chi-squared test, p >= .05; Büttner 2019)
           lisi_batch          number of batches among a well's neighbours (inverse Simpson index,
                               perplexity 30; Korsunsky 2019), median, 0 for one and 1 for all
           silhouette_batch    1 - |silhouette| of the batches among the wells of a perturbation,
                               mean over perturbations with more wells than batches
  biology  nmi, ari            agreement of k-means clusters, as many as perturbations, with these
                               (normalised mutual information, adjusted Rand index)
           silhouette_label    of perturbations, from -1 to 1 brought to 0 to 1
           lisi_label          1 for one perturbation among a well's neighbours, 0 for all
           map_controls        mean average precision of replicates against negative controls
           map_nonrep          … against wells of other perturbations
  overall  0.4 mean of batch + 0.6 mean of biology

Other than there: clusters are of k-means, as scib-metrics has it, and not of Leiden's method, which
needs igraph; kBET is of all wells rather than perturbation by perturbation, and not by R.
"""

import numpy as np
from jaxtyping import Float, Float64, Int

from phenomjax.statistics.groups import rows_of_groups

NEIGHBOURS = 25  # of the graph and of kBET, the well itself included, as Arevalo et al. have it
PERPLEXITY = 30
ACCEPTED = 0.05
MEASURES = {
    "batch": ("graph_connectivity", "kbet", "lisi_batch", "silhouette_batch"),
    "biology": ("nmi", "ari", "silhouette_label", "lisi_label", "map_controls", "map_nonrep"),
}
WEIGHTS = {"batch": 0.4, "biology": 0.6}

Codes = Int[np.ndarray, " wells"]
Rows = Float[np.ndarray, "wells dim"]
Near = Int[np.ndarray, "wells near"]


def graph_connectivity(near: Near, labels: Codes) -> float:
    """Mean over labels of the share of their wells in the largest component of the graph that joins
    each well with its nearest neighbours.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    wells = len(near)
    first, second = np.repeat(np.arange(wells), near.shape[1]), near.ravel()
    same = labels[first] == labels[second]
    graph = csr_array((np.ones(same.sum()), (first[same], second[same])), shape=(wells, wells))
    component = connected_components(graph, directed=False)[1]  # each within one label
    largest = np.zeros(labels.max() + 1)
    np.maximum.at(largest, labels, np.bincount(component)[component])
    return float((largest / np.bincount(labels)).mean())


def kbet(near: Near, batches: Codes) -> float:
    """Share of wells whose neighbours are of the batches as all wells are."""
    from scipy.stats import chi2

    expected = near.shape[1] * np.bincount(batches) / len(batches)
    counts = np.stack([(batches[near] == batch).sum(1) for batch in range(len(expected))], 1)
    statistic = ((counts - expected) ** 2 / expected).sum(1)
    return float((chi2.sf(statistic, len(expected) - 1) >= ACCEPTED).mean())


def lisi(
    distances: Float64[np.ndarray, "wells near"], near: Near, codes: Codes
) -> Float64[np.ndarray, " wells"]:
    """Inverse Simpson index of the codes of each well's neighbours, weighted by a Gaussian of their
    distances of perplexity `PERPLEXITY` (or a third of the neighbours, if fewer), [wells].
    """
    target = np.log(min(PERPLEXITY, (near.shape[1] + 1) / 3))
    low, high = np.zeros(len(near)), np.full(len(near), np.inf)
    beta = np.ones(len(near))
    for _ in range(50):
        weights = np.exp(-(distances - distances[:, :1]) * beta[:, None])
        weights /= weights.sum(1, keepdims=True)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(1)
        wide = entropy > target
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
        beta = np.where(np.isinf(high), 2 * beta, (low + high) / 2)
    simpson = np.zeros(len(near))
    for code in range(codes.max() + 1):
        simpson += ((codes[near] == code) * weights).sum(1) ** 2
    return 1 / simpson


def silhouette_batch(rows: Rows, labels: Codes, batches: Codes) -> float | None:
    """Mean over labels of 1 - |silhouette of the batches|; None where every label has one well a
    batch, or one batch.
    """
    from sklearn.metrics import silhouette_samples

    found = []
    for own in rows_of_groups(labels):
        if 2 <= len(set(batches[own].tolist())) < len(own):
            apart = silhouette_samples(rows[own], batches[own], metric="cosine")
            found.append(1 - np.abs(apart).mean())
    return float(np.mean(found)) if found else None


def measured(units: Rows, labels: Codes, batches: Codes, seed: int = 0) -> dict[str, float | None]:
    """All measures but mAP.

    Args:
      units: float [wells, dim], of length 1; wells of perturbations with at least 2 of them.
      labels, batches: codes of their perturbations and batches, from 0, at least 2 of each.
      seed: of k-means.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import (
        adjusted_rand_score,
        normalized_mutual_info_score,
        silhouette_score,
    )
    from sklearn.neighbors import NearestNeighbors

    count = min(3 * PERPLEXITY, len(units))
    distances, near = NearestNeighbors(n_neighbors=count).fit(units).kneighbors(units)
    distances, near = distances[:, 1:], near[:, 1:]  # not the well itself
    few = near[:, : NEIGHBOURS - 1]
    of_batches, of_labels = batches.max() + 1, labels.max() + 1
    clusters = KMeans(of_labels, n_init=1, max_iter=50, random_state=seed).fit_predict(units)
    mixed, pure = (float(np.median(lisi(distances, near, codes))) for codes in (batches, labels))
    return {
        "graph_connectivity": graph_connectivity(few, labels),
        "kbet": kbet(few, batches),
        "lisi_batch": (mixed - 1) / (of_batches - 1),
        "silhouette_batch": silhouette_batch(units, labels, batches),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "silhouette_label": float((silhouette_score(units, labels, metric="cosine") + 1) / 2)
        if of_labels < len(units)
        else None,
        "lisi_label": (of_labels - pure) / (of_labels - 1),
    }


def summed_up(found: dict[str, float | None]) -> dict[str, float | None]:
    """The measures with their means, batch and biology, and overall; None counts in no mean."""
    means: dict[str, float | None] = {}
    for name, keys in MEASURES.items():
        known = [value for key in keys if (value := found.get(key)) is not None]
        means[name] = float(np.mean(known)) if known else None
    parts = [(WEIGHTS[name], value) for name, value in means.items() if value is not None]
    overall = sum(weight * value for weight, value in parts) if len(parts) == 2 else None
    return {**found, **means, "overall": overall}

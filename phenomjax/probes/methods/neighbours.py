"""Nearest training sequence of each test sequence, and the transfer of its labels (embedding-based
annotation transfer).
"""

import numpy as np
from jaxtyping import Float, Int, Num

from phenomjax.probes.features.table import FeatureTable
from phenomjax.probes.metrics import Scores
from phenomjax.probes.suites.dataset import TRAIN, Dataset
from phenomjax.probes.suites.suite import CLASS, MULTILABEL, RESIDUE
from phenomjax.system.errors import UserError

DISTANCES = ("euclidean", "cosine")
BLOCK = 2**22  # distances in memory at once
# of the squared lengths: what the rounding of a product, which differs with blocks and CPUs, stays
# far below
ROUNDING = 1e-12


def nearest(
    train: Num[np.ndarray, "rows dim"],
    query: Num[np.ndarray, "queries dim"],
    distance: str = "euclidean",
) -> tuple[Int[np.ndarray, " queries"], Float[np.ndarray, " queries"]]:
    """Row of `train` that is closest to each query, and how far, float32.

    All pairs are compared, block by block; of several that are equally close, but for rounding, the
    first. Euclidean distance of mean embeddings is that of EAT (Heinzinger et al. 2022); cosine is
    1 - cosine similarity, where a vector of zeros is as far as an orthogonal one.

    Args:
      train: at least one row.
      query: what is looked for.
      distance: a name in DISTANCES.
    """
    assert distance in DISTANCES and len(train)
    # squares about it lose fewer digits
    origin = train.mean(0) if distance == "euclidean" else np.zeros(train.shape[1])
    train, query = (np.asarray(part, np.float64) - origin for part in (train, query))
    if distance == "cosine":
        train, query = (
            part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-30)
            for part in (train, query)
        )
    squares, own = (train**2).sum(1), (query**2).sum(1)
    index = np.empty(len(query), np.int64)
    rows = max(1, BLOCK // len(train))
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        sums = squares + own[part, None]
        distances = sums - 2 * (query[part] @ train.T)  # 2 - 2 cosine of vectors of length one
        error = ROUNDING * sums
        index[part] = (distances - error <= (distances + error).min(1, keepdims=True)).argmax(1)
    chosen = train[index]
    if distance == "cosine":
        return index, (1 - (query * chosen).sum(1)).astype(np.float32)
    return index, np.linalg.norm(query - chosen, axis=1).astype(np.float32)


def predict(features: FeatureTable, dataset: Dataset) -> Scores:
    """Labels of the nearest training row (Euclidean) for each test row, as predictions: the head
    "nearest".

    Args:
      features: of all of the dataset's proteins, in its order.
      dataset: with labels of proteins.

    Raises:
      UserError: the labels are those of residues.
    """
    train = dataset.rows(TRAIN)
    found, _ = nearest(features.take(train), features.take(dataset.test_rows))
    return transfer(dataset, train[found])


def transfer(dataset: Dataset, source: Int[np.ndarray, " tests"]) -> Scores:
    """Labels of one row for each test row, as predictions (metrics.evaluate). Where there is none:
    no class, or the mean of the training values.

    Args:
      dataset: with labels of proteins.
      source: the row of the dataset that each test row takes its labels from; -1
        = none.

    Raises:
      UserError: the labels are those of residues.
    """
    found = (source >= 0).nonzero()[0]
    scores: Scores = {}
    for name, labels in dataset.labels.items():
        if labels.kind == RESIDUE:
            raise UserError(
                f"Task '{dataset.name}': the label '{name}' is one of residues, and a neighbour's"
                " labels are those of whole proteins. Take 'nearest' and 'alignment' out of this"
                " task."
            )
        predicted: np.ndarray
        values = labels.values[source[found]]
        if labels.kind == CLASS:
            predicted = np.zeros((len(source), len(labels.classes)), np.float32)
            known = values >= 0
            predicted[found[known], values[known]] = 1
        elif labels.kind == MULTILABEL:
            predicted = np.zeros((len(source), len(labels.classes)), np.float32)
            predicted[found] = values
        else:
            mean = np.nanmean(labels.values[dataset.rows("train")])
            predicted = np.full(len(source), mean, np.float32)
            predicted[found] = np.where(np.isnan(values), mean, values)
        scores[name] = predicted
    return scores

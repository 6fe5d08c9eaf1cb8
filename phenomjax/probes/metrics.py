"""How right predictions are: metrics of residues, classes, sets of classes and values, with
bootstrap intervals over proteins.

Every metric is a function of weights of the proteins, [draws, proteins]: how often each is in a
draw; all ones is the data as it is. So a thousand draws are a few matrix products: classes by
counts (of each protein: right, true and predicted residues of each class), values by moments, rank
statistics by sorting once and adding up weights. They equal scikit-learn's and SciPy's on the rows
repeated.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from phenomjax.probes.suites.dataset import Dataset, Labels
from phenomjax.probes.suites.suite import CLASS, MULTILABEL, RESIDUE
from phenomjax.statistics import bootstrap

DECISION = 0.5  # a class of several is predicted above this probability
THRESHOLDS = np.arange(1, 100) / 100  # of f1_max
# of a result, and decimals at most: those behind them depend on the order of sums, and so on the
# CPU
SIGNIFICANT_DIGITS = 12
# Of predictions: float32, whose last bits differ with batches and CPUs. What differs by less is
# equal: a class as probable as another, a value as high, a probability as high as a threshold.
ROUNDING = 1e-6

Predictions: TypeAlias = np.ndarray | list[np.ndarray]  # of rows of one label; see `evaluate`
Scores: TypeAlias = dict[str, Predictions]  # of the test rows, by label
Weights: TypeAlias = Float[np.ndarray, "draws proteins"]
Draws: TypeAlias = Float[np.ndarray, " draws"]
Metrics: TypeAlias = dict[tuple[str, str], Draws]  # by (metric, average)
Measure: TypeAlias = Callable[[Weights], Metrics]
Ties: TypeAlias = tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " values"]]


class Estimate(TypedDict):
    """A metric.

    Attributes:
      value: mean over seeds, None where it is not defined.
      interval: 95 % percentile bootstrap of that mean over proteins; None twice where there is none
        or, of published numbers, None.
      seed_std: deviation between seeds, None of one seed.
    """

    value: float | None
    interval: list[float | None] | None
    seed_std: float | None


class Measured(Estimate):
    """A metric of a label on a test set or subset.

    Attributes:
      label, split, metric: names.
      average: "residue", "protein" or "".
      count: proteins.
      residues: None but for RESIDUE.
      seeds: number of them.
    """

    label: str
    split: str
    metric: str
    average: str
    count: int | None
    residues: int | None
    seeds: int | None


def evaluate(dataset: Dataset, scores: list[Scores], draws: int) -> list[Measured]:
    """Rows of results, one a label, test set or subset, metric and average.

    Args:
      dataset: what was predicted.
      scores: predictions of `dataset.test_rows`, one {label: predictions} a seed. RESIDUE: list of
        float [length, classes]; CLASS: float [rows, classes], a row of zeros names none and is
        wrong; MULTILABEL: float [rows, classes], predicted above 0.5; VALUE: float [rows].
      draws: of the bootstrap, the same for all seeds.

    Returns:
      The rows. What is not defined, such as the correlation with a constant, is None. A set without
      a known label has no rows.
    """
    place = {row: i for i, row in enumerate(dataset.test_rows.tolist())}
    rows: list[Measured] = []
    for label, labels in dataset.labels.items():
        known = labels.known()
        for split in [*dataset.tests, *dataset.subsets]:
            members = dataset.rows(split)
            members = members[known[members]]
            if not len(members):
                continue
            places = np.array([place[row] for row in members.tolist()])
            truth = labels.take(members)
            measures = [measure(truth, _take(seed[label], places)) for seed in scores]
            residues = (
                int(sum((values >= 0).sum() for values in truth.values))
                if labels.kind == RESIDUE
                else None
            )
            for (metric, average), result in _bootstrap(measures, len(members), draws).items():
                rows.append(
                    {
                        "label": label,
                        "split": split,
                        "metric": metric,
                        "average": average,
                        **result,
                        "count": len(members),
                        "residues": residues,
                        "seeds": len(scores),
                    }
                )
    return rows


def _take(predictions: Predictions, places: Int[np.ndarray, " rows"]) -> Predictions:
    if isinstance(predictions, list):
        return [predictions[i] for i in places]
    return np.asarray(predictions)[places]


def _bootstrap(measures: list[Measure], count: int, draws: int) -> dict[tuple[str, str], Estimate]:
    """Value, interval and deviation between seeds of every metric."""
    ones = np.ones((1, count))
    found = [measure(ones) for measure in measures]
    blocks = [[measure(weights) for measure in measures] for weights in _weights(count, draws)]
    results: dict[tuple[str, str], Estimate] = {}
    for key in found[0]:
        values = np.array([seed[key][0] for seed in found])
        means = np.concatenate(
            [np.mean([seed[key] for seed in block], 0) for block in blocks] or [np.zeros(0)]
        )
        defined = not np.isnan(values).any()
        # draws of one class, or of one value, are not defined
        ends = bootstrap.interval(means) if defined else None
        results[key] = {
            "value": rounded(values.mean()) if defined else None,
            "interval": [None, None] if ends is None else [rounded(end) for end in ends],
            "seed_std": rounded(values.std(ddof=1)) if defined and len(values) > 1 else None,
        }
    return results


def rounded(value: float) -> float:
    """Without the digits that depend on the order of sums: what is equal, and what a reader sees of
    it, is so on every CPU.
    """
    if abs(value) < 1:
        return round(float(value), SIGNIFICANT_DIGITS)
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _weights(count: int, draws: int) -> Iterator[Weights]:
    """How often each protein is in each draw of `count` proteins with replacement, block by
    block.
    """
    for rows in bootstrap.drawn(count, draws):
        yield np.asfortranarray(bootstrap.times_drawn(rows), np.float64)  # as _ranks reads them


def measure(truth: Labels, predicted: Any) -> Measure:
    """The metrics of rows with known labels as a function of the rows' weights.

    Args:
      truth: labels of the rows.
      predicted: of the same rows, as `evaluate` takes them.
    """
    if truth.kind == RESIDUE:
        return _residues(truth, predicted)
    if truth.kind == CLASS:
        return _classes(truth, predicted)
    if truth.kind == MULTILABEL:
        return _sets(truth.values, predicted)
    return _values(truth.values.astype(np.float64), predicted.astype(np.float64))


def named(predicted: Num[np.ndarray, "*rows classes"]) -> Int[np.ndarray, "*rows"]:
    """The class that each row of probabilities names, of equal ones the first; the number of
    classes where it names none.
    """
    most = predicted.max(-1, keepdims=True)
    first = (predicted >= most * (1 - ROUNDING)).argmax(-1)
    return np.where(most[..., 0] > 0, first, predicted.shape[-1])


def _residues(truth: Labels, predicted: list[Float[np.ndarray, "_ classes"]]) -> Measure:
    size = len(truth.classes) + 1  # the last: none
    proteins = len(predicted)
    length = [len(values) for values in truth.values]
    owner = np.repeat(np.arange(proteins), length)
    true, guess = (
        np.concatenate(truth.values).astype(np.int64),
        np.concatenate([named(p) for p in predicted]),
    )
    owner, true, guess = owner[true >= 0], true[true >= 0], guess[true >= 0]

    def count(
        of: Int[np.ndarray, " residues"], where: Bool[np.ndarray, " residues"] | slice = slice(None)
    ) -> Float[np.ndarray, "proteins classes"]:
        cells = owner[where] * size + of[where]
        table = np.bincount(cells, minlength=proteins * size).reshape(proteins, size)
        return table.astype(np.float64)

    right, trues, guesses = count(true, true == guess), count(true), count(guess)
    accuracy = right.sum(1) / trues.sum(1)

    def metrics(weights: Weights) -> Metrics:
        of_residues = _confusion(weights @ right, weights @ trues, weights @ guesses)
        found = {(name, "residue"): value for name, value in of_residues.items()}
        return found | {("accuracy", "protein"): weights @ accuracy / weights.sum(1)}

    return metrics


def _classes(truth: Labels, predicted: Num[np.ndarray, "proteins classes"]) -> Measure:
    from scipy import sparse

    true, guess = truth.values, named(predicted)
    rows, shape = np.arange(len(true)), (len(true), len(truth.classes) + 1)

    def table(
        classes: Int[np.ndarray, " proteins"], value: Bool[np.ndarray, " proteins"]
    ) -> sparse.csr_array:  # sparse: a thousand folds
        return sparse.csr_array((value.astype(np.float64), (rows, classes)), shape)

    right, trues, guesses = (
        table(true, true == guess),
        table(true, rows >= 0),
        table(guess, rows >= 0),
    )
    order = _ties(predicted[:, 1] - predicted[:, 0]) if len(truth.classes) == 2 else None

    def metrics(weights: Weights) -> Metrics:
        counts = [(part.T @ weights.T).T for part in (right, trues, guesses)]
        found: Metrics = {(name, ""): value for name, value in _confusion(*counts).items()}
        if order is not None:
            found["auroc", ""] = _auroc(weights, true == 1, order)
        return found

    return metrics


def _confusion(
    right: Float[np.ndarray, "draws classes_and_none"],
    true: Float[np.ndarray, "draws classes_and_none"],
    guess: Float[np.ndarray, "draws classes_and_none"],
) -> dict[str, Draws]:
    """Accuracy, balanced accuracy, macro F1 and Matthews correlation (Gorodkin 2004) from counts.

    As in scikit-learn: balanced accuracy over the classes that are there, macro F1 over those that
    are there or named, 0 for a correlation with a constant.
    """
    total = true.sum(1)
    there, either = true > 0, (true + guess > 0) & (np.arange(true.shape[1]) < true.shape[1] - 1)
    recall = np.divide(right, true, out=np.zeros_like(right), where=there)
    f1 = np.divide(2 * right, true + guess, out=np.zeros_like(right), where=either)
    spread = np.sqrt((total**2 - (true**2).sum(1)) * (total**2 - (guess**2).sum(1)))
    covariance = right.sum(1) * total - (true * guess).sum(1)
    return {
        "accuracy": right.sum(1) / total,
        "balanced_accuracy": recall.sum(1) / there.sum(1),
        "f1_macro": f1.sum(1) / either.sum(1),
        "mcc": np.divide(covariance, spread, out=np.zeros_like(total), where=spread > 0),
    }


def _sets(
    true: Bool[np.ndarray, "proteins classes"], predicted: Num[np.ndarray, "proteins classes"]
) -> Measure:
    """Averages over proteins of precision, recall and F1 (scikit-learn's average="samples"), and
    the best F1 of any threshold.

    f1_max: mean precision over proteins with a prediction, mean recall over all, at the threshold
    that is best for these very proteins, as in CAFA (Radivojac et al. 2013): an upper bound of what
    choosing the threshold can give.
    """
    size = true.sum(1)

    def hits(
        threshold: float,
    ) -> tuple[Float[np.ndarray, " proteins"], Float[np.ndarray, " proteins"]]:
        named = predicted > threshold + ROUNDING
        return (named & true).sum(1).astype(np.float64), named.sum(1).astype(np.float64)

    right, guessed = hits(DECISION)
    samples = {
        "precision_samples": right / np.maximum(guessed, 1),
        "recall_samples": right / size,
        "f1_samples": 2 * right / (guessed + size),
        "exact_match": ((right == size) & (guessed == size)).astype(np.float64),
    }
    curve = [hits(threshold) for threshold in THRESHOLDS]
    precision = np.stack([right / np.maximum(guessed, 1) for right, guessed in curve], 1)
    recall = np.stack([right / size for right, _ in curve], 1)
    covered = np.stack([guessed > 0 for _, guessed in curve], 1).astype(np.float64)

    def metrics(weights: Weights) -> Metrics:
        total = weights.sum(1)
        found = {(name, ""): weights @ values / total for name, values in samples.items()}
        p, r = (
            weights @ precision / np.maximum(weights @ covered, 1),
            weights @ recall / total[:, None],
        )
        best = np.divide(2 * p * r, p + r, out=np.zeros_like(p), where=p + r > 0).max(1)
        return found | {("f1_max", ""): best}

    return metrics


def _values(
    true: Float[np.ndarray, " proteins"], predicted: Float[np.ndarray, " proteins"]
) -> Measure:
    origin = true.mean()  # moments about it lose no digits
    x, y = true - origin, predicted - origin
    products = np.stack([x, y, x * x, y * y, x * y, (x - y) ** 2], 1)
    orders = _ties(true), _ties(predicted)

    def metrics(weights: Weights) -> Metrics:
        total = weights.sum(1)
        means = weights @ products / total[:, None]
        ranks = [_ranks(weights, order) - (total[:, None] + 1) / 2 for order in orders]
        of_ranks = [
            np.einsum("dn,dn,dn->d", weights, ranks[i], ranks[j]) / total
            for i, j in ((0, 0), (1, 1), (0, 1))
        ]
        spread = _positive(means[:, 2] - means[:, 0] ** 2, means[:, 2])
        return {
            ("spearman", ""): _ratio(of_ranks[2], np.sqrt(of_ranks[0] * of_ranks[1])),
            ("pearson", ""): _ratio(
                means[:, 4] - means[:, 0] * means[:, 1],
                np.sqrt(spread * _positive(means[:, 3] - means[:, 1] ** 2, means[:, 3])),
            ),
            ("rmse", ""): np.sqrt(means[:, 5]),
            ("r2", ""): 1 - _ratio(means[:, 5], spread),
        }

    return metrics


def _ratio(above: Draws, below: Draws) -> Draws:
    """NaN where nothing is below."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _positive(variance: Draws, square: Draws) -> Draws:
    """A variance, 0 where it is but the rounding of the mean square that it was taken from."""
    return np.where(variance > 1e-12 * square, variance, 0)


def _ties(values: Num[np.ndarray, " rows"]) -> Ties:
    """(order that sorts, where each new value begins among the sorted)."""
    order = np.argsort(values, kind="stable")
    return order, np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)


def _ranks(weights: Weights, ties: Ties) -> Weights:
    """Ranks of the rows of each draw, equal values sharing the mean of theirs."""
    order, starts = ties
    of_value = weights.T[order]  # [rows, draws]: whole lines of memory
    if len(starts) < len(order):
        of_value = np.add.reduceat(of_value, starts)
    rank = np.cumsum(of_value, 0) - (of_value - 1) / 2
    ranks = np.empty(weights.shape[::-1])
    if len(starts) < len(order):
        rank = np.repeat(rank, np.diff(starts, append=len(order)), axis=0)
    ranks[order] = rank
    return ranks.T


def _auroc(weights: Weights, positive: Bool[np.ndarray, " proteins"], ties: Ties) -> Draws:
    """Area under the ROC curve by Mann and Whitney's U; NaN of one class."""
    above, below = (weights * positive).sum(1), (weights * ~positive).sum(1)
    u = (weights * positive * _ranks(weights, ties)).sum(1) - above * (above + 1) / 2
    return _ratio(u, above * below)

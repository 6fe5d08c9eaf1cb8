"""Linear probe: how well a linear classifier tells the perturbation of a well in a batch that it
was not trained on.

Each fold holds one batch out (leave one batch out; with more than `MAX_FOLDS` batches, groups of
batches); a perturbation counts when it is in at least two batches. Features are standardised on the
training wells of the fold; the classifier is scikit-learn's logistic regression (C 0.01 of
standardised features; "logistic") or ridge regression on one-hot labels ("ridge": closed form, for
thousands of classes). The score is the balanced accuracy over all held-out wells: the mean over
perturbations of the share of their wells that are told right; chance is 1 / perturbations. The
interval is a bootstrap over perturbations.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Shaped

from phenomjax.maps.build.methods.scaling import standardize
from phenomjax.maps.build.methods.streams import Stream

MAX_FOLDS = 5
LOGISTIC_CLASSES = 100  # more classes make logistic regression slow: "auto" is ridge then
REGULARISATION = 0.01
RIDGE = 100.0


@dataclass(frozen=True)
class Probe:
    """Result of a linear probe.

    Attributes:
      classes: names of the perturbations that counted.
      recall: share of each one's held-out wells told right, float64 [classes].
      folds, wells: how many.
      classifier: "logistic" or "ridge".
    """

    classes: Shaped[np.ndarray, " classes"]
    recall: Float64[np.ndarray, " classes"]
    folds: int
    wells: int
    classifier: str

    @property
    def balanced_accuracy(self) -> float:
        """Mean of `recall`."""
        return float(self.recall.mean())


def probe(
    features: Float[np.ndarray, "wells dim"],
    labels: Shaped[np.ndarray, " wells"],
    batches: Shaped[np.ndarray, " wells"],
    classifier: str = "auto",
) -> Probe | None:
    """Leave-batches-out linear probe; None where fewer than 2 perturbations are in at least 2
    batches.

    Args:
      features: float [wells, dim].
      labels: perturbation of each well, [wells].
      batches: batch of each well, [wells].
    """
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from threadpoolctl import threadpool_limits  # of scikit-learn

    names, codes = np.unique(labels.astype(str), return_inverse=True)
    batch_names, batch = np.unique(batches.astype(str), return_inverse=True)
    seen = np.zeros((len(names), len(batch_names)), bool)
    seen[codes, batch] = True
    eligible = seen.sum(1) >= 2
    used = eligible[codes]
    if eligible.sum() < 2:
        return None
    values, codes, batch = features[used], codes[used], batch[used]
    folds = np.minimum(len(batch_names), MAX_FOLDS)
    fold = batch % folds
    if classifier == "auto":
        classifier = "logistic" if eligible.sum() <= LOGISTIC_CLASSES else "ridge"
    right = np.zeros(len(codes), bool)
    for number in range(folds):
        held, trained = fold == number, fold != number
        if not held.any() or len(np.unique(codes[trained])) < 2:
            continue
        scaled = standardize(Stream.of(values), np.zeros(len(values), int), trained).array()
        model = (
            LogisticRegression(C=REGULARISATION, max_iter=300)
            if classifier == "logistic"
            else RidgeClassifier(alpha=RIDGE, solver="cholesky")
        )
        # L-BFGS on small matrices: threads that wait for each other cost more than they do. Many
        # perturbations of two replicates are no regression, as scikit-learn supposes.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            right[held] = (
                model.fit(scaled[trained], codes[trained]).predict(scaled[held]) == codes[held]
            )
    total = np.bincount(codes, minlength=len(names))[eligible]
    recall = np.bincount(codes, weights=right, minlength=len(names))[eligible] / total
    return Probe(names[eligible], recall, int(folds), len(codes), classifier)

"""What figures need of predictions: as arrays of a finished part, and back as details of a report.

confusion/LABEL/TEST       counts of true and predicted classes
probability/LABEL/TEST     of the predicted classes, where predictions are probabilities
right/LABEL/TEST           whether they are right
map/measured, …            effects of mutations
"""

import numpy as np
from jaxtyping import Shaped

from phenomjax.probes import metrics
from phenomjax.probes.metrics import Scores
from phenomjax.probes.reports.details import Confusion, Details, MutationMap, Reliability
from phenomjax.probes.suites.dataset import Dataset
from phenomjax.probes.suites.suite import CLASS, RESIDUE

Arrays = dict[str, Shaped[np.ndarray, "..."]]


def of_predictions(data: Dataset, scores: Scores) -> Arrays:
    """Confusion counts and, where the predictions are probabilities, those of the predicted
    classes; by label and test set.
    """
    arrays: Arrays = {}
    rows = data.test_rows
    for name, labels in data.labels.items():
        if labels.kind not in (CLASS, RESIDUE):
            continue
        for test in data.tests:
            places = np.flatnonzero(data.split[rows] == test)
            if labels.kind == RESIDUE:
                true = np.concatenate([labels.values[i] for i in rows[places]])
                found = np.concatenate([scores[name][place] for place in places])
            else:
                true, found = labels.values[rows[places]], np.asarray(scores[name])[places]
            found, true = found[true >= 0], true[true >= 0]
            size = len(labels.classes)
            predicted = metrics.named(found)
            answered = predicted < size
            counts = np.bincount(true[answered] * size + predicted[answered], minlength=size * size)
            arrays[f"confusion/{name}/{test}"] = counts.reshape(size, size)
            if np.any((found > 0) & (found < 1)):
                arrays[f"probability/{name}/{test}"] = found.max(1).astype(np.float32)
                arrays[f"right/{name}/{test}"] = predicted == true
    return arrays


def of_map(effects: MutationMap) -> Arrays:
    """Effects of mutations."""
    return {
        "map/measured": effects.measured,
        "map/predicted": effects.predicted,
        "map/offset": np.array(effects.offset),
        "map/wild_type": np.array(list(effects.wild_type)),
    }


def add(details: Details, task: str, method: str, data: Dataset | None, arrays: Arrays) -> None:
    """Takes the arrays of a part into the details of a report.

    Args:
      details: of the report.
      task, method: of the part.
      data: of the task; None of mutations.
      arrays: of the part.
    """
    for name, array in arrays.items():
        kind, _, place = name.partition("/")
        label, _, split = place.partition("/")
        if kind == "confusion" and data is not None:
            classes = data.labels[label].classes
            details.confusion[task, label, split, method] = Confusion(array, classes)
        elif kind == "probability":
            right = arrays[f"right/{place}"]
            details.reliability[task, label, split, method] = Reliability(array, right)
    if "map/measured" in arrays:
        details.mutations[task, method] = MutationMap(
            "".join(arrays["map/wild_type"]),
            int(arrays["map/offset"]),
            arrays["map/measured"],
            arrays["map/predicted"],
        )

"""Baselines that know no model: majority, composition, windows of one-hot or BLOSUM62 letters."""

from typing import Any

from phenomjax.probes import suite


def predict(name: str, dataset: Any, training: suite.Training) -> list[dict[str, Any]]:
    """Predicts the test rows from the letters of the training rows alone: a list of one {label: predictions of dataset.test_rows}.

    Args:
      name: "majority", "composition", "one_hot" or "blosum62".
      dataset: a dataset.Dataset.
      training: of the suite.
    """
    raise NotImplementedError

"""Scores of predictions: per residue and per protein, with bootstrap intervals over proteins."""

from typing import Any


def evaluate(dataset: Any, scores: list[dict[str, Any]], draws: int) -> list[dict[str, Any]]:
    """Rows of results, one a label, test set or subset, metric and average.

    Args:
      dataset: a dataset.Dataset.
      scores: predictions of `dataset.test_rows`, one dict {label: predictions} a seed.
      draws: of the bootstrap.

    Returns:
      Rows {"label", "split", "metric", "average", "value", "interval", "count", "residues", "seeds", "seed_std"}.
    """
    raise NotImplementedError

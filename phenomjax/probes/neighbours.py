"""Nearest training sequence of each test sequence, and the transfer of its labels (embedding-based annotation transfer)."""

from typing import Any

import numpy as np


def nearest(train: np.ndarray, query: np.ndarray, distance: str = "euclidean") -> tuple[np.ndarray, np.ndarray]:
    """Row of `train` closest to each query and its distance: int64 [query], float32 [query].

    Args:
      train: float [rows, dim].
      query: float [queries, dim].
      distance: "euclidean" or "cosine".
    """
    raise NotImplementedError


def transfer(dataset: Any, source: np.ndarray) -> dict[str, Any]:
    """Labels of one row for each test row, as predictions.

    Args:
      dataset: a dataset.Dataset.
      source: int64 [test rows]: the row of the dataset that each test row takes its labels from; -1 = none.
    """
    raise NotImplementedError

"""Measured effects of mutations against a model that never saw a measurement, BLOSUM62, and published methods."""

from pathlib import Path
from typing import Any

from phenomjax.inference.trained import Trained
from phenomjax.probes.report import MutationMap
from phenomjax.probes.suite import Mutations


def run(
    name: str, entry: Mutations, model: Trained, data: Path, draws: int, method: str = "model", twin: bool = False
) -> tuple[list[dict[str, Any]], MutationMap]:
    """Spearman's correlation of a model's zero-shot scores with what was measured.

    Args:
      name: of the task.
      entry: of the suite.
      model: loaded with dtype "float32", of proteins.
      data: folder of the suite's files.
      draws: of the bootstrap over variants.
      method: short name of the model.
      twin: it is the random-weights twin of that model.

    Returns:
      Rows of results, and the map of single substitutions.

    Raises:
      UserError: no such file, column or wild type, or a variant that does not fit it.
    """
    raise NotImplementedError


def baseline_rows(name: str, entry: Mutations, data: Path, draws: int) -> list[dict[str, Any]]:
    """Rows of BLOSUM62: the sum over mutations of the score of new for old. Stands on no model."""
    raise NotImplementedError


def published_rows(name: str, entry: Mutations, data: Path) -> list[dict[str, Any]]:
    """Rows of what `entry.published` says."""
    raise NotImplementedError

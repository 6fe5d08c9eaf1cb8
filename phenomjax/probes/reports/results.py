"""Rows of results as a report reads them: how methods are called, and which metric a label is
judged by.
"""

from typing import Any

from phenomjax.probes.suites import suite
from phenomjax.probes.suites.label_values import METRICS

ZERO_SHOT = "zero-shot"  # the "head" of predictions without training
BASELINE_NAMES = {
    "majority": "majority class",
    "composition": "composition",
    "one_hot": "one-hot",
    "blosum62": "BLOSUM62",
    "alignment": "MMseqs2 best hit",
}


def model_row(
    found: dict[str, Any], task: str, model: str, head: str, checkpoint: str
) -> dict[str, Any]:
    """A row of metrics.evaluate as one of a model.

    Args:
      found: "label", "split", "metric", "average", "value", "interval", "count" and more.
      task: name in the suite.
      model: short name of the checkpoint, the same in all its rows.
      head: name in suite.HEADS, or ZERO_SHOT.
      checkpoint: its path.
    """
    return found | {
        "task": task,
        "method": f"{model}: {head}",
        "kind": "model",
        "model": model,
        "head": head,
        "checkpoint": checkpoint,
        "source": None,
    }


def twin_row(
    found: dict[str, Any], task: str, model: str, head: str, checkpoint: str
) -> dict[str, Any]:
    """The same of the model's random-weights twin: a baseline that only this model is compared
    with.
    """
    method = {
        "method": f"{model}, random weights: {head}",
        "kind": "baseline",
        "baseline": "random_weights",
    }
    return model_row(found, task, model, head, checkpoint) | method


def baseline_row(found: dict[str, Any], task: str, baseline: str) -> dict[str, Any]:
    """The same of a baseline that stands on no model: a name in suite.BASELINES."""
    method = f"baseline: {BASELINE_NAMES.get(baseline, baseline)}"
    return found | {
        "task": task,
        "method": method,
        "kind": "baseline",
        "baseline": baseline,
        "model": None,
        "head": None,
        "checkpoint": None,
        "source": None,
    }


def published_row(found: dict[str, Any], task: str, method: str, source: str) -> dict[str, Any]:
    """A number that somebody else published; `source` says who, where, and of which data if they
    are others than ours.
    """
    return found | {
        "task": task,
        "method": method,
        "kind": "published",
        "model": None,
        "head": None,
        "checkpoint": None,
        "source": source,
    }


def main_metric(task: suite.Task | suite.Mutations, label: str) -> tuple[str, str]:
    """(metric, average) that a label is judged by."""
    if isinstance(task, suite.Mutations):
        return "spearman", ""
    kind = task.labels[label].kind
    return task.labels[label].metric or METRICS[kind], "residue" if kind == suite.RESIDUE else ""

"""Rows of results as a report reads them: how methods are called, and which metric a label is
judged by.
"""

from collections.abc import Iterable
from typing import NotRequired

from phenomjax.probes.metrics import Measured
from phenomjax.probes.suites import suite
from phenomjax.probes.suites.label_values import METRICS
from phenomjax.statistics.comparison import finite

ZERO_SHOT = "zero-shot"  # the "head" of predictions without training
BASELINE_NAMES = {
    "majority": "majority class",
    "composition": "composition",
    "one_hot": "one-hot",
    "blosum62": "BLOSUM62",
    "alignment": "MMseqs2 best hit",
}


class Row(Measured):
    """One metric of one method on one test of one label.

    Attributes:
      task: name in the suite.
      method: as the report calls it.
      kind: "model", "baseline" or "published".
      baseline: of baselines, a name in suite.BASELINES.
      model: short name of the checkpoint, also of its random-weights twin; None of others.
      head: a name in suite.HEADS or ZERO_SHOT; None of what has no model.
      checkpoint: path of the model.
      source: of published numbers, who says so.
    """

    task: str
    method: str
    kind: str
    baseline: NotRequired[str]
    model: str | None
    head: str | None
    checkpoint: str | None
    source: str | None


def model_row(found: Measured, task: str, model: str, head: str, checkpoint: str) -> Row:
    """A row of metrics.evaluate as one of a model.

    Args:
      found: the row.
      task: name in the suite.
      model: short name of the checkpoint, the same in all its rows.
      head: name in suite.HEADS, or ZERO_SHOT.
      checkpoint: its path.
    """
    return Row(
        **found,
        task=task,
        method=f"{model}: {head}",
        kind="model",
        model=model,
        head=head,
        checkpoint=checkpoint,
        source=None,
    )


def twin_row(found: Measured, task: str, model: str, head: str, checkpoint: str) -> Row:
    """The same of the model's random-weights twin: a baseline that only this model is compared
    with.
    """
    row = model_row(found, task, model, head, checkpoint)
    row["method"] = f"{model}, random weights: {head}"
    row["kind"], row["baseline"] = "baseline", "random_weights"
    return row


def baseline_row(found: Measured, task: str, baseline: str) -> Row:
    """The same of a baseline that stands on no model: a name in suite.BASELINES."""
    return Row(
        **found,
        task=task,
        method=f"baseline: {BASELINE_NAMES.get(baseline, baseline)}",
        kind="baseline",
        baseline=baseline,
        model=None,
        head=None,
        checkpoint=None,
        source=None,
    )


def published_row(
    task: str,
    label: str,
    split: str,
    metric: str,
    method: str,
    value: float,
    source: str,
    *,
    average: str = "",
    interval: list[float | None] | None = None,
    count: int | None = None,
) -> Row:
    """A number that somebody else published.

    Args:
      task, label, split, metric, method, value: of the row.
      source: who says so, where, and of which data if they are others than ours.
      average, interval, count: where they are known; the count of what it was computed of.
    """
    return Row(
        label=label,
        split=split,
        metric=metric,
        average=average,
        value=value,
        interval=interval,
        count=count,
        residues=None,
        seeds=None,
        seed_std=None,
        task=task,
        method=method,
        kind="published",
        model=None,
        head=None,
        checkpoint=None,
        source=source,
    )


def main_metric(task: suite.Task | suite.Mutations, label: str) -> tuple[str, str]:
    """(metric, average) that a label is judged by."""
    if isinstance(task, suite.Mutations):
        return "spearman", ""
    kind = task.labels[label].kind
    return task.labels[label].metric or METRICS[kind], "residue" if kind == suite.RESIDUE else ""


def models(rows: Iterable[Row]) -> list[str]:
    """Names of the checkpoints that have rows of their own, in their order."""
    found = [row["model"] for row in rows if row["kind"] == "model"]
    return list(dict.fromkeys(name for name in found if name is not None))


def largest_count(rows: Iterable[Row]) -> int:
    """Of how many proteins the numbers are that were computed here."""
    return max((row["count"] or 0 for row in rows if row["kind"] != "published"), default=0)


def has_value(row: Row) -> bool:
    """Whether a row has a value."""
    return finite(row["value"])


def measured(row: Row) -> bool:
    """Whether a row has a value and an interval."""
    return has_value(row) and all(finite(end) for end in row["interval"] or [None])


def value_of(row: Row) -> float:
    """The value of a row that has one."""
    assert row["value"] is not None
    return row["value"]


def interval_of(row: Row) -> tuple[float, float]:
    """The interval of a row that has one."""
    low, high = row["interval"] or (None, None)
    assert low is not None and high is not None
    return low, high

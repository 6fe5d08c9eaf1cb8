"""What the numbers allow to say: which model beats which baseline, in sentences.

A model beats a baseline when their 95 % intervals do not overlap. Overlapping intervals are no
proof of equality, so the sentence then says "is not shown to beat". Every model is also compared
with its twin, the same network with random weights and the same head.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from phenomjax.probes.reports.results import (
    ZERO_SHOT,
    Row,
    interval_of,
    main_metric,
    measured,
    models,
    value_of,
)
from phenomjax.probes.suites.suite import Mutations, Suite, Task
from phenomjax.statistics import comparison
from phenomjax.statistics.comparison import BEATS, BELOW, NOT_SHOWN, listed, number

LOWER_IS_BETTER = ("rmse", "mae", "mse")
VALIDATION = "validation"
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "mcc": "Matthews correlation",
    "f1_macro": "F1 (mean over classes)",
    "f1_samples": "F1 (mean over proteins)",
    "f1_max": "F1 at the best threshold",
    "precision_samples": "precision (mean over proteins)",
    "recall_samples": "recall (mean over proteins)",
    "exact_match": "share with exactly the right set",
    "r2": "R squared",
    "spearman": "Spearman's rho",
    "pearson": "Pearson's r",
    "auroc": "area under the ROC curve",
    "auprc": "area under the precision-recall curve",
    "rmse": "root mean square error",
    "mae": "mean absolute error",
}
_IDENTITY = re.compile(r"(?P<test>.+), identity < (?P<cut>[0-9.]+)")


@dataclass(frozen=True)
class Comparison:
    """A baseline beside a model: its method, value and interval, and what the model does to it
    (BEATS, NOT_SHOWN, BELOW).
    """

    method: str
    outcome: str
    value: float
    interval: tuple[float, float]
    twin: bool


@dataclass(frozen=True)
class Verdict:
    """One model on one test.

    Attributes:
      task, label, split, metric, average, model: what was judged.
      head: the model's best.
      heads: how many there were.
      chosen_by: "validation", "test" or "" (there was one head).
      value, interval, count: of that head on the test.
      unit: of the count.
      comparisons: with every baseline that has a value and an interval.
    """

    task: str
    label: str
    split: str
    metric: str
    average: str
    model: str
    head: str
    heads: int
    chosen_by: str
    value: float
    interval: tuple[float, float]
    count: int
    unit: str
    comparisons: tuple[Comparison, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def judge(results: Sequence[Row], suite: Suite) -> list[Verdict]:
    """Verdicts on the metric that each label is judged by, in the order of the suite, its labels,
    the tests and the models.
    """
    found = []
    for task, label, rows in by_label(results, suite):
        for split in splits(rows):
            here = [row for row in rows if row["split"] == split]
            for model in models(here):
                best, heads, chosen_by = best_head(rows, model, split)
                if best is None:
                    continue
                compared = tuple(
                    Comparison(
                        row["method"],
                        outcome(best, row),
                        value_of(row),
                        interval_of(row),
                        row.get("baseline") == "random_weights",
                    )
                    for row in here
                    if row["kind"] == "baseline" and measured(row) and _belongs(row, best)
                )
                found.append(
                    Verdict(
                        task,
                        label,
                        split,
                        best["metric"],
                        best["average"],
                        model,
                        best["head"] or "",
                        heads,
                        chosen_by,
                        value_of(best),
                        interval_of(best),
                        best["count"] or 0,
                        unit(suite.tasks[task]),
                        compared,
                    )
                )
    return found


def by_label(results: Sequence[Row], suite: Suite) -> Iterable[tuple[str, str, list[Row]]]:
    """(task, label, rows of its main metric), published ones too, in the order of the suite."""
    for name, task in suite.tasks.items():
        of_task = [row for row in results if row["task"] == name]
        for label in dict.fromkeys(row["label"] for row in of_task):
            metric, average = main_metric(task, label)
            rows = [row for row in of_task if row["label"] == label and row["metric"] == metric]
            yield (
                name,
                label,
                [row for row in rows if row["kind"] == "published" or row["average"] == average],
            )


def splits(rows: Iterable[Row]) -> list[str]:
    """Tests and their subsets that were computed here."""
    return list(
        dict.fromkeys(
            row["split"]
            for row in rows
            if row["kind"] != "published" and row["split"] != VALIDATION
        )
    )


def identity_cut(split: str) -> tuple[str, float | None]:
    """("test", 0.3) of the subset "test, identity < 0.3"; (split, None) of a whole test."""
    match = _IDENTITY.fullmatch(split)
    return (match["test"], float(match["cut"])) if match else (split, None)


def best_head(
    rows: Sequence[Row], model: str, split: str, heads: Sequence[str] = ()
) -> tuple[Row | None, int, str]:
    """The row of a model's best head on a test, how many heads there are, and what it was chosen
    by.

    Args:
      rows: of one label and metric.
      model: its name.
      split: the test.
      heads: only these; () = all.
    """
    own = [
        r
        for r in rows
        if r["kind"] == "model"
        and r["model"] == model
        and measured(r)
        and (not heads or r["head"] in heads)
    ]
    there = {row["head"] or "": row for row in own if row["split"] == split}
    judged = {row["head"] or "": row for row in own if row["split"] == VALIDATION}
    judged = {head: row for head, row in judged.items() if head in there}
    if not there:
        return None, 0, ""
    chosen_by = "" if len(there) == 1 else "validation" if len(judged) == len(there) else "test"
    by = judged if chosen_by == "validation" else there
    return there[max(by, key=lambda head: goodness(by[head]))], len(there), chosen_by


def goodness(row: Row) -> float:
    """The value, so that more is better."""
    return -value_of(row) if row["metric"] in LOWER_IS_BETTER else value_of(row)


def outcome(row: Row, baseline: Row) -> str:
    """BEATS, NOT_SHOWN or BELOW."""
    lower = row["metric"] in LOWER_IS_BETTER
    return comparison.outcome(interval_of(row), interval_of(baseline), lower_is_better=lower)


def _belongs(baseline: Row, best: Row) -> bool:
    """Of the random-weights twins, only that of this model and head."""
    return baseline["model"] is None or (baseline["model"], baseline["head"]) == (
        best["model"],
        best["head"],
    )


def metric_name(metric: str, average: str = "") -> str:
    """How a reader calls a metric."""
    over = {"residue": ", over residues", "protein": ", mean over proteins"}.get(average, "")
    return METRICS.get(metric, metric.replace("_", " ")) + over


def unit(task: Task | Mutations) -> str:
    """What is counted."""
    if isinstance(task, Mutations):
        return "variants"
    return "molecules" if task.alphabet == "smiles" else "proteins"


def sentence(verdict: Verdict) -> str:
    """The verdict in words, with its numbers."""
    v = verdict
    how = {
        "": f"{v.head} head" if v.head != ZERO_SHOT else "without training",
        "validation": f"{v.head} head, chosen of {v.heads} by the validation set",
        "test": f"{v.head} head, the best of {v.heads} on this very test",
    }[v.chosen_by]
    text = (
        f"On {v.split} ({v.count:,} {v.unit}), {v.model} reaches {number(v.value, v.interval)} "
        f"({metric_name(v.metric, v.average)}; {how})."
    )
    for kind, reason in ((BEATS, ""), (NOT_SHOWN, ", for the 95 % intervals overlap"), (BELOW, "")):
        others = [c for c in v.comparisons if c.outcome == kind]
        if others:
            text += f" It {'**' + kind + '**'} {listed([_called(c) for c in others])}{reason}."
    return text if v.comparisons else text + " There is no baseline to compare it with."


def _called(one: Comparison) -> str:
    name = "its random-weights twin" if one.twin else one.method.removeprefix("baseline: ")
    return f"{name} ({number(one.value, one.interval)})"


def summary(verdicts: Sequence[Verdict]) -> list[str]:
    """One sentence a model: in how many tests it beats its twin, and every baseline."""
    whole = [v for v in verdicts if identity_cut(v.split)[1] is None]
    lines = []
    for model in dict.fromkeys(v.model for v in whole):
        own = [v for v in whole if v.model == model and v.comparisons]
        twins = [c for v in own for c in v.comparisons if c.twin]
        won = sum(all(c.outcome == BEATS for c in v.comparisons) for v in own)
        text = f"**{model}** beats every baseline in {won} of {len(own)} tests"
        if twins:
            text += (
                f", and its random-weights twin in {sum(c.outcome == BEATS for c in twins)} of"
                f" {len(twins)}"
            )
        below = [c for v in own for c in v.comparisons if c.outcome == BELOW]
        text += (
            "; it is below some baseline in"
            f" {sum(any(c.outcome == BELOW for c in v.comparisons) for v in own)}."
            if below
            else "."
        )
        lines.append(text)
    return lines

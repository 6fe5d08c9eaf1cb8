"""Metrics of a run: means over a window of steps, and metrics.jsonl as its one reader sees it.

Nothing of JAX is imported, so that what only reads runs opens at once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypedDict

from phenomjax.system.types import Figure

FILE = "metrics.jsonl"

# What an evaluator found: {metric: value} and {name: figure}.
Found: TypeAlias = Mapping[str, "float | Figure"]


@dataclass(frozen=True)
class MetricsLine:
    """One line of metrics.jsonl.

    Attributes:
      step: that the metrics are of.
      values: {metric: value}, without the step.
      text: the line as it stands in the file, without its end.
    """

    step: int
    values: dict[str, float]
    text: str


def read_metrics(path: Path) -> tuple[list[MetricsLine], list[int]]:
    """Reads metrics.jsonl, of a run that may be writing it just now.

    Args:
      path: of the file; where there is none, no metrics were written yet.

    Returns:
      (lines in order, numbers of the lines, from 1 on, that are torn or no line of metrics). A line
      counts only when all of it is sound.
    """
    lines, damaged = list[MetricsLine](), list[int]()
    try:
        texts = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return lines, damaged
    for number, text in enumerate(texts, 1):
        try:
            entries = json.loads(text)
            step = int(entries.pop("step"))
            values = {str(name): float(value) for name, value in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            damaged.append(number)
        else:
            lines.append(MetricsLine(step, values, text))
    return lines, damaged


def val_losses(workdir: Path) -> dict[int, float]:
    """{step: val/loss} of a run as it is now."""
    lines, _ = read_metrics(workdir / FILE)
    return {line.step: line.values["val/loss"] for line in lines if "val/loss" in line.values}


class WindowState(TypedDict):
    """What a checkpoint keeps of a window."""

    sums: dict[str, float]
    count: int


class Window:
    """Sums of scalar metrics since the last log line.

    It travels in the checkpoint, so a resumed run logs the same means.
    """

    def __init__(self, state: WindowState | None = None):
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.count = state["count"] if state else 0

    def add(self, metrics: Mapping[str, float]) -> None:
        """Adds one step's metrics."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def mean(self) -> dict[str, float]:
        """Means over the window; the window starts anew."""
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state(self) -> WindowState:
        """What a checkpoint keeps."""
        return {"sums": dict(self.sums), "count": self.count}

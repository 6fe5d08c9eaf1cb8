"""The report of an evaluation: results.json, report.md and figures, as a pure function of the results."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phenomjax.probes.suite import Suite

Key = tuple[str, str, str, str]  # task, label, split (test set), method


@dataclass(frozen=True)
class Checkpoint:
    """A model that was evaluated. Its `name` is the `model` of its rows."""

    name: str
    path: str
    step: int
    fingerprint: str
    parameters: int
    task: str  # of its training, such as "causal_lm"


@dataclass(frozen=True)
class Confusion:
    """counts: int64 [true, predicted], of proteins or residues, in the order of `classes`."""

    counts: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Reliability:
    """probability: float32 [n] of the predicted class, of each protein or residue; right: bool [n]."""

    probability: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class MutationMap:
    """Effects of single substitutions. measured, predicted: float64 [20, positions], NaN where there is none, letters in alphabetic order."""

    wild_type: str
    offset: int
    measured: np.ndarray
    predicted: np.ndarray


@dataclass
class Details:
    """What the report needs beside the rows of results.

    Attributes:
      checkpoints: in the order of their columns and colours.
      command: that makes this report again.
      suite: path of the suite file.
      data: folder of the data.
      tasks: {task: {"train": rows, "validation": rows, TEST: rows, "fingerprint": sha256}} of the tasks that were evaluated.
      confusion, reliability: by (task, label, split, method).
      mutations: by (task, method).
      leakage: rows of leakage.report.
      notes: what was left out, and why.
      seconds: that the evaluation took.
    """

    checkpoints: list[Checkpoint] = field(default_factory=list)
    command: str = ""
    suite: str = ""
    data: str = ""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    confusion: dict[Key, Confusion] = field(default_factory=dict)
    reliability: dict[Key, Reliability] = field(default_factory=dict)
    mutations: dict[tuple[str, str], MutationMap] = field(default_factory=dict)
    leakage: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def write(out: Path, results: list[dict[str, Any]], details: Details, suite: Suite) -> list[Path]:
    """Writes results.json, report.md and figures/*.png below `out`, each whole or not at all; returns their paths.

    Args:
      out: folder.
      results: rows of probes.results.
      details: see there.
      suite: that was evaluated.
    """
    raise NotImplementedError

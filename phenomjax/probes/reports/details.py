"""What a report shows of one checkpoint, as plain data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from phenomjax.probes.suites.leakage import Overlap
from phenomjax.system import versions as system_versions

Key = tuple[str, str, str, str]  # task, label, split (test set), method


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that was evaluated. Its `name` is the `model` of its rows."""

    name: str
    path: str
    step: int
    fingerprint: str
    parameters: int
    task: str  # of its training, such as "causal_lm"


@dataclass(frozen=True)
class Confusion:
    """Counts of proteins or residues, in the order of `classes`."""

    counts: Int[np.ndarray, "true predicted"]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Reliability:
    """Of each protein or residue the probability of the predicted class; whether that is right."""

    probability: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class MutationMap:
    """Effects of single substitutions, NaN where there is none; letters in alphabetic order."""

    wild_type: str
    offset: int
    measured: Float[np.ndarray, "20 positions"]
    predicted: Float[np.ndarray, "20 positions"]


@dataclass
class Details:
    """What the report needs beside the rows of results.

    Attributes:
      checkpoints: in the order of their columns and colours.
      command: that makes this report again.
      suite: path of the suite file.
      data: folder of the data.
      tasks: {task: {"train": rows, "validation": rows, TEST: rows, "fingerprint": sha256}} of the
        tasks that were evaluated.
      confusion, reliability: by (task, label, split, method).
      mutations: by (task, method).
      leakage: rows of leakage.report.
      notes: what was left out, and why.
      seconds: that the evaluation took.
      versions: of the packages.
    """

    checkpoints: list[EvaluatedModel] = field(default_factory=list)
    command: str = ""
    suite: str = ""
    data: str = ""
    tasks: dict[str, dict[str, int | str]] = field(default_factory=dict)
    confusion: dict[Key, Confusion] = field(default_factory=dict)
    reliability: dict[Key, Reliability] = field(default_factory=dict)
    mutations: dict[tuple[str, str], MutationMap] = field(default_factory=dict)
    leakage: list[Overlap] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=system_versions.versions)


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report: what it is of, its file, its caption, and how it is drawn."""

    task: str
    label: str
    name: str
    caption: str
    draw: "Callable[[], Figure]"

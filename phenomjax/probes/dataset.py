"""A task's data as arrays: sequences, labels, and which rows train, validate and test. `load` makes it from a suite's entry."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phenomjax.probes.suite import MULTILABEL, RESIDUE, VALUE, Task

TRAIN, VALIDATION = "train", "validation"  # every other name of a split is a test set


@dataclass(frozen=True)
class Labels:
    """What is known of the rows, of one thing that is predicted.

    Attributes:
      kind: a name in suite.KINDS.
      classes: their names, () for VALUE. Those that only rows outside the training have stand last: they can never be right.
      values: RESIDUE: list of int16 [length], -1 = unknown or masked; CLASS: int64 [n], -1 = unknown; MULTILABEL: bool [n, classes], a row
        without True is unknown; VALUE: float64 [n], NaN = unknown.
      metric: the one to judge by.
    """

    kind: str
    classes: tuple[str, ...]
    values: Any
    metric: str

    def known(self) -> np.ndarray:
        """bool [n]: rows with any label."""
        if self.kind == RESIDUE:
            return np.array([bool((row >= 0).any()) for row in self.values], bool)
        if self.kind == MULTILABEL:
            return self.values.any(1)
        return ~np.isnan(self.values) if self.kind == VALUE else self.values >= 0

    def take(self, rows: np.ndarray) -> "Labels":
        """The labels of some rows."""
        values = [self.values[row] for row in rows] if self.kind == RESIDUE else self.values[rows]
        return Labels(self.kind, self.classes, values, self.metric)


@dataclass(frozen=True)
class Dataset:
    """All rows of a task, in the order of its files.

    Attributes:
      name: of the task.
      alphabet: "protein" or "smiles".
      ids: [n].
      sequences: [n], letters as given; proteins in upper case.
      labels: {label: Labels}.
      split: str [n]: "train", "validation", or the name of a test set.
      subsets: further views of the tests: {"test, identity < 0.3": row numbers}.
      fingerprint: sha256 of all of it but the subsets.
    """

    name: str
    alphabet: str
    ids: list[str]
    sequences: list[str]
    labels: dict[str, Labels]
    split: np.ndarray
    subsets: dict[str, np.ndarray] = field(default_factory=dict)
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.sequences)

    def rows(self, split: str) -> np.ndarray:
        """int64: the numbers of the rows of a split, or of a subset."""
        return self.subsets[split] if split in self.subsets else np.flatnonzero(self.split == split)

    @property
    def tests(self) -> list[str]:
        """Names of the test sets, in the order of their first rows."""
        return [name for name in dict.fromkeys(self.split.tolist()) if name not in (TRAIN, VALIDATION)]

    @property
    def test_rows(self) -> np.ndarray:
        """int64: every row that neither trains nor validates, in order."""
        return np.flatnonzero((self.split != TRAIN) & (self.split != VALIDATION))


def fingerprint(dataset: Dataset) -> str:
    """sha256 of everything in a dataset but its subsets."""
    digest = hashlib.sha256()

    def add(*texts: str) -> None:
        for text in texts:
            digest.update(f"{len(text)} {text}\n".encode())

    add(dataset.alphabet, *dataset.ids, *dataset.sequences, *dataset.split.tolist())
    for name, labels in dataset.labels.items():
        add(name, labels.kind, labels.metric, *labels.classes)
        for values in labels.values if labels.kind == RESIDUE else [labels.values]:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def load(name: str, task: Task, data: Path) -> Dataset:
    """Reads, maps, splits and limits a task.

    Args:
      name: of the task.
      task: the entry.
      data: the suite's data folder.

    Raises:
      UserError: a file, a record or a split is not what the entry says; with file, record and position.
    """
    raise NotImplementedError

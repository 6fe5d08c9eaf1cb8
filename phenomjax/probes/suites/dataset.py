"""A task's data as arrays: sequences, labels, and which rows train, validate and test. `load` makes
it from a suite's entry.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from phenomjax.probes.suites import formats, label_values, splits
from phenomjax.probes.suites.formats import LabelledSequence
from phenomjax.probes.suites.suite import MULTILABEL, RESIDUE, VALUE, Task
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")

TRAIN, VALIDATION = "train", "validation"  # every other name of a split is a test set


@dataclass(frozen=True)
class Labels:
    """What is known of the rows, of one thing that is predicted.

    Attributes:
      kind: a name in suite.KINDS.
      classes: their names, () for VALUE. Those that only rows outside the training have stand last:
        they can never be right.
      values: RESIDUE: list of int16 [length], -1 = unknown or masked; CLASS: int64 [n], -1 =
        unknown; MULTILABEL: bool [n, classes], a row without True is unknown; VALUE: float64 [n],
        NaN = unknown.
      metric: the one to judge by.
    """

    kind: str
    classes: tuple[str, ...]
    values: Any
    metric: str

    def known(self) -> Bool[np.ndarray, " rows"]:
        """Rows with any label."""
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

    def rows(self, split: str) -> Int[np.ndarray, " some"]:
        """The numbers of the rows of a split, or of a subset."""
        return self.subsets[split] if split in self.subsets else np.flatnonzero(self.split == split)

    def names(self, rows: Sequence[int]) -> list[str]:
        """The ids of some rows."""
        return [self.ids[row] for row in rows]

    @property
    def per(self) -> str:
        """What a label, and so a vector, stands for: "residue" or "protein"."""
        return (
            "residue"
            if any(labels.kind == RESIDUE for labels in self.labels.values())
            else "protein"
        )

    @property
    def tests(self) -> list[str]:
        """Names of the test sets, in the order of their first rows."""
        return [
            name for name in dict.fromkeys(self.split.tolist()) if name not in (TRAIN, VALIDATION)
        ]

    @property
    def test_rows(self) -> Int[np.ndarray, " tests"]:
        """Every row that neither trains nor validates, in order."""
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


def load(name: str, task: Task, data: Path, cache: Path | None = None) -> Dataset:
    """Reads, maps, splits and limits a task, and logs what was read, dropped and left out.

    Args:
      name: of the task.
      task: the entry.
      data: the suite's data folder.
      cache: a folder that keeps what MMseqs2 finds; None = none is kept.

    Raises:
      UserError: a file, a record or a split is not what the entry says; with file, record and
        position.
    """
    counts: dict[str, int] = {}
    records, masked = _read(task, Path(data))
    counts["read"] = len(records)
    dropped = [
        any(r.fields[label.column].strip() in label.drop for label in task.labels.values())
        for r in records
    ]
    records, masked = _keep(~np.array(dropped, bool), counts, "dropped", records, masked)
    sequences = formats.clean_sequences(records, task.alphabet)
    short = np.array(
        [not task.max_length or len(text) <= task.max_length for text in sequences], bool
    )
    records, masked, sequences = _keep(
        short, counts, f"longer than {task.max_length}", records, masked, sequences
    )
    parsed = {
        key: label_values.parse(key, label, records, sequences, [of[key] for of in masked])
        for key, label in task.labels.items()
    }
    known = np.any([labels.known() for labels in parsed.values()], axis=0)
    # With "given", rows without a label come along, so that a test of them alone is noticed.
    placed = np.flatnonzero(known | (task.split.by == "given"))
    parts = np.full(len(records), "", object)
    some = [records[row] for row in placed], [sequences[row] for row in placed]
    parts[placed] = splits.assign(name, task.split, *some, cache)
    parts = parts.astype(str)
    _check_parts(name, task, records, parts, known, counts)
    counts["without a label"] = int((~known).sum())
    counts["not read by RDKit"] = int((known & (parts == "")).sum())
    kept = known & (parts != "")
    within = splits.within_limits(
        task, parts[kept], [sequences[row] for row in np.flatnonzero(kept)]
    )
    counts["above the limits"] = int((~within).sum())
    rows = np.flatnonzero(kept)[within]
    parts = parts[rows]
    labels = {
        key: _encoded(name, key, task, found.take(rows), parts) for key, found in parsed.items()
    }
    made = Dataset(
        name,
        task.alphabet,
        [records[row].id for row in rows],
        [sequences[row] for row in rows],
        labels,
        parts,
    )
    sizes = ", ".join(f"{len(made.rows(part))} {part}" for part in [TRAIN, VALIDATION, *made.tests])
    out = ", ".join(f"{count} {what}" for what, count in counts.items() if count and what != "read")
    log.info(
        "task %s: %d records read, %s%s",
        name,
        counts["read"],
        sizes,
        f"; left out: {out}" if out else "",
    )
    return replace(made, fingerprint=fingerprint(made))


def _encoded(
    name: str, key: str, task: Task, found: label_values.Parsed, parts: Shaped[np.ndarray, " rows"]
) -> Labels:
    """A label of the rows that are kept, in numbers of its classes."""
    classes = label_values.order(found, parts == TRAIN)
    metric = task.labels[key].metric or label_values.METRICS[found.label.kind]
    labels = Labels(found.label.kind, classes, label_values.encode(found, classes), metric)
    _check_known(name, key, labels, parts)
    return labels


def _read(task: Task, data: Path) -> tuple[list[LabelledSequence], list[dict[str, bool]]]:
    """All records, and of each whether its mask holds for each label: not where a label is read
    from the mask itself.
    """
    records: list[LabelledSequence] = []
    masked: list[dict[str, bool]] = []
    for source in task.sources:
        found = formats.read(source, data, [label.column for label in task.labels.values()])
        mask = source.fields.get("mask", "mask")
        use = {
            key: source.fields.get(label.column, label.column) != mask
            for key, label in task.labels.items()
        }
        records += found
        masked += [use] * len(found)
    return records, masked


def _keep(keep: np.ndarray, counts: dict[str, int], what: str, *lists: list) -> list[list]:
    counts[what] = int((~keep).sum())
    return [[item for item, wanted in zip(items, keep, strict=True) if wanted] for items in lists]


def _check_parts(
    name: str,
    task: Task,
    records: list[LabelledSequence],
    parts: np.ndarray,
    known: np.ndarray,
    counts: dict[str, int],
) -> None:
    """Raises UserError for a split without rows, or a test of which nothing is known."""
    out = ", ".join(f"{count} {what}" for what, count in counts.items() if count and what != "read")
    there = (
        ", ".join(f"{int((parts == part).sum())} {part}" for part in np.unique(parts) if part)
        or "none"
    )
    files = ", ".join(str(source.path) for source in task.sources)
    tests = [part for part in np.unique(parts) if part not in (TRAIN, VALIDATION, "")]
    missing = "training" if TRAIN not in parts else "" if tests else "test"
    if missing:
        raise UserError(
            f"Task '{name}' has no {missing} rows. Of {counts['read']} records of {files} there are"
            f" {there}{f'; left out: {out}' if out else ''}. The split is by {task.split.by}: the"
            " files must say it (`set`, `split`, or `constants` of a source), or give"
            ' `Split(by="hash", test=0.2)`; with few rows or large groups, raise `test`.'
        )
    for part in tests:
        if not known[parts == part].any():
            first = records[int(np.flatnonzero(parts == part)[0])]
            raise UserError(
                f"Task '{name}': no row of its test '{part}' has a known label"
                f" ({int((parts == part).sum())} rows, the first is {first.where}). Leave that file"
                " out, or name the column that holds its labels with `fields` or `column`."
            )


def _check_known(name: str, key: str, labels: Labels, parts: np.ndarray) -> None:
    known = labels.known()
    for what, rows in (
        ("training", parts == TRAIN),
        ("tests", (parts != TRAIN) & (parts != VALIDATION)),
    ):
        if not known[rows].any():
            raise UserError(
                f"Task '{name}': label '{key}' is unknown in all {int(rows.sum())} rows of its"
                f" {what}, so that it can be neither learned nor judged. Look at its `column`,"
                " `unknown` and `level`, at the masks, and at the limits."
            )

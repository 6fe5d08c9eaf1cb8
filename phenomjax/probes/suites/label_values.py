"""The texts of a label's field as numbers: classes of residues and proteins, sets of classes,
measured values.
"""

import math
import re
from dataclasses import dataclass

import numpy as np

from phenomjax.probes.suites.formats import LabelledSequence, fail
from phenomjax.probes.suites.suite import MULTILABEL, RESIDUE, VALUE, Label
from phenomjax.system.errors import did_you_mean

METRICS = {
    "residue_class": "accuracy",
    "class": "accuracy",
    "multilabel": "f1_samples",
    "value": "spearman",
}


class _Index(dict):
    """Numbers of texts in the order of their first use."""

    def __missing__(self, text: str) -> int:
        self[text] = len(self)
        return self[text]


@dataclass(frozen=True)
class Parsed:
    """What a label's field says, before it is known which rows train.

    Attributes:
      label: the entry.
      codes: one array a row: int32 numbers of `names`, [length] for RESIDUE, [classes of the row]
        otherwise; -1 = unknown. Empty for VALUE.
      names: of classes.
      values: VALUE: float64 [n], NaN = unknown.
    """

    label: Label
    codes: list[np.ndarray]
    names: tuple[str, ...]
    values: np.ndarray

    def known(self) -> np.ndarray:
        """bool [n]: rows with any label."""
        if self.label.kind == VALUE:
            return ~np.isnan(self.values)
        return np.array([bool((row >= 0).any()) for row in self.codes], bool)

    def take(self, rows: np.ndarray) -> "Parsed":
        """Some of the rows."""
        codes = [self.codes[row] for row in rows] if self.codes else []
        return Parsed(
            self.label, codes, self.names, self.values[rows] if len(self.values) else self.values
        )


def parse(
    name: str,
    label: Label,
    records: list[LabelledSequence],
    sequences: list[str],
    masked: list[bool],
) -> Parsed:
    """Reads the field of every record.

    Args:
      name: of the label, for messages.
      label: the entry.
      records: [n].
      sequences: [n], as the model reads them.
      masked: [n], whether the record's field "mask" holds for this label.

    Raises:
      UserError: a text of another length than its sequence, a class that is not listed, or no
        number.
    """
    texts = [record.fields[label.column].strip() for record in records]
    if label.kind == VALUE:
        return Parsed(label, [], (), _numbers(name, label, records, texts))
    index = _Index()
    if label.kind == RESIDUE:
        codes = _residues(name, label, records, sequences, texts, index)
    elif label.kind == MULTILABEL:
        separator = label.separator
        codes = [_codes([part.strip() for part in text.split(separator)], index) for text in texts]
    else:
        codes = [_codes([text], index) for text in texts]
    names, meaning = _meanings(label, list(index))
    _check_listed(name, label, records, codes, list(index), names, meaning)
    known = [meaning[row] for row in codes]
    if label.kind == RESIDUE:
        _mask(records, sequences, known, masked)
    elif label.kind == MULTILABEL:
        known = [np.unique(row[row >= 0]) for row in known]
    return Parsed(label, known, tuple(names), np.zeros(0))


def _codes(texts: list[str] | str, index: _Index) -> np.ndarray:
    return np.array([index[text] for text in texts], np.int32)


def tokens(text: str) -> list[str] | str:
    """One text a residue: letters without anything between them, or a list such as "0.0 1.0" and
    "[0, 1]", whose whole numbers lose ".0".
    """
    if not re.search(r"[\s,\[]", text):
        return text
    return [re.sub(r"^(-?\d+)\.0*$", r"\1", part) for part in re.split(r"[\s,\[\]]+", text) if part]


def _residues(
    name: str,
    label: Label,
    records: list[LabelledSequence],
    sequences: list[str],
    texts: list[str],
    index: _Index,
) -> list[np.ndarray]:
    codes, faults = [], []
    for record, sequence, text in zip(records, sequences, texts, strict=True):
        if text == "" or (text in label.unknown and len(text) != len(sequence)):
            codes.append(np.full(len(sequence), index[""], np.int32))
            continue
        found = tokens(text)
        codes.append(_codes(found, index))
        if len(found) != len(sequence):
            faults.append(
                f"{record.where} has {len(found)} labels '{name}' (field '{label.column}') for"
                f" {len(sequence)} residues: from position {min(len(found), len(sequence)) + 1} on"
                " one of them is missing"
            )
    fail(
        faults,
        "Each residue needs one label; write a letter that the entry lists as `unknown` where there"
        " is none.",
    )
    return codes


def _meanings(label: Label, raw: list[str]) -> tuple[list[str], np.ndarray]:
    """(classes that occur, int32 [raw] number of each text's class or -1)."""
    index = _Index()
    meaning = np.full(len(raw) + 1, -1, np.int32)  # the last: for -1
    for number, text in enumerate(raw):
        known = label.translate.get(text, text)
        if known == "" or text in label.unknown or known in label.unknown:
            continue
        if label.level:
            parts = known.split(".")[: label.level]
            if len(parts) < label.level or "-" in parts:
                continue
            known = ".".join(parts)
        meaning[number] = index[known]
    return list(index), meaning


def _check_listed(
    name: str,
    label: Label,
    records: list[LabelledSequence],
    codes: list[np.ndarray],
    raw: list[str],
    names: list[str],
    meaning: np.ndarray,
) -> None:
    if not label.classes or not set(names) - set(label.classes):
        return
    strange = np.array([m >= 0 and names[m] not in label.classes for m in meaning])
    faults = []
    for record, row in zip(records, codes, strict=True):
        places = np.flatnonzero(strange[row])
        if len(places):
            text = raw[row[places[0]]]
            at = f" at position {places[0] + 1}" if label.kind == RESIDUE else ""
            faults.append(
                f"{record.where} has '{text}'{at} in field '{label.column}', which is no class of"
                f" label '{name}'.{did_you_mean(text, label.classes)}"
            )
    listed = ", ".join(label.classes[:30]) + (" …" if len(label.classes) > 30 else "")
    fail(
        faults,
        f"Its classes are {listed}. Add it to `classes`, `translate` it, or list it as `unknown` or"
        " `drop`.",
    )


def _mask(
    records: list[LabelledSequence],
    sequences: list[str],
    codes: list[np.ndarray],
    masked: list[bool],
) -> None:
    faults = []
    for record, sequence, row, use in zip(records, sequences, codes, masked, strict=True):
        text = record.fields.get("mask", "")
        if not use or text == "":
            continue
        found = tokens(text)
        if len(found) != len(sequence):
            faults.append(
                f"{record.where} has {len(found)} letters of mask for {len(sequence)} residues"
            )
            continue
        bad = next((i for i, letter in enumerate(found) if letter not in ("0", "1")), None)
        if bad is not None:
            faults.append(f"{record.where} has '{found[bad]}' at position {bad + 1} of its mask")
            continue
        row[[letter == "0" for letter in found]] = -1
    fail(faults, "A mask has 1 for each residue that counts and 0 for each that does not.")


def _numbers(
    name: str, label: Label, records: list[LabelledSequence], texts: list[str]
) -> np.ndarray:
    values, faults = np.full(len(texts), np.nan), []
    for place, (record, text) in enumerate(zip(records, texts, strict=True)):
        if text == "" or text in label.unknown:
            continue
        try:
            values[place] = float(text)
        except ValueError:
            faults.append(
                f"{record.where} has '{text}' in field '{label.column}', where label '{name}' needs"
                " a number"
            )
            continue
        if not math.isfinite(values[place]):
            faults.append(
                f"{record.where} has '{text}' in field '{label.column}', which is no finite number"
            )
    fail(
        faults,
        "Correct it, leave the cell empty, or list the text as `unknown` (no label) or `drop` (no"
        " row) in the entry.",
    )
    return values


def order(parsed: Parsed, train: np.ndarray) -> tuple[str, ...]:
    """The classes: those listed, or those of the training rows, sorted (numbers by value); then
    those that only other rows have, sorted.
    """
    if parsed.label.kind == VALUE or parsed.label.classes:
        return parsed.label.classes
    seen = np.zeros(len(parsed.names) + 1, bool)  # the last: for -1
    for row in np.flatnonzero(train):
        seen[parsed.codes[row]] = True
    learned = {name for name, there in zip(parsed.names, seen, strict=False) if there}
    used = np.zeros(len(parsed.names) + 1, bool)
    for codes in parsed.codes:
        used[codes] = True
    others = {name for name, there in zip(parsed.names, used, strict=False) if there} - learned
    return (*sorted(learned, key=_by_number), *sorted(others, key=_by_number))


def _by_number(name: str) -> list[tuple[int, int, str]]:
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]


def encode(parsed: Parsed, classes: tuple[str, ...]):
    """The values of Labels, for classes in their order."""
    if parsed.label.kind == VALUE:
        return parsed.values
    places = {name: place for place, name in enumerate(classes)}
    table = np.array([places.get(name, -1) for name in parsed.names] + [-1], np.int64)
    if parsed.label.kind == RESIDUE:
        return [table[row].astype(np.int16) for row in parsed.codes]
    if parsed.label.kind == MULTILABEL:
        values = np.zeros((len(parsed.codes), len(classes)), bool)
        for place, row in enumerate(parsed.codes):
            values[place, table[row]] = True
        return values
    return np.array([table[row[0]] for row in parsed.codes], np.int64)

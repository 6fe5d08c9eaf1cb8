"""Which rows train, validate and test: as the files say, by hash, by MMseqs2 cluster, by
Bemis-Murcko scaffold.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phenomjax.data.sequences import mmseqs
from phenomjax.probes.suites.formats import LabelledSequence, fail
from phenomjax.probes.suites.suite import Split, Task
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
TRUE, FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no", "nan", "")
SHOWN = 3  # unparsable SMILES that are named


def assign(
    name: str,
    split: Split,
    records: list[LabelledSequence],
    sequences: list[str],
    cache: Path | None = None,
) -> np.ndarray:
    """The split of each row.

    Args:
      name: of the task, for messages.
      split: the entry.
      records: [n].
      sequences: [n].
      cache: a folder that keeps the clusters; None = none is kept.

    Returns:
      str [n]: "train", "validation", the name of a test set, or "" for a SMILES string that RDKit
      cannot read (with "scaffold").

    Raises:
      UserError: files that do not say it, MMseqs2 or RDKit missing, or a share that is none.
    """
    for key, share in (("test", split.test), ("validation", split.validation)):
        if not 0 <= share < 1:
            raise UserError(
                f"Task '{name}': split.{key} is {share:g}; it is a share of the rows, from 0 to"
                " below 1."
            )
    if split.by == "scaffold":
        return _by_scaffold(name, split, records, sequences)
    if split.by == "cluster":
        purpose = f"Task '{name}', which is split by cluster,"
        centres = mmseqs.cluster(sequences, split.identity, cache=cache, purpose=purpose)
        groups = [sequences[centre] for centre in centres]
        parts = np.where(_whole_groups(groups, split.test, "test"), "test", "train").astype(object)
        train = parts == "train"
        parts[train] = np.where(
            _whole_groups(
                [groups[row] for row in np.flatnonzero(train)], split.validation, "validation"
            ),
            "validation",
            "train",
        )
        return parts.astype(str)
    hashed = np.where(unit_hash(sequences, "test") < split.test, "test", "train").astype(object)
    parts = hashed if split.by == "hash" else _given(name, records)
    if split.validation and "validation" not in parts:
        train = np.flatnonzero(parts == "train")
        positions = unit_hash([sequences[row] for row in train], "validation")
        # At least one sequence, and one at least is left.
        bound = min(
            max(split.validation, np.nextafter(positions.min(initial=1), 2)),
            positions.max(initial=0),
        )
        parts[train[positions < bound]] = "validation"
    return parts.astype(str)


def unit_hash(texts: Sequence[str], salt: str) -> np.ndarray:
    """float64 [n] in [0, 1), uniform: of each text alone, so that other rows have no say in it."""
    digests = (
        hashlib.blake2b(f"{salt}\n{text}".encode(), digest_size=8).digest() for text in texts
    )
    return (
        np.array([int.from_bytes(digest, "big") >> 11 for digest in digests], np.float64) / 2.0**53
    )


def within_limits(task: Task, parts: np.ndarray, sequences: list[str]) -> np.ndarray:
    """bool [n]: the rows that max_train, max_validation and max_test (of each test set) leave:
    those with the smallest hash.
    """
    keep = np.ones(len(parts), bool)
    for name in np.unique(parts):
        most = {"train": task.max_train, "validation": task.max_validation}.get(
            str(name), task.max_test
        )
        rows = np.flatnonzero(parts == name)
        if most and len(rows) > most:
            # Copies of a sequence would fall together, and a small limit would be filled with them.
            texts = [sequences[row] for row in rows]
            number: dict[str, int] = defaultdict(int)
            copies = []
            for text in texts:
                copies.append(f"{text}\n{number[text]}")
                number[text] += 1
            keep[rows[np.argsort(unit_hash(copies, "limit"), kind="stable")[most:]]] = False
    return keep


def _given(name: str, records: list[LabelledSequence]) -> np.ndarray:
    """The field "split", or "set" with "validation" (FLIP, biotrainer), of which the latter counts
    in training rows only.
    """
    parts, faults = [], []
    for record in records:
        text = record.fields.get("split", record.fields.get("set"))
        if not text:
            said = (
                ", ".join(
                    f"{key}={value}"
                    for key, value in record.fields.items()
                    if key in ("split", "set")
                )
                or "none of them"
            )
            faults.append(
                f"Task '{name}': {record.where} does not say to which split it belongs (field"
                f" 'split', or 'set'): {said}"
            )
            continue
        part = NAMES.get(text.lower(), text)
        also = record.fields.get("validation", "").lower() if "split" not in record.fields else ""
        if also not in TRUE + FALSE:
            faults.append(
                f"Task '{name}': {record.where} has validation={also}, which is neither True nor"
                " False"
            )
        parts.append("validation" if part == "train" and also in TRUE else part)
    fail(
        faults,
        'Write it into the file, say it for the whole file with `constants={"split": "test"}`, or'
        ' divide the rows with `Split(by="hash")`.',
    )
    return np.array(parts, object)


def _whole_groups(groups: Sequence[str], share: float, salt: str) -> np.ndarray:
    """bool [n]: rows of groups drawn in the order of their hash until they are a share of the rows;
    a group too large for it stays out.
    """
    names, inverse, counts = np.unique(
        np.array(groups, object), return_inverse=True, return_counts=True
    )
    room, chosen = round(share * len(groups)), np.zeros(len(names), bool)
    for group in np.argsort(unit_hash(names.tolist(), salt), kind="stable"):
        if counts[group] <= room:
            chosen[group] = True
            room -= counts[group]
    return chosen[inverse] if len(groups) else np.zeros(0, bool)


def _by_scaffold(
    name: str, split: Split, records: list[LabelledSequence], sequences: list[str]
) -> np.ndarray:
    """Whole Bemis-Murcko scaffolds, the largest first to training, then to validation, then to the
    test.

    This is the rule of MoleculeNet (Wu et al. 2018) as DeepChem has it, ties included: of two
    scaffolds of one size that with the later first molecule comes first. Its shares 0.8, 0.1, 0.1
    are test=0.1, validation=1/9.
    """
    scaffolds = murcko_scaffolds(name, sequences)
    groups: dict[str, list[int]] = defaultdict(list)
    for row, scaffold in enumerate(scaffolds):
        if scaffold is not None:
            groups[scaffold].append(row)
    bad = [records[row] for row, scaffold in enumerate(scaffolds) if scaffold is None]
    if bad:
        named = "; ".join(f"{record.where}: {record.sequence}" for record in bad[:SHOWN])
        log.warning(
            "task %s: %d SMILES that RDKit cannot read are left out: %s%s",
            name,
            len(bad),
            named,
            "; …" if len(bad) > SHOWN else "",
        )
    parts = np.full(len(sequences), "", object)
    count = len(sequences) - len(bad)
    train = (1 - split.test) * (1 - split.validation) * count
    ends = train, train + (1 - split.test) * split.validation * count
    trained = validated = 0
    for rows in sorted(groups.values(), key=lambda rows: (len(rows), rows[0]), reverse=True):
        if trained + len(rows) <= ends[0] + 1e-6:
            part, trained = "train", trained + len(rows)
        elif trained + validated + len(rows) <= ends[1] + 1e-6:
            part, validated = "validation", validated + len(rows)
        else:
            part = "test"
        parts[rows] = part
    return parts.astype(str)


def murcko_scaffolds(name: str, smiles: Sequence[str]) -> list[str | None]:
    """The Bemis-Murcko scaffold of each molecule as SMILES without chirality ("" = no ring), None
    where RDKit cannot read it.

    Raises:
      UserError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Scaffolds import MurckoScaffold
    except ImportError:
        raise UserError(
            f"Task '{name}' is split by scaffold, which needs RDKit: `pip install"
            " 'phenomjax[smiles]'`, or `pip install rdkit`."
        ) from None
    found: list[str | None] = []
    with rdBase.BlockLogs():  # bad ones are named by the caller
        for text in smiles:
            molecule = Chem.MolFromSmiles(text)
            found.append(
                None if molecule is None else MurckoScaffold.MurckoScaffoldSmiles(mol=molecule)
            )
    return found

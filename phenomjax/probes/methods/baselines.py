"""Baselines that know no model: majority, composition, windows of one-hot or BLOSUM62 letters, with
scikit-learn's linear models.

What each is, by the kind of label:

- majority: the frequencies of the classes among the rows that are learned from; of several classes
  the most frequent; the mean value.
- composition: frequencies of amino acids and dipeptides (420 numbers); of SMILES RDKit's Morgan
  fingerprint; of a residue its own letter.
- one_hot: of residues the 15 letters around them (Qian and Sejnowski 1988); of proteins of one
  length (variants) every position, as in FLIP (Dallago et al. 2021); of others there is no such
  thing, and it is the composition.
- blosum62: the same with each letter as its row of BLOSUM62; of proteins of several lengths the
  mean row.

Classes are told by logistic regression, by ridge regression on 0 and 1 where there are many; values
by ridge regression. They learn from the training and the validation rows; only the composition's
scale and strength of regularisation are chosen on the validation rows first.
"""

import functools
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from phenomjax.probes.methods import blosum
from phenomjax.probes.metrics import Scores
from phenomjax.probes.suites.dataset import TRAIN, VALIDATION, Dataset, Labels
from phenomjax.probes.suites.suite import BASELINES, CLASS, MULTILABEL, RESIDUE, VALUE, Training
from phenomjax.system.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

log = logging.getLogger("phenomjax")
NAMES = BASELINES[:4]
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
OTHER = len(AMINO_ACIDS)  # the code of any other letter, and of what is beyond the ends of a chain
WINDOW = {"composition": 1, "one_hot": 15, "blosum62": 15}  # letters that a residue is told by
REGULARISATION = 1.0  # C of the logistic regression on windows and positions
# (standardised, C) of the composition, of which the validation rows choose; without them the first.
# That one was found by a search for the floors that other people's settings gave (0.454 on
# DeepLoc's ten classes from 1,655 proteins), the second by the same search as the best.
COMPOSITION_FITS = ((True, 0.008), (False, 100.0))
PLAIN = ((False, REGULARISATION),)
RIDGE = 1.0  # alpha on one-hot positions
RIDGES = tuple(10.0**k for k in range(-2, 6))  # alphas of others, by leave-one-out error
LOGISTIC_CLASSES = 100  # more make logistic regression slow: ridge then
# learned from, of evenly spaced chains
MAX_RESIDUES = {"composition": 500_000, "one_hot": 500_000, "blosum62": 40_000}
RADIUS, BITS = 2, 2048  # of fingerprints


def predict(name: str, dataset: Dataset, training: Training) -> list[Scores]:
    """Predicts the test rows from the letters of the training rows alone.

    Args:
      name: "majority", "composition", "one_hot" or "blosum62".
      dataset: what is predicted.
      training: of the suite; not used by these.

    Returns:
      One {label: predictions of dataset.test_rows}, as metrics.evaluate takes them.

    Raises:
      UserError: no such baseline, or none for this alphabet; RDKit is missing or cannot read a
        SMILES.
    """
    if name not in NAMES:
        raise UserError(
            f"There is no baseline '{name}'.{did_you_mean(name, NAMES)} There are"
            f" {', '.join(NAMES)}."
        )
    if name == "blosum62" and dataset.alphabet != "protein":
        raise UserError(
            f"Task '{dataset.name}': BLOSUM62 scores amino acids, and its alphabet is"
            f" '{dataset.alphabet}'. Take 'blosum62' out of its baselines."
        )
    test = dataset.test_rows
    learned = np.flatnonzero((dataset.split == TRAIN) | (dataset.split == VALIDATION))
    table: _Table | None = None
    scores: Scores = {}
    for label, labels in dataset.labels.items():
        rows = learned[labels.known()[learned]]
        if labels.kind == RESIDUE:
            classifier = functools.partial(_residues, name, dataset)
            learn = _majority_of_residues if name == "majority" else classifier
            scores[label] = learn(labels, rows, test)
        elif name == "majority" or not len(rows):
            scores[label] = _majority(labels, rows, test)
        else:
            table = table or _table(name, dataset)
            fit = _chosen(labels, table, rows, dataset.split[rows] == VALIDATION)
            scores[label] = _proteins(labels, table, fit, rows, test)
    return [scores]


def _majority(
    labels: Labels, rows: Int[np.ndarray, " rows"], test: Int[np.ndarray, " tests"]
) -> Float[np.ndarray, "tests *classes"]:
    """Of whole proteins."""
    if labels.kind == VALUE:
        return np.full(len(test), labels.values[rows].mean() if len(rows) else 0, np.float32)
    if labels.kind == MULTILABEL:
        share = labels.values[rows].mean(0)
        share[share.argmax()] = 1  # the one set of one class that is right most often
    else:
        share = _shares(labels.values[rows], len(labels.classes))
    return np.tile(share.astype(np.float32), (len(test), 1))


def _majority_of_residues(
    labels: Labels, rows: Int[np.ndarray, " rows"], test: Int[np.ndarray, " tests"]
) -> list[Float[np.ndarray, "_ classes"]]:
    known = np.concatenate([labels.values[row] for row in rows])
    share = _shares(known, len(labels.classes)).astype(np.float32)
    return [np.tile(share, (len(labels.values[row]), 1)) for row in test]


def _shares(values: Int[np.ndarray, " n"], classes: int) -> Float[np.ndarray, " classes"]:
    """Of each class among what is known."""
    known = values[values >= 0]
    return np.bincount(known, minlength=classes) / max(1, len(known))


def codes(sequence: str) -> UInt8[np.ndarray, " length"]:
    """Numbers of the amino acids: 0-19 in the alphabetical order of their letters, 20 = any other
    letter.
    """
    return _CODE[np.frombuffer(sequence.encode("latin-1", "replace"), np.uint8)]


_CODE = np.full(256, OTHER, np.uint8)
_CODE[np.frombuffer(AMINO_ACIDS.encode(), np.uint8)] = np.arange(OTHER)
_BLOSUM = (
    np.concatenate([blosum.vectors(AMINO_ACIDS), np.zeros((1, 20), np.float32)]) / 4
)  # about one; other letters as nothing
_LETTERS: dict[str, np.ndarray] = {
    "one_hot": np.eye(OTHER + 1, dtype=np.float32)[:, :OTHER],
    "blosum62": _BLOSUM,
}


def composition(sequences: list[str]) -> Float[np.ndarray, "sequences 420"]:
    """Frequencies of amino acids, then of dipeptides (of all pairs of the 20)."""
    table = np.zeros((len(sequences), OTHER + OTHER**2))
    for row, sequence in zip(table, sequences, strict=True):
        code = codes(sequence).astype(np.int64)
        single, pair = code < OTHER, (code[:-1] < OTHER) & (code[1:] < OTHER)
        row[:OTHER] = np.bincount(code[single], minlength=OTHER) / max(1, single.sum())
        row[OTHER:] = np.bincount((code[:-1] * OTHER + code[1:])[pair], minlength=OTHER**2) / max(
            1, pair.sum()
        )
    return table


def fingerprints(dataset: Dataset) -> UInt8[np.ndarray, "molecules 2048"]:
    """Morgan fingerprints of molecules (circular, radius 2)."""
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdFingerprintGenerator
    except ImportError:
        raise UserError(
            "Fingerprints of molecules are made by RDKit, which is not installed: `pip install"
            " 'phenomjax[smiles]'`."
        ) from None
    quiet = rdBase.BlockLogs()  # until it is forgotten
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    table = np.zeros((len(dataset.sequences), BITS), np.uint8)
    for row, name, smiles in zip(table, dataset.ids, dataset.sequences, strict=True):
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is None:
            raise UserError(
                f"Task '{dataset.name}': RDKit cannot read the SMILES '{smiles}' of record"
                f" '{name}'. Mend it or take it out."
            )
        row[:] = generator.GetFingerprintAsNumPy(molecule)
    del quiet
    return table


class _Table(NamedTuple):
    """What a baseline knows of each sequence.

    Attributes:
      values: float [n, columns]; sparse of fingerprints.
      fits: (standardise each column by its mean and deviation over the rows that are learned from,
        C of the logistic regression), of which the validation rows choose; values are told by the
        first.
      ridges: alphas of the ridge regression, chosen from by leave-one-out error.
    """

    values: Any
    fits: tuple[tuple[bool, float], ...]
    ridges: tuple[float, ...] = RIDGES


def _table(name: str, dataset: Dataset) -> _Table:
    if dataset.alphabet != "protein":
        from scipy import sparse

        log.info(
            "%s: '%s' is Morgan fingerprints of radius %d, %d bits",
            dataset.name,
            name,
            RADIUS,
            BITS,
        )
        return _Table(sparse.csr_matrix(fingerprints(dataset), dtype=np.float64), PLAIN)
    if name != "composition" and len({len(sequence) for sequence in dataset.sequences}) == 1:
        code = np.stack([codes(sequence) for sequence in dataset.sequences])
        code = code[:, (code != code[0]).any(0)]  # positions that vary
        return _Table(
            _LETTERS[name][code].reshape(len(code), -1).astype(np.float64), PLAIN, ridges=(RIDGE,)
        )
    if name == "blosum62":
        mean = np.stack([_BLOSUM[codes(sequence)].mean(0) for sequence in dataset.sequences])
        return _Table(mean.astype(np.float64), ((True, REGULARISATION),))
    return _Table(composition(dataset.sequences), COMPOSITION_FITS)


def _chosen(
    labels: Labels, table: _Table, rows: np.ndarray, validation: np.ndarray
) -> tuple[bool, float]:
    """The fit of a table that is most often right on the validation rows, learned from the others;
    the first where there are none.
    """
    if len(table.fits) == 1 or labels.kind != CLASS or not validation.any() or validation.all():
        return table.fits[0]
    truth = labels.values[rows[validation]]
    found = [
        _proteins(labels, table, fit, rows[~validation], rows[validation]).argmax(1)
        for fit in table.fits
    ]
    return table.fits[int(np.argmax([(guess == truth).mean() for guess in found]))]


def _proteins(
    labels: Labels, table: _Table, fit: tuple[bool, float], rows: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Predictions of test rows from a table of all, learned from `rows`."""
    from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
    from sklearn.preprocessing import StandardScaler

    x, new, values = table.values[rows], table.values[test], labels.values[rows]
    size = len(labels.classes)
    standardise, regularisation = fit
    if standardise:
        scaler = StandardScaler().fit(x)
        x, new = scaler.transform(x), scaler.transform(new)
    if labels.kind == CLASS:
        there = np.unique(values)
        if len(there) == 1:
            return _majority(labels, rows, test)
        if len(there) <= LOGISTIC_CLASSES:
            model = LogisticRegression(C=regularisation, max_iter=1000).fit(x, values)
            scores = np.zeros((len(test), size), np.float32)
            scores[:, model.classes_] = model.predict_proba(new)
            return scores
        values = np.eye(size)[values]
    if x.shape[1] == 0:  # variants that do not vary
        return _majority(labels, rows, test)
    ridge = Ridge(table.ridges[0]) if len(table.ridges) == 1 else RidgeCV(list(table.ridges))
    found = ridge.fit(x, values.astype(np.float64)).predict(new)
    if labels.kind == CLASS:
        return np.eye(size, dtype=np.float32)[found.argmax(1)]
    return (found if labels.kind == VALUE else np.clip(found, 0, 1)).astype(np.float32)


def windows(sequences: list[str], width: int) -> UInt8[np.ndarray, "residues {width}"]:
    """The letters around each residue of all sequences, as `codes`; beyond the ends there is no
    amino acid.
    """
    edge = np.full(width // 2, OTHER, np.uint8)
    padded = [np.concatenate([edge, codes(sequence), edge]) for sequence in sequences]
    return np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(code, width) for code in padded]
    )


def _residue_table(
    name: str, around: UInt8[np.ndarray, "residues width"]
) -> "Float[np.ndarray, 'residues columns'] | csr_matrix":
    """One-hot letters of windows, sparse, 21 for each; or their rows of BLOSUM62, 20 for each."""
    if name == "blosum62":
        return _BLOSUM[around].reshape(len(around), -1)
    from scipy import sparse

    count, width = around.shape
    columns = around + (OTHER + 1) * np.arange(width, dtype=np.int32)
    starts = np.arange(0, columns.size + 1, width, dtype=np.int32)
    return sparse.csr_matrix(
        (np.ones(columns.size, np.float32), columns.ravel(), starts),
        shape=(count, (OTHER + 1) * width),
    )


def _residues(
    name: str,
    dataset: Dataset,
    labels: Labels,
    rows: Int[np.ndarray, " rows"],
    test: Int[np.ndarray, " tests"],
) -> list[Float[np.ndarray, "_ classes"]]:
    """Logistic regression of each residue's class on the letters around it."""
    from sklearn.linear_model import LogisticRegression

    rows = _spaced(rows, sum(len(labels.values[row]) for row in rows), MAX_RESIDUES[name])
    known = np.concatenate([labels.values[row] for row in rows])
    around = windows([dataset.sequences[row] for row in rows], WINDOW[name])[known >= 0]
    known = known[known >= 0]
    log.info(
        "%s: '%s' learns from %d residues of %d chains", dataset.name, name, len(known), len(rows)
    )
    if len(np.unique(known)) == 1:
        return _majority_of_residues(labels, rows, test)
    # BLOSUM62's columns are far from independent: the many steps behind this tolerance add 0.001 to
    # Q3, for eight times the time.
    tolerance = 1e-3 if name == "blosum62" else 1e-4
    model = LogisticRegression(C=REGULARISATION, max_iter=300, tol=tolerance).fit(
        _residue_table(name, around), known
    )
    scores = []
    for row in test:
        of_chain = np.zeros((len(dataset.sequences[row]), len(labels.classes)), np.float32)
        table = _residue_table(name, windows([dataset.sequences[row]], WINDOW[name]))
        of_chain[:, model.classes_] = model.predict_proba(table)
        scores.append(of_chain)
    return scores


def _spaced(rows: Int[np.ndarray, " rows"], residues: int, most: int) -> Int[np.ndarray, " fewer"]:
    """Evenly spaced ones of rows with so many residues, that about `most` are left."""
    count = len(rows) if residues <= most else max(1, len(rows) * most // residues)
    return rows[np.arange(count) * len(rows) // count]

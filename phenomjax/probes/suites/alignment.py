"""What sequence alignment sees of a test: the nearest training row by MMseqs2, and views of a test
below an identity to training.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from phenomjax.data.sequences import mmseqs
from phenomjax.probes.suites.dataset import TRAIN, Dataset

LEAST_EVALUE = 1e-3  # the most that a hit may have to be taken for a relative


def hits(
    dataset: Dataset,
    *,
    sensitivity: float = 7.5,
    max_hits: int = 300,
    threads: int = 0,
    cache: Path | None = None,
) -> mmseqs.Hits:
    """Alignments of the test rows with the training rows; validation rows are not searched.

    Args:
      dataset: of proteins.
      sensitivity, max_hits, threads, cache: as of mmseqs.search.

    Returns:
      Hits whose `query` and `target` are row numbers of the dataset. Every copy of a sequence has
      its own.

    Raises:
      UserError: there is no MMseqs2, or it failed.
    """
    tests, train = dataset.test_rows, dataset.rows(TRAIN)
    first_tests, copies = _unique([dataset.sequences[row] for row in tests])
    first_train, _ = _unique([dataset.sequences[row] for row in train])
    found = mmseqs.search(
        [dataset.sequences[row] for row in tests[first_tests]],
        [dataset.sequences[row] for row in train[first_train]],
        sensitivity=sensitivity,
        max_hits=max_hits,
        evalue=LEAST_EVALUE,
        threads=threads,
        cache=cache,
        purpose=f"Aligning the tests of '{dataset.name}' with its training rows",
    )
    # One row of hits for each copy of a query, queries in the order of the rows.
    begin, end = (np.searchsorted(found.query, copies, side) for side in ("left", "right"))
    picked = np.concatenate(
        [np.arange(a, b) for a, b in zip(begin, end, strict=True)] or [np.zeros(0, np.int64)]
    )
    picked = picked.astype(np.int64)
    repeated = {
        field.name: getattr(found, field.name)[picked] for field in dataclasses.fields(found)
    }
    repeated["query"] = np.repeat(tests, end - begin)
    repeated["target"] = train[first_train][repeated["target"]]
    return mmseqs.Hits(**repeated)


def nearest_hits(
    dataset: Dataset, **options
) -> tuple[Int[np.ndarray, " tests"], Float[np.ndarray, " tests"]]:
    """The training row with the best bit score for each test row; of equal ones, the first.

    Args:
      dataset: of proteins.
      **options: of `hits`.

    Returns:
      The rows, -1 = no hit; and the identity of each alignment over its columns (gaps between its
      ends included, residues beyond its ends not), float32, 0 without a hit.

    Raises:
      UserError: there is no MMseqs2, or it failed.
    """
    found, tests = hits(dataset, **options), dataset.test_rows
    order = np.lexsort((found.target, -found.bits, found.query))
    queries, first = np.unique(found.query[order], return_index=True)
    places, best = np.searchsorted(tests, queries), order[first]
    rows, identity = np.full(len(tests), -1, np.int64), np.zeros(len(tests), np.float32)
    rows[places], identity[places] = found.target[best], found.identity[best]
    return rows, identity


def add_identity_subsets(dataset: Dataset, identities: tuple[float, ...], **options) -> Dataset:
    """Adds views of every test set: its rows whose identity to the training rows is below each of
    some values.

    The identity is that of nearest_hits. A row without a hit has identity 0 and is in every view.
    That is less than to say that it has no relative: MMseqs2 at its highest sensitivity (-s 7.5)
    finds most relatives above 30 % identity and few below 20 %, and hardly any of peptides below 15
    residues. "identity < 0.3" is what this search cannot align better, not what evolution has not
    joined.

    Args:
      dataset: of proteins.
      identities: rising, of 0 to 1.
      **options: of `hits`.

    Returns:
      The dataset with subsets "TEST, identity < 0.3"; views without rows are left out.

    Raises:
      UserError: there is no MMseqs2, or it failed.
    """
    if not identities:
        return dataset
    identity, tests = nearest_hits(dataset, **options)[1], dataset.test_rows
    return dataclasses.replace(
        dataset, subsets=dataset.subsets | identity_subsets(dataset, tests, identity, identities)
    )


def identity_subsets(
    dataset: Dataset,
    tests: Int[np.ndarray, " tests"],
    identity: Float[np.ndarray, " tests"],
    identities: tuple[float, ...],
) -> dict[str, Int[np.ndarray, " _"]]:
    """{"TEST, identity < 0.3": row numbers} of an identity that is known."""
    found = {}
    for name in dataset.tests:
        for limit in identities:
            rows = tests[(dataset.split[tests] == name) & (identity < limit)]
            if len(rows):
                found[f"{name}, identity < {limit:g}"] = rows
    return found


def _unique(
    sequences: list[str],
) -> tuple[Int[np.ndarray, " different"], Int[np.ndarray, " sequences"]]:
    """(place of the first copy of each different sequence, number of each sequence among these)."""
    _, first, inverse = np.unique(
        np.array(sequences, object), return_index=True, return_inverse=True
    )
    return first, inverse

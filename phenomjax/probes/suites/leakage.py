"""Test proteins that a model or a head has seen: exact and near-identical copies in pretraining
banks and in the training rows.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from phenomjax.data.sequences import mmseqs
from phenomjax.data.sequences.bank import BOUNDARIES, TokenBank, open_token_bank
from phenomjax.data.sequences.vocabulary import RARE
from phenomjax.probes.suites.dataset import TRAIN, VALIDATION, Dataset
from phenomjax.system.errors import UserError

# of the columns of an alignment, and of the test sequence in it
NEAR_IDENTITY, NEAR_COVERAGE = 0.9, 0.8
SENSITIVITY = 4.0  # of MMseqs2; enough above 0.9
PART_TOKENS = 2**26  # of a bank that are looked at together
MOST_HITS = 50  # of a test sequence in a part
EXAMPLES = 5
_CANONICAL = str.maketrans(RARE + "J", "X" * (len(RARE) + 1))  # banks may have mapped rare letters


class Example(TypedDict):
    """A test sequence and the one that it is much like."""

    id: str
    other_id: str
    identity: float


class Overlap(TypedDict):
    """What a test shares with another place.

    Attributes:
      task, split: the test.
      other: "train", "validation" or the path of a bank.
      count: test proteins.
      exact, exact_share, near, near_share: copies; None where they could not be counted.
      examples: some of them.
      note: why something was not counted.
    """

    task: str
    split: str
    other: str
    count: int
    note: str
    exact: int | None
    exact_share: float | None
    near: int | None
    near_share: float | None
    examples: list[Example]


Names = Callable[[Sequence[int]], list[str]]


def report(dataset: Dataset, banks: Sequence[str | Path], threads: int = 0) -> list[Overlap]:
    """Counts the proteins of each test that stand in other data too.

    Two sequences are exact copies if they are equal with B, J, O, U and Z read as X, and
    near-identical if an alignment of at least 0.9 identity spans at least 0.8 of the *test*
    sequence, so that a domain in a longer protein counts; exact copies are near-identical too. A
    bank counts with its training split, which is what the model was shown.

    Args:
      dataset: with tests.
      banks: token banks that the model was pretrained on, as its config names them; they may be
        gone or moved.
      threads: of MMseqs2, 0 = all cores of this process.

    Returns:
      A row for each test and each place.

    Raises:
      UserError: MMseqs2 failed.
    """
    tests = dataset.test_rows
    texts = [_canonical(dataset.sequences[row], dataset.alphabet) for row in tests]
    note = ""
    if dataset.alphabet != "protein":
        note = "near-identical copies are looked for among proteins only"
    elif not mmseqs.available():
        note = "near-identical copies were not looked for: there is no program `mmseqs` on the PATH"
    found: list[Overlap] = []
    for part in (TRAIN, VALIDATION):
        rows = dataset.rows(part)
        if len(rows):
            others = [_canonical(dataset.sequences[row], dataset.alphabet) for row in rows]
            seen = _Seen(texts, not note, threads)
            seen.look(others, rows)
            found += _rows(dataset, part, seen, dataset.names, note)
    for path in banks:
        try:
            bank = open_token_bank(path)
        except UserError as error:
            reason = f"the pretraining bank was not looked at, it may have been moved: {error}"
            found += _rows(dataset, str(path), None, dataset.names, reason)
            continue
        if bank.vocabulary.name != dataset.alphabet:
            reason = (
                f"the bank holds {bank.vocabulary.name}, the test {dataset.alphabet}: they share"
                " nothing"
            )
            found += _rows(dataset, str(path), None, dataset.names, reason)
            continue
        seen = _Seen(texts, not note, threads)
        for numbers, others in decoded(bank):
            seen.look([_canonical(text, dataset.alphabet) for text in others], numbers)
        found += _rows(dataset, str(path), seen, bank.names, note)
    return found


def decoded(
    bank: TokenBank, split: str = "train", part_tokens: int = PART_TOKENS
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """(int64 numbers, texts) of the sequences of a split of a bank, part by part; an <unk> of a
    protein is X.
    """
    first, last = bank.splits[split]
    letters = np.array(
        [ord(token) if len(token) == 1 else ord("X") for token in bank.vocabulary.tokens], np.uint8
    )
    before, after = (len(tokens) for tokens in BOUNDARIES[bank.boundary])
    while first < last:
        ends = bank.offsets[first : last + 1] - bank.offsets[first]
        count = max(1, int(np.searchsorted(ends, part_tokens, "right")) - 1)
        numbers = np.arange(first, first + count)
        if bank.vocabulary.name == "protein":  # one letter a token: all at once
            tokens = bank.tokens[int(bank.offsets[first]) : int(bank.offsets[first + count])]
            text = letters[tokens].tobytes().decode("latin-1")
            yield (
                numbers,
                [
                    text[a + before : b - after]
                    for a, b in itertools.pairwise(ends[: count + 1].tolist())
                ],
            )
        else:
            yield numbers, [bank.vocabulary.decode(bank.sequence(number)) for number in numbers]
        first += count


class _Seen:
    """Which test sequences were met in the sequences that `look` is given; the first exact copy, or
    else the most identical hit.

    Attributes:
      exact: bool [tests].
      identity: float32 [tests], 0 = not even near-identical.
      other: int64 [tests], the number of the sequence that was met, -1 = none.
    """

    def __init__(self, tests: list[str], near: bool, threads: int):
        self._tests, self._near, self._threads = tests, near, threads
        self._places: dict[str, list[int]] = {}
        for place, text in enumerate(tests):
            self._places.setdefault(text, []).append(place)
        self.exact = np.zeros(len(tests), bool)
        self.identity = np.zeros(len(tests), np.float32)
        self.other = np.full(len(tests), -1, np.int64)

    def look(self, others: list[str], numbers: np.ndarray) -> None:
        """Adds sequences and their numbers."""
        for text, number in zip(others, numbers, strict=True):
            for place in self._places.get(text, ()):
                if not self.exact[place]:
                    self.exact[place], self.identity[place], self.other[place] = True, 1.0, number
        left = np.flatnonzero(~self.exact)
        if not self._near or not len(left):
            return
        # One hit is enough, and in a landscape of mutants every pair is one: hence few of each.
        hits = mmseqs.search(
            [self._tests[place] for place in left],
            others,
            identity=NEAR_IDENTITY,
            coverage=NEAR_COVERAGE,
            coverage_of="query",
            sensitivity=SENSITIVITY,
            max_hits=MOST_HITS,
            threads=self._threads,
        )
        for place, number, identity in zip(
            left[hits.query], numbers[hits.target], hits.identity, strict=True
        ):
            if identity > self.identity[place]:
                self.identity[place], self.other[place] = identity, number


def _canonical(text: str, alphabet: str) -> str:
    return text.translate(_CANONICAL) if alphabet == "protein" else text


def _rows(
    dataset: Dataset, other: str, seen: _Seen | None, names: Names, note: str
) -> list[Overlap]:
    """One for each test; `seen` is None where nothing was looked at."""
    rows, tests = list[Overlap](), dataset.test_rows
    for split in dataset.tests:
        places = np.flatnonzero(dataset.split[tests] == split)
        row = Overlap(
            task=dataset.name,
            split=split,
            other=other,
            count=len(places),
            note=note,
            exact=None,
            exact_share=None,
            near=None,
            near_share=None,
            examples=[],
        )
        if seen is not None:
            exact = int(seen.exact[places].sum())
            row["exact"], row["exact_share"] = exact, exact / len(places)
            met = places[seen.other[places] >= 0]
            if not note:
                row["near"], row["near_share"] = len(met), len(met) / len(places)
            shown = met[np.argsort(-seen.identity[met], kind="stable")][:EXAMPLES]
            row["examples"] = [
                {
                    "id": dataset.ids[tests[place]],
                    "other_id": name,
                    "identity": round(float(seen.identity[place]), 3),
                }
                for place, name in zip(shown, names(seen.other[shown].tolist()), strict=True)
            ]
        rows.append(row)
    return rows

"""The sequences of several banks as one corpus, and the corpus as one stream of tokens, in another
order each epoch.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from phenomjax.data import draws
from phenomjax.data.selections import Chosen
from phenomjax.data.sequences.bank import TokenBank
from phenomjax.data.subset import nested
from phenomjax.system.errors import UserError

# consecutive sequences that stay together when the groups are shuffled, and are shuffled among
# themselves
GROUP = 4096
_permutation = functools.partial(draws.permutation, stream=draws.SEQUENCE_ORDER)


class Corpus:
    """The sequences of one split of several banks, counted one after the other.

    Args:
      banks: of one alphabet.
      split: of them.
      chosen: the part of each bank that is read; () = all.
      subset: share of the sequences of the train split that are read; see `subset.nested`.

    Attributes:
      banks: what it reads.
      num_sequences, num_tokens: of the split; tokens with their boundaries.
      bank_tokens: of each bank.
      group_tokens, group_bank: [groups] int64.

    Raises:
      UserError: no bank, or banks of different alphabets or boundaries.
    """

    def __init__(
        self,
        banks: Sequence[TokenBank],
        split: str,
        chosen: Sequence[Chosen] = (),
        subset: float = 1.0,
    ):
        if not banks:
            raise UserError(
                "There is no bank to read: data.banks is empty. Make one with `python -m"
                " phenomjax.prepare sequences`."
            )
        self.banks, self.split = list(banks), split
        for bank in banks:
            if (bank.vocabulary, bank.boundary) != (banks[0].vocabulary, banks[0].boundary):
                kinds = [
                    f"{b.vocabulary.name} with boundary {b.boundary}" for b in (banks[0], bank)
                ]
                raise UserError(
                    f"{banks[0].path} holds {kinds[0]}, and {bank.path} {kinds[1]}: one model reads"
                    " one alphabet. Train on banks of one kind, or prepare one of them again with"
                    " the options of the other."
                )
        parts = self._parts(chosen, subset if split == "train" else 1.0)
        groups, tokens = list[tuple[int, range | np.ndarray]](), [np.zeros(0, np.int64)]
        for number, bank in enumerate(banks):
            first, last = bank.splits[split]
            if parts is None:
                edges = np.append(np.arange(first, last, GROUP), last)
                starts = np.append(bank.offsets[first:last][::GROUP], bank.offsets[last : last + 1])
                groups += [(number, range(int(a), int(b))) for a, b in itertools.pairwise(edges)]
                tokens.append(np.diff(starts))
                continue
            rows = parts[number]
            for place in range(0, len(rows), GROUP):
                groups.append((number, rows[place : place + GROUP]))
                tokens.append(self._places(*groups[-1])[1].sum(keepdims=True))
        self._groups, self.group_tokens = groups, np.concatenate(tokens)
        self.group_bank = np.array([bank for bank, _ in groups], np.int64)
        self.num_sequences = sum(len(rows) for _, rows in groups)
        self.num_tokens = int(self.group_tokens.sum())
        counts = np.bincount(self.group_bank, self.group_tokens, len(banks))
        self.bank_tokens: list[int] = counts.astype(np.int64).tolist()
        self._first_id = np.cumsum([0, *(len(bank) for bank in banks)])

    def _parts(self, chosen: Sequence[Chosen], subset: float) -> list[np.ndarray] | None:
        """The sequences of each bank that are read; None where that is all of its split."""
        if not chosen and subset == 1:
            return None
        spans = [bank.splits[self.split] for bank in self.banks]
        rows = [
            one.rows[slice(*np.searchsorted(one.rows, span))]
            for one, span in zip(chosen, spans, strict=False)
        ]
        return nested(self.banks, rows or [np.arange(*span) for span in spans], subset)

    def group(self, number: int) -> tuple[TokenBank, np.ndarray, np.ndarray, np.ndarray]:
        """(bank, first token of each of the group's sequences, their tokens, their ids)."""
        bank, rows = self._groups[number]
        return (
            self.banks[bank],
            *self._places(bank, rows),
            self._first_id[bank] + np.asarray(rows),
        )

    def _places(self, bank: int, rows: range | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First token and tokens of sequences of a bank."""
        begin = int(rows[0])
        offsets = self.banks[bank].offsets[begin : int(rows[-1]) + 2]
        if isinstance(rows, range):
            return offsets[:-1], np.diff(offsets)
        return offsets[rows - begin], offsets[rows - begin + 1] - offsets[rows - begin]

    def names(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The ids of sequences as their banks have them."""
        banks = np.searchsorted(self._first_id, ids, side="right") - 1
        return [
            self.banks[bank].names([number - self._first_id[bank]])[0]
            for bank, number in zip(banks, ids, strict=True)
        ]


class EpochStream:
    """All sequences of a corpus end to end, in the order of one epoch: any range can be read.

    Groups of 4096 sequences are permuted, and the sequences within each group, so an order needs no
    memory to speak of.

    Args:
      corpus: what to read.
      seed, epoch: of the order; seed None = the order of the banks.
      bank: the one that is read; None = all.
    """

    def __init__(self, corpus: Corpus, seed: int | None, epoch: int, bank: int | None = None):
        self._corpus, self._seed, self._epoch = corpus, seed, epoch
        groups = np.arange(len(corpus.group_tokens))
        if bank is not None:
            groups = np.flatnonzero(corpus.group_bank == bank)
        order = slice(None) if seed is None else _permutation(len(groups), seed, epoch)
        self._order = groups[order]
        self._starts = np.concatenate([[0], np.cumsum(corpus.group_tokens[self._order])])
        # 4096 groups are some 100 MB; of one bank of many fewer are in use at a time
        self._opened = functools.lru_cache(maxsize=4096 if bank is None else 512)(self._open)

    def __len__(self) -> int:
        """Number of tokens."""
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "tokens"]:
        """Tokens start to stop as a fresh array [stop - start] uint8; positions beyond the end
        begin anew at the start.
        """
        out, place = np.empty(stop - start, np.uint8), 0
        while place < len(out):
            position = (start + place) % len(self)
            number = int(np.searchsorted(self._starts, position, side="right")) - 1
            tokens, starts, firsts, _ = self._opened(number)
            inside = position - int(self._starts[number])
            item = int(np.searchsorted(starts, inside, side="right")) - 1
            while place < len(out) and item < len(firsts):
                begin = int(firsts[item]) + inside - int(starts[item])
                end = min(
                    int(firsts[item]) + int(starts[item + 1] - starts[item]),
                    begin + len(out) - place,
                )
                out[place : place + end - begin] = tokens[begin:end]
                place += end - begin
                item, inside = item + 1, int(starts[item + 1])
        return out

    def sequence_at(self, position: int) -> int:
        """The id of the sequence that a position belongs to."""
        position %= len(self)
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        _, starts, _, ids = self._opened(number)
        return int(ids[np.searchsorted(starts, position - self._starts[number], side="right") - 1])

    def elsewhere(self, near: int, draw: int, count: int) -> UInt8[np.ndarray, "tokens"]:
        """Tokens from anywhere, chosen by a random number; `near` is passed over."""
        return self.read(draw % len(self), draw % len(self) + count)

    def _open(self, number: int) -> tuple:
        """A group in this epoch's order: (token array, start of each sequence in the group, its
        first token there, its id).
        """
        group = int(self._order[number])
        bank, firsts, lengths, ids = self._corpus.group(group)
        order = (
            np.arange(len(lengths))
            if self._seed is None
            else _permutation(len(lengths), self._seed, self._epoch, part=1 + group)
        )
        starts = np.concatenate([[0], np.cumsum(lengths[order])])
        return bank.tokens, starts, firsts[order], ids[order]

"""The corpus as contiguous lanes of tokens, one a row: segment s of every lane is a function of
(seed, step) alone.

Each epoch shuffles the sequences into one stream and cuts it into `global_batch_size` lanes; a step
reads the next segment of each lane, so a model that carries its memory or state from step to step
sees every lane as one long text.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt8

from phenomjax.data import mixture
from phenomjax.data.batches import Batches
from phenomjax.data.mixture import Shares
from phenomjax.data.prefetch import Prefetcher
from phenomjax.data.selections import Chosen
from phenomjax.data.sequences.bank import TokenBank
from phenomjax.data.sequences.mixed import MixedPlan, MixedStream
from phenomjax.data.sequences.segments import LanePlan, OncePlan, Segments
from phenomjax.data.sequences.vocabulary import UNITS
from phenomjax.data.subset import nested
from phenomjax.system.errors import UserError

# consecutive sequences that stay together when the groups are shuffled, and are shuffled among
# themselves
GROUP = 4096


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
        order = slice(None) if seed is None else _permutation(len(groups), seed, 0, epoch)
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
            else _permutation(len(lengths), self._seed, 1 + group, self._epoch)
        )
        starts = np.concatenate([[0], np.cumsum(lengths[order])])
        return bank.tokens, starts, firsts[order], ids[order]


class LaneLoader:
    """Segments of lanes as batches that are addressed by their step; implements `tasks.Loader`.

    A batch is a dict of arrays whose leading axis is the row: tokens [rows, segment_len + 2] uint8,
    the segment with the token before and the token after it; weight [rows, segment_len] bool, false
    where a lane of the validation split is over; fresh [rows] bool, true where the row does not
    continue that of the step before; row [rows] int32; sequence [rows] uint32, the id of the
    sequence of the first token.

    Lanes of the train split begin at a random place of the epoch's stream (its end continues at its
    start), and their last tokens, less than a segment, are left out until another epoch. Where the
    rows of a batch change, the rest of the epoch is shared out anew (`segments.LanePlan`). The
    validation split is read once, in order, all of it, in lanes of which a batch has a row each; or
    with `once` in lanes that do not depend on the batch (`segments.OncePlan`).

    Args:
      banks: what to read, one after the other.
      split: "train" or "validation".
      segment_len: tokens of a row.
      seed: of the order.
      chosen, subset: the part of the banks that is read; see `Corpus`.
      global_batch_size: rows of a batch over all processes, that is lanes.
      stages: (position, rows) from which on batches have other rows; () = they never do.
      once: whether lanes, and so what a row knows of the text before, depend on the text alone.
      weights: (position, share of the tokens from each bank) from which on the train split is mixed
        so (`mixed.MixedPlan`), any scale; () = every sequence equally often.
      reach: tokens before and after a segment that a row may read, too.
      random_offset: whether epochs begin at random places.
      process_index, process_count: this process gets the rows [index * B / count, (index + 1) * B /
        count).
      prefetch_batches: batches that are made ahead.

    Raises:
      UserError: the split is too small for a segment a lane, or the rows do not divide among the
        processes.
    """

    items, item_key, bad_items = "sequences", "sequence", 0

    def __init__(
        self,
        banks: Sequence[TokenBank],
        *,
        split: str,
        segment_len: int,
        seed: int,
        global_batch_size: int,
        random_offset: bool = True,
        process_index: int = 0,
        process_count: int = 1,
        prefetch_batches: int = 2,
        chosen: Sequence[Chosen] = (),
        subset: float = 1.0,
        stages: Sequence[tuple[int, int]] = (),
        once: bool = False,
        weights: Shares = (),
        reach: int = 1,
    ):
        self.batches = Batches(stages or [(0, global_batch_size)])
        self.corpus, self.split, self.segment_len, self.seed = (
            Corpus(banks, split, chosen, subset),
            split,
            segment_len,
            seed,
        )
        self.global_batch_size, self.random_offset, self.prefetch_batches = (
            global_batch_size,
            random_offset,
            max(prefetch_batches, 1),
        )
        for _, rows in self.batches.stages:
            if rows % process_count:
                raise UserError(
                    f"global_batch_size={rows} is not divisible by the number of processes"
                    f" {process_count}. Make it a multiple."
                )
        self._process = process_index, process_count
        tokens = self.corpus.num_tokens
        fits = tokens // segment_len
        if (split == "train" and self.batches.most > fits) or not tokens:
            ways = f"--config.global_batch_size={fits} or less, a smaller --config.data.segment_len"
            if not fits:
                length = max(tokens // self.batches.most, 1)
                ways = f"--config.data.segment_len={length} or less"
            raise UserError(
                f"The {split} split has {tokens:,} tokens, less than one segment of {segment_len}"
                f" tokens for each of {self.batches.most} lanes. Set {ways},"
                f" or {'a larger --config.data.subset' if subset < 1 else 'add sequences'}."
            )
        sizes = {
            str(bank.path): count
            for bank, count in zip(banks, self.corpus.bank_tokens, strict=True)
        }
        self.weights = mixture.resolved(weights, sizes) if split == "train" else ()
        self.once = once
        self._plan: LanePlan | OncePlan | MixedPlan = LanePlan(
            self.batches, tokens, segment_len, whole=split == "train"
        )
        if once:
            self._plan = OncePlan(self.batches, tokens, segment_len)
        elif self.weights:
            mixture.check_read(self.weights, sizes)
            tokens_of = self.corpus.bank_tokens
            self._plan = MixedPlan(self.batches, self.weights, tokens_of, segment_len, reach)
        self.lanes = self._plan.lanes(global_batch_size)
        self.lane_len = self._plan.lane_len(global_batch_size)
        self.steps_per_epoch = self._plan.steps(global_batch_size)
        self._stream = functools.lru_cache(maxsize=2)(self._make_stream)
        prints = [one.fingerprint for one in chosen] or [bank.fingerprint for bank in banks]
        self.fingerprints = {
            f"{n} {bank.path.name}": fingerprint
            for n, (bank, fingerprint) in enumerate(zip(banks, prints, strict=True))
        }
        self.unit, self.units_per_row = UNITS[banks[0].vocabulary.name], segment_len

    @property
    def specs(self) -> list[dict[str, tuple[tuple[int, ...], np.dtype]]]:
        """The {name: (shape, dtype)} of a global batch."""
        rows, length = self.global_batch_size, self.segment_len
        shapes = {
            "tokens": ((rows, length + 2), np.uint8),
            "weight": ((rows, length), np.bool_),
            "fresh": ((rows,), np.bool_),
            "row": ((rows,), np.int32),
            "sequence": ((rows,), np.uint32),
        }
        return [{name: (shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of a step, in fresh arrays: a function of the seed, the step and the
        banks alone.
        """
        here = self._segments(step)
        starts = here.begin + here.number * self.segment_len
        stream, shift = self._stream(here.epoch)
        # In the validation split the last lanes may be shorter, or empty.
        ends = np.minimum(here.begin + here.lane_len, len(stream) - (self.split != "train"))
        sequence = [stream.sequence_at(shift + int(start)) for start in starts]
        return {
            "tokens": self._tokens(here.epoch, starts),
            "weight": np.arange(self.segment_len) < (ends - starts)[:, None],
            "fresh": here.fresh,
            "row": np.array(self._local(step), np.int32),
            "sequence": np.array(sequence, np.uint32),
        }

    def _local(self, step: int) -> range:
        """The rows of a step that this process reads."""
        return self.batches.block(step, *self._process)

    def _segments(self, step: int) -> Segments:
        """What these rows read."""
        return self._plan.at(step, self._local(step))

    def _tokens(
        self, epoch: int, starts: Int64[np.ndarray, " rows"]
    ) -> UInt8[np.ndarray, "rows tokens"]:
        """Segments of an epoch from their first token on, with the token before and after."""
        stream, shift = self._stream(epoch)
        tokens = np.empty((len(starts), self.segment_len + 2), np.uint8)
        for place, start in enumerate(starts):
            begin = shift + int(start) - 1 + len(stream)
            tokens[place] = stream.read(begin, begin + self.segment_len + 2)
        return tokens

    def iterate(self, start_step: int, stop_step: int | None = None) -> Prefetcher:
        """The batches from `start_step` on, made ahead; a context manager whose items are
        `LoadedBatch`es.
        """

        def plan(step: int, _: np.ndarray) -> tuple[dict[str, np.ndarray], list]:
            arrays: dict[str, np.ndarray] = {}
            return arrays, [lambda: arrays.update(self.batch(step))]

        return Prefetcher(
            plan,
            start_step,
            stop_step,
            buffer_bytes=0,
            threads=1,
            prefetch_batches=self.prefetch_batches,
        )

    def names(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """What the batch's `sequence` ids are called in their banks."""
        return self.corpus.names([int(i) for i in ids])

    def describe(self) -> str:
        """One paragraph for the start-up lines."""
        corpus = self.corpus
        return (
            f"{self.split}: {corpus.num_sequences:,} sequences, {corpus.num_tokens:,} tokens of"
            f" {self._banks_and_lanes()}; segments of {self.segment_len}, {self.steps_per_epoch:,}"
            " steps an epoch"
        )

    def _banks_and_lanes(self) -> str:
        """Which banks are read, and how, for the start-up lines."""
        names = [bank.path.name for bank in self.corpus.banks]
        if not self.weights:
            return f"{', '.join(names)} in {self.lanes} lanes of {self.lane_len:,}"
        return (
            f"{', '.join(names)}, mixed {mixture.described(self.weights, names)}; in stretches of"
            f" {self.lane_len:,}"
        )

    def _make_stream(self, epoch: int) -> tuple[EpochStream | MixedStream, int]:
        if self.split != "train":
            return EpochStream(self.corpus, None, 0), 0
        if isinstance(self._plan, MixedPlan):
            return MixedStream(self._plan, self.corpus.bank_tokens, self._shuffled), 0
        return self._shuffled(None, epoch)

    def _shuffled(self, bank: int | None, epoch: int) -> tuple[EpochStream, int]:
        """The sequences of a bank, or of all, in the order of an epoch; and where it begins."""
        seed = self.batches.seed(self.seed)
        stream = EpochStream(self.corpus, seed, epoch, bank)
        draw = int(
            np.random.Philox(
                key=np.array([seed, 3], np.uint64),
                counter=np.array([0, epoch, bank or 0, 0], np.uint64),
            ).random_raw(1)[0]
        )
        return stream, draw % len(stream) if self.random_offset else 0


def _permutation(count: int, seed: int, number: int, epoch: int) -> Int64[np.ndarray, "count"]:
    # Raw output of Philox: NumPy promises that it never changes.
    generator = np.random.Philox(
        key=np.array([seed, 2], np.uint64), counter=np.array([0, epoch, number, 0], np.uint64)
    )
    return np.argsort(generator.random_raw(count), kind="stable")


class MirroredLaneLoader(LaneLoader):
    """Lanes that are read from both ends: a batch also holds the mirror segment, at segment s of an
    epoch's S segment S - 1 - s of the same lane.

    A backward model that carries its state needs the segment *before* the one it has read; in step
    with the forward model it would get the one after, and its state would have seen what it is to
    predict. Over an epoch both directions read the same tokens.

    A batch has, besides the arrays of a LaneLoader, backward_tokens and backward_weight: the mirror
    segment, in the order of the text, with the weight of each token as the one before which another
    is predicted.
    """

    @property
    def specs(self) -> list[dict[str, tuple[tuple[int, ...], np.dtype]]]:
        """The {name: (shape, dtype)} of a global batch."""
        return [
            spec | {f"backward_{name}": spec[name] for name in ("tokens", "weight")}
            for spec in super().specs
        ]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of a step, in fresh arrays: a function of the seed, the step and the
        banks alone.
        """
        here = self._segments(step)
        starts = here.begin + (here.steps - 1 - here.number) * self.segment_len
        place = starts[:, None] + np.arange(self.segment_len)
        stream, _ = self._stream(here.epoch)
        inside = place < np.minimum(here.begin + here.lane_len, len(stream))[:, None]
        if self.split != "train":
            # nothing stands before the first token, as nothing comes after the last
            inside &= place > 0
        tokens = self._tokens(here.epoch, starts)
        return super().batch(step) | {"backward_tokens": tokens, "backward_weight": inside}

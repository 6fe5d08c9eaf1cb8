"""The corpus as contiguous lanes of tokens, one a row: segment s of every lane is a function of
(seed, step) alone.

Each epoch shuffles the sequences into one stream and cuts it into `global_batch_size` lanes; a step
reads the next segment of each lane, so a model that carries its memory or state from step to step
sees every lane as one long text.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt8

from phenomjax.data import draws, mixture
from phenomjax.data.batches import Batches
from phenomjax.data.mixture import Shares
from phenomjax.data.prefetch import Prefetcher
from phenomjax.data.selections import Chosen
from phenomjax.data.sequences.bank import TokenBank
from phenomjax.data.sequences.corpus import Corpus, EpochStream
from phenomjax.data.sequences.mixed import MixedPlan, MixedStream
from phenomjax.data.sequences.segments import LanePlan, OncePlan, Segments
from phenomjax.data.sequences.vocabulary import UNITS
from phenomjax.system.errors import UserError


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
        draw = int(draws.raw(1, seed, draws.OFFSETS, 0, epoch, bank or 0)[0])
        return stream, draw % len(stream) if self.random_offset else 0


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

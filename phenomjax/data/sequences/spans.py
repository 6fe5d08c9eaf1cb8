"""Rows for permutation language models (Yang et al. 2019, https://arxiv.org/abs/1906.08237): spans
to predict and the order to predict them in.

A row is: the next reuse_len tokens of its lane | A | <sep> | B | <sep> <cls>. A goes on where the
first part ends, and ends with a sequence; B goes on where A ends, or, with probability 1/2, comes
from anywhere. Every draw is a function of (seed, step, row).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from phenomjax.data.draws import HELD_OUT_SPANS, SPANS, raw
from phenomjax.data.sequences.bank import TokenBank
from phenomjax.data.sequences.lanes import LaneLoader
from phenomjax.data.sequences.segments import Segments
from phenomjax.data.sequences.vocabulary import CLS, EOS, SEP
from phenomjax.system.errors import UserError

FUNCTIONAL = 3  # <sep>, <sep>, <cls>
LONGEST_SPAN = 5
# A span has n tokens with a probability proportional to 1/n: below which 32-bit draw it has at most
# n.
_SPAN_LIMITS = (
    np.cumsum(1 / np.arange(1, LONGEST_SPAN + 1)) / sum(1 / np.arange(1, LONGEST_SPAN + 1)) * 2**32
)[:-1]


class SpanLoader(LaneLoader):
    """Lanes with targets, as batches that are addressed by their step; implements `tasks.Loader`.

    A batch is a dict of arrays whose leading axis is the row: tokens [rows, segment_len] uint8;
    segment [rows, segment_len] uint8, 0 for the first part, A and its <sep>, 1 for B and its <sep>,
    2 for <cls>; target [rows, num_predict] int32, the places to predict, rising; rank [rows,
    segment_len] int16, the order: a token is seen by those of higher rank, and by those of the same
    rank that are no targets; reverse [rows] bool, rows whose lane runs from its end to its
    beginning; fresh, row and sequence as in `LaneLoader`.

    A step moves on by reuse_len tokens, so A and B are read again as the first part of rows to
    come; rates count all of segment_len. With `once` a batch also has weight [rows] bool, false for
    rows behind the end of the text: the first parts of the others are all of it, once.

    Args:
      segment_len: tokens of a row.
      reuse_len: tokens of its first part.
      perm_size: tokens of a part that are permuted together; those of a block come after those of
        the blocks before.
      num_predict: targets of a row, the larger half in the first part.
      mask_alpha, mask_beta: a span of n targets comes with n * mask_alpha // mask_beta tokens
        around it that are no targets.
      bi_data: whether every other row runs backwards.
      options: the other arguments of `LaneLoader`.

    Raises:
      UserError: as `LaneLoader`; or a row in which so many targets have no room.
    """

    def __init__(
        self,
        banks: Sequence[TokenBank],
        *,
        segment_len: int,
        reuse_len: int,
        perm_size: int,
        num_predict: int,
        mask_alpha: int,
        mask_beta: int,
        bi_data: bool,
        **options: Any,
    ):
        check_row(segment_len, reuse_len, num_predict)
        super().__init__(banks, segment_len=reuse_len, reach=segment_len, **options)
        self.units_per_row, self.row_len, self.reuse_len, self.perm_size = (
            segment_len,
            segment_len,
            reuse_len,
            perm_size,
        )
        self.goals = (num_predict - num_predict // 2, num_predict // 2)
        self.mask_alpha, self.mask_beta, self.bi_data = mask_alpha, mask_beta, bi_data

    @property
    def specs(self) -> list[dict[str, tuple[tuple[int, ...], np.dtype]]]:
        """The {name: (shape, dtype)} of a global batch."""
        rows, length = self.global_batch_size, self.row_len
        shapes = {
            "tokens": ((rows, length), np.uint8),
            "segment": ((rows, length), np.uint8),
            "rank": ((rows, length), np.int16),
            "target": ((rows, sum(self.goals)), np.int32),
            "reverse": ((rows,), np.bool_),
            "fresh": ((rows,), np.bool_),
            "row": ((rows,), np.int32),
            "sequence": ((rows,), np.uint32),
        }
        if self.once:
            shapes["weight"] = (rows,), np.bool_
        return [{name: (shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of a step, in fresh arrays: a function of the seed, the step and the
        banks alone.
        """
        here = self._segments(step)
        # the direction is of the lane: what is left of it after a change of rows is so too
        reverse = (here.lane % 2 == 1) & self.bi_data
        draws = self._draws(step, here)
        tokens, segment, sequence = self._text(here, reverse, draws[:, -2:])
        functional = (tokens == SEP) | (tokens == CLS)  # no bank holds these
        targets, ranks, first_rank, start, drawn = (
            [],
            np.zeros(tokens.shape, np.int16),
            0,
            0,
            self.row_len,
        )
        for goal, size in zip(
            self.goals, (self.reuse_len, self.row_len - self.reuse_len), strict=True
        ):
            part = slice(start, start + size)
            spans, places = draws[:, drawn : drawn + goal], draws[:, part]
            target = self._targets(functional[:, part], spans, places, goal)
            ranks[:, part] = first_rank + self._ranks(target, functional[:, part], places)
            targets.append(target + start)
            # All of a part comes after all of the part before.
            start, drawn, first_rank = start + size, drawn + goal, first_rank + goal + 1
        weight = {}
        if self.once:
            number = np.where(reverse, here.steps - 1 - here.number, here.number)
            begins = here.lane * here.lane_len + number * self.reuse_len
            weight = {"weight": begins < self.corpus.num_tokens}
        return weight | {
            "tokens": tokens,
            "segment": segment,
            "rank": ranks,
            "target": np.concatenate(targets, 1).astype(np.int32),
            "reverse": reverse,
            "fresh": here.fresh,
            "row": np.array(self._local(step), np.int32),
            "sequence": sequence,
        }

    def describe(self) -> str:
        """One paragraph for the start-up lines."""
        corpus = self.corpus
        return (
            f"{self.split}: {corpus.num_sequences:,} sequences, {corpus.num_tokens:,} tokens of"
            f" {self._banks_and_lanes()}{', every other one backwards' if self.bi_data else ''};"
            f" rows of {self.row_len} tokens that move on by {self.reuse_len},"
            f" {sum(self.goals)} targets each, {self.steps_per_epoch:,} steps an epoch"
        )

    def _draws(self, step: int, here: Segments) -> np.ndarray:
        """Random numbers of this process's rows [rows, row_len + num_predict + 2 or a few more]
        uint64.
        """
        count = -(-(self.row_len + sum(self.goals) + 2) // 4) * 4  # Philox counts in fours
        # all runs are judged on the same spans
        train = self.split == "train"
        seed, stream = (self.seed, SPANS) if train else (0, HELD_OUT_SPANS)

        def drawn(row: int, step: int, rows: int) -> np.ndarray:
            return raw(count * rows, seed, stream, row * (count // 4), step)

        local = self._local(step)
        if not self.once:
            return drawn(local.start, step, len(local)).reshape(len(local), count)
        places = here.lane * here.steps + here.number  # by the place in the text
        return np.stack([drawn(place, 0, 1) for place in places.tolist()])

    def _text(
        self, here: Segments, reverse: np.ndarray, draws: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """tokens, segment [rows, row_len] uint8 and the id of the sequence of each row's first
        token [rows] uint32.
        """
        stream, shift = self._stream(here.epoch)
        reuse, length = self.reuse_len, self.row_len - FUNCTIONAL
        after = length - reuse  # tokens of A and B
        tokens = np.empty((len(reverse), self.row_len), np.uint8)
        segment, sequence = np.zeros_like(tokens), np.empty(len(reverse), np.uint32)
        lanes = zip(here.begin.tolist(), here.number.tolist(), strict=True)
        for place, (first, number) in enumerate(lanes):
            begin = shift + first + number * reuse + len(stream)
            if reverse[place]:
                begin = shift + first + here.lane_len - number * reuse - length + len(stream)
            text = stream.read(begin, begin + length)
            sequence[place] = stream.sequence_at(begin + length - 1 if reverse[place] else begin)
            text = text[::-1] if reverse[place] else text
            # A sequence ends after its <eos>, and backwards before it.
            cuts = np.flatnonzero(text[reuse : length - 1] == EOS) + 1
            if reverse[place]:
                cuts = np.flatnonzero(text[reuse + 1 :] == EOS) + 1
            choice, other = int(draws[place, 0]), int(draws[place, 1])
            a_len = int(cuts[(choice >> 1) % len(cuts)]) if len(cuts) else after - after // 2
            if not len(cuts) or choice & 1:
                b = stream.elsewhere(begin, other, after - a_len)
                text[reuse + a_len :] = b[::-1] if reverse[place] else b
            a_end = reuse + a_len
            tokens[place, :a_end], tokens[place, a_end + 1 : -2] = text[:a_end], text[a_end:]
            tokens[place, a_end] = SEP
            segment[place, a_end + 1 :] = 1
        tokens[:, -2:], segment[:, -1] = (SEP, CLS), 2
        return tokens, segment, sequence

    def _targets(
        self, functional: np.ndarray, spans: np.ndarray, places: np.ndarray, goal: int
    ) -> np.ndarray:
        """The places to predict in one part [rows, goal]: spans with their context one after the
        other, then single places.

        Args:
          functional: [rows, size] bool, places that are never predicted.
          spans: [rows, goal] uint64 random numbers, one a span.
          places: [rows, size] uint64 random numbers.
        """
        rows, size = functional.shape
        drawn = 1 + np.searchsorted(
            _SPAN_LIMITS, (spans & 0xFFFFFFFF).astype(np.float64), side="right"
        )
        total = np.minimum(np.cumsum(drawn, 1), goal)
        length = np.diff(total, axis=1, prepend=0)
        context = length * self.mask_alpha // self.mask_beta
        left = ((spans >> 32).astype(np.int64) * context) >> 32
        begin = np.cumsum(length + context, 1) - length - context + left
        end = begin + length
        # As published, a span that would reach the end of the part is left out, and with it all
        # that follow.
        inside = (end < size) & (length > 0)
        edges = np.zeros((rows, size + 1), np.int32)
        row = np.broadcast_to(np.arange(rows)[:, None], begin.shape)[inside]
        np.add.at(edges, (row, begin[inside]), 1)
        np.add.at(edges, (row, end[inside]), -1)
        wanted = np.cumsum(edges, 1)[:, :size] > 0
        order = (places >> 32).astype(np.int64) + np.where(
            functional, 2**34, np.where(wanted, 0, 2**33)
        )
        return np.sort(np.argpartition(order, goal - 1, 1)[:, :goal], 1)

    def _ranks(self, target: np.ndarray, functional: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The order within one part [rows, size]: 0 what all see; targets and functional tokens, by
        block and at random, from 1 on.

        A functional token has the rank of the target before it, which it sees, as do those that
        come later in the order.
        """
        ranks = np.zeros(functional.shape, np.int64)
        if not target.shape[1]:
            return ranks
        drawn = (places & 0xFFFFFFFF).astype(np.int64) + (
            np.arange(functional.shape[1]) // self.perm_size << 32
        )
        of_targets = np.take_along_axis(drawn, target, 1)
        order = np.argsort(of_targets, 1)
        np.put_along_axis(
            ranks, np.take_along_axis(target, order, 1), np.arange(1, target.shape[1] + 1)[None], 1
        )
        row, place = np.nonzero(functional)
        ranks[row, place] = (of_targets[row] < drawn[row, place][:, None]).sum(1)
        return ranks


def check_row(segment_len: int, reuse_len: int, num_predict: int) -> None:
    """Raises UserError if a row has no room for its parts and targets."""
    goals, parts = (
        (num_predict - num_predict // 2, num_predict // 2),
        (
            reuse_len,
            segment_len - reuse_len - FUNCTIONAL,
        ),
    )
    if parts[1] < 2 or any(
        goal < 1 or goal >= size for goal, size in zip(goals, parts, strict=True)
    ):
        raise UserError(
            f"A row of config.data.segment_len={segment_len} tokens has a first part of"
            f" config.model.reuse_len={reuse_len} and {max(parts[1], 0)} more (3 are <sep> and"
            f" <cls>), which cannot hold {goals[0]} and {goals[1]} targets and something to see"
            f" them by. Set --config.model.reuse_len={segment_len // 2}"
            f" --config.model.num_predict={max(segment_len // 6, 2)}."
        )

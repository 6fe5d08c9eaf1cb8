"""Rows for permutation language models: what they hold, which tokens are targets, in which order,
and for whom it is the same.
"""

import numpy as np
import pytest

from phenomjax.data.sequences import corpus
from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.data.sequences.spans import SpanLoader
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, CLS, EOS, SEP
from phenomjax.system.errors import UserError

ROW, REUSE, TARGETS = 64, 32, 11


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    generator = np.random.default_rng(0)
    draw = lambda: "".join(generator.choice(list(AMINO_ACIDS), generator.integers(10, 60)))  # noqa: E731
    splits = {
        "train": [(f"p{i}", draw()) for i in range(120)],
        "validation": [(f"v{i}", draw()) for i in range(20)],
    }
    return write_token_bank(tmp_path_factory.mktemp("bank") / "bank.zarr", splits)


def loader(bank, **changes):
    options = {
        "split": "train",
        "segment_len": ROW,
        "reuse_len": REUSE,
        "perm_size": 16,
        "num_predict": TARGETS,
        "mask_alpha": 6,
        "mask_beta": 1,
        "bi_data": True,
        "seed": 3,
        "global_batch_size": 8,
    }
    return SpanLoader([bank], **(options | changes))


def sees(batch):
    """The rule of the ranks, spelled out: sees[row, i, j]."""
    rank = batch["rank"].astype(int)
    is_target = np.zeros(rank.shape, bool)
    np.put_along_axis(is_target, batch["target"], True, 1)
    return rank[:, None] < rank[:, :, None] + ~is_target[:, :, None], is_target


def test_specs_and_layout(bank):
    spans = loader(bank)
    batch = spans.batch(0)
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == spans.specs[0]
    for tokens, segment in zip(batch["tokens"], batch["segment"], strict=True):
        first, last = np.flatnonzero(tokens == SEP)
        assert last == ROW - 2 and tokens[-1] == CLS and (tokens == CLS).sum() == 1
        np.testing.assert_array_equal(segment, [0] * (first + 1) + [1] * (ROW - 2 - first) + [2])
    assert batch["fresh"].all() and not spans.batch(1)["fresh"].any()
    assert (spans.unit, spans.units_per_row) == ("residues", ROW)


def test_rows_follow_their_lanes(bank):
    spans = loader(bank)
    stream = corpus.EpochStream(spans.corpus, 3, 0)
    _, shift = spans._make_stream(0)
    continued = from_elsewhere = 0
    for step in range(spans.steps_per_epoch):
        batch = spans.batch(step)
        for row, tokens in enumerate(batch["tokens"]):
            start = shift + row * spans.lane_len + step * REUSE
            text = stream.read(start, start + ROW)
            if row % 2:
                end = shift + (row + 1) * spans.lane_len - step * REUSE + len(stream)
                text = stream.read(end - ROW, end)[::-1]
            assert batch["reverse"][row] == row % 2
            np.testing.assert_array_equal(tokens[:REUSE], text[:REUSE])
            first = int(np.flatnonzero(tokens == SEP)[0])
            np.testing.assert_array_equal(tokens[:first], text[:first])
            at_end = text[first] == EOS if row % 2 else text[first - 1] == EOS
            goes_on = np.array_equal(tokens[first + 1 : -2], text[first : ROW - 3])
            assert at_end or not goes_on or first == REUSE + 15
            continued, from_elsewhere = (
                continued + goes_on,
                from_elsewhere + (at_end and not goes_on),
            )
    assert 0.35 < continued / (continued + from_elsewhere) < 0.65


@pytest.mark.parametrize("num_predict", [2, 11, 40])
def test_targets_are_exact_and_residues(bank, num_predict):
    batch = loader(bank, num_predict=num_predict).batch(2)
    target = batch["target"]
    assert target.shape == (8, num_predict) and (np.diff(target, axis=1) > 0).all()
    assert ((target < REUSE).sum(1) == num_predict - num_predict // 2).all()
    taken = np.take_along_axis(batch["tokens"], target, 1)
    assert not np.isin(taken, (SEP, CLS)).any()


def test_spans_have_their_lengths():
    """One target span at a time: lengths 1 to 5 with probability 1/n, anywhere in their context."""
    spans = object.__new__(SpanLoader)
    spans.mask_alpha, spans.mask_beta = 6, 1
    draws = np.random.Philox(1).random_raw(20000 * 2000 // 100).reshape(-1, 200)
    targets = spans._targets(
        np.zeros((2000, 2000), bool),
        draws[:2000],
        np.random.Philox(2).random_raw(2000 * 2000).reshape(2000, -1),
        200,
    )
    assert targets.shape == (2000, 200)
    breaks = np.diff(targets, axis=1) > 1
    ends = np.flatnonzero(np.concatenate([breaks, np.ones((2000, 1), bool)], 1).ravel())
    lengths = np.diff(ends, prepend=-1)
    share = np.bincount(lengths, minlength=12)[1:6] / len(lengths)
    expected = 1 / np.arange(1, 6) / sum(1 / np.arange(1, 6))
    # Neighbouring spans touch now and then, and the last of a row is cut.
    np.testing.assert_allclose(share, expected, atol=0.02)
    assert np.diff(targets[:, :1], axis=0).any()


def test_order_leaks_nothing(bank):
    spans = loader(bank, perm_size=16)
    batch = spans.batch(4)
    can_see, is_target = sees(batch)
    functional = np.isin(batch["tokens"], (SEP, CLS))
    plain = ~is_target & ~functional
    first = np.arange(ROW) < REUSE
    block = np.arange(ROW) // 16
    for row in range(8):
        c, t, p = can_see[row], is_target[row], plain[row]
        assert not c[t, t].any() and c[~t, ~t].all()  # a target does not see itself, the others do
        assert not c[np.ix_(first, ~first)].any() and c[np.ix_(~first, first)].all()
        assert c[np.ix_(first, first & p)].all() and c[np.ix_(~first, ~first & p)].all()
        assert (
            not c[np.ix_(first & p, first & t)].any()
            and not c[np.ix_(~first & p, ~first & t)].any()
        )
        among = c[np.ix_(t, t)]
        # of two targets one comes first
        assert (among ^ among.T | np.eye(TARGETS, dtype=bool)).all()
        later_block = block[t][:, None] > block[t][None]
        assert among[later_block].all()
        # Whatever a visible token saw is visible too: content cannot leak through a neighbour.
        for i in np.flatnonzero(t):
            reach = c[i]
            assert not (c[reach].any(0) & ~reach).any()
    assert (batch["rank"] != loader(bank).batch(5)["rank"]).any()


def test_same_for_any_processes_and_any_start(bank):
    whole = loader(bank)
    for step in (0, 7):
        parts = [loader(bank, process_index=i, process_count=4).batch(step) for i in range(4)]
        for name, value in whole.batch(step).items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value)
    with whole.iterate(7, 9) as batches:
        for step, loaded in zip((7, 8), batches, strict=True):
            np.testing.assert_array_equal(loaded.arrays["target"], whole.batch(step)["target"])
            loaded.release()
    assert (whole.batch(0)["target"] != loader(bank, seed=4).batch(0)["target"]).any()
    a, b = (loader(bank, split="validation", seed=seed).batch(0) for seed in (3, 4))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_row_without_room_is_refused(bank):
    with pytest.raises(
        UserError, match=r"cannot hold 16 and 16 targets.*--config.model.reuse_len=16"
    ):
        loader(bank, segment_len=32, reuse_len=24, num_predict=32)

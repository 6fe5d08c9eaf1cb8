"""Lanes: every token once an epoch, contiguous lanes, the same for any processes and start;
validation read whole.
"""

import collections
import functools
import itertools
import operator

import numpy as np
import pytest

from phenomjax.data.batches import Batches
from phenomjax.data.sequences import corpus, lanes, segments
from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.system.errors import UserError


@pytest.fixture
def banks(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "GROUP", 4)
    random = np.random.default_rng(0)

    def proteins(count, tag):
        return [
            (f"{tag}{i}", "".join(random.choice(list("ACDEFGHIKL"), random.integers(1, 40))))
            for i in range(count)
        ]

    return [
        write_token_bank(
            tmp_path / f"{name}.zarr",
            {"train": proteins(n, name), "validation": proteins(m, "v" + name)},
            chunk_bytes=64,
        )
        for name, n, m in (("a", 23, 5), ("b", 9, 2))
    ]


def make(banks, **changes):
    options = {"split": "train", "segment_len": 7, "seed": 3, "global_batch_size": 6}
    return lanes.LaneLoader(banks, **options | changes)


def sequences(bank, split):
    return [bytes(bank.sequence(i)) for i in range(*bank.splits[split])]


def test_an_epoch_is_a_permutation_of_all_sequences(banks):
    whole = corpus.Corpus(banks, "train")
    expected = sorted(s for bank in banks for s in sequences(bank, "train"))
    streams = [corpus.EpochStream(whole, 3, epoch) for epoch in (0, 1)]
    texts = [bytes(stream.read(0, len(stream))) for stream in streams]
    assert texts[0] != texts[1]
    for text in texts:
        assert sorted(part + b"\x03" for part in text.split(b"\x03")[:-1]) == expected
    plain = corpus.EpochStream(whole, None, 0)
    assert bytes(plain.read(0, len(plain))) == b"".join(
        s for bank in banks for s in sequences(bank, "train")
    )
    for start, stop in [(0, 5), (17, 90), (len(plain) - 3, len(plain) + 4)]:
        np.testing.assert_array_equal(
            streams[0].read(start, stop), np.frombuffer((texts[0] * 2)[start:stop], np.uint8)
        )


def test_segments_continue_their_lane_and_cover_the_epoch(banks):
    loader = make(banks)
    steps = loader.steps_per_epoch
    stream, shift = loader._make_stream(1)
    text = np.tile(stream.read(0, len(stream)), 3)[shift:]
    batches = [loader.batch(step) for step in range(steps, 2 * steps)]
    for lane in range(6):
        inner = np.concatenate([batch["tokens"][lane, 1:-1] for batch in batches])
        np.testing.assert_array_equal(inner, text[lane * loader.lane_len :][: len(inner)])
        assert len(inner) > loader.lane_len - 7
    for before, after in itertools.pairwise(batches):
        np.testing.assert_array_equal(before["tokens"][:, -2:], after["tokens"][:, :2])
    assert [batch["fresh"].all() for batch in batches] == [True] + [False] * (steps - 1)
    assert all(batch["weight"].all() for batch in batches)


def test_processes_and_starts_give_the_same_batches(banks):
    whole = make(banks)
    parts = [make(banks, process_index=i, process_count=3) for i in range(3)]
    for step in (0, 1, whole.steps_per_epoch + 2):
        for name, array in whole.batch(step).items():
            np.testing.assert_array_equal(
                array, np.concatenate([part.batch(step)[name] for part in parts])
            )
    with make(banks).iterate(5, 8) as batches:
        seen = [batch.arrays for batch in batches if batch.release() is None]
    for step, arrays in zip((5, 6, 7), seen, strict=True):
        np.testing.assert_array_equal(arrays["tokens"], whole.batch(step)["tokens"])
    assert whole.specs[0].keys() == seen[0].keys()
    assert all(whole.specs[0][name] == (x.shape, x.dtype) for name, x in seen[0].items())


def test_validation_predicts_every_token_but_the_first_once(banks):
    loader = make(banks, split="validation", global_batch_size=4)
    text = b"".join(s for bank in banks for s in sequences(bank, "validation"))
    targets = [[] for _ in range(4)]
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        for lane in range(4):
            targets[lane] += batch["tokens"][lane, 2:][batch["weight"][lane]].tolist()
    assert bytes(functools.reduce(operator.iadd, targets, [])) == text[1:]


@pytest.mark.parametrize("kind", [lanes.LaneLoader, lanes.MirroredLaneLoader])
def test_once_each_token_has_the_same_text_before_it_whatever_the_batch(banks, kind):
    """What a lane has read since it was fresh is what a model remembers."""

    def read(rows):
        options = {"split": "validation", "segment_len": 3, "seed": 0, "once": True}
        loader = kind(banks, global_batch_size=rows, **options)
        seen, memory = collections.Counter(), [b""] * rows
        for step in range(loader.steps_per_epoch):
            batch = loader.batch(step)
            for row in range(rows):
                memory[row] = b"" if batch["fresh"][row] else memory[row]
                for side in ("", "backward_")[: 1 + ("backward_weight" in batch)]:
                    text = bytes(batch[f"{side}tokens"][row])
                    for place in np.flatnonzero(batch[f"{side}weight"][row]):
                        seen[side, memory[row], text, int(place)] += 1
                memory[row] += bytes(batch["tokens"][row])
        return seen

    found = read(2)
    assert found == read(7) == read(40)
    tokens = sum(len(s) for bank in banks for s in sequences(bank, "validation"))
    assert found.total() == (tokens - 1) * (1 + (kind is lanes.MirroredLaneLoader))


def test_ids_name_the_sequence_of_the_first_token(banks):
    loader = make(banks, random_offset=False)
    names = loader.names(loader.batch(0)["sequence"])
    starts = [loader.batch(0)["tokens"][0, 1:-1]]
    bank = banks["ab".index(names[0][0])]
    start = bank.sequence(int(names[0][1:]))[:7]
    np.testing.assert_array_equal(starts[0][: len(start)], start)


def test_errors(banks, tmp_path):
    with pytest.raises(
        UserError,
        match=(
            r"less than one segment of 500 tokens for each of 6 lanes. Set"
            r" --config.global_batch_size=1"
        ),
    ):
        make(banks, segment_len=500)
    with pytest.raises(
        UserError, match=r"for each of 1 lanes. Set --config.data.segment_len=\d+ or"
    ):
        make(banks, segment_len=10**6, global_batch_size=1)
    with pytest.raises(UserError, match=r"not divisible by the number of processes 4"):
        make(banks, process_count=4)
    other = write_token_bank(tmp_path / "c.zarr", {"train": [("x", "CCO")]}, alphabet="smiles")
    with pytest.raises(
        UserError, match=r"holds protein with boundary eos, and .*c.zarr smiles with boundary eos"
    ):
        make([*banks, other])


def test_segments_of_batches_that_change_their_size_are_read_once():
    random = np.random.default_rng(4)
    for _ in range(30):
        changes = np.sort(random.choice(np.arange(1, 60), 4, replace=False)).tolist()
        rows = random.integers(1, 12, 5).tolist()
        batches = Batches(list(zip([0, *changes], rows, strict=True)))
        plan, before, read = segments.LanePlan(batches, 1000, 7), None, {}
        for position in range(90):
            count = batches.rows(position)
            here = plan.at(position, range(count))
            assert here.steps == here.lane_len // 7 and (here.number < here.steps).all()
            for row, each in enumerate(zip(here.lane, here.number, here.fresh, strict=True)):
                lane, number, fresh = map(int, each)
                read.setdefault(here.epoch, []).append((lane, number, here.lane_len))
                goes_on = (
                    before is not None
                    and row < len(before.lane)
                    and count == len(before.lane)
                    and (here.epoch, lane, number - 1)
                    == (before.epoch, int(before.lane[row]), int(before.number[row]))
                )
                assert fresh != goes_on or (fresh and position in changes)
            before = here
        for epoch in range(max(read)):
            items = read[epoch]
            whole = 1000 // items[0][2] * (items[0][2] // 7)
            # nothing twice, and at each change fewer are left out than there are rows
            assert len(set(items)) == len(items) and whole - len(items) < 5 * max(rows)


@pytest.mark.parametrize("kind", [lanes.LaneLoader, lanes.MirroredLaneLoader])
def test_lanes_of_another_number_go_on_in_what_is_left(banks, kind):
    options = {"split": "train", "segment_len": 7, "seed": 3}
    loader = kind(banks, global_batch_size=4, stages=((0, 4), (2, 8)), **options)
    first = kind(banks, global_batch_size=4, **options)
    left = first.steps_per_epoch - 2
    for name in ("tokens", "backward_tokens")[: 1 + (kind is not lanes.LaneLoader)]:
        rest = np.stack([first.batch(step)[name] for step in range(2, 2 + left)], 1)
        found = np.stack([loader.batch(step)[name] for step in range(2, 2 + left // 2)], 1)
        whole = rest.reshape(-1, 9)[: found.shape[0] * found.shape[1]]
        np.testing.assert_array_equal(found.reshape(-1, 9), whole)
    assert loader.batch(2)["fresh"].all() and loader.batch(2 + left // 2)["fresh"].all()
    parts = [
        kind(banks, global_batch_size=4, stages=((0, 4), (2, 8)), process_index=p, process_count=2,
             **options)
        for p in (0, 1)
    ]  # fmt: skip
    for step in (1, 2, 3):
        for name, array in loader.batch(step).items():
            both = np.concatenate([part.batch(step)[name] for part in parts])
            np.testing.assert_array_equal(array, both)

"""Mixtures of banks: turns by shares, shares that change on the way, and batches of them that are a
function of the position alone.
"""

import collections
import itertools

import numpy as np
import pytest

from phenomjax import config
from phenomjax.config import mixtures
from phenomjax.data import mixture
from phenomjax.data.mixture import Mixture
from phenomjax.data.sequences import corpus
from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.data.sequences.lanes import LaneLoader, MirroredLaneLoader
from phenomjax.data.sequences.spans import SpanLoader
from phenomjax.data.sequences.vocabulary import CLS, SEP
from phenomjax.system.errors import UserError
from tests.data.test_loader import make_bank, make_loader

SHARES = (0.5, 1.0, 7.0, 0.1)


def test_the_turns_are_those_of_grain(monkeypatch):
    """Beyond some banks they are found by a compiled loop."""
    import grain

    parts = [grain.MapDataset.range(2**48).map(lambda n, g=g: (g, n)) for g in range(len(SHARES))]
    expected, few = grain.MapDataset.mix(parts, SHARES), Mixture([(0, SHARES)])
    monkeypatch.setattr(mixture, "MANY", 2)
    many = Mixture([(0, SHARES)])
    for index in (*range(300), 10**9, 10**12 + 7):
        assert few.at(index) == many.at(index) == expected[index]
    assert few.at(10**17) == many.at(10**17)  # too large for the compiled loop


def test_parts_go_on_where_they_were_when_shares_change():
    found = Mixture([(0, (3, 1, 0)), (40, (0, 1, 1)), (60, (1, 1, 2))])
    turns = [found.at(index) for index in range(140)]
    for first, last, shares in ((0, 40, (3, 1, 0)), (40, 60, (0, 1, 1)), (60, 140, (1, 1, 2))):
        parts = collections.Counter(part for part, _ in turns[first:last])
        wanted = np.array(shares) / sum(shares) * (last - first)
        assert [parts[part] for part in range(3)] == wanted.tolist()
        # and so in any few places
        for start in range(first, last - 8):
            few = collections.Counter(part for part, _ in turns[start : start + 8])
            assert all(abs(few[part] - 8 * shares[part] / sum(shares)) < 2 for part in range(3))
    for part in range(3):
        numbers = [number for one, number in turns if one == part]
        assert numbers == list(range(len(numbers)))
    for index in (0, 1, 39, 40, 41, 75, 140):
        counts = collections.Counter(part for part, _ in turns[:index])
        assert found.before(index) == [counts[part] for part in range(3)]


@pytest.mark.parametrize(
    "weights,wrong",
    [
        (
            [(0, (1.0,))],
            r"data.weights=\(1.0,\) does not fit the 2 banks: give one number for each",
        ),
        (
            [(0, ()), (9, (0, 0))],
            r"data.weights_later=\(0, 0\), from step 9 on, does not fit the 2",
        ),
        ([(0, (1, 0)), (5, (2, 0))], "data.weights never gives anything to b.zarr"),
        ([(0, (1, 1e30))], "less than the largest by more than 1,000,000"),
        ([(0, (1e-320, 0))], "the smallest is too small"),
        ([(0, (1, 1)), (5, (0, 1)), (7, (1, 0))], ""),
    ],
)
def test_shares_that_do_not_fit(weights, wrong):
    sizes = {"a.zarr": 10, "b.zarr": 30}
    if not wrong:
        return mixture.check_read(mixture.resolved(weights, sizes), sizes)
    with pytest.raises(UserError, match=wrong):
        mixture.check_read(mixture.resolved(weights, sizes), sizes)
    with pytest.raises(UserError, match="nothing is left to train on"):
        mixture.check_read([(0, (1, 1)), (5, (0, 1))], {"a.zarr": 10, "b.zarr": 0})


@pytest.mark.parametrize("task", ["mae", "causal_lm"])
def test_the_keys(task):
    c = config.base(task)
    assert mixtures.stages(c.data) == ()
    c.data.weights_later = ((50, 3.0, 1.0), (80, 0.0, 1.0))
    assert mixtures.stages(c.data) == [(0, ()), (50, [3.0, 1.0]), (80, [0.0, 1.0])]
    for rows in (((50, 1.0), (50, 2.0)), ((0, 1.0),), ((1.5, 1.0),), ((5,),)):
        c.data.weights_later = rows
        with pytest.raises(UserError, match=r"data.weights_later is .*each row is a step, higher"):
            mixtures.check(c)


def test_what_is_said():
    stages = [(0, (3.0, 1.0)), (1500, (0.0, 2.0))]
    text = mixture.described(stages, ["a", "b"])
    assert text == "75 % a, 25 % b; from step 1,500 on 0 % a, 100 % b"


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    """Bank a has 90 sequences of A, C, D and E, b 40 of F to L, c 5 of M, N and P."""
    folder, random = tmp_path_factory.mktemp("banks"), np.random.default_rng(0)
    return [
        write_token_bank(
            folder / f"{name}.zarr",
            {
                "train": [
                    (f"{name}{i}", "".join(random.choice(list(letters), random.integers(9, 40))))
                    for i in range(count)
                ],
                "validation": [(f"v{name}", letters)],
            },
            chunk_bytes=256,
        )
        for name, count, letters in (("a", 90, "ACDE"), ("b", 40, "FGHIKL"), ("c", 5, "MNP"))
    ]


WEIGHTS = [(0, (2.0, 1.0, 1.0)), (48, (1.0, 3.0, 0.0)), (96, (0.0, 1.0, 1.0))]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(corpus, "GROUP", 4)


def make(banks, kind=LaneLoader, **changes):
    options = {"split": "train", "segment_len": 6, "seed": 3, "global_batch_size": 8}
    return kind(banks, **options | {"weights": WEIGHTS} | changes)


SPANS = {
    "segment_len": 24,
    "reuse_len": 8,
    "perm_size": 8,
    "num_predict": 4,
    "mask_alpha": 6,
    "mask_beta": 1,
    "bi_data": True,
}


def bank_of(loader, batch):
    """Of each row, by the sequence of its first token."""
    return np.array([ord(name[0]) - ord("a") for name in loader.names(batch["sequence"])])


def test_lanes_realise_the_shares(banks):
    loader = make(banks)
    for (first, shares), last in zip(WEIGHTS, (48, 96, 400), strict=True):
        counts = np.zeros(3)
        for step in range(first, last):
            counts += np.bincount(bank_of(loader, loader.batch(step)), minlength=3)
        rows = 8 * (last - first)
        # stretches that a change cuts short are less than one a row
        np.testing.assert_allclose(counts / rows, np.array(shares) / sum(shares), atol=0.03)
        assert (counts > 0).tolist() == [share > 0 for share in shares]
    assert (
        "mixed 50 % a.zarr, 25 % b.zarr, 25 % c.zarr; from step 48 on 25 % a" in loader.describe()
    )


def test_rows_read_stretches_of_their_banks_on_and_on(banks):
    loader = make(banks, weights=[(0, (2.0, 1.0, 1.0))], segment_len=3)
    segments = loader._plan.segments  # of the smallest bank, eight stretches
    assert segments == loader.corpus.bank_tokens[2] // 8 // 3 > 1
    batches = [loader.batch(step) for step in range(60)]
    assert all(batch["weight"].all() for batch in batches)
    fresh = np.array([batch["fresh"] for batch in batches])
    # rows begin at different steps, all of them as often
    assert fresh[0].all() and (fresh[1 : 1 + 10 * segments].sum(0) == 10).all()
    assert fresh[1 : 1 + segments].any(1).all()
    for before, after in itertools.pairwise(batches):
        goes_on = ~after["fresh"]
        np.testing.assert_array_equal(before["tokens"][goes_on, -2:], after["tokens"][goes_on, :2])
        assert (bank_of(loader, before)[goes_on] == bank_of(loader, after)[goes_on]).all()
    # every token once in an epoch of its bank, but for less than a stretch
    for bank, count in enumerate(loader.corpus.bank_tokens):
        stretches = max(count // loader._plan.stretch, 1)
        places = set()
        for number in range(stretches):
            index = next(n for n in itertools.count() if loader._plan.banks.at(n) == (bank, number))
            stream, _ = loader._stream(0)
            source, place = stream._find(index * loader._plan.window + loader._plan.reach)
            assert len(source) == count
            places |= {(place + i) % count for i in range(loader._plan.stretch)}
        assert len(places) == min(stretches * loader._plan.stretch, count)


@pytest.mark.parametrize(
    "kind,options", [(LaneLoader, {}), (MirroredLaneLoader, {}), (SpanLoader, SPANS)]
)
def test_processes_and_starts_give_the_same_batches_of_one_bank_a_row(banks, kind, options):
    stages = ((0, 8), (20, 12), (60, 8))  # and so do more rows on the way
    whole = make(banks, kind, stages=stages, **options)
    parts = [
        make(banks, kind, stages=stages, process_index=i, process_count=2, **options)
        for i in range(2)
    ]
    letters = [set(map(int, np.unique(bank.tokens[:]))) for bank in banks]
    for step in (0, 1, 19, 20, 21, 47, 48, 60, 200):
        batch = whole.batch(step)
        for name, array in batch.items():
            joined = np.concatenate([part.batch(step)[name] for part in parts])
            np.testing.assert_array_equal(array, joined)
        for bank, tokens in zip(bank_of(whole, batch), batch["tokens"], strict=True):
            assert set(map(int, tokens)) <= letters[bank] | {SEP, CLS}
    with make(banks, kind, stages=stages, **options).iterate(46, 49) as batches:
        for step, loaded in zip(range(46, 49), batches, strict=True):
            np.testing.assert_array_equal(loaded.arrays["tokens"], whole.batch(step)["tokens"])
    assert whole.batch(20)["fresh"].all() and whole.batch(48)["fresh"].all()


def test_what_is_held_out_is_read_as_without_weights(banks):
    with_weights, without = (
        make(banks, split="validation", global_batch_size=2, weights=weights)
        for weights in (WEIGHTS, ())
    )
    assert with_weights.steps_per_epoch == without.steps_per_epoch
    for step in range(without.steps_per_epoch):
        for name, array in without.batch(step).items():
            np.testing.assert_array_equal(with_weights.batch(step)[name], array)


def test_data_that_begin_later_have_the_shares_of_then(banks):
    loader = make(banks, stages=((100, 8),))  # as of a run that goes on from another
    seen = np.concatenate([bank_of(loader, loader.batch(step)) for step in range(100, 140)])
    assert set(seen) == {1, 2}
    straight = make(banks)
    assert not np.array_equal(loader.batch(100)["tokens"], straight.batch(100)["tokens"])


def test_images_with_shares_that_change(tmp_path):
    image_banks = [make_bank(tmp_path, name, n)[0] for name, n in (("one", 11), ("two", 7))]
    image_banks.append(make_bank(tmp_path, "three", 9, channels=("a", "b"))[0])
    stages = [(0, (1.0, 0.0, 1.0)), (12, (1.0, 3.0, 0.0)), (20, (0.0, 0.0, 1.0))]
    loader = make_loader(image_banks, weights=stages, global_batch_size=8)
    first = np.cumsum([0, 11, 7])
    read = collections.defaultdict(list)
    for step in range(40):
        batch = loader.batch(step)["image"]
        of = np.searchsorted(first, batch, side="right") - 1
        for bank, image in zip(of, batch, strict=True):
            read[int(bank)].append((step, int(image)))
    counts = [
        [sum(begin <= step < end for step, _ in read[bank]) for bank in range(3)]
        for begin, end in ((0, 12), (12, 20), (20, 40))
    ]
    assert counts == [[48, 0, 48], [16, 48, 0], [0, 0, 160]]
    # each bank goes on where it was: every image once before any comes twice
    for bank, size in enumerate((11, 7, 9)):
        images = [image for _, image in read[bank]]
        for start in range(0, len(images) - size, size):
            assert len(set(images[start : start + size])) == size
    np.testing.assert_array_equal(
        make_loader(image_banks, weights=stages, global_batch_size=8).batch(21)["image"],
        loader.batch(21)["image"],
    )
    assert (
        "Mixed 50 % one.zarr, 0 % two.zarr, 50 % three.zarr; from step 12 on" in loader.describe()
    )

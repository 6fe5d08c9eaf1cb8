"""`data.subset`: exact shares that lie within each other, the same wherever the bank lies; the same
validation.
"""

import itertools
import shutil

import numpy as np
import pyarrow as pa
import pytest

from phenomjax import tasks
from phenomjax.config import keys
from phenomjax.data.images.bank import write_bank
from phenomjax.data.images.opening import open_bank
from phenomjax.data.sequences.bank import open_token_bank, write_token_bank
from phenomjax.data.subset import nested
from phenomjax.system.errors import UserError

SHARES = (0.1, 0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Image banks i.zarr and j.zarr, token banks s.zarr and t.zarr."""
    path, random = tmp_path_factory.mktemp("banks"), np.random.default_rng(5)
    for name, count in (("i", 40), ("j", 24)):
        pixels = random.integers(0, 255, (count, 16, 16, 2), np.uint8)
        rows = {
            "plate": [f"{name}{row // 8}" for row in range(count)],
            "well": [f"A{row:02}" for row in range(count)],
            "perturbation": [f"c{row % 4}" for row in range(count)],
        }
        write_bank(path / f"{name}.zarr", pixels, pa.table(rows), ("DNA", "ER"), chunk=8)
    for name, count in (("s", 60), ("t", 20)):
        texts = ["".join(random.choice(list("ACDEFGHIKL"), 5 + row % 7)) for row in range(count)]
        records = [(f"{name}{row}", text) for row, text in enumerate(texts)]
        write_token_bank(
            path / f"{name}.zarr", {"train": records[:-10], "validation": records[-10:]}
        )
    return path


def made(task, folder, share, split="train"):
    """The loader of a task."""
    config = keys.base(task)
    names = "ij" if "crop_size" in config.data else "st"
    config.data.banks = tuple(str(folder / f"{name}.zarr") for name in names)
    config.data.subset, config.global_batch_size = share, 4
    if names == "ij":
        config.data.crop_size, config.data.val_groups, config.model.patch_size = 16, ("i1",), 4
        if task == "perturbation":
            config.model.backbone, config.data.split_by, config.data.groups = "vit", "plate", 0
    else:
        config.data.segment_len = 8
    config = tasks.resolve(keys.finalize(config), folder)
    return tasks.make(config).loader(split, 0, 1)


def read(loader, steps):
    """The images or sequences of the first steps."""
    return {int(one) for step in range(steps) for one in loader.batch(step)[loader.item_key]}


@pytest.mark.parametrize("task", ["mae", "perturbation"])
def test_images_of_a_smaller_share_are_among_those_of_a_larger(folder, task):
    loaders = [made(task, folder, share) for share in SHARES]
    assert [one.num_images for one in loaders] == [6, 14, 28, 56]
    seen = [read(one, one.steps_per_epoch) for one in loaders]
    assert all(small < large for small, large in itertools.pairwise(seen))
    # both banks give, and no image that is held out
    assert min(seen[0]) < 40 <= max(seen[0]) and not seen[-1] & set(range(8, 16))
    assert loaders[0].fingerprints == loaders[-1].fingerprints
    held_out = [made(task, folder, share, "val") for share in SHARES]
    assert {frozenset(read(one, 4)) for one in held_out} == {frozenset(range(8, 16))}


def test_sequences_of_a_smaller_share_are_among_those_of_a_larger(folder):
    loaders = [made("causal_lm", folder, share) for share in SHARES]
    assert [one.corpus.num_sequences for one in loaders] == [6, 15, 30, 60]
    whole = loaders[-1].corpus
    texts = [
        {
            bytes(bank.tokens[start : start + size])
            for number in range(len(one.corpus.group_tokens))
            for bank, starts, sizes, _ in [one.corpus.group(number)]
            for start, size in zip(starts, sizes, strict=True)
        }
        for one in loaders
    ]
    assert all(small < large for small, large in itertools.pairwise(texts))
    for one in loaders:
        assert one.corpus.num_tokens == one.corpus.group_tokens.sum() <= whole.num_tokens
        assert one.lane_len == one.corpus.num_tokens // 4
    held_out = [made("causal_lm", folder, share, "val").corpus for share in SHARES]
    assert {one.num_tokens for one in held_out} == {held_out[0].num_tokens}
    assert held_out[0].num_sequences == 20


def test_a_share_is_of_all_banks_the_same_where_they_lie_and_another_in_each(folder, tmp_path):
    for opened, name in ((open_bank, "i"), (open_token_bank, "s")):
        bank = opened(folder / f"{name}.zarr")
        copied = opened(shutil.copytree(bank.path, tmp_path / f"moved_{name}.zarr"))
        rows = np.arange(len(bank))
        (mine,) = nested([bank], [rows], 0.3)
        (theirs,) = nested([copied], [rows], 0.3)
        np.testing.assert_array_equal(mine, theirs)
        assert len(mine) == round(0.3 * len(bank)) and (np.diff(mine) > 0).all()
        # what is chosen of a part does not hang on the rest
        (half,) = nested([bank], [rows[::2]], 1e-9)
        assert len(half) == 1
    banks = [open_bank(folder / f"{name}.zarr") for name in "ij"]
    parts = nested(banks, [np.arange(len(one)) for one in banks], 0.5)
    assert sum(map(len, parts)) == 32 and min(map(len, parts)) > 5
    assert set(parts[0]) != set(parts[1])


def test_hashes_spread_evenly(folder):
    bank = open_bank(folder / "i.zarr")
    (some,) = nested([bank], [np.arange(100_000)], 0.1)
    assert len(some) == 10_000
    by_thousand = np.bincount(some // 1000, minlength=100)
    assert 0.7 < by_thousand.var() / 90 < 1.4  # binomial: 1000 * .1 * .9
    gaps = np.bincount(np.diff(some))
    assert abs(gaps[1] / 10_000 - 0.1) < 0.02


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, 10.0])
@pytest.mark.parametrize("task", ["mae", "causal_lm", "perturbation"])
def test_a_share_that_cannot_be_is_named_with_its_mend(folder, task, share):
    with pytest.raises(UserError, match=rf"data.subset is {share}.*--config.data.subset=1.0"):
        made(task, folder, share)
    assert made(task, folder, 0.5) is not None


def test_a_share_without_a_segment_for_each_lane(folder):
    with pytest.raises(UserError, match=r"or a larger --config\.data\.subset\."):
        made("causal_lm", folder, 0.01)

"""batch = f(seed, step): the same for any threads, processes and start; splits, weights, bad
images, buffers, errors.
"""

import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter

import jax
import numpy as np
import pyarrow as pa
import pytest

from phenomjax.data.images.bank import write_bank
from phenomjax.data.images.loading import order
from phenomjax.data.images.loading.loader import ImageLoader
from phenomjax.data.images.loading.order import BatchOrder, crop_draws
from phenomjax.data.images.loading.split import split_rows
from phenomjax.data.images.opening import open_bank
from phenomjax.system.errors import UserError

ABC = ("a", "b", "c")


def make_bank(
    path,
    name="one",
    count=10,
    channels=ABC,
    dtype="uint8",
    size=(40, 48),
    plates=("p0", "p1"),
    chunk=16,
):
    """A bank whose pixels say where they are from: the image in the first channel, then noise."""
    rng = np.random.default_rng(len(name))
    images = rng.integers(0, 255, (count, *size, len(channels))).astype(dtype)
    images[..., 0] = np.arange(count)[:, None, None]
    rows = {
        "plate": [plates[i % len(plates)] for i in range(count)],
        "well": [f"A{i:02}" for i in range(count)],
    }
    write_bank(path / f"{name}.zarr", images, pa.table(rows), channels, chunk=chunk)
    return open_bank(path / f"{name}.zarr"), images


def make_loader(banks, **changes) -> ImageLoader:
    banks = banks if isinstance(banks, list) else [banks]
    settings = {
        "channels": ABC,
        "global_batch_size": 8,
        "crop_size": 16,
        "val_fraction": 0.0,
        "seed": 3,
        "threads": 2,
    }
    return ImageLoader(banks, **(settings | changes))


def check_equal(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def collect(loader, start, stop):
    """Copies of the batches `start` to `stop`."""
    batches = []
    with loader.iterate(start) as iterator:
        while start + len(batches) < stop:
            batch = next(iterator)
            assert batch.step == start + len(batches)
            batches.append({key: value.copy() for key, value in batch.arrays.items()})
            batch.release()
    return batches


AUGMENTED = {"flip": True, "rotate": True}


@pytest.mark.parametrize(
    "changes", [{}, AUGMENTED, {"crops_per_image": 4} | AUGMENTED], ids=["plain", "turned", "k4"]
)
def test_same_for_any_threads_processes_and_start(tmp_path, changes):
    bank, _ = make_bank(tmp_path)
    expected = [make_loader(bank, threads=1, **changes).batch(step) for step in range(6)]
    for threads in (2, 8):
        for one, other in zip(
            expected, collect(make_loader(bank, threads=threads, **changes), 0, 6), strict=True
        ):
            check_equal(one, other)
    for one, other in zip(expected[3:], collect(make_loader(bank, **changes), 3, 6), strict=True):
        check_equal(one, other)
    for count in (2, 4):
        parts = [
            collect(make_loader(bank, process_index=p, process_count=count, **changes), 0, 3)
            for p in range(count)
        ]
        for step in range(3):
            joined = {
                key: np.concatenate([part[step][key] for part in parts]) for key in expected[0]
            }
            check_equal(expected[step], joined)


def test_batch_is_what_its_specs_say(tmp_path):
    loader = make_loader(make_bank(tmp_path)[0], process_index=1, process_count=2)
    batch = loader.batch(0)
    assert loader.specs[0]["pixels"] == ((8, 16, 16, 3), np.uint8)
    for key, (shape, dtype) in loader.specs[0].items():
        assert batch[key].shape == (4, *shape[1:]) and batch[key].dtype == dtype
    assert batch["row"].tolist() == [4, 5, 6, 7]
    assert batch["channels"].tolist() == [[0, 1, 2]] * 4


def test_crops_are_numpy_slices(tmp_path):
    bank, images = make_bank(tmp_path)
    loader = make_loader(bank, flip=True, rotate=True, global_batch_size=128)
    batch, row, seen = loader.batch(5), 0, set()
    for _, image, crops in loader.requests(5, 0, 128):
        assert batch["image"][row] == image
        for y, x, draw in crops:
            crop = images[image, y : y + 16, x : x + 16]
            for axis in (0, 1):
                crop = np.flip(crop, axis) if draw >> axis & 1 else crop
            np.testing.assert_array_equal(batch["pixels"][row], np.rot90(crop, draw >> 2 & 3))
            seen.add(draw & 15)
            row += 1
    assert row == 128 and len(seen) == 16
    starts = [
        (y, x)
        for step in range(20)
        for *_, crops in loader.requests(step, 0, 128)
        for y, x, _ in crops
    ]
    assert {y for y, _ in starts} == set(range(40 - 16 + 1))
    assert {x for _, x in starts} == set(range(48 - 16 + 1))


def test_without_flip_and_rotate_nothing_is_turned(tmp_path):
    bank, images = make_bank(tmp_path)
    loader = make_loader(bank)
    for pixels, (_, image, [(y, x, _)]) in zip(
        loader.batch(0)["pixels"], loader.requests(0, 0, 8), strict=True
    ):
        np.testing.assert_array_equal(pixels, images[image, y : y + 16, x : x + 16])


@pytest.mark.parametrize("small", [2**16, 0], ids=["small", "grain"])
def test_each_epoch_is_another_permutation(tmp_path, monkeypatch, small):
    monkeypatch.setattr(order, "SMALL", small)
    loader = make_loader([make_bank(tmp_path, "one", 10)[0], make_bank(tmp_path, "two", 6)[0]])
    ids = np.concatenate([loader.batch(step)["image"] for step in range(6)]).reshape(3, 16)
    for epoch in ids:
        assert sorted(epoch) == list(range(16))
    assert len({tuple(epoch) for epoch in ids}) == 3
    other = make_loader(loader.banks, seed=4)
    assert other.batch(0)["image"].tolist() != ids[0][:8].tolist()


def test_crops_per_image(tmp_path):
    loader = make_loader(make_bank(tmp_path)[0], crops_per_image=4)
    ids = np.concatenate([loader.batch(step)["image"] for step in range(5)]).reshape(-1, 4)
    assert (ids == ids[:, :1]).all() and sorted(ids[:, 0]) == list(range(10))
    pixels = loader.batch(0)["pixels"]
    assert len(np.unique(pixels[:4].reshape(4, -1), axis=0)) == 4


def test_weights(tmp_path):
    banks = [make_bank(tmp_path, "one", 10)[0], make_bank(tmp_path, "two", 5)[0]]
    loader = make_loader(banks, weights=[(0, (1, 3))], global_batch_size=40)
    ids = np.concatenate([loader.batch(step)["image"] for step in range(10)])
    assert Counter((ids >= 10).tolist()) == {False: 100, True: 300}
    # each bank goes through its own permutations
    assert set(Counter(ids[ids < 10].tolist()).values()) == {10}
    assert set(Counter(ids[ids >= 10].tolist()).values()) == {60}


def test_groups_by_channels_and_dtype(tmp_path):
    one, _ = make_bank(tmp_path, "one", 6)
    two, _ = make_bank(tmp_path, "three", 4, channels=("c", "d"), dtype="uint16")
    more, _ = make_bank(tmp_path, "more", 2)
    loader = make_loader([one, two, more], channels=("a", "b", "c", "d"), global_batch_size=4)
    assert [group.banks for group in loader.groups] == [(0, 2), (1,)]
    assert [spec["pixels"][0][-1] for spec in loader.specs] == [3, 2]
    batches = collect(loader, 0, 24)
    assert Counter(batch["pixels"].dtype.name for batch in batches) == {"uint8": 16, "uint16": 8}
    for step, batch in enumerate(batches):
        check_equal(batch, loader.batch(step))
        wide = batch["pixels"].dtype == np.uint16
        assert batch["channels"][0].tolist() == ([2, 3] if wide else [0, 1, 2])
        assert ((batch["image"] >= 6) & (batch["image"] < 10)).all() == wide
    weighted = make_loader(
        [one, two, more], channels=("a", "b", "c", "d"), weights=[(0, (1, 6, 1))]
    )
    assert [weighted._order.batch(step)[0] for step in range(400)].count(1) == 300


def test_draws_belong_to_the_row():
    whole = crop_draws(1, 2, 0, 10)
    assert crop_draws(1, 2, 4, 7) == whole[4:7]
    assert crop_draws(1, 3, 0, 10) != whole != crop_draws(2, 2, 0, 10)
    assert whole[0][:2] == [3469831269, 4061654029]  # never changes, whatever the version of NumPy


def test_image_order_never_changes():
    images = BatchOrder([[9]], seed=1, images_per_batch=4)
    assert [images.image(0, 0, place) for place in range(9)] == [1, 4, 2, 7, 0, 3, 6, 8, 5]


@pytest.mark.parametrize(
    "changes", [{"val_fraction": 0.3}, {"val_groups": ("q2", "q5")}, {"split_by": "well"}]
)
def test_splits_are_disjoint_and_complete(tmp_path, changes):
    banks = [
        make_bank(tmp_path, "one", 12, plates=[f"q{i}" for i in range(6)])[0],
        make_bank(tmp_path, "two", 8, plates=[f"q{i}" for i in range(4, 8)])[0],
    ]
    settings = {"split_by": "plate", "val_groups": (), "val_fraction": 0.2} | changes
    train, val = (split_rows(banks, split, **settings) for split in ("train", "val"))
    for bank, rows, held_out in zip(banks, train, val, strict=True):
        assert sorted([*rows, *held_out]) == list(range(len(bank)))
        assert len(held_out)
        if settings["split_by"] == "plate":
            plates = np.array(bank.metadata["plate"].to_pylist())
            rows, held_out = rows.array(), held_out.array()
            assert not set(plates[rows]) & set(plates[held_out])
            if settings["val_groups"]:
                assert set(plates[held_out]) <= {"q2", "q5"}


def test_split_stays_when_plates_are_added(tmp_path):
    def held_out(count):
        bank, _ = make_bank(
            tmp_path, f"n{count}", count, plates=[f"plate {i}" for i in range(count)]
        )
        return {
            int(row)
            for row in split_rows([bank], "val", split_by="plate", val_groups=(), val_fraction=0.2)[
                0
            ]
        }

    few, many = held_out(20), held_out(60)
    assert few and few == {row for row in many if row < 20}
    assert 4 <= len(many) <= 20


def test_plates_of_two_experiments_are_different(tmp_path):
    images = np.zeros((4, 16, 16, 1), np.uint8)
    rows = pa.table({"experiment": ["e", "e", "f", "f"], "plate": ["1", "2", "1", "2"]})
    write_bank(tmp_path / "x.zarr", images, rows, ["a"])
    bank = open_bank(tmp_path / "x.zarr")
    rows = split_rows([bank], "val", split_by="plate", val_groups=("f/1",), val_fraction=0.1)
    assert list(rows[0]) == [2]


def test_one_plate_holds_out_nothing_and_says_so(tmp_path, caplog):
    several = make_bank(tmp_path, "several")[0]
    single = make_bank(tmp_path, "single", plates=("p0",))[0]
    with caplog.at_level(logging.INFO, "phenomjax"):
        loader = make_loader([several, single], split="val", val_fraction=0.1)
    assert loader.num_images == 5 and "single.zarr has one plate only" in caplog.text
    assert (
        set(np.concatenate([loader.batch(step)["image"] for step in range(4)]) % 2).__len__() == 1
    )
    with pytest.raises(UserError, match="No image is held out for validation"):
        make_loader(single, split="val", val_fraction=0.1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"split": "test"}, "Unknown split 'test'"),
        ({"split_by": "plat"}, r"Did you mean 'plate'\?"),
        (
            {"val_groups": ("p00",)},
            r"'p00', but no bank has a plate of that name. Did you mean 'p0'\? There are: p0, p1",
        ),
        ({"val_groups": ("p0", "p1")}, "No image is left to train on"),
        ({"val_fraction": 1.5}, "val_fraction=1.5"),
        (
            {"crop_size": 41},
            (
                r"crop_size=41 is larger than the images of .*one.zarr, which are 40 x 48"
                r" px.*crop_size=40"
            ),
        ),
        ({"channels": ("a", "b", "C2")}, "channel 'c', which the model does not know"),
        ({"process_count": 3}, "global_batch_size=8 is not divisible by process_count=3"),
        ({"crops_per_image": 3}, "global_batch_size=8 is not divisible by data.crops_per_image=3"),
        ({"weights": [(0, (1, 2))]}, "does not fit the 1 bank:"),
        ({"weights": [(0, (0,))]}, "0 or more and not all 0"),
        ({"on_bad_image": "ignore"}, "There are: error, skip"),
    ],
)
def test_what_the_user_is_told(tmp_path, changes, text):
    with pytest.raises(UserError, match=text):
        make_loader(make_bank(tmp_path)[0], **changes)


def test_no_bank_is_an_error():
    with pytest.raises(UserError, match=r"data.banks is empty"):
        make_loader([])


def damage(bank, *images):
    for image in images:
        os.truncate(bank.shard_path(image), 50)


def test_bad_image_is_an_error_and_closes(tmp_path):
    bank, _ = make_bank(tmp_path)
    damage(bank, 4)
    loader = make_loader(bank)
    with pytest.raises(UserError, match=r"one p0/A04 .image 4 of the bank"):
        for step in range(2):
            loader.batch(step)
    with loader.iterate(0) as iterator, pytest.raises(UserError, match="one p0/A04"):
        for batch in iterator:
            batch.release()
    with pytest.raises(StopIteration):
        next(iterator)


def test_bad_images_are_skipped_alike_everywhere(tmp_path, caplog):
    bank, _ = make_bank(tmp_path)
    good = [make_loader(bank).batch(step) for step in range(5)]
    damage(bank, 4, 5, 9)
    expected = collect(make_loader(bank, on_bad_image="skip", threads=1), 0, 5)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "phenomjax"):
        loader = make_loader(bank, on_bad_image="skip", threads=4)
        for one, other in zip(expected, collect(loader, 0, 5), strict=True):
            check_equal(one, other)
    assert loader.bad_items == 3
    assert sum("bad image" in record.message for record in caplog.records) == 3
    for before, after in zip(good, expected, strict=True):
        replaced = [{4: 6, 5: 6, 9: 0}.get(image, image) for image in before["image"].tolist()]
        assert after["image"].tolist() == replaced
        np.testing.assert_array_equal(
            after["pixels"][..., 0], np.broadcast_to(np.array(replaced)[:, None, None], (8, 16, 16))
        )


def test_replacement_stays_in_the_split(tmp_path):
    bank, _ = make_bank(tmp_path)
    damage(bank, 1, 3, 5, 7)
    loader = make_loader(bank, split="val", val_groups=("p1",), on_bad_image="skip")
    assert {int(i) for step in range(3) for i in loader.batch(step)["image"]} == {9}
    damage(bank, 9)
    with pytest.raises(UserError, match=r"No image of the val split of .*one.zarr can be read"):
        loader.batch(0)


def test_too_many_bad_images(tmp_path):
    bank, _ = make_bank(tmp_path)
    damage(bank, 4, 5, 9)
    loader = make_loader(bank, on_bad_image="skip", max_bad_images=2)
    with pytest.raises(
        UserError, match=r"3 images could not be read, more than data.max_bad_images=2"
    ):
        collect(loader, 0, 6)


def test_buffers_are_bounded_and_used_again(tmp_path):
    loader = make_loader(make_bank(tmp_path)[0], prefetch_batches=2)
    with loader.iterate(0) as iterator:
        addresses = set()
        for _ in range(20):
            batch = next(iterator)
            addresses.add(batch.arrays["pixels"].ctypes.data)
            batch.release()
            batch.release()  # twice does no harm
        assert len(addresses) <= iterator.buffers == 4
        assert all(address % 64 for address in addresses)  # jax on a CPU must copy them
        held = [next(iterator) for _ in range(4)]
        with pytest.raises(RuntimeError, match="all 4 batch buffers are in use"):
            next(iterator)
        held[2].release()
        assert next(iterator).step == 24
    assert "4 buffers of" in loader.describe()


def test_jax_copies_the_buffers(tmp_path):
    """On a CPU, jax takes some NumPy arrays as its own memory; a buffer that is used again must not
    be one of them.
    """
    loader = make_loader(make_bank(tmp_path)[0], crop_size=32, global_batch_size=64)
    with loader.iterate(0) as iterator:
        batch = next(iterator)
        on_device = jax.block_until_ready(jax.device_put(batch.arrays["pixels"]))
        expected = batch.arrays["pixels"].copy()
        batch.arrays["pixels"][:] = 0
        np.testing.assert_array_equal(on_device, expected)


def test_arrays_hold_until_release(tmp_path):
    loader = make_loader(make_bank(tmp_path)[0])
    with loader.iterate(0) as iterator:
        first = next(iterator)
        for _ in range(5):
            next(iterator).release()
        check_equal(first.arrays, loader.batch(0))


def test_stop_step(tmp_path):
    loader = make_loader(make_bank(tmp_path)[0])
    with loader.iterate(2, 5) as iterator:
        steps = []
        for batch in iterator:
            steps.append(batch.step)
            batch.release()
    assert steps == [2, 3, 4]


def test_stopping_early_leaves_no_thread(tmp_path):
    loader = make_loader(make_bank(tmp_path)[0], threads=4)
    before = threading.active_count()
    with loader.iterate(0) as iterator:
        next(iterator)
    assert threading.active_count() <= before
    with pytest.raises(StopIteration):
        next(iterator)
    forgotten = loader.iterate(0)
    next(forgotten)
    del forgotten
    gc.collect()
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_process_ends_with_an_open_iterator_and_imports_no_jax(tmp_path):
    make_bank(tmp_path)
    code = f"""
import sys
from phenomjax.data.images.loading import loader, reader, split
assert "jax" not in sys.modules and "grain" not in sys.modules
from phenomjax.data.images.opening import open_bank
images = loader.ImageLoader(
    [open_bank({str(tmp_path / "one.zarr")!r})],
    channels=("a", "b", "c"), global_batch_size=64, crop_size=16
)
iterator = images.iterate(0)
print(next(iterator).step)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_fingerprints_names_and_banner(tmp_path):
    one, two = make_bank(tmp_path, "one")[0], make_bank(tmp_path, "two")[0]
    loader = make_loader([one, two])
    assert loader.fingerprints == {"0 one.zarr": one.fingerprint, "1 two.zarr": two.fingerprint}
    assert loader.names([0, 9, 10, 13]) == ["one p0/A00", "one p1/A09", "two p0/A00", "two p1/A03"]
    text = loader.describe()
    for part in (
        "train: 20 images",
        "one channel set",
        "two.zarr (10 of 10 images of 40 x 48 px, 3 channels uint8",
    ):
        assert part in text


def test_large_chunks_are_warned_of(tmp_path, caplog):
    bank, _ = make_bank(tmp_path, size=(64, 64), chunk=64)
    with caplog.at_level(logging.WARNING, "phenomjax"):
        make_loader(bank)
    assert (
        "16.0 bytes are decoded for one byte delivered" in caplog.text
        and "crops_per_image" in caplog.text
    )
    caplog.clear()
    make_loader(bank, crops_per_image=8)
    assert not caplog.text


@pytest.mark.parametrize("weights", [(), [(0, (1.0, 3.0, 2.0))]], ids=["all alike", "weights"])
def test_batches_that_change_their_size_go_on_with_the_images_that_come_next(tmp_path, weights):
    banks = [
        make_bank(tmp_path, "one", 11)[0],
        make_bank(tmp_path, "two", 7)[0],
        make_bank(tmp_path, "three", 9, channels=("a", "b"))[0],
    ]
    same = {"weights": weights, "crops_per_image": 2}

    def images(loader, steps):
        read = {2: [], 3: []}  # by the number of channels: their images share batches
        for step in steps:
            batch = loader.batch(step)
            assert (batch["row"] == np.arange(len(batch["image"]))).all()
            read[batch["channels"].shape[1]].append(batch["image"][::2])
        return {count: np.concatenate(ids) for count, ids in read.items()}

    stages = ((0, 4), (3, 12), (5, 12), (9, 8))
    changing = make_loader(banks, stages=stages, global_batch_size=8, **same)
    assert [len(changing.batch(step)["row"]) for step in (2, 3, 8, 9)] == [4, 12, 12, 8]
    found = images(changing, range(30))
    expected = images(make_loader(banks, global_batch_size=4, **same), range(70))
    for count, ids in found.items():
        np.testing.assert_array_equal(ids, expected[count][: len(ids)])
    parts = [
        make_loader(banks, stages=stages, process_index=p, process_count=2, **same) for p in (0, 1)
    ]
    for step, arrays in zip(range(2, 11), collect(parts[1], 2, 11), strict=True):
        joined = np.concatenate([parts[0].batch(step)["pixels"], arrays["pixels"]])
        np.testing.assert_array_equal(joined, changing.batch(step)["pixels"])
    later = make_loader(banks, stages=((20, 4),), **same)  # data that begin there: another order
    assert not np.array_equal(images(later, range(20, 40))[3], expected[3][: 2 * 10])


@pytest.mark.parametrize("rows", [3, 16])
def test_once_each_image_has_the_same_crop_whatever_the_batch(tmp_path, rows):
    """Two channel sets, fillers of the last batches, and a bad image, which counts nowhere."""
    banks = [make_bank(tmp_path)[0], make_bank(tmp_path, "two", 5, channels=("a", "b"))[0]]
    damage(banks[0], 4)
    options = {
        "once": True,
        "on_bad_image": "skip",
        "weights": [(0, (9.0, 1.0))],
        "crops_per_image": 2,
    }

    def read(count, **more):
        loader = make_loader(banks, global_batch_size=count, **options, **more)
        batches = [loader.batch(step) for step in range(loader.steps_per_epoch)]
        assert all(batch.keys() == loader.specs[0].keys() for batch in batches)
        return batches

    def crops(batches):
        counted = [
            (b["image"][i], b["pixels"][i]) for b in batches for i in np.flatnonzero(b["weight"])
        ]
        assert len({int(image) for image, _ in counted}) == len(counted)
        return {int(image): pixels.tobytes() for image, pixels in counted}

    found = crops(read(rows))
    assert sorted(found) == [0, 1, 2, 3, *range(5, 15)]
    assert found == crops(read(1)) == crops(read(rows, flip=True, rotate=True))
    if rows % 2 == 0:
        halves = [read(rows, process_index=index, process_count=2) for index in (0, 1)]
        assert crops([*halves[0], *halves[1]]) == found

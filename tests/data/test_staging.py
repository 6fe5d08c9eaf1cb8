"""Staging: copied once, checked, used again, safe with several processes, and continued after a
kill.
"""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenomjax.config import keys
from phenomjax.data.images.bank import shard_path, write_bank
from phenomjax.data.images.loading import staging as image_staging
from phenomjax.data.images.loading.reader import CropReader
from phenomjax.data.images.opening import open_bank
from phenomjax.data.images.rows import Rows
from phenomjax.data.sequences import staging
from phenomjax.data.sequences.bank import damaged_files, open_token_bank, write_token_bank
from phenomjax.data.staging import folder_of
from phenomjax.system.errors import UserError
from phenomjax.system.files import sha256
from phenomjax.tasks.mae import MaskedAutoencoder


@pytest.fixture
def bank(tmp_path):
    proteins = [(f"p{i}", "MKV" * (i + 1)) for i in range(20)]
    return write_token_bank(tmp_path / "p.zarr", {"train": proteins}, chunk_bytes=64)


def test_the_copy_is_the_bank_and_is_used_again(bank, tmp_path):
    copy = staging.stage(bank.path, tmp_path / "local")
    assert damaged_files(copy) == [] and open_token_bank(copy).fingerprint == bank.fingerprint
    np.testing.assert_array_equal(open_token_bank(copy).tokens[:], bank.tokens[:])
    before = {file: os.stat(file).st_mtime_ns for file in copy.rglob("*") if file.is_file()}
    assert staging.stage(bank.path, tmp_path / "local") == copy
    assert {file: os.stat(file).st_mtime_ns for file in copy.rglob("*") if file.is_file()} == before


def test_a_killed_copy_is_continued(bank, tmp_path):
    copy = staging.stage(bank.path, tmp_path / "local")
    for name in ("zarr.json", "tokens/c.1"):
        (copy / name).unlink()
    (copy / "tokens/.part-c.1").write_bytes(b"half")
    kept = os.stat(copy / "tokens/c.0").st_mtime_ns
    assert staging.stage(bank.path, tmp_path / "local") == copy and damaged_files(copy) == []
    assert os.stat(copy / "tokens/c.0").st_mtime_ns == kept and not list(copy.rglob(".part-*"))


def test_several_processes_make_one_copy(bank, tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        copies = pool.starmap(staging.stage, [(bank.path, tmp_path / "local")] * 6)
    assert len(set(copies)) == 1 and damaged_files(copies[0]) == []


def test_errors(bank, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.staging=.*file cannot take a copy"):
        staging.stage(bank.path, tmp_path / "file")
    usage = type("Usage", (), {"free": 10})
    with monkeypatch.context() as patch:
        patch.setattr("phenomjax.data.staging.shutil.disk_usage", lambda folder: usage)
        with pytest.raises(UserError, match=r"has 0.0 GiB left"):
            staging.stage(bank.path, tmp_path / "full")
    data = bytearray((bank.path / "tokens/c.1").read_bytes())
    data[0] ^= 1
    (bank.path / "tokens/c.1").write_bytes(data)
    with pytest.raises(UserError, match=r"c.1 is damaged: its sha256 is not the one recorded"):
        staging.stage(bank.path, tmp_path / "local")


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (11, 24, 24, 2), np.uint8)
    rows = pa.table({"plate": [f"p{i // 3}" for i in range(11)]})
    write_bank(tmp_path / "b.zarr", pixels, rows, ["a", "b"], chunk=16, images_per_shard=2)
    return open_bank(tmp_path / "b.zarr")


def read_all(bank):
    reader, out = CropReader(bank), np.zeros((len(bank), 24, 24, 2), np.uint8)
    for number, image in enumerate(out):
        reader.read_into(image, number, 0, 0)
    return out


def test_images_are_read_from_their_copy(images, tmp_path, caplog):
    caplog.set_level("INFO")
    expected, local = read_all(images), tmp_path / "local"
    image_staging.stage([images], [Rows.all(11)], str(local))
    assert re.search(r"6 files, .* copied to .* GB/s: the first step waited", caplog.text)
    assert all(images.shard_path(i).is_relative_to(local) for i in range(11))
    for file in (images.path / "images").glob("c.*"):
        file.unlink()
    np.testing.assert_array_equal(read_all(images), expected)
    again = open_bank(images.path)
    image_staging.stage([again], [Rows.all(11)], str(local))  # found, for the source is gone
    np.testing.assert_array_equal(read_all(again), expected)
    assert again.fingerprint == images.fingerprint and "is already in" in caplog.text


def test_a_part_of_the_images(images, tmp_path, monkeypatch, caplog):
    """The rest is read where it is; each node copies other plates."""
    image_staging.stage([images], [Rows.of(np.array([2, 3, 7]))], str(tmp_path / "chosen"))
    there = [images.shard_path(i).is_relative_to(tmp_path / "chosen") for i in range(11)]
    assert there == [i in (2, 3, 6, 7) for i in range(11)]
    caplog.set_level("INFO")
    expected, parts = read_all(open_bank(images.path)), []
    for node in ("node1", "node2", "node3"):
        monkeypatch.setattr("socket.gethostname", lambda node=node: node)
        image_staging.stage([images], [Rows.all(11)], str(tmp_path / node), share=0.5)
        parts.append([images.shard_path(i).is_relative_to(tmp_path / node) for i in range(11)])
        np.testing.assert_array_equal(read_all(images), expected)
    assert parts[0] != parts[1] and any(map(any, parts)) and not all(map(all, parts))
    banks = [images, open_bank(images.path)]
    image_staging.stage(banks, [Rows.all(11), Rows.of(np.array([2]))], str(tmp_path / "both"))
    assert "staging: 2 banks in" in caplog.text
    with pytest.raises(UserError, match=r"data.staging_share=0: give more than 0"):
        image_staging.stage([images], [Rows.all(11)], str(tmp_path), share=0)


def test_damaged_images_are_left_out_and_a_kill_is_continued(images, tmp_path, caplog):
    """By the index of a shard, or the manifest of a mirror."""
    expected = read_all(images)
    os.truncate(images.shard_path(4), 20)
    flipped = bytearray(images.shard_path(0).read_bytes())
    flipped[5] ^= 1
    (tmp_path / "manifest").write_bytes(flipped)
    rows = {"key": ["images/c.0.0.0.0"], "sha256": [sha256(tmp_path / "manifest")]}
    pq.write_table(pa.table(rows | {"state": ["verified"]}), tmp_path / "b.zarr.manifest.parquet")
    image_staging.stage([images], [Rows.all(11)], str(tmp_path / "local"))
    assert "c.2.0.0.0 is left out: the index at the end" in caplog.text
    assert "c.0.0.0.0 is left out: its sha256 is not" in caplog.text
    there = [images.shard_path(i).is_relative_to(tmp_path / "local") for i in range(11)]
    assert there == [i not in (0, 1, 4, 5) for i in range(11)]
    (copy,) = (tmp_path / "local").glob("b-*[!g]")
    (done,) = copy.glob("staged-*.json")
    done.unlink()
    kept = os.stat(copy / "images/c.1.0.0.0").st_mtime_ns
    (copy / "images/c.3.0.0.0").unlink()
    (copy / "images/.part-c.3.0.0.0").write_bytes(b"half")
    image_staging.stage([images], [Rows.all(11)], str(tmp_path / "local"))
    assert os.stat(copy / "images/c.1.0.0.0").st_mtime_ns == kept
    assert not list(copy.rglob(".part-*"))
    out = np.zeros((24, 24, 2), np.uint8)
    CropReader(images).read_into(out, 7, 0, 0)
    np.testing.assert_array_equal(out, expected[7])


def test_where_copies_go(images, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    assert folder_of("disk") == tmp_path / f"phenomjax-{os.getuid()}" and folder_of("x").name == "x"
    assert folder_of("memory").parent.as_posix() == "/dev/shm"
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"data.staging=disk: .*gone cannot be used"):
        folder_of("disk")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match=r"0.0 GiB left.* --config.data.staging_share=0.5 or less"):
        image_staging.stage([images], [Rows.all(11)], str(tmp_path / "full"))
    with pytest.raises(UserError, match=r"to be copied of 2 banks takes 0.0 GiB"):
        image_staging.stage([images] * 2, [Rows.all(11)] * 2, str(tmp_path))


def test_a_run_reads_the_same_from_its_copy(images, tmp_path):
    config = keys.base("mae")
    config.data.update(banks=(str(images.path),), crop_size=16)
    config.global_batch_size, config.model.channels, config.model.patch_size = 4, ("a", "b"), 8
    expected = MaskedAutoencoder(config).loader("train", 0, 1).batch(3)
    config.data.staging = str(tmp_path / "local")
    found = MaskedAutoencoder(config).loader("train", 0, 1)
    assert (tmp_path / "local").is_dir()
    shutil.rmtree(images.path / "images")
    for name, values in found.batch(3).items():
        np.testing.assert_array_equal(values, expected[name])


STAGE_SLOWLY = """
import shutil, sys, time
from phenomjax.data.images.loading import staging
from phenomjax.data.images.opening import open_bank
from phenomjax.data.images.rows import Rows

copy = shutil.copyfile
shutil.copyfile = lambda *files: time.sleep(0.05) or copy(*files)
bank = open_bank(sys.argv[1])
print("begun", flush=True)
staging.stage([bank], [Rows.all(len(bank))], sys.argv[2])
"""


@pytest.mark.slow
def test_killed_at_any_time(tmp_path, count):
    pixels, rows = np.zeros((60, 16, 16, 2), np.uint8), pa.table({"plate": ["p"] * 60})
    pixels += np.arange(60, dtype=np.uint8)[:, None, None, None]
    write_bank(tmp_path / "c.zarr", pixels, rows, ["a", "b"], chunk=16)
    words = [sys.executable, "-c", STAGE_SLOWLY, tmp_path / "c.zarr", tmp_path / "local"]
    for number in range(count(2, 50)):
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.03 * (number % 8))
        process.kill()
        process.communicate()
    bank = open_bank(tmp_path / "c.zarr")
    image_staging.stage([bank], [Rows.all(60)], str(tmp_path / "local"))
    (copy,) = (tmp_path / "local").glob("c-*[!g]")
    for number in range(60):
        assert bank.shard_path(number) == shard_path(copy, number)
        assert bank.shard_path(number).read_bytes() == shard_path(bank.path, number).read_bytes()
    assert not list(copy.rglob(".part-*"))

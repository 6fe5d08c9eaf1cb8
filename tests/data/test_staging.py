"""Staging: copied once, checked, used again, safe with several processes, and continued after a
kill.
"""

import multiprocessing
import os

import numpy as np
import pytest

from phenomjax.data.sequences import staging
from phenomjax.data.sequences.bank import damaged_files, open_token_bank, write_token_bank
from phenomjax.system.errors import UserError


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
        patch.setattr(staging.shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(UserError, match=r"has 0.0 GiB left"):
            staging.stage(bank.path, tmp_path / "full")
    data = bytearray((bank.path / "tokens/c.1").read_bytes())
    data[0] ^= 1
    (bank.path / "tokens/c.1").write_bytes(data)
    with pytest.raises(UserError, match=r"c.1 is damaged: its sha256 is not the one recorded"):
        staging.stage(bank.path, tmp_path / "local")

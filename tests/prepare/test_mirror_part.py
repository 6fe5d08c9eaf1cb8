"""`prepare mirror --only`, and banks on web servers without a manifest: what their descriptions say
is what is copied."""

import re
import shutil

import numpy as np
import pyarrow as pa
import pytest

from phenomjax.data.images import bank
from phenomjax.data.images.opening import open_bank
from phenomjax.data.sequences.bank import TokenBank, write_token_bank
from phenomjax.prepare.subsets import command as subset
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door
from tests.prepare.test_mirror import files_of, mirror, rows, states


@pytest.fixture(params=[1, 4])
def images(request, tmp_path):
    """Two plates of ten images, some in a shard."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 2), np.uint8)
    metadata = pa.table(
        {"plate": ["A"] * 10 + ["B"] * 10, "well": [f"A{i:02d}" for i in range(20)]}
    )
    path = tmp_path / "bank.zarr"
    bank.write_bank(path, pixels, metadata, ("a", "b"), chunk=16, images_per_shard=request.param)
    return path, request.param


def shards(folder):
    return sorted(int(path.name.split(".")[1]) for path in (folder / "images").glob("c.*"))


def test_what_a_selection_or_a_split_needs(images, tmp_path):
    """Descriptions, tables and the shards of the rows; what is chosen is read from the copy."""
    path, each = images
    chosen = tmp_path / "S.parquet"
    words = ["--bank", path, "--where", "plate == 'B'", "--out", chosen]
    assert run_as_door(subset, words) == 0
    target = tmp_path / "part.zarr"
    assert mirror(path, target, "--only", chosen) == 0
    assert shards(target) == list(range(10 // each, -(-20 // each)))
    copy, whole = open_bank(target), open_bank(path)
    assert np.array_equal(copy.read(13), whole.read(13)) and len(copy) == 20
    assert mirror(path, target, "--only", "images/*") == 0  # the rest comes to it
    assert files_of(target) == files_of(path) and len(rows(target)) == len(files_of(path))
    for split in ("train", "val"):
        assert mirror(path, tmp_path / split, "--only", split) == 0
    assert sorted({*shards(tmp_path / "train"), *shards(tmp_path / "val")}) == shards(path)
    assert shards(tmp_path / "val") != shards(path)
    other = tmp_path / "other.zarr"
    bank.write_bank(other, np.zeros((1, 8, 8, 1), np.uint8), pa.table({"plate": ["x"]}), ("a",))
    with pytest.raises(UserError, match="has other metadata: its rows would mean other images"):
        mirror(other, tmp_path / "no", "--only", chosen)
    with pytest.raises(UserError, match="is no bank of phenomjax"):
        mirror(path / "images", tmp_path / "no", "--only", chosen)
    with pytest.raises(UserError, match="or one selection, or one split"):
        mirror(path, tmp_path / "no", "--only", chosen, "images/*")
    described = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(re.sub('"version": [12]', '"version": 99', described))
    with pytest.raises(UserError, match="has format version 99"):
        mirror(path, tmp_path / "no", "--only", chosen)


def test_a_split_of_tokens(tmp_path):
    path = tmp_path / "tokens.zarr"
    names = {"train": 300, "validation": 40, "test": 40}
    made = {
        split: [(f"{split}{i}", "MKVLAAGIVGLLLAQWERTY" * 5) for i in range(count)]
        for split, count in names.items()
    }
    whole = write_token_bank(path, made, chunk_bytes=4096)
    target = tmp_path / "val.zarr"
    assert mirror(path, target, "--only", "validation") == 0
    parts = [len(list((one / "tokens").glob("c.*"))) for one in (target, path)]
    assert 0 < parts[0] < parts[1]
    first, last = whole.splits["validation"]
    copy = TokenBank(target)
    for row in (first, last - 1):
        assert np.array_equal(copy.sequence(row), whole.sequence(row))
    with pytest.raises(UserError, match="is a token bank: a selection of it"):
        (tmp_path / "S.parquet").write_bytes(b"")
        mirror(path, tmp_path / "no", "--only", tmp_path / "S.parquet")
    write_token_bank(tmp_path / "two.zarr", {name: made[name] for name in ("train", "validation")})
    with pytest.raises(UserError, match="has no sequences"):
        mirror(tmp_path / "two.zarr", tmp_path / "no", "--only", "test")


def test_a_bank_on_a_web_server(images, tmp_path, monkeypatch, web):
    """Its descriptions say what there is; a shard that is missing there is told."""
    server = web.use(monkeypatch)
    path, _ = images
    served = server.folder / tmp_path.name
    served.mkdir()
    path.rename(served / "bank.zarr")
    address = f"{server.bucket}/{tmp_path.name}/bank.zarr"
    assert mirror(address, tmp_path / "copy.zarr") == 0
    assert files_of(tmp_path / "copy.zarr") == files_of(served / "bank.zarr")
    (served / "bank.zarr/images/c.1.0.0.0").unlink()
    assert mirror(address, tmp_path / "again.zarr") == 1
    assert states(tmp_path / "again.zarr") == {"images/c.1.0.0.0": "vanished"}


def test_banks_of_the_same_metadata(images, tmp_path):
    """A selection of both has other rows of each."""
    path, each = images
    other, listed = tmp_path / "second.zarr", tmp_path / "rows.csv"
    shutil.copytree(path, other)
    listed.write_text("bank,row\n0,0\n1,19\n")
    words = ["--bank", path, other, "--selection", listed, "--out", tmp_path / "S.parquet"]
    assert run_as_door(subset, words) == 0
    for bank_, row in ((path, 0), (other, 19)):
        target = tmp_path / f"of_{bank_.name}"
        assert mirror(bank_, target, "--only", tmp_path / "S.parquet") == 0
        assert shards(target) == [row // each]


def test_what_was_not_copied_is_no_black_image(images, tmp_path):
    """Whoever reads an image of a shard that stayed behind is told, and gets no zeros."""
    path, _ = images
    words = ["--bank", path, "--where", "plate == 'B'", "--out", tmp_path / "S.parquet"]
    assert run_as_door(subset, words) == 0
    assert mirror(path, tmp_path / "part.zarr", "--only", tmp_path / "S.parquet") == 0
    copy = open_bank(tmp_path / "part.zarr")
    assert copy.read(19).any()
    with pytest.raises(UserError, match=r"Image 0 of the bank .*part\.zarr cannot be read"):
        copy.read(0)
    words = ["--bank", copy.path, "--where", "row < 2", "--out", tmp_path / "no.zarr"]
    for count in (1, 2):
        with pytest.raises(UserError, match="cannot be read"):
            run_as_door(subset, [*words, "--images_per_shard", count, "--jobs", "1"])

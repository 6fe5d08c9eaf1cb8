"""`prepare merge`, and `prepare subset` that makes a bank: images and sequences are those of the
sources, and what was killed goes on.
"""

import os
import shutil

import numpy as np
import pyarrow as pa
import pytest

from phenomjax.data.images import bank as image_bank
from phenomjax.data.images.bank import write_bank
from phenomjax.data.images.opening import open_bank
from phenomjax.data.sequences.bank import damaged_files, open_token_bank, write_token_bank
from phenomjax.prepare.joining import command as merge
from phenomjax.prepare.joining import images
from phenomjax.prepare.subsets import command as subset
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door


def make(path, count, first=0, *, intensity=None, channels=("DNA", "ER"), size=20, **options):
    """A bank of plates of 4 wells; returns its pixels."""
    random = np.random.default_rng(first)
    pixels = random.integers(0, 255, (count, size, size, len(channels))).astype(np.uint8)
    numbers = range(first, first + count)
    table = {
        "plate": [f"P{i // 4}" for i in numbers],
        "well": [f"A{i % 4 + 1:02d}" for i in numbers],
    }
    attributes = {"intensity": intensity} if intensity else None
    options = {"chunk": 8, "attributes": attributes} | options
    write_bank(path, pixels, pa.table(table), channels, **options)
    return pixels


def pixels_of(path):
    bank = open_bank(path)
    return np.stack([bank.read(i) for i in range(len(bank))])


@pytest.mark.parametrize("shards", [(1, 1, None), (1, 1, 3), (4, 4, None), (4, 1, 2), (1, 4, None)])
@pytest.mark.parametrize("codec", ["blosc-lz4", "none"])
def test_merged_images_are_those_of_the_banks(tmp_path, shards, codec):
    """Whatever the shards of the sources and of the result; another codec is decoded."""
    one = make(tmp_path / "a.zarr", 6, images_per_shard=shards[0])
    other = make(tmp_path / "b.zarr", 5, 8, images_per_shard=shards[1], codec=codec)
    words = ["--banks", tmp_path / "a.zarr", tmp_path / "b.zarr", "--out", tmp_path / "m.zarr"]
    words += ["--images_per_shard", shards[2]] if shards[2] else []
    assert run_as_door(merge, [*words, "--jobs", "1"]) == 0
    merged = open_bank(tmp_path / "m.zarr")
    assert np.array_equal(pixels_of(tmp_path / "m.zarr"), np.concatenate([one, other]))
    assert merged.images_per_shard == (shards[2] or shards[0])
    assert merged.metadata["plate"].to_pylist() == ["P0"] * 4 + ["P1"] * 2 + ["P2"] * 4 + ["P3"]
    assert [source["images"] for source in merged.attributes["sources"]] == [6, 5]
    linked = shards[2] is None
    assert (os.stat(merged.shard_path(0)).st_nlink > 1) == linked
    assert run_as_door(merge, [*words, "--jobs", "1"]) == 0  # nothing is done again
    written = tmp_path / "w.zarr"  # the bytes of a bank that is made at once
    write_bank(
        written,
        np.concatenate([one, other]),
        merged.metadata,
        merged.channels,
        chunk=8,
        images_per_shard=merged.images_per_shard,
    )
    for shard in range(-(-len(merged) // merged.images_per_shard)):
        paths = [image_bank.shard_path(path, shard) for path in (written, merged.path)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(UserError, match="made with other settings"):
        run_as_door(merge, [*words, "--duplicates", "keep"])


def test_what_was_killed_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "UNIT_IMAGES", 2)
    pixels = make(tmp_path / "a.zarr", 9, images_per_shard=2)
    done = []

    def dying(joined, shard, places, real=images._write_shard):
        if len(done) % 3 == 2:
            done.append("killed")
            raise KeyboardInterrupt
        real(joined, shard, places)
        done.append(shard)

    monkeypatch.setattr(images, "_write_shard", dying)
    words = ["--bank", tmp_path / "a.zarr", "--where", "row != 4", "--out", tmp_path / "s.zarr"]
    for _ in range(9):
        try:
            assert run_as_door(subset, [*words, "--jobs", "1"]) == 0
            break
        except KeyboardInterrupt:
            with pytest.raises(UserError, match="not finished"):
                open_bank(tmp_path / "s.zarr")
    assert "killed" in done and sorted(set(done) - {"killed"}) == [0, 1, 2, 3]
    assert len(done) - done.count("killed") == 4  # nothing twice
    assert np.array_equal(pixels_of(tmp_path / "s.zarr"), np.delete(pixels, 4, axis=0))
    assert not (tmp_path / "s.zarr" / ".prepare").exists()


def test_a_subset_as_a_bank(tmp_path):
    pixels = make(tmp_path / "a.zarr", 10, intensity={"rule": "keep", "numbers": {"P0": {}}})
    words = ["--bank", tmp_path / "a.zarr", "--out", tmp_path / "s.zarr", "--jobs", "1"]
    assert run_as_door(subset, [*words, "--where", 'plate == "P1"']) == 0
    bank = open_bank(tmp_path / "s.zarr")
    assert np.array_equal(pixels_of(bank.path), pixels[4:8])
    assert bank.metadata["plate"].unique().to_pylist() == ["P1"]
    assert bank.attributes["intensity"]["rule"] == "keep"
    with pytest.raises(UserError, match="other settings"):
        run_as_door(subset, [*words, "--where", 'plate == "P2"'])


def test_damage_is_found(tmp_path):
    make(tmp_path / "a.zarr", 4)
    for spoil in (lambda path: path.write_bytes(path.read_bytes()[9:]), lambda path: path.unlink()):
        shutil.rmtree(tmp_path / "d.zarr", ignore_errors=True)
        shutil.copytree(tmp_path / "a.zarr", tmp_path / "d.zarr")
        spoil(image_bank.shard_path(tmp_path / "d.zarr", 2))
        words = ["--bank", tmp_path / "d.zarr", "--fraction", "1", "--out", tmp_path / "s.zarr"]
        with pytest.raises(UserError, match=r"c\.2\.0\.0\.0 cannot be read") as error:
            run_as_door(subset, [*words, "--jobs", "1"])
        assert error.value.exit_code == 1
        assert not (tmp_path / "s.zarr").exists()  # or the same command would not run again


@pytest.mark.parametrize("step", ["write_metadata", "create_bank"])
def test_a_full_disk_is_told(tmp_path, monkeypatch, step):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "s.zarr"))

    pixels = make(tmp_path / "a.zarr", 4)
    words = ["--bank", tmp_path / "a.zarr", "--fraction", "1", "--out", tmp_path / "s.zarr"]
    with monkeypatch.context() as patched:
        patched.setattr(images.image_bank, step, full)
        with pytest.raises(UserError, match="could not be written: No space left") as error:
            run_as_door(subset, [*words, "--jobs", "1"])
    assert error.value.exit_code == 1
    assert run_as_door(subset, [*words, "--jobs", "1"]) == 0
    assert np.array_equal(pixels_of(tmp_path / "s.zarr"), pixels)


WRONG = {
    "channels": ({"channels": ("ER", "DNA")}, "has channels DNA, ER, and"),
    "size": ({"size": 24}, "20 x 20 pixels"),
    "duplicates": ({"first": 2}, "2 images of .*such as P0/A03"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_banks_that_do_not_fit(tmp_path, wrong):
    changes, text = WRONG[wrong]
    make(tmp_path / "a.zarr", 4)
    make(tmp_path / "b.zarr", 4, **{"first": 8} | changes)
    words = ["--banks", tmp_path / "a.zarr", tmp_path / "b.zarr", "--out", tmp_path / "m.zarr"]
    with pytest.raises(UserError, match=text):
        run_as_door(merge, words)
    assert not (tmp_path / "m.zarr").exists()
    if wrong == "duplicates":  # the mends that it offers
        for how, count in (("first", 6), ("keep", 8)):
            out = tmp_path / f"{how}.zarr"
            assert run_as_door(merge, [*words[:-1], out, "--duplicates", how, "--jobs", "1"]) == 0
            assert len(open_bank(out)) == count
    with pytest.raises(UserError, match="Name two or more"):
        run_as_door(merge, ["--banks", tmp_path / "a.zarr", "--out", tmp_path / "m.zarr"])


def test_numbers_of_intensity(tmp_path, caplog):
    a = {"rule": "percentile:0.1:99.9", "numbers": {"P0": {"DNA": [1, 9]}, "P1": {"DNA": [2, 9]}}}
    b = {"rule": "range:0:9", "numbers": {"P1": {"DNA": [3, 9]}, "P9": {"DNA": [4, 9]}}}
    make(tmp_path / "a.zarr", 4, intensity=a)
    make(tmp_path / "b.zarr", 4, 8, intensity=b)
    words = ["--banks", tmp_path / "a.zarr", tmp_path / "b.zarr", "--out", tmp_path / "m.zarr"]
    assert run_as_door(merge, [*words, "--jobs", "1"]) == 0
    found = open_bank(tmp_path / "m.zarr").attributes
    assert found["intensity"]["rule"] == "several"
    assert found["intensity"]["numbers"] == {"P0": {"DNA": [1, 9]}, "P9": {"DNA": [4, 9]}}
    assert [source["intensity"] for source in found["sources"]] == [a, b]
    assert "different rules" in caplog.text


PROTEINS = {"train": [("a", "MKTAYIAK"), ("b", "MKV"), ("c", "QISFVK")], "test": [("t", "LLLL")]}
OTHERS = {
    "train": [("d", "RQLE"), ("e", "LLLL"), ("f", "MKV")],
    "validation": [("v", "QISFVK")],
    "test": [("u", "WWWW"), ("w", "LLLL")],
}


def of_split(path):
    """{split: [(id, sequence), …]} of a token bank."""
    bank = open_token_bank(path)
    assert damaged_files(path) == []
    found = {}
    for split, (first, last) in bank.splits.items():
        rows = range(first, last)
        texts = [bank.vocabulary.decode(bank.sequence(row)[:-1]) for row in rows]
        found[split] = list(zip(bank.names(rows), texts, strict=True))
    return found


@pytest.mark.parametrize("chunk", [8, 24, 2**26])
def test_merged_sequences(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("phenomjax.data.sequences.bank.CHUNK_BYTES", chunk)
    write_token_bank(tmp_path / "a.zarr", PROTEINS, chunk_bytes=16)
    write_token_bank(tmp_path / "b.zarr", OTHERS)
    words = ["--banks", tmp_path / "a.zarr", tmp_path / "b.zarr", "--out", tmp_path / "m.zarr"]
    with pytest.raises(UserError, match="4 sequences are in two of the banks"):
        run_as_door(merge, words)
    assert run_as_door(merge, [*words, "--duplicates", "first", "--jobs", "1"]) == 0
    assert of_split(tmp_path / "m.zarr") == {
        "train": [("a", "MKTAYIAK"), ("b", "MKV"), ("d", "RQLE")],
        "validation": [("v", "QISFVK")],  # what is held out anywhere is not trained on
        "test": [("t", "LLLL"), ("u", "WWWW")],
    }
    assert run_as_door(merge, [*words, "--duplicates", "first", "--jobs", "1"]) == 0
    words[-1] = tmp_path / "k.zarr"
    assert run_as_door(merge, [*words, "--duplicates", "keep", "--jobs", "1"]) == 0
    everything = {s: PROTEINS.get(s, []) + OTHERS.get(s, []) for s in of_split(words[-1])}
    assert of_split(words[-1]) == everything
    words = ["--bank", words[-1], "--where", "length > 3 and split != 'test'"]
    assert run_as_door(subset, [*words, "--out", tmp_path / "s.zarr", "--jobs", "1"]) == 0
    long = {
        s: [one for one in everything[s] if len(one[1]) > 3 and s != "test"] for s in everything
    }
    assert of_split(tmp_path / "s.zarr") == long


def test_sequences_that_do_not_fit(tmp_path):
    write_token_bank(tmp_path / "a.zarr", PROTEINS)
    write_token_bank(tmp_path / "b.zarr", PROTEINS, boundary="bos_eos")
    words = ["--banks", tmp_path / "a.zarr", tmp_path / "b.zarr", "--out", tmp_path / "m.zarr"]
    with pytest.raises(UserError, match="protein, boundary eos, rare x, and"):
        run_as_door(merge, words)

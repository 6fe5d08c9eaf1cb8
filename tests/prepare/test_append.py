"""`prepare append`: images join a bank; what was there stays, whatever ends the process."""

import contextlib
import logging
import os
import shlex
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from phenomjax.data.images import archive
from phenomjax.data.images.loading.loader import ImageLoader
from phenomjax.data.images.loading.reader import CropReader
from phenomjax.data.images.opening import open_bank
from phenomjax.data.selections import Selection, choose
from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.prepare import append
from phenomjax.prepare.images.pixels import eight_bit
from phenomjax.prepare.inspect import images as inspect
from phenomjax.prepare.joining import command as merge
from phenomjax.prepare.subsets import command as subset
from phenomjax.system import locks
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door
from tests.prepare.test_merge import pixels_of
from tests.prepare.test_pixels import PATTERN, generic, write


def appended(bank, source, *words):
    options = ["--bank", bank, "--source", source, "--layout", "generic", "--pattern", PATTERN]
    return run_as_door(append, [*options, "--jobs", "1", *words])


@pytest.fixture
def bank(tmp_path):
    """A bank of plate A (2 wells), and raw images of plates A (2 more wells) and B (3)."""
    write(tmp_path / "first", "A")
    assert generic(tmp_path / "first", tmp_path / "b.zarr") == 0
    write(tmp_path / "second", "A", ("A03", "A04"), seed=3)
    write(tmp_path / "second", "B", ("A01", "A02", "A03"), seed=4)
    return tmp_path / "b.zarr"


def old_files(bank):
    """Identity and bytes of all that must not be touched."""
    found = {}
    for path in [*bank.glob("images/c.*"), bank / "metadata.parquet"]:
        found[path.name] = path.stat().st_ino, path.read_bytes()
    return found


def test_new_images_come_last_and_nothing_else_changes(bank, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    before, opened = old_files(bank), open_bank(bank)
    pixels, numbers = pixels_of(bank), opened.attributes["intensity"]["numbers"]
    reader, crop = CropReader(opened), np.empty((8, 8, 2), np.uint8)
    assert appended(bank, tmp_path / "second") == 0
    longer = open_bank(bank)
    assert len(longer) == 7 and longer.metadata["plate"].to_pylist() == list("AAAABBB")
    assert longer.metadata["well"].to_pylist()[2:] == ["A03", "A04", "A01", "A02", "A03"]
    assert before.items() <= old_files(bank).items()
    assert np.array_equal(pixels_of(bank)[:2], pixels)
    for image in (0, 1):  # a run that has it open reads on
        reader.read_into(crop, image, 3, 4)
        assert np.array_equal(crop, pixels[image, 3:11, 4:12])
    found = longer.attributes["intensity"]["numbers"]
    assert found["A"] == numbers["A"] and set(found) == {"A", "B"}  # plate A is counted once
    planes = [tifffile.imread(tmp_path / "second" / "B" / f"A02_w{c}.tif") for c in (1, 2)]
    expected = eight_bit.to_8_bit(np.stack(planes, -1), list(found["B"].values()))
    assert np.array_equal(longer.read(5), expected)
    assert not (bank / ".append").exists()
    assert "appended:          2 + 5 images in 2 tables" in inspect.describe(longer)
    assert run_as_door(inspect, [bank, "--out", tmp_path / "look", "--jobs", "1"]) == 0
    assert "5 images more" in caplog.text
    state = {path: path.read_bytes() for path in bank.rglob("*") if path.is_file()}
    assert appended(bank, tmp_path / "second") == 0  # once
    assert "Nothing to do" in caplog.text
    assert state == {path: path.read_bytes() for path in bank.rglob("*") if path.is_file()}
    write(tmp_path / "third", "C", ("A01",), seed=5)
    assert appended(bank, tmp_path / "third") == 0
    assert [table.rows for table in open_bank(bank).tables] == [2, 5, 1]
    assert before.items() <= old_files(bank).items()
    assert generic(tmp_path / "first", bank) == 0  # the command that made it finds it finished


class Killed(BaseException):
    """Ends a process where it stands."""


@pytest.mark.parametrize("images_per_shard", [1, 4])
def test_killed_anywhere(tmp_path, monkeypatch, images_per_shard, count):
    """Before any rename: afterwards the bank has the old images or all, and a repeated command
    leaves what an undisturbed one does.
    """
    write(tmp_path / "first", "A", ("A01", "A02", "A03"))
    options = {"images_per_shard": images_per_shard}
    assert generic(tmp_path / "first", tmp_path / "b.zarr", **options) == 0
    write(tmp_path / "second", "B", ("A01", "A02", "A03"), seed=4)
    (tmp_path / "second" / "B" / "A02_w1.tif").write_bytes(b"")
    real, calls, deadly = os.replace, [], [0]

    def replace(*paths):
        calls.append(paths)
        if len(calls) == deadly[0]:
            raise Killed
        real(*paths)

    def state(bank):
        found = (path for path in bank.rglob("*") if path.is_file() and path.name != "zarr.json")
        return {str(path.relative_to(bank)): path.read_bytes() for path in found}

    monkeypatch.setattr(os, "replace", replace)
    trial, pixels = tmp_path / "t.zarr", pixels_of(tmp_path / "b.zarr")
    shutil.copytree(tmp_path / "b.zarr", trial)
    assert appended(trial, tmp_path / "second") == 1  # one image is rejected
    whole, renames = state(trial), len(calls)
    attributes = open_bank(trial).attributes["intensity"]
    assert pq.read_table(trial / "rejected.parquet")["well"].to_pylist() == ["A02"]
    assert renames > 8
    for deadly[0] in range(1, renames + 1, count(7, 1)):
        shutil.rmtree(trial)
        shutil.copytree(tmp_path / "b.zarr", trial)
        calls.clear()
        with pytest.raises(Killed):
            appended(trial, tmp_path / "second")
        half = open_bank(trial)
        assert len(half) in (3, 5) and np.array_equal(pixels_of(trial)[:3], pixels)
        deadly[0] = 0
        with contextlib.suppress(UserError):  # what is rejected still is
            assert appended(trial, tmp_path / "second") == 1
        assert state(trial) == whole
        assert open_bank(trial).attributes["intensity"] == attributes
        assert len(open_bank(trial).attributes["appended"]) == 1


def test_rejected_images_are_listed_until_they_are_mended(bank, tmp_path):
    spoilt = tmp_path / "second" / "B" / "A02_w1.tif"
    whole = spoilt.read_bytes()
    spoilt.write_bytes(whole[:50])
    assert appended(bank, tmp_path / "second") == 1
    assert len(open_bank(bank)) == 6
    assert pq.read_table(bank / "rejected.parquet")["file"].to_pylist() == ["B/A02_w1.tif"]
    with pytest.raises(UserError, match="The first one: B/A02_w1"):
        appended(bank, tmp_path / "second")
    assert len(pq.read_table(bank / "rejected.parquet")) == 1 and not (bank / ".append").exists()
    spoilt.write_bytes(whole)
    assert appended(bank, tmp_path / "second") == 0
    assert len(open_bank(bank)) == 7 and not (bank / "rejected.parquet").exists()


def test_an_index_of_banks_reads_on(bank, tmp_path):
    """A run may open a bank of its index long after it began."""
    archive.write_index([open_bank(bank)], tmp_path / "i.parquet")
    (early,) = archive.read_index(tmp_path / "i.parquet")
    assert appended(bank, tmp_path / "second") == 0
    assert len(early) == len(early.metadata) == 2
    assert np.array_equal(early.read(1), open_bank(bank).read(1))


def loader(bank, selection=""):
    return ImageLoader(
        [bank],
        channels=bank.channels,
        crop_size=8,
        global_batch_size=2,
        split_by="well",
        chosen=choose(selection, [bank]),
    )


def test_a_run_that_began_before_goes_on_with_what_was_there(bank, tmp_path, caplog):
    """The command that append offers; and an earlier selection still holds."""
    caplog.set_level(logging.INFO)
    words = ["--bank", bank, "--where", 'well == "A02"', "--out", tmp_path / "old.parquet"]
    run_as_door(subset, words)
    before, part = loader(open_bank(bank)), loader(open_bank(bank), tmp_path / "old.parquet")
    batches = [before.batch(step)["pixels"] for step in range(4)]
    assert appended(bank, tmp_path / "second") == 0
    longer = open_bank(bank)
    assert loader(longer).fingerprints != before.fingerprints
    again = loader(longer, tmp_path / "old.parquet")
    assert again.num_images == 1 and again.fingerprints == part.fingerprints
    offer = shlex.split(caplog.text.split("phenomjax.prepare subset ")[-1].split("`")[0])
    offer[-1] = tmp_path / "then.parquet"
    assert run_as_door(subset, offer) == 0
    then = loader(longer, tmp_path / "then.parquet")
    assert then.fingerprints == before.fingerprints
    for step, batch in enumerate(batches):
        assert np.array_equal(then.batch(step)["pixels"], batch)
    write(tmp_path / "third", "C", ("A01",), seed=5)
    assert appended(bank, tmp_path / "third") == 0
    assert loader(open_bank(bank), tmp_path / "then.parquet").fingerprints == before.fingerprints
    run_as_door(subset, [*words[:-1], tmp_path / "new.parquet"])
    assert Selection(tmp_path / "new.parquet").rows()[0].tolist() == [1, 5]


def test_what_does_not_fit(bank, tmp_path):
    before = {path: path.read_bytes() for path in bank.rglob("*") if path.is_file()}
    wrong = {
        "channels": ({}, ["--channels", "2=x,1=y"], "The channels are x, y in"),
        "size": ({"size": (30, 24)}, [], "30 x 24 pixels in .* and 24 x 24"),
        "rule": ({}, ["--intensity", "range:0:9"], "made with --intensity percentile"),
    }
    for name, (changes, words, text) in wrong.items():
        write(tmp_path / name, "B", **changes)
        with pytest.raises(UserError, match=text):
            appended(bank, tmp_path / name, *words)
        assert before == {path: path.read_bytes() for path in bank.rglob("*") if path.is_file()}
    write(tmp_path / "c", "C", dtype="uint8", top=200)
    assert generic(tmp_path / "c", tmp_path / "c.zarr", intensity="keep") == 0
    with pytest.raises(UserError, match="become uint16 with --intensity keep"):
        appended(tmp_path / "c.zarr", tmp_path / "second")


def test_banks_that_were_made_of_others(bank, tmp_path):
    """A merged bank is made longer too; where its parts had several rules, one must be said."""
    write(tmp_path / "c", "C", seed=9)
    for name, rule in (("c", None), ("d", "range:0:4000")):
        assert generic(tmp_path / "c", tmp_path / f"{name}.zarr", intensity=rule) == 0
        words = ["--banks", bank, tmp_path / f"{name}.zarr", "--out", tmp_path / f"m{name}.zarr"]
        assert run_as_door(merge, [*words, "--jobs", "1"]) == 0
    assert appended(tmp_path / "mc.zarr", tmp_path / "second") == 0
    longer = open_bank(tmp_path / "mc.zarr")
    assert longer.metadata["plate"].to_pylist() == list("AACCAABBB")
    with pytest.raises(UserError, match="records no rule"):
        appended(tmp_path / "md.zarr", tmp_path / "second")
    assert appended(tmp_path / "md.zarr", tmp_path / "second", "--intensity", "range:0:4000") == 0


def test_the_dry_run_makes_nothing(bank, tmp_path):
    before = {path: path.read_bytes() for path in bank.rglob("*") if path.is_file()}
    assert appended(bank, tmp_path / "second", "--dry_run") == 0
    assert before == {path: path.read_bytes() for path in bank.rglob("*") if path.is_file()}
    assert (tmp_path / "b_append_dry_run").is_dir()


def test_banks_that_are_not_made_longer(bank, tmp_path):
    write_token_bank(tmp_path / "t.zarr", {"train": [("a", "MKV")]})
    write_token_bank(tmp_path / "u.zarr", {"train": [("b", "MKV"), ("c", "WW")]})
    with pytest.raises(UserError, match="holds sequences") as error:
        appended(tmp_path / "t.zarr", tmp_path / "second")
    words = shlex.split(str(error.value).split("prepare merge ")[1].split("`")[0])
    words[words.index("NEW.zarr")] = tmp_path / "u.zarr"
    words[words.index("NAME.zarr")] = tmp_path / "m.zarr"
    assert run_as_door(merge, [*words, "--jobs", "1"]) == 0  # what it offers
    with pytest.raises(UserError, match="lies in a store"):
        appended("s3://bucket/b.zarr", tmp_path / "second")
    with (
        locks.hold(bank / ".append", "busy"),
        pytest.raises(UserError, match="Another process appends"),
    ):
        appended(bank, tmp_path / "second")


@pytest.mark.parametrize(("number", "text"), [(13, "Permission denied"), (28, "No space left")])
def test_what_the_disk_refuses_is_told(bank, tmp_path, monkeypatch, number, text):
    before = old_files(bank)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), str(bank))

    monkeypatch.setattr("phenomjax.prepare.append.image_bank.append_metadata", refuse)
    with pytest.raises(UserError, match=f"could not be written: {text}") as error:
        appended(bank, tmp_path / "second")
    assert error.value.exit_code == 1 and len(open_bank(bank)) == 2
    monkeypatch.undo()
    assert appended(bank, tmp_path / "second") == 0 and len(open_bank(bank)) == 7
    assert before.items() <= old_files(bank).items()


def test_other_settings_wait_for_what_was_begun(bank, tmp_path, monkeypatch):
    real = append.image_bank.append_metadata

    def killed(*_, **__):
        raise Killed

    monkeypatch.setattr(append.image_bank, "append_metadata", killed)
    with pytest.raises(Killed):
        appended(bank, tmp_path / "second")
    monkeypatch.setattr(append.image_bank, "append_metadata", real)
    with pytest.raises(UserError, match="has not joined") as error:
        appended(bank, tmp_path / "second", "--experiment", "E")
    shutil.rmtree(str(error.value).split("or delete ")[1].split(" to begin")[0])
    assert appended(bank, tmp_path / "second", "--experiment", "E") == 0
    assert open_bank(bank).metadata["experiment"].to_pylist() == [None, None] + ["E"] * 5

"""Results for a store: made here, mirrored, verified; the same command finds them again."""

import numpy as np
import pytest
import tifffile

from phenomjax.data import node_cache, store
from phenomjax.data.images.opening import open_bank
from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.prepare.images import command as images
from phenomjax.prepare.sequences import command as sequences
from phenomjax.prepare.subsets import command as subsets
from phenomjax.system.errors import UserError
from tests.inference.test_embed_images import run_embed, write_images, write_run
from tests.lab.doors import run_as_door
from tests.lab.servers import Fault
from tests.prepare.test_images import write_rxrx1


@pytest.fixture
def there(tmp_path, s3, monkeypatch):
    """A folder in a store that has faults, and a present folder."""
    s3.use(monkeypatch, **{node_cache.FOLDER: str(tmp_path / "cache")})
    s3.proxy.faults = [Fault("503", every=9), Fault("truncate", every=11, match="GET")]
    monkeypatch.chdir(tmp_path)
    return f"s3://bank/{tmp_path.name}"


def test_banks_are_made_in_a_store(tmp_path, there, caplog):
    """prepare images, sequences and subset: the bytes are those of the same command on a disk."""
    caplog.set_level("INFO")
    write_rxrx1(tmp_path / "raw", wells=("B02",), channels=2, plates=("1", "2"))
    words = ["--source", tmp_path / "raw", "--layout", "rxrx1", "--jobs", 1, "--out"]
    assert run_as_door(images, [*words, tmp_path / "here.zarr"]) == 0
    for _ in range(2):  # the second finds all there
        assert run_as_door(images, [*words, f"{there}/b.zarr"]) == 0
    assert open_bank(f"{there}/b.zarr").fingerprint == open_bank(tmp_path / "here.zarr").fingerprint
    assert store.is_file(f"{there}/b.zarr.manifest.parquet")
    assert f"{there}/b.zarr is whole" in caplog.text and "can be deleted" in caplog.text
    fasta = tmp_path / "x.fasta"
    fasta.write_text("".join(f">s{i}\n{'ACDEFGHIKL' * (i + 2)}\n" for i in range(9)))
    words = ["--source", fasta, "--jobs", 1, "--out"]
    assert run_as_door(sequences, [*words, tmp_path / "t.zarr"]) == 0
    assert run_as_door(sequences, [*words, f"{there}/t.zarr"]) == 0
    ours, theirs = open_token_bank(tmp_path / "t.zarr"), open_token_bank(f"{there}/t.zarr")
    assert ours.fingerprint == theirs.fingerprint
    words = ["--bank", f"{there}/b.zarr", "--fraction", 0.5, "--out"]
    assert run_as_door(subsets, [*words, f"{there}/s.zarr"]) == 0
    words = ["--bank", f"{there}/t.zarr", "--fraction", 0.5, "--out"]
    assert run_as_door(subsets, [*words, tmp_path / "part.zarr"]) == 0
    assert 0 < len(open_token_bank(tmp_path / "part.zarr")) < len(theirs)
    assert 0 < len(open_bank(f"{there}/s.zarr")) < len(open_bank(f"{there}/b.zarr"))


def test_embeddings_are_written_into_a_store(tmp_path, there):
    bank, (workdir, *_) = write_images(tmp_path / "b.zarr", 4), write_run(tmp_path / "run")
    run_embed(workdir, bank, tmp_path / "here.zarr")
    assert run_embed(workdir, bank, f"{there}/there.zarr") == 0
    for name, *_ in store.list_files(tmp_path / "here.zarr"):
        if name.startswith(("embeddings", "metadata")):
            wanted = (tmp_path / "here.zarr" / name).read_bytes()
            assert store.read_bytes(f"{there}/there.zarr/{name}") == wanted


def test_what_is_there_is_told_before_the_work(tmp_path, there, monkeypatch):
    """Something else at the place, a place that cannot be written, no bucket, no credentials."""
    store.write_bytes(f"{there}/b.zarr/zarr.json", b"{}")
    words = ["--source", tmp_path, "--layout", "rxrx1", "--out"]
    with pytest.raises(UserError, match=r"s3://bank/.*/b\.zarr is there already"):
        run_as_door(images, [*words, f"{there}/b.zarr"])
    with pytest.raises(UserError, match="cannot be written"):
        run_as_door(images, [*words, "https://host/b.zarr"])
    with pytest.raises(UserError, match="no bucket 'nobody'"):
        run_as_door(images, [*words, "s3://nobody/b.zarr"])


def test_images_are_prepared_from_a_store(tmp_path, there):
    """PNG by names and TIFF stacks, through a network with faults; a source that is gone."""
    write_rxrx1(tmp_path / "raw" / "a", wells=("B02", "B03"), channels=2)
    (tmp_path / "raw" / "a" / ".hidden").write_text("x")
    (tmp_path / "raw" / "b").mkdir()
    stack = np.random.default_rng(0).integers(0, 4000, (2, 40, 50), np.uint16)
    for well in ("B02", "C04"):
        axes = {"axes": "CYX"}
        tifffile.imwrite(
            tmp_path / "raw" / "b" / f"{well}_s1.tif", stack, imagej=True, metadata=axes
        )
    for name, *_ in store.list_files(tmp_path / "raw"):
        store.write_bytes(f"{there}/raw/{name}", (tmp_path / "raw" / name).read_bytes())
    stacks = ["--pattern", r"(?P<well>[A-Z]\d\d)_s(?P<site>\d)\.tif", "--default", "plate=P"]
    for folder, words in (("a", ["--layout", "rxrx1"]), ("b", ["--layout", "generic", *stacks])):
        made = []
        for place in (tmp_path / "raw", there + "/raw"):
            out = tmp_path / f"{folder}{len(made)}.zarr"
            words_ = [*words, "--source", f"{place}/{folder}", "--jobs", 1, "--out", out]
            assert run_as_door(images, words_) == 0
            assert run_as_door(images, words_) == 0  # nothing has changed
            made.append(open_bank(out))
        ours, theirs = made
        assert len(ours) == 2 and theirs.metadata == ours.metadata
        assert all((theirs.read(i) == ours.read(i)).all() for i in range(2))
    with pytest.raises(
        UserError, match=r"The source folder s3://bank/.*/rau is not there\. Did you"
    ):
        run_as_door(
            images, ["--source", f"{there}/rau", "--layout", "rxrx1", "--out", tmp_path / "x.zarr"]
        )

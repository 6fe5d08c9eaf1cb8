"""An index of many banks: what a run reads through it is what it reads of the banks themselves."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenomjax.config import keys
from phenomjax.data.images import archive, bank
from phenomjax.data.images.loading.loader import ImageLoader
from phenomjax.data.images.opening import open_bank, open_banks
from phenomjax.prepare import index
from phenomjax.prepare.inspect import images as inspect
from phenomjax.system.errors import UserError
from phenomjax.tasks.image_objective import ImageObjective, banks_and_weights
from tests.lab.doors import run_as_door


def make_bank(folder, name, plates, images_per_shard=1):
    rng = np.random.default_rng([*name.encode()])
    pixels = rng.integers(0, 255, (len(plates), 24, 24, 2), np.uint8)
    rows = pa.table({"plate": plates, "well": [f"A{i:02d}" for i in range(len(plates))]})
    options = {"chunk": 16, "images_per_shard": images_per_shard}
    bank.write_bank(folder / name, pixels, rows, ["a", "b"], **options)
    return folder / name


@pytest.fixture
def paths(tmp_path):
    return [
        make_bank(tmp_path, "one.zarr", ["p1", "p1", "p2", "p3"]),
        make_bank(tmp_path, "two.zarr", [None, "q1", "q2", "q2", "q1"], images_per_shard=2),
        make_bank(tmp_path, "three.zarr", ["r"] * 3),
    ]


def loader(banks, **options):
    settings = {"global_batch_size": 8, "crop_size": 10, "val_fraction": 0.3} | options
    return ImageLoader(banks, channels=("a", "b"), **settings)


def test_a_run_reads_the_same(paths, tmp_path, monkeypatch):
    out = tmp_path / "x" / "all.parquet"
    out.parent.mkdir()
    assert run_as_door(index, [*paths, "--out", out]) == 0
    banks = [open_bank(path) for path in paths]
    with monkeypatch.context() as patch:  # nothing but the index is read to open it and to split
        patch.setattr(bank.ImageBank, "__init__", lambda *_: pytest.fail("a bank was opened"))
        indexed = loader(archive.read_index(out))
    direct = loader(banks)
    assert indexed.fingerprints == direct.fingerprints and indexed.describe() == direct.describe()
    for step in range(4):
        for name, values in direct.batch(step).items():
            np.testing.assert_array_equal(indexed.batch(step)[name], values)
    by_well = {"split_by": "well", "split": "val"}
    assert loader(archive.read_index(out), **by_well).num_images == (
        loader(banks, **by_well).num_images
    )
    (tmp_path / "x").rename(tmp_path / "y")  # banks stay where they are: paths are whole
    for path, one in zip(paths, archive.read_index(tmp_path / "y" / "all.parquet"), strict=True):
        assert one.path.resolve() == path and one.attributes == open_bank(path).attributes
        assert one.metadata.equals(open_bank(path).metadata)
        np.testing.assert_array_equal(one.read(1), open_bank(path).read(1))


def test_weights_and_names(paths, tmp_path):
    archive.write_index([open_bank(path) for path in paths[:2]], tmp_path / "x.parquet")
    named = (str(tmp_path / "x.parquet"), str(paths[2]))
    config = keys.base("mae")
    config.data.update(banks=named, weights=(9.0, 2.0))
    banks, weights = banks_and_weights(config)
    assert [one.path.name for one in banks] == ["one.zarr", "two.zarr", "three.zarr"]
    assert weights == [(0, (4.0, 5.0, 2.0))]
    assert f" --bank {tmp_path}/one.zarr --out" in ImageObjective(config).next_command
    archive.write_index(banks, tmp_path / "again.parquet")  # an index of an index
    assert len(open_banks([tmp_path / "again.parquet"])[0]) == 3
    stored = pq.read_table(tmp_path / "again.parquet")["path"].to_pylist()
    assert stored == ["one.zarr", "two.zarr", "three.zarr"]  # moves together with the banks


def test_a_bank_that_changed_is_noticed(paths, tmp_path):
    archive.write_index([open_bank(path) for path in paths], tmp_path / "x.parquet")
    bank.write_metadata(paths[0], open_bank(paths[0]).metadata.slice(0, 3))
    banks = archive.read_index(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"one.zarr is not the one .* had 4 images and has 3,"):
        loader(banks).batch(0)
    (paths[1] / "zarr.json").unlink()
    with pytest.raises(UserError, match=r"two.zarr cannot be opened: a file .* is missing"):
        archive.read_index(tmp_path / "x.parquet")[1].read(0)


def test_errors(paths, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet is a table, but no index of banks"):
        archive.read_index(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"b.parquet is no Parquet file"):
        archive.read_index(tmp_path / "b.parquet")
    described = {"phenomjax": json.dumps({"format": archive.FORMAT, "version": 7})}
    newer = pa.table({"a": [1]}).replace_schema_metadata(described)
    pq.write_table(newer, tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"c.parquet has format version 7, .* reads version 1"):
        archive.read_index(tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"index of many banks is for training: data.banks"):
        open_bank(tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"an index is a Parquet file, NAME.parquet"):
        index.run(index.Options((paths[0],), tmp_path / "x.zarr"))


def test_an_index_is_inspected(paths, tmp_path, capsys):
    assert run_as_door(index, [*paths, "--out", tmp_path / "i.parquet"]) == 0
    assert run_as_door(inspect, [tmp_path / "i.parquet"]) == 0
    shown = capsys.readouterr().out
    assert "index of 3 banks, 12 images" in shown and str(paths[1]) in shown

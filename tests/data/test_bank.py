"""The image bank: written, opened, compared; foreign arrays; the text of each error."""

import hashlib
import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorstore as ts

from phenomjax.data.images import bank, metadata, opening, shards
from phenomjax.data.images.loading.reader import CropReader
from phenomjax.system.errors import UserError

CHANNELS = ("DNA", "ER", "actin")


def images(count=3, height=150, width=200, dtype="uint8", channels=3):
    high = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(
        0, high, (count, height, width, channels), dtype, endpoint=True
    )


def write(path, pixels, **options):
    rows = pa.table(
        {"plate": ["P1"] * len(pixels), "well": [f"A{i + 1:02d}" for i in range(len(pixels))]}
    )
    bank.write_bank(path, pixels, rows, CHANNELS, **options)
    return path


@pytest.mark.parametrize("codec", bank.CODECS)
@pytest.mark.parametrize("dtype", bank.DTYPES)
def test_round_trip(tmp_path, codec, dtype):
    pixels = images(dtype=dtype)
    opened = opening.open_bank(write(tmp_path / "b.zarr", pixels, codec=codec, chunk=64))
    assert (
        opened.shape == (3, 150, 200, 3) and opened.dtype == dtype and opened.channels == CHANNELS
    )
    assert (
        opened.chunk_shape == (64, 64, 3)
        and opened.attributes["bit_depth"] == 8 * np.dtype(dtype).itemsize
    )
    assert opened.metadata.schema == metadata.METADATA_SCHEMA
    assert opened.metadata["well"].to_pylist() == ["A01", "A02", "A03"]
    assert opened.metadata["is_control"].to_pylist() == [None] * 3
    for i in range(3):
        np.testing.assert_array_equal(opened.read(i), pixels[i])
        assert opened.shard_path(i).is_file()


def test_zarr_python_reads_the_same(tmp_path):
    zarr = pytest.importorskip("zarr")
    pixels = images()
    group = zarr.open_group(write(tmp_path / "b.zarr", pixels), mode="r")
    np.testing.assert_array_equal(group["images"][:], pixels)


def test_same_bytes_twice_and_pickle_is_small(tmp_path):
    pixels = images()
    first, second = (opening.open_bank(write(tmp_path / name, pixels)) for name in "ab")
    assert first.fingerprint == second.fingerprint
    assert first.shard_path(1).read_bytes() == second.shard_path(1).read_bytes()
    first.read(0)
    copied = pickle.dumps(first)
    assert len(copied) < 300
    np.testing.assert_array_equal(pickle.loads(copied).read(2), pixels[2])


def test_zeros_are_stored(tmp_path):
    """An image of zeros has its file: a file that is missing is always damage."""
    opened = opening.open_bank(write(tmp_path / "b.zarr", np.zeros((1, 130, 130, 3), np.uint8)))
    assert opened.shard_path(0).is_file() and not opened.read(0).any()


@pytest.mark.parametrize("driver", ["zarr", "zarr3"])
@pytest.mark.parametrize("axes", ["NHWC", "NCHW", "CNHW", "NHW"])
def test_foreign_arrays(tmp_path, driver, axes):
    pixels = images(channels=1 if axes == "NHW" else 3)
    stored = pixels[..., 0] if axes == "NHW" else pixels.transpose(["NHWC".index(a) for a in axes])
    spec = {"driver": driver, "kvstore": f"file://{tmp_path}/x.zarr/", "create": True}
    ts.open(spec, dtype=stored.dtype, shape=stored.shape).result().write(stored).result()
    opened = opening.open_bank(tmp_path / "x.zarr", axes=axes)
    assert opened.shape == pixels.shape and opened.dtype == np.uint8 and opened.channels[0] == "c0"
    assert opened.metadata.num_rows == 3 and opened.metadata["plate"].null_count == 3
    np.testing.assert_array_equal(opened.read(1), pixels[1])
    with pytest.raises(UserError, match=r"Name the axes to read it as it is"):
        opening.open_bank(tmp_path / "x.zarr")
    with pytest.raises(UserError, match=r"does not fit .* name every axis once"):
        opening.open_bank(tmp_path / "x.zarr", axes="HW")


def test_errors_of_open(tmp_path):
    path = write(tmp_path / "plates.zarr", images())
    (tmp_path / "A01.tif").write_bytes(b"II")
    with pytest.raises(UserError, match=r"A01.tif is a file, and an image bank is a folder"):
        opening.open_bank(tmp_path / "A01.tif")
    (tmp_path / "A01.tif").unlink()
    with pytest.raises(UserError, match=r"no bank at .*plate.zarr. Did you mean .*plates.zarr"):
        opening.open_bank(tmp_path / "plate.zarr")
    (tmp_path / "t.zarr" / "offsets").mkdir(parents=True)
    (tmp_path / "t.zarr" / "offsets" / "zarr.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a bank of sequences, .* phenomjax.embed sequences"):
        opening.open_bank(tmp_path / "t.zarr")
    shutil.rmtree(tmp_path / "t.zarr")
    with pytest.raises(
        UserError, match=r"is a folder, not an image bank; found there: plates.zarr"
    ):
        opening.open_bank(tmp_path)
    (path / ".prepare").mkdir()
    with pytest.raises(UserError, match=r"is not finished.*continues where it stopped"):
        opening.open_bank(path)
    (path / ".prepare").rmdir()
    pq.write_table(opening.open_bank(path).metadata.slice(1), path / "metadata.parquet")
    with pytest.raises(UserError, match=r"has 3 images but its metadata.parquet has 2 rows"):
        opening.open_bank(path)
    (path / "metadata.parquet").unlink()
    with pytest.raises(UserError, match=r"has no metadata.parquet: it was not copied whole"):
        opening.open_bank(path)
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"]["phenomjax"]["version"] = 9
    (path / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(UserError, match=r"format version 9, this phenomjax reads versions 1 to 2"):
        opening.open_bank(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(UserError, match=r"zarr.json is not valid JSON"):
        opening.open_bank(path)


def test_errors_of_create(tmp_path):
    with pytest.raises(UserError, match=r"Did you mean 'blosc-lz4'"):
        bank.create_bank(tmp_path / "b", (1, 8, 8, 1), "uint8", ["DNA"], codec="blosc-lz")
    with pytest.raises(UserError, match=r"uint8 or uint16 pixels, not float32"):
        bank.create_bank(tmp_path / "b", (1, 8, 8, 1), "float32", ["DNA"])
    with pytest.raises(UserError, match=r"the images have 2 channels, but the names given are"):
        bank.create_bank(tmp_path / "b", (1, 8, 8, 2), "uint8", ["DNA"])
    with pytest.raises(UserError, match=r"'wel' is unknown. Did you mean 'well'"):
        metadata.conform_metadata(pa.table({"wel": ["A01"]}))
    with pytest.raises(ValueError, match=r"takes uint8"):
        bank.write_image(write(tmp_path / "b.zarr", images()), 0, np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize("codec", ["blosc-lz4", "none"])
def test_shards_of_several_images(tmp_path, codec):
    """Written at once, packed from shards of one image, and packed from other packed ones: the same
    bytes.
    """
    pixels, options = images(count=7), {"codec": codec, "chunk": 64}
    one = opening.open_bank(write(tmp_path / "one.zarr", pixels, **options))
    three = opening.open_bank(write(tmp_path / "b.zarr", pixels, images_per_shard=3, **options))
    two = opening.open_bank(write(tmp_path / "two.zarr", pixels, images_per_shard=2, **options))
    assert one.attributes["version"] == 1 and three.attributes["version"] == 2
    assert sorted(p.name for p in three.array_path.glob("c.*")) == [
        f"c.{i}.0.0.0" for i in (0, 1, 2)
    ]
    assert [three.shard_of(i) for i in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    for source in (one, two):
        for shard in range(3):
            stored = [source.where(i) for i in range(3 * shard, min(3 * shard + 3, 7))]
            shards.pack(tmp_path / "packed", stored, 3, source.chunks_per_image)
            packed = (tmp_path / "packed").read_bytes()
            assert packed == bank.shard_path(three.path, shard).read_bytes()
    reader, out = CropReader(three), np.zeros((90, 100, 3), np.uint8)
    assert reader.direct
    for i in range(7):
        np.testing.assert_array_equal(three.read(i), pixels[i])
        reader.read_into(out, i, 50, 70)
        np.testing.assert_array_equal(out, pixels[i, 50:140, 70:170])
    with pytest.raises(UserError, match=r"Image 0 of the shard .*No such file"):
        shards.pack(tmp_path / "packed", [shards.Stored(tmp_path / "none")], 3, 1)
    with pytest.raises(UserError, match=r"A shard has at least 1 image, not 0"):
        bank.create_bank(tmp_path / "c.zarr", (1, 8, 8, 1), "uint8", ["a"], images_per_shard=0)


def test_append(tmp_path, monkeypatch):
    """A bank grows; killed in the middle, it is what it was; a reader sees the new last shard."""
    pixels = images(count=5)
    path = write(tmp_path / "b.zarr", pixels[:2], images_per_shard=3, chunk=64)
    new = opening.open_bank(write(tmp_path / "new.zarr", pixels[2:], chunk=64))
    old = opening.open_bank(path)
    reader, out = CropReader(old), np.zeros((64, 64, 3), np.uint8)
    reader.read_into(out, 1, 0, 0)
    stored = [*map(old.where, (0, 1)), *map(new.where, (0, 1, 2))]
    for shard in (1, 0):
        content = stored[3 * shard : 3 * shard + 3]
        shards.pack(bank.shard_path(path, shard), content, 3, old.chunks_per_image)
    with monkeypatch.context() as patch:
        patch.setattr(bank, "_record", lambda *_: None)
        bank.append_metadata(path, new.metadata)
    assert json.loads((path / "images/zarr.json").read_text())["shape"][0] == 5
    again = opening.open_bank(path)
    assert len(again) == 2 and again.fingerprint == old.fingerprint
    bank.append_metadata(path, new.metadata)
    grown = opening.open_bank(path)
    assert len(grown) == 5 and grown.attributes["version"] == 2 and len(grown.tables) == 2
    assert grown.fingerprint != old.fingerprint
    assert grown.metadata["well"].to_pylist() == ["A01", "A02", "A01", "A02", "A03"]
    for i in range(5):
        np.testing.assert_array_equal(grown.read(i), pixels[i])
        CropReader(grown).read_into(out, i, 64, 64)
        np.testing.assert_array_equal(out, pixels[i, 64:128, 64:128])
    reader.read_into(out, 1, 64, 0)
    np.testing.assert_array_equal(out, pixels[1, 64:128, :64])


def test_banks_of_before_tables_were_recorded(tmp_path):
    """Their fingerprint is what it was; an edited table counts as it is."""
    path = write(tmp_path / "b.zarr", images())
    pq.write_table(opening.open_bank(path).metadata, path / "metadata.parquet", compression="none")
    edited = opening.open_bank(path).fingerprint
    digests = [
        hashlib.sha256((path / name).read_bytes()).digest()
        for name in ("zarr.json", "images/zarr.json", "metadata.parquet")
    ]
    assert edited == hashlib.sha256(b"".join(digests)).hexdigest()
    group = json.loads((path / "zarr.json").read_text())
    del group["attributes"]["phenomjax"]["tables"]
    (path / "zarr.json").write_text(json.dumps(group))
    digests[0] = hashlib.sha256((path / "zarr.json").read_bytes()).digest()
    old = opening.open_bank(path)
    assert len(old) == 3 and old.fingerprint == hashlib.sha256(b"".join(digests)).hexdigest()
    new = write(tmp_path / "new.zarr", images(count=1))
    bank.shard_path(new, 0).rename(bank.shard_path(path, 3))
    bank.append_metadata(path, opening.open_bank(new).metadata)
    assert opening.open_bank(path).metadata["well"].to_pylist() == ["A01", "A02", "A03", "A01"]


def test_metadata_in_parts(tmp_path, monkeypatch):
    """Columns, rows and runs over row groups and tables are those of the whole."""
    monkeypatch.setattr(metadata, "ROW_GROUP", 4)
    path = write(tmp_path / "b.zarr", images(count=11, height=8, width=8))
    rows = pa.table(
        {
            "plate": ["P1"] * 6 + ["P2"] * 3 + [None] * 2,
            "well": ["A01", "A01", "A02", None, *"BBBBCCA"],
            "concentration": [None, *range(10)],
            "source": list("abcdefghijk"),
        }
    )
    rows = metadata.conform_metadata(rows)
    bank.write_metadata(path, [rows.slice(0, 3), rows.slice(3, 7), rows.slice(10)])
    whole = (path / "metadata.parquet").read_bytes()
    bank.write_metadata(path, rows)
    assert (path / "metadata.parquet").read_bytes() == whole
    bank.append_metadata(path, rows.slice(5, 2))
    opened, rows = opening.open_bank(path), pa.concat_tables([rows, rows.slice(5, 2)])
    assert opened.metadata.equals(rows) and len(opened) == 13
    for name in ("plate", "well", "concentration", "is_control", "source"):
        assert opened.column(name).to_pylist() == rows[name].to_pylist()
    assert opened.column("plate").type == pa.dictionary(pa.int8(), pa.string())
    wanted = [12, 0, 7, 7, 3]
    assert opened.rows(wanted, ["well", "source"]).equals(
        rows.select(["well", "source"]).take(pa.array(wanted)).combine_chunks()
    )
    assert opened.rows([], ["well"]).num_rows == 0
    with pytest.raises(IndexError):
        opened.rows([13], ["well"])
    runs = opened.runs(["plate", "well"])
    values, starts = list(runs.values()), runs.starts
    found = [values[group] for group in np.repeat(runs.groups, np.diff([*starts.tolist(), 13]))]
    assert found == list(zip(rows["plate"].to_pylist(), rows["well"].to_pylist(), strict=True))
    assert len(starts) == 10 and opened.runs(["plate"]).starts.tolist() == [0, 6, 9, 11, 12]

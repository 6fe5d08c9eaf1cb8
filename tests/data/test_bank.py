"""The image bank: written, opened, compared; foreign arrays; the text of each error."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
import tensorstore as ts

from phenomjax.data.images import bank, opening
from phenomjax.system.errors import UserError

CHANNELS = ("DNA", "ER", "actin")


def images(count=3, height=150, width=200, dtype="uint8", channels=3):
    high = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(
        0, high, (count, height, width, channels), dtype, endpoint=True
    )


def write(path, pixels, **options):
    metadata = pa.table(
        {"plate": ["P1"] * len(pixels), "well": [f"A{i + 1:02d}" for i in range(len(pixels))]}
    )
    bank.write_bank(path, pixels, metadata, CHANNELS, **options)
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
    assert opened.metadata.schema == bank.METADATA_SCHEMA
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
    with pytest.raises(
        UserError, match=r"is a folder, not an image bank; found there: plates.zarr"
    ):
        opening.open_bank(tmp_path)
    (path / ".prepare").mkdir()
    with pytest.raises(UserError, match=r"is not finished.*continues where it stopped"):
        opening.open_bank(path)
    (path / ".prepare").rmdir()
    bank.write_metadata(path, opening.open_bank(path).metadata.slice(1))
    with pytest.raises(UserError, match=r"has 3 images but its metadata.parquet has 2 rows"):
        opening.open_bank(path)
    (path / "metadata.parquet").unlink()
    with pytest.raises(UserError, match=r"has no metadata.parquet: it was not copied whole"):
        opening.open_bank(path)
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"]["phenomjax"]["version"] = 9
    (path / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(UserError, match=r"format version 9, this phenomjax reads version 1"):
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
        bank.conform_metadata(pa.table({"wel": ["A01"]}))
    with pytest.raises(ValueError, match=r"takes uint8"):
        bank.write_image(write(tmp_path / "b.zarr", images()), 0, np.zeros((2, 2, 3), np.uint8))

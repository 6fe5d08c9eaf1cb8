"""Crops equal NumPy slices of the original, on both roads and with every codec; damage is named."""

import os
import tracemalloc

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
import tensorstore as ts

from phenomjax.data.images.bank import CODECS, write_bank
from phenomjax.data.images.loading.reader import (
    BadImageError,
    CropReader,
    amplification,
    image_name,
)
from phenomjax.data.images.opening import open_bank

SHAPE = (150, 203, 3)  # not a multiple of the chunks


def make_images(dtype: str = "uint16", count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    images = rng.poisson(60, (count, *SHAPE)).astype(dtype)
    images[0, :80, :100] = 0  # chunks of zeros are there as well
    return images


def make_bank(path, dtype="uint16", codec="blosc-lz4", chunk=32):
    images = make_images(dtype)
    rows = pa.table(
        {"plate": ["P1", "P1", None], "well": ["A01", "A02", None], "site": ["1", None, None]}
    )
    write_bank(path / "cells.zarr", images, rows, ["a", "b", "c"], codec=codec, chunk=chunk)
    return open_bank(path / "cells.zarr"), images


def check_crops(reader: CropReader, images: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    height, width = images.shape[1:3]
    sizes = [(1, 1), (32, 32), (64, 40), (100, 150), (height, width)]
    for h, w in sizes:
        for y, x in [
            (0, 0),
            (height - h, width - w),
            (rng.integers(height - h + 1), rng.integers(width - w + 1)),
        ]:
            image, y, x = int(rng.integers(len(images))), int(y), int(x)
            out = np.full((h, w, images.shape[3]), 7, images.dtype)
            reader.read_into(out, image, y, x)
            np.testing.assert_array_equal(out, images[image, y : y + h, x : x + w])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_direct_equals_numpy(tmp_path, codec, dtype):
    bank, images = make_bank(tmp_path, dtype, codec)
    reader = CropReader(bank)
    assert reader.direct
    check_crops(reader, images)


@pytest.mark.parametrize("chunk", [16, 128, 256])
def test_direct_other_chunks(tmp_path, chunk):
    bank, images = make_bank(tmp_path, chunk=chunk)
    check_crops(CropReader(bank), images)


@pytest.mark.parametrize("driver", ["zarr", "zarr3"])
def test_tensorstore_road(tmp_path, driver):
    """Foreign arrays: Zarr v2 and v3, channel first, planes as chunks."""
    images = make_images()
    chunks = (
        {"chunks": [1, 1, 64, 64]}
        if driver == "zarr"
        else {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1, 64, 64]}}}
    )
    key = {"dtype": "<u2"} if driver == "zarr" else {"data_type": "uint16"}
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{tmp_path}/x.zarr/"}}
    shape = [3, 3, SHAPE[0], SHAPE[1]]
    array = ts.open(spec | {"metadata": {"shape": shape, **chunks, **key}}, create=True).result()
    array.write(images.transpose(0, 3, 1, 2)).result()
    reader = CropReader(open_bank(tmp_path / "x.zarr", axes="NCHW"))
    assert not reader.direct
    check_crops(reader, images)
    for crops in (2, 40):  # single reads, and the whole image once
        ys, xs = [3 * i for i in range(crops)], [4 * i for i in range(crops)]
        outs = np.zeros((crops, 30, 30, 3), np.uint16)
        reader.read_crops(list(outs), 1, ys, xs)
        for out, y, x in zip(outs, ys, xs, strict=True):
            np.testing.assert_array_equal(out, images[1, y : y + 30, x : x + 30])


def test_several_crops_decode_each_chunk_once(tmp_path):
    bank, images = make_bank(tmp_path)
    reader, decoded = CropReader(bank), []
    decode = reader._decode
    reader._decode = lambda stored, out: decoded.append(len(stored)) or decode(stored, out=out)
    rng = np.random.default_rng(2)
    ys, xs = rng.integers(0, 150 - 63, 20).tolist(), rng.integers(0, 203 - 63, 20).tolist()
    outs = np.zeros((20, 64, 64, 3), np.uint16)
    reader.read_crops(list(outs), 2, ys, xs)
    for out, y, x in zip(outs, ys, xs, strict=True):
        np.testing.assert_array_equal(out, images[2, y : y + 64, x : x + 64])
    assert len(decoded) <= 5 * 7  # the chunks of an image


def test_oriented_views(tmp_path):
    bank, images = make_bank(tmp_path)
    reader, out = CropReader(bank), np.zeros((50, 50, 3), np.uint16)
    crop = images[1, 11:61, 70:120]
    reader.read_into(np.rot90(out, -1), 1, 11, 70)
    np.testing.assert_array_equal(out, np.rot90(crop))
    reader.read_into(out[:, ::-1], 1, 11, 70)
    np.testing.assert_array_equal(out, np.flip(crop, 1))
    reader.read_into(out[::-1], 1, 11, 70)
    np.testing.assert_array_equal(out, np.flip(crop, 0))


def test_outside_is_an_error(tmp_path):
    reader = CropReader(make_bank(tmp_path)[0])
    for image, y, x in [(0, -1, 0), (0, 0, 204 - 32), (3, 0, 0), (-1, 0, 0)]:
        with pytest.raises(ValueError, match="no crop"):
            reader.read_into(np.zeros((32, 32, 3), np.uint16), image, y, x)
    with pytest.raises(ValueError, match="no crop"):
        reader.read_into(np.zeros((32, 32, 3), np.uint8), 0, 0, 0)


def read_all(bank, image):
    CropReader(bank).read_into(np.zeros(SHAPE, bank.dtype), image, 0, 0)


@pytest.mark.parametrize("codec", CODECS)
def test_truncated(tmp_path, codec):
    bank, _ = make_bank(tmp_path, codec=codec)
    os.truncate(bank.shard_path(1), os.path.getsize(bank.shard_path(1)) // 2)
    with pytest.raises(BadImageError, match="truncated or overwritten") as error:
        read_all(bank, 1)
    for part in (
        "cells P1/A02",
        "image 1",
        str(bank.path),
        str(bank.shard_path(1)),
        "prepare inspect",
        "=skip",
    ):
        assert part in str(error.value)
    os.truncate(bank.shard_path(1), 3)
    with pytest.raises(BadImageError, match="truncated"):
        read_all(bank, 1)


def test_truncated_behind_a_known_index(tmp_path):
    bank, _ = make_bank(tmp_path)
    reader, out = CropReader(bank), np.zeros(SHAPE, np.uint16)
    reader.read_into(out, 1, 0, 0)
    os.truncate(bank.shard_path(1), 900)
    with pytest.raises(BadImageError, match="damaged: the file is truncated"):
        reader.read_into(out, 1, 0, 0)


def test_missing_file(tmp_path):
    bank, _ = make_bank(tmp_path)
    bank.shard_path(2).unlink()
    with pytest.raises(BadImageError, match=r"cells #2 \(image 2 .* its file is not there"):
        read_all(bank, 2)


def test_missing_chunk(tmp_path):
    bank, _ = make_bank(tmp_path)
    content = bytearray(bank.shard_path(0).read_bytes())
    index = len(content) - 4 - 16 * 35
    content[index + 16 * 9 : index + 16 * 10] = b"\xff" * 16  # row 1, column 2
    content[-4:] = google_crc32c.value(bytes(content[index:-4])).to_bytes(4, "little")
    bank.shard_path(0).write_bytes(content)
    with pytest.raises(BadImageError, match=r"chunk \(1, 2\) is missing"):
        read_all(bank, 0)


@pytest.mark.parametrize("codec", ["blosc-lz4", "zstd"])
def test_damaged_chunk(tmp_path, codec):
    bank, images = make_bank(tmp_path, codec=codec)
    content = bytearray(bank.shard_path(0).read_bytes())
    content[0:40] = b"\x99" * 40
    bank.shard_path(0).write_bytes(content)
    with pytest.raises(BadImageError, match=r"chunk \(0, 0\) of its file"):
        read_all(bank, 0)
    out = np.zeros((20, 20, 3), np.uint16)
    CropReader(bank).read_into(out, 0, 100, 100)  # the rest can still be read
    np.testing.assert_array_equal(out, images[0, 100:120, 100:120])


def test_other_errors_are_not_the_images(tmp_path, monkeypatch):
    bank, _ = make_bank(tmp_path)

    def too_many(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", too_many)
    with pytest.raises(OSError, match="Too many open files"):
        read_all(bank, 0)


@pytest.mark.parametrize(("codec", "chunk"), [("blosc-lz4", 16), ("none", 32)])
def test_amplification(tmp_path, codec, chunk):
    bank, _ = make_bank(tmp_path, codec=codec, chunk=chunk)
    chunks = [
        [(start + 63) // chunk - start // chunk + 1 for start in range(size - 63)]
        for size in SHAPE[:2]
    ]
    expected = np.mean(chunks[0]) * np.mean(chunks[1]) * chunk**2 / 64**2
    assert amplification(bank, 64) == pytest.approx(expected)
    padded = -(-150 // chunk) * -(-203 // chunk) * chunk**2
    assert amplification(bank, 64, crops_per_image=100) == pytest.approx(padded / 100 / 64**2)


def test_known_indices_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "phenomjax.data.images.loading.reader.INDEX_CACHE_BYTES", 2 * (16 * 35 + 400)
    )
    bank, images = make_bank(tmp_path)
    reader, out = CropReader(bank), np.zeros((8, 8, 3), np.uint16)
    for image in (0, 1, 2, 0, 1, 2):
        reader.read_into(out, image, 90, 120)
        np.testing.assert_array_equal(out, images[image, 90:98, 120:128])
        assert len(reader._indices) <= 2


def test_reading_allocates_no_pixels(tmp_path):
    bank, _ = make_bank(tmp_path)
    reader, out = CropReader(bank), np.zeros((128, 128, 3), np.uint16)
    reader.read_into(out, 0, 0, 0)
    tracemalloc.start()
    for x in range(60):
        reader.read_into(out, 0, x % 20, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < out.nbytes / 2


def test_image_name(tmp_path):
    bank, _ = make_bank(tmp_path)
    assert [image_name(bank, i) for i in range(3)] == ["cells P1/A01/1", "cells P1/A02", "cells #2"]

"""Pixels: ranges of plates, constant planes, types; nothing becomes black without a word."""

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from phenomjax.data import zarr_files
from phenomjax.data.images import opening
from phenomjax.prepare.images import eight_bit, findings
from phenomjax.system import files
from tests.prepare.test_images import contents, prepare

PATTERN = r"(?P<plate>[^/]+)/(?P<well>[A-H]\d\d)_w(?P<channel>\d)\.tif"


def write(folder, plate, wells=("A01", "A02"), size=(24, 24), dtype="uint16", seed=0, top=4000):
    """PLATE/A01_w1.tif, ...; returns [wells, height, width, channels]."""
    (folder / plate).mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    written = generator.integers(100, top, (len(wells), 2, *size)).astype(dtype)
    for well, planes in zip(wells, written, strict=True):
        for channel, plane in enumerate(planes):
            tifffile.imwrite(folder / plate / f"{well}_w{channel + 1}.tif", plane)
    return written.transpose(0, 2, 3, 1)


def generic(source, out, **options):
    return prepare(source, out, "generic", pattern=PATTERN, **options)


def remarks(out):
    return pq.read_table(out / "remarks.parquet").to_pylist()


def test_plates_of_another_size_get_their_own_range(tmp_path):
    write(tmp_path / "raw", "A")
    other = write(tmp_path / "raw", "B", size=(32, 28), seed=1, top=900)
    assert generic(tmp_path / "raw", tmp_path / "a.zarr") == 1
    first = opening.open_bank(tmp_path / "a.zarr")
    assert set(first.attributes["intensity"]["numbers"]) == {"A"}
    assert generic(tmp_path / "raw", tmp_path / "b.zarr", not_in=tmp_path / "a.zarr") == 0
    second = opening.open_bank(tmp_path / "b.zarr")
    numbers = second.attributes["intensity"]["numbers"]
    assert set(numbers) == {"B"} and all(99 < low < 300 for low, _ in numbers["B"].values())
    expected = eight_bit.to_8_bit(other[0], [tuple(pair) for pair in numbers["B"].values()])
    np.testing.assert_array_equal(second.read(0), expected)


def test_a_plate_that_was_mended(tmp_path):
    write(tmp_path / "raw", "A")
    write(tmp_path / "raw", "B", seed=1)
    whole = {path: path.read_bytes() for path in (tmp_path / "raw" / "B").iterdir()}
    for path in whole:
        path.write_bytes(b"")
    assert generic(tmp_path / "raw", tmp_path / "a.zarr") == 1
    for path, data in whole.items():
        path.write_bytes(data)
    # as older versions recorded a plate of which no image was counted
    file = tmp_path / "a.zarr" / "zarr.json"
    stored = files.read_json(file)
    entry = zarr_files.read_entry(tmp_path / "a.zarr")
    entry["intensity"]["numbers"]["B"] = {"1": [65534, 65535], "2": [65534, 65535]}
    stored["attributes"]["phenomjax"] = entry
    files.write_json(file, stored)
    assert generic(tmp_path / "raw", tmp_path / "b.zarr", not_in=tmp_path / "a.zarr") == 0
    bank = opening.open_bank(tmp_path / "b.zarr")
    assert bank.metadata["plate"].to_pylist() == ["B", "B"]
    assert all(low < 300 for low, _ in bank.attributes["intensity"]["numbers"]["B"].values())
    assert bank.read(0).std() > 20


def test_a_range_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no pixels"):
        eight_bit.percentile_range(np.zeros(65536, int), eight_bit.parse("percentile:1:99"))


@pytest.mark.parametrize("rule", ["keep", "range:0:4000", "percentile:0.1:99.9"])
def test_black_planes_are_named(tmp_path, caplog, rule):
    write(tmp_path / "raw", "A", wells=("A01", "A02", "A03"))
    tifffile.imwrite(tmp_path / "raw" / "A" / "A02_w2.tif", np.zeros((24, 24), np.uint16))
    tifffile.imwrite(tmp_path / "raw" / "A" / "A03_w1.tif", np.full((24, 24), 65535, np.uint16))
    with caplog.at_level(logging.INFO, "phenomjax"):
        assert generic(tmp_path / "raw", tmp_path / "b.zarr", intensity=rule) == 0
    assert "remarks: 2 constant, all in" in caplog.text
    found = remarks(tmp_path / "b.zarr")
    assert [(row["well"], row["file"], row["reason"]) for row in found] == [
        ("A02", "A/A02_w2.tif", "constant"),
        ("A03", "A/A03_w1.tif", "constant"),
    ]
    assert "channel 2 is 0 in every pixel" in found[0]["detail"]
    assert "channel 1 is 65535 in every pixel" in found[1]["detail"]
    before = contents(tmp_path / "b.zarr")
    assert generic(tmp_path / "raw", tmp_path / "b.zarr", intensity=rule) == 0  # finished already
    assert contents(tmp_path / "b.zarr") == before


def test_a_black_channel_fails_and_the_bank_stays(tmp_path, caplog):
    write(tmp_path / "raw", "A")
    for well in ("A01", "A02"):
        tifffile.imwrite(tmp_path / "raw" / "A" / f"{well}_w2.tif", np.zeros((24, 24), np.uint16))
    assert generic(tmp_path / "raw", tmp_path / "b.zarr") == 1
    assert "channel 2 has one value everywhere in each of the 2 images" in caplog.text
    assert "leave it out with --channels and another --out" in caplog.text
    reasons = [row["reason"] for row in remarks(tmp_path / "b.zarr")]
    assert reasons == ["flat_range", "constant", "constant", findings.CONSTANT_CHANNEL]
    assert len(opening.open_bank(tmp_path / "b.zarr")) == 2
    assert generic(tmp_path / "raw", tmp_path / "b.zarr") == 1  # finished already
    assert generic(tmp_path / "raw", tmp_path / "c.zarr", channels="1") == 0


def test_a_range_that_makes_all_black(tmp_path, caplog):
    write(tmp_path / "raw", "A")
    assert generic(tmp_path / "raw", tmp_path / "b.zarr", intensity="range:60000:65000") == 1
    detail = remarks(tmp_path / "b.zarr")[0]["detail"]
    assert "all of which the range 60000 to 65000 makes one value" in detail


def test_percentiles_that_are_one_value(tmp_path):
    write(tmp_path / "raw", "A")
    sparse = np.zeros((64, 64), np.uint16)
    sparse[3, 3] = 500
    for well in ("A01", "A02"):
        for channel in (1, 2):
            tifffile.imwrite(tmp_path / "raw" / "A" / f"{well}_w{channel}.tif", sparse)
    assert generic(tmp_path / "raw", tmp_path / "b.zarr") == 0
    found = remarks(tmp_path / "b.zarr")
    assert [row["reason"] for row in found] == ["flat_range"] * 2 and found[0]["plate"] == "A"
    assert "are the same value, 0, and its pixels go from 0 to 500" in found[0]["detail"]
    assert "--intensity range:0:500" in found[0]["detail"]

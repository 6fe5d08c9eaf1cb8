"""Pixels: ranges of plates, constant planes, types; nothing becomes black without a word."""

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from phenomjax.data import zarr_files
from phenomjax.data.images import opening
from phenomjax.prepare.images import findings
from phenomjax.prepare.images.pixels import eight_bit
from phenomjax.system import files
from phenomjax.system.errors import UserError
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
    assert "has one value, 0, in every pixel of channel 2" in found[0]["detail"]
    assert "has one value, 65535, in every pixel of channel 1" in found[1]["detail"]
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


TYPES = ["int8", "int16", "uint32", "int32", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", TYPES)
def test_other_types_need_a_declared_range(tmp_path, dtype):
    scale, shift = (1, 0) if dtype.startswith("u") else (0.01, -7.5)
    written = write(tmp_path / "raw", "A") * scale + shift
    written = written.astype(dtype)
    for well, image in zip(("A01", "A02"), written, strict=True):
        for channel in range(2):
            plane = image[..., channel]
            tifffile.imwrite(tmp_path / "raw" / "A" / f"{well}_w{channel + 1}.tif", plane)
    with pytest.raises(UserError, match=f"The images have {dtype} pixels") as error:
        generic(tmp_path / "raw", tmp_path / "b.zarr")
    low, high = str(written.min()), str(written.max())
    assert f"2 images they go from {low} to {high}: --intensity says" in str(error.value)
    flag = f"range:{low}:{high}"
    assert f"--intensity {flag} " in str(error.value)
    assert generic(tmp_path / "raw", tmp_path / "b.zarr", intensity=flag) == 0  # as it was offered
    bank = opening.open_bank(tmp_path / "b.zarr")
    recorded = bank.attributes["intensity"]
    assert recorded["source_dtype"] == dtype and bank.dtype == np.uint8
    low, high = (float(part) for part in flag.split(":")[1:])
    assert recorded["numbers"]["A"] == {"1": [low, high], "2": [low, high]}
    assert eight_bit.parse(recorded["rule"]) == eight_bit.Rule("range", low, high)
    for i, image in enumerate(written):
        exact = np.clip((image.astype(float) - low) / (high - low), 0, 1) * 255
        assert np.abs(bank.read(i) - exact).max() <= 0.5 + 1e-9


def test_whole_numbers_that_fit_are_kept(tmp_path):
    written = write(tmp_path / "raw", "A", wells=("A01", "A02", "A03"), dtype="int16")
    with pytest.raises(UserError, match="--intensity keep holds them as they are, as uint16"):
        generic(tmp_path / "raw", tmp_path / "b.zarr")
    plane = np.full((24, 24), -3, np.int16)
    tifffile.imwrite(tmp_path / "raw" / "A" / "A03_w1.tif", plane)
    assert generic(tmp_path / "raw", tmp_path / "b.zarr", intensity="keep") == 1
    bank = opening.open_bank(tmp_path / "b.zarr")
    assert bank.dtype == np.uint16 and len(bank) == 2
    np.testing.assert_array_equal(bank.read(1), written[1])
    rejected = pq.read_table(tmp_path / "b.zarr" / "rejected.parquet").to_pylist()
    assert (
        rejected[0]["reason"] == "pixel_range"
        and "has values from -3 to" in (rejected[0]["detail"])
    )


def test_masks(tmp_path):
    (tmp_path / "raw" / "A").mkdir(parents=True)
    mask = np.random.default_rng(0).integers(0, 2, (24, 24)).astype(bool)
    tifffile.imwrite(tmp_path / "raw" / "A" / "A01_w1.tif", mask)
    with pytest.raises(UserError, match="--intensity range:0:1 "):
        generic(tmp_path / "raw", tmp_path / "b.zarr")
    assert generic(tmp_path / "raw", tmp_path / "b.zarr", intensity="range:0:1") == 0
    np.testing.assert_array_equal(
        opening.open_bank(tmp_path / "b.zarr").read(0)[..., 0], mask * 255
    )


def test_floats_that_are_no_numbers_and_mixed_types(tmp_path):
    write(tmp_path / "raw", "A", wells=("A01", "A02", "A03", "A04"), dtype="float32")
    plane = np.random.default_rng(0).random((24, 24)).astype(np.float32)
    plane[3, 4], plane[5, 6] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "raw" / "A" / "A02_w1.tif", plane)
    tifffile.imwrite(tmp_path / "raw" / "A" / "A03_w2.tif", (plane > 0.5).astype(np.uint16))
    assert generic(tmp_path / "raw", tmp_path / "b.zarr", intensity="range:0:4000") == 1
    rejected = pq.read_table(tmp_path / "b.zarr" / "rejected.parquet").to_pylist()
    assert [row["reason"] for row in rejected] == ["not_finite", "pixel_type"]
    assert "has 2 of 576 pixels that are no numbers (NaN or infinite)" in rejected[0]["detail"]
    assert "has uint16 pixels, most of the source has float32" in rejected[1]["detail"]
    for path in (tmp_path / "raw" / "A").iterdir():
        tifffile.imwrite(path, np.zeros((24, 24), np.complex64))
    with pytest.raises(UserError, match="complex64 pixels, which are no numbers of light"):
        generic(tmp_path / "raw", tmp_path / "c.zarr")


def test_a_dry_run_says_that_a_range_is_wanted(tmp_path, capsys):
    write(tmp_path / "raw", "A", dtype="float32")
    generic(tmp_path / "raw", tmp_path / "b.zarr", dry_run=True)
    assert "intensity: The images have float32 pixels" in capsys.readouterr().out
    generic(tmp_path / "raw", tmp_path / "b.zarr", dry_run=True, intensity="range:0:4000")
    assert "intensity:" not in capsys.readouterr().out


def test_a_stack_of_metamorph_is_an_image(tmp_path):
    (tmp_path / "raw" / "A").mkdir(parents=True)
    planes = np.random.default_rng(0).integers(0, 4000, (2, 24, 24), np.uint16)
    tifffile.imwrite(tmp_path / "raw" / "A" / "A01.stk", planes, metadata={"axes": "CYX"})
    pattern = r"(?P<plate>[^/]+)/(?P<well>[A-H]\d\d)\.stk"
    out = tmp_path / "b.zarr"
    assert prepare(tmp_path / "raw", out, "generic", pattern=pattern, intensity="keep") == 0
    np.testing.assert_array_equal(opening.open_bank(out).read(0), planes.transpose(1, 2, 0))
    assert not (out / "remarks.parquet").exists()


def test_percentiles_of_another_rule_are_not_used_again(tmp_path, caplog):
    write(tmp_path / "raw", "A")
    generic(tmp_path / "raw", tmp_path / "a.zarr", intensity="range:0:4000")
    write(tmp_path / "raw", "A", wells=("A03",), seed=1)
    assert generic(tmp_path / "raw", tmp_path / "b.zarr", not_in=tmp_path / "a.zarr") == 0
    numbers = opening.open_bank(tmp_path / "b.zarr").attributes["intensity"]["numbers"]["A"]
    assert all(99 < low < 300 for low, _ in numbers.values())
    assert "are counted anew" in caplog.text and "with --intensity range:0:4000" in caplog.text

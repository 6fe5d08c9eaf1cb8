"""Inputs of public reports (../shared/cases): stacks, plates of other sizes, mended ones, types."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from phenomjax.data.images import opening
from phenomjax.system.errors import UserError
from tests.prepare.test_images import prepare

pytestmark = pytest.mark.shared_data
SITES = r"(?P<plate>[^/]+)/(?P<well>[A-H]\d\d)_s(?P<site>\d)_w(?P<channel>\d)\.tif"
ONE_FOLDER = r"(?P<plate>P\d)_(?P<well>[A-H]\d\d)_s(?P<site>\d)_w(?P<channel>\d)\.tif"


@pytest.fixture
def case(shared):
    def find(name):
        folder = shared.parent / "cases" / "images" / name
        if not folder.is_dir():
            pytest.skip(f"needs {folder}")
        return folder / "in"

    return find


def generic(source, out, pattern, **options):
    return prepare(source, out, "generic", pattern=pattern, **options)


@pytest.mark.parametrize("z", ["max", "mean", "2"])
def test_hyperstack(case, tmp_path, z):
    source, out = case("hyperstack_zc"), tmp_path / "b.zarr"
    pattern = r"(?P<well>[A-H]\d\d)\.tif"
    with pytest.raises(UserError, match=r"Channel 1 has 3 planes along z: 1, 2, 3.*--z max"):
        generic(source, out, pattern, default="plate=P")
    options = {"default": "plate=P", "intensity": "keep"}
    assert generic(source, out, pattern, z=z, **options) == 0
    bank = opening.open_bank(out)
    assert bank.shape == (2, 64, 64, 2) and bank.channels == ("1", "2")
    assert bank.metadata["well"].to_pylist() == ["A01", "A02"]
    for i, file in enumerate(("A01.tif", "A02.tif")):
        stack = tifffile.imread(source / file).astype(float)  # z, channel, y, x
        expected = {"max": stack.max(axis=0), "2": stack[1]}.get(z)
        if expected is None:
            expected = np.floor(stack.mean(axis=0) + 0.5)
        np.testing.assert_array_equal(bank.read(i), expected.transpose(1, 2, 0))


def test_appended_stack(case, tmp_path):
    source, out = case("stack_appended"), tmp_path / "b.zarr"
    pattern = r"(?P<well>[A-H]\d\d)\.tif"
    with pytest.raises(UserError, match=r"2 files hold several pages .* with 5 pages .*--pages c"):
        generic(source, out, pattern, default="plate=P")
    options = {"default": "plate=P", "intensity": "keep", "pages": "c"}
    assert generic(source, out, pattern, **options) == 0
    bank = opening.open_bank(out)
    assert bank.shape == (2, 64, 64, 5) and bank.channels == ("1", "2", "3", "4", "5")
    for i, file in enumerate(("A01.tif", "A02.tif")):
        with tifffile.TiffFile(source / file) as tiff:
            expected = np.stack([page.asarray() for page in tiff.pages], axis=-1)
        np.testing.assert_array_equal(bank.read(i), expected)


def check_plate(bank, folder, plate):
    """The bank holds one plate, each channel in its own range."""
    assert set(bank.attributes["intensity"]["numbers"]) == {plate}
    numbers = bank.attributes["intensity"]["numbers"][plate]
    rows = bank.metadata.to_pylist()
    assert {row["plate"] for row in rows} == {plate} and {"A01", "A02"} <= {r["well"] for r in rows}
    raw = [
        np.stack([tifffile.imread(folder / f) for f in row["source"].split(";")]) for row in rows
    ]
    for channel, (low, high) in enumerate(numbers.values()):
        values = np.sort(np.concatenate([image[channel].ravel() for image in raw]))
        assert low == values[max(1, -(-values.size // 1000)) - 1]
        for i, image in enumerate(raw):
            exact = np.clip((image[channel].astype(float) - low) / (high - low), 0, 1) * 255
            assert np.abs(bank.read(i)[..., channel] - exact).max() <= 0.5 + 1e-9
            assert bank.read(i)[..., channel].std() > 10


def test_mixed_sizes(case, tmp_path):
    source = case("mixed_size")
    assert generic(source, tmp_path / "a.zarr", SITES) == 1
    check_plate(opening.open_bank(tmp_path / "a.zarr"), source, "PlateA")
    rejected = pq.read_table(tmp_path / "a.zarr" / "rejected.parquet").to_pylist()
    assert {(row["plate"], row["reason"]) for row in rejected} == {("PlateB", "size")}
    assert generic(source, tmp_path / "b.zarr", SITES, not_in=tmp_path / "a.zarr") == 0
    bank = opening.open_bank(tmp_path / "b.zarr")
    assert bank.shape == (2, 48, 40, 2)
    check_plate(bank, source, "PlateB")


def test_mended_plate(case, tmp_path):
    source = tmp_path / "raw"
    shutil.copytree(case("plate_mended"), source)
    assert generic(source, tmp_path / "a.zarr", SITES) == 1
    shutil.copytree(case("plate_mended").parent / "mended", source, dirs_exist_ok=True)
    assert generic(source, tmp_path / "b.zarr", SITES, not_in=tmp_path / "a.zarr") == 0
    check_plate(opening.open_bank(tmp_path / "b.zarr"), source, "PlateB")


@pytest.mark.parametrize("name", ["type_int16", "type_float32"])
def test_types(case, tmp_path, name):
    source, out = case(name), tmp_path / "b.zarr"
    raw = [
        np.stack([tifffile.imread(source / f"P1_{w}_s1_w{c}.tif") for c in "12"], axis=-1)
        for w in ("A01", "A02")
    ]
    low, high = str(np.min(raw)), str(np.max(raw))
    flag = f"range:{low}:{high}"
    with pytest.raises(UserError, match=f"{name[5:]} pixels.*--intensity {flag} "):
        generic(source, out, ONE_FOLDER)
    assert generic(source, out, ONE_FOLDER, intensity=flag) == 0
    bank = opening.open_bank(out)
    for i, image in enumerate(raw):
        share = (image.astype(float) - float(low)) / (float(high) - float(low))
        assert np.abs(bank.read(i) - share * 255).max() <= 0.5 + 1e-6
    if name == "type_int16":
        assert generic(source, tmp_path / "k.zarr", ONE_FOLDER, intensity="keep") == 0
        np.testing.assert_array_equal(opening.open_bank(tmp_path / "k.zarr").read(1), raw[1])

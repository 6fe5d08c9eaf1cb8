"""Folders as reported by users, whose names of files say everything: what the bank must hold."""

import re
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from phenomjax.data.images import opening
from phenomjax.system.errors import UserError
from tests.prepare.test_images import prepare
from tests.prepare.test_names import GENERIC, listed, rows

pytestmark = pytest.mark.shared_data
JUMP = ("DNA", "ER", "RNA", "AGP", "Mito")


def read(file):
    if file.suffix.lower() in (".tif", ".tiff"):
        return tifffile.imread(file)
    with Image.open(file) as image:
        return np.asarray(image)


@pytest.fixture
def cases(shared):
    return shared.parent / "cases" / "images"


CASES = [
    ("phenix_new_names", "phenix", {}, ("1", "2"), ["plate5/A01/1/", "plate5/A02/1/"]),
    ("phenix_lower_images", "jump", {}, JUMP, ["PlateA/A01/1/", "PlateB/A02/1/"]),
    ("operetta_3ch", "phenix", {}, ("1", "2", "3"), ["MyPlate/B01/1/", "MyPlate/B02/1/"]),
    ("operetta_3ch", "jump", {}, ("RNA", "AGP", "Mito"), ["MyPlate/B01/1/", "MyPlate/B02/1/"]),
    ("phenix_sparse_planes", "jump", {}, JUMP, ["BR1/A01/1/", "BR1/A02/1/"]),
    (
        "phenix_sparse_planes",
        "phenix",
        {"z": "2", "channels": "5=DNA,6=BF"},
        ("DNA", "BF"),
        ["BR1/A01/1/", "BR1/A02/1/"],
    ),
    (
        "phenix_time",
        "phenix",
        {"t": "all"},
        ("1", "2"),
        ["BR1/A01/1/1", "BR1/A01/1/2", "BR1/A01/1/3"],
    ),
    ("phenix_time", "phenix", {"t": "2"}, ("1", "2"), ["BR1/A01/1/"]),
    (
        "phenix_two_measurements",
        "jump",
        {"exclude": "*Measurement2/*"},
        JUMP,
        ["BR00117010/A01/1/"],
    ),
    (
        "imagexpress_thumbs",
        "imagexpress",
        {},
        ("DAPI", "FITC"),
        [f"230101-U2OS/{well}/{site}/" for well in ("A01", "B12") for site in "12"],
    ),
    ("imagexpress_zstep", "imagexpress", {"z": "2"}, ("1", "2"), ["P1/A01/1/"]),
    ("imagexpress_zstep", "imagexpress", {"exclude": "*ZStep_[1-9]*"}, ("1", "2"), ["P1/A01/1/"]),
    ("rxrx1_one_experiment", "rxrx1", {}, ("Hoechst", "ConA"), ["1/B02/1/", "2/C03/1/"]),
    (
        "rxrx1_one_experiment",
        "rxrx1",
        {"default": "plate=1"},
        ("Hoechst", "ConA"),
        ["1/B02/1/", "2/C03/1/"],
    ),
    (
        "leading_zero_plates",
        "generic",
        {"pattern": GENERIC},
        ("1", "2"),
        [f"{plate}/{well}/1/" for plate in ("007", "7") for well in ("A01", "A02")],
    ),
]


@pytest.mark.parametrize(("case", "layout", "options", "channels", "expected"), CASES)
def test_cases(cases, tmp_path, case, layout, options, channels, expected):
    folder, out = cases / case / "in", tmp_path / "b.zarr"
    assert prepare(folder, out, layout, intensity="keep", **options) == 0
    opened = opening.open_bank(out)
    found = ["/".join(part or "" for part in row) for row in rows(opened, *ROW)]
    assert opened.channels == channels and found == expected
    for i, files in enumerate(opened.metadata["source"].to_pylist()):
        planes = [read(folder / file) for file in files.split(";")]
        np.testing.assert_array_equal(opened.read(i), np.stack(planes, -1))
    assert not listed(out, "rejected")
    if case.startswith("rxrx1"):
        assert rows(opened, "experiment") == [("HEPG2-08",)] * 2


ROW = ("plate", "well", "site", "time")


def test_projections(cases, tmp_path):
    folder, out = cases / "phenix_sparse_planes" / "in", tmp_path / "b.zarr"
    with pytest.raises(UserError, match=r"Channel 6 has 3 planes along z: 1, 2, 3, .*--z max"):
        prepare(folder, out, "phenix", intensity="keep")
    for z, reduce in (("max", np.max), ("mean", lambda a, axis: np.floor(a.mean(axis) + 0.5))):
        out = tmp_path / f"{z}.zarr"
        assert prepare(folder, out, "phenix", intensity="keep", z=z) == 0
        opened = opening.open_bank(out)
        for i, files in enumerate(opened.metadata["source"].to_pylist()):
            planes = np.stack([read(folder / file) for file in files.split(";")[5:]])
            assert len(planes) == 3
            np.testing.assert_array_equal(opened.read(i)[..., 5], reduce(planes, 0))


def test_two_measurements(cases, tmp_path):
    folder = cases / "phenix_two_measurements" / "in"
    with pytest.raises(
        UserError, match=r"both say they are this image, and are of two meas"
    ) as error:
        prepare(folder, tmp_path / "a.zarr", "jump")
    second, _, first = re.findall(r"--exclude '([^']+)'", str(error.value))
    plate = re.findall(r"--set (plate=\w+)", str(error.value))[0]
    for number, options in enumerate(({"exclude": second}, {"exclude": first, "set": plate})):
        out = tmp_path / f"{number}.zarr"
        assert prepare(folder, out, "jump", intensity="keep", **options) == 0
        opened = opening.open_bank(out)
        (files,) = opened.metadata["source"].to_pylist()
        assert files.count(f"Measurement{number + 1}") == 5
        assert rows(opened, "plate") == [("BR00117010" + "b" * number,)]


def percentiles_match(opened, folder):
    """Each plate's range comes from its own images, and pixels are scaled by it."""
    by_plate = {}
    for i, row in enumerate(opened.metadata.to_pylist()):
        planes = np.stack([read(folder / file) for file in row["source"].split(";")], -1)
        by_plate.setdefault(row["plate"], []).append((i, planes))
    for plate, images in by_plate.items():
        for c, name in enumerate(opened.channels):
            low, high = opened.attributes["intensity"]["numbers"][plate][name]
            pixels = np.stack([planes[..., c] for _, planes in images])
            expected = np.percentile(pixels, (0.1, 99.9), method="inverted_cdf")
            assert [low, high] == expected.tolist()
            for i, planes in images:
                scaled = np.clip((planes[..., c] - float(low)) / (high - low), 0, 1) * 255
                assert np.abs(opened.read(i)[..., c] - scaled).max() <= 0.5 + 1e-9


def test_plates_of_two_sizes(cases, tmp_path, caplog):
    folder, out = cases / "mixed_size" / "in", tmp_path / "a.zarr"
    assert prepare(folder, out, "generic", pattern=GENERIC) == 1
    assert f"the same command with --not-in {out} and another --out" in caplog.text
    assert rows(opening.open_bank(out), "plate") == [("PlateA",)] * 3
    percentiles_match(opening.open_bank(out), folder)
    other = tmp_path / "b.zarr"
    assert prepare(folder, other, "generic", pattern=GENERIC, not_in=out) == 0
    opened = opening.open_bank(other)
    assert rows(opened, "plate", "well") == [("PlateB", "A01"), ("PlateB", "A02")]
    assert opened.shape[1:3] == (48, 40)
    percentiles_match(opened, folder)


def test_a_plate_that_was_mended(cases, tmp_path):
    folder, out = tmp_path / "raw", tmp_path / "a.zarr"
    shutil.copytree(cases / "plate_mended" / "in", folder)
    assert prepare(folder, out, "generic", pattern=GENERIC) == 1
    assert rows(opening.open_bank(out), "plate") == [("PlateA",)] * 2
    (mended,) = (path for path in (cases / "plate_mended").rglob("mended") if path.is_dir())
    good = mended / "PlateB" if (mended / "PlateB").is_dir() else mended
    for file in good.glob("*.tif"):
        shutil.copy(file, folder / "PlateB" / file.name)
    other = tmp_path / "b.zarr"
    assert prepare(folder, other, "generic", pattern=GENERIC, not_in=out) == 0
    opened = opening.open_bank(other)
    assert rows(opened, "plate", "well") == [("PlateB", "A01"), ("PlateB", "A02")]
    percentiles_match(opened, folder)

"""Real plates of six sources, prepared and compared with an independent reading of the files."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from phenomjax.data.images import opening
from tests.prepare.test_images import prepare

pytestmark = pytest.mark.shared_data


def read(file):
    """Reads an image by another road than the program: Pillow, or tifffile's own convenience
    function.
    """
    if file.suffix in (".tif", ".tiff"):
        return tifffile.imread(file)
    with Image.open(file) as image:
        return np.asarray(image)


def check(opened, folder, count, size, channels, *, exact=True):
    """Compares every image with its source files; returns the metadata rows."""
    assert opened.shape == (count, *size, len(channels)) and opened.channels == channels
    rows = opened.metadata.to_pylist()
    for i, row in enumerate(rows):
        expected = np.stack([read(folder / file) for file in row["source"].split(";")], -1)
        if exact:
            assert opened.dtype == expected.dtype
            np.testing.assert_array_equal(opened.read(i), expected)
            continue
        for c, name in enumerate(channels):
            low, high = opened.attributes["intensity"]["numbers"][row["plate"]][name]
            scaled = np.clip((expected[..., c].astype(float) - low) / (high - low), 0, 1) * 255
            assert np.abs(opened.read(i)[..., c] - scaled).max() <= 0.5 + 1e-9
    return rows


CELL_PAINTING = ("Hoechst", "ConA", "Phalloidin", "SYTO14", "MitoTracker", "WGA")


def test_rxrx3(shared, tmp_path):
    folder = shared / "microscopy" / "images" / "rxrx3_AA41_s1"
    assert prepare(folder, tmp_path / "b.zarr", "rxrx3", default="plate=1") == 0
    rows = check(opening.open_bank(tmp_path / "b.zarr"), folder, 1, (512, 512), CELL_PAINTING)
    assert (rows[0]["plate"], rows[0]["well"], rows[0]["site"]) == ("1", "AA41", "1")


def test_rxrx1_with_its_own_metadata(shared, tmp_path):
    folder = shared / "microscopy" / "images" / "rxrx1_HEPG2-08_P1_B02"
    table = tmp_path / "controls.csv"
    # The published table is that of the training split, without this experiment: its row is added
    # in the same form.
    lines = (
        (shared / "microscopy" / "rxrx1_metadata" / "train_controls.csv").read_text().splitlines()
    )
    table.write_text(
        "\n".join([*lines, "HEPG2-08_1_B02,HEPG2-08,1,B02,1138,negative_control"]) + "\n"
    )
    assert (
        prepare(
            folder,
            tmp_path / "b.zarr",
            metadata=table,
            rename="sirna=perturbation",
            set="is_control=yes",
        )
        == 0
    )
    rows = check(opening.open_bank(tmp_path / "b.zarr"), folder, 1, (512, 512), CELL_PAINTING)
    assert (rows[0]["experiment"], rows[0]["plate"], rows[0]["well"]) == ("HEPG2-08", "1", "B02")
    assert rows[0]["perturbation"] == "1138" and rows[0]["perturbation_type"] == "control"


def test_bbbc022(shared, tmp_path):
    folder = shared / "microscopy" / "images" / "bbbc022_A01_s2"
    pattern = r"(?P<plate>[^/_]+)_(?P<well>[A-P]\d\d)_s(?P<site>\d)_w(?P<channel>\d).*\.png"
    options = {"pattern": pattern, "channels": "1=DNA,2=ER,3=RNA,4=AGP,5=Mito"}
    assert prepare(folder, tmp_path / "b.zarr", "generic", **options) == 0
    rows = check(
        opening.open_bank(tmp_path / "b.zarr"),
        folder,
        1,
        (520, 696),
        ("DNA", "ER", "RNA", "AGP", "Mito"),
    )
    assert (rows[0]["plate"], rows[0]["well"], rows[0]["site"]) == ("IXMtest", "A01", "2")


@pytest.mark.parametrize("intensity", ["keep", "percentile:0.1:99.9"])
def test_jump(shared, tmp_path, intensity):
    folder = shared / "microscopy" / "images" / "jump_BR00117006"
    assert (
        prepare(
            folder, tmp_path / "b.zarr", "jump", default="plate=BR00117006", intensity=intensity
        )
        == 0
    )
    opened = opening.open_bank(tmp_path / "b.zarr")
    rows = check(opened, folder, 1, (1080, 1080), ("DNA", "RNA", "AGP"), exact=intensity == "keep")
    assert (rows[0]["plate"], rows[0]["well"], rows[0]["site"]) == ("BR00117006", "A01", "1")


def test_nf1(shared, tmp_path):
    folder = shared / "microscopy" / "images" / "nf1_plate2"
    pattern = r"(?P<well>[A-H]\d+)_\d+_\d_(?P<site>\d)_(?P<channel>[A-Z]+)_\d+\.tif"
    options = {"pattern": pattern, "channels": "DAPI=DNA,GFP=ER,RFP=actin", "default": "plate=2"}
    assert prepare(folder, tmp_path / "b.zarr", "generic", **options) == 0
    rows = check(
        opening.open_bank(tmp_path / "b.zarr"),
        folder,
        3,
        (904, 1224),
        ("DNA", "ER", "actin"),
        exact=False,
    )
    assert [(row["well"], row["site"]) for row in rows] == [
        ("B07", "3"),
        ("D06", "2"),
        ("H12", "1"),
    ]


def test_sbs_with_doses_and_controls(shared, tmp_path):
    folder = shared / "microscopy" / "images" / "sbs_plate"
    rename = ["Row=row", "Column=column", "SBS_Doses=concentration", "SBS_Controls=is_control"]
    pattern = r"Channel(?P<channel>\d)-\d+-(?P<row>[A-H])-(?P<column>\d\d)\.tif"
    options = {
        "pattern": pattern,
        "channels": "2=DNA,1=GFP",
        "rename": rename,
        "set": "perturbation_type=compound",
    }
    options |= {"metadata": folder / "1049_Metadata.csv", "default": "plate=1049"}
    assert prepare(folder, tmp_path / "b.zarr", "generic", **options) == 0
    rows = check(opening.open_bank(tmp_path / "b.zarr"), folder, 16, (640, 640), ("DNA", "GFP"))
    found = {
        row["well"]: (row["concentration"], row["is_control"], row["perturbation_type"])
        for row in rows
    }
    assert found["A01"] == (0, True, "control") and found["A12"] == (10, True, "control")
    assert found["B07"] == (5, False, "compound") and len(found) == 16

"""Sources whose file names say everything: plates, wells, sites, channels, planes and times."""

import numpy as np
import pytest
import tifffile

from phenomjax.data.images import opening
from phenomjax.system.errors import UserError
from tests.prepare.test_images import prepare


def write(folder, file, value):
    """A tiny image of one value and a corner that differs."""
    plane = np.full((16, 16), value, np.uint16)
    plane[0, 0] = value + 1
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / file, plane)


def rows(bank, *names):
    return [tuple(row.values()) for row in bank.metadata.select(list(names)).to_pylist()]


@pytest.mark.parametrize(
    ("z", "expected"), [("max", 13), ("mean", 12), ("middle", 12), ("3", 13), (None, None)]
)
def test_planes_along_z(tmp_path, z, expected):
    for plane in (1, 2, 3):
        name = f"P/Images/r01c01f01p0{plane}-ch1sk1fk1fl1.tiff"
        write(tmp_path / "raw", name, 10 + plane)
    write(tmp_path / "raw", "P/Images/r01c01f01p01-ch2sk1fk1fl1.tiff", 50)
    out = tmp_path / "b.zarr"
    if z is None:
        with pytest.raises(UserError, match=r"Channel 1 has 3 planes .* --z max"):
            prepare(tmp_path / "raw", out, "phenix", intensity="keep")
        return
    assert prepare(tmp_path / "raw", out, "phenix", intensity="keep", z=z) == 0
    opened = opening.open_bank(out)
    assert opened.read(0)[5, 5].tolist() == [expected, 50]
    assert rows(opened, "plate", "well", "site", "time") == [("P", "A01", "1", None)]


def test_time_points(tmp_path):
    for time in (1, 2, 3):
        write(tmp_path / "raw", f"P/images/r01c01f01p01-ch01t0{time}.tiff", 10 * time)
    out = tmp_path / "b.zarr"
    with pytest.raises(UserError, match=r"Channel 1 has 3 time points: 1, 2, 3. Add --t 1 .*all"):
        prepare(tmp_path / "raw", out, "phenix", intensity="keep")
    assert prepare(tmp_path / "raw", out, "phenix", intensity="keep", t="all") == 0
    opened = opening.open_bank(out)
    assert rows(opened, "plate", "time") == [("P", "1"), ("P", "2"), ("P", "3")]
    assert [int(opened.read(i)[5, 5, 0]) for i in range(3)] == [10, 20, 30]
    assert prepare(tmp_path / "raw", tmp_path / "c.zarr", "phenix", intensity="keep", t="2") == 0
    opened = opening.open_bank(tmp_path / "c.zarr")
    assert rows(opened, "time") == [(None,)] and opened.read(0)[5, 5, 0] == 20

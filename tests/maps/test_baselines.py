"""Hand-made features of images: counts and areas of what was drawn, wells and time points apart."""

import numpy as np
import pyarrow as pa
import pytest

from phenomjax.data.images import nuclei
from phenomjax.data.images.bank import write_bank
from phenomjax.maps.baselines import intensity, structure, wells
from phenomjax.maps.tables.reading import read
from phenomjax.system.errors import UserError
from tests.lab.maps import run

RADII = (10, 11, 12, 13, 14)
CENTRES = ((40, 40), (40, 200), (128, 128), (200, 60), (210, 200))


def field(nuclei, seed=0):
    """Discs of known radius on a noisy background, beside a channel that is bright on its left
    quarter.
    """
    image = np.random.default_rng(seed).normal(100, 5, (256, 256, 2))
    y, x = np.mgrid[:256, :256]
    for radius, (row, column) in list(zip(RADII, CENTRES, strict=True))[:nuclei]:
        image[..., 0] += 80 * ((y - row) ** 2 + (x - column) ** 2 <= radius**2)
    image[:, :64, 1] += 200
    return image.clip(0).astype(np.uint16)


def test_structures_are_those_drawn():
    names = (*structure.OF_NUCLEI, *structure.OF_OTHERS)
    found = dict(zip(names, structure.structures(field(5), 0, 30), strict=False))
    areas = np.pi * np.square(RADII)
    assert found["count"] == 5
    np.testing.assert_allclose(found["area_mean"], areas.mean(), rtol=0.03)
    np.testing.assert_allclose(found["area_std"], areas.std(), rtol=0.05)
    other = dict(zip(structure.OF_OTHERS, structure.structures(field(5), 0, 30)[4:], strict=True))
    np.testing.assert_allclose(other["covered"], 0.25, rtol=0.02)
    np.testing.assert_allclose(other["area_per_nucleus"], 0.25 * 256**2 / 5, rtol=0.02)
    # dust is no nucleus, noise is none, and what is all equal has no threshold within it
    assert structure.structures(field(5), 0, 500)[0] == (areas > 500).sum()
    assert structure.structures(field(0), 0, 30)[0] == 0
    assert not structure.structures(np.full((32, 32, 2), 7, np.uint8), 0, 30)[:4].any()


def test_otsu_parts_two_levels():
    values = np.repeat([10.0, 200.0], [300, 100])
    assert 10 < nuclei.otsu(values) < 200
    assert (values > nuclei.otsu(values)).sum() == 100


def bank(path, channels=("Hoechst 33342", "ER"), **metadata):
    """Four images: two sites of A01, one of A02 at two times."""
    images = np.stack([field(5, 0), field(1, 1), field(2, 2), field(3, 3)])
    columns = {
        "experiment": ["E"] * 4,
        "plate": ["P"] * 4,
        "well": ["A01", "A01", "A02", "A02"],
        "site": ["1", "2", "1", "1"],
        "time": [None, None, "24 h", "48 h"],
        "gene": ["TP53", "TP53", None, None],
    }
    write_bank(path, images, pa.table(columns | metadata), channels, chunk=64)
    return path


def test_wells_are_means_of_fields_and_time_points_stay_apart(tmp_path):
    path = bank(tmp_path / "b.zarr")
    assert run("structure", "--bank", path, "--out", tmp_path / "structure.parquet") == 0
    profiles = read([str(tmp_path / "structure.parquet")])
    counts = profiles.features[:, profiles.names.index("Hoechst 33342_count")]
    assert counts.tolist() == [3, 2, 3]
    assert profiles.metadata["well"].tolist() == ["A01", "A02", "A02"]
    assert profiles.metadata["gene"][0] == "TP53" and "site" not in profiles.metadata
    (step,) = profiles.provenance["steps"]
    assert step == {"command": "structure", "nuclei": "Hoechst 33342", "min_area": 30}
    assert run("intensity", "--bank", path, "--out", tmp_path / "intensity.parquet") == 0
    measured = read([str(tmp_path / "intensity.parquet")])
    two = np.stack([intensity.intensities(field(n, s)) for n, s in ((5, 0), (1, 1))])
    np.testing.assert_allclose(measured.features[0], two.mean(0), rtol=1e-4)
    assert len(measured) == 3


def test_the_channel_of_nuclei(tmp_path):
    assert nuclei.nuclear_channel(["ER", "OrigDNA", "RNA"]) == 1
    assert nuclei.nuclear_channel(["nucleoli", "NUCLEI"]) == 1
    path = bank(tmp_path / "b.zarr", ("w1", "w2"))
    with pytest.raises(UserError, match=r"channels w1, w2 is known.*Name it with --nuclei, .*'w1'"):
        run("structure", "--bank", path, "--out", tmp_path / "s.parquet")
    assert run("structure", "--bank", path, "--nuclei", "w1", "--out", tmp_path / "s.csv") == 0
    assert "w1_count" in read([str(tmp_path / "s.csv")]).names
    with pytest.raises(UserError, match=r"--nuclei w3: the bank has no such channel.* w1, w2"):
        run("structure", "--bank", path, "--nuclei", "w3", "--out", tmp_path / "s.csv")


def test_banks_of_other_channels(tmp_path):
    one, other = bank(tmp_path / "a.zarr"), bank(tmp_path / "b.zarr", ("Hoechst 33342", "AGP"))
    with pytest.raises(UserError, match=r"differ in their channels: .*b\.zarr has no ER"):
        wells.open_all([one, other])

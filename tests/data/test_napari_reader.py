"""Banks in napari: what the reader gives, through npe2 as napari asks it, and what it refuses."""

import tomllib
import warnings

import numpy as np
import pyarrow as pa
import pytest

from phenomjax.data.images import napari_reader
from phenomjax.data.images.bank import create_bank, shard_path, write_bank
from phenomjax.data.images.opening import open_bank
from phenomjax.system.errors import UserError
from tests.lab import ROOT

CHANNELS = ("ER", "Hoechst 33342", "Actin")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Six images of noise of three wells, 0.5 um a pixel."""
    path = tmp_path_factory.mktemp("napari") / "b.zarr"
    pixels = np.random.default_rng(3).integers(0, 4096, (6, 40, 36, 3), np.uint16)
    columns = {
        "plate": ["P1"] * 6,
        "well": ["A01", "A02", "A03"] * 2,
        "site": ["1"] * 3 + ["2"] * 3,
        "gene": ["TP53", None, None] * 2,
    }
    about = {"pixel_size_um": 0.5}
    write_bank(path, pixels, pa.table(columns), CHANNELS, chunk=32, attributes=about)
    return path, pixels


def test_npe2_reads_layers_through_the_manifest(bank):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # npe2's own, of pydantic
        from npe2 import PluginManager, PluginManifest, read

        manifest = PluginManifest.from_file(ROOT / "phenomjax" / "napari.yaml")
        manifest.validate_imports()
        manager = PluginManager.instance()  # the commands of readers are found there
        manager.register(manifest)
        path, pixels = bank
        layers = read([str(path)], stack=False)
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert group["napari.manifest"] == {"phenomjax": "phenomjax:napari.yaml"}
    assert [(kind, settings["name"]) for _, settings, kind in layers] == [
        *(("image", name) for name in CHANNELS),
        ("points", "plate and well"),
    ]
    assert [settings["colormap"] for _, settings, _ in layers[:3]] == ["green", "blue", "red"]
    for place, (data, settings, _) in enumerate(layers[:3]):
        assert (data.shape, data.dtype, data.ndim, data.size) == ((6, 40, 36), np.uint16, 3, 8640)
        assert settings["scale"] == (1, 0.5, 0.5) and settings["units"] == ("pixel", "um", "um")
        assert (settings["blending"], settings["opacity"]) == ("additive", 1)
        assert settings["axis_labels"] == ("image", "y", "x")
        low, high = settings["contrast_limits"]
        assert low == np.percentile(pixels[..., place], 0.5) < high
    data, settings, _ = layers[-1]
    np.testing.assert_array_equal(data, [[i, 0, 0] for i in range(6)])
    texts = settings["text"]["string"]
    assert texts[:2] == ["plate P1  well A01  site 1  gene TP53", "plate P1  well A02  site 1"]
    assert list(settings["features"]) == ["plate", "well", "site", "gene"]


def test_images_are_read_when_they_are_looked_at(bank, monkeypatch):
    path, pixels = bank
    opened, read = open_bank(path), []
    whole = opened.read
    monkeypatch.setattr(opened, "read", lambda index: read.append(index) or whole(index))
    (first, *_), *_, (third, *_), _ = napari_reader.layers(opened)
    assert read == list(range(6))  # the sample that the contrast is taken from
    del read[:]
    np.testing.assert_array_equal(first[1], pixels[1, ..., 0])
    np.testing.assert_array_equal(third[1], pixels[1, ..., 2])
    assert read == [1]  # once for all channels
    np.testing.assert_array_equal(first[2:5:2, 3:9, 4], pixels[2:5:2, 3:9, 4, 0])
    np.testing.assert_array_equal(first[..., 5], pixels[..., 5, 0])
    np.testing.assert_array_equal(first[[0, -1]], pixels[[0, -1], ..., 0])
    np.testing.assert_array_equal(np.asarray(first, np.float32), pixels[..., 0])
    assert first[6:].shape == (0, 40, 36) and len(first) == 6
    with pytest.raises(IndexError):
        first[6]


def test_what_is_no_bank_is_left_to_others_and_a_broken_one_says_so(bank, tmp_path, monkeypatch):
    path, _ = bank
    (tmp_path / "group.zarr").mkdir()
    (tmp_path / "group.zarr" / "zarr.json").write_text('{"node_type": "group"}')
    (tmp_path / "file.zarr").write_text("x")
    (tmp_path / "bad.zarr").mkdir()
    (tmp_path / "bad.zarr" / "zarr.json").write_text("{")
    for name in ("group.zarr", "file.zarr", "bad.zarr", "absent.zarr"):
        assert napari_reader.get_reader(str(tmp_path / name)) is None
        assert napari_reader.get_reader([str(path), str(tmp_path / name)]) is None
    assert napari_reader.get_reader([]) is None
    assert len(napari_reader.get_reader([str(path), str(path)])([str(path), str(path)])) == 8
    half = tmp_path / "half.zarr"
    create_bank(half, (2, 32, 32, 1), np.uint8, ["DNA"], chunk=32)
    with pytest.raises(UserError, match=r"half.zarr has no metadata.parquet: it was not copied"):
        napari_reader.get_reader(str(half))(str(half))
    lost, unknown = tmp_path / "lost.zarr", pa.table({"is_control": [False] * 9})
    write_bank(lost, np.zeros((9, 8, 8, 1), np.uint8), unknown, ["DNA"], chunk=8)
    shard_path(lost, 4).unlink()
    layers = napari_reader.get_reader(str(lost))(str(lost))
    assert layers[0][1]["contrast_limits"] == (0, 1) and len(layers) == 1  # no names, no text
    with pytest.raises(UserError, match=r"Image 4 of the bank .*cannot be read"):
        layers[0][0][4]
    monkeypatch.setattr(napari_reader, "MOST_NAMES", 5)
    assert len(napari_reader.read(str(path))) == 3

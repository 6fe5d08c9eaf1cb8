"""Profiles for other tools: AnnData and SpatialData, whose images are those of the bank, and take
no space; opened with the libraries themselves.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import zarr

from phenomjax.data.images.bank import shard_path, write_bank
from phenomjax.maps.exchange import spatial
from phenomjax.maps.tables import reading, writing
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.system.errors import UserError
from tests.lab import ROOT
from tests.lab.maps import offered, run

# spatialdata, scanpy, napari and what they import that `dev` has not, or has in another version.
OTHERS = Path(sys.prefix) / "others"
CHANNELS = ("DNA", "ER", "Actin")
WELLS = [("P1", "A01", "TP53"), ("P1", "A02", "KRAS"), ("P2", "A01", None), ("P2", "B07", "MYC")]


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """A bank of two sites a well, (pixels), and a profile a well of three of the four."""
    folder = tmp_path_factory.mktemp("screen")
    pixels = np.random.default_rng(1).integers(0, 60000, (8, 40, 52, 3)).astype(np.uint16)
    wells = [well for well in WELLS for _ in range(2)]
    columns = {name: [well[k] for well in wells] for k, name in enumerate(("plate", "well"))}
    table = pa.table(columns | {"site": ["1", "2"] * 4, "is_control": [False] * 8})
    about = {"pixel_size_um": 0.5}
    write_bank(folder / "b.zarr", pixels, table, CHANNELS, chunk=32, attributes=about)
    write_bank(folder / "packed.zarr", pixels, table, CHANNELS, chunk=32, images_per_shard=3)
    metadata = pd.DataFrame(WELLS[:3], columns=["plate", "well", "gene"])
    features = np.random.default_rng(2).standard_normal((3, 5)).astype(np.float32)
    names = tuple(f"feature_{k:04d}" for k in range(5))
    profiles = Profiles(features, metadata, names, {"sources": [{"path": "e"}], "steps": []})
    writing.write(profiles, folder / "p.parquet")
    return folder, pixels, profiles


def export(screen, out, *words):
    return run("export", "--profiles", screen[0] / "p.parquet", "--out", out, *words)


@pytest.mark.parametrize("suffix", [".h5ad", ".csv.gz", ".parquet"])
def test_tables_hold_what_the_profiles_held(suffix, screen, tmp_path):
    (tmp_path / "plates.csv").write_text("plate,batch\nP1,x\nP2,y\n")
    out, more = tmp_path / f"out{suffix}", ("--metadata", tmp_path / "plates.csv")
    words = "--profiles", screen[0] / "p.parquet", "--out", out, "--where", 'well == "A01"'
    assert offered("export", "align", *words, *more).profiles == (str(out),)  # as is read below
    found, profiles = reading.read(out), screen[2]
    np.testing.assert_array_equal(found.features, profiles.features[[0, 2]])
    assert found.names == profiles.names
    assert [*found.metadata["gene"].fillna("-")] == ["TP53", "-"]
    assert [*found.metadata["batch"]] == ["x", "y"]
    if suffix == ".h5ad":
        data = anndata.read_h5ad(out)
        assert [*data.obs["plate"]] == ["P1", "P2"] and [*data.var_names] == list(found.names)
        steps = json.loads(data.uns["phenomjax"])["provenance"]["steps"]
        assert [step["command"] for step in steps] == ["join", "where", "export"]


@pytest.mark.parametrize("name", ["b.zarr", "packed.zarr"])
def test_images_of_spatialdata_are_the_banks(name, screen, tmp_path):
    folder, pixels, profiles = screen
    out = tmp_path / "out.zarr"
    assert export(screen, out, "--bank", folder / name, "--where", "plate == 'P1'") == 0
    table = anndata.read_zarr(out / "tables" / "profiles")
    np.testing.assert_array_equal(table.X, profiles.features[:2])
    images = anndata.read_zarr(out / "tables" / "images").obs
    assert [*images["element"]] == ["A01_1", "A01_2", "A02_1", "A02_2"]
    assert [*images["well"]] == ["A01", "A01", "A02", "A02"] and "gene" not in images
    for row, element in enumerate(images["element"]):
        array = zarr.open_array(out / "images" / element / "s0", mode="r")
        assert array.shape == (3, 40, 52) and array.dtype == np.uint16
        np.testing.assert_array_equal(array[:], pixels[row].transpose(2, 0, 1))
    for folder in (out, out / "tables" / "profiles"):  # and back again
        again = reading.read(folder)
        np.testing.assert_array_equal(again.features, profiles.features[:2])
        assert [*again.metadata["gene"]] == ["TP53", "KRAS"] and again.names == profiles.names
    shard = out / "images" / "A01_1" / "s0" / "c.0.0.0"
    assert os.path.samefile(shard, shard_path(screen[0] / name, 0)) == (name == "b.zarr")


PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, spatialdata, scanpy
folder, bank, manifest = sys.argv[1:]
data = spatialdata.read_zarr(folder)
found = {"images": sorted(data.images), "systems": sorted(data.coordinate_systems)}
image = data["P1_A02_2"]
found |= {"dims": image.dims, "channels": [str(c) for c in image.coords["c"].values]}
found["pixels"] = image.values.tolist()
found["extent"] = spatialdata.get_extent(image, coordinate_system="P1_A02_2")["x"]
found["obs"] = data["profiles"].obs["gene"].astype(object).where(lambda x: x.notna(), None).tolist()
scanpy.pp.pca(data["profiles"], n_comps=2)
found["pca"] = data["profiles"].obsm["X_pca"].shape
data["profiles"].write_h5ad(f"{folder}.h5ad")
del data["P1_A01_1"]
data.write(f"{folder}.again.zarr")
found["again"] = len(spatialdata.read_zarr(f"{folder}.again.zarr").images)

from napari.components import ViewerModel
from npe2 import PluginManager, PluginManifest
PluginManager.instance().register(PluginManifest.from_file(manifest))
viewer = ViewerModel()
viewer.open(bank, plugin="phenomjax")
viewer.dims.set_current_step(0, 3)
*layers, names = viewer.layers
found["shown"] = [layer._slice.image.raw.tolist() for layer in layers]
found["layers"] = [(layer.name, layer.colormap.name, layer.visible) for layer in layers]
found["text"] = names._view_text.tolist()
found["axes"] = [viewer.dims.axis_labels, str(layers[0].units[1]), viewer.dims.range[0]]
print("\\n" + json.dumps(found))
"""


def test_spatialdata_scanpy_and_napari_open_them(screen, tmp_path):
    if not OTHERS.is_dir():
        pytest.skip(f"spatialdata, scanpy and napari are not in {OTHERS}; .ci/run puts them there")
    folder, pixels, profiles = screen
    assert export(screen, tmp_path / "s.zarr", "--bank", folder / "b.zarr") == 0
    ended = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM, tmp_path / "s.zarr", folder / "b.zarr"),
            ROOT / "phenomjax" / "napari.yaml",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{OTHERS}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    elements = [f"{plate}_{well}_{site}" for plate, well, _ in WELLS[:3] for site in "12"]
    assert found["images"] == found["systems"] == elements
    assert (found["dims"], found["channels"]) == (["c", "y", "x"], list(CHANNELS))
    np.testing.assert_array_equal(found["pixels"], pixels[3].transpose(2, 0, 1))
    assert found["extent"] == [0, 26] and found["obs"] == ["TP53", "KRAS", None]
    assert found["pca"] == [3, 2] and found["again"] == 5
    back = reading.read(tmp_path / "s.zarr.h5ad")
    np.testing.assert_array_equal(back.features, profiles.features)
    np.testing.assert_array_equal(found["shown"], pixels[3].transpose(2, 0, 1))
    assert found["layers"] == [["DNA", "blue", True], ["ER", "green", True], ["Actin", "red", True]]
    assert found["text"] == ["plate P1  well A02  site 2"]
    assert found["axes"] == [["image", "y", "x"], "micrometer", [0, 7, 1]]


def test_mistakes(screen, tmp_path, monkeypatch):
    folder = screen[0]
    bank = ("--bank", folder / "b.zarr")
    (tmp_path / "there.zarr").mkdir()
    (tmp_path / "other.csv").write_text(
        "plate,well,feature_0000,feature_0001\nX,A01,1,2\nX,A02,3,4\n"
    )
    (tmp_path / "bare.csv").write_text("sample,feature_0000,feature_0001\na,1,2\nb,3,4\n")
    for words, said in [
        (("--out", "a.h5ad", *bank), r"`?--bank`? .*goes with --out NAME.zarr: a.h5ad holds no"),
        (("--out", "a.xlsx"), r"suffix that names no format. .*\.h5ad, \.zarr"),
        (("--out", "there.zarr"), r"--out there.zarr is there already"),
        (("--out", "none/a.zarr"), r"folder .*does not exist"),
        (("--out", "a.zarr", "--profiles", "other.csv", *bank), "plates X, the bank's are P1, P2"),
        (("--out", "a.zarr", "--profiles", "bare.csv", *bank), "which plate and well it is of"),
    ]:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=said):
            export(screen, *words[1:])
    (tmp_path / "two.zarr").mkdir()
    (tmp_path / "two.zarr" / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {"spatialdata_attrs": {}}}'
    )
    with pytest.raises(UserError, match=r"two.zarr is a SpatialData of 0 tables. Name the one"):
        export(screen, "a.h5ad", "--profiles", "two.zarr")
    for name in ("wells", "sites"):
        (tmp_path / "two.zarr" / "tables" / name / "obs").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"profiles: --profiles two.zarr/tables/sites or --profiles"
    ):
        export(screen, "a.h5ad", "--profiles", "two.zarr")
    monkeypatch.setattr(spatial, "MOST_IMAGES", 3)
    with pytest.raises(UserError, match=r"6 images are of these wells") as error:
        export(screen, tmp_path / "a.zarr", *bank)
    mend = re.search(r"--where '([^']+)'", str(error.value))[1]
    monkeypatch.setattr(spatial, "MOST_IMAGES", 4)
    assert export(screen, tmp_path / "a.zarr", *bank, "--where", mend) == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        *("there.zarr", "two.zarr", "other.csv", "bare.csv", "a.zarr")
    }

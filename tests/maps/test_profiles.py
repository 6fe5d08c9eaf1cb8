"""Profiles in all formats, which column is what, and the bad inputs that are refused before
anything is computed.
"""

import bz2
import gzip
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorstore
import zstandard

from phenomjax.data.embeddings import stored_blocks
from phenomjax.maps.tables import input
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.metadata.detection import detect
from phenomjax.maps.tables.options import TableOptions
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.reading import read
from phenomjax.maps.tables.sources import Wanted
from phenomjax.maps.tables.writing import write
from phenomjax.system.errors import UserError
from tests.lab import plates

OURS = {
    "experiment": "E1",
    "plate": ["1", "1", "2", "2"],
    "well": ["A01", "A02", "A01", "A02"],
    "perturbation": ["x", "DMSO", "x", None],
    "gene": ["TP53", None, "TP53", None],
    "is_control": [False, True, False, True],
    "concentration": [0.5, np.nan, 0.5, np.nan],
}


def _profiles(seed=0, dim=3) -> Profiles:
    features = np.random.default_rng(seed).normal(size=(4, dim)).astype(np.float32)
    return Profiles(
        features,
        pd.DataFrame(OURS),
        tuple(f"feature_{k:04d}" for k in range(dim)),
        {"sources": [{"path": "s"}], "steps": []},
    )


def _save_embeddings(path, arrays, **attributes):
    path.mkdir()
    record = {
        "format": "embeddings",
        "version": 1,
        "level": "well",
        "checkpoint_fingerprint": "abc",
        **attributes,
    }
    (path / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"phenomjax": record}})
    )
    for name, values in arrays.items():
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path / name}/"}}
        tensorstore.open(
            spec, create=True, dtype=values.dtype.name, shape=values.shape
        ).result().write(values).result()
    pd.DataFrame(OURS).to_parquet(path / "metadata.parquet")


@pytest.mark.parametrize("name", ["p.parquet", "p.csv", "p.csv.gz", "p.h5ad"])
def test_round_trip(tmp_path, name):
    profiles = _profiles().after("align", method="tvn")
    write(profiles, tmp_path / name)
    back = read(tmp_path / name)
    np.testing.assert_array_equal(back.features, profiles.features)
    assert back.names == profiles.names and back.provenance == profiles.provenance
    assert back.metadata["perturbation"].isna().tolist() == [False, False, False, True]
    assert Columns().controls(back.metadata).tolist() == [False, True, False, True]
    assert not list(tmp_path.glob(".part*"))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("p.csv", lambda text: text.replace(",", ";").replace(".", ",").encode()),
        ("p.txt", lambda text: text.replace(",", "\t").encode("utf-16")),
        ("p.csv.bz2", lambda text: bz2.compress(text.encode())),
        ("p.csv", lambda text: gzip.compress(text.encode())),
        ("p.tsv.zst", lambda text: zstandard.compress(text.replace(",", "\t").encode())),
        ("p.csv", lambda text: ("sep=;\n" + text.replace(",", ";")).encode("cp1252")),
    ],
)
def test_tables_of_profiles_as_labs_have_them(tmp_path, name, write):
    text = "Metadata_Plate,Metadata_Compound,Cells_Area,Cells_Mean\n007,µ1,1.5,2\n7,µ2,0.25,-1\n"
    (tmp_path / name).write_bytes(write(text))
    profiles = read(tmp_path / name)
    np.testing.assert_array_equal(profiles.features, [[1.5, 2], [0.25, -1]])
    assert profiles.metadata["Metadata_Plate"].tolist() == ["007", "7"]
    assert profiles.metadata["Metadata_Compound"].tolist() == ["µ1", "µ2"]
    (tmp_path / name).write_bytes(write(text.replace("007", "8")))
    assert read(tmp_path / name).metadata["Metadata_Plate"].tolist() == [8, 7]


def test_embeddings_of_one_block_and_of_several(tmp_path):
    values = np.arange(8, dtype=np.float16).reshape(4, 2)
    _save_embeddings(tmp_path / "one.zarr", {"embeddings": values}, blocks=[12])
    _save_embeddings(
        tmp_path / "two.zarr", {"embeddings_block_3": values, "embeddings_block_12": values + 1}
    )
    one = read(tmp_path / "one.zarr")
    assert (
        one.features.dtype == np.float32
        and one.features[3, 1] == 7
        and one.names == ("feature_0000", "feature_0001")
    )
    assert one.provenance["sources"][0]["checkpoint_fingerprint"] == "abc"
    assert (
        stored_blocks(tmp_path / "two.zarr") == [3, 12]
        and read(tmp_path / "two.zarr", Wanted(block=12)).features[0, 0] == 1
    )
    for path, block, said in (
        ("two.zarr", None, "holds the blocks 3, 12. Choose one: `block` 12"),
        ("two.zarr", 4, "holds the blocks 3, 12"),
        ("one.zarr", 4, "not of 4"),
    ):
        with pytest.raises(UserError, match=said):
            read(tmp_path / path, Wanted(block=block))
    (tmp_path / "two.zarr" / "zarr.json").unlink()
    with pytest.raises(UserError, match=r"holds no embeddings.*phenomjax\.embed"):
        read(tmp_path / "two.zarr", Wanted(block=3))


def test_files_are_joined_by_the_names_of_their_features(tmp_path):
    first, second = _profiles(0), _profiles(1)
    write(first, tmp_path / "a.parquet")
    order = [2, 0, 1]
    write(
        second.with_features(second.features[:, order], [second.names[k] for k in order]),
        tmp_path / "b.csv",
    )
    both = read([tmp_path / "a.parquet", tmp_path / "b.csv"])
    np.testing.assert_array_equal(both.features, np.concatenate([first.features, second.features]))
    write(_profiles(2, dim=4), tmp_path / "wide.h5ad")
    with pytest.raises(
        UserError,
        match=(
            r"a\.parquet has 3 features and .*wide\.h5ad has 4.*1 only in the second"
            r" \(feature_0003\).*same checkpoint"
        ),
    ):
        read([tmp_path / "a.parquet", tmp_path / "wide.h5ad"])


def test_which_rows_are_controls_and_treatments():
    jump = pd.DataFrame(
        {
            "Metadata_control_type": ["negcon", np.nan, "poscon", np.nan],
            "Metadata_pert_type": ["control", "trt", "control", "trt"],
            "Metadata_id": [np.nan, "a", "b", "c"],
        }
    )
    columns = detect(jump, TableOptions(profiles=(), perturbation="Metadata_id").columns)
    assert columns.control == 'Metadata_control_type == "negcon"'
    assert columns.controls(jump).tolist() == [True, False, False, False]
    assert columns.positives(jump).tolist() == [False, False, True, False]
    assert columns.treatments(jump).tolist() == [False, True, False, True]
    everything = Columns(
        batch=(), control=columns.control, treatment="all", perturbation="Metadata_id"
    )
    assert everything.treatments(jump).tolist() == [False, True, True, True]
    ours = pd.DataFrame(OURS)
    found = detect(ours, TableOptions(profiles=()).columns)
    assert found == Columns(kind="")  # the defaults are of our banks; this table has no kinds
    assert Columns().batches(ours).tolist() == ["E1/1", "E1/1", "E1/2", "E1/2"]
    told = pd.DataFrame(OURS | {"experiment": None, "is_control": [True, None, None, None]})
    found = detect(told, TableOptions(profiles=()).columns)  # of raw plates: little is said
    assert found.batch == ("plate",) and found.control == "is_control"
    assert found.treatments(told).tolist() == [False, True, True, False]  # the last has no name
    assert found.treatments(told[1:3]).all()
    for wrong, said in (
        (
            Columns(control="is_contrl"),
            "no column 'is_contrl'.*Did you mean 'is_control'.*`control`",
        ),
        (Columns(control="gene"), "holds 'TP53', which is neither yes nor no. Give a query"),
        (Columns(control="well =="), "no query"),
        (Columns(control="concentration + 1"), "yes or no"),
    ):
        with pytest.raises(UserError, match=said):
            wrong.controls(ours)


def test_duplicate_rows_are_refused(tmp_path):
    profiles = _profiles()
    input.refuse_duplicates(profiles)
    twice = Profiles(
        np.r_[profiles.features, profiles.features[:1]],
        pd.concat([profiles.metadata, profiles.metadata[:1]]),
        profiles.names,
    )
    with pytest.raises(
        UserError,
        match=r"1 of 5 rows are there twice.*row 4, experiment=E1.*Was a file given twice",
    ):
        input.refuse_duplicates(twice)


def test_a_plate_under_two_names_and_two_spellings_are_told(tmp_path, caplog):
    table = plates.screen(plates=3, dim=12)
    path = tmp_path / "wells.parquet"
    table.to_parquet(path)
    input.load(TableOptions(profiles=(str(path),)))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    first = table["Metadata_Plate"] == "BR00000001"
    copy = table[first].assign(Metadata_Plate="BR1")
    copy["Metadata_broad_sample"] = copy["Metadata_broad_sample"].str.lower()
    copy.loc[:9, plates.feature_names(12)] = 0.0  # empty wells are no copies
    pd.concat([table, copy]).to_parquet(path)
    input.load(TableOptions(profiles=(str(path),)))
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said[0].startswith("172 rows are the same in every feature as one of another batch")
    assert "BR00000001: 86" in said[0] and "BR1: 86" in said[0]
    assert "differ from another in capitals only" in said[1] and "cmp-" in said[1]


def test_files_that_are_no_profiles(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "lfs.parquet").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12\n"
    )
    (tmp_path / "zip.csv").write_bytes(b"PK\x03\x04" + bytes(30))
    shutil.copy(tmp_path / "zip.csv", tmp_path / "wells.csv.zip")
    (tmp_path / "empty.csv").write_text("Metadata_Plate,Cells_Area\n")
    for name, said in (
        ("none.csv", "no profiles at"),
        ("lfs.parquet", "is a pointer of Git LFS.*git lfs pull"),
        ("cut.parquet", "cannot be read.*copy it again"),
        ("empty.csv", "holds no rows|known to be"),
        ("zip.csv", "is a zip archive.*unpack it"),
        ("wells.csv.zip", "is a zip archive.*unpack it"),
    ):
        with pytest.raises(UserError, match=said):
            read(tmp_path / name)
    with pytest.raises(UserError, match=r"\.txt has a suffix"):
        write(_profiles(), tmp_path / "p.txt")


def test_front_door_imports_only_what_is_asked_for():
    code = (
        "import sys; sys.argv = ['maps', 'align', '--help']; from phenomjax.maps.__main__ import"
        " main\n"
    )
    code += (
        "try: main()\nexcept SystemExit: print(sorted({'pandas', 'sklearn', 'umap', 'matplotlib',"
        " 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]") and "pca_center_scale" in done.stdout

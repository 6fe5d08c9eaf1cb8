"""Tables larger than memory: the same numbers as in memory, from files without a name."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import PCA

from phenomjax.maps.build import aggregate
from phenomjax.maps.build.align import align
from phenomjax.maps.build.combining import combine
from phenomjax.maps.build.methods.components import fit_pca
from phenomjax.maps.build.methods.streams import Stream
from phenomjax.maps.tables import scratch, writing
from phenomjax.maps.tables.formats import parquet
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.reading import read
from phenomjax.maps.tables.sources import Wanted
from phenomjax.maps.tables.writing import write
from phenomjax.statistics.moments import Moments
from phenomjax.system.errors import UserError
from tests.lab import plates
from tests.lab.maps import run
from tests.lab.plates import TOLD


@pytest.fixture
def nothing_fits(monkeypatch):
    """Every array is too large for memory, and a block is a few rows."""
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    monkeypatch.setattr(scratch, "BLOCK_VALUES", 24 * 7)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    frame = plates.screen(3, 24).sample(frac=1, random_state=1)  # plates are not apart
    path = tmp_path_factory.mktemp("plates") / "plates.parquet"
    frame.to_parquet(path, index=False)
    return path


def test_moments_of_blocks_are_those_of_all_rows():
    rng = np.random.default_rng(0)
    values = 1e6 + rng.normal(size=(101, 5)) @ rng.normal(size=(5, 5))
    found, apart = Moments(5, products=True), Moments(5)
    for block in np.split(values, [1, 1, 40, 77]):
        found.add(block)
        apart.add(block)
    assert found.rows == 101
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance(ddof=1), np.cov(values, rowvar=False), rtol=1e-9)
    np.testing.assert_allclose(apart.covariance(), values.var(0), rtol=1e-9)


@pytest.mark.parametrize("rows", [90, 12])  # more rows than features, and fewer
def test_pca_of_blocks_is_the_exact_one(nothing_fits, rows):
    rng = np.random.default_rng(0)
    values = 3 + rng.normal(size=(200, 24)) @ rng.normal(size=(24, 24))
    fitted = rng.permutation(200)[:rows]
    exact = PCA(10, svd_solver="full").fit(values[fitted])
    found = fit_pca(Stream.of(values), fitted, 10)
    np.testing.assert_allclose(found.variances, exact.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(found.axes, exact.components_, atol=1e-10)
    scores = found.scores(Stream.of(values)).array()
    np.testing.assert_allclose(scores, exact.transform(values), atol=1e-10)


@pytest.mark.parametrize(
    ("method", "dims"),
    [
        ("none", None),
        ("standardize", None),
        ("pca", 5),
        ("center_scale", None),
        ("pca_center_scale", 5),
        ("pca_center_scale", 20),  # fitted on all wells, not on the few controls
        ("tvn", None),
        ("tvn", 5),
    ],
)
def test_methods_do_the_same_to_what_does_not_fit(path, tmp_path, monkeypatch, method, dims):
    whole = align(read(path), TOLD, method, dims)
    monkeypatch.setattr(scratch, "BLOCK_VALUES", 24 * 7)
    held = align(read(path), TOLD, method, dims)
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    profiles = read(path, folder=tmp_path)
    aligned = align(profiles, TOLD, method, dims)
    assert scratch.is_mapped(profiles.features) and scratch.is_mapped(aligned.features)
    np.testing.assert_array_equal(aligned.features, held.features)
    x, y = aligned.features.astype(float), whole.features.astype(float)
    # axes of controls that vary alike are any axes
    np.testing.assert_allclose(*((x @ x.T, y @ y.T) if method == "tvn" else (x, y)), atol=5e-5)
    assert aligned.names == held.names and aligned.provenance == held.provenance
    assert not list(tmp_path.iterdir())  # no file that a kill could leave
    some = aligned.take(np.array([5, 3, 200]))
    assert scratch.is_mapped(some.features)
    np.testing.assert_array_equal(some.features, aligned.features[[5, 3, 200]])
    assert some.metadata["Metadata_Well"].iloc[1] == aligned.metadata["Metadata_Well"].iloc[3]


def test_a_disk_without_room_is_told_at_once(tmp_path, nothing_fits, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        UserError, match=r"1024 rows of 256 features .*lend the 1\.0 MiB .*No space"
    ):
        scratch.empty(1024, 256, tmp_path)
    monkeypatch.delattr(os, "posix_fallocate")  # as some systems are
    array = scratch.empty(700, 401, tmp_path)
    array[:] = np.arange(401)
    scratch.release(array)
    assert (array[[0, 699]] == np.arange(401)).all() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["mean", "median", "mad"])
def test_groups_larger_than_a_block_and_smaller(nothing_fits, tmp_path, method):
    rng = np.random.default_rng(0)
    codes = np.repeat([2, 0, 1, 3], [30, 1, 4, 3])[rng.permutation(38)]
    features = scratch.empty(38, 24, tmp_path)
    features[:] = rng.normal(size=(38, 24))
    features[5] = 50  # a bad one
    found = combine(features, codes, 4, method)
    assert scratch.is_mapped(found)
    for number in range(4):
        rows = features[codes == number].astype(float)
        if method == "mad":
            far = np.linalg.norm(rows - np.median(rows, 0), axis=1)
            weight = np.minimum(1, 2 * np.median(far) / np.maximum(far, 1e-300))
            weight = weight if np.median(far) else np.ones(len(rows))
            expected = weight @ rows / weight.sum()
        else:
            expected = getattr(np, method)(rows, axis=0)
        np.testing.assert_allclose(found[number], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("suffix", [".parquet", ".csv.gz", ".h5ad"])
def test_commands_on_what_does_not_fit(nothing_fits, path, tmp_path, suffix):
    aligned, genes = tmp_path / f"aligned{suffix}", tmp_path / f"genes{suffix}"
    run("align", "--profiles", path, "--align", "center_scale", "--out", aligned)
    run("aggregate", "--profiles", aligned, "--to", "gene", "--out", genes)
    left = {file.name for file in tmp_path.iterdir()}
    assert left <= {aligned.name, genes.name, "aligned.provenance.json", "genes.provenance.json"}
    held = aggregate.to_perturbations(aggregate.to_wells(read(aligned), TOLD), TOLD)
    back = read(genes)
    held = aggregate.to_genes(
        held.take(held.metadata["Metadata_pert_type"].to_numpy() == "trt"), TOLD
    )
    np.testing.assert_allclose(back.features, held.features, rtol=1e-5, atol=1e-6)
    assert len(back) == 32 and back.metadata["Metadata_num_profiles"].tolist() == [6] * 32


def test_row_groups_hold_what_the_table_held(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "ROW_GROUP_VALUES", 24 * 50)
    frame = plates.screen(2, 24)
    metadata = frame[[name for name in frame if name.startswith("Metadata_")]].copy()
    metadata["Metadata_Plate"] = [*range(96), *map("P{}".format, range(96))]  # two labs' names
    metadata["Metadata_Well"] = metadata["Metadata_Well"].astype("category")
    metadata["Metadata_date"] = pd.Timestamp("2026-11-28")
    features = frame[plates.feature_names(24)].to_numpy(np.float32)
    profiles = Profiles(features, metadata, tuple(plates.feature_names(24)))
    write(profiles, tmp_path / "p.parquet")
    assert pq.ParquetFile(tmp_path / "p.parquet").metadata.num_row_groups == 4
    back = pd.read_parquet(tmp_path / "p.parquet")
    expected = pd.concat(
        [metadata.astype({"Metadata_Plate": str}), frame[back.columns[8:]]], axis=1
    )
    pd.testing.assert_frame_equal(back, expected, check_dtype=False)
    assert back["Metadata_Well"].dtype == "category"
    write(profiles, tmp_path / "p.h5ad")  # which knows no dates
    assert read(tmp_path / "p.h5ad").metadata["Metadata_date"].str[:10].unique() == ["2026-11-28"]


@pytest.mark.parametrize("order", ["by well", "by site", "any"])
@pytest.mark.parametrize("how", ["mean", "median"])
def test_wells_of_objects_are_ready_as_soon_as_their_objects_are(tmp_path, monkeypatch, order, how):
    monkeypatch.setattr(scratch, "BLOCK_VALUES", 2 * 5)
    rng = np.random.default_rng(0)
    wells = np.repeat([f"{row}{column:02d}" for row in "BCA" for column in (3, 1)], 8)
    if order == "by site":
        wells = wells.reshape(-1, 4).T.ravel()
    elif order == "any":
        wells = rng.permutation(wells)
    table = pd.DataFrame({"ImageNumber": 1, "ObjectNumber": np.arange(1, len(wells) + 1)})
    table["Metadata_Plate"], table["Metadata_Well"] = "P1", wells
    for name in ("Cells_AreaShape_Area", "Cells_Texture_Contrast_DNA"):
        table[name] = rng.normal(size=len(wells)).astype(np.float32)
    table.loc[::7, "Cells_AreaShape_Area"] = np.nan
    table.to_parquet(tmp_path / "cells.parquet")
    found = read(tmp_path / "cells.parquet", Wanted(objects=how))
    expected = table.groupby("Metadata_Well", sort=False)[list(found.names)].agg(how)
    assert found.metadata["Metadata_Well"].tolist() == expected.index.tolist()
    np.testing.assert_allclose(found.features, expected, rtol=1e-6)
    assert found.metadata["Metadata_Object_Count"].tolist() == [8] * 6


def test_columns_of_a_long_row_group_are_read_some_at_a_time(tmp_path, monkeypatch):
    frame = plates.screen(1, 24)
    frame["Metadata_vector"] = list(np.arange(96 * 2, dtype=np.float32).reshape(96, 2))
    frame.to_parquet(tmp_path / "p.parquet", index=False)
    wanted = Wanted(features="Cells.*|Nuclei.*|Metadata_vector.*")
    whole = read(tmp_path / "p.parquet", wanted)
    monkeypatch.setattr(parquet, "OPEN_PAGES", 5 * 400)
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    monkeypatch.setattr(scratch, "BLOCK_VALUES", 24 * 7)
    found = read(tmp_path / "p.parquet", wanted, tmp_path)
    assert found.names == whole.names and len(found.names) == 18
    np.testing.assert_array_equal(found.features, whole.features)


KILLED = """
import os, signal, sys
from pathlib import Path
from phenomjax.maps.tables import scratch
from phenomjax.system.files import replacing

scratch.IN_MEMORY, out = 0, Path(sys.argv[1])
features = scratch.empty(100, 10, out.parent)
features[:] = 1
assert not os.listdir(out.parent)
with replacing(out, shared=True) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_nothing_that_the_next_run_does_not_remove(tmp_path):
    out = tmp_path / "aligned [1].parquet"
    done = subprocess.run([sys.executable, "-c", KILLED, str(out)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (half,) = tmp_path.iterdir()
    # of another process that writes the same now, and of another machine
    others = [half.name.replace(socket.gethostname(), "elsewhere")]
    mine = f"{socket.gethostname()}-"
    others.append(re.sub(rf"{re.escape(mine)}\d+", f"{mine}{os.getpid()}", half.name))
    for name in others:
        (tmp_path / name).write_bytes(b"half")
    frame = plates.screen(1, 3)
    features = frame[plates.feature_names(3)].to_numpy(np.float32)
    write(Profiles(features, frame[["Metadata_Well"]], tuple(plates.feature_names(3))), out)
    assert {file.name for file in tmp_path.iterdir()} == {out.name, *others}

"""Tables larger than memory: the same numbers as in memory, from files without a name."""

import errno
import os

import numpy as np
import pytest
from sklearn.decomposition import PCA

from phenomjax.maps.build.align import align
from phenomjax.maps.build.methods.components import fit_pca
from phenomjax.maps.build.methods.streams import Stream
from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.reading import read
from phenomjax.statistics.moments import Moments
from phenomjax.system.errors import UserError
from tests.lab import plates

COLUMNS = Columns(
    batch=("Metadata_Plate",), control=plates.NEGCON, perturbation="Metadata_broad_sample"
)


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
    whole = align(read(path), COLUMNS, method, dims)
    monkeypatch.setattr(scratch, "BLOCK_VALUES", 24 * 7)
    held = align(read(path), COLUMNS, method, dims)
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    profiles = read(path, folder=tmp_path)
    aligned = align(profiles, COLUMNS, method, dims)
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

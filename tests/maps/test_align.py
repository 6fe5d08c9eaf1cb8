"""Alignment and aggregation against their definitions, written out plainly."""

import logging
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import fractional_matrix_power
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from phenomjax.maps.build import aggregate
from phenomjax.maps.build.align import align
from phenomjax.maps.build.combining import combine
from phenomjax.maps.build.doubts import share_of_cosines, tell_doubts
from phenomjax.maps.build.methods.harmony import harmony
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.profiles import Profiles, feature_names
from phenomjax.maps.tables.reading import read
from phenomjax.maps.tables.writing import write
from phenomjax.system.errors import UserError
from tests.lab.maps import run

COLUMNS = Columns(batch=("plate",))


def _screen(wells=60, plates=3, dim=6, seed=0) -> Profiles:
    rng = np.random.default_rng(seed)
    plate = np.repeat(np.arange(plates), wells)
    features = rng.normal(size=(wells * plates, dim)) @ rng.normal(size=(dim, dim))
    features = (
        features * rng.uniform(0.5, 2, (plates, dim))[plate]
        + rng.normal(size=(plates, dim))[plate] * 3
    )
    metadata = pd.DataFrame(
        {"plate": plate.astype(str), "well": np.tile(np.arange(wells), plates).astype(str)}
    )
    metadata["is_control"] = metadata["well"].astype(int) < wells // 2
    metadata["perturbation"] = np.where(metadata["is_control"], "DMSO", "p" + metadata["well"])
    metadata["gene"] = "g" + (metadata["well"].astype(int) // 2).astype(str)
    return Profiles(features.astype(np.float32), metadata, feature_names(dim))


@pytest.fixture(scope="module")
def screen() -> Profiles:
    return _screen()


def _per_batch(values, screen, fit):
    out = np.empty_like(values)
    for plate in "012":
        rows = (screen.metadata["plate"] == plate).to_numpy()
        out[rows] = StandardScaler().fit(values[rows & fit]).transform(values[rows])
    return out


def _same_up_to_signs(values, expected):
    sign = np.sign((values * expected).sum(0))
    np.testing.assert_allclose(values * sign, expected, atol=2e-4)


def test_methods_equal_their_definitions(screen):
    x = screen.features.astype(float)
    controls, everyone = screen.metadata["is_control"].to_numpy(), np.ones(len(x), bool)
    np.testing.assert_allclose(
        align(screen, COLUMNS, "standardize").features, _per_batch(x, screen, everyone), atol=1e-5
    )
    np.testing.assert_allclose(
        align(screen, COLUMNS, "center_scale").features, _per_batch(x, screen, controls), atol=1e-5
    )
    _same_up_to_signs(
        align(screen, COLUMNS, "pca", 4).features,
        PCA(4).fit_transform(_per_batch(x, screen, everyone)),
    )
    on_controls = _per_batch(PCA(4).fit(x[controls]).transform(x), screen, controls)
    result = align(screen, COLUMNS, "pca_center_scale", 4)
    _same_up_to_signs(result.features, on_controls)  # 90 controls are 10 a component and more
    assert result.provenance["steps"][-1]["pca_fit"] == "controls"
    scaled = StandardScaler().fit_transform(x)
    few = align(screen, COLUMNS, "pca_center_scale", 4, "all")
    _same_up_to_signs(few.features, _per_batch(PCA(4).fit_transform(scaled), screen, controls))
    np.testing.assert_array_equal(align(screen, COLUMNS, "none").features, screen.features)
    counts = screen.with_features(np.abs(screen.features), screen.names)
    np.testing.assert_allclose(
        align(counts, COLUMNS, "none", transform="sqrt").features, np.sqrt(np.abs(x)), rtol=1e-6
    )


def test_tvn_equals_its_definition(screen):
    x, controls = screen.features.astype(float), screen.metadata["is_control"].to_numpy()
    x = StandardScaler().fit(x[controls]).transform(x)
    x = PCA().fit(x[controls]).transform(x)
    x = StandardScaler().fit(x[controls]).transform(x)
    for plate in "012":
        rows = (screen.metadata["plate"] == plate).to_numpy()
        variances, axes = np.linalg.eigh(
            np.cov(x[rows & controls], rowvar=False, ddof=1) + 0.5 * np.eye(x.shape[1])
        )
        x[rows] = x[rows] @ axes @ np.diag(variances**-0.5) @ axes.T
    found = align(screen, COLUMNS, "tvn").features.astype(float)
    # whatever the signs of the components
    np.testing.assert_allclose(found @ found.T, x @ x.T, atol=2e-3)
    assert align(screen, COLUMNS, "tvn").provenance["steps"][-1]["rank_starved_batches"] == 0


def test_sphering_equals_its_definition(screen):
    controls = screen.metadata["is_control"].to_numpy()
    x = _per_batch(screen.features.astype(float), screen, controls)
    covariance, shrinkage = ledoit_wolf(x[controls])
    found = align(screen, COLUMNS, "sphering")
    expected = x @ fractional_matrix_power(covariance, -0.5)
    np.testing.assert_allclose(found.features, expected, atol=1e-4)
    assert found.provenance["steps"][-1]["shrinkage"] == pytest.approx(shrinkage, rel=1e-6)
    assert found.names == screen.names
    assert align(screen, COLUMNS, "sphering", 4).features.shape[1] == 4
    # 12 controls of 40 features: shrunk, and no direction is blown up
    few = align(_screen(wells=8, dim=40), COLUMNS, "sphering").features
    assert np.isfinite(few).all() and np.abs(few).max() < 100


def test_harmony_is_that_of_harmonypy(screen, monkeypatch):
    from harmonypy import run_harmony

    base = align(screen, COLUMNS, "pca_center_scale", 6).features.astype(float)
    expected = run_harmony(
        base, screen.metadata, ["plate"], nclust=6, max_iter_harmony=50, verbose=False
    ).Z_corr
    found = align(screen, COLUMNS, "harmony", 6)
    np.testing.assert_allclose(found.features, expected, atol=1e-4)
    again = align(screen, COLUMNS, "harmony", 6)
    np.testing.assert_array_equal(found.features, again.features)
    # without controls: of the components of all wells
    free = Columns(batch=("plate",), control="")
    assert align(screen, free, "harmony", 4).features.shape == (180, 4)
    # as many wells as components are no other way round
    square = np.random.default_rng(0).normal(size=(60, 60))
    halves, wider = np.array(["a", "b"]).repeat(30), np.pad(square, ((0, 0), (0, 1)))
    np.testing.assert_allclose(harmony(square, halves), harmony(wider, halves)[:, :60], atol=1e-6)
    with pytest.raises(UserError, match="brings batches together, and there is one"):
        align(screen, Columns(batch=()), "harmony")
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(UserError, match=r"pip install 'phenomjax\[harmony\]'"):
        align(screen, COLUMNS, "harmony")


def test_harmony_mixes_batches_that_differ_in_some_wells_only():
    """Half of the wells of one plate are shifted: no scaling of the plate takes that out."""
    screen = _screen(wells=120, plates=2)
    x = align(screen, COLUMNS, "standardize").features.astype(float)
    groups = np.tile(np.arange(120) % 2, 2)
    plate = screen.metadata["plate"].to_numpy(object)
    x += 20.0 * groups[:, None] * np.eye(6)[0] + 3.0 * ((plate == "1") & (groups == 1))[:, None]
    mixed = harmony(x, plate)

    def apart(values):
        one, other = (values[(plate == name) & (groups == 1)] for name in "01")
        return np.linalg.norm(one.mean(0) - other.mean(0))

    assert apart(mixed) < 0.2 * apart(x)


def test_few_controls_are_explained(caplog):
    starved = _screen(wells=8, dim=12)  # 4 controls a plate, 12 in all
    logging.getLogger("phenomjax").propagate = True
    with caplog.at_level(logging.INFO, "phenomjax"):
        result = align(starved, COLUMNS, "tvn", 8)
        tell_doubts(result)
    assert (
        "12 controls for 8 components are fewer than 10 a component, so the PCA is fitted on all 24"
        " wells" in caplog.text
    )
    assert (
        "TVN is rank-starved: 3 of 3 batches have no more controls than the 8 dimensions (the"
        " fewest: 4)" in caplog.text
    )
    assert "--align pca_center_scale" in caplog.text and np.isfinite(result.features).all()
    assert result.provenance["steps"][-1]["rank_starved_batches"] == 3
    assert np.isfinite(
        align(starved, COLUMNS, "tvn").features
    ).all()  # more features than controls: empty directions are left out


def test_doubts_are_told(caplog):
    """A few features that rule all cosines, few controls, what was aligned before; no doubt where
    there is none.
    """
    sound = _screen(wells=24, dim=40)
    several = align(sound, COLUMNS, "center_scale")
    with caplog.at_level(logging.INFO, "phenomjax"):
        tell_doubts(several)
        tell_doubts(align(several, COLUMNS, "none"))
    assert caplog.text == ""
    spoilt = sound.features.copy()
    spoilt[:, 7] *= np.where(COLUMNS.controls(sound.metadata), 1, 100)
    ruled = align(sound.with_features(spoilt, sound.names), COLUMNS, "center_scale")
    of_one = share_of_cosines(ruled)[7]
    units = ruled.features / np.linalg.norm(ruled.features, axis=1, keepdims=True)
    assert of_one == pytest.approx((units[:, 7] ** 2).mean(), rel=1e-5)
    few = align(_screen(wells=8, dim=40), COLUMNS, "center_scale")  # 4 controls a plate
    with caplog.at_level(logging.INFO, "phenomjax"):
        tell_doubts(ruled)
        tell_doubts(few)
        tell_doubts(align(several, COLUMNS, "pca_center_scale", 8))
    first, second, third = caplog.messages[0], caplog.messages[1], caplog.messages[-1]
    assert first.startswith("2 of 40 features make") and sound.names[7] in first
    assert "a batch has 4 controls, which tell the spread of a feature within 41 %" in second
    assert "had been aligned before (center_scale), and are once more by pca_center_scale" in third


def test_batches_without_controls_and_too_many_dims(screen):
    metadata = screen.metadata.copy()
    metadata.loc[metadata["plate"] == "1", "is_control"] = False
    missing = Profiles(screen.features, metadata, screen.names)
    with pytest.raises(
        UserError,
        match=(
            r"1 of 3 batches have fewer than 2 controls \(the first: '1' with 0\).*coarser `batch`"
        ),
    ):
        align(missing, COLUMNS, "center_scale")
    metadata["is_control"] = False
    with pytest.raises(UserError, match=r"No row is a negative control.*`align` standardize"):
        align(Profiles(screen.features, metadata, screen.names), COLUMNS, "tvn")
    with pytest.raises(
        UserError,
        match=r"`dims` 7: a PCA of 90 rows with 6 features has at most 6 components. Use `dims` 6",
    ):
        align(screen, COLUMNS, "pca_center_scale", 7, "controls")
    with pytest.raises(UserError, match=r"nowhere negative"):
        align(screen, COLUMNS, "none", transform="sqrt")


def test_aggregation_counts_each_unit_of_a_level_once():
    metadata = pd.DataFrame(
        {
            "plate": ["1", "1", "1", "1", "2"],
            "well": ["A1", "A1", "A2", "A3", "A1"],
            "site": list("12111"),
            "is_control": False,
            "perturbation": ["g1", "g1", "g1", "g2", "g1"],
            "gene": "TP53",
            "perturbation_type": "crispr",
            "concentration": [1.0, 1.0, 1.0, 1.0, 3.0],
        }
    )
    crops = Profiles(np.array([[0], [2], [4], [7], [10]], np.float32), metadata, ("feature_0000",))
    columns = Columns(batch=("plate",))
    wells = aggregate.to_wells(crops, columns)
    assert wells.features.ravel().tolist() == [1, 4, 7, 10] and wells.metadata[
        "num_profiles"
    ].tolist() == [2, 1, 1, 1]
    assert wells.metadata["site"].tolist() == [None, "1", "1", "1"]
    apart = aggregate.to_perturbations(wells, columns, doses="apart")
    assert apart.metadata[["perturbation", "concentration"]].to_numpy().tolist() == [
        ["g1", 1.0],
        ["g1", 3.0],
        ["g2", 1.0],
    ]
    assert apart.features.ravel().tolist() == [2.5, 10, 7]
    assert aggregate.labels_of(wells, columns, "apart").tolist() == [
        "g1 @ 1.0",
        "g1 @ 1.0",
        "g2",  # at one dose
        "g1 @ 3.0",
    ]
    together = aggregate.to_perturbations(wells, columns)
    assert together.features.ravel().tolist() == [6.25, 7] and together.metadata[
        "num_profiles"
    ].tolist() == [4, 1]
    genes = aggregate.to_genes(aggregate.to_perturbations(wells, columns), columns)
    assert genes.features.ravel().tolist() == [pytest.approx(6.625)] and genes.metadata[
        "perturbation"
    ].tolist() == ["TP53"]
    with pytest.raises(UserError, match=r"No row perturbs a gene"):
        aggregate.to_genes(wells.take(np.arange(1)), Columns(batch=("plate",), gene="site"))


def test_median_and_mad_resist_one_bad_well():
    rows = np.array([[0.0, 0], [0.2, 0], [0, 0.2], [100, 100]], np.float32)
    codes = np.zeros(4, int)
    assert np.abs(combine(rows, codes, 1, "median")).max() <= 0.15
    distance = np.linalg.norm(rows - np.median(rows, 0), axis=1)
    weight = np.minimum(1, 2 * np.median(distance) / distance)
    np.testing.assert_allclose(
        combine(rows, codes, 1, "mad")[0], weight @ rows / weight.sum(), rtol=1e-6
    )
    assert combine(rows, codes, 1, "mad").max() < 0.5 < combine(rows, codes, 1, "mean").max()
    assert combine(np.ones((3, 2), np.float32), np.array([1, 0, 1]), 2, "mad").tolist() == [
        [1, 1],
        [1, 1],
    ]


def test_align_and_aggregate_through_the_front_door(screen, tmp_path):
    sites = [
        screen,
        Profiles(screen.features + 0.5, screen.metadata.assign(site="2"), screen.names),
    ]
    for number, one in enumerate(sites):
        write(one, tmp_path / f"site{number}.parquet")
    both = [tmp_path / "site0.parquet", tmp_path / "site1.parquet"]
    run(
        "aggregate",
        "--profiles",
        *both,
        "--batch",
        "plate",
        "--to",
        "well",
        "--out",
        tmp_path / "wells.h5ad",
    )
    wells = read(tmp_path / "wells.h5ad")
    np.testing.assert_allclose(
        np.sort(wells.features, 0), np.sort(screen.features + 0.25, 0), rtol=1e-5
    )
    run(
        "align",
        "--profiles",
        tmp_path / "wells.h5ad",
        "--batch",
        "plate",
        "--align",
        "tvn",
        "--dims",
        5,
        "--out",
        tmp_path / "aligned.csv",
    )
    run(
        "aggregate",
        "--profiles",
        tmp_path / "aligned.csv",
        "--batch",
        "plate",
        "--to",
        "gene",
        "--method",
        "mad",
        "--out",
        tmp_path / "genes.csv.gz",
    )
    genes = read(tmp_path / "genes.csv.gz")
    assert (
        len(genes) == 15
        and genes.features.shape[1] == 5
        and genes.metadata["num_profiles"].tolist() == [12] * 15
    )
    assert [step["command"] for step in genes.provenance["steps"]] == [
        "aggregate",
        "align",
        "aggregate",
    ]
    assert (
        len(genes.provenance["sources"]) == 2 and genes.provenance["steps"][-2]["method"] == "tvn"
    )
    with pytest.raises(UserError, match=r"out\.txt has a suffix that names no format"):
        run("align", "--profiles", tmp_path / "wells.h5ad", "--out", tmp_path / "out.txt")

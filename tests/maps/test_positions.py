"""What the position of a well does: told, measured on controls, met by a null that shares it."""

import json

import numpy as np
import pandas as pd
import pytest

from phenomjax.maps.positions.correction import position_effects
from phenomjax.maps.positions.places import position_of, rows_and_columns
from phenomjax.statistics.consistency import Placed, consistency
from phenomjax.statistics.matched_sets import MatchedSets, patterns_of
from phenomjax.system.errors import UserError
from tests.lab import plates
from tests.lab.maps import run

COLUMNS = [
    *("--batch", "Metadata_Plate", "--control", plates.NEGCON),
    *("--perturbation", "Metadata_broad_sample", "--gene", "Metadata_gene"),
]


def written(path, **how):
    """A screen on three plates as a file."""
    plates.screen(**how).to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("A01", "A01"),
        ("a1", "A01"),
        ("r02c11", "B11"),
        ("compound-001_1_AA02", "AA02"),
        ("plate 7/H12", "H12"),
        ("W07", "W07"),
        ("feeder", "feeder"),
        ("", ""),
    ],
)
def test_positions_of_wells_in_any_spelling(text, position):
    assert position_of(text) == position


def test_rows_and_columns_of_positions():
    rows, columns = rows_and_columns(np.array(["A01", "H12", "AF48", "feeder"], object))
    assert rows.tolist() == [1, 8, 32, 0] and columns.tolist() == [1, 12, 48, 0]


def test_sets_lie_as_the_replicates_do_and_share_nothing_else():
    positions = np.array(["A01", "A01", "A01", "B01", "B01", "C01", "C01", "C01", ""], object)
    codes = np.array([0, 0, 1, 2, 3, -1, -1, -1, 4])  # C01 holds controls
    assert patterns_of(codes[codes >= 0], positions[codes >= 0]) == [(2,), (1,), (1,), (1,), (1,)]
    assert patterns_of(np.array([0, 0, 0, 0]), np.array(["A", "A", "", ""], object)) == [(2, 1, 1)]
    matched = MatchedSets(positions, codes)
    every = {(0, 2), (1, 2), (3, 4), (5, 6), (5, 7), (6, 7)}
    assert set(map(tuple, matched.draw((2,), 99, 0).tolist())) == every
    four = matched.draw((2,), 4, 0).tolist()
    assert len(four) == 4 and set(map(tuple, four)) < every
    assert matched.draw((3,), 99, 0).tolist() == [[5, 6, 7]]
    assert len(matched.draw((4,), 99, 0)) == 0
    for rows in matched.draw((2, 1), 200, 0):
        assert sorted(np.unique(positions[rows], return_counts=True)[1]) == [1, 2]
        treated = codes[rows][codes[rows] >= 0]
        assert len(set(treated)) == len(treated) and "" not in positions[rows]


def test_consistency_with_a_null_of_the_same_positions_is_its_definition():
    rng = np.random.default_rng(0)
    features, controls = rng.normal(size=(6, 4)), rng.normal(size=(8, 4))
    labels = np.array(["a", "a", "b", "b", "c", "c"], object)
    placed = Placed(
        np.array(["A1", "A1", "A2", "A2", "A3", "A4"], object),
        controls,
        np.repeat(np.array(["B1", "B2", "B3", "B4"], object), 2),
    )
    found = consistency(features, labels, placed=placed, draws=50)
    unit = controls / np.linalg.norm(controls, axis=1, keepdims=True)
    null = (unit[::2] * unit[1::2]).sum(1)
    for k in range(2):
        assert found.p[k] == (null >= found.cosine[k]).mean()
        assert found.honest_p[k] == (1 + (null >= found.cosine[k]).sum()) / 5
    # the replicates of c lie in two positions: any wells of other perturbations are its like
    assert found.p[2] == consistency(features, labels, draws=50).p[2]


@pytest.fixture(scope="module")
def nothing_but_position(tmp_path_factory):
    """Compounds that do nothing, on plates whose rows and columns differ."""
    path = tmp_path_factory.mktemp("positions") / "plates.parquet"
    return written(path, effect=0.0, position=0.7)


def test_position_is_measured_said_and_matched(nothing_but_position, tmp_path, capsys):
    words = ["--profiles", nothing_but_position, *COLUMNS, "--align", "center_scale"]
    results = {}
    for null in ("random", "position"):
        out = tmp_path / null
        assert (
            run(
                "benchmark",
                *words,
                "--probe",
                "none",
                "--null_size",
                99,
                "--null",
                null,
                "--out",
                out,
            )
            == 0
        )
        results[null] = json.loads((out / "benchmark.json").read_text())
    text = capsys.readouterr().err
    share = {null: result["consistency.share_p05"]["value"] for null, result in results.items()}
    cost = results["random"]["position.share_p05"]
    assert share["random"] > 0.5 and share["position"] < 0.15
    assert cost["value"] > 0.4 and cost["count"] == plates.CONTROLS
    assert cost["chance"] == 0.05 and cost["interval"][0] < cost["value"] < cost["interval"][1]
    assert cost["perturbations"] == cost["in_one_position"] == 64
    said = results["random"]["about"]["positions"]
    assert "64 of 64 perturbations have all their replicates in the same well position" in said
    assert f"a share of {cost['value']:.3f} where chance is .05" in said
    assert said in text and text.count("--null position") == 1
    assert f"has {plates.CONTROLS} sets, so that no p is below 0.04" in text
    assert "52 of 64 perturbations have to be above all of it" in text
    assert "lie in the same positions" in results["position"]["consistency.share_p05"]["null"]

    active = {}
    for null in ("random", "position"):  # of filter, on aligned wells
        out = tmp_path / f"filter_{null}"
        words = ["--profiles", nothing_but_position, *COLUMNS, "--null", null, "--null_size", 99]
        assert run("filter", *words, "--out", out) == 0
        active[null] = json.loads((out / "filter.json").read_text())
    assert active["random"]["active"] > 20 and active["position"]["active"] == 0
    assert "same well position" in active["random"]["positions"]


def test_layouts_that_differ_between_plates_are_no_confounding(tmp_path, capsys):
    table = plates.screen(effect=0.0, position=0.7)
    rng = np.random.default_rng(0)
    info = [name for name in table if name.startswith("Metadata") and "Well" not in name]
    info.remove("Metadata_Plate")
    for _, rows in table.groupby("Metadata_Plate").groups.items():
        table.loc[rows, info] = table.loc[rng.permutation(rows), info].to_numpy()
    table.to_parquet(tmp_path / "p.parquet")
    words = [
        "--profiles",
        tmp_path / "p.parquet",
        *COLUMNS,
        "--align",
        "none",
        "--probe",
        "none",
        "--null_size",
        99,
    ]
    assert run("benchmark", *words, "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert found["position.share_p05"]["in_one_position"] < 5
    assert found["consistency.share_p05"]["value"] < 0.2 and "--null position" not in (
        capsys.readouterr().err
    )


def test_two_nulls_and_no_null_are_refused(nothing_but_position, tmp_path):
    words = ["filter", "--profiles", nothing_but_position, *COLUMNS, "--out", tmp_path]
    with pytest.raises(UserError, match="are two nulls of one test"):
        run(*words, "--null", "position", "--unexpressed", "Metadata_gene == 'GENE00'")
    table = pd.read_parquet(nothing_but_position)
    table[table["Metadata_pert_type"] == "trt"].to_parquet(tmp_path / "treated.parquet")
    words[2] = tmp_path / "treated.parquet"
    with pytest.raises(UserError, match="--null random compares with wells anywhere"):
        run(*words, "--null", "position")
    assert run(*words, "--null", "random") == 0
    table.drop(columns="Metadata_Well").to_parquet(tmp_path / "treated.parquet")
    words = ["filter", "--profiles", tmp_path / "treated.parquet", "--out", tmp_path]
    with pytest.raises(UserError, match=r"no row says in which well it is.*unknown. Name it with"):
        run(*words, "--null", "position")


GRID = np.array([(row, column) for row in range(1, 9) for column in range(1, 13)])


def test_effects_of_positions_are_their_best_prediction():
    """Of a fifth of the positions with controls; what is told of a control's own position is the
    prediction without it.
    """
    rng = np.random.default_rng(0)
    of_row, of_column = rng.normal(size=(8, 40)), rng.normal(size=(12, 40))
    truth = of_row[GRID[:, 0] - 1] + of_column[GRID[:, 1] - 1]
    some = np.sort(rng.choice(len(GRID), 40, replace=False))
    counts, noise = rng.integers(2, 6, len(some)), np.full(40, 0.25)
    means = truth[some] + rng.normal(size=(len(some), 40)) * 0.5 / np.sqrt(counts)[:, None]
    means[:, 0], noise[0] = 7, 0  # a feature without noise is left alone
    found = position_effects(means, counts, noise, GRID, some)
    assert found.variances["row"] > 1 and found.variances["column"] > 1
    assert found.variances["own"] < 0.5
    others = np.setdiff1d(np.arange(len(GRID)), some)
    left = (truth - found.effects)[others][:, 1:]
    assert (left**2).mean() < 0.2 * (truth[others][:, 1:] ** 2).mean()
    assert not found.effects[:, 0].any()

    def covariance(a, b):
        far = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1))
        same = a[:, None] == b[None]
        parts = (same[..., 0], same[..., 1], np.exp(-far / 4), same.all(-1))
        return sum(v * one for v, one in zip(found.variances.values(), parts, strict=True))

    rest = np.arange(1, len(some))  # without the first
    there = covariance(GRID[some[rest]], GRID[some[rest]]) + np.diag(1 / counts[rest])
    at = covariance(GRID[some[:1]], GRID[some[rest]])
    expected = at @ np.linalg.solve(there, means[rest] / 0.5) * 0.5
    np.testing.assert_allclose(found.of_controls[some[0], 1:], expected[0, 1:], rtol=1e-6)


def test_nothing_is_subtracted_where_position_does_nothing():
    rng = np.random.default_rng(0)
    some = np.arange(0, 96, 3)
    means = rng.normal(size=(32, 200)) / np.sqrt(3)
    found = position_effects(means, np.full(32, 3), np.ones(200), GRID, some)
    assert sum(found.variances.values()) < 0.05
    assert found.effects.std() < 0.1 and found.of_controls.std() < 0.1


def test_position_is_taken_out(nothing_but_position, tmp_path, capsys):
    words = ["--profiles", nothing_but_position, *COLUMNS, "--correct_positions"]
    more = [
        "--align",
        "center_scale",
        "--probe",
        "none",
        "--null_size",
        99,
        "--out",
        tmp_path / "out",
    ]
    assert run("benchmark", *words, *more) == 0
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert found["consistency.mean_cosine"]["value"] < 0.5 * 0.422  # by half of what it was
    assert found["consistency.share_p05"]["value"] < 0.5
    assert found["position.share_p05"]["value"] < 0.9
    (step,) = [one for one in found["about"]["provenance"]["steps"] if one["command"] == "align"]
    assert step["positions"]["positions_with_controls"] == plates.CONTROLS
    assert step["positions"]["rows_without_position"] == 0
    assert "positions corrected by 72 controls in 24 of 96 positions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Metadata_Well": lambda t: "wells " + t["Metadata_Well"].str[0]}, "no row names a place"),
        ({"Metadata_control_type": "trt"}, "3 of 3 batches have fewer than 2"),
        (
            {"Metadata_Plate": "BR1", "Metadata_Batch": lambda t: t["Metadata_Plate"]},
            "24 positions",
        ),
    ],
)
def test_what_cannot_be_corrected_is_said(tmp_path, change, said):
    table = plates.screen(plates=3 if "Metadata_Plate" not in change else 1)
    table.assign(**change).to_parquet(tmp_path / "p.parquet")
    words = ["align", "--profiles", tmp_path / "p.parquet", *COLUMNS, "--correct_positions"]
    with pytest.raises(UserError, match=r"--correct_positions") as raised:
        run(*words, "--align", "none", "--out", tmp_path / "a.parquet")
    assert said in str(raised.value)


@pytest.mark.shared_data
def test_positions_of_cpjump1(shared, tmp_path):
    """DMSO is in 64 positions of each plate. Half of them, named by their position as if they were
    compounds, are active for the usual null, and not for one of the same positions.
    """
    folder = shared / "microscopy" / "profiles" / "cpjump1"
    name = "BR001170{}_normalized_feature_select_negcon_batch.csv.gz"
    table = pd.concat([pd.read_csv(folder / name.format(plate)) for plate in (10, 11, 12)])
    table = table[table["Metadata_control_type"] == "negcon"]
    half = sorted(set(table["Metadata_Well"]))[::2]
    named = table["Metadata_Well"].isin(half)
    table["Metadata_broad_sample"] = ("DMSO " + table["Metadata_Well"]).where(named)
    table["Metadata_pert_type"] = np.where(named, "trt", "control")
    table["Metadata_control_type"] = table["Metadata_control_type"].where(~named)
    table.to_parquet(tmp_path / "dmso.parquet")
    words = ["benchmark", "--profiles", tmp_path / "dmso.parquet", "--align", "center_scale"]
    words += ["--probe", "none", "--null_size", 99, "--out", tmp_path / "out"]
    share = {}
    for more in ("", "--null position", "--correct_positions"):
        assert run(*words, *more.split()) == 0
        found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
        share[more] = found["consistency.share_p05"]["value"]
        assert found["position.share_p05"]["in_one_position"] == 32
    assert share[""] == pytest.approx(0.406, abs=0.04)
    assert share["--null position"] < 0.1
    assert share["--correct_positions"] == pytest.approx(0.219, abs=0.04)

"""Cosines of all pairs in blocks: exact neighbours, quantiles and p-values within the stated error;
query; block search.
"""

import json

import numpy as np
import pandas as pd
import pytest
import tensorstore

from phenomjax.maps.relations import cosines, relate
from phenomjax.maps.tables.profiles import Profiles, feature_names
from phenomjax.maps.tables.writing import write
from phenomjax.statistics.cosines import exact_cosines
from phenomjax.system.errors import UserError
from tests.lab.maps import run
from tests.lab.plates import screen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A map of 40 genes and 25 compounds, 8 dimensions, with ties: G00 and G01 are alike, cpd0 is
    their opposite.
    """
    path, rng = tmp_path_factory.mktemp("map"), np.random.default_rng(0)
    features = rng.normal(size=(65, 8)).astype(np.float32)
    features[1], features[40] = features[0] * 2, -features[0]
    names = [f"G{k:02d}" for k in range(40)] + [f"cpd{k}" for k in range(25)]
    metadata = pd.DataFrame({"perturbation": names, "gene": [*names[:40], "G01", *["G02"] * 24]})
    metadata["perturbation_type"] = ["crispr"] * 40 + ["compound"] * 25
    write(Profiles(features, metadata, feature_names(8)), path / "map.parquet")
    np.save(path / "features.npy", features)
    return path


@pytest.mark.parametrize("numbers", [50, 3 * 10**6])
def test_neighbours_are_those_of_the_whole_square(folder, monkeypatch, numbers):
    monkeypatch.setattr(cosines, "NUMBERS_AT_ONCE", numbers)
    monkeypatch.setattr(relate, "ROW_GROUP", 500)
    assert (
        run(
            "relate",
            "--profiles",
            folder / "map.parquet",
            "--top",
            5,
            "--square",
            "--out",
            folder / "relations",
        )
        == 0
    )
    features = np.load(folder / "features.npy")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    # 0 and 1 are alike, and the numbers of a profile's cosines with both
    square = np.round(unit.astype(np.float64) @ unit.astype(np.float64).T, 6)
    np.testing.assert_allclose(np.load(folder / "relations" / "square.npy"), square, atol=1e-6)
    table = pd.read_parquet(folder / "relations" / "neighbours.parquet")
    assert len(table) == 65 * 2 * 2 * 5 and not (table["entity"] == table["neighbour"]).any()
    names = np.array([f"G{k:02d}" for k in range(40)] + [f"cpd{k}" for k in range(25)])
    for row in (0, 7, 40, 64):
        for kind, columns in (("gene", np.arange(40)), ("compound", np.arange(40, 65))):
            for side, sign in (("similar", 1), ("opposite", -1)):
                others = columns[columns != row]
                expected = names[others[np.argsort(-sign * square[row, others], kind="stable")[:5]]]
                chosen = table.query(
                    f"entity == '{names[row]}' and neighbour_kind == '{kind}' and side == '{side}'"
                ).sort_values("rank")
                assert chosen["neighbour"].tolist() == expected.tolist()
    null = np.sort(square[np.triu_indices(65, 1)])
    record = json.loads((folder / "relations" / "quantiles.json").read_text())
    assert record["pairs"] == len(null) == record["null_pairs"] and record["kinds"] == {
        "compound": 25,
        "gene": 40,
    }
    for share, value in record["quantiles"].items():
        exact = null[max(int(np.ceil(float(share) * len(null))) - 1, 0)]
        assert abs(value - exact) <= record["quantile_error"] + 1e-6
    p = table.query("side == 'similar'")
    exact = np.array([(null >= cosine - 1e-6).mean() for cosine in p["cosine"]])
    assert (p["p"] >= exact - 1e-9).all() and np.abs(p["p"] - exact).max() <= 3 / len(
        null
    )  # errs upwards, by what shares the bin
    best = table.query("entity == 'G00' and rank == 1").set_index(["neighbour_kind", "side"])[
        "neighbour"
    ]
    assert best["gene", "similar"] == "G01" and best["compound", "opposite"] == "cpd0"


def test_top_k_is_exact_where_only_a_sample_sets_the_threshold():
    rng = np.random.default_rng(1)
    rows = cosines.units(rng.integers(-2, 3, (400, 6)).astype(np.float32) + 0.01)
    for start, sides in relate.top_k(rows[:50], rows, 4):  # stride 16
        for side, sign in (("similar", 1), ("opposite", -1)):
            found, values = sides[side]
            square = rows[start : start + len(found)] @ rows.T
            exact = exact_cosines(rows[start : start + len(found)], rows)
            np.testing.assert_array_equal(
                found, np.argsort(-sign * exact, axis=1, kind="stable")[:, :4]
            )
            np.testing.assert_array_equal(values, np.take_along_axis(square, found, 1))
    assert sum(block.shape[0] for _, block in cosines.cosines(rows)) == 400


def test_null_of_chosen_entities_and_what_no_map_is(folder):
    run(
        "relate",
        "--profiles",
        folder / "map.parquet",
        "--null",
        "perturbation_type == 'crispr'",
        "--out",
        folder / "null",
    )
    assert (
        json.loads((folder / "null" / "quantiles.json").read_text())["null_pairs"] == 40 * 39 // 2
    )
    with pytest.raises(UserError, match=r"--null .* names 1 entities"):
        run(
            "relate",
            "--profiles",
            folder / "map.parquet",
            "--null",
            "gene == 'G00'",
            "--out",
            folder / "null",
        )
    with pytest.raises(
        UserError, match=r"1 of 2 profiles are zero in all features \(the first is row 1\)"
    ):
        cosines.units(np.array([[1.0, 0], [0, 0]], np.float32))


def test_query_prints_both_sides_genes_and_compounds_apart(folder, capsys):
    assert (
        run(
            "query",
            "g00",
            "--profiles",
            folder / "map.parquet",
            "--top",
            2,
            "--out",
            folder / "query.json",
        )
        == 0
    )
    printed = capsys.readouterr().out
    found = json.loads((folder / "query.json").read_text())["G00"]
    assert found["gene"]["similar"][0]["name"] == "G01" and found["gene"]["similar"][0][
        "cosine"
    ] == pytest.approx(1)
    assert found["compound"]["opposite"][0] == {
        "name": "cpd0",
        "called": "",
        "gene": "G01",
        "cosine": pytest.approx(-1),
        "p": pytest.approx(2 / 2080),
    }
    assert len(found["compound"]["similar"]) == 2 and "G00 (gene)" in printed
    assert (
        printed.index("similar compounds")
        < printed.index("opposite compounds")
        < printed.index("similar genes")
    )
    for name, mend in (("G0", "In part it is in: G00, G01, "), ("GG01", "Did you mean 'G01'")):
        with pytest.raises(UserError, match=rf"'{name}' is not in the map of 65.*{mend}"):
            run("query", name, "--profiles", folder / "map.parquet")


def test_query_knows_what_people_call_a_compound(tmp_path, capsys):
    """As the page of `maps explore` does; a row without any name has one that can be read."""
    table = screen(plates=1).drop_duplicates("Metadata_broad_sample").reset_index(drop=True)
    table = table[table["Metadata_control_type"].ne("poscon_cp")]
    named = table["Metadata_broad_sample"].notna()
    called = table["Metadata_broad_sample"].str.replace("CMP", "drug", regex=False)
    table.assign(Metadata_pert_iname=called.where(named, None)).to_parquet(tmp_path / "m.parquet")
    run("query", "DRUG-003", "--profiles", tmp_path / "m.parquet", "--top", len(table))
    printed = capsys.readouterr().out
    assert "CMP-003 (compound, drug-003, target GENE01)" in printed
    assert "CMP-002  drug-002  target GENE01" in printed and "(no name)" in printed


def test_block_search_finds_the_block_that_separates(tmp_path):
    rng = np.random.default_rng(0)
    plate, kind = np.repeat([0, 1, 2], 24), np.tile(np.arange(8), 9)
    centre = 3 * rng.normal(size=(8, 6))
    metadata = pd.DataFrame(
        {
            "experiment": "E",
            "plate": plate.astype(str),
            "well": np.tile(np.arange(24), 3).astype(str),
        }
    )
    metadata["perturbation"], metadata["is_control"] = np.char.add("p", kind.astype(str)), kind == 0
    path = tmp_path / "E.zarr"
    path.mkdir()
    metadata.to_parquet(path / "metadata.parquet")
    record = {"format": "embeddings", "version": 1, "level": "well", "blocks": [3, 6, 12]}
    (path / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"phenomjax": record}})
    )
    for block, signal in ((3, 0.1), (6, 1.0), (12, 0.3)):
        values = (signal * centre[kind] + rng.normal(size=(72, 6))).astype(np.float32)
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{path / f'embeddings_block_{block}'}/"},
        }
        tensorstore.open(spec, create=True, dtype="float32", shape=values.shape).result().write(
            values
        ).result()
    assert run("blocks", "--profiles", path, "--out", tmp_path / "blocks") == 0
    found = json.loads((tmp_path / "blocks" / "blocks.json").read_text())
    assert (
        found["best"] == 6
        and list(found["blocks"]) == ["3", "6", "12"]
        and found["blocks"]["6"]["count"] == 7
    )
    low, high = found["blocks"]["6"]["interval"]
    assert found["blocks"]["3"]["value"] < low <= found["blocks"]["6"]["value"] <= high
    assert (tmp_path / "blocks" / "blocks.png").stat().st_size > 1000
    with pytest.raises(UserError, match=r"compares the blocks.*--block 3 6 9 12"):
        run("blocks", "--profiles", path, "--block", 6, "--out", tmp_path / "blocks")

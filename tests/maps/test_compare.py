"""Methods of alignment compared: each measure by its definition, and the command."""

import json

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from phenomjax.maps.benchmark import compare, integration
from phenomjax.system.errors import UserError
from tests.lab import plates
from tests.lab.maps import run

COLUMNS = [
    *("--batch", "Metadata_Plate", "--control", plates.NEGCON),
    *("--perturbation", "Metadata_broad_sample", "--gene", "Metadata_gene"),
]


def test_a_perturbation_is_connected_or_in_pieces():
    near = np.array([[1], [0], [3], [2], [5], [4]])
    # four wells in two pieces, two wells in one
    assert integration.graph_connectivity(near, np.array([0, 0, 0, 0, 1, 1])) == (0.5 + 1) / 2
    assert integration.graph_connectivity(near, np.array([0, 0, 1, 1, 2, 2])) == 1.0
    # a neighbour of another perturbation joins nothing
    assert integration.graph_connectivity(near, np.array([0, 1, 0, 1, 0, 1])) == pytest.approx(
        1 / 3
    )


def test_batches_are_accepted_where_they_are_as_everywhere():
    batches = np.repeat([0, 1], 20)
    mixed = np.array([[k for k in range(16, 24) if k != well][:7] for well in range(40)])
    assert integration.kbet(mixed, batches) == 1.0
    apart = np.array([[k + 20 * (well >= 20) for k in range(8)] for well in range(40)])
    assert integration.kbet(apart, batches) == 0.0


def test_lisi_is_that_of_harmonypy():
    import pandas as pd
    from harmonypy import compute_lisi

    rng = np.random.default_rng(0)
    rows, codes = rng.normal(size=(150, 4)), rng.integers(0, 3, 150)
    expected = compute_lisi(rows, pd.DataFrame({"batch": codes.astype(str)}), ["batch"])[:, 0]
    distances, near = NearestNeighbors(n_neighbors=90).fit(rows).kneighbors(rows)
    found = integration.lisi(distances[:, 1:], near[:, 1:], codes)
    np.testing.assert_allclose(found, expected, rtol=5e-3)  # its perplexity is met less exactly


def test_silhouettes_of_batches_are_within_perturbations():
    rng = np.random.default_rng(0)
    labels, batches = np.repeat([0, 1], 20), np.tile([0, 1], 20)
    rows = rng.normal(size=(40, 5))
    shifted = rows + 20.0 * batches[:, None] * np.eye(5)[0]
    assert integration.silhouette_batch(rows, labels, batches) > 0.8
    assert integration.silhouette_batch(shifted, labels, batches) < 0.5
    assert integration.silhouette_batch(rows[:4], np.array([0, 0, 1, 1]), batches[:4]) is None


def test_mixed_and_separate_wells_are_told_apart():
    """Ten perturbations far apart on two plates: the best of both; with the plates apart instead,
    batch falls; without perturbations, biology.
    """
    rng = np.random.default_rng(0)
    labels, batches = np.repeat(np.arange(10), 12), np.tile([0, 1], 60)
    noise = rng.normal(size=(120, 12)) * 0.1

    def measured(rows):
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return integration.summed_up(integration.measured(units, labels, batches))

    best = measured(np.eye(12)[labels] + noise)
    plate = measured(np.eye(12)[labels] + 3 * np.eye(12)[10 + batches] + noise)
    nothing = measured(noise)
    assert best["batch"] > 0.9 and best["ari"] == best["nmi"] == 1.0
    assert plate["batch"] < 0.6 and plate["kbet"] == 0.0 and plate["lisi_batch"] < 0.05
    assert nothing["biology"] < best["biology"] - 0.2 and abs(nothing["ari"]) < 0.05
    batch = [best[key] for key in integration.MEASURES["batch"]]
    biology = [best[key] for key in integration.MEASURES["biology"] if key in best]
    assert best["overall"] == pytest.approx(0.4 * np.mean(batch) + 0.6 * np.mean(biology))
    assert integration.summed_up({"kbet": 0.5})["overall"] is None


def test_methods_are_compared_through_the_front_door(tmp_path, capsys):
    plates.screen(dim=12).to_parquet(tmp_path / "p.parquet")
    words = ["compare", "--profiles", tmp_path / "p.parquet", *COLUMNS, "--dims", 6]
    names = ["none", "center_scale", "tvn", "harmony", "sphering"]
    assert run(*words, "--align", *names, "--out", tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    found, about = result["methods"], result["about"]
    assert sorted(found) == sorted(names) and not about["failed"]
    overall = [one["overall"] for one in found.values()]
    assert overall == sorted(overall, reverse=True) and all(0 < value < 1 for value in overall)
    assert about["wells"] == 192 and about["perturbations"] == 64 and about["batches"] == 3
    # the plates' offsets are what none leaves and center_scale takes out
    assert found["center_scale"]["batch"] > found["none"]["batch"] + 0.1
    assert found["center_scale"]["map_controls"] > 0.3
    text = (tmp_path / "out" / "compare.md").read_text()
    assert text in capsys.readouterr().out and "| - map_nonrep |" in text


def test_what_a_table_does_not_allow_is_left_out_with_the_reason(tmp_path, capsys):
    table = plates.screen(dim=6)
    table = table[table["Metadata_pert_type"] == "trt"]
    table.to_parquet(tmp_path / "p.parquet")
    words = ["compare", "--profiles", tmp_path / "p.parquet", *COLUMNS, "--out", tmp_path / "out"]
    assert run(*words, "--align", "tvn", "standardize") == 0
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert list(result["methods"]) == ["standardize"]
    assert "No row is a negative control" in result["about"]["failed"]["tvn"]
    assert result["methods"]["standardize"]["map_controls"] is None
    said = capsys.readouterr().out
    assert "left out: tvn. No row is a negative control" in said and "(--metadata FILE)" in said
    with pytest.raises(UserError, match="No method can align these profiles"):
        run(*words, "--align", "tvn")
    one = table[table["Metadata_Plate"] == table["Metadata_Plate"].iloc[0]]
    one.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(UserError, match="at least 2 perturbations with replicates in 2 batches"):
        run(*words)


def test_more_wells_than_can_be_measured_are_whole_perturbations(monkeypatch):
    monkeypatch.setattr(compare, "MOST_WELLS", 10)
    labels = np.array([*"aaabbbcccdddeee", "single"], object)
    rows = compare.drawn(labels, 0)
    names, counts = np.unique(labels[rows], return_counts=True)
    assert len(names) == 3 and set(counts) == {3} and "single" not in names
    assert len(compare.drawn(np.array(["a", "b", "b"], object), 0)) == 2

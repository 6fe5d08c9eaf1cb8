"""Mean average precision: by hand, equal to copairs, honest where copairs is not, in filter and
benchmark.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from copairs.map import average_precision as theirs
from copairs.map import mean_average_precision as their_mean
from copairs.map import multilabel

from phenomjax.maps.benchmark import command as benchmark
from phenomjax.maps.build import align, filters
from phenomjax.maps.retrieval import average_precision as module
from phenomjax.maps.retrieval.average_precision import (
    average_precision,
    average_precision_of_labels,
)
from phenomjax.maps.retrieval.pairs import Conditions, conditions
from phenomjax.maps.retrieval.significance import mean_average_precision, random_pairs
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door
from tests.lab.plates import NEGCON, screen

EQUAL = {"rtol": 0, "atol": 1e-12}
COLUMNS = ["--batch", "Metadata_Plate", "--control", NEGCON]
COLUMNS += ["--perturbation", "Metadata_broad_sample", "--gene", "Metadata_gene"]
FOLDER = Path(__file__).parents[3] / "shared" / "data" / "microscopy" / "profiles" / "cpjump1"


def test_average_precision_of_a_ranking_known_by_hand():
    """A query at angle 0; others at growing angles: positive, negative, positive, negative."""
    angles = np.array([0, 0.1, 0.2, 0.3, 0.4])
    features = np.stack([np.cos(angles), np.sin(angles)], 1)
    kind = np.array([0, 0, 1, 0, 2])
    found = average_precision(features, Conditions((kind,)), Conditions((), (kind,)))
    assert found.positives.tolist() == [2, 2, 0, 2, 0] and found.total[0] == 4
    assert found.value[0] == (1 / 1 + 2 / 3) / 2 and np.isnan(found.value[2])
    # mean over the 6 orders of 2 positives among 4
    orders = [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert found.expected[0] == pytest.approx(np.mean([(1 / a + 2 / b) / 2 for a, b in orders]))


def table_of(seed):
    """A table as the tests of copairs have it, and features, every third time full of ties."""
    rng = np.random.default_rng(seed)
    sizes = {"plate": 3, "well": 5, "label": 6}
    drawn = {name: rng.integers(0, size, 60).astype(str) for name, size in sizes.items()}
    table = pd.DataFrame(drawn).drop_duplicates().reset_index(drop=True)
    features = rng.uniform(size=(len(table), 7))
    return table, np.round(2 * features) + 0.5 if seed % 3 == 2 else features


RULES = [  # pos_sameby, pos_diffby, neg_sameby, neg_diffby
    (["label"], [], [], ["label"]),
    (["label"], ["plate"], ["plate"], ["label"]),
    (["label"], ["plate", "well"], [], ["label", "plate"]),
    (["label", "well"], [], ["plate"], ["label"]),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rules", RULES)
def test_equal_to_copairs(rules, seed, tmp_path, monkeypatch):
    table, features = table_of(seed)
    wanted = theirs(table, features, *rules, progress_bar=False)
    monkeypatch.setattr(module, "QUERIES", 7)  # several blocks, the last one smaller
    monkeypatch.setattr(module, "CANDIDATES", 11)
    found = average_precision(
        features, conditions(table, *rules[:2]), conditions(table, *rules[2:])
    )
    np.testing.assert_array_equal(found.positives, wanted["n_pos_pairs"])
    np.testing.assert_array_equal(found.total, wanted["n_total_pairs"])
    np.testing.assert_allclose(found.value, wanted["average_precision"], **EQUAL)
    asked = found.positives > 0
    normalized = wanted["normalized_average_precision"].to_numpy()[asked]
    np.testing.assert_allclose(found.normalized[asked], normalized, **EQUAL)
    means = their_mean(wanted, ["label"], 300, 0.05, 5, progress_bar=False, cache_dir=tmp_path)
    mean = mean_average_precision(
        found, table["label"].to_numpy(), null_size=300, seed=5, rule="copairs"
    )
    assert mean.names.tolist() == means["label"].tolist()
    for name, values in (
        ("mean_average_precision", mean.value),
        ("mean_normalized_average_precision", mean.normalized),
        ("p_value", mean.p),
        ("corrected_p_value", mean.q),
    ):
        np.testing.assert_allclose(values, means[name], **EQUAL)


@pytest.mark.parametrize("rules", [([], []), (["plate"], ["plate"])])
def test_labels_equal_to_copairs(rules, tmp_path):
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"plate": rng.integers(0, 3, 40).astype(str), "row": np.arange(40)})
    words = "abcdefgh"
    table["label"] = [sorted(set(rng.choice(list(words), rng.integers(1, 4)))) for _ in range(40)]
    features = rng.normal(size=(40, 6))
    pos_diffby, neg_sameby = rules
    found = average_precision_of_labels(
        features,
        [[words.index(one) for one in own] for own in table["label"]],
        conditions(table, [], pos_diffby),
        conditions(table, neg_sameby, []),
    )
    assert found.answerable.all()
    wanted = multilabel.average_precision(
        table, features, ["label"], pos_diffby, neg_sameby, ["label"], "label", progress_bar=False
    )
    names = np.array(list(words), object)[found.label]
    means = their_mean(wanted, ["label"], 200, 0.05, 1, progress_bar=False, cache_dir=tmp_path)
    mean = mean_average_precision(found, names, null_size=200, seed=1, rule="copairs")
    wanted = wanted.sort_values(["row", "label"])
    assert wanted["row"].tolist() == found.row.tolist()
    assert wanted["label"].tolist() == names.tolist()
    assert wanted["n_total_pairs"].tolist() == found.total.tolist()
    np.testing.assert_allclose(found.value, wanted["average_precision"], **EQUAL)
    means = means.sort_values("label")
    np.testing.assert_allclose(mean.value, means["mean_average_precision"], **EQUAL)
    np.testing.assert_allclose(mean.p, means["p_value"], **EQUAL)


def noise(controls, perturbations=300, seed=0):
    """mAP queries of wells that share nothing, and their perturbations.

    Args:
      controls: how many each plate has.
    """
    rng, plates = np.random.default_rng(seed), np.arange(len(controls))
    plate = np.concatenate([np.repeat(plates, perturbations), np.repeat(plates, controls)])
    control = np.arange(len(plate)) >= len(plates) * perturbations
    name = np.tile(np.arange(perturbations), len(plates))
    name = np.concatenate([name, -1 - np.arange(sum(controls))])
    found = average_precision(
        rng.normal(size=(len(plate), 30)),
        Conditions((name,), (), ~control),
        Conditions((plate,), (), control),
        queries=np.flatnonzero(~control),
    )
    return found, name[~control]


def test_what_chance_often_does_is_not_significant():
    """Beside 8 controls a plate, two replicates of nothing find each other first in 1 of 17."""
    found, names = noise([8, 8])
    theirs = mean_average_precision(found, names, rule="copairs")
    ours = mean_average_precision(found, names)
    perfect = ours.value == 1
    assert perfect.mean() == pytest.approx(1 / 17, abs=0.025)
    assert (theirs.p[perfect] == 1 / 10_001).all() and (theirs.q[perfect] < 0.05).all()
    np.testing.assert_allclose(ours.p[perfect], 1 / 17, atol=0.01)
    assert (ours.q > 0.05).all()
    assert (ours.p < 0.1).mean() == pytest.approx(0.1, abs=0.05)


def test_pairs_of_other_totals_have_the_null_that_integration_gives():
    """P(both first) = ∫ s^(n_1 - 1 + n_2 - 1) ds."""
    null = random_pairs(5, 9, 40_000, 0)
    assert (null == 1).mean() == pytest.approx(1 / 13, abs=0.005)
    assert (np.diff(null) >= 0).all() and null[0] >= (1 / 5 + 1 / 9) / 2 - 1e-6


def test_plates_with_other_numbers_of_controls_are_no_more_significant():
    """copairs is equal where all plates have as many, and calls noise significant where not."""
    shares = {}
    for controls in ([24, 24, 24], [23, 24, 25]):
        for rule in ("careful", "copairs"):
            p = [
                mean_average_precision(*noise(controls, 200, seed), null_size=2000, rule=rule).p
                for seed in range(3)
            ]
            shares[len(set(controls)), rule] = (np.concatenate(p) < 0.05).mean()
    assert shares[1, "careful"] == shares[1, "copairs"] < 0.05
    assert shares[3, "careful"] < 0.05 and shares[3, "copairs"] > 0.07


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    """A screen of three plates with a clear effect, as CSV; plate 3 without its controls too."""
    folder = tmp_path_factory.mktemp("plates")
    table = screen(effect=1.5)
    table.to_csv(folder / "wells.csv", index=False)
    last = table["Metadata_Plate"] == "BR00000003"
    table[~(last & (table["Metadata_control_type"] == "negcon"))].to_csv(
        folder / "uncontrolled.csv", index=False
    )
    return folder


def their_activity(path, tmp_path, within=("Metadata_Plate",), null_size=500):
    """copairs on a table as its documentation does it: controls are references of their own."""
    table = pd.read_csv(path)
    table = table[
        (table["Metadata_pert_type"] == "trt") | (table["Metadata_control_type"] == "negcon")
    ]
    table = table.reset_index(drop=True)
    names = [name for name in table if not name.startswith("Metadata_")]
    features = table[names].to_numpy(np.float32).astype(np.float64)
    control = table["Metadata_control_type"] == "negcon"
    table["name"] = table["Metadata_broad_sample"].fillna("DMSO")
    table["reference"] = np.where(control, table.index, -1)
    one = ["name", "reference"]
    kept = table[[*one, "Metadata_Plate"]]
    scores = theirs(kept, features, one, [], list(within), one, progress_bar=False)
    return their_mean(
        scores, ["name"], null_size, 0.05, 0, progress_bar=False, cache_dir=tmp_path
    ).sort_values("name")


@pytest.mark.parametrize("within", [True, False])
def test_filter_writes_the_activity_of_copairs(plates, tmp_path, within, caplog):
    words = ["--profiles", plates / "wells.csv", *COLUMNS, "--null_size", 500, "--by", "activity"]
    words += ["--draws", 200, "--out", tmp_path / "out", *([] if within else ["--neg_sameby"])]
    with caplog.at_level("INFO"):
        assert run_as_door(filters, words) == 0
    table = pd.read_parquet(tmp_path / "out" / "filter.parquet")
    wanted = their_activity(
        plates / "wells.csv", tmp_path, ["Metadata_Plate"] if within else [], 500
    )
    assert table["perturbation"].tolist() == wanted["name"].tolist()
    np.testing.assert_allclose(table["activity"], wanted["mean_average_precision"], **EQUAL)
    np.testing.assert_allclose(table["activity_p"], wanted["p_value"], **EQUAL)
    np.testing.assert_allclose(table["activity_q"], wanted["corrected_p_value"], **EQUAL)
    active = table["activity_q"] <= 0.05
    assert active.tolist() == wanted["below_corrected_p"].tolist() == table["active"].tolist()
    record = json.loads((tmp_path / "out" / "filter.json").read_text())
    assert record["significant"]["activity"] == active.sum() == record["active"] >= 28
    share = f"{active.sum()} of {len(active):>6} ({active.mean():.3f})"
    assert f"activity        {share}  replicates are nearer" in caplog.text
    same = " of the same plate" if within else ""
    assert f"found among negative controls{same}" in record["activity_compares"]


def test_wells_without_controls_on_their_plate_take_no_part(plates, tmp_path, caplog):
    words = ["--profiles", plates / "uncontrolled.csv", *COLUMNS, "--null_size", 200]
    with caplog.at_level("INFO"):
        run_as_door(filters, [*words, "--draws", 100, "--out", tmp_path])
    assert "64 wells take no part in it: no other well is to be found, or none among which" in (
        caplog.text
    )
    assert pd.read_parquet(tmp_path / "filter.parquet")["activity_p"].notna().all()


def test_shares_are_of_perturbations_that_have_a_p(plates, tmp_path, caplog):
    """Half of the compounds are on one plate only: no test asks these."""
    table = pd.read_csv(plates / "wells.csv")
    once = table["Metadata_gene"] >= "GENE16"
    table[(table["Metadata_Plate"] == "BR00000001") | ~once].to_csv(tmp_path / "h.csv", index=False)
    words = ["--profiles", tmp_path / "h.csv", *COLUMNS, "--draws", 100, "--null_size", 200]
    with caplog.at_level("INFO"):
        run_as_door(filters, [*words, "--out", tmp_path])
    record = json.loads((tmp_path / "filter.json").read_text())
    assert record["perturbations"] == 64
    assert record["asked"] == {"consistency": 32, "activity": 32, "magnitude": 0}
    active = record["significant"]["consistency"]
    assert f"consistency{active:>7} of     32 ({active / 32:.3f})" in caplog.text


def test_two_replicates_are_told_what_they_can_show(plates, tmp_path, caplog):
    table = pd.read_csv(plates / "wells.csv")
    table[table["Metadata_Plate"] != "BR00000003"].to_csv(tmp_path / "two.csv", index=False)
    words = ["--profiles", tmp_path / "two.csv", *COLUMNS, "--draws", 100, "--out", tmp_path]
    with caplog.at_level("INFO"):
        run_as_door(filters, words)
    assert "64 perturbations have two replicates only, and no p of theirs can be below 0.02" in (
        caplog.text
    )
    table = pd.read_parquet(tmp_path / "filter.parquet")
    assert table["activity_p"].min() == pytest.approx(1 / 49, abs=0.003)
    # half of them act, nearly all of these are found first on both plates
    assert (table["activity_q"] <= 0.05).sum() >= 26


def test_filter_says_when_the_alignment_knows_the_controls(plates, tmp_path, caplog):
    words = ["--profiles", plates / "wells.csv", *COLUMNS, "--align", "sphering"]
    run_as_door(align, [*words, "--out", tmp_path / "aligned.parquet"])
    words = ["--profiles", tmp_path / "aligned.parquet", *COLUMNS, "--draws", 50]
    with caplog.at_level("INFO"):
        run_as_door(filters, [*words, "--out", tmp_path])
    assert "fitted on these controls (sphering), which raises activity; maps benchmark" in (
        caplog.text
    )


def test_rules_that_cannot_be_answered_are_told(plates, tmp_path):
    words = ["--profiles", plates / "wells.csv", *COLUMNS, "--draws", 50, "--out", tmp_path]
    for more, said in (
        (["--neg_sameby", "Metadata_plat"], "no column 'Metadata_plat', which --neg_sameby names"),
        (["--pos_diffby", "Metadata_control_type"], r"--pos_diffby Metadata_control_type: 192 of"
         r" the 192 wells that are compared have no value in 'Metadata_control_type' \(the first"),
        (["--null_size", 0], "--null_size is 0"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            run_as_door(filters, [*words, *more])
    # controls have no gene, and need none: they are nobody's positives
    run_as_door(filters, [*words, "--pos_sameby", "gene", "--pos_diffby", "Metadata_broad_sample"])
    assert pd.read_parquet(tmp_path / "filter.parquet")["activity_q"].notna().all()
    run_as_door(filters, [*words, "--pos_diffby", "well", "--null_size", 50])  # always in one
    record = json.loads((tmp_path / "filter.json").read_text())
    assert record["activity_left_out"].startswith("no two rows are a pair by these rules (wells of")
    assert pd.read_parquet(tmp_path / "filter.parquet")["activity_q"].isna().all()


def test_benchmark_has_map_keys(plates, tmp_path, caplog):
    words = ["--profiles", plates / "wells.csv", *COLUMNS, "--align", "none", "--probe", "none"]
    words += ["--null_size", 500, "--draws", 50, "--out", tmp_path]
    assert run_as_door(benchmark, words) == 0
    assert caplog.text.count("64 tests with p-values of at least 1/501") == 1
    found = json.loads((tmp_path / "benchmark.json").read_text())
    wanted = their_activity(plates / "wells.csv", tmp_path)
    activity = found["map.activity.mean"]
    assert activity["value"] == pytest.approx(wanted["mean_average_precision"].mean(), abs=1e-12)
    assert found["map.activity.share_q05"]["value"] == wanted["below_corrected_p"].mean()
    low, high = activity["interval"]
    assert low < activity["value"] < high and activity["count"] == 64
    assert 0.15 < activity["chance"] < 0.2 and activity["bootstrap_over"] == "perturbations"
    # the pairs of a target are alike, of which half do nothing
    consistency = found["map.consistency.mean"]
    assert consistency["count"] == 32 and consistency["value"] > 3 * consistency["chance"]
    assert found["map.consistency_of_active.mean"]["value"] > consistency["value"]
    assert 0.3 < found["map.distinctiveness.share_q05"]["value"] < 0.7


@pytest.mark.parametrize(("align", "effect"), [("tvn", 0.5), ("center_scale", 1.0)])
def test_controls_that_the_alignment_knows_are_told_from_unseen_ones(
    tmp_path, align, effect, caplog
):
    """Many features beside few controls: TVN is fitted to their noise, centre and scale are not."""
    screen(dim=60, effect=effect).to_csv(tmp_path / "wells.csv", index=False)
    words = ["--profiles", tmp_path / "wells.csv", *COLUMNS, "--align", align, "--probe", "none"]
    words += ["--quality", "off", "--draws", 50, "--null_size", 1000, "--out", tmp_path]
    run_as_door(benchmark, words)
    found = json.loads((tmp_path / "benchmark.json").read_text())
    unseen, said = found["map.activity_unseen.share_q05"], "that it has not seen" in caplog.text
    assert unseen["count"] == 64 and said == (align == "tvn")
    if align == "tvn":
        assert unseen["value"] == 0 < 0.2 < unseen["fitted"]
    else:
        assert (
            unseen["value"] == unseen["fitted"] == found["map.activity.share_q05"]["value"] == 0.5
        )


def test_half_of_the_controls_may_be_too_few(plates, tmp_path):
    """21 controls are enough for a PCA of 20 components, half of them are not."""
    table = pd.read_csv(plates / "wells.csv")
    order = table.groupby(["Metadata_Plate", "Metadata_control_type"]).cumcount()
    few = (table["Metadata_control_type"] != "negcon") | (order < 7)
    table[few].to_csv(tmp_path / "few.csv", index=False)
    words = ["--profiles", tmp_path / "few.csv", "--pca_fit", "controls", "--dims", 20]
    run_as_door(benchmark, [*words, "--probe", "none", "--draws", 50, "--out", tmp_path])
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert "PCA of 9 rows" in found["map.activity_unseen.share_q05"]["reason"]
    assert found["map.activity.mean"]["value"] > 0


def test_one_feature_ranks_nothing(plates, tmp_path):
    table = pd.read_csv(plates / "wells.csv").iloc[:, :8]
    table.to_csv(tmp_path / "one.csv", index=False)
    words = ["--profiles", tmp_path / "one.csv", "--align", "center_scale", "--probe", "none"]
    run_as_door(benchmark, [*words, "--draws", 50, "--out", tmp_path])
    found = json.loads((tmp_path / "benchmark.json").read_text())
    for key in ("activity", "distinctiveness", "consistency"):
        assert "of one feature every similarity is" in found[f"map.{key}.mean"]["reason"]


def test_a_map_has_consistency_only(plates, tmp_path):
    table = pd.read_csv(plates / "wells.csv").query('Metadata_Plate == "BR00000001"')
    table = table[table["Metadata_pert_type"] == "trt"]
    table.to_csv(tmp_path / "map.csv", index=False)
    words = ["--profiles", tmp_path / "map.csv", *COLUMNS[4:], "--map", "--align", "none"]
    run_as_door(benchmark, [*words, "--null_size", 100, "--out", tmp_path])
    found = json.loads((tmp_path / "benchmark.json").read_text())
    with pytest.raises(UserError, match=r"none is a negative control, as in a map.*add --map and"):
        run_as_door(benchmark, [*words[:-3], "--align", "none", "--out", tmp_path])
    assert "a map already" in found["map.activity.mean"]["reason"]
    assert found["map.consistency.mean"]["count"] == 32


@pytest.mark.shared_data
def test_cpjump1_is_as_copairs_finds_it(tmp_path):
    """Plates 10 to 12 as shipped: .454 of the compounds are active at FDR .05."""
    name = "BR001170{}_normalized_feature_select_negcon_batch.csv.gz"
    paths = [FOLDER / name.format(plate) for plate in (10, 11, 12)]
    run_as_door(filters, ["--profiles", *paths, *COLUMNS, "--draws", 100, "--out", tmp_path])
    table = pd.read_parquet(tmp_path / "filter.parquet")
    joined = pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)
    joined = joined.drop(columns=["Metadata_target_sequence", "Metadata_negcon_control_type"])
    joined.to_csv(tmp_path / "joined.csv", index=False)
    wanted = their_activity(tmp_path / "joined.csv", tmp_path, null_size=10_000)
    np.testing.assert_allclose(table["activity"], wanted["mean_average_precision"], **EQUAL)
    np.testing.assert_allclose(table["activity_p"], wanted["p_value"], **EQUAL)
    np.testing.assert_allclose(table["activity_q"], wanted["corrected_p_value"], **EQUAL)
    assert (table["activity_q"] <= 0.05).sum() == wanted["below_corrected_p"].sum() == 118

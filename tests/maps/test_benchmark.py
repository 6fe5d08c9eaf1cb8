"""Benchmark: recall equal to its definition, consistency, magnitude, siblings, targets, probe; the
front door on a simulated screen.
"""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from phenomjax.maps.benchmark import against, measures
from phenomjax.maps.benchmark.linear_probe import probe
from phenomjax.maps.build.magnitude import energy_distance, magnitudes
from phenomjax.maps.relations import cosines, recall
from phenomjax.maps.relations.relationships import filtered, read_relationships
from phenomjax.maps.tables.profiles import Profiles, feature_names
from phenomjax.maps.tables.reading import read
from phenomjax.maps.tables.writing import write
from phenomjax.statistics import bootstrap
from phenomjax.statistics.consistency import consistency, random_sets
from phenomjax.statistics.permutation import q_values
from phenomjax.system.errors import UserError
from tests.lab.maps import offered, run


def test_recall_on_the_unit_cases_of_the_definition():
    null, query = np.arange(1, 6), np.array([1, 5])
    assert recall.recall_of(null, query, 0.2, 0.8) == 1.0
    assert recall.recall_of(null, query, 0.1, 0.9) == 0.0
    for thresholds, count in (
        ((0.2, 0.8), 5),
        ((0.1, 0.9), 5),
        ((0.05, 0.95), 100),
        ((0.0, 1.0), 7),
        ((0.07, 0.93), 300),
    ):
        low, high = recall.bounds_of(count, [thresholds])
        numbers = np.arange(count)
        expected = ((numbers + 1) / count <= thresholds[0]) | (numbers / count >= thresholds[1])
        np.testing.assert_array_equal((numbers < low) | (numbers > high), expected)


@pytest.mark.parametrize("seed", range(6))
def test_recall_of_a_map_equals_the_definition_with_ties(seed, monkeypatch):
    """Small integers make ties; a sample smaller than the map makes the streamed way find the order
    statistics.
    """
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 70))
    rows = cosines.units(rng.integers(0, 3, (n, 3)).astype(np.float32) + 1e-3)
    pairs = rng.integers(0, n, (80, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    square = rows @ rows.T
    # the null holds the known pairs too
    null, query = square[np.triu_indices(n, 1)], square[pairs[:, 0], pairs[:, 1]]
    thresholds = [(0.05, 0.95), (0.1, 0.9), (0.0, 1.0), (0.5, 0.5)]
    expected = [recall.recall_of(null, query, low, high) for low, high in thresholds]
    assert recall.bounds(rows, thresholds).hits(query).mean(1).tolist() == expected
    monkeypatch.setattr(recall, "SAMPLE", 50)
    monkeypatch.setattr(cosines, "NUMBERS_AT_ONCE", 100)
    assert recall.bounds(rows, thresholds).hits(query).mean(1).tolist() == expected
    assert recall.recalled(rows, pairs, thresholds[:2]).shape == (2, len(pairs))


def test_bootstrap_over_entities_is_wider_than_over_pairs():
    """One hub in all pairs of one half, all of them recalled: a draw without it has none."""
    pairs = np.array([(0, k) for k in range(1, 40)] + [(100 + k, 200 + k) for k in range(39)])
    hit = np.arange(78) < 39
    low, high = bootstrap.interval_of_pairs(hit, pairs, 400, seed=1)
    narrow = bootstrap.interval_of_mean(hit, draws=400, seed=1)
    assert low < 0.2 and high > 0.6 and high - low > 1.5 * (narrow[1] - narrow[0])
    assert bootstrap.interval_of_pairs(hit, pairs, 400, seed=1) == [low, high]
    assert bootstrap.interval_of_mean(np.array([1.0, 3.0, np.nan]), draws=200)[0] == 1.0
    grouped = bootstrap.interval_of_mean(hit, np.repeat(["a", "b"], 39), 400)
    assert grouped == [0.0, 1.0]


def test_relationship_files(tmp_path):
    pairs, own, duplicates = filtered(np.array([["B", "A"], ["A", "B"], ["C", "C"], ["A", "D"]]))
    assert pairs.tolist() == [["A", "B"], ["A", "D"]] and (own, duplicates) == (1, 1)
    files = {
        "CORUM.txt": "entity1,entity2\nB,A\nA,B\nC,C\nA,D\n",
        "SIGNOR.tsv": "ENTITYA\tTYPEA\tENTITYB\nA\tprotein\tB\nD\tprotein\tA\n",
        "clusters.tsv": "x complex\tA B\ny, complex\tA D\n",
        "sets.gmt": "x\thttp\tA\tB\ny\thttp\tA\tD\n",
        "humap.csv": "HuMAP2_ID,Confidence,genenames\n1,3,A B\n2,4,D A\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert read_relationships(tmp_path / name).pairs.tolist() == [["A", "B"], ["A", "D"]], name
    (tmp_path / "Reactome.csv.gz").write_bytes(gzip.compress(b"gene1;gene2\nA;B\n"))
    source = read_relationships(tmp_path / "Reactome.csv.gz")
    assert source.name == "Reactome" and source.within(
        np.array(["b", "A", "B"], object)
    ).tolist() == [[1, 2]]
    assert (
        source.describe_unmatched(np.array(["A", "b"], object))["symbols_that_differ_in_case"] == 1
    )
    for text, said in (
        ("TP53 MDM2 0.9\n", "first line is 'TP53 MDM2 0.9'.*entity1 and entity2.*sed -i"),
        ("", "is empty"),
    ):
        (tmp_path / "other.txt").write_text(text)
        with pytest.raises(UserError, match=said):
            read_relationships(tmp_path / "other.txt")
    (tmp_path / "other.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match=r"no text file"):
        read_relationships(tmp_path / "other.txt")


def test_consistency_equals_its_definition():
    rng = np.random.default_rng(0)
    labels = np.array(["a"] * 3 + ["b"] * 2 + ["c"] + list("defghijk"), object).repeat(1)
    labels = np.concatenate([labels, np.array(list("defghijk"), object)])
    features = rng.normal(size=(len(labels), 5))
    found = consistency(features, labels, draws=200)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for name, cosine in zip(found.names, found.cosine, strict=True):
        rows = np.flatnonzero(labels == name)
        square = unit[rows] @ unit[rows].T
        expected = square[np.tril_indices(len(rows), -1)].mean() if len(rows) > 1 else np.nan
        assert cosine == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found.p[found.names == "c"]) and found.replicates[0] == 3
    sets = random_sets(np.unique(labels.astype(str), return_inverse=True)[1], 2, 200, 0)
    null = np.sort((unit[sets[:, 0]] * unit[sets[:, 1]]).sum(1))
    b = found.cosine[1]
    assert (
        found.p[1] == pytest.approx((null >= b).mean())
        and (labels[sets[:, 0]] != labels[sets[:, 1]]).all()
    )
    assert found.honest_p[1] == pytest.approx((1 + (null >= b).sum()) / (1 + len(null)))
    idle = np.isin(labels, list("defgh"))
    unexpressed = consistency(features, labels, unexpressed=idle)
    five = np.sort(found.cosine[np.isin(found.names, list("defgh"))])
    np.testing.assert_allclose(
        unexpressed.p[:2], [(five >= cosine).mean() for cosine in found.cosine[:2]]
    )
    # what is not expressed is the null and not under study: no share counts it
    assert found.names[unexpressed.in_null].tolist() == list("defgh") and not found.in_null.any()
    entry = measures.consistency_entries(unexpressed)["consistency.share_p05"]
    rest = ~unexpressed.in_null & (unexpressed.replicates > 1)
    assert entry["count"] == rest.sum() == 5 and entry["without_replicates"] == 1
    assert entry["value"] == (unexpressed.p[rest] < 0.05).mean()
    alone = np.isin(labels, list("defgh"))
    only = consistency(features[alone], labels[alone], unexpressed=np.ones(alone.sum(), bool))
    assert "are the null" in measures.consistency_entries(only)["consistency.share_p05"]["reason"]


def test_magnitude_equals_its_definition_and_its_null_is_of_controls():
    rng = np.random.default_rng(0)
    controls = rng.normal(size=(40, 3))
    wells = np.concatenate(
        [rng.normal(size=(5, 3)) + 3, rng.normal(size=(5, 3)), rng.normal(size=(4, 3))]
    )
    found = magnitudes(wells, np.repeat([0, 1, 2], [5, 5, 4]), 3, controls, draws=199)
    assert found.distance[:2] == pytest.approx(
        [energy_distance(wells[:5], controls), energy_distance(wells[5:10], controls)]
    )
    assert (
        found.p[0] == 1 / 200
        and found.p[1] > 0.05
        and np.isnan(found.distance[2])
        and np.isnan(found.p[2])
    )
    x, y = np.array([[0.0], [1.0]]), np.array([[3.0]])
    assert energy_distance(x, y) == pytest.approx(2 * 2.5 - 0.5)
    # Closed form of the null: one set, computed the long way.
    from phenomjax.maps.build import magnitude

    among = np.abs(controls[:, :1] - controls[:, :1].T)
    drawn = np.random.default_rng(3).choice(40, 5, replace=False)
    left = np.setdiff1d(np.arange(40), drawn)
    expected = energy_distance(controls[drawn, :1], controls[left, :1])
    assert magnitude._null(among, 5, 1, np.random.default_rng(3))[0] == pytest.approx(expected)
    q = q_values(np.array([0.01, np.nan, 0.04]))
    assert q[[0, 2]].tolist() == [0.02, 0.04] and np.isnan(q[1])


def test_siblings_targets_and_probe():
    targets = np.array([*map(set, ("a", "b", "a", "", "b", "a", ""))], object)
    assert sorted(map(tuple, np.sort(measures.same_target_pairs(targets)[0], 1).tolist())) == [
        (0, 2),
        (0, 5),
        (1, 4),
        (2, 5),
    ]
    genes = cosines.units(np.eye(12, dtype=np.float32))
    names = np.array([f"g{k}" for k in range(12)], object)
    # an inhibitor may look opposite
    compounds = cosines.units(-np.eye(12, dtype=np.float32)[:3] + 0.01)
    entry = measures.compound_gene_entry(
        compounds,
        np.array(["x", "y", "z"], object),
        genes,
        names,
        None,
        np.array([{"g0"}, {"g1"}, {"none"}], object),
    )
    assert (
        entry["value"] == 1.0
        and entry["count"] == 2
        and entry["z"] > 3
        and 0.1 < entry["chance"] < 0.5
    )
    rng = np.random.default_rng(0)
    labels, batches = np.tile(np.arange(8), 6).astype(str), np.repeat(np.arange(3), 16)
    centre = rng.normal(size=(8, 10)) * 3
    wells = centre[labels.astype(int)] + rng.normal(size=(48, 10))
    for classifier in ("logistic", "ridge"):
        assert probe(wells, labels, batches, classifier).balanced_accuracy > 0.8
    shuffled = probe(wells, labels[rng.permutation(48)], batches)
    assert shuffled is None or shuffled.balanced_accuracy < 0.5
    assert probe(wells[:16], labels[:16], batches[:16]) is None  # one batch


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """60 knock-outs in 12 complexes of 5 and 12 compounds, each of one complex, on 3 plates; wells
    far apart between plates.
    """
    folder = tmp_path_factory.mktemp("screen")
    rng = np.random.default_rng(0)
    genes = [f"G{k:02d}" for k in range(60)]
    complexes = rng.normal(size=(12, 16))
    effect = {gene: complexes[k // 5] + 0.4 * rng.normal(size=16) for k, gene in enumerate(genes)}
    rows = [(gene, gene, "crispr") for gene in genes] + [
        (f"cpd{k}", genes[5 * k], "compound") for k in range(12)
    ]
    table, features = [], []
    for plate in range(3):
        shift, scale = 4 * rng.normal(size=16), rng.uniform(0.5, 2, 16)
        for number, (name, gene, kind) in enumerate([*rows, *[("DMSO", None, "control")] * 28]):
            table.append(
                (
                    f"E{plate // 2}",
                    str(plate),
                    f"W{number:03d}",
                    name,
                    gene,
                    kind,
                    kind == "control",
                )
            )
            features.append(
                scale * (0.6 * rng.normal(size=16) + (effect[gene] if gene else 0)) + shift
            )
    names = [
        "experiment",
        "plate",
        "well",
        "perturbation",
        "gene",
        "perturbation_type",
        "is_control",
    ]
    profiles = Profiles(
        np.array(features, np.float32), pd.DataFrame(table, columns=names), feature_names(16)
    )
    write(profiles, folder / "wells.parquet")
    pairs = [(genes[a], genes[b]) for a in range(60) for b in range(a) if a // 5 == b // 5]
    (folder / "CORUM.txt").write_text(
        "entity1,entity2\n"
        + "".join(f"{a},{b}\n{b},{a}\n" for a, b in [*pairs, ("G00", "ELSEWHERE")])
    )
    arms = [f"{gene}\t{1 + k % 2}p\t0.5" for k, gene in enumerate(genes)]
    (folder / "arms.tsv").write_text("gene\tarm\tposition\n" + "\n".join(arms) + "\n")
    return folder


def test_benchmark_through_the_front_door(screen, capsys):
    beside = offered(
        "benchmark",
        "benchmark",
        "--profiles",
        screen / "wells.parquet",
        "--align",
        "center_scale",
        "--relationships",
        screen / "CORUM.txt",
        "--genes",
        screen / "arms.tsv",
        "--thresholds",
        "0.05,0.95",
        "0.1,0.9",
        "--out",
        screen / "report",
    )
    found = json.loads((screen / "report" / "benchmark.json").read_text())
    assert found["recall.CORUM"]["value"] > 0.6 and found["recall.CORUM"]["count"] == 120
    (own,) = against.named(beside.against)
    assert against.measured_before(own).entries.keys() == found.keys() - {"about"}
    low, high = found["recall.CORUM"]["interval"]
    assert (
        low <= found["recall.CORUM"]["value"] <= high
        and found["recall.CORUM"]["bootstrap_over"] == "entities"
    )
    assert found["recall.CORUM"]["symbols_not_in_map"] == 1 and found["recall.CORUM"][
        "examples"
    ] == ["ELSEWHERE"]
    assert found["recall.CORUM@0.1,0.9"]["value"] >= found["recall.CORUM"]["value"]
    within, between = found["recall.CORUM.within_arm"], found["recall.CORUM.between_arms"]
    assert within["count"] + between["count"] == 120 and within["count"] > 20
    assert (
        found["consistency.mean_cosine"]["value"] > 0.5
        and found["consistency.share_p05"]["value"] > 0.9
    )
    assert (
        found["consistency.share_p01"]["count"] == 72
        and found["sibling.recall"]["count"] == 12
        and found["sibling.recall"]["value"] > 0.9
    )
    assert (
        found["compound_gene.average_precision"]["count"] == 12
        and found["compound_gene.average_precision"]["z"] > 5
    )
    assert (
        found["probe.balanced_accuracy"]["value"] > 10 / 72
        and found["probe.balanced_accuracy"]["folds"] == 3
    )
    assert (
        found["about"]["provenance"]["steps"][0]["command"] == "align"
        and len(pd.read_parquet(screen / "report" / "consistency.parquet")) == 72
    )
    assert (
        screen / "report" / "recall_curves.png"
    ).stat().st_size > 1000 and "| recall.CORUM | 0." in capsys.readouterr().out


def test_benchmark_of_one_plate_of_a_map_and_of_strangers(screen):
    wells = read(screen / "wells.parquet")
    write(wells.take((wells.metadata["plate"] == "0").to_numpy()), screen / "one.parquet")
    (screen / "Mouse.txt").write_text("entity1,entity2\ng00,g01\n")
    run(
        "benchmark",
        "--profiles",
        screen / "one.parquet",
        "--align",
        "standardize",
        "--relationships",
        screen / "Mouse.txt",
        "--out",
        screen / "one",
    )
    found = json.loads((screen / "one" / "benchmark.json").read_text())
    assert (
        found["consistency.mean_cosine"]["value"] is None
        and "one replicate" in found["consistency.mean_cosine"]["reason"]
    )
    assert (
        "differ in case only" in found["recall.Mouse"]["reason"]
        and "at least 2 batches" in found["probe.balanced_accuracy"]["reason"]
    )
    with pytest.raises(
        UserError,
        match=(
            r"--map: 27 rows are a second row of their perturbation \(the first:"
            r" 'DMSO'\).*aggregate"
        ),
    ):
        run(
            "benchmark",
            "--profiles",
            screen / "one.parquet",
            "--map",
            "--align",
            "none",
            "--out",
            screen / "one",
        )
    (screen / "elsewhere.tsv").write_text("gene\tarm\tposition\nTP53\t17p\t0.1\n")
    common = [
        "--profiles",
        screen / "one.parquet",
        "--align",
        "standardize",
        "--relationships",
        screen / "CORUM.txt",
        "--out",
        screen / "one",
    ]
    for more, said in (
        (
            ["--genes", screen / "elsewhere.tsv"],
            "None of the 60 genes of the map .* is in the annotation .*--gene",
        ),
        (["--thresholds", "0.9,0.1"], "LOW,HIGH"),
        (["--map", "--align", "tvn"], "has no controls for --align tvn"),
        (["--relationships", screen / "CORUM.txt", screen / "CORUM.txt"], "are named CORUM"),
    ):
        with pytest.raises(UserError, match=said):
            run("benchmark", *common, *more)


def test_filter_keeps_what_is_active(screen):
    assert (
        run(
            "filter",
            "--profiles",
            screen / "wells.parquet",
            "--draws",
            300,
            "--out",
            screen / "filter",
        )
        == 0
    )
    table = pd.read_parquet(screen / "filter" / "filter.parquet")
    record = json.loads((screen / "filter" / "filter.json").read_text())
    kept = read(screen / "filter" / "profiles.parquet")
    # 3 replicates
    assert record["active"] == table["active"].sum() and table["magnitude"].isna().all()
    assert (
        len(kept) == 3 * (28 + record["active"])
        and kept.provenance["steps"][-1]["command"] == "filter"
    )
    write(read(screen / "wells.parquet").take(np.arange(100)), screen / "single.parquet")
    with pytest.raises(
        UserError, match=r"Each of the 72 perturbations has one replicate.*--profiles A B"
    ):
        run("filter", "--profiles", screen / "single.parquet", "--out", screen / "filter")


CPJUMP1 = {  # (plates, alignment): mean cosine, shares of p < .05 and p < .01, sibling recall
    ("10 11 12", "none"): (0.459, 0.696, 0.546, 0.200),
    ("10 11 12", "center_scale"): (0.427, 0.712, 0.565, 0.223),
    ("10 11 12", "pca_center_scale"): (0.240, 0.712, 0.527, 0.262),
    ("10 11 12", "tvn"): (0.234, 0.469, 0.354, 0.231),
    ("10 11 12 25", "pca_center_scale"): (0.235, 0.796, 0.631, 0.277),
}


@pytest.mark.shared_data
@pytest.mark.parametrize("plates, method", CPJUMP1)
def test_cpjump1(shared, tmp_path, plates, method):
    folder = shared / "microscopy" / "profiles" / "cpjump1"
    files = [
        folder / f"BR001170{plate}_normalized_feature_select_negcon_batch.csv.gz"
        for plate in plates.split()
    ]
    dims = ["--dims", 128] if method in ("pca_center_scale", "tvn") else []
    run(
        "benchmark",
        "--profiles",
        *files,
        "--batch",
        "Metadata_Plate",
        "--control",
        'Metadata_control_type == "negcon"',
        "--perturbation",
        "Metadata_broad_sample",
        "--gene",
        "Metadata_gene",
        "--align",
        method,
        *dims,
        "--probe",
        "none",
        "--relationships",
        shared / "microscopy" / "relationships" / "CORUM.txt",
        "--out",
        tmp_path,
    )
    found = json.loads((tmp_path / "benchmark.json").read_text())
    keys = (
        "consistency.mean_cosine",
        "consistency.share_p05",
        "consistency.share_p01",
        "sibling.recall",
    )
    assert tuple(round(found[key]["value"], 3) for key in keys) == CPJUMP1[plates, method]
    assert (
        found["sibling.recall"]["count"] == 130
        and found["consistency.share_p05"]["count"] == 260
        and found["recall.CORUM"]["count"] > 0
    )


@pytest.mark.shared_data
def test_periscope_counts(shared, tmp_path):
    """The published null is 20,000 random pairs; against all, recall is .144, .115 and .149."""
    data = shared / "microscopy"
    sources = [data / "relationships" / f"{name}.txt" for name in ("CORUM", "Reactome", "StringDB")]
    run(
        "benchmark",
        "--profiles",
        data / "crispr" / "periscope_HeLa_DMEM_significant_features_expressed_genes.csv",
        "--features",
        "Mito|ConA|DAPI|WGA|Phalloidin",
        "--map",
        "--perturbation",
        "Gene",
        "--gene",
        "Gene",
        "--transform",
        "sqrt",
        "--align",
        "standardize",
        "--genes",
        data / "genome" / "gencode_v27_gene_positions_hg38.txt",
        "--centromeres",
        data / "genome" / "centromeres_hg38.tsv",
        "--only_mapped",
        "--null_pairs",
        20000,
        "--relationships",
        *sources,
        "--out",
        tmp_path,
    )
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert {
        source.stem: (
            round(found[f"recall.{source.stem}"]["value"], 3),
            found[f"recall.{source.stem}"]["count"],
        )
        for source in sources
    } == {"CORUM": (0.142, 36782), "Reactome": (0.113, 15063), "StringDB": (0.146, 48896)}
    assert found["recall.CORUM"]["map"] == 15796

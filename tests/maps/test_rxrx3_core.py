"""RxRx3-core's benchmark: against its definitions written down once more, on a small copy of the
release made here.
"""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from phenomjax.maps.benchmark import command as benchmark
from phenomjax.maps.benchmark.protocols import rxrx3_core
from phenomjax.maps.relations.interactions import read_interactions
from phenomjax.maps.relations.relationships import read_relationships
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door

GENES, COMPOUNDS, DIM = 40, 8, 12


def release(folder, seed=0):
    """The three files of a release: (embeddings, metadata, activities), as tables and on disk."""
    rng = np.random.default_rng(seed)
    genes = [f"G{k}" for k in range(GENES)]
    target = rng.integers(0, GENES, (COMPOUNDS, 2))
    effect = rng.normal(size=(GENES, DIM))
    rows, values = [], []

    def well(experiment, gene, treatment, dose, kind, shift):
        name = f"{experiment}_1_W{len(rows):04d}"
        rows.append((name, experiment, 1, f"W{len(rows):04d}", gene, treatment, dose, kind))
        values.append(rng.normal(size=DIM) + shift + (2.0 if experiment[-1] == "1" else 0.0))

    for experiment in ("gene-001", "gene-002"):
        for _ in range(30):
            well(experiment, "EMPTY_control", "EMPTY_control", np.nan, "CRISPR", 0)
        for k, gene in enumerate(genes):
            for guide in range(2):
                well(experiment, gene, f"{gene}_guide_{guide}", np.nan, "CRISPR", 1.5 * effect[k])
    for experiment in ("compound-003", "compound-004"):
        for _ in range(20):
            well(experiment, None, "EMPTY_control", np.nan, "COMPOUND", 0)
        well(experiment, None, "CRISPR_control", np.nan, "COMPOUND", 3)
        for k in range(COMPOUNDS):
            for dose in (*rxrx3_core.CONCENTRATIONS[2 * (k % 2) :], 7.0):
                shift = dose / 3 * effect[target[k]].sum(0)
                well(experiment, None, f"D-{k}", dose, "COMPOUND", shift)
    names = ["well_id", "experiment_name", "plate", "address", "gene", "treatment"]
    metadata = pd.DataFrame(rows, columns=[*names, "concentration", "perturbation_type"])
    embeddings = pd.DataFrame(
        np.array(values, np.float32), columns=[f"feature_{k}" for k in range(DIM)]
    )
    embeddings.insert(0, "well_id", metadata["well_id"])
    again = embeddings.iloc[:3].copy()  # a well may have several rows
    again[again.columns[1:]] += 0.5
    embeddings = pd.concat([embeddings, again]).sample(frac=1, random_state=1)
    measured = [
        (f"G{g}", 10.0 + 100 * k, f"D-{k}") for k in range(COMPOUNDS - 1) for g in target[k]
    ]
    measured += [(f"G{k}", 5000.0, f"D-{k % COMPOUNDS}") for k in range(10, 20)]
    measured += [(gene, 50000.0, "D-0") for gene in genes] + [("ABSENT", 3.0, "D-1")]
    activities = pd.DataFrame(measured, columns=["gene_symbol", "nM_value", "treatment"])
    activities.insert(2, "measurement_type", "ic50")
    embeddings.to_parquet(folder / "OpenPhenom_rxrx3_core_embeddings.parquet", index=False)
    metadata.to_csv(folder / "metadata_rxrx3_core.csv", index=False)
    activities.to_csv(folder / "compound_gene_interactions.csv", index=False)
    return embeddings, metadata, activities


def restated(embeddings, metadata, activities, seeds):
    """The protocol in NumPy: ({statistic: value}, the map's rows, their kinds and names)."""
    mean = embeddings.groupby("well_id").mean()
    x = mean.loc[metadata["well_id"]].to_numpy(np.float64)
    name = np.array([t if "_control" in t else t.split("_")[0] for t in metadata["treatment"]])
    control = name == "EMPTY_control"
    center = x[control].mean(0)
    _, _, axes = np.linalg.svd(x[control] - center, full_matrices=False)
    z = (x - center) @ axes.T
    for experiment in metadata["experiment_name"].unique():
        rows = (metadata["experiment_name"] == experiment).to_numpy()
        own = z[rows & control]
        z[rows] = (z[rows] - own.mean(0)) / own.std(0)
    table = pd.DataFrame(z)
    table["kind"], table["name"] = metadata["perturbation_type"].to_numpy(), name
    table["dose"] = metadata["concentration"].to_numpy()
    table = table[~((table["kind"] == "COMPOUND") & table["name"].str.contains("_control"))]
    table = table.groupby(["kind", "name", "dose"], dropna=False).mean().reset_index()
    table = table[table["dose"].isna() | table["dose"].isin(rxrx3_core.CONCENTRATIONS)]
    unit = table[list(range(DIM))].to_numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    names = table["name"].to_numpy()
    pool = {gene for gene in activities["gene_symbol"] if gene in set(names)}
    found = {"precision": [], "auc": [], "lowest": []}
    for seed in seeds:
        precision, auc, lowest = [], [], []
        for compound, own in activities.groupby("treatment"):
            active = sorted(set(own["gene_symbol"][own["nM_value"] <= 1000]) & pool)
            unclear = own["gene_symbol"][(own["nM_value"] > 1000) & (own["nM_value"] <= 10000)]
            others = sorted(pool - set(active) - set(unclear))
            if not active:
                continue
            drawn = np.random.default_rng(seed).choice(
                others, max(2 * len(active), 20), replace=False
            )
            items = [*active, *drawn]
            columns = [int(np.flatnonzero(names == gene)[0]) for gene in items]
            rows = np.flatnonzero(names == compound)
            cosine = np.abs(unit[rows] @ unit[columns].T)
            labels = np.isin(items, active)
            precision.append(average_precision_score(labels, cosine.max(0)))
            auc.append(roc_auc_score(labels, cosine.max(0)))
            if table["dose"].iloc[rows[0]] == 0.0025:
                lowest.append(average_precision_score(labels, cosine[0]))
        found["precision"].append(precision)
        found["auc"].append(auc)
        found["lowest"].append(lowest)
    precision, auc, lowest = (np.array(values) for values in found.values())
    values = {
        "median_average_precision": np.median(precision, axis=1).mean(),
        "mean_average_precision": precision.mean(1).mean(),
        "median_auc": np.median(auc, axis=1).mean(),
        "mean_auc": auc.mean(1).mean(),
        "lowest": np.median(lowest, axis=1).mean(),
    }
    return values, unit, table["kind"].to_numpy(), names, precision.shape[1]


def test_equals_its_definition(tmp_path):
    tables = release(tmp_path)
    pairs = [("G0", "G1"), ("G2", "G3"), ("G4", "G5"), ("G1", "G7"), ("G9", "G30")]
    pd.DataFrame(pairs, columns=["entity1", "entity2"]).to_csv(tmp_path / "KNOWN.txt", index=False)
    seeds = range(7)
    expected, unit, kind, names, compounds = restated(*tables, seeds)
    embeddings, metadata, _ = tables
    joined = metadata.merge(embeddings, on="well_id")
    features = [name for name in joined if name.startswith("feature_")]
    profiles = Profiles(
        joined[features].to_numpy(np.float32), joined.drop(columns=features), tuple(features)
    )
    interactions = read_interactions(tmp_path / "compound_gene_interactions.csv")
    known = read_relationships(tmp_path / "KNOWN.txt")
    found, curves, rows = rxrx3_core.benchmark(
        profiles, interactions, [known], [(0.05, 0.95), (0.2, 0.8)], seeds
    )
    for key in ("median_average_precision", "mean_average_precision", "median_auc", "mean_auc"):
        entry = found[f"compound_gene.{key}"]
        assert entry["value"] == pytest.approx(expected[key], abs=1e-6)
        assert entry["count"] == compounds == COMPOUNDS - 1 and entry["seeds"] == 7
        low, high = entry["interval"]
        assert low <= entry["value"] <= high
    by_dose = found["compound_gene.median_average_precision"]["by_concentration"]
    assert by_dose["0.0025"] == pytest.approx(expected["lowest"], abs=1e-6)
    assert abs(found["compound_gene.mean_auc"]["chance"] - 0.5) < 0.2
    # genes: the null is all rows of the map, or its genes
    assert len(rows) == len(unit)
    gene = {name: k for k, name in enumerate(names) if kind[k] == "CRISPR"}
    for suffix, chosen in (("", unit), (".among_genes", unit[kind == "CRISPR"])):
        null = np.sort((chosen @ chosen.T)[np.triu_indices(len(chosen), 1)])
        query = np.array([unit[gene[a]] @ unit[gene[b]] for a, b in pairs])
        for low, high, at in ((0.05, 0.95, ""), (0.2, 0.8, "@0.2,0.8")):
            left = np.searchsorted(null, query, "left") / len(null)
            right = np.searchsorted(null, query, "right") / len(null)
            value = ((right <= low) | (left >= high)).mean()
            assert found[f"recall.KNOWN{suffix}{at}"]["value"] == value
    assert curves["KNOWN"]["pairs"] == 5


def test_one_command(tmp_path, monkeypatch):
    """With the files as they are published; the activities lie beside them."""
    monkeypatch.setattr(rxrx3_core, "SEEDS", 5)
    expected, *_ = restated(*release(tmp_path), range(5))
    words = ["--protocol", "rxrx3-core", "--out", tmp_path / "out"]
    words += ["--profiles", tmp_path / "OpenPhenom_rxrx3_core_embeddings.parquet"]
    joined = ["--metadata", tmp_path / "metadata_rxrx3_core.csv"]
    assert run_as_door(benchmark, [*words, *joined]) == 0
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    for key in ("median_average_precision", "mean_average_precision", "median_auc", "mean_auc"):
        assert found[f"compound_gene.{key}"]["value"] == pytest.approx(expected[key], abs=1e-6)
    table = (tmp_path / "out" / "benchmark.md").read_text()
    assert "| MAE-G/8, trimmed | | | 0.309 |" in table
    assert f"| these profiles | {expected['mean_average_precision']:.3f} |" in table
    message = r"needs the columns .*--metadata metadata_rxrx3_core\.csv"
    with pytest.raises(UserError, match=message):
        run_as_door(benchmark, words)
    with pytest.raises(UserError, match=r"as it was published\. Leave out --align, --dims, or"):
        run_as_door(benchmark, [*words, *joined, "--align", "tvn", "--dims", 3])


@pytest.mark.shared_data
def test_the_synthetic_copy_of_the_release(shared, tmp_path):
    folder = shared.parent / "cases" / "profiles"
    words = ["--protocol", "rxrx3-core", "--out", tmp_path / "out"]
    words += ["--profiles", folder / "30_OpenPhenom_rxrx3_core_embeddings.parquet"]
    words += ["--metadata", folder / "30_metadata_rxrx3_core.csv"]
    assert run_as_door(benchmark, words) == 0
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    keys = ("median_average_precision", "mean_average_precision", "mean_auc")
    values = [round(found[f"compound_gene.{key}"]["value"], 3) for key in keys]
    assert values == [0.274, 0.401, 0.671]


def test_what_it_needs(tmp_path, caplog):
    embeddings, metadata, _ = release(tmp_path)
    features = [f"feature_{k}" for k in range(DIM)]
    values = embeddings.groupby("well_id").mean().loc[metadata["well_id"], features]
    bare = Profiles(values.to_numpy(np.float32), metadata[["well_id"]].copy(), tuple(features))
    with pytest.raises(UserError, match=r"needs the columns.*lack experiment_name, treatment"):
        rxrx3_core.built(bare)
    other = metadata.assign(treatment=metadata["treatment"].str.replace("EMPTY", "DMSO"))
    with pytest.raises(UserError, match=r"aligns on the wells of EMPTY_control, of which .* 0\."):
        rxrx3_core.built(Profiles(bare.features, other, bare.names))
    found, _, _ = rxrx3_core.benchmark(
        Profiles(bare.features, metadata, bare.names), None, [], [(0.05, 0.95)]
    )
    assert "--targets" in found["compound_gene.mean_auc"]["reason"]
    assert rxrx3_core.beside_published(found) == ""
    known = np.arange(len(metadata)) % 5 > 0
    holed = metadata.astype(object)
    holed.loc[~known, metadata.columns != "well_id"] = None
    lacking = Profiles(bare.features, holed, bare.names)
    rest = Profiles(bare.features[known], metadata[known].reset_index(drop=True), bare.names)
    np.testing.assert_array_equal(
        rxrx3_core.built(lacking).features, rxrx3_core.built(rest).features
    )
    assert f"{(~known).sum()} of {len(known)} profiles are not in the metadata" in caplog.text


def test_activities_are_relationships(tmp_path):
    release(tmp_path)
    path = tmp_path / "compound_gene_interactions.csv"
    pairs = read_relationships(path)
    active = read_interactions(path)
    assert pairs.name == active.name == "compound_gene_interactions"
    assert {tuple(pair) for pair in pairs.pairs} == {
        tuple(sorted((compound, gene)))
        for compound in active.compound
        for gene in active.active(compound)
    }
    assert ("ABSENT", "D-1") in {tuple(pair) for pair in pairs.pairs}
    assert not any("D-7" in pair for pair in pairs.pairs)  # measured between 1,000 and 10,000 nM
    assert active.unclear("D-7").tolist() == ["G15"]
    text = path.read_text()
    path.write_text(text.replace("5000.0", "about 5", 1))
    with pytest.raises(UserError, match=r"nM_value holds 'about 5', which is no number of nM"):
        read_interactions(path)
    path.write_text("entity1,entity2\na,b\n")
    with pytest.raises(UserError, match=r"holds no measured activities.*'entity1,entity2'"):
        read_interactions(path)
    with pytest.raises(UserError, match=r"There is no file of relationships at"):
        read_interactions(tmp_path / "none.csv")

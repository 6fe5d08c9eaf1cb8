"""--unexpressed means one thing in all commands: a file with one gene a line, or a query."""

import json

import numpy as np
import pandas as pd
import pytest

from phenomjax.maps.tables.profiles import Profiles, feature_names
from phenomjax.maps.tables.writing import write
from phenomjax.system.errors import UserError
from tests.lab.maps import run

SILENT = 30  # genes, of 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Wells of 60 genes on 3 plates with 4 controls each, their map, and what is not expressed: as
    a file, and as a column of the metadata.
    """
    path, rng = tmp_path_factory.mktemp("unexpressed"), np.random.default_rng(0)
    genes = [f"G{k:02d}" for k in range(60)]
    (path / "silent.txt").write_text("\n".join([*genes[:SILENT], "ELSEWHERE", ""]))
    arms = [f"{gene}\t{1 + k % 2}p\t{k / 60}" for k, gene in enumerate(genes)]
    (path / "arms.tsv").write_text("gene\tarm\tposition\n" + "\n".join(arms) + "\n")
    rows = pd.DataFrame({"perturbation": genes, "gene": genes, "perturbation_type": "crispr"})
    rows["TPM"] = np.where(np.arange(60) < SILENT, 0.0, 5.0)
    rows["is_control"] = False
    nothing = rows.iloc[:4].assign(perturbation=None, gene=None, TPM=0.0, is_control=True)
    plate = pd.concat([rows, nothing], ignore_index=True)
    plate["well"] = [f"W{k:02d}" for k in range(len(plate))]
    wells = pd.concat([plate.assign(experiment="E", plate=name) for name in "abc"])
    for table, name in ((rows, "map"), (wells.reset_index(drop=True), "wells")):
        features = rng.normal(size=(len(table), 6)).astype(np.float32)
        write(Profiles(features, table, feature_names(6)), path / f"{name}.parquet")
    return path


def test_a_file_and_a_query_mean_the_same(folder, tmp_path):
    words = {
        "filter": ["--profiles", folder / "wells.parquet"],
        "benchmark": ["--profiles", folder / "wells.parquet", "--align", "none"],
        "proximity": [
            *("--profiles", folder / "map.parquet", "--genes", folder / "arms.tsv"),
            *("--trials", 5, "--min_unexpressed", 5),
        ],
    }
    found = {}
    for name, more in words.items():
        for how, named in (("file", folder / "silent.txt"), ("query", "TPM == 0")):
            out = tmp_path / name / how
            assert run(name, *more, "--unexpressed", named, "--out", out) == 0
            (result,) = out.glob(f"{name}.json")
            found[name, how] = json.loads(result.read_text())
    null = f"{SILENT} perturbations of unexpressed genes"
    for how in ("file", "query"):
        assert found["filter", how]["null"] == null
        assert found["benchmark", how]["consistency.share_p05"]["null"] == null
        assert found["proximity", how]["correction"]["unexpressed_genes"] == SILENT
    for name in ("filter", "benchmark"):
        found[name, "file"].pop("about", None)
        found[name, "query"].pop("about", None)
        assert found[name, "file"] == found[name, "query"]
    one, other = (found["proximity", how]["correction"] for how in ("file", "query"))
    assert one["arms"] == other["arms"] and sum(one["arms"].values()) == SILENT


def test_what_is_neither_is_said(folder, tmp_path):
    wells = ["filter", "--profiles", folder / "wells.parquet", "--out", tmp_path]
    arms = ["--genes", folder / "arms.tsv", "--out", tmp_path]
    proximity = ["proximity", "--profiles", folder / "map.parquet", *arms]
    for words in (wells, proximity):
        neither = r"--unexpressed .*is no query.*a file with one gene a line; there is none"
        with pytest.raises(UserError, match=neither):
            run(*words, "--unexpressed", folder / "nowhere.txt")
        with pytest.raises(UserError, match=r"--unexpressed .*does not say yes or no"):
            run(*words, "--unexpressed", "TPM + 1")
    (tmp_path / "mouse.txt").write_text("g00\n")
    with pytest.raises(UserError, match=r"is of a gene that --unexpressed .* names"):
        run(*wells, "--unexpressed", tmp_path / "mouse.txt")

"""Maps full of ties: what a user reads is the same for every block size, number of threads and
processor.
"""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from phenomjax.maps.__main__ import main
from phenomjax.maps.arm_bias import scores
from phenomjax.maps.build.magnitude import magnitudes
from phenomjax.maps.relations import cosines, recall, relate
from phenomjax.maps.tables.input import refuse_duplicates
from phenomjax.maps.tables.profiles import Profiles, feature_names
from phenomjax.maps.tables.writing import write
from phenomjax.statistics.consistency import consistency
from phenomjax.system.errors import UserError

GENES = 90
DIGITS = 6


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """Wells and a map of profiles of whole numbers, of which many are alike or at simple angles."""
    folder, rng = tmp_path_factory.mktemp("tied"), np.random.default_rng(0)
    genes = [f"G{k:02d}" for k in range(GENES)]
    features = rng.integers(0, 3, (GENES, 5)).astype(np.float32)
    features[features.sum(1) == 0] = 1
    table = pd.DataFrame({"perturbation": genes, "gene": genes, "perturbation_type": "crispr"})
    write(Profiles(features, table, feature_names(5)), folder / "map.parquet")
    pairs = rng.integers(0, GENES, (150, 2))
    lines = [f"{genes[a]},{genes[b]}\n" for a, b in pairs if a != b]
    (folder / "CORUM.txt").write_text("entity1,entity2\n" + "".join(lines))
    arms = [f"{gene}\t{1 + k % 3}p\t{k / GENES}\t{-4 * (k % 2)}" for k, gene in enumerate(genes)]
    (folder / "arms.tsv").write_text("gene\tarm\tposition\tzfpkm\n" + "\n".join(arms) + "\n")
    wells, rows = [], []
    for plate in range(6):
        for k in range(12):
            rows.append(("E", str(plate), f"W{k:02d}", genes[k], k >= 9))
            wells.append(features[k] + rng.integers(0, 2, 5))
    names = ["experiment", "plate", "well", "perturbation", "is_control"]
    many = Profiles(
        np.array(wells, np.float32), pd.DataFrame(rows, columns=names), feature_names(5)
    )
    write(many, folder / "wells.parquet")
    return folder


def commands(folder, out):
    """What is run, and what it writes."""
    the_map = ["--profiles", folder / "map.parquet"]
    arms = ["--genes", folder / "arms.tsv"]
    known = ["--relationships", folder / "CORUM.txt", "--thresholds", "0.05,0.95", "0.25,0.75"]
    return [
        ["relate", *the_map, "--top", 12, "--out", out],
        ["query", "G01", "G40", *the_map, "--top", 20, "--out", out / "query.json"],
        ["benchmark", *the_map, "--map", "--align", "none", *known, *arms, "--out", out],
        ["proximity", *the_map, *arms, "--trials", 20, "--min_unexpressed", 5, "--out", out],
        ["filter", "--profiles", folder / "wells.parquet", "--draws", 200, "--out", out],
    ]


def written(folder, out, names=()):
    """All JSON and tables of the commands, or of those of these names."""
    for words in commands(folder, out):
        if names and words[0] not in names:
            continue
        assert main([str(word) for word in words]) == 0
    found = {path.name: json.loads(path.read_text()) for path in out.glob("*.json")}
    for path in out.glob("*.parquet"):
        table = pd.read_parquet(path)
        if path.name == "neighbours.parquet":  # is written block after block
            order = ["entity", "kind", "neighbour_kind", "side", "rank"]
            table = table.astype({name: str for name in order[:4]}).sort_values(order)
        found[path.name] = json.loads(table.to_json(orient="split", index=False))
    return found


def same(one, other, at=""):
    """Asserts that words and whole numbers are the same, and other numbers to DIGITS."""
    if isinstance(one, float) or isinstance(other, float):
        assert one == pytest.approx(other, abs=10**-DIGITS), at
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for key in one.keys() - {"out"}:
            same(one[key], other[key], f"{at}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), at
        for number, (mine, its) in enumerate(zip(one, other, strict=True)):
            same(mine, its, f"{at}/{number}")
    else:
        assert one == other, at


@pytest.fixture(scope="module")
def here(tied, tmp_path_factory):
    return written(tied, tmp_path_factory.mktemp("here"))


def test_results_are_the_same_for_every_block_size(tied, here, tmp_path, monkeypatch):
    for numbers in (64 * GENES, 700):
        monkeypatch.setattr(cosines, "NUMBERS_AT_ONCE", numbers)
        same(written(tied, tmp_path / str(numbers)), here)
    # the thresholds are those of all pairs, also where a sample tells where to look
    monkeypatch.setattr(recall, "SAMPLE", 500)
    sampled = written(tied, tmp_path / "sampled", ("benchmark",))
    same(sampled["benchmark.json"], here["benchmark.json"])


@pytest.mark.parametrize("core, threads", [("Haswell", 1), ("Nehalem", 2)])
def test_results_are_the_same_on_every_processor(tied, here, tmp_path, core, threads):
    """OpenBLAS takes the kernels of older processors, NumPy leaves out what it has for new ones."""
    dispatched = np._core._multiarray_umath.__cpu_dispatch__
    features = np._core._multiarray_umath.__cpu_features__
    environment = os.environ | {
        "OPENBLAS_CORETYPE": core,
        "OPENBLAS_NUM_THREADS": str(threads),
        "NPY_DISABLE_CPU_FEATURES": " ".join(one for one in dispatched if features.get(one)),
    }
    program = (
        "import json, sys\nfrom pathlib import Path\nfrom tests.maps.test_ties import written\n"
        "found = written(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "Path(sys.argv[3]).write_text(json.dumps(found))\n"
    )
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", program, tied, out, tmp_path / "found.json"],
        env=environment,
        cwd=os.getcwd(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same(json.loads((tmp_path / "found.json").read_text()), here)


def test_neighbours_that_tie_stand_in_the_order_of_the_map(tied):
    """Whole numbers are multiplied exactly: what is equal there ties, and is told in one order."""
    features = pd.read_parquet(tied / "map.parquet")[list(feature_names(5))].to_numpy(np.float32)
    rows = cosines.units(features)
    ((_, sides),) = relate.top_k(rows, rows, GENES - 1, np.arange(GENES))
    found, _ = sides["similar"]
    alike = 0
    for row in found:
        for one, other in itertools.pairwise(row):
            if np.array_equal(features[one], features[other]):
                alike += 1
                assert one < other
    assert alike > 100


def test_a_null_that_holds_the_value_itself_counts_it():
    """Sets of the very replicates, summed in another order, are at least as large."""
    rng = np.random.default_rng(1)
    features = np.repeat(rng.normal(size=(2, 7)), 3, axis=0)
    # both perturbations are perfectly consistent, as is every set of three equal wells
    found = consistency(features, np.repeat(["a", "b"], 3), draws=400)
    sets = np.array([len(set(draw)) == 1 for draw in _draws(400)])
    assert found.p.tolist() == pytest.approx([sets.mean()] * 2)
    controls = np.repeat(rng.normal(size=(1, 7)), 30, axis=0)
    same = magnitudes(controls[:6], np.zeros(6, int), 1, controls, draws=50)
    assert same.p.tolist() == [1.0]


def _draws(draws):
    rng = np.random.default_rng(0)
    return [np.array([0, 0, 0, 1, 1, 1])[rng.choice(6, 3, replace=False)] for _ in range(draws)]


def test_probability_of_ties_is_a_half():
    """Orthogonal profiles: all cosines between are 0, within 0 or 1."""
    features = np.eye(6, dtype=np.float32)[np.arange(36) % 6] * np.float32(1 / 3)
    # each arm holds each profile thrice
    arm = np.repeat(["1p", "2p"], 18)
    each, every = scores.arm_scores(features, arm)
    within, between = 2 / 17, 1 / 6
    expected = 0.5 + (within - between) / 2
    assert every.probability == pytest.approx(expected)
    assert each["1p"].probability == pytest.approx(expected)
    np.testing.assert_allclose(scores.gene_scores(features, arm), expected)


def test_duplicate_rows_are_found_wherever_they_stand():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(501, 33)).astype(np.float32)
    features[500] = features[3]
    table = pd.DataFrame({"well": ["A"] * 501})
    with pytest.raises(UserError, match=r"1 of 501 rows are there twice.*row 500"):
        refuse_duplicates(Profiles(features, table, feature_names(33)))
    features[500, 32] = np.nextafter(features[500, 32], np.float32(9))
    refuse_duplicates(Profiles(features, table, feature_names(33)))

"""Baselines, BLOSUM62, nearest neighbours; and the floors measured on real data."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

from phenomjax.probes import metrics
from phenomjax.probes.methods import baselines, blosum, neighbours
from phenomjax.probes.suites.dataset import Dataset, Labels
from phenomjax.probes.suites.suite import CLASS, MULTILABEL, RESIDUE, VALUE, Training
from phenomjax.system.errors import UserError

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def proteins(count: int, length: int = 0, seed: int = 0, letters: str = AMINO_ACIDS) -> list[str]:
    random = np.random.default_rng(seed)
    return [
        "".join(random.choice(list(letters), length or random.integers(20, 60)))
        for _ in range(count)
    ]


def dataset(sequences: list[str], labels: dict[str, Labels], alphabet: str = "protein") -> Dataset:
    """Every third row is a test row."""
    n = len(sequences)
    split = np.where(
        np.arange(n) % 3 == 2, "test", np.where(np.arange(n) % 3 == 1, "validation", "train")
    )
    return Dataset("task", alphabet, [f"record {i}" for i in range(n)], sequences, labels, split)


def judged(data: Dataset, scores: list[dict]) -> dict[tuple[str, str, str], float]:
    rows = metrics.evaluate(data, scores, 0)
    return {
        (row["split"], row["label"], row["metric"]): row["value"]
        for row in rows
        if row["average"] != "protein"
    }


def test_blosum62():
    assert (blosum.MATRIX == blosum.MATRIX.T).all() and blosum.MATRIX.shape == (23, 23)
    assert blosum.MATRIX[:20, :20].trace() == 116 and blosum.MATRIX[:20, :20].sum() == -426
    known = {
        "WW": 11,
        "CC": 9,
        "AA": 4,
        "WC": -2,
        "IV": 3,
        "LM": 2,
        "DE": 2,
        "FY": 3,
        "PW": -4,
        "KR": 2,
        "BD": 4,
        "ZQ": 3,
        "XA": 0,
    }
    assert {pair: blosum.score(*pair) for pair in known} == known
    assert blosum.score("U", "A") == blosum.score("X", "A") and blosum.score(
        "c", "C"
    ) == blosum.score("X", "C")
    vectors = blosum.vectors("WÄA")
    assert vectors.shape == (3, 20) and vectors.dtype == np.float32
    assert vectors[0, 17] == 11 and (vectors[1] == blosum.MATRIX[22, :20]).all()


def test_compositions_and_windows_by_hand():
    table = baselines.composition(["AACX", "X"])
    assert table.shape == (2, 420) and not table[1].any()
    assert (
        table[0, :2].tolist() == [2 / 3, 1 / 3]
        and table[0, [20, 21]].tolist() == [0.5, 0.5]
        and table[0].sum() == 2
    )
    assert baselines.windows(["AC", "D"], 3).tolist() == [[20, 0, 1], [0, 1, 20], [20, 2, 20]]


def test_majority_of_every_kind():
    sequences = proteins(9)
    of_class = np.array([0, 1, 0, 1, 1, 0, 1, -1, 0])
    sets = np.zeros((9, 4), bool)
    sets[:, 2], sets[3, 1], sets[7] = True, True, False
    residues = [
        np.full(len(s), i % 3 - 1, np.int16) for i, s in enumerate(sequences)
    ]  # of training rows unknown, of validation 0
    value = np.arange(9.0)
    value[1] = np.nan
    data = dataset(
        sequences,
        {
            "c": Labels(CLASS, ("x", "y", "never"), of_class, ""),
            "m": Labels(MULTILABEL, tuple("abcd"), sets, ""),
            "r": Labels(RESIDUE, ("x", "y"), residues, ""),
            "v": Labels(VALUE, (), value, ""),
        },
    )
    (scores,) = baselines.predict("majority", data, Training())
    np.testing.assert_allclose(scores["c"], np.tile([0.2, 0.8, 0], (3, 1)), atol=1e-6)
    np.testing.assert_allclose(scores["m"], np.tile([0, 0.2, 1, 0], (3, 1)), atol=1e-6)
    assert scores["v"].tolist() == [np.float32((0 + 3 + 4 + 6 + 7) / 5)] * 3
    assert [r.shape for r in scores["r"]] == [(len(sequences[i]), 2) for i in (2, 5, 8)]
    assert scores["r"][0][0].tolist() == [1, 0]


def test_composition_tells_what_composition_tells(monkeypatch):
    monkeypatch.setattr(baselines, "LOGISTIC_CLASSES", 20)
    greasy = [proteins(1, 30, seed=i, letters="AILVFM")[0] for i in range(150)]
    sequences = [
        a[: 7 * i % 30] + b for i, (a, b) in enumerate(zip(greasy, proteins(150), strict=True))
    ]
    rich = np.array([np.mean([letter in "AILVFM" for letter in s]) for s in sequences])
    # 30 classes: by ridge
    many = np.argsort(np.argsort([s.count("W") for s in sequences])) * 30 // 150
    sets = np.stack([rich > 0.45, rich <= 0.6], 1)
    data = dataset(
        sequences,
        {
            "c": Labels(CLASS, ("x", "poor", "rich"), 1 + (rich > 0.5), ""),
            "v": Labels(VALUE, (), rich, ""),
            "s": Labels(MULTILABEL, ("a", "b"), sets, ""),
            "m": Labels(CLASS, tuple(map(str, range(30))), many, ""),
            "one": Labels(CLASS, ("a", "b"), np.ones(150, int), ""),
        },
    )
    scores = baselines.predict("composition", data, Training())
    found = judged(data, scores)
    assert found["test", "c", "accuracy"] > 0.75 and found["test", "v", "r2"] > 0.8
    assert found["test", "s", "f1_samples"] > 0.8 and found["test", "one", "accuracy"] == 1
    assert not scores[0]["c"][:, 0].any() and set(scores[0]["m"].ravel()) == {0, 1}
    assert judged(data, baselines.predict("blosum62", data, Training()))["test", "v", "r2"] > 0.5
    # of several lengths: the same
    assert judged(data, baselines.predict("one_hot", data, Training())) == found


def test_variants_of_one_length_by_their_positions():
    sequences = proteins(240, 6)
    sequences = ["M" + s for s in sequences]
    value = np.array(
        [3 * (s[2] in "AILV") - 2 * (s[4] in "DE") + blosum.score(s[5], "W") for s in sequences],
        float,
    )
    data = dataset(sequences, {"v": Labels(VALUE, (), value, "")})
    (scores,) = baselines.predict("one_hot", data, Training())
    x = np.array([[letter == a for letter in s for a in AMINO_ACIDS] for s in sequences], float)
    learned = data.split != "test"
    np.testing.assert_allclose(
        scores["v"], Ridge(1.0).fit(x[learned], value[learned]).predict(x[~learned]), rtol=1e-4
    )
    assert (
        judged(data, baselines.predict("blosum62", data, Training()))["test", "v", "spearman"] > 0.8
    )


@pytest.mark.parametrize("name", ["composition", "one_hot", "blosum62"])
def test_residues_by_the_letters_around_them(name):
    sequences = proteins(60)
    own = [np.array([letter in "AILV" for letter in s], np.int16) for s in sequences]
    ahead = [np.append(values[3:], [-1, -1, -1]).astype(np.int16) for values in own]
    data = dataset(
        sequences,
        {
            "own": Labels(RESIDUE, ("n", "y"), own, ""),
            "ahead": Labels(RESIDUE, ("n", "y"), ahead, ""),
        },
    )
    scores = baselines.predict(name, data, Training())
    found = judged(data, scores)
    assert [r.shape for r in scores[0]["own"]] == [(len(sequences[i]), 2) for i in data.test_rows]
    assert found["test", "own", "accuracy"] > 0.99
    assert (found["test", "ahead", "mcc"] > 0.97) == (name != "composition")


def test_molecules_and_what_has_no_baseline():
    smiles = ["CCO", "c1ccccc1", "CCCO", "CC", "c1ccccc1C"] * 6
    data = dataset(
        smiles, {"v": Labels(VALUE, (), np.array([len(s) for s in smiles], float), "")}, "smiles"
    )
    with pytest.raises(UserError, match="BLOSUM62 scores amino acids"):
        baselines.predict("blosum62", data, Training())
    with pytest.raises(UserError, match="Did you mean 'majority'"):
        baselines.predict("majorty", data, Training())
    pytest.importorskip("rdkit")
    assert judged(data, baselines.predict("composition", data, Training()))["test", "v", "r2"] > 0.9
    smiles[4] = "C(("
    with pytest.raises(UserError, match=r"cannot read the SMILES 'C\(\(' of record 'record 4'"):
        baselines.predict("composition", data, Training())


def test_nearest_neighbours_exactly(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 100)  # several blocks
    random = np.random.default_rng(0)
    train, query = random.normal(size=(40, 5)) + 1000, random.normal(size=(13, 5)) + 1000
    for distance in neighbours.DISTANCES:
        index, far = neighbours.nearest(
            train.astype(np.float32), query.astype(np.float32), distance
        )
        expected = NearestNeighbors(n_neighbors=1, metric=distance, algorithm="brute").fit(
            train.astype(np.float32).astype(float)
        )
        expected_far, expected_index = expected.kneighbors(query.astype(np.float32).astype(float))
        assert index.tolist() == expected_index[:, 0].tolist()
        np.testing.assert_allclose(far, expected_far[:, 0], rtol=1e-4, atol=1e-12)


def test_transfer_of_every_kind():
    of_class, value = np.array([0, 1, 9, -1, 1, 9]), np.array([1.0, 2.0, 9.0, np.nan, 3.0, 9.0])
    sets = np.array([[1, 0], [1, 1], [0, 0], [0, 0], [0, 1], [0, 0]], bool)
    data = dataset(
        proteins(6),
        {
            "c": Labels(CLASS, ("x", "y"), of_class, ""),
            "m": Labels(MULTILABEL, ("a", "b"), sets, ""),
            "v": Labels(VALUE, (), value, ""),
        },
    )
    found = neighbours.transfer(data, np.array([1, 3]))
    assert found["c"].tolist() == [[0, 1], [0, 0]] and found["m"].tolist() == [[1, 1], [0, 0]]
    # nothing known of the other: the mean of the training rows
    assert found["v"].tolist() == [2, 1]
    assert neighbours.transfer(data, np.array([-1, -1]))["c"].tolist() == [[0, 0], [0, 0]]
    residues = dataset(["M"] * 3, {"r": Labels(RESIDUE, ("x",), [np.zeros(1, np.int16)] * 3, "")})
    with pytest.raises(UserError, match="those of whole proteins"):
        neighbours.transfer(residues, np.array([0]))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name, rho", [("one_vs_rest", 0.279), ("two_vs_rest", 0.594), ("low_vs_high", 0.343)]
)
def test_floor_of_gb1(shared, name, rho):
    table = pd.read_csv(shared / f"protein/dms/gb1_{name}.csv")
    validation = table["validation"].astype(str) == "True"
    split = np.where(table["set"] == "test", "test", np.where(validation, "validation", "train"))
    labels = {"fitness": Labels(VALUE, (), table["target"].to_numpy(float), "spearman")}
    data = Dataset(name, "protein", [""] * len(table), table["sequence"].tolist(), labels, split)
    found = judged(data, baselines.predict("one_hot", data, Training()))
    assert found["test", "fitness", "spearman"] == pytest.approx(rho, abs=0.0005)


@pytest.mark.shared_data
def test_floors_of_localization(shared):
    """From the validation set of Light Attention to DeepLoc's test set, and back."""
    sets = {"validation": "deeploc_our_val_set", "test": "deeploc_test_set"}
    records = []
    for name, file in sets.items():
        for record in (shared / f"protein/localization/{file}.fasta").read_text().split(">")[1:]:
            header, *lines = record.splitlines()
            records.append((header.split()[1].rpartition("-"), "".join(lines), name))
    places = tuple(sorted({place for (place, _, _), _, _ in records} - {"Cytoplasm-Nucleus"}))
    q10 = np.array(
        [places.index(place) if place in places else -1 for (place, _, _), _, _ in records]
    )
    q2 = np.array(["MS".find(membrane) for (_, _, membrane), _, _ in records])
    labels = {"q10": Labels(CLASS, places, q10, ""), "q2": Labels(CLASS, ("M", "S"), q2, "")}
    floors = {
        "validation": {"majority": (0.291, 0.574), "composition": (0.454, 0.745)},
        "test": {"composition": (0.453, 0.752)},
    }
    for learned, found in floors.items():
        split = np.array(["train" if name == learned else "test" for *_, name in records])
        data = Dataset(
            "localization",
            "protein",
            [""] * len(records),
            [s for _, s, _ in records],
            labels,
            split,
        )
        for name, values in found.items():
            scores = judged(data, baselines.predict(name, data, Training()))
            for label, value in zip(labels, values, strict=True):
                assert scores["test", label, "accuracy"] == pytest.approx(value, abs=0.0005), (
                    learned,
                    label,
                )

"""MMseqs2 around a data set: nearest training rows, identity views, clusters, leakage; and what is
said without it.
"""

import shutil

import numpy as np
import pytest

from phenomjax.data.sequences import mmseqs
from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.probes.suites import alignment, leakage
from phenomjax.probes.suites.dataset import Dataset, Labels
from phenomjax.system.errors import UserError

needs_mmseqs = pytest.mark.skipif(
    not mmseqs.available(), reason="MMseqs2 is not installed: no `mmseqs` on the PATH"
)
LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
RNG = np.random.default_rng(0)
FAMILIES = ["".join(RNG.choice(LETTERS, 200)) for _ in range(5)]


def mutated(text: str, count: int) -> str:
    """A copy with exactly so many other residues, none at its ends."""
    letters = list(text)
    for place in RNG.choice(np.arange(10, len(text) - 10), count, replace=False):
        letters[place] = str(RNG.choice(LETTERS[letters[place] != LETTERS]))
    return "".join(letters)


def data(train, tests, validation=(), alphabet="protein"):
    texts = [*train, *validation, *tests]
    split = np.array(
        ["train"] * len(train) + ["validation"] * len(validation) + ["test"] * len(tests)
    )
    labels = {"y": Labels("value", (), np.zeros(len(texts)), "spearman")}
    return Dataset("t", alphabet, [f"p{i}" for i in range(len(texts))], texts, labels, split)


@needs_mmseqs
def test_nearest_rows_and_views(tmp_path):
    a, b, c, d, alone = FAMILIES
    train = [mutated(a, 80), mutated(a, 20), b, b, "M" + c[:60] + c[60:], mutated(d, 90)]
    tests = [a, mutated(b, 4), c[30:150], d, alone, a, "GGG"]
    found = data(train, tests, validation=[a, alone])  # of the validation nothing is transferred
    rows, identity = alignment.nearest_hits(found, cache=tmp_path)
    assert rows.tolist() == [1, 2, 4, 5, -1, 1, -1]
    np.testing.assert_allclose(identity, [0.9, 0.98, 1, 0.55, 0, 0.9, 0], atol=0.006)
    assert rows.dtype == np.int64 and identity.dtype == np.float32
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    # of the same search
    views = alignment.add_identity_subsets(found, (0.3, 0.95, 0.99), cache=tmp_path)
    assert {name: (of - 8).tolist() for name, of in views.subsets.items()} == {
        "test, identity < 0.3": [4, 6],
        "test, identity < 0.95": [0, 3, 4, 5, 6],
        "test, identity < 0.99": [0, 1, 3, 4, 5, 6],
    }
    assert views.rows("test, identity < 0.3").tolist() == [12, 14] and [kept] == list(
        tmp_path.iterdir()
    )
    assert kept.stat().st_mtime_ns == before
    hits = alignment.hits(found, cache=tmp_path)
    both = {
        (int(query), int(target)) for query, target in zip(hits.query, hits.target, strict=True)
    }
    assert {(8, 0), (8, 1), (13, 0), (13, 1), (10, 4)} <= both  # every copy of a test has its hits
    place = next(i for i, query in enumerate(hits.query) if query == 10)
    assert hits.query_coverage[place] == 1 and hits.target_coverage[place] == pytest.approx(
        120 / 201, abs=0.01
    )


@needs_mmseqs
def test_leakage(tmp_path):
    """Exact with rare letters as X; near-identical over most of the test sequence, also within a
    longer one.
    """
    a, b, c, d, alone = FAMILIES
    tests = [a[:50] + "U" + a[51:], mutated(b, 10), c, d, alone]
    stored = [a[:50] + "X" + a[51:], alone + b + c[:100], mutated(d, 40)]  # c: half of it; d: 0.8
    bank = tmp_path / "bank.zarr"
    write_token_bank(
        bank,
        {"train": [(f"seq{i}", text) for i, text in enumerate(stored)], "validation": [("v", c)]},
        alphabet="protein",
    )
    write_token_bank(tmp_path / "s.zarr", {"train": [("m", "CCO")]}, alphabet="smiles")
    rows = leakage.report(data(tests, tests), [bank, tmp_path / "gone.zarr", tmp_path / "s.zarr"])
    assert [row["other"] for row in rows] == [
        "train",
        str(bank),
        str(tmp_path / "gone.zarr"),
        str(tmp_path / "s.zarr"),
    ]
    assert all((row["task"], row["split"], row["count"]) == ("t", "test", 5) for row in rows)
    train, banked, gone, smiles = rows
    assert (train["exact"], train["near"], train["near_share"]) == (5, 5, 1)
    assert train["examples"][1] == {"id": "p6", "other_id": "p1", "identity": 1.0}
    assert (banked["exact"], banked["exact_share"], banked["near"], banked["note"]) == (
        1,
        0.2,
        3,
        "",
    )
    assert {(row["id"], row["other_id"]) for row in banked["examples"]} == {
        ("p5", "seq0"),
        ("p6", "seq1"),
        ("p9", "seq1"),
    }
    assert sorted(row["identity"] for row in banked["examples"]) == pytest.approx(
        [0.95, 1, 1], abs=0.006
    )
    assert gone["exact"] is gone["near"] is None
    assert (
        "may have been moved: There is no bank at" in gone["note"]
        and "holds smiles, the test protein" in smiles["note"]
    )


def test_leakage_of_exact_copies_alone(tmp_path, monkeypatch):
    """Without MMseqs2, and for molecules; a bank is read in parts of whatever size."""
    stored = [("a", "CCO"), ("b", "c1ccccc1"), ("c", "CCl"), ("d", "CCO")]
    bank = write_token_bank(tmp_path / "s.zarr", {"train": stored}, alphabet="smiles")
    for size in (1, 6, 1000):
        parts = list(leakage.decoded(bank, part_tokens=size))
        assert [text for _, texts in parts for text in texts] == [text for _, text in stored]
        assert np.concatenate([numbers for numbers, _ in parts]).tolist() == [0, 1, 2, 3]
    rows = leakage.report(
        data(["CCBr", "CCl"], ["CCl", "CCO", "CN"], ["CN"], "smiles"), [tmp_path / "s.zarr"]
    )
    assert [(row["other"], row["exact"], row["near"]) for row in rows[:2]] == [
        ("train", 1, None),
        ("validation", 1, None),
    ]
    assert rows[2]["exact"] == 2 and "among proteins only" in rows[2]["note"]
    assert rows[2]["examples"] == [
        {"id": "p3", "other_id": "c", "identity": 1.0},
        {"id": "p4", "other_id": "a", "identity": 1.0},
    ]

    monkeypatch.setenv("PATH", "")
    proteins = write_token_bank(
        tmp_path / "p.zarr", {"train": [("x", "MKV"), ("y", "MKW")]}, boundary="bos_eos"
    )
    assert [texts for _, texts in leakage.decoded(proteins, part_tokens=1)] == [["MKV"], ["MKW"]]
    train, bank_row = leakage.report(data(["MKV"], ["MKW", "MKY"]), [tmp_path / "p.zarr"])
    assert (train["exact"], bank_row["exact"], bank_row["near"]) == (0, 1, None)
    assert "there is no program `mmseqs` on the PATH" in bank_row["note"]
    assert not mmseqs.available()
    with pytest.raises(
        UserError,
        match=r"Aligning the tests of 't' with its training rows needs MMseqs2.*conda install",
    ):
        alignment.nearest_hits(data(["MKV"], ["MKW"]))
    # asks for nothing
    assert alignment.add_identity_subsets(data(["MKV"], ["MKW"]), ()).subsets == {}


def test_failing_mmseqs(tmp_path, monkeypatch):
    """Its last words are told, and nothing is left behind."""
    program = tmp_path / "mmseqs"
    program.write_text("#!/bin/sh\necho out of memory\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(
        UserError,
        match=r"`easy-search` of MMseqs2 .* ended with code 1.*out of memory",
    ):
        alignment.nearest_hits(data(["MKV"], ["MKW"]))
    assert [path.name for path in tmp_path.iterdir()] == ["mmseqs"]


@needs_mmseqs
@pytest.mark.slow
def test_clusters(tmp_path):
    """Families and their fragments go together, copies too; the order has no say; they are kept."""
    texts = [text for family in FAMILIES for text in (family, mutated(family, 20), family[40:150])]
    texts.append(texts[4])
    centres = mmseqs.cluster(texts, 0.8, cache=tmp_path)
    assert [len(set(centres[i : i + 3].tolist())) for i in range(0, 15, 3)] == [1] * 5
    assert len(set(centres.tolist())) == 5 and centres[15] == centres[4] and (centres < 15).all()
    shutil.copytree(tmp_path, tmp_path / "before")
    turned = mmseqs.cluster(texts[::-1], 0.8, cache=tmp_path)
    assert [texts[::-1][i] for i in turned] == [texts[i] for i in centres][::-1]
    assert len(list(tmp_path.glob("*.npz"))) == 1
    assert mmseqs.cluster(["MKV"] * 3, 0.5).tolist() == [0, 0, 0]

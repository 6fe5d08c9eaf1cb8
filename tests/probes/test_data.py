"""Files of labelled sequences to data sets: formats, labels, splits, limits, every error text; and
the bundled files.
"""

import gzip
import logging

import numpy as np
import pytest
import zstandard

from phenomjax.data.sequences import mmseqs
from phenomjax.probes.suites import dataset, label_values, splits, suite_file
from phenomjax.probes.suites.suite import (
    CLASS,
    MULTILABEL,
    RESIDUE,
    VALUE,
    Label,
    Mutations,
    Source,
    Split,
    Task,
)
from phenomjax.system.errors import UserError

Q3 = Label(RESIDUE, classes=("H", "E", "C"))
GIVEN = Split(validation=0.0)


def write(folder, **files):
    """Writes a.fasta from a_fasta="...", plain, or as .gz or .zst."""
    for name, text in files.items():
        data, path = text.encode(), folder / name.replace("_", ".")
        if path.suffix == ".gz":
            data = gzip.compress(data)
        elif path.suffix == ".zst":
            data = zstandard.compress(data)
        path.write_bytes(data)
    return folder


def load(folder, sources, labels, split=GIVEN, **more):
    sources = (sources,) if isinstance(sources, Source) else sources
    labels = labels if isinstance(labels, dict) else {"y": labels}
    return dataset.load("t", Task(sources, labels, split, **more), folder)


def rows_of(found):
    """{id: split}."""
    return dict(zip(found.ids, found.split.tolist(), strict=True))


def test_residues_of_three_files(tmp_path):
    """Labels and masks are joined by id, in whatever order and compression; a masked residue is
    unknown.
    """
    write(
        tmp_path,
        s_fasta_gz=">a x\nmkv\nL*\n>b\nMKU\n>c\nMX\n>d\nMM\n",
        l_fasta_zst=(
            ">b SET=train VALIDATION=True\nHEC\n>a SET=train VALIDATION=False\nHHEC\n>c SET=test"
            " VALIDATION=False\nCC\n>d SET=val\nEE\n"
        ),
        m_fasta=">a\n0110\n>b\n111\n>c\n01\n>d\n00\n",
    )
    found = load(tmp_path, Source("s.fasta.gz", labels_path="l.fasta.zst", mask_path="m.fasta"), Q3)
    assert rows_of(found) == {"a": "train", "b": "validation", "c": "test"}  # of d nothing is known
    assert found.sequences == ["MKVL", "MKU", "MX"]
    assert [row.tolist() for row in found.labels["y"].values] == [
        [-1, 0, 1, -1],
        [0, 1, 2],
        [-1, 2],
    ]
    assert found.labels["y"].values[0].dtype == np.int16 and found.labels["y"].metric == "accuracy"
    assert (
        found.tests == ["test"]
        and found.test_rows.tolist() == [2]
        and found.rows("validation").tolist() == [1]
    )


def test_tables_of_residues(tmp_path):
    """PBC writes disorder as a list or as numbers between blanks; a mask does not hide the label
    that is read from it. TAPE has digits.
    """
    write(
        tmp_path,
        x_csv='input,dssp3,disorder\nMKV,HHC,"[0.0, 1.0, 1.0]"\n',
        y_tsv='input\tdssp3\tdisorder\nMKV\tEHC\t"1.0 0.0 1.0"\n',
        z_csv="input,dssp3,disorder\nMK,21,\n",
    )
    sources = [
        Source(
            f"{name}",
            sequence="input",
            fields={"mask": "disorder", "target": "dssp3"},
            constants={"split": split},
        )
        for name, split in (("x.csv", "train"), ("y.tsv", "CASP"), ("z.csv", "test"))
    ]
    q3 = Label(RESIDUE, classes=("H", "E", "C"), translate={"1": "E", "2": "C"})
    order = Label(RESIDUE, "mask", classes=("ordered", "no"), translate={"1": "ordered", "0": "no"})
    found = load(tmp_path, sources, {"q3": q3, "order": order})
    assert [row.tolist() for row in found.labels["q3"].values] == [[-1, 0, 2], [1, -1, 2], [2, 1]]
    assert [row.tolist() for row in found.labels["order"].values] == [
        [1, 0, 0],
        [0, 1, 0],
        [-1, -1],
    ]
    assert found.tests == ["CASP", "test"] and found.ids == ["x.csv:2", "y.tsv:2", "z.csv:2"]
    assert found.labels["order"].known().tolist() == [True, True, False]


def test_classes_values_and_levels(tmp_path):
    """Header groups, drop, unknown; levels of EC numbers; classes of the training first and sorted
    by number.
    """
    write(
        tmp_path,
        d_fasta=(
            ">P1 Nucleus-M test\nMKV*\n>P2 Cyto-Nuc-S\nMKL\n>P3 Cyto-U\nMKJ\n>P4 Nucleus-S\nMBZ\n"
        ),
        e_csv=(
            "sequence,ec,y,set,validation\nMKV,1.1.1.10;2.1.-.-,1.5,train,\nMKL,1.1.1.9,,train,True\nMKW,3.1.1.1;1.1.1.10,-2,test,\n"
            "MKY,-.-.-.-,3,test,\nMKC,,,train,\n"
        ),
    )
    header = r"(?P<id>\S+) (?P<place>\S+)-(?P<membrane>[MSU])(?P<split> test)?"
    labels = {
        "place": Label(CLASS, "place", drop=("Cyto-Nuc",)),
        "m": Label(CLASS, "membrane", unknown=("U",)),
    }
    with pytest.raises(UserError, match=r"record 3 \(P3\) does not say to which split it belongs"):
        # P2 is dropped, and may be what it likes
        load(tmp_path, Source("d.fasta", header=header), labels)
    found = load(
        tmp_path, Source("d.fasta", header=header), labels, Split("hash", test=0.6, validation=0.0)
    )
    assert set(found.ids) == {"P1", "P3", "P4"} and found.sequences[0] == "MKV"
    assert found.labels["m"].values[found.ids.index("P3")] == -1

    labels = {f"ec{level}": Label(MULTILABEL, "ec", level=level) for level in (3, 4)} | {
        "y": Label(VALUE, "y")
    }
    found = load(tmp_path, Source("e.csv"), labels)
    assert found.labels["ec3"].classes == ("1.1.1", "3.1.1")
    # the training's, then all others
    assert found.labels["ec4"].classes == ("1.1.1.10", "1.1.1.9", "3.1.1.1")
    assert found.labels["ec4"].values.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert found.labels["ec4"].metric == "f1_samples" and found.labels["y"].metric == "spearman"
    np.testing.assert_array_equal(found.labels["y"].values, [1.5, np.nan, -2, 3])
    assert rows_of(found) == {
        "e.csv:2": "train",
        "e.csv:3": "validation",
        "e.csv:4": "test",
        "e.csv:5": "test",
    }
    assert sorted(["10", "9", "b", "1.1.10", "1.1.2"], key=label_values._by_number) == [
        "1.1.2",
        "1.1.10",
        "9",
        "10",
        "b",
    ]


def proteins(count, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 30)) for _ in range(count)]


def table(folder, texts, name="h.csv"):
    (folder / name).write_text(
        "sequence,target\n" + "".join(f"{text},{i % 3}\n" for i, text in enumerate(texts))
    )
    return Source(name)


def test_split_by_hash_and_limits(tmp_path):
    """Rows that are added move none; copies fall together; limits take the smallest hashes, also
    where they are added to.
    """
    texts, by = proteins(300), Split("hash", test=0.25, validation=0.1)
    small = load(tmp_path, table(tmp_path, texts[:200]), Label(CLASS), by)
    large = load(tmp_path, table(tmp_path, texts[::-1] + texts[:50]), Label(CLASS), by)
    where = dict(zip(small.sequences, small.split, strict=True))
    assert all(
        part == where.get(text, part)
        for text, part in zip(large.sequences, large.split, strict=True)
    )
    copies = {
        text: {p for t, p in zip(large.sequences, large.split, strict=True) if t == text}
        for text in texts[:50]
    }
    assert {len(parts) for parts in copies.values()} == {1}
    assert (
        0.15 < len(small.test_rows) / 200 < 0.35
        and 0.05 < len(small.rows("validation")) / 150 < 0.16
    )
    limits = {"max_train": 40, "max_validation": 5, "max_test": 20, "max_length": 30}
    first = load(tmp_path, table(tmp_path, [*texts[:200], "M" * 31]), Label(CLASS), by, **limits)
    assert [len(first.rows(name)) for name in ("train", "validation", "test")] == [40, 5, 20]
    again = load(
        tmp_path, table(tmp_path, texts[:199:-1] + texts[:200]), Label(CLASS), by, **limits
    )
    kept = set(again.sequences) & set(texts[:200])
    assert kept < set(first.sequences) and len(kept) > 20  # others came before them
    assert again.fingerprint != first.fingerprint
    assert (
        first.fingerprint
        == load(
            tmp_path, table(tmp_path, [*texts[:200], "M" * 31]), Label(CLASS), by, **limits
        ).fingerprint
    )


def test_split_by_cluster(tmp_path, monkeypatch):
    """Whole clusters, the shares kept as well as their sizes allow; without MMseqs2 the message
    says what to install.
    """
    texts = [group + text for group in "ACDEFGHIKL" for text in proteins(10)]
    source = table(tmp_path, texts)

    def cluster(sequences, identity, cache, purpose):
        assert identity == 0.4 and cache is None and purpose.startswith("Task 't'")
        return np.array(
            [next(i for i, text in enumerate(sequences) if text[0] == s[0]) for s in sequences]
        )

    monkeypatch.setattr(mmseqs, "cluster", cluster)
    found = load(
        tmp_path, source, Label(CLASS), Split("cluster", test=0.25, validation=0.13, identity=0.4)
    )
    parts = {
        text[0]: {p for t, p in zip(found.sequences, found.split, strict=True) if t[0] == text[0]}
        for text in texts
    }
    assert all(len(part) == 1 for part in parts.values())
    assert [len(found.rows(name)) for name in ("train", "validation", "test")] == [70, 10, 20]
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        UserError, match=r"Task 't', which is split by cluster, needs MMseqs2.*apt install mmseqs2"
    ):
        load(tmp_path, source, Label(CLASS), Split("cluster"))


def test_split_by_scaffold(tmp_path, caplog):
    """The largest scaffolds train, whatever hangs on them; a molecule that RDKit cannot read is
    left out and named.
    """
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    assert splits.murcko_scaffolds("t", ["Cc1ccccc1", "CC", "C1CC", "C[C@H]1CCCO1"]) == [
        "c1ccccc1",
        "",
        None,
        "C1CCOC1",
    ]
    smiles = [
        "Cc1ccccc1",
        "C1CC",
        "CCc1ccccc1",
        "Oc1ccccc1",
        "CC1CCCCC1",
        "OC1CCCCC1",
        "CC",
        "CC1CCCO1",
    ]
    write(
        tmp_path,
        m_csv="smiles,target\n" + "".join(f"{text} ,{i}\n" for i, text in enumerate(smiles)),
    )
    with caplog.at_level(logging.INFO, "phenomjax"):
        by = Split("scaffold", test=0.3, validation=2 / 7)
        found = load(
            tmp_path, Source("m.csv", sequence="smiles"), Label(VALUE), by, alphabet="smiles"
        )
    # 7 rows: room for 3.5 in training, to 4.9 with validation; of the single ones the last comes
    # first.
    assert rows_of(found) == {
        "m.csv:2": "train",
        "m.csv:4": "train",
        "m.csv:5": "train",
        "m.csv:6": "test",
        "m.csv:7": "test",
        "m.csv:8": "test",
        "m.csv:9": "validation",
    }
    assert (
        "1 SMILES that RDKit cannot read are left out" in caplog.text
        and "row 3 (m.csv:3): C1CC" in caplog.text
    )
    assert (
        "8 records read, 3 train, 1 validation, 3 test; left out: 1 not read by RDKit"
        in caplog.text
    )


FLIP = "sequence,target,set,validation\nMKV,1,train,\nMKL,2,test,\n"
SEQUENCES, LABELS = ">a\nMKV\n>b\nMKL\n", ">a SET=train\nHHC\n>b SET=test\nHHC\n"
MASKED = Source("s.fasta", labels_path="l.fasta", mask_path="m.fasta")
RESIDUES = Source("s.fasta", labels_path="l.fasta")
ERRORS = {
    "length": (
        {"s_fasta": SEQUENCES, "l_fasta": ">a SET=train\nHH\n>b SET=test\nH\n"},
        RESIDUES,
        Q3,
        r"s\.fasta, record 1 \(a\) has 2 labels 'y' \(field 'target'\) for 3 residues: from"
        r" position 3 on one of them is missing\. "
        "2 records have such a fault",
    ),
    "class": (
        {"s_fasta": SEQUENCES, "l_fasta": LABELS.replace("HHC\n>", "HhC\n>")},
        RESIDUES,
        Q3,
        (
            r"record 1 \(a\) has 'h' at position 2 in field 'target', which is no class of label"
            r" 'y'\. Did you mean 'H'\? Its classes are H, E, C\. Add it"
        ),
    ),
    "class of a protein": (
        {"f_csv": FLIP.replace("1", "nucleos")},
        Source("f.csv"),
        Label(CLASS, classes=("nucleus", "2")),
        r"f\.csv, row 2 \(f\.csv:2\) has 'nucleos' .* Did you mean 'nucleus'\? Its classes",
    ),
    "mask length": (
        {"s_fasta": SEQUENCES, "l_fasta": LABELS, "m_fasta": ">a\n11\n>b\n111\n"},
        MASKED,
        Q3,
        r"record 1 \(a\) has 2 letters of mask for 3 residues",
    ),
    "mask letter": (
        {"s_fasta": SEQUENCES, "l_fasta": LABELS, "m_fasta": ">a\n111\n>b\n1X1\n"},
        MASKED,
        Q3,
        r"record 2 \(b\) has 'X' at position 2 of its mask\. A mask has 1",
    ),
    "no training": (
        {"f_csv": FLIP.replace("train", "test")},
        Source("f.csv"),
        Label(VALUE),
        (
            r"Task 't' has no training rows\. Of 2 records of f\.csv there are 2 test\."
            r" .*Split\(by=\"hash\""
        ),
    ),
    "no test": (
        {"f_csv": FLIP.replace("test", "val")},
        Source("f.csv"),
        Label(VALUE),
        "Task 't' has no test rows.*1 train, 1 validation",
    ),
    "test unknown": (
        {"f_csv": FLIP.replace("2,test", ",test")},
        Source("f.csv"),
        Label(VALUE),
        r"no row of its test 'test' has a known label \(1 rows, the first is .*f\.csv, row 3",
    ),
    "label unknown": (
        {"f_csv": FLIP},
        Source("f.csv", constants={"z": ""}),
        {"y": Label(VALUE), "z": Label(CLASS, "z")},
        "label 'z' is unknown in all 1 rows of its training",
    ),
    "no file": (
        {"f_csv": FLIP},
        Source("g.csv"),
        Label(VALUE),
        r"There is no file .*g\.csv\. In .*: f\.csv.*--data",
    ),
    "no column": (
        {"f_csv": FLIP},
        Source("f.csv"),
        Label(VALUE, "targets"),
        r"has no column 'targets' \(field 'targets' of its entry\)\. Did you mean 'target'\?",
    ),
    "no sequence column": (
        {"f_csv": FLIP},
        Source("f.csv", sequence="seq"),
        Label(VALUE),
        r"has no column 'seq' \(`sequence` of its entry\)",
    ),
    "no id column": (
        {"f_csv": FLIP},
        Source("f.csv", id="name"),
        Label(VALUE),
        r"has no column 'name' \(`id` of its entry\)",
    ),
    "ids": (
        {"s_fasta": SEQUENCES, "l_fasta": ">a SET=train\nHHC\n>B SET=test\nHHC\n"},
        RESIDUES,
        Q3,
        r"s\.fasta, record 2 \(b\) is not in .*l\.fasta\. 2 records have such a fault",
    ),
    "same ids": (
        {"s_fasta": SEQUENCES, "l_fasta": LABELS + ">a\nHHC\n"},
        RESIDUES,
        Q3,
        r"l\.fasta, record 3 \(a\) has the id of record 1",
    ),
    "letter": (
        {"f_csv": FLIP.replace("MKL", "MK-L")},
        Source("f.csv"),
        Label(VALUE),
        r"row 3 .* has '-' at position 3 of its sequence, which is no amino acid\. Remove gaps",
    ),
    "smiles letter": (
        {"f_csv": FLIP.replace("MKV", "CC?C").replace("MKL", "CC")},
        Source("f.csv"),
        Label(VALUE),
        r"has '\?' at position 3",
    ),
    "no sequence": (
        {"f_csv": FLIP.replace("MKL", "")},
        Source("f.csv"),
        Label(VALUE),
        r"row 3 \(f\.csv:3\) has no sequence",
    ),
    "header": (
        {"s_fasta": ">a one\nMKV\n>b\nMKL\n"},
        Source("s.fasta", header=r"(?P<id>\S+) (?P<target>\w+)"),
        Label(CLASS),
        r"record 2 \(b\) has the header 'b', which `header` = .* does not match",
    ),
    "header without id": (
        {"s_fasta": SEQUENCES},
        Source("s.fasta", header=r"(\S+)"),
        Label(CLASS),
        r"has no group `\(\?P<id>",
    ),
    "header no expression": (
        {"s_fasta": SEQUENCES},
        Source("s.fasta", header=r"(?P<id>\S+"),
        Label(CLASS),
        "is no regular expression",
    ),
    "no field": (
        {"s_fasta": SEQUENCES},
        Source("s.fasta"),
        Label(CLASS),
        r"record 1 \(a\) has no field 'target'; it has none\. 2 records",
    ),
    "no number": (
        {"f_csv": FLIP.replace("2,", "two,")},
        Source("f.csv"),
        Label(VALUE),
        r"row 3 .* has 'two' in field 'target', where label 'y' needs a number",
    ),
    "nan": (
        {"f_csv": FLIP.replace("2,", "NaN,")},
        Source("f.csv"),
        Label(VALUE),
        r"has 'NaN' in field 'target', which is no finite number",
    ),
    "no split": (
        {"f_csv": "sequence,target\nMKV,1\n"},
        Source("f.csv"),
        Label(VALUE),
        r"does not say to which split it belongs \(field 'split', or 'set'\): none of them",
    ),
    "empty split": (
        {"f_csv": FLIP.replace("test", "")},
        Source("f.csv"),
        Label(VALUE),
        r"row 3 .*does not say .*: set=\.",
    ),
    "validation": (
        {"f_csv": FLIP.replace("train,", "train,perhaps")},
        Source("f.csv"),
        Label(VALUE),
        r"row 2 .* has validation=perhaps, which is neither",
    ),
    "cells": (
        {"f_csv": FLIP + "MKV,1\n"},
        Source("f.csv"),
        Label(VALUE),
        r"row 4 has 2 cells, the header 4",
    ),
    "quote": ({"f_csv": FLIP + '"MKV,1\n'}, Source("f.csv"), Label(VALUE), r"row 4 is no CSV row"),
    "no FASTA": (
        {"s_txt": "MKV\n"},
        Source("s.txt"),
        Label(CLASS),
        r"begins with 'MKV\\n', not with '>'",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(tmp_path, case):
    files, source, labels, message = ERRORS[case]
    alphabet = "smiles" if case.startswith("smiles") else "protein"
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, **files), source, labels, alphabet=alphabet)


def test_damaged_files(tmp_path):
    (tmp_path / "f.csv.gz").write_bytes(gzip.compress(FLIP.encode())[:-12])
    with pytest.raises(
        UserError, match=r"f\.csv\.gz cannot be read to its end: its gzip data end after byte"
    ):
        load(tmp_path, Source("f.csv.gz"), Label(VALUE))
    (tmp_path / "f.csv").write_bytes(FLIP.encode() + b"\xe4")
    with pytest.raises(UserError, match=r"f\.csv is no UTF-8 text: byte \d+ is 0xe4"):
        load(tmp_path, Source("f.csv"), Label(VALUE))
    with pytest.raises(UserError, match=r"split\.test is 1; it is a share"):
        load(write(tmp_path, f_csv=FLIP), Source("f.csv"), Label(VALUE), Split("hash", test=1.0))


# Rows of training, validation and tests, and those with each label known, of the bundled files.
REAL = {
    "secondary_structure": (
        {"train": 9712, "validation": 1080, "test": 364, "CASP13": 12, "CASP14": 18},
        {"q3": 11186},
    ),
    "secondary_structure_q8": ({"train": 11, "validation": 1, "test": 18}, {"q8": 30}),
    "localization": (
        {"train": 1484, "validation": 171, "test": 2768},
        {"location": 4423, "membrane": 2767},
    ),
    "remote_homology": ({"train": 11077, "validation": 1235, "test": 736}, {"fold": 13048}),
    "gb1_one_vs_rest": ({"train": 25, "validation": 3, "test": 8705}, {"fitness": 8733}),
    "gb1_two_vs_rest": ({"train": 381, "validation": 43, "test": 8309}, {"fitness": 8733}),
    "gb1_low_vs_high": ({"train": 4580, "validation": 509, "test": 3644}, {"fitness": 8733}),
    "stability": ({"train": 1768, "validation": 211, "test": 533}, {"stability": 2512}),
    "solubility": ({"train": 902, "validation": 113, "test": 113}, {"solubility": 1128}),
}


@pytest.mark.shared_data
def test_bundled_files(shared):
    """The entries of configs/eval/protein.py, but those that take long to split."""
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    suite = suite_file.load("configs/eval/protein.py:full", str(shared / "protein"))
    slow = {
        "secondary_structure_tape",
        "disorder",
        "scop_class",
        "enzyme",
        "organism",
        "hiv_activity",
    }
    assert {n for n, t in suite.tasks.items() if not isinstance(t, Mutations)} == REAL.keys() | slow
    for name, (counts, known) in REAL.items():
        found = dataset.load(name, suite.tasks[name], shared / "protein")
        assert {
            part: len(found.rows(part)) for part in ("train", "validation", *found.tests)
        } == counts
        assert {label: int(labels.known().sum()) for label, labels in found.labels.items()} == known
        if name == "secondary_structure":
            resolved = [
                int((found.labels["q3"].values[row] >= 0).sum()) for row in found.rows("test")
            ]
            assert round(sum(resolved), -2) == 75400  # as facts of the field have it
        if name == "localization":
            assert len(found.labels["location"].classes) == 10 and found.labels[
                "membrane"
            ].classes == ("M", "S")
        if name == "remote_homology":
            assert sorted(map(int, found.labels["fold"].classes)) == list(range(1195))

"""Sequence files of the databases against a few lines of Python, and clustering by MMseqs2."""

import csv
import gzip
import json
import random
import shutil
import stat
from pathlib import Path

import pytest

from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from tests.prepare.test_sequences import fasta, made_up, prepare, rejected, stored

PROTEIN = Path(__file__).resolve().parents[3] / "shared/data/protein"
shared = pytest.mark.shared_data
needs_data = pytest.mark.skipif(not PROTEIN.is_dir(), reason=f"{PROTEIN} is not there")


def simple_fasta(paths):
    """What a few lines of Python read: {id: sequence} in order, as the bank keeps them."""
    found, seen = {}, set()
    for path in paths:
        for part in path.read_text().split("\n>"):
            header, _, body = part.removeprefix(">").partition("\n")
            text = (
                "".join(body.split()).upper().rstrip("*").translate(str.maketrans("UZOBJ", "XXXXX"))
            )
            if text not in seen:
                seen.add(text)
                found[header.split()[0]] = text
    return found


@shared
@needs_data
def test_real_proteins(tmp_path):
    files = sorted([*(PROTEIN / "fasta").glob("*.fasta"), *(PROTEIN / "fasta").glob("*.faa")])
    assert prepare(tmp_path / "b.zarr", *files) == EXIT_DONE
    assert stored(tmp_path / "b.zarr") == simple_fasta(files)
    assert (
        open_token_bank(tmp_path / "b.zarr").attributes["options"]["counts"]["read"]
        == 500 + 2100 + 2872 + 1273 + 820 + 476
    )


@shared
@needs_data
def test_real_edge_cases(tmp_path):
    """Titin is kept whole; letters that look illegal are lower case or rare; text with umlauts is
    rejected.
    """
    edge = PROTEIN / "fasta/edge"
    assert (
        prepare(tmp_path / "titin.zarr", edge / "titin_twice.fasta", validation=0, test=0)
        == EXIT_DONE
    )
    assert open_token_bank(tmp_path / "titin.zarr").metadata["length"].to_pylist() == [68700]
    assert (
        prepare(tmp_path / "i.zarr", edge / "illegal_amino_acids.fasta", rare="keep") == EXIT_DONE
    )
    assert stored(tmp_path / "i.zarr") == {
        "ok": "MRHKDESTNQCUGPAVIFYWLOXZB",
        "lowercase": "THISISALOWERCASESEQUENCE",
        "PROTEIN": "PROTEIN",
    }
    assert prepare(tmp_path / "u.zarr", edge / "unparsable.fasta") == EXIT_FAILED
    assert list(stored(tmp_path / "u.zarr")) == ["ok", "PROTEIN"]
    (row,) = rejected(tmp_path / "u.zarr")
    data = (edge / "unparsable.fasta").read_bytes()
    assert (row["id"], row["offset"]) == ("unparsable", data.index(b">unparsable"))
    assert row["detail"] == f"'ä' at byte {data.index('ä'.encode())} is no amino acid"
    assert prepare(tmp_path / "p.zarr", edge / "pyfastx_protein.fa") == EXIT_DONE
    assert stored(tmp_path / "p.zarr") == simple_fasta([edge / "pyfastx_protein.fa"])


@shared
@needs_data
def test_real_molecules_and_code(tmp_path):
    path = PROTEIN / "smiles/hiv.csv"
    prepare(tmp_path / "s.zarr", path)
    bank = open_token_bank(tmp_path / "s.zarr")
    with path.open(newline="") as file:
        molecules = list(dict.fromkeys(row["smiles"].strip() for row in csv.DictReader(file)))
    counts = bank.attributes["options"]["counts"]
    assert counts["read"] == 41913 and len(bank) == len(molecules) - counts["rejected"]
    assert set(stored(tmp_path / "s.zarr").values()) <= set(molecules) and counts["rejected"] < 10
    path = PROTEIN / "source_code/HumanEval.jsonl.gz"
    assert (
        prepare(tmp_path / "c.zarr", path, field="prompt,canonical_solution", id="task_id")
        == EXIT_DONE
    )
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert stored(tmp_path / "c.zarr") == {
        row["task_id"]: row["prompt"] + row["canonical_solution"] for row in rows
    }


def families(count=12, size=5, seed=0):
    """Proteins in families that share 94 % of their letters; ids begin with the number of the
    family.
    """
    rng = random.Random(seed)
    found = []
    for family in range(count):
        parent = rng.choices("ACDEFGHIKLMNPQRSTVWY", k=150)
        for member in range(size):
            text = [
                rng.choice("ACDEFGHIKLMNPQRSTVWY") if rng.random() < 0.03 else letter
                for letter in parent
            ]
            found.append((f"{family}_{member}", "", "".join(text)))
    return found


@pytest.mark.skipif(
    shutil.which("mmseqs") is None, reason="MMseqs2 is not installed (apt install mmseqs2)"
)
def test_mmseqs_keeps_one_of_each_family(tmp_path):
    (tmp_path / "x.fasta").write_text(fasta(families()))
    assert prepare(tmp_path / "b.zarr", tmp_path / "x.fasta", cluster=0.5, jobs=1) == EXIT_DONE
    kept = stored(tmp_path / "b.zarr")
    assert {int(name.split("_")[0]) for name in kept} == set(
        range(12)
    )  # linclust is quick and may leave two of a family
    counts = open_token_bank(tmp_path / "b.zarr").attributes["options"]["counts"]
    assert len(kept) < 20 and (counts["read"], counts["in_other_clusters"]) == (60, 60 - len(kept))


def fake_mmseqs(folder, script):
    program = folder / "mmseqs"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_the_command_line_of_mmseqs(tmp_path, monkeypatch):
    records = made_up(20, 12)
    (tmp_path / "x.fasta").write_text(fasta(records) + ">again\n" + records[0][2])
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", f"{bin_folder}:/bin:/usr/bin")
    # Every second sequence stands for the one after it.
    fake_mmseqs(
        bin_folder,
        f"""echo "$@" > {tmp_path}/words; cp "$2" {tmp_path}/given.fasta
program='{{ if (NR % 2) first = $1; print first "\\t" $1 }}'
grep '>' "$2" | tr -d '>' | awk "$program" > "$3"_cluster.tsv""",
    )
    assert (
        prepare(
            tmp_path / "b.zarr", tmp_path / "x.fasta", cluster=0.3, cluster_coverage=0.9, jobs=3
        )
        == EXIT_DONE
    )
    words = (tmp_path / "words").read_text().split()
    assert words[0] == "easy-linclust" and words[4:] == [
        "--min-seq-id",
        "0.3",
        "-c",
        "0.9",
        "--cov-mode",
        "1",
        "--threads",
        "3",
    ]
    different = list(dict.fromkeys(text for _, _, text in records))
    assert (tmp_path / "given.fasta").read_text().split("\n")[1::2] == different
    assert sorted(stored(tmp_path / "b.zarr").values()) == sorted(different[::2])
    fake_mmseqs(bin_folder, "echo all is well")
    with pytest.raises(
        UserError, match=r"code 0, but without its result result_cluster\.tsv\. Its"
    ):
        prepare(tmp_path / "e.zarr", tmp_path / "x.fasta", cluster=0.3)
    fake_mmseqs(bin_folder, "echo no memory; exit 1")
    with pytest.raises(UserError, match=r"mmseqs\) ended with code 1. Its last lines: no memory"):
        prepare(tmp_path / "c.zarr", tmp_path / "x.fasta", cluster=0.3)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"needs MMseqs2, and there is no program `mmseqs`.*apt install mmseqs2"
    ):
        prepare(tmp_path / "d.zarr", tmp_path / "x.fasta", cluster=0.3)

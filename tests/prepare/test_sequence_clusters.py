"""Splits by clusters: ids as MMseqs2 shortens them, files of other programs, and files of other
sequences.
"""

import re
import shutil
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenomjax.data.sequences import mmseqs
from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.system.errors import EXIT_DONE, UserError
from tests.prepare.test_sequences import fasta, made_up, prepare, split_of

SHORT = {  # what MMseqs2 writes into its tables
    "sp|Q00001|N1_HUMAN": "Q00001",
    "tr|Q00003": "Q00003",
    "gnl|extdb|pgap_1|more": "pgap_1",
    "uc1abc.2": "1abc.2",
    "lcl|abc|def": "abc",
    "ref|NP_001.1|": "NP_001.1",
    "gi|12345|ref|NP_002.1|": "NP_002.1",
    "pdb|1ABC|A": "1ABC",
    "bbs|77|z": "77",
    "pir||S12345": "S12345",
    "pir|S12345|name": "pir|S12345|name",
    "gb|AAA.1|LOC": "AAA.1",
    "emb|CAA.1|LOC": "emb|CAA.1|LOC",
    "pat|US|1234|1": "1234",
    "consensus_sp|Q7|X": "Q7",
    "consensus_cl123": "cl123",
    "UniRef90_Q1|x": "UniRef90_Q1|x",
    "SP|Q9|Z": "SP|Q9|Z",
    "a|b|c": "a|b|c",
}


def test_ids_as_mmseqs2_shortens_them(tmp_path):
    assert mmseqs.shorten(pa.array(list(SHORT))).to_pylist() == list(SHORT.values())
    if not mmseqs.available():
        return
    texts = zip(SHORT, made_up(60), strict=False)
    (tmp_path / "x.fasta").write_text(
        fasta([(name, "more", text * 3) for name, (*_, text) in texts])
    )
    words = ["mmseqs", "createdb", "x.fasta", "db", "--shuffle", "0"]
    subprocess.run(words, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    found = [line.split("\t")[1] for line in (tmp_path / "db.lookup").read_text().splitlines()]
    assert found == list(SHORT.values())


def in_families(ids, size=5):
    """A FASTA text of these ids, and (representative, member) of families of `size`."""
    records = [(name, "", text[2]) for name, text in zip(ids, made_up(8 * len(ids)), strict=False)]
    return fasta(records), [(ids[i - i % size], name) for i, name in enumerate(ids)]


def straddling(bank, pairs):
    split, found = split_of(bank), {}
    for representative, member in pairs:
        if member in split:
            found.setdefault(representative, set()).add(split[member])
    assert len(set.union(*found.values())) == 3
    return sum(len(splits) > 1 for splits in found.values())


def table(pairs, short=lambda name: name):
    return "".join(f"{short(a)}\t{short(b)}\n" for a, b in pairs)


def clstr(pairs):
    lines = []
    for number, (a, b) in enumerate(pairs):
        lines += [f">Cluster {number // 5}\n"] * (number % 5 == 0)
        lines.append(f"{number % 5}\t50aa, >{b}... {'*' if a == b else 'at 94.00%'}\n")
    return "".join(lines)


def uc(pairs):
    lines = [
        f"S\t{i // 5}\t50\t*\t*\t*\t*\t*\t{b} more\t*\n"
        if a == b
        else f"H\t{i // 5}\t50\t94\t+\t0\t0\t50M\t{b} more\t{a} more\n"
        for i, (a, b) in enumerate(pairs)
    ]
    return "".join([*lines, f"C\t0\t5\t*\t*\t*\t*\t*\t{pairs[0][0]}\t*\n"])


def short(name):
    return mmseqs.shorten(pa.array([name])).to_pylist()[0]


FORMATS = {
    "x_cluster.tsv": table,
    "short.tsv": lambda pairs: table(pairs, short),
    "header.tsv": lambda pairs: "rep\tmem\n" + table(pairs),
    "crlf.tsv": lambda pairs: table(pairs).replace("\n", "\r\n"),
    "x.csv": lambda pairs: "id,cluster\n" + "".join(f"{b},{a}\n" for a, b in pairs),
    "x.clstr": clstr,
    "x.uc": uc,
}


@pytest.mark.parametrize("ids", ["sp|Q{}|N_HUMAN", "gnl|extdb|p_{}", "uc{}", "gi|1{}|ref|N{}.1|"])
def test_shortened_ids_find_their_cluster(tmp_path, ids, caplog):
    text, pairs = in_families([ids.replace("{}", f"{i:03d}") for i in range(100)])
    (tmp_path / "a.fasta").write_text(text)
    (tmp_path / "c.tsv").write_text(table(pairs, short))
    options = {"clusters": tmp_path / "c.tsv", "validation": 0.3, "test": 0.2}
    assert prepare(tmp_path / "b.zarr", tmp_path / "a.fasta", **options) == EXIT_DONE
    assert straddling(tmp_path / "b.zarr", pairs) == 0 and "in no cluster" not in caplog.text
    assert not (tmp_path / "b.zarr" / "in_no_cluster.parquet").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_cluster_files_of_other_programs(tmp_path, name):
    text, pairs = in_families([f"sp|Q{i:03d}|N_HUMAN" for i in range(100)])
    (tmp_path / "a.fasta").write_text(text)
    (tmp_path / name).write_bytes(FORMATS[name](pairs).encode())
    options = {"clusters": tmp_path / name, "validation": 0.3, "test": 0.2}
    assert prepare(tmp_path / "b.zarr", tmp_path / "a.fasta", **options) == EXIT_DONE
    assert straddling(tmp_path / "b.zarr", pairs) == 0


def test_a_cluster_file_of_other_sequences(tmp_path, caplog):
    text, pairs = in_families([f"id{i:03d}" for i in range(100)])
    (tmp_path / "a.fasta").write_text(text)
    out, source = tmp_path / "b.zarr", tmp_path / "a.fasta"
    clusters = tmp_path / "c.tsv"
    clusters.write_text(table([(f"other{i}", f"other{i}") for i in range(100)]))
    with pytest.raises(UserError, match=r"0 of 100 .*lacks: id000.*that it has: other0") as error:
        prepare(out, source, clusters=clusters)
    assert error.value.exit_code == 2 and not out.exists()
    clusters.write_text(table(pairs[:60]))
    with pytest.raises(UserError, match=r"60 of 100 .60.0%. are in one of its clusters") as error:
        prepare(out, source, clusters=clusters)
    least = re.search(r"--min_clustered (\S+?)\.$", str(error.value))[1]
    assert prepare(out, source, clusters=clusters, min_clustered=least) == EXIT_DONE
    assert "40 sequences in no cluster" in caplog.text
    listed = pq.read_table(out / "in_no_cluster.parquet")["id"].to_pylist()
    assert listed == [member for _, member in pairs[60:]]
    counts = open_token_bank(out).attributes["options"]["counts"]
    assert counts["in_no_cluster"] == 40 and counts["read"] == counts["kept"] + counts["duplicates"]
    # the other mend: the right file, with the same --out
    shutil.rmtree(out)
    with pytest.raises(UserError, match=r"60 of 100"):
        prepare(out, source, clusters=clusters)
    right = tmp_path / "right.tsv"
    right.write_text(table(pairs))
    assert prepare(out, source, clusters=right) == EXIT_DONE
    assert "other files are named since" in caplog.text
    # numbers are found in any table of numbers
    clusters.write_text(table([*pairs, *((f"x{i}", f"x{i}") for i in range(5000))]))
    shutil.rmtree(out)
    with pytest.raises(UserError, match=r"5,100 ids, such as id000.*--min_cluster_ids 0"):
        prepare(out, source, clusters=clusters)
    assert prepare(out, source, clusters=clusters, min_cluster_ids=0) == EXIT_DONE


def test_a_cluster_file_that_contradicts_itself_or_is_none(tmp_path):
    (tmp_path / "a.fasta").write_text(fasta(made_up(10)))
    for text, message in (
        ("1ABC\t1ABC\n2XYZ\t1ABC\n", "puts '1ABC' into two clusters, those of '1ABC' and '2XYZ'"),
        (">a\n>a\nMKV\n", "is FASTA, no table of clusters"),
        (">Cluster 0\n0\t50aa, >a... at 90%\n", "Cluster 0 has no representative"),
        (">Cluster 0\n0\t50aa >a\n", "line 2: .* is no line of a .clstr file"),
        ("a\tb\n".encode("utf-16").decode("latin-1"), "iconv -f UTF-16"),
        ("S\t0\t5\n", "line 1: 3 columns, a .uc file has 10"),
    ):
        (tmp_path / "c").write_text(text, "latin-1")
        with pytest.raises(UserError, match=message):
            prepare(tmp_path / "b.zarr", tmp_path / "a.fasta", clusters=tmp_path / "c")
    (tmp_path / "c.clstr").write_text(">Cluster 0\n0\t50aa, >cut_after_20_letters... *\n")
    with pytest.raises(UserError, match="made with -d 0"):
        prepare(tmp_path / "b.zarr", tmp_path / "a.fasta", clusters=tmp_path / "c.clstr")


CASES = {"uniprot": "uniprot", "gnl": "gnl", "uc": "uc", "full_ids": "uniprot"}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", CASES)
def test_the_case_of_shortened_ids(shared, tmp_path, name):
    folder = shared.parent / "cases" / "sequences" / "c12_cluster"
    source, clusters = folder / f"{CASES[name]}.fasta", folder / f"{name}_cluster.tsv"
    options = {"clusters": clusters, "validation": 0.2, "test": 0.2}
    assert prepare(tmp_path / "b.zarr", source, **options) == EXIT_DONE
    rows = open_token_bank(tmp_path / "b.zarr").metadata.to_pylist()
    family, split = ({row["id"]: row["description"] for row in rows}, split_of(tmp_path / "b.zarr"))
    found = {name: {split[i] for i in family if family[i] == name} for name in family.values()}
    assert len(found) == 40 and all(len(splits) == 1 for splits in found.values())
    assert len(set.union(*found.values())) == 3

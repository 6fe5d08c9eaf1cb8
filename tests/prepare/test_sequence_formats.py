"""What a file of sequences is, told by what is in it: formats, encodings, tables, FASTA's oddities,
alignments, DNA; and what is refused in one sentence, with a command that mends it.
"""

import bz2
import gzip
import lzma
import re
import subprocess
import tarfile
import zipfile

import pytest

from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from tests.prepare.test_sequences import SMALL, prepare, rejected, stored

P, Q = "MALWMRLLPLLALLALWGPDPAAA", "MKSIYFVAGLFVMLVQGSWQRRDE"
FASTA = f">a first\n{P}\n>b\n{Q}\n"
BOTH = {"a": P, "b": Q}
MIXED = "ATGRCCATTYTAATGSGCCGCWGAAAGKGTGCMCGATAGTAC" * 2
DNA = "ATGGCCATTGTAATGGGCCGCTGAAAGGGTGCCCGATAGTAC" * 2


def write(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def counted(out):
    """Whether each record that was read is kept, left out or rejected; returns the counts."""
    counts = dict(open_token_bank(out).attributes["options"]["counts"])
    apart = {"read", "in_no_cluster", "repeated_ids", "as_x"}
    assert counts["read"] == sum(n for name, n in counts.items() if name not in apart)
    return counts


UNDERSTOOD = {  # file, content: a and b
    "x.fasta.bz2": bz2.compress(FASTA.encode()),
    "x.fasta.xz": lzma.compress(FASTA.encode()),
    "x.fasta.gz": gzip.compress(FASTA.encode()),
    "utf16.fasta": FASTA.encode("utf-16"),
    "mac.fasta": FASTA.replace("\n", "\r"),
    "windows.fasta": b"\xef\xbb\xbf" + FASTA.replace("\n", "\r\n").encode(),
    "no_suffix": FASTA,
    "fasta.txt": FASTA,
    "fasta.csv": FASTA,
    "comments.fasta": f"; one\n#two\n\n! three\n>a first\n# in\n{P}\n;between >x\n>b\n{Q}\n;end\n",
    "blank.fasta": f"> a first\n{P}\n>\tb\n{Q}\n",
    "numbers.fasta": f">a\n        1 {P[:10].lower()} {P[10:20]}\n   21 {P[20:]}\n>b\n"
    f"{Q[:12]}  12\n{Q[12:]} 24 \r\n",
    "x.pir": f">P1;a\nfirst\n{P[:9]}\n {P[9:]}*\n\n>F1;b\nC;more\n{Q}*\nR;note\n",
    "pir.fasta": f">P1;a\nfirst\n{P}*\n>P1;b\n\n{Q}\n",
    "pearson.fasta": f";a - first\n;more of it\n{P}*\n;b\n{Q}\n",
}


@pytest.mark.parametrize("name", UNDERSTOOD)
@pytest.mark.parametrize("sizes", [None, SMALL], ids=["large", "small"])
def test_fasta_in_other_forms(tmp_path, name, sizes):
    path = write(tmp_path, name, UNDERSTOOD[name])
    assert prepare(tmp_path / "b.zarr", path, sizes=sizes, validation=0, test=0) == EXIT_DONE
    assert stored(tmp_path / "b.zarr") == BOTH and counted(tmp_path / "b.zarr")["read"] == 2
    first = open_token_bank(tmp_path / "b.zarr").metadata["description"].to_pylist()[0]
    assert first == ("" if name == "numbers.fasta" else "first")


TABLES = {  # file, content, options: P and Q
    "tab.tsv": (f"name\tsequence\nx\t{P}\ny\t{Q}\n", {}),
    "tape.csv": (f"seq,label\n{P},1\n{Q},0\n", {}),
    "upper.csv": (f"Name,SEQUENCE\nx,{P}\ny,{Q}\n", {}),
    "semicolon.csv": (f"name;Protein Sequence\nx;{P}\ny;{Q}\n", {}),
    "sep.csv": (f"sep=;\nname;sequence\nx;{P}\ny;{Q}\n", {}),
    "utf16.csv": (f"name\tsequence\r\nx\t{P}\r\ny\t{Q}\r\n".encode("utf-16"), {}),
    "latin.csv": (f"n,sequence\nM\xfcller,{P}\nx,{Q}\n".encode("latin-1"), {"id": "n"}),
    "quoted.csv": (f'name,sequence\n"two\nlines",{P}\n"a, b",{Q}\n', {}),
    "x.csv.xz": (lzma.compress(f"name,sequence\nx,{P}\ny,{Q}\n".encode()), {}),
    "bare.csv": (f"x,{P},1\ny,{Q},2\n", {"no_header": True, "column": "2", "id": "1"}),
    "bare_too.csv": (f"x,{P},1\ny,{Q},2\n", {"no_header": True}),
    "both.csv": (f"smiles,sequence\nCCO,{P}\nCCN,{Q}\n", {"alphabet": "protein"}),
    "other.csv": (f"mutant,score\n{P},1\n{Q},2\n", {"column": "mutant"}),
    "title.txt": (f"Sequence\n{P}\n{Q}\n", {}),
    "lines.txt": (f"\ufeff{P}\r\n\r\n{Q}\r\n", {}),
    "named.txt": (f"INSULIN {P}\nGLUCAGON\t{Q}\n", {"format": "named"}),
    "spaced.txt": (f"human insulin\t{P}\nglucagon\t{Q}\n", {"format": "named"}),
}


@pytest.mark.parametrize("name", TABLES)
def test_proteins_in_tables_and_lines(tmp_path, name):
    content, options = TABLES[name]
    path = write(tmp_path, name, content)
    options = options | {"validation": 0, "test": 0}
    assert prepare(tmp_path / "b.zarr", path, **options) == EXIT_DONE
    found = stored(tmp_path / "b.zarr")
    assert list(found.values()) == [P, Q] and counted(tmp_path / "b.zarr")["kept"] == 2
    ids = {"latin.csv": "Müller x", "bare.csv": "x y", "named.txt": "INSULIN GLUCAGON"}
    assert name not in ids or list(found) == ids[name].split()


def test_parquet_tables(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = pa.table({"id": ["x", "y", "z"], "seq": [P, Q, None]})
    pq.write_table(rows, tmp_path / "x.parquet")
    assert prepare(tmp_path / "b.zarr", tmp_path / "x.parquet", id="id") == EXIT_FAILED
    assert stored(tmp_path / "b.zarr") == {"x": P, "y": Q}
    assert [(row["id"], row["reason"]) for row in rejected(tmp_path / "b.zarr")] == [("z", "empty")]


SMI = {
    "x.smi": ("CCO ethanol\nCCN\tethylamine\nCCC\n", ["ethanol", "ethylamine", "x.smi:3"]),
    "header.smi": ("SMILES Name\nCCO one\nCCN two\nCCC three\n", ["one", "two", "three"]),
    "pubchem.smi": ("CID\tSMILES\n1\tCCO\n2\tCCN\n3\tCCC\n", ["1", "2", "3"]),
    "x.cxsmiles": (
        "CCO |$a;;b$| my name\nCCN\t|o1:1|\tb\nCCC |&1:0|\n",
        ["my name", "b", "x.cxsmiles:3"],
    ),
    "utf16.smi": ("CCO a\r\nCCN b\r\nCCC c\r\n".encode("utf-16"), ["a", "b", "c"]),
}


@pytest.mark.parametrize("name", SMI)
def test_smiles_and_names(tmp_path, name):
    content, names = SMI[name]
    path, out = write(tmp_path, name, content), tmp_path / "b.zarr"
    assert prepare(out, path, validation=0, test=0) == EXIT_DONE
    assert stored(out) == dict(zip(names, ["CCO", "CCN", "CCC"], strict=True))
    assert open_token_bank(out).vocabulary.name == "smiles"
    texts = open_token_bank(out).metadata["description"].to_pylist()
    assert texts == (["|$a;;b$|", "|o1:1|", "|&1:0|"] if "cx" in name else ["", "", ""])


MENDED = {  # file, content, what the error says, the flags that it offers, the sequences then
    "named.txt": (f"INSULIN {P}\nGLUC {Q}\n", "several words", [P, Q]),
    "atoms.txt": (f"INS {P}\nSON {Q}\n", "a name and a protein", [P, Q]),
    "upper.txt": ("CCO SERINE\nC1CCCCC1 ALANINE\n", "a SMILES and a name", ["CCO", "C1CCCCC1"]),
    "id_first": (f"x1\t{P}\nx2\t{Q}\n", "tells what format it has", [P, Q]),
    "lines": (f"{P}\n{Q}\n", "tells what format it has", [P, Q]),
    "lines.fasta": (f"{P}\n{Q}\n", "none of its first lines begins with '>'", [P, Q]),
    "table.fasta": (f"name,sequence\nx,{P}\n", "looks like a table.*--format csv", [P]),
    "table.txt": (f"name\tsequence\nx\t{P}\ny\t{Q}\n", "several words", [P, Q]),
    "CID-SMILES": ("1\tCC(=O)O\n2\tCCO\n", "tells what format it has", ["CC(=O)O", "CCO"]),
    "names.smi": ("1 CC(=O)O\n2 CCO\n", "has names first", ["CC(=O)O", "CCO"]),
    "smiles": ("CC(=O)O\nc1ccccc1\n", "line looks like a SMILES", ["CC(=O)O", "c1ccccc1"]),
    "smiles.txt": ("CCO\nc1ccccc1\n", "looks like a SMILES", ["CCO", "c1ccccc1"]),
    "bare.csv": (f"x,{P}\ny,{Q}\n", "has no header", [P, Q]),
    "bare_codes.tsv": (f"P0\t{P}\nP1\t{Q}\n", "has no header", [P, Q]),  # P1 is a SMILES too
    "bare_three.txt": (f"x\t0\t{P}\ny\t3\t{Q}\n", "without names of columns", [P, Q]),
    "last_names.txt": (f"{P} x 1\n{Q} y 2\n", "without names of columns", [P, Q]),
    "bare_smiles.csv": ("CCO\nCCN\n", "has no header", ["CCO", "CCN"]),
    "other.csv": (f"mutant,score\n{P},1\n{Q},2\n", "no column whose name", [P, Q]),
    "two.csv": (f"smiles,sequence\nCCO,{P}\nCCN,{P}\n", "several columns", ["CCO", "CCN"]),
    "aligned.fasta": (f">a\n{P[:9]}--{P[9:]}\n>b\n{Q.lower()}..\n", "is an alignment", [P, Q]),
    "x.a3m": (f"#A3M#\n>a\n{P[:5]}-{P[5:].lower()}\n>b\n{Q}\n", "is an alignment", [P, Q]),
    "dna.fasta": (f">a\n{DNA}\n", r"Is this DNA\?", [DNA]),
    "mixed.fasta": (f">a\n{MIXED}\n", r"Is this DNA\?", [MIXED]),
}


@pytest.mark.parametrize("name", MENDED)
def test_what_cannot_be_told_is_asked_and_the_offered_flags_mend_it(tmp_path, name):
    content, message, sequences = MENDED[name]
    path, out = write(tmp_path, name, content), tmp_path / "b.zarr"
    with pytest.raises(UserError, match=message) as error:
        prepare(out, path)
    assert error.value.exit_code == 2 and not out.exists()
    options = {}
    for flag, value in re.findall(r"(--\w+)(?: (\w+))?", str(error.value)):
        if flag in ("--id", "--overwrite") or flag[2:] in options:
            continue
        options[flag[2:]] = value if flag in ("--format", "--alphabet", "--gaps") else True
        if flag == "--column":
            options["column"] = value if value != "names" else "sequence"
    assert prepare(out, path, **options, validation=0, test=0) == EXIT_DONE, options
    assert list(stored(out).values()) == sequences and counted(out)["kept"] == len(sequences)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.sdf", "\n  RDKit\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n", "obabel"),
        ("x.fastq", f"@r1\n{DNA}\n+\n{'I' * 84}\n", "FASTQ"),
        ("x.txt", f"@r1\n{DNA}\n+\n{'I' * 84}\n", "FASTQ"),
        ("x.gb", "LOCUS       NP_1      110 aa     linear   PRI\nORIGIN\n", "'genbank'"),
        ("x.dat", "ID   INS_HUMAN   Reviewed;   110 AA.\nAC   P01308;\n", "'swiss'"),
        ("x.embl", "ID   X56734; SV 1; linear; mRNA; STD; PLN; 1859 BP.\n", "'embl'"),
        ("x.pdb", "HEADER    HORMONE             19-JUL-89   4INS\n", "'pdb-atom'"),
        ("x.cif", "data_4INS\n#\n_entry.id   4INS\n", "'cif-atom'"),
        ("x.sto", "# STOCKHOLM 1.0\na  MAL-WM\n//\n", "'stockholm'.*--gaps strip"),
        ("x.aln", "CLUSTAL W (1.83) multiple\n\na MAL\n", "'clustal'.*--gaps strip"),
        ("x.phy", " 2 11\na         MAL-WMRLLAA\n", "'phylip-relaxed'.*--gaps strip"),
        ("x.hmm", "HMMER3/f [3.3 | Nov 2019]\n", "a profile"),
        ("x.html", "<!DOCTYPE html><html></html>", "a web page"),
        ("x.fasta", "<!DOCTYPE html><html></html>", "a web page"),
        ("x.xml", "<?xml version='1.0'?>\n<uniprot>\n", "XML"),
        ("x.nwk", "((a:1,b:2):3,c);\n", "a tree"),
        ("x.json", '[{"a": 1}]', "jq -c"),
        ("x.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "an image"),
        ("x.fasta", b"\x7fELF" + bytes(40), "a program"),
        ("x.a3m", f">ss_pred\nHHHHCCC\n>a\n{P}\n", "secondary structure.*awk"),
        ("ss.txt", f">1:A:sequence\n{P}\n>1:A:secstr\n  HHH\n", "secondary structure.*awk"),
        ("x.fa", f">1a_A mol:protein\n{P}\n>1b_B mol:na\nACG\n", r"DNA and RNA \(pdb_seq.*awk"),
        ("x.fasta", f"  >a\n  {P}\n", "begin with blanks: take the blanks out: sed"),
    ],
)
def test_other_files_of_biology_are_refused_in_one_sentence(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as error:
        prepare(tmp_path / "b.zarr", write(tmp_path, name, content))
    assert error.value.exit_code == 2 and str(error.value).startswith(f"{tmp_path / name} is ")
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tar.xz", "x.zip", "blocks.txt", "x.a3m"])
def test_the_command_that_is_offered_unpacks_it(tmp_path, name):
    inside = write(tmp_path, "inside.fasta", FASTA)
    path = tmp_path / name
    if name == "x.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(inside, "inside.fasta")
    elif name == "blocks.txt":
        write(tmp_path, name, f"{P[:10]} {P[10:20]} {P[20:]}\n{Q[:10]} {Q[10:20]} {Q[20:]}\n")
    elif name == "x.a3m":
        write(tmp_path, name, f">ss_pred\nHHHHCCC\n{FASTA}")
    else:
        with tarfile.open(path, f"w:{name.rpartition('.')[2].replace('tar', '')}") as archive:
            archive.add(inside, "inside.fasta")
    inside.unlink()
    with pytest.raises(UserError, match=r"unpack it|take (them|the blanks) out") as error:
        prepare(tmp_path / "b.zarr", path)
    command = re.search(r"(tar xf|unzip|tr -d|awk) [^,)]*(, then)?", str(error.value))[0]
    if "awk" in command:
        command = re.search(r"awk .*_proteins\.fasta", str(error.value))[0]
        command = command.replace("> x_proteins.fasta", "> inside.fasta")
    command = command.removesuffix(", then").rstrip(".")
    command = command.replace("FILE", name).replace("NEW", "inside.fasta")
    if "unzip" in command:
        command = command.replace("unzip", "python3 -m zipfile -e") + " ."
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    options = {"format": "text"} if name == "blocks.txt" else {}
    assert prepare(tmp_path / "b.zarr", tmp_path / "inside.fasta", **options) == EXIT_DONE
    assert sorted(stored(tmp_path / "b.zarr").values()) == sorted([P, Q])


def test_single_lines_of_several_words_are_rejected(tmp_path):
    path, out = write(tmp_path, "x.txt", f"{P}\n{Q}\nINS {P}\n"), tmp_path / "b.zarr"
    assert prepare(out, path) == EXIT_FAILED and sorted(stored(out).values()) == sorted([P, Q])
    assert [(row["id"], row["reason"]) for row in rejected(out)] == [("x.txt:3", "several_words")]
    with pytest.raises(UserError, match="several words"):
        prepare(out, write(tmp_path, "a.smi", "CCO a\nCCN b\n"), format="text", alphabet="smiles")
    code = write(tmp_path, "code.txt", "x = 1\ny = 2\n")
    assert prepare(tmp_path / "c.zarr", code, alphabet="bytes") == EXIT_DONE
    assert sorted(stored(tmp_path / "c.zarr").values()) == ["x = 1", "y = 2"]


def test_gaps_and_nucleotides_among_other_records(tmp_path, caplog):
    text = FASTA * 10 + f">gap\n{P}-\n>dna\n{DNA}\n>rna\n{DNA.lower().replace('t', 'u')}\n"
    path, out = write(tmp_path, "x.fasta", text), tmp_path / "b.zarr"
    assert prepare(out, path) == EXIT_FAILED and set(stored(out).values()) == {P, Q}
    assert [(row["id"], row["reason"]) for row in rejected(out)] == [
        ("gap", "illegal_letter"),
        ("dna", "nucleotides"),
        ("rna", "nucleotides"),
    ]
    assert counted(out)["rejected"] == 3
    assert "1 have gaps" in caplog.text and "--gaps strip" in caplog.text
    assert "2 look like DNA or RNA" in caplog.text and "--accept_nucleotides" in caplog.text
    options = {"gaps": "strip", "accept_nucleotides": True, "overwrite": True}
    assert prepare(out, path, **options) == EXIT_DONE
    assert set(stored(out)) == {"a", "b", "dna", "rna"}  # gap is equal to a then
    recorded = open_token_bank(out).attributes["options"]["prepare"]
    assert recorded["gaps"] == "strip" and recorded["accept_nucleotides"] is True


def test_records_without_a_name_or_sequence_in_other_formats(tmp_path):
    out = tmp_path / "b.zarr"
    for name, content, reasons in (
        (
            "x.pir",
            f">P1;\nt\n{P}*\n>P1;e\n\n*\n>bad {P}\n{P}\n>P1;ok\n\n{Q}*\n",
            "no_id empty unparsable",
        ),
        ("p.fasta", f";\n{P}*\n;e\n;f\n*\n;ok\n{Q}\n", "no_id empty"),
        ("f.fasta", f">\n{P}\n> \n{P}\n>ok\n{Q}\n", "no_id no_id"),
        ("n.csv", f"name,sequence\nx,NA\ny,\nz\nok,{Q}\n", "empty empty unparsable"),
    ):
        assert prepare(out, write(tmp_path, name, content), overwrite=True) == EXIT_FAILED
        assert list(stored(out).values()) == [Q]
        assert [row["reason"] for row in rejected(out)] == reasons.split()
        assert counted(out)["rejected"] == len(reasons.split())


CASES = {  # name of a case and its file: options, exit code, sequences
    "c09_comment/hash_lead.fasta": ({}, 0, 2),
    "c09_comment/pearson.fasta": ({}, 0, 2),
    "c09_comment/pir.fasta": ({}, 0, 1),
    "c09_comment/semicolon_lead.fasta": ({}, 0, 2),
    "c13_space/space_ids.fasta": ({}, 0, 2),
    "c14_text/named.txt": ({"format": "named"}, 0, 2),
    "c14_text/tab.tsv": ({}, 0, 2),
    "c14_text/tape.csv": ({}, 0, 2),
    "m01_smiles/Upper.csv": ({}, 0, 2),
    "m01_smiles/a.smi": ({}, 0, 3),
    "m01_smiles/bom.csv": ({}, 0, 2),
    "m01_smiles/canonical.csv": ({}, 0, 2),
    "m01_smiles/mols.csv": ({}, 1, 37),
    "m01_smiles/noheader.csv": ({"no_header": True}, 0, 3),
    "m01_smiles/quoted_newline.csv": ({}, 0, 2),
    "m01_smiles/semicolon.csv": ({}, 0, 2),
    "m01_smiles/trunc.csv": ({}, 1, 1),
    "m01_smiles/utf16.csv": ({}, 0, 2),
}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", CASES)
def test_the_cases(shared, tmp_path, name):
    options, code, count = CASES[name]
    path, out = shared.parent / "cases" / "sequences" / name, tmp_path / "b.zarr"
    assert prepare(out, path, **options) == code
    assert len(open_token_bank(out)) == count and counted(out)["kept"] == count
    if name == "c14_text/named.txt":
        assert set(stored(out)) == {"INSULIN", "GLUCAGON"}
        with pytest.raises(UserError, match="--format named"):
            prepare(tmp_path / "c.zarr", path)
    if name == "m01_smiles/a.smi":
        assert stored(out) == {"ethanol": "CCO", "ethylamine": "CCN", "a.smi:3": "CCC"}


def test_records_that_share_an_id_are_counted_and_kept(tmp_path, caplog):
    one = write(tmp_path, "a.fasta", f"> seq 0\n{P}\n> seq 1\n{Q}\n>c\n{P[:9]}\n")
    two = write(tmp_path, "b.fasta", f">c\n{Q[:9]}\n>d\n{Q[:8]}\n")
    out = tmp_path / "b.zarr"
    assert prepare(out, one, two, validation=0, test=0) == EXIT_DONE
    rows = open_token_bank(out).metadata.to_pylist()
    assert [(row["id"], row["description"], row["source"]) for row in rows] == [
        ("seq", "0", "a.fasta"),
        ("seq", "1", "a.fasta"),
        ("c", "", "a.fasta"),
        ("c", "", "b.fasta"),
        ("d", "", "b.fasta"),
    ]
    assert counted(out)["repeated_ids"] == 4
    assert "4 sequences have an id that another one has too" in caplog.text


def test_what_reads_like_residues_and_is_none(tmp_path):
    out = tmp_path / "b.zarr"
    codes = write(tmp_path, "x.fasta", ">a\nMetLysValLeu\n>b\nALA GLY VAL\nTYR\n")
    with pytest.raises(
        UserError, match=r"2 of its first 2 sequences are .* codes of three letters"
    ):
        prepare(out, codes)
    lines = write(tmp_path, "x.seq", f"SEQUENCE\n{P}\n")
    with pytest.raises(UserError, match=r"first line is the name of a column.*--format csv"):
        prepare(out, lines, format="text")
    assert prepare(out, lines, format="csv") == EXIT_DONE and list(stored(out).values()) == [P]
    named = write(tmp_path, "n.txt", f"name sequence\na {P}\n")
    assert prepare(out, named, format="named", overwrite=True) == EXIT_FAILED
    assert stored(out) == {"a": P} and rejected(out)[0]["reason"] == "header"
    table = write(tmp_path, "t.csv", f"name,sequence\na,{P}\n")
    with pytest.raises(UserError, match=r"has a header.*Leave --no_header out"):
        prepare(tmp_path / "c.zarr", table, no_header=True, column=2)
    other = write(tmp_path, "s.csv", "selfies,y\n[C][C][O],1\n")
    with pytest.raises(UserError, match="holds no SMILES by its name"):
        prepare(tmp_path / "c.zarr", other, column="selfies")
    assert prepare(tmp_path / "c.zarr", other, column="selfies", alphabet="bytes") == EXIT_DONE


FOREIGN = {
    "x.sto": "# STOCKHOLM 1.0\na  MAL-WM\nb  MALAWM\n//\n",
    "x.aln": "CLUSTAL W (1.83) multiple\n\na         MAL-WM\nb         MALAWM\n",
    "x.phy": " 2 6\na         MAL-WM\nb         MALAWM\n",
    "x.gb": "LOCUS       a     5 aa     linear   PRI 01-JAN-2020\nVERSION     a\nORIGIN\n"
    "        1 malwm\n//\n",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_command_that_converts_does(tmp_path, monkeypatch, name):
    pytest.importorskip("Bio")
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, name, FOREIGN[name])
    with pytest.raises(UserError, match="pip install biopython") as error:
        prepare(tmp_path / "b.zarr", path)
    code = re.search(r'python -c "(.*?)"', str(error.value))[1]
    exec(code)
    assert prepare(tmp_path / "b.zarr", tmp_path / "x.fasta", gaps="strip") == EXIT_DONE
    assert "MALWM" in stored(tmp_path / "b.zarr").values()


def test_smiles_in_fasta_become_lines(tmp_path, monkeypatch):
    path, out = write(tmp_path, "x.fasta", ">C1 one\nCCO\n>C2\nc1ccccc1\n"), tmp_path / "b.zarr"
    with pytest.raises(UserError, match="FASTA files hold proteins here, not smiles") as error:
        prepare(out, path, alphabet="smiles")
    command = re.search(r"awk .* > NEW\.smi", str(error.value))[0].replace("FILE", path.name)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert prepare(out, tmp_path / "NEW.smi") == EXIT_DONE
    assert stored(out) == {"C1 one": "CCO", "C2": "c1ccccc1"}
    text = {"format": "text", "alphabet": "smiles", "overwrite": True}
    lines = write(tmp_path, "x.txt", ">C1\nCCO\n")
    assert prepare(out, lines, **text) == EXIT_FAILED and list(stored(out).values()) == ["CCO"]
    assert rejected(out)[0]["reason"] == "header"

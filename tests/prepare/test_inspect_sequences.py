"""What `prepare inspect` says of a token bank, whole and damaged."""

import json
import shlex

import pytest

from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.prepare.inspect import images
from phenomjax.prepare.sequences import command
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from tests.lab.doors import run_as_door
from tests.prepare.test_sequences import prepare


def run(bank, *words):
    return run_as_door(images, [bank, *words])


@pytest.fixture
def bank(tmp_path):
    splits = {
        "train": [("a", "MKVLMKVL"), ("b", "MMMM"), ("long", "W" * 100)],
        "validation": [("c", "AX")],
    }
    return write_token_bank(
        tmp_path / "b.zarr", splits, options={"counts": {"read": 5, "kept": 4}}, chunk_bytes=64
    ).path


def test_the_truth_of_a_simulation_is_no_stray_file(bank, capsys):
    (bank / "truth").mkdir()
    (bank / "truth" / "families.parquet").touch()
    assert run(bank) == EXIT_DONE


def test_lists_beside_a_bank_are_no_stray_files(tmp_path, capsys):
    source = tmp_path / "p.fasta"
    source.write_text(">a\nMKV\n>b\nMKV\n>c\nM1V\n")
    assert prepare(tmp_path / "b.zarr", source) == EXIT_FAILED
    lists = {"rejected.parquet", "left_out.parquet", "sources.json"}
    assert lists <= {path.name for path in (tmp_path / "b.zarr").iterdir()}
    assert run(tmp_path / "b.zarr") == EXIT_DONE


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_bank(bank, capsys, quick):
    assert run(bank, *(["--quick"] if quick else [])) == EXIT_DONE
    text = capsys.readouterr().out
    for expected in (
        "sequences:         4\n",
        "tokens:            118 (residues and boundary tokens)",
        "boundary:          eos",
        "train:             3 sequences (75.00%), 115 tokens",
        "test:              0 sequences (0.00%)\n",
        "prepared from:     5 read, 4 kept",
        "min 2, 25 % 2, median 4, 75 % 8, 95 % 100, max 100, mean 28.5",
        "composition:       W 87.72%, M 5.26%, ",
        "special tokens:    <eos> 4",
        "record 0:          a (length 8)",
        "'MKVLMKVL'\n",
        f"'{'W' * 61}'...",
        "not checked (--quick)" if quick else "every checksum and offset is right",
    ):
        assert expected in text, text


def test_damaged_files_are_named(bank, capsys):
    chunk = bank / "tokens" / "c.1"
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    (bank / "metadata.parquet").unlink()
    (bank / "tokens" / "c.9").touch()
    assert run(bank) == EXIT_FAILED
    text = capsys.readouterr().out
    assert (
        "damaged: tokens/c.1 (checksum differs)" in text
        and "damaged: metadata.parquet (missing)" in text
    )
    assert (
        "damaged: tokens/c.9 (no file of this bank: delete it)" in text
        and "3 damaged files" in text
    )


def test_a_short_file_found_by_quick(bank, capsys):
    chunk = bank / "tokens" / "c.0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert run(bank, "--quick") == EXIT_FAILED and "c.0 is cut short" in capsys.readouterr().out


def test_an_unfinished_bank(bank):
    (bank / ".prepare").mkdir()
    (bank / ".prepare" / "sources.json").write_text(json.dumps([]))
    with pytest.raises(UserError, match="is not finished"):
        run(bank)


PROTEIN = "MALWMRLLPLLALLALWGPDPAAA"


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("x.fasta", f">a\n{PROTEIN}\n", ["FASTA (UTF-8)", "protein", PROTEIN]),
        ("u.fasta", f">a\r\n{PROTEIN}\r\n".encode("utf-16"), ["UTF-16, line ends of Windows"]),
        (
            "x.a3m",
            f">a\n{PROTEIN}\n>b\n{PROTEIN[:5]}-{PROTEIN[5:]}\n",
            ["an alignment, 1 have gaps"],
        ),
        ("d.fasta", f">a\n{'ACGGTCA' * 9}\n", ["is this DNA?"]),
        ("x.csv", f"id;seq\na;{PROTEIN}\n", ["a table", "id, seq (looks like protein)"]),
        ("col.csv", f"q\n{PROTEIN}\n{PROTEIN[::-1]}\n", ["--column=q"]),
        ("two.csv", f"the chain,seq,aa\n1,{PROTEIN},MKV\n", ["--column=seq"]),
        ("blank.csv", f"n,the chain\n1,{PROTEIN}\n", ["--column='the chain'"]),
        (
            "j.jsonl",
            f'{{"id": "a", "sequence": "{PROTEIN}"}}\n',
            ["sequence (looks like protein)", "--field=sequence --alphabet protein"],
        ),
        ("c.jsonl", '{"code": "x = 1"}\n', ["fields:            code"]),
        ("n.txt", f"INS {PROTEIN}\n", ["a name and a protein", "--format named"]),
        ("x", f"{PROTEIN}\n", ["Each line looks like a protein", "--format text"]),
        ("s.txt", "CC(=O)O\nc1ccccc1\n", ["smiles", "--alphabet smiles"]),
    ],
)
def test_a_file_of_sequences_is_told_and_the_command_makes_a_bank(
    tmp_path, capsys, monkeypatch, name, content, expected
):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run(path) == EXIT_DONE
    text = capsys.readouterr().out
    assert all(part in text for part in expected), text
    words = shlex.split(text.split("to make a bank:")[1].split("\n")[0])
    assert words[:4] == ["python", "-m", "phenomjax.prepare", "sequences"]
    monkeypatch.chdir(tmp_path)
    assert run_as_door(command, words[4:]) == EXIT_DONE


def test_a_file_that_holds_no_sequences_is_told_too(tmp_path):
    (tmp_path / "x.sto").write_text("# STOCKHOLM 1.0\na MK\n")
    with pytest.raises(UserError, match=r"is an alignment \(Stockholm\)"):
        run(tmp_path / "x.sto")
    (tmp_path / "x.bin").write_bytes(b"\0\1\2")
    with pytest.raises(UserError, match="is no text"):
        run(tmp_path / "x.bin")


def test_a_table_without_names_of_columns_is_told(tmp_path, capsys):
    path = tmp_path / "bare.tsv"
    path.write_text(f"P0\t{PROTEIN}\nP1\t{PROTEIN[::-1]}\n")  # P1 is a SMILES too
    assert run(path) == EXIT_DONE
    assert "--out bare.zarr --no_header --column=2" in capsys.readouterr().out
    for column in ("P0", PROTEIN):
        with pytest.raises(UserError, match=r"--no_header.*--column 2"):
            prepare(tmp_path / "b.zarr", path, column=column)


def test_columns_of_one_name(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(f"sequence,sequence\n{PROTEIN},{PROTEIN}\n")
    for options in ({}, {"column": "sequence"}, {"id": "sequence"}):
        with pytest.raises(UserError, match="give them different names in the first line"):
            prepare(tmp_path / "b.zarr", path, **options)


def test_proteins_in_json_lines_are_no_bytes_unasked(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"id": "a", "seq": PROTEIN}) + "\n")
    with pytest.raises(UserError, match=r"looks like protein.* --alphabet protein, or"):
        prepare(tmp_path / "b.zarr", path, field="seq")
    assert prepare(tmp_path / "b.zarr", path, field="seq", alphabet="protein") == EXIT_DONE

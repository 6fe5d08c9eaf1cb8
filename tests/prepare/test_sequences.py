"""Sequence files to a token bank: formats, filters, duplicates, splits, rejected records, error
texts.
"""

import gzip
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenomjax.data.sequences import compiled
from phenomjax.data.sequences.bank import (
    SPLITS,
    damaged_files,
    open_token_bank,
    write_token_bank,
)
from phenomjax.data.sequences.streams import Fasta, Stream
from phenomjax.data.sequences.vocabulary import smiles_tokens
from phenomjax.prepare.sequences import command
from phenomjax.prepare.sequences.pieces import PieceSettings
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from tests.lab.doors import run_as_door

SMALL = {"piece_bytes": 700, "block_bytes": 256, "chunk_bytes": 1024, "bucket_bits": 2}


def parse(out, *sources, **options):
    words = ["--source", *sources, "--out", out, "--jobs", options.pop("jobs", 1)]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, value]
    return [str(word) for word in words]


def prepare(out, *sources, sizes=None, **options):
    """Runs the command in this process; `sizes` of PieceSettings give small files many pieces."""
    words = parse(out, *sources, **options)
    with pytest.MonkeyPatch.context() as patch:
        if sizes:
            patch.setattr(
                command, "PieceSettings", lambda **given: PieceSettings(**(given | sizes))
            )
        return run_as_door(command, words)


def stored(bank):
    """{id: sequence} of a bank."""
    bank = open_token_bank(bank)
    names = bank.metadata["id"].to_pylist()
    return {name: bank.vocabulary.decode(bank.sequence(i)) for i, name in enumerate(names)}


def split_of(bank):
    bank = open_token_bank(bank)
    names = bank.metadata["id"].to_pylist()
    return {name: split for split in SPLITS for name in names[slice(*bank.splits[split])]}


def rejected(bank):
    return pq.read_table(bank / "rejected.parquet").to_pylist()


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def made_up(count=120, seed=0):
    """(id, description, sequence) of proteins; some are equal."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        text = "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(1, 60)))
        found.append(
            (f"id{seed}_{i}", f"protein {i}", found[rng.randrange(i)][2] if i % 9 == 8 else text)
        )
    return found


def fasta(records, width=20, end="\n", stop=""):
    lines = []
    for name, description, text in records:
        text += stop
        lines += [
            f">{name} {description}",
            *(text[i : i + width] for i in range(0, len(text), width)),
        ]
    return end.join(lines) + end


def unique(records):
    found = {}
    for name, _, text in records:
        found.setdefault(text, name)
    return {name: text for text, name in found.items()}


@pytest.mark.parametrize(
    "kind",
    [
        "wrapped",
        "one_line",
        "crlf",
        "lower",
        "stop",
        "no_last_line_end",
        "gzip",
        "members",
        "zstd",
        "bom",
    ],
)
def test_fasta_in_all_its_forms_gives_the_same_sequences(tmp_path, kind):
    records = made_up()
    text = fasta(
        records,
        10**6 if kind == "one_line" else 20,
        "\r\n" if kind == "crlf" else "\n",
        "*" if kind == "stop" else "",
    )
    if kind == "lower":
        text = fasta([(n, d, t.lower()) for n, d, t in records])
    data = text.rstrip("\n").encode() if kind == "no_last_line_end" else text.encode()
    name = "x.faa"
    if kind == "gzip":
        name, data = "x.faa.gz", gzip.compress(data)
    elif kind == "members":  # as bgzip and `cat a.gz b.gz` make them
        name, data = "x.faa.gz", gzip.compress(data[:999]) + gzip.compress(data[999:])
    elif kind == "zstd":
        name, data = "x.faa.zst", pa.compress(data, "zstd", asbytes=True)
    elif kind == "bom":
        data = b"\xef\xbb\xbf\n" + data
    (tmp_path / name).write_bytes(data)
    assert prepare(tmp_path / "b.zarr", tmp_path / name, sizes=SMALL) == EXIT_DONE
    assert stored(tmp_path / "b.zarr") == unique(records)
    bank = open_token_bank(tmp_path / "b.zarr")
    rows = bank.metadata.to_pylist()
    assert {row["id"]: (row["description"], row["source"]) for row in rows} == {
        n: (d, name) for n, d, _ in records if n in unique(records)
    }
    assert [row["length"] + 1 for row in rows] == np.diff(bank.offsets[:]).tolist()
    assert damaged_files(bank.path) == []
    counts = bank.attributes["options"]["counts"]
    assert (counts["read"], counts["kept"], counts["duplicates"]) == (
        120,
        len(bank),
        120 - len(bank),
    )


def test_the_order_of_each_split_is_that_of_the_files(tmp_path):
    first, second = made_up(50, 1), made_up(50, 2)
    for name, records in (("a.fasta", first), ("b.fasta", second)):
        (tmp_path / name).write_text(fasta(records))
    prepare(
        tmp_path / "b.zarr", tmp_path / "b.fasta", tmp_path / "a.fasta", validation=0.3, test=0.2
    )
    order = list(unique(second + first))
    by_split = split_of(tmp_path / "b.zarr")
    assert list(stored(tmp_path / "b.zarr")) == sorted(
        order, key=lambda name: SPLITS.index(by_split[name])
    )
    assert all(list(by_split.values()).count(split) > 5 for split in SPLITS)


def test_headers_as_the_databases_write_them(tmp_path):
    headers = {
        "sp|P11608|ATP8_RAT": (
            "ATP synthase protein 8 OS=Rattus norvegicus OX=10116 GN=Mt-atp8 PE=1 SV=1"
        ),
        "UniRef50_A0A009": "Uncharacterized protein n=3 Tax=Acinetobacter TaxID=4 RepID=A0_9",
        "938293.PRJEB85.HG003688_1": "# 204 # 629 # -1 # ID=1_1;partial=00;gc_cont=0.319",
        "nothing_more": "",
        "tabs": "after\tthe id",
    }
    sequence = "MKVLA"
    text = "".join(
        f">{name}{sep}{rest}  \n{sequence}{i * 'A'}*\n"
        for i, ((name, rest), sep) in enumerate(
            zip(headers.items(), [" ", " ", " ", "", "\t"], strict=True)
        )
    )
    (tmp_path / "x.fasta").write_bytes(text.encode() + b">latin1 M\xfcller\nWWW\n")
    assert prepare(tmp_path / "b.zarr", tmp_path / "x.fasta", validation=0, test=0) == EXIT_DONE
    rows = open_token_bank(tmp_path / "b.zarr").metadata.to_pylist()
    assert {row["id"]: row["description"] for row in rows} == headers | {"latin1": "M\ufffdller"}


def test_rare_letters(tmp_path):
    (tmp_path / "x.fasta").write_text(">a\nMUZOBK\n>j\nMJK\n>x\nmxk\n")
    assert prepare(tmp_path / "x.zarr", tmp_path / "x.fasta") == EXIT_DONE
    assert stored(tmp_path / "x.zarr") == {"a": "MXXXXK", "j": "MXK"}  # x is then equal to j
    prepare(tmp_path / "keep.zarr", tmp_path / "x.fasta", rare="keep")
    assert stored(tmp_path / "keep.zarr") == {"a": "MUZOBK", "j": "MXK"}
    assert prepare(tmp_path / "reject.zarr", tmp_path / "x.fasta", rare="reject") == EXIT_FAILED
    assert stored(tmp_path / "reject.zarr") == {"x": "MXK"}
    assert [row["detail"] for row in rejected(tmp_path / "reject.zarr")] == [
        "'U' at byte 4 is no amino acid",
        "'J' at byte 14 is no amino acid",
    ]


def test_filters_count_what_they_leave_out(tmp_path):
    (tmp_path / "x.fasta").write_text(
        ">a\nAA\n>b\nAAA\n>c\nAAAA\n>d\nAAXX\n>e\nAAXXX\n>f\nAAAAAA\n>g\nAAA\n"
    )
    options = {"min_length": 3, "max_length": 5, "max_ambiguous": 0.5, "boundary": "bos_eos"}
    assert prepare(tmp_path / "b.zarr", tmp_path / "x.fasta", **options) == EXIT_DONE
    assert stored(tmp_path / "b.zarr") == {"b": "AAA", "c": "AAAA", "d": "AAXX"}
    bank = open_token_bank(tmp_path / "b.zarr")
    assert bank.sequence(0)[[0, -1]].tolist() == [2, 3] and bank.boundary == "bos_eos"
    assert bank.attributes["options"]["counts"] == {
        "read": 7,
        "kept": 3,
        "duplicates": 1,
        "in_other_clusters": 0,
        "too_short": 1,
        "too_long": 1,
        "too_ambiguous": 1,
        "rejected": 0,
        "as_x": 2,
        "in_no_cluster": 0,
    }
    prepare(tmp_path / "all.zarr", tmp_path / "x.fasta", keep_duplicates=True)
    assert len(open_token_bank(tmp_path / "all.zarr")) == 7


def test_a_split_does_not_change_when_data_are_added(tmp_path):
    first, second = made_up(200, 3), made_up(200, 4)
    (tmp_path / "a.fasta").write_text(fasta(first))
    (tmp_path / "both.fasta").write_text(fasta(second + first))
    options = {"validation": 0.2, "test": 0.1}
    prepare(tmp_path / "a.zarr", tmp_path / "a.fasta", **options)
    prepare(tmp_path / "both.zarr", tmp_path / "both.fasta", **options)
    before, after = split_of(tmp_path / "a.zarr"), split_of(tmp_path / "both.zarr")
    assert all(after[name] == split for name, split in before.items() if name in after) and len(
        after
    ) > len(before)
    shares = [list(after.values()).count(split) / len(after) for split in SPLITS]
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.06)


def test_the_hash_is_part_of_the_format():
    """Splits of published banks depend on these numbers."""
    words = np.zeros(4, np.uint64)
    words.view(np.uint8)[:11] = np.arange(11)

    def reference(data):
        mask, golden, second_, third = (
            2**64 - 1,
            0x9E3779B97F4A7C15,
            0xC2B2AE3D27D4EB4F,
            0xD6E8FEB86659FD93,
        )

        def finish(value):
            value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & mask
            value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & mask
            return value ^ value >> 33

        first, second = len(data) * golden & mask, len(data) ^ third
        for i in range(0, len(data), 8):
            word = int.from_bytes(data[i : i + 8], "little")
            first = (first ^ word) * golden & mask
            first ^= first >> 32
            second ^= word * second_ & mask
            second = (second << 31 | second >> 33) * third & mask
        first = finish(first + second & mask)
        return first, finish(second ^ first)

    assert tuple(map(int, compiled.hash_words(words, 11))) == reference(bytes(range(11)))


def test_clusters_split_together(tmp_path):
    records = made_up(100, 5)
    (tmp_path / "a.fasta").write_text(fasta(records))
    members = [(f"rep{i % 10}", name) for i, (name, _, _) in enumerate(records[:90])]
    (tmp_path / "x_cluster.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in members))
    prepare(
        tmp_path / "b.zarr",
        tmp_path / "a.fasta",
        clusters=tmp_path / "x_cluster.tsv",
        validation=0.3,
        test=0.2,
    )
    split = split_of(tmp_path / "b.zarr")
    together = {}
    for representative, name in members:
        if name in split:
            together.setdefault(representative, set()).add(split[name])
    assert len(together) == 10 and all(len(found) == 1 for found in together.values())
    assert len(set.union(*together.values())) > 1
    strangers = sum(name in split for name, _, _ in records[90:])
    counted = open_token_bank(tmp_path / "b.zarr").attributes["options"]["counts"]["in_no_cluster"]
    assert strangers <= counted == 10
    (tmp_path / "bad.tsv").write_text("a\tb\tc\n")
    with pytest.raises(UserError, match="every line must be a representative, a tab, and a member"):
        prepare(tmp_path / "c.zarr", tmp_path / "a.fasta", clusters=tmp_path / "bad.tsv")


def test_text_csv_and_json_lines(tmp_path):
    (tmp_path / "x.txt").write_text("MKV\n\nwwy\r\nAAA")
    assert prepare(tmp_path / "t.zarr", tmp_path / "x.txt") == EXIT_DONE
    assert stored(tmp_path / "t.zarr") == {"x.txt:1": "MKV", "x.txt:3": "WWY", "x.txt:4": "AAA"}
    (tmp_path / "x.csv").write_text(
        "id,smiles,note\nm1,CC(=O)[O-]"
        ' ,"two\nlines"\nm2,ClCCBr,\nm3,CC?C,bad\nm4,CC,"open\nm5,C#N,\nm6,C\n'
    )
    assert (
        prepare(tmp_path / "c.zarr", tmp_path / "x.csv", id="id", validation=0, test=0)
        == EXIT_FAILED
    )
    assert stored(tmp_path / "c.zarr") == {"m1": "CC(=O)[O-]", "m2": "ClCCBr", "m5": "C#N"}
    assert open_token_bank(tmp_path / "c.zarr").metadata["length"].to_pylist() == [
        len(smiles_tokens("CC(=O)[O-]")),
        4,
        3,
    ]
    assert [(row["id"], row["reason"], row["detail"]) for row in rejected(tmp_path / "c.zarr")] == [
        ("m3", "illegal_letter", "'?' at place 2 of the sequence is in no SMILES"),
        ("x.csv:6", "unparsable", "no CSV row: a quote is not closed"),
        ("x.csv:8", "unparsable", "no CSV row: 2 cells, the header has 3"),
    ]
    rows = [
        {"task": "a", "code": "def f():\n    return 'ü'\n"},
        {"task": "b", "code": ""},
        {"task": "c"},
        {"task": "d", "code": "x"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + "{no json\n"
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert (
        prepare(tmp_path / "j.zarr", tmp_path / "x.jsonl.gz", id="task", sizes=SMALL) == EXIT_FAILED
    )
    assert stored(tmp_path / "j.zarr") == {"a": rows[0]["code"], "d": "x"}
    found = rejected(tmp_path / "j.zarr")
    assert [(row["id"], row["reason"]) for row in found] == [
        ("b", "empty"),
        ("c", "missing_field"),
        ("x.jsonl.gz:5", "unparsable"),
    ]
    assert found[1]["offset"] == text.encode().index(b'{"task": "c"}')


def test_bad_fasta_records_are_named_and_the_good_ones_kept(tmp_path, caplog):
    text = (
        "junk\n>ok\nMKV\n>space\nMK"
        " V\n>digit\nMK4V\n>empty\n\n>inner\nM*KV\n>\nMKK\n>umlaut\nläzy\n>last\nMWW*\n>nothing"
    )
    (tmp_path / "x.fasta").write_text(text)
    assert prepare(tmp_path / "b.zarr", tmp_path / "x.fasta") == EXIT_FAILED
    # blanks inside a line mean nothing
    assert sorted(stored(tmp_path / "b.zarr").values()) == ["MKV", "MWW"]
    expected = [
        ("no_header", "", 0, "text before the first '>': 'junk'"),
        (
            "illegal_letter",
            "digit",
            text.index(">digit"),
            f"'4' at byte {text.index('4')} is no amino acid",
        ),
        ("empty", "empty", text.index(">empty"), "no sequence"),
        ("internal_stop", "inner", text.index(">inner"), "a stop ('*') inside the sequence"),
        ("no_id", "", text.index(">\n"), "the header has no id after '>'"),
        (
            "illegal_letter",
            "umlaut",
            text.index(">umlaut"),
            f"'ä' at byte {text.index('ä')} is no amino acid",
        ),
        ("empty", "nothing", text.index(">nothing") + 1, "no sequence"),
    ]
    found = rejected(tmp_path / "b.zarr")
    assert sorted((r["reason"], r["id"], r["offset"], r["detail"]) for r in found) == sorted(
        expected
    )
    assert {row["file"] for row in found} == {str(tmp_path / "x.fasta")}
    assert "7 rejected, the other records are in the bank" in caplog.text
    assert f"record digit at byte {text.index('>digit')}: '4'" in caplog.text


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_cut_compressed_file_keeps_what_was_readable(tmp_path, ending):
    records = made_up(4000, 6)
    data = fasta(records).encode()
    packed = gzip.compress(data) if ending == "gz" else pa.compress(data, "zstd", asbytes=True)
    path = tmp_path / f"x.fasta.{ending}"
    path.write_bytes(packed[: len(packed) * 2 // 3])
    assert prepare(tmp_path / "b.zarr", path, keep_duplicates=True) == EXIT_FAILED
    kept = stored(tmp_path / "b.zarr")
    expected = {name: text for name, _, text in records}
    assert all(expected[name] == text for name, text in kept.items())
    (row,) = rejected(tmp_path / "b.zarr")
    assert (
        row["reason"] == "truncated"
        and f"byte {len(packed) * 2 // 3}" in row["detail"]
        and row["file"] == str(path)
    )
    assert (
        data[row["offset"] :].startswith(f">{row['id']} ".encode())
        if row["id"]
        else row["offset"] == 0
    )
    if ending == "gz":
        assert len(kept) > 2000
        assert len(kept) == [name for name, _, _ in records].index(row["id"])


def test_long_records_and_records_across_blocks(tmp_path):
    records = [("a", "", "MKV" * 500), ("b", "", "W"), ("c", "", "GGH" * 900), ("d", "", "A")]
    path = tmp_path / "x.fasta"
    path.write_text(fasta(records))
    assert prepare(tmp_path / "b.zarr", path, sizes=SMALL) == EXIT_DONE
    assert stored(tmp_path / "b.zarr") == {name: text for name, _, text in records}
    with Stream(path) as stream:
        reader = Fasta(stream, 0, 256, longest=2000)
        read = b"".join(bytes(reader.data[start:stop]) for start, stop in reader.blocks())
    assert read.decode() == fasta(records[:2] + records[3:]) and [
        (t.reason, t.offset) for t in reader.troubles
    ] == [("too_large", path.read_text().index(">c"))]


def test_errors_say_what_to_do(tmp_path):
    good, out = tmp_path / "a.fasta", tmp_path / "b.zarr"
    good.write_text(">a\nMKV\n")
    (tmp_path / "x.csv").write_text("SMILES,activity\nCC,1\n")
    (tmp_path / "x.bin").write_bytes(b"\0\1\2")
    (tmp_path / "x.jsonl").write_text('{"prompt": "x"}\n')
    (folder := tmp_path / "f.d").mkdir()
    for name in ("a.faa", "b.c.faa.gz", "c.fasta"):
        (folder / name).touch()
    bank = write_token_bank(tmp_path / "t.zarr", {"train": [("a", "MKV")]}).path
    cases = [
        (
            (folder,),
            {},
            r"is a folder. Name its files, for instance (?=.*f.d/\*.faa)(?=.*\*.faa.gz)",
        ),
        ((bank,), {}, r"no file of sequences but a result of phenomjax \(token bank\)"),
        ((tmp_path / "none.fasta",), {}, "There is no file"),
        ((good, good), {}, "is named twice"),
        ((tmp_path / "x.bin",), {}, "is no text .*not a file of sequences"),
        (
            (tmp_path / "x.csv",),
            {"column": "smiles"},
            "has no column 'smiles'. Did you mean 'SMILES'\\?|has no column 'smiles'",
        ),
        ((tmp_path / "x.jsonl",), {}, "has no field 'code'.*There are: prompt"),
        ((good, tmp_path / "x.csv"), {"column": "SMILES"}, "A bank has one alphabet"),
        ((good,), {"validation": 0.5, "test": 0.6}, "are more than all sequences together"),
        ((good,), {"min_length": 5, "max_length": 4}, "leave nothing: 1 <= min <= max"),
        ((good,), {"max_ambiguous": 30}, "--max_ambiguous is a share from 0 to 1, not 30"),
        ((good,), {"cluster": 0}, "--cluster 0 would put all sequences into one cluster"),
        ((good,), {"min_length": 4}, "No sequence is left.*1 too short"),
        ((good,), {"clusters": tmp_path / "none.tsv"}, "There is no cluster file"),
        ((good,), {"alphabet": "smiles"}, "FASTA files hold proteins here"),
        ((tmp_path / "x.bin",), {"format": "text"}, "All records were rejected.*illegal_letter"),
    ]
    for sources, options, message in cases:
        with pytest.raises(UserError, match=message):
            prepare(out, *sources, **options)
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr" / "x").touch()
    with pytest.raises(UserError, match="is there already and is no token bank"):
        prepare(tmp_path / "other.zarr", good)

"""Embedding: equal to one pass over the whole sequence, whatever the order, the batches, or how
often it was stopped.
"""

import csv
import gzip
import itertools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from phenomjax import embed, tasks
from phenomjax.data import text_files
from phenomjax.data.sequences import bank, vocabulary
from phenomjax.inference import rows as inference_rows
from phenomjax.inference.sequences import (
    batches,
    command,
    keys,
    queries,
    segments,
    store,
    table_queries,
)
from phenomjax.inference.sequences import embed as sequences_embed
from phenomjax.system.errors import EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.options import parse
from phenomjax.trained import opening
from tests.lab import tiny_language_models as tiny

LENGTHS = (3, 16, 14, 50, 1, 33)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{task: workdir of a tiny model}."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: tiny.write(folder / name, name) for name in tiny.SHAPES}


def run(workdir, source, out, *options):
    sources = source if isinstance(source, list) else [source]
    arguments = [
        "--checkpoint",
        workdir,
        "--source",
        *sources,
        "--out",
        out,
        "--devices",
        1,
        "--batch_tokens",
        64,
        "--segment_len",
        16,
    ]
    return embed.main([str(a) for a in [*arguments, *options]])


def read(path):
    """(embeddings, offsets or None, metadata) as a stranger reads them."""
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="r")
    offsets = group["offsets"][:] if "offsets" in group else None
    return group["embeddings"][:], offsets, pq.read_table(path / "metadata.parquet")


def whole(workdir, sequence):
    """Features of each residue by one pass, with the task's own functions."""
    model = opening.load_sequences(workdir)
    task, ids = model.task, jnp.asarray(model.task.words.encode(sequence))
    if model.config.task == "bidirectional_lm":
        layers, _ = jax.jit(task.layers)(model.params, ids[None], jnp.array([len(ids)]))
        return np.asarray(layers[0].sum(0))
    before, after = task.boundary
    tokens = jnp.concatenate([jnp.array(before, jnp.uint8), ids, jnp.array(after, jnp.uint8)])[None]
    features, _ = jax.jit(task.embed)(
        model.params, {"tokens": tokens[:, None], "lengths": jnp.array([tokens.shape[1]])}
    )
    return np.asarray(features[0, 0, len(before) : len(before) + len(ids)])


@pytest.mark.parametrize("name", tiny.SHAPES)
def test_residues_equal_one_pass_over_the_whole_sequence(name, runs, tmp_path):
    # XLNet sees both sides within a segment only, so its long sequences are another function by
    # definition.
    lengths = [n for n in LENGTHS if n <= 12] if name == "permutation_lm" else LENGTHS
    sequences = tiny.proteins([*lengths, 12])
    assert (
        run(
            runs[name],
            tiny.write_fasta(tmp_path / "a.fasta", sequences),
            tmp_path / "a.zarr",
            "--per",
            "residue",
        )
        == 0
    )
    values, offsets, table = read(tmp_path / "a.zarr")
    assert table["length"].to_pylist() == [len(s) for s in sequences] == list(np.diff(offsets))
    assert table["description"].to_pylist()[1] == "about p1"
    for number in (0, len(lengths) // 2, len(lengths)):
        found = values[offsets[number] : offsets[number + 1]]
        np.testing.assert_allclose(
            found, whole(runs[name], sequences[number]), atol=3e-5, err_msg=f"{number}"
        )


def test_memory_carries_xlnet_over_segments(runs, tmp_path):
    one, other = tiny.proteins([40], 1)[0], tiny.proteins([40], 2)[0]
    mixed = other[:4] + one[4:]  # another beginning, in the first segment
    run(
        runs["permutation_lm"],
        tiny.write_fasta(tmp_path / "a.fasta", [one, mixed]),
        tmp_path / "a.zarr",
        "--per",
        "residue",
    )
    values, _, _ = read(tmp_path / "a.zarr")
    first, second = values[:40], values[40:]
    assert np.abs(first[20:30] - second[20:30]).max() > 1e-3


@pytest.mark.parametrize("name", ["causal_lm", "bidirectional_lm"])
def test_proteins_are_pooled_residues(name, runs, tmp_path):
    source = tiny.write_fasta(tmp_path / "a.fasta", tiny.proteins(LENGTHS))
    run(runs[name], source, tmp_path / "r.zarr", "--per", "residue")
    residues, offsets, _ = read(tmp_path / "r.zarr")
    for pool in segments.POOLS:
        run(runs[name], source, tmp_path / f"{pool}.zarr", "--pool", pool)
        proteins, _, _ = read(tmp_path / f"{pool}.zarr")
        for number, values in enumerate(np.split(residues, offsets[1:-1])):
            np.testing.assert_allclose(proteins[number], getattr(values, pool)(0), atol=1e-5)


def test_layers(runs, tmp_path):
    source = tiny.write_fasta(tmp_path / "a.fasta", tiny.proteins([12, 5]))
    for name in tiny.SHAPES:
        layers = []
        for layer in (0, 1, 2, None):
            out = tmp_path / f"{name}{layer}.zarr"
            run(runs[name], source, out, *([] if layer is None else ["--layer", layer]))
            layers.append(read(out)[0])
        assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(layers[:3]))
        expected = sum(layers[:3]) if name == "bidirectional_lm" else layers[2]
        np.testing.assert_allclose(layers[3], expected, atol=1e-5)


def test_order_repeats_and_compression_change_no_bit(runs, tmp_path):
    sequences = [*tiny.proteins(LENGTHS), *tiny.proteins([33, 12])]
    named = [(f"p{i}", s) for i, s in enumerate(sequences)]
    run(runs["causal_lm"], tiny.write_fasta(tmp_path / "a.fasta", named), tmp_path / "a.zarr")
    turned = tiny.write_fasta(tmp_path / "b.fasta", [*named[::-1], ("again", sequences[2])])
    packed = tmp_path / "b.fasta.gz"
    packed.write_bytes(gzip.compress(turned.read_bytes()))
    run(runs["causal_lm"], packed, tmp_path / "b.zarr")
    a, b = read(tmp_path / "a.zarr"), read(tmp_path / "b.zarr")
    np.testing.assert_array_equal(a[0], b[0][-2::-1])
    np.testing.assert_array_equal(b[0][-1], a[0][2])
    assert (
        b[2]["id"].to_pylist()[0] == named[-1][0] and b[2]["source"].to_pylist()[0] == "b.fasta.gz"
    )


def test_stopped_and_killed_runs_end_with_the_same_bytes(runs, tmp_path, monkeypatch):
    source = tiny.write_fasta(tmp_path / "a.fasta", tiny.proteins([*LENGTHS, 9, 8, 7, 6, 5, 70]))
    monkeypatch.setattr(sequences_embed, "SAVE_SECONDS", 0.0)
    arguments = ("--per", "residue", "--dtype", "float16")
    run(runs["causal_lm"], source, tmp_path / "straight.zarr", *arguments)
    counted, original = [], store.FeatureStore.save

    def save(self):
        original(self)
        counted.append(self.saved)
        if counted == [1]:
            os.kill(os.getpid(), signal.SIGTERM)
        elif counted[-1] == 3:
            raise SystemError("as good as killed")

    monkeypatch.setattr(store.FeatureStore, "save", save)
    assert run(runs["causal_lm"], source, tmp_path / "a.zarr", *arguments) == EXIT_STOPPED
    assert not (tmp_path / "a.zarr").exists()
    with pytest.raises(UserError, match=r"--per was residue, is now protein"):
        run(runs["causal_lm"], source, tmp_path / "a.zarr")
    with pytest.raises(SystemError):
        run(runs["causal_lm"], source, tmp_path / "a.zarr", *arguments)
    assert run(runs["causal_lm"], source, tmp_path / "a.zarr", *arguments) == 0
    assert counted[0] == 1 and all(b >= a for a, b in itertools.pairwise(counted))
    for file in (tmp_path / "straight.zarr").rglob("*"):
        if file.is_file():
            assert (
                file.read_bytes()
                == (tmp_path / "a.zarr" / file.relative_to(tmp_path / "straight.zarr")).read_bytes()
            ), file
    assert not (tmp_path / "a.zarr.partial").exists()
    # says that it is done
    assert run(runs["causal_lm"], source, tmp_path / "a.zarr", *arguments) == 0
    with pytest.raises(UserError, match="is there already"):
        run(runs["causal_lm"], source, tmp_path / "a.zarr")


def test_formats_by_id(runs, tmp_path):
    h5py = pytest.importorskip("h5py")
    sequences = tiny.proteins([4, 20])
    named = [("sp|P1/2|A", sequences[0]), ("b", sequences[1]), ("b", sequences[1])]
    source = tiny.write_fasta(tmp_path / "a.fasta", named)
    run(runs["causal_lm"], source, tmp_path / "r.zarr", "--per", "residue")
    values, offsets, _ = read(tmp_path / "r.zarr")
    for out in (tmp_path / "r.h5", tmp_path / "r.npz"):
        run(runs["causal_lm"], source, out, "--per", "residue")
    with h5py.File(tmp_path / "r.h5") as file:
        found = {dataset.attrs["original_id"]: dataset[:] for dataset in file.values()}
        assert file.attrs["task"] == "causal_lm"
    arrays = np.load(tmp_path / "r.npz")
    for number, name in enumerate(["sp|P1/2|A", "b"]):
        expected = values[offsets[number] : offsets[number + 1]]
        np.testing.assert_array_equal(found[name], expected)
        np.testing.assert_array_equal(arrays[name], expected)
    run(runs["causal_lm"], source, tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["b"].shape == (16,)


def test_bad_records_are_named_and_the_good_ones_embedded(runs, tmp_path, caplog):
    source = tmp_path / "a.fasta"
    source.write_text(">good\nMKVU\n>bad\nMK1V\n>none\n>other\nMKVX\n")
    assert run(runs["causal_lm"], source, tmp_path / "a.zarr") == EXIT_FAILED
    values, _, table = read(tmp_path / "a.zarr")
    assert table["id"].to_pylist() == ["good", "other"]
    np.testing.assert_array_equal(values[0], values[1])  # U is read as X
    rejected = pq.read_table(tmp_path / "a.zarr" / "rejected.parquet").to_pylist()
    assert [(r["id"], r["reason"], r["offset"]) for r in rejected] == [
        ("bad", "illegal_letter", 11),
        ("none", "empty", 21),
    ]
    attributes = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"][
        "phenomjax"
    ]
    assert (attributes["task"], attributes["step"], attributes["pooling"], attributes["dtype"]) == (
        "causal_lm",
        0,
        "mean",
        "float32",
    )


def test_mistakes(runs, tmp_path):
    source = tiny.write_fasta(tmp_path / "a.fasta", tiny.proteins([5]))
    for options, message in [
        ((runs["causal_lm"], source, tmp_path / "a.csv"), "names no format"),
        ((runs["causal_lm"], tmp_path / "b.fasta", tmp_path / "a.zarr"), "There is no file"),
        ((tmp_path, source, tmp_path / "a.zarr"), "holds no checkpoint"),
        ((tmp_path / "nowhere", source, tmp_path / "a.zarr"), "does not exist"),
        (
            (runs["causal_lm"], source, tmp_path / "a.zarr", "--layer", 7),
            "layers 0 .the embedding. to 2",
        ),
        ((runs["causal_lm"], source, tmp_path / "x" / "a.zarr"), "The folder .* does not exist"),
    ]:
        with pytest.raises(UserError, match=message):
            run(*options)
    twice = tiny.write_fasta(tmp_path / "t.fasta", [("a", "MKV"), ("a", "MKL")])
    with pytest.raises(UserError, match="have the id 'a'"):
        run(runs["causal_lm"], twice, tmp_path / "a.npz")
    empty = tmp_path / "e.fasta"
    empty.write_text(">a\n123\n")
    with pytest.raises(UserError, match="There is no sequence to read in e"):
        run(runs["causal_lm"], empty, tmp_path / "a.zarr")
    assert not list(tmp_path.glob("*.partial"))


def test_plan_covers_all_with_few_shapes():
    lengths = np.sort(np.random.default_rng(0).integers(2, 3000, 5000))[::-1]
    lengths = np.concatenate([[70_000], lengths])
    plan = batches.plan(lengths, 512, 16384, 8)
    assert [b.start for b in plan[1:]] == [b.stop for b in plan[:-1]] and (
        plan[0].start,
        plan[-1].stop,
    ) == (
        0,
        len(lengths),
    )
    for b in plan:
        assert b.stop - b.start <= b.rows and b.rows % 8 == 0 and b.rows * b.seq <= 16384
        assert lengths[b.start] <= b.seq * b.segments and (
            b.segments == 1 or lengths[b.stop - 1] >= 2 or b.seq == 512
        )
    assert len({(b.rows, b.seq, b.segments == 1) for b in plan}) <= 10
    assert batches.plan([3], 512, 16384) == [batches.SequenceBatch(0, 1, 1, 64, 1)]


def test_two_devices_give_what_one_gives(runs, tmp_path):
    source = tiny.write_fasta(tmp_path / "a.fasta", tiny.proteins([30, 9, 4]))
    for devices in (1, 2):
        run(runs["causal_lm"], source, tmp_path / f"{devices}.zarr", "--devices", devices)
    np.testing.assert_allclose(
        read(tmp_path / "1.zarr")[0], read(tmp_path / "2.zarr")[0], atol=1e-5
    )


def test_rows_over_several_chunks(tmp_path):
    zarr = pytest.importorskip("zarr")
    rows, expected = (
        inference_rows.Rows(tmp_path / "x", 23, 3, "float32", chunk_bytes=60),
        np.zeros((23, 3), np.float32),
    )
    rows.create("protein")
    for start, columns, count in [(0, slice(None), 4), (3, slice(0, 1), 12), (20, slice(1, 3), 3)]:
        values = (
            np.random.default_rng(start)
            .normal(size=(count, len(range(3)[columns])))
            .astype(np.float32)
        )
        rows.write(start, columns, values)
        expected[start : start + count, columns] = values
    rows.flush()
    assert len(list((tmp_path / "x").glob("c.*"))) == 5
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "x", mode="r")[:], expected)
    np.testing.assert_array_equal(rows.read(2, 21), expected[2:21])


def test_a_run_records_what_its_model_must_know_of_the_bank(tmp_path):
    options = {"prepare": {"rare": "keep"}}
    bank.write_token_bank(
        tmp_path / "b.zarr", {"train": [("a", "MKU")]}, boundary="bos_eos", options=options
    )
    c = tiny.make_config("causal_lm", data__banks=(str(tmp_path / "b.zarr"),))
    m = tasks.resolve(c, tmp_path).model
    assert (m.alphabet, m.boundary, m.rare) == ("protein", "bos_eos", "keep")
    workdir = tiny.write(
        tmp_path / "run", "causal_lm", model__boundary=m.boundary, model__rare=m.rare
    )
    model = opening.load_sequences(workdir)
    assert model.task.boundary == ((vocabulary.BOS,), (vocabulary.EOS,))
    source = tiny.write_fasta(tmp_path / "a.fasta", ["MKU", "MKX"])
    run(workdir, source, tmp_path / "a.zarr")
    one, other = read(tmp_path / "a.zarr")[0]
    assert np.abs(one - other).max() > 1e-3  # U has an id of its own here


def test_no_two_records_share_a_key():
    names = ["a/b", "a_b", "b", "b", "b_2", ".", "a/b", "a\0b"]
    found = keys.of_names(names, "hdf5")
    assert len(set(found)) == len(names) and "/" not in "".join(found)
    assert [found[i] for i in (1, 2, 4)] == ["a_b", "b", "b_2"]  # what can be a key is one
    assert keys.of_names(names, "npz")[:3] == ["a/b", "a_b", "b"]


def test_colliding_ids_keep_their_vectors(runs, tmp_path):
    h5py = pytest.importorskip("h5py")
    one, other, third = tiny.proteins([9, 12, 5])
    named = [("a/b", one), ("a_b", other), (".", third), ("b", third), ("b", third)]
    source = tiny.write_fasta(tmp_path / "a.fasta", named)
    run(runs["causal_lm"], source, tmp_path / "a.zarr")
    values = read(tmp_path / "a.zarr")[0]
    for out in (tmp_path / "a.h5", tmp_path / "a.npz"):
        assert run(runs["causal_lm"], source, out) == 0
        with out.with_name(out.name + ".keys.csv").open() as file:
            table = list(csv.DictReader(file))
        assert [(row["id"], int(row["row"])) for row in table] == [
            (name, i) for i, (name, _) in enumerate(named)
        ]
        with h5py.File(out) if out.suffix == ".h5" else np.load(out) as file:
            assert len(file) == len({row["key"] for row in table}) == 5
            for row in table:
                np.testing.assert_array_equal(file[row["key"]], values[int(row["row"])])
                if out.suffix == ".h5":
                    assert file[row["key"]].attrs["original_id"] == row["id"]


def test_rejected_records_are_listed_beside_a_file(runs, tmp_path, capsys):
    pytest.importorskip("h5py")
    source = tmp_path / "a.fasta"
    source.write_text(">good\nMKV\n>bad\nMK1V\n>none\n")
    assert run(runs["causal_lm"], source, tmp_path / "a.h5") == EXIT_FAILED
    assert f"listed in {tmp_path / 'a.h5.rejected.csv'}" in capsys.readouterr().err
    with (tmp_path / "a.h5.rejected.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["bad", "none"]


@pytest.mark.parametrize(
    "name,text,options",
    [
        ("a.csv", "name,sequence,label\np0,{0},1\np1,{1},2\n", ()),
        ("a.tsv", "Entry\tSequence\np0\t{0}\np1\t{1}\n", ()),
        ("a.csv", "id;seq\np0;{0}\np1;{1}\n", ()),
        ("a.csv", "who,what\np0,{0}\np1,{1}\n", ("--column", "what", "--id", "who")),
        ("a.csv", "ID,SEQUENCE\np0,{0}\np1,{1}\n", ()),
        ("a.csv", "id,protein,seq\np0,kinase,{0}\np1,not a one,{1}\n", ()),
        ("a.csv", "id,target_seq,seq\np0,{1}A,{0}\np1,{1}A,{1}\n", ("--column", "seq")),
        ("a.csv", "p0,{0}\np1,{1}\n", ("--no_header", "--column", 2, "--id", 1)),
        ("a.txt", "p0 {0}\np1 {1}\n", ("--format", "named")),
        ("a.dat", "id,seq\np0,{0}\np1,{1}\n", ("--format", "csv")),
        ("a.jsonl", '{{"id": "p0", "seq": "{0}"}}\n{{"id": "p1", "seq": "{1}"}}\n', ()),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_sequences_of_tables(name, text, options, encoding, tmp_path):
    sequences = tiny.proteins([9, 12])
    (tmp_path / name).write_bytes(text.format(*sequences).encode(encoding))
    words = ["--checkpoint", "x", "--out", "y", "--source", tmp_path / name, *options]
    given = parse(command.Options, [str(word) for word in words], "embed", "")
    spool, wanted = tmp_path / "tokens", command.wanted_columns(given)
    found = queries.read([tmp_path / name], "protein", "x", spool, given.format, wanted)
    assert found.names.to_pylist() == ["p0", "p1"] and not found.rejected
    for number, sequence in enumerate(sequences):
        words = vocabulary.vocabulary("protein")
        assert words.decode(found.sequence(number)) == sequence


def test_a_table_is_embedded_as_its_fasta(runs, tmp_path):
    sequences = tiny.proteins([9, 12])
    fasta, table = tiny.write_fasta(tmp_path / "a.fasta", sequences), tmp_path / "a.csv"
    table.write_text("id;seq;x\n" + "".join(f"p{i};{s};0,5\n" for i, s in enumerate(sequences)))
    for source in (fasta, table):
        assert run(runs["causal_lm"], source, source.with_suffix(source.suffix + ".zarr")) == 0
    (one, _, named), (other, _, rows) = (read(tmp_path / f"a.{x}.zarr") for x in ("fasta", "csv"))
    np.testing.assert_array_equal(one, other)
    assert named["id"].to_pylist() == rows["id"].to_pylist()


def test_a_damaged_table_is_read_to_where_it_ends(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "HEAD_BYTES", 4096)
    rng = np.random.default_rng(0)
    letters = rng.choice(list("ADEFGHIK"), (6000, 9)).tolist()
    rows = "".join(f"{i},{''.join(one)}\n" for i, one in enumerate(letters))
    packed = gzip.compress(b"id,seq\n" + rows.encode())
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) * 3 // 4])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"seq": "MKV"}\n')[:15])
    found = list(table_queries.records(tmp_path / "a.csv.gz", "protein"))
    assert found[-1].reason == "truncated" and "damaged" in found[-1].detail
    assert 1000 < len(found) < 6000 and not any(record.reason for record in found[:-1])
    with pytest.raises(UserError, match="no JSON object"):
        run(runs["causal_lm"], tmp_path / "a.jsonl.gz", tmp_path / "a.zarr", "--format", "jsonl")


DNA = "ATGCGATTGA" * 4


@pytest.mark.parametrize(
    "name,text,message,mend",
    [
        (
            "a.csv",
            "p0,MKVLAAG\np1,MKVWAAG\n",
            "--no_header .* --column 2",
            "--no_header --column 2",
        ),
        ("a.csv", f"id,seq\na,{DNA}\n", "Is this DNA", "--accept_nucleotides"),
        ("a.fasta", f">a\n{DNA}\n", "Is this DNA", "--accept_nucleotides"),
        ("a.csv", "id,seq\na,MK--V\n", "is an alignment", "--gaps strip"),
        ("a.a3m", ">a\nMK--V\n>b\nMKvvV\n", "is an alignment", "--gaps strip"),
        ("a.txt", "p0 MKVLAAG\np1\tMKVLWAG\n", "say so: --format named", "--format named"),
        ("a.fastq", "@r\nACGT\n+\nIIII\n", r"FASTQ", None),
        ("a.fasta", "PK\x03\x04", "is a zip archive", None),
    ],
)
def test_what_is_no_protein_is_named_with_what_mends_it(name, text, message, mend, runs, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        run(runs["causal_lm"], tmp_path / name, tmp_path / "a.zarr")
    assert not list(tmp_path.glob("a.zarr*"))
    if mend:
        assert run(runs["causal_lm"], tmp_path / name, tmp_path / "a.zarr", *mend.split()) == 0


def test_rows_of_tables_that_hold_no_sequence_are_named(runs, tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("id,seq\na,MKV\nNA,MKL\nc,NA\nd,MK,V\ne,M1\n")
    assert run(runs["causal_lm"], source, tmp_path / "a.zarr") == EXIT_FAILED
    assert read(tmp_path / "a.zarr")[2]["id"].to_pylist() == ["a", "a.csv:3"]
    rejected = pq.read_table(tmp_path / "a.zarr" / "rejected.parquet").to_pylist()
    assert [(r["offset"], r["reason"]) for r in rejected] == [
        (4, "empty"),
        (5, "unparsable"),
        (6, "illegal_letter"),
    ]
    for options, message in [
        (("--column", "sequnce"), "no column 'sequnce' .--column..*There are: id, seq"),
        (("--id", "name"), "no column 'name' .--id."),
    ]:
        with pytest.raises(UserError, match=message):
            run(runs["causal_lm"], source, tmp_path / "b.zarr", *options)
    source.write_text("id,target_seq,mutated_sequence\na,MKVLAAG,MKVLAWG\n")
    with pytest.raises(UserError, match=r"several .* target_seq, mutated_sequence.*--column targ"):
        run(runs["causal_lm"], source, tmp_path / "b.zarr")
    source.write_text("who,what\na,MKV\n")
    with pytest.raises(UserError, match=r"There are: who, what[.] Name it with --column"):
        run(runs["causal_lm"], source, tmp_path / "b.zarr")
    assert run(runs["causal_lm"], source, tmp_path / "b.zarr", "--column", "what") == 0
    odd = tmp_path / "a.dat"
    odd.write_text("MKV\n")
    with pytest.raises(UserError, match="--format"):
        run(runs["causal_lm"], odd, tmp_path / "c.zarr")
    assert run(runs["causal_lm"], odd, tmp_path / "c.zarr", "--format", "text") == 0

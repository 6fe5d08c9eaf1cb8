"""The doors that read files, each with a folder of good ones: what a fuzz test mutates."""

import gzip
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.config import keys, stored
from phenomjax.convert import __main__ as convert
from phenomjax.convert import array_files
from phenomjax.data import selections, tables
from phenomjax.data.images import bank, opening
from phenomjax.data.sequences.bank import open_token_bank, write_token_bank
from phenomjax.export import __main__ as export
from phenomjax.inference.sequences import command as embed_sequences
from phenomjax.inference.sequences import queries
from phenomjax.inference.variants import table as variants
from phenomjax.inference.variants import wild_type
from phenomjax.maps.arm_bias import arms
from phenomjax.maps.relations import relationships
from phenomjax.maps.tables import reading, writing
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.prepare.inspect import images as inspect
from phenomjax.prepare.joining import command as merge
from phenomjax.prepare.sequences import cluster_files
from phenomjax.prepare.sequences import command as sequences
from phenomjax.prepare.subsets import command as subset
from phenomjax.trained import opening as trained
from phenomjax.trained import release
from phenomjax.training.metrics import read_metrics
from tests.convert import test_densenet
from tests.export.test_export import write_run
from tests.kinds import mutations
from tests.lab import tiny_language_models
from tests.lab.doors import run_as_door

WILD_TYPE = "MKTAYIAKQRQISFVKSHFSRQ"
FASTA = "".join(f">sp|P{i:05d}|NAME{i} protein {i}\n{WILD_TYPE[i:]}\n" for i in range(9))


def change_a_file(folder: Path, pattern: str, draw: random.Random) -> None:
    """Mutates one file below a folder."""
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    path = draw.choice(files)
    data = path.read_bytes()
    if path.suffix in (".h5ad", ".hdf5"):  # of other damage the library of HDF5 itself may hang
        path.write_bytes(data[: draw.randrange(len(data))])
        return
    as_json = path.suffix == ".json" or path.name.startswith(".z")
    change = mutations.of_json if as_json and draw.random() < 0.75 else mutations.of_bytes
    path.write_bytes(change(data, draw))


@dataclass(frozen=True)
class Door:
    """Something that reads files.

    Attributes:
      name: of the door.
      make: fills an empty folder with good input.
      call: reads a folder.
      mutated: pattern of the files that are mutated.
      weight: how many inputs are tried, of a usual run's; slow doors get fewer.
      mutate: changes a folder, given the pattern and the draws.
    """

    name: str
    make: Callable[[Path], object]
    call: Callable[[Path], object]
    mutated: str = "*"
    weight: float = 1.0
    mutate: Callable[[Path, str, random.Random], None] = change_a_file


def one(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Makes a folder with one file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def the_file(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.is_file())


def query(alphabet: str) -> Callable[[Path], object]:
    def call(folder: Path) -> None:
        path = the_file(folder)
        found = queries.read([path], alphabet, "x", folder / "spool")
        assert len(found) == len(found.names) == len(found.groups)
        text = path.read_bytes()
        if path.suffix == ".fasta" and text.isascii() and b"\r" not in text and b"\0" not in text:
            heads = sum(line.startswith(b">") for line in text.split(b"\n"))
            assert len(found) + len(found.rejected) >= heads, "records are lost without a word"

    return call


def rows(content: list[tuple]) -> bytes:
    """A Parquet table."""
    names = [f"c{i}" for i in range(len(content[0]))]
    columns = [list(column) for column in zip(*content, strict=True)]
    out = io.BytesIO()
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), out)
    return out.getvalue()


def profiles(folder: Path) -> None:
    import pandas as pd

    metadata = pd.DataFrame({"plate": ["P1"] * 4, "well": ["A01", "A02", "B01", "B02"]})
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    names = ("feature_0", "feature_1", "feature_2")
    writing.write(Profiles(features, metadata, names), folder / "p.csv")


def profile_parquet(folder: Path) -> None:
    profiles(folder)
    reading_of = reading.read(folder / "p.csv")
    writing.write(reading_of, folder / "q.parquet")
    writing.write(reading_of, folder / "q.h5ad")


def vectors(folder: Path) -> None:
    run = tiny_language_models.write(folder / "run", "causal_lm", model__alphabet="protein")
    (folder / "p.fasta").write_text(FASTA)
    words = ["--checkpoint", run, "--source", folder / "p.fasta", "--out", folder / "e.zarr"]
    run_as_door(embed_sequences, words)
    shutil.rmtree(run)


def genes(folder: Path) -> None:
    line = 'chr{}\tHAVANA\tgene\t{}\t{}\t.\t+\t.\tgene_id "E{}"; gene_name "G{}";\n'
    text = "".join(line.format(i, i * 1000, i * 1000 + 500, i, i) for i in range(1, 6))
    (folder / "g.gtf.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    bands = "chr{0}\t0\t1500\tp11\tacen\nchr{0}\t1500\t9000\tq11\tacen\n"
    (folder / "c.txt").write_text("".join(bands.format(i) for i in range(1, 6)))


def book(folder: Path) -> None:
    import openpyxl

    sheets = openpyxl.Workbook()
    for row in (("plate", "well", "gene"), ("P1", "A01", "TP53"), ("P1", "B02", None)):
        sheets.active.append(row)
    sheets.save(folder / "t.xlsx")


def configuration(task: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        config = keys.base(task)
        config.data.simulate.update({"plates": 1} if task == "mae" else {"families": 1})
        stored.save(config, folder / "config.json")

    return make


def image_bank(folder: Path) -> None:
    pixels = np.zeros((2, 32, 32, 2), np.uint8)
    metadata = pa.table({"plate": ["P1"] * 2, "well": ["A01", "A02"]})
    bank.write_bank(folder / "b.zarr", pixels, metadata, ("DNA", "ER"), chunk=16)


def read_image_bank(folder: Path) -> None:
    opened = opening.open_bank(folder / "b.zarr")
    assert len(opened.metadata) == len(opened)
    assert str(folder) in inspect.describe(opened)


def selection(folder: Path) -> None:
    image_bank(folder)
    words = ["--bank", folder / "b.zarr", "--where", "row == 1", "--out", folder / "s.parquet"]
    run_as_door(subset, words)


def read_selection(folder: Path) -> None:
    bank = opening.open_bank(folder / "b.zarr")
    (found,) = selections.choose(folder / "s.parquet", [bank])
    assert all(0 <= row < len(bank) for row in found.rows)
    words = ["--bank", folder / "b.zarr", "--selection", folder / "s.parquet"]
    run_as_door(subset, [*words, "--out", folder / "t.parquet"])


def merged_banks(folder: Path) -> None:
    for name, well in (("a", "A01"), ("b", "B02")):
        pixels = np.zeros((1, 16, 16, 1), np.uint8)
        table = pa.table({"plate": ["P1"], "well": [well]})
        bank.write_bank(folder / f"{name}.zarr", pixels, table, ("DNA",), chunk=8)


def merge_banks(folder: Path) -> None:
    words = ["--banks", folder / "a.zarr", folder / "b.zarr", "--out", folder / "m.zarr"]
    assert run_as_door(merge, [*words, "--jobs", "1"]) == 0
    assert len(opening.open_bank(folder / "m.zarr")) == 2


def token_bank(folder: Path) -> None:
    write_token_bank(folder / "t.zarr", {"train": [("a", WILD_TYPE), ("b", "MKV")]})


def read_token_bank(folder: Path) -> None:
    opened = open_token_bank(folder / "t.zarr")
    assert opened.num_tokens("train") >= 0 and opened.metadata.num_rows >= 0
    run_as_door(inspect, [folder / "t.zarr"])


def weights(folder: Path) -> None:
    run = tiny_language_models.write(
        folder / "run", "causal_lm", model__norm="pre", model__alphabet="protein"
    )
    run_as_door(convert, ["transformer_xl", run, folder / "model.safetensors"])
    shutil.rmtree(run)


def bare_weights(folder: Path) -> None:
    """With a configuration of theirs alone."""
    weights(folder)
    arrays = array_files.read_arrays(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    array_files.write_arrays(folder / "w.npz", arrays)


def elmo(folder: Path) -> None:
    run = tiny_language_models.write(
        folder / "run", "bidirectional_lm", model__alphabet="protein", model__boundary="eos"
    )
    run_as_door(convert, ["elmo", run, folder / "w.hdf5"])
    shutil.rmtree(run)


def classes(folder: Path) -> None:
    run = test_densenet.write_run(folder / "run")
    run_as_door(convert, ["densenet", run, folder / "w.safetensors"])
    words = ["--checkpoint", run, "--format", "release", "--out", folder / "release"]
    run_as_door(export, [*words, "--licence", "MIT"])
    shutil.rmtree(run)


def convert_all(name: str) -> Callable[[Path], object]:
    def call(folder: Path) -> None:
        files = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".npz", ".hdf5")]
        run_as_door(convert, [name, files[0], folder / "out"])

    return call


def published(folder: Path) -> None:
    run = write_run(folder / "run")
    words = ["--checkpoint", run, "--format", "release", "--out", folder / "release"]
    run_as_door(export, [*words, "--licence", "MIT"])
    shutil.rmtree(run)


def prepare(folder: Path) -> None:
    words = ["--source", the_file(folder), "--out", folder / "o.zarr", "--jobs", "1"]
    code = run_as_door(sequences, words)
    rejected = folder / "o.zarr" / "rejected.parquet"
    assert (code or 0) == 0 or rejected.exists() or list((folder / "o.zarr").glob("rej*")), code


def of_clusters(folder: Path) -> None:
    for batch in cluster_files.read_clusters(the_file(folder)):
        assert batch.num_columns == 2


def of_variants(folder: Path) -> None:
    found = variants.read(the_file(folder), WILD_TYPE, "", "", 0, skip_invalid=True)
    assert len(found.rows) == len(found.mutations)


def of_wild_type(folder: Path) -> None:
    assert wild_type.read(the_file(folder), "x")


def of_configuration(folder: Path) -> None:
    assert keys.finalize(stored.load(folder / "config.json")).num_steps >= 1


def of_tables(folder: Path) -> None:
    found = tables.read_table(the_file(folder))
    assert all(len(row) == len(found.columns) for row in found.rows)


VARIANTS = "mutant,fitness\nK2R,0.5\nT3A:Y5F,-1\nWT,0\np.Ala4Gly,1\n" + "".join(
    f"{letter}{i + 1}C,{i}\n" for i, letter in enumerate(WILD_TYPE)
)
TABLE = "plate;well;gene;dose\nP1;A01;TP53;1,5\nP1;a2;NA;0,5\nP2;B03;Übung;2\n"
CSV = "id,sequence,note\n" + "".join(f"p{i},{WILD_TYPE[i:]},a\n" for i in range(6))
JSONL = "".join(json.dumps({"id": f"p{i}", "sequence": WILD_TYPE[i:]}) + "\n" for i in range(6))
CLUSTERS = "".join(f"P{i // 3:05d}\tP{i:05d}\n" for i in range(9))

PAIRS = "entity1,entity2\nTP53,MDM2\nA,B\nB,C\n"
GENES = "gene,arm,position,zfpkm\nTP53,17p,0.5,1.5\nMDM2,12q,0.1,-3\n"
METRICS = "".join(json.dumps({"step": i, "train/loss": 1 / (i + 1)}) + "\n" for i in range(5))
DOORS = [
    Door("fasta", one("p.fasta", FASTA), query("protein"), weight=3),
    Door("fasta.gz", one("p.fasta.gz", gzip.compress(FASTA.encode(), mtime=0)), query("protein")),
    Door("text", one("p.txt", "\n".join(WILD_TYPE[i:] for i in range(9))), query("protein")),
    Door("smiles", one("m.smi", "CCO ethanol\nC1=CC=CC=C1\tbenzene\n"), query("smiles")),
    Door("csv", one("p.csv", CSV), query("protein"), weight=2),
    Door("jsonl", one("p.jsonl", JSONL), query("protein")),
    Door("prepare", one("p.fasta", FASTA), prepare, weight=0.3),
    Door("clusters", one("c.tsv", CLUSTERS), of_clusters),
    Door(
        "clstr",
        one("c.clstr", ">Cluster 0\n0\t120aa, >a... *\n1\t99aa, >b... at 90%\n"),
        of_clusters,
    ),
    Door("variants", one("v.csv", VARIANTS), of_variants, weight=2),
    Door("wild_type", one("w.fasta", FASTA[:60]), of_wild_type),
    Door("table", one("t.csv", TABLE), of_tables, weight=3),
    Door("table.gz", one("t.csv.gz", gzip.compress(TABLE.encode(), mtime=0)), of_tables),
    Door("parquet", one("t.parquet", rows([("P1", 1, 2.0), ("P2", 2, None)])), of_tables),
    Door("profiles", profiles, lambda f: reading.read(f / "p.csv"), "p.csv"),
    Door("parquet profiles", profile_parquet, lambda f: reading.read(f / "q.parquet"), "q.parquet"),
    Door("h5ad", profile_parquet, lambda f: reading.read(f / "q.h5ad"), "q.h5ad", 0.3),
    Door("vectors", vectors, lambda f: reading.read(f / "e.zarr"), "e.zarr/**/*", 0.8),
    Door("xlsx", book, of_tables, "*", 0.5),
    Door("pairs", one("r.csv", PAIRS), lambda f: relationships.read_relationships(f / "r.csv")),
    Door("genes", genes, lambda f: arms.read_arms(f / "g.gtf.gz", f / "c.txt"), weight=1.5),
    Door("gene table", one("g.csv", GENES), lambda f: arms.read_arms(f / "g.csv")),
    Door("metrics", one("m.jsonl", METRICS), lambda f: read_metrics(f / "m.jsonl")),
    *(
        Door(f"configuration {task}", configuration(task), of_configuration, "*", 0.5)
        for task in ("mae", "causal_lm", "permutation_lm", "bidirectional_lm")
    ),
    Door("image_bank", image_bank, read_image_bank, "b.zarr/**/*", 1.5),
    Door("selection", selection, read_selection, "s.parquet", 2),
    Door("merge", merged_banks, merge_banks, "b.zarr/**/*"),
    Door("token_bank", token_bank, read_token_bank, "t.zarr/**/*"),
    Door("weights", weights, convert_all("transformer_xl"), "*", 0.4),
    Door("bare_weights", bare_weights, convert_all("transformer_xl"), "*", 0.4),
    Door("elmo", elmo, convert_all("elmo"), "*", 0.3),
    Door("densenet", classes, convert_all("densenet"), "w*", 0.3),
    Door("classes", classes, lambda f: release.read(f / "release"), "release/[cm]*", 0.4),
    Door("release", published, lambda f: release.read(f / "release"), "release/[cm]*", 0.8),
    Door("release_sums", published, lambda f: release.load(f / "release"), "release/*", 0.4),
    Door(
        "checkpoint",
        lambda f: tiny_language_models.write(f / "run", "causal_lm"),
        lambda f: trained.load(f / "run"),
        "run/**/*",
    ),
]

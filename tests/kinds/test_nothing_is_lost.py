"""Of every command that makes data: what goes in comes out, or is listed in a file, and then the
exit code or the screen says so.
"""

import gzip
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from phenomjax import score
from phenomjax.data.images.bank import shard_path, write_bank
from phenomjax.data.images.opening import open_bank
from phenomjax.data.sequences.bank import open_token_bank
from phenomjax.inference.images import command as embed_images
from phenomjax.inference.sequences import command as embed_sequences
from phenomjax.maps.build import aggregate, align
from phenomjax.prepare import append as prepare_append
from phenomjax.prepare.images import command as prepare_images
from phenomjax.prepare.joining import command as prepare_merge
from phenomjax.prepare.sequences import command as prepare_sequences
from phenomjax.prepare.subsets import command as prepare_subset
from tests.export.test_export import write_run
from tests.lab import tiny_language_models
from tests.lab.doors import run_as_door

PROTEINS = {"a": "MKTAYIAKQR", "b": "MKVLLT", "c": "QISFVKSHFS", "d": "RQLEERLG"}
BAD = {"wrong": "MK1TAY", "none": ""}  # records
EQUAL = {"again": PROTEINS["a"]}
WILD_TYPE = PROTEINS["a"]


@dataclass(frozen=True)
class Result:
    """What became of what went in.

    Attributes:
      code: exit code.
      out: items that came out.
      listed: items that a file lists as left out.
    """

    code: int | None
    out: int
    listed: int


@dataclass(frozen=True)
class Case:
    """A command.

    Attributes:
      name: of the case.
      good: what goes in and comes out.
      bad: what goes in and cannot; each is one item.
      run: the command, on a folder and the items.
      done: the exit code that it has where items were left out; 0 needs words on the screen.
    """

    name: str
    good: dict
    bad: dict
    run: Callable[[Path, dict], Result]
    done: int = 1
    said: str = ""


def rows(path: Path) -> int:
    """Rows of a table; 0 where there is none."""
    return pq.read_metadata(path).num_rows if path.is_file() else 0


def fasta(items: dict) -> str:
    return "".join(f">{name}\n{text}\n" for name, text in items.items())


def csv(items: dict) -> str:
    return "id,sequence\n" + "".join(f"{name},{text}\n" for name, text in items.items())


def jsonl(items: dict) -> str:
    lines = [json.dumps({"id": name, "sequence": text}) for name, text in items.items()]
    return "\n".join(lines) + "\n"


def tokens(write: Callable[[dict], str], ending: str, *words: str) -> Callable[..., Result]:
    def run(folder: Path, items: dict) -> Result:
        data = write(items).encode()
        source = folder / f"p.{ending}"
        source.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
        out = folder / "o.zarr"
        code = run_as_door(
            prepare_sequences, ["--source", source, "--out", out, "--jobs", "1", *words]
        )
        bank = open_token_bank(out)
        names = set(bank.metadata["id"].to_pylist())
        assert names <= items.keys() and bank.metadata.num_rows == len(bank)
        return Result(
            code, len(bank), rows(out / "rejected.parquet") + rows(out / "left_out.parquet")
        )

    return run


def vectors(write: Callable[[dict], str], ending: str, of: str) -> Callable[..., Result]:
    def run(folder: Path, items: dict) -> Result:
        (folder / f"p.{ending}").write_text(write(items))
        model = tiny_language_models.write(folder / "run", "causal_lm", model__alphabet="protein")
        words = ["--checkpoint", model, "--source", folder / f"p.{ending}"]
        out = folder / f"e.{of}"
        code = run_as_door(embed_sequences, [*words, "--out", out])
        listed = rows(out / "rejected.parquet")
        if of == "zarr":
            names = pq.read_table(out / "metadata.parquet")["id"].to_pylist()
        else:
            names = pd.read_csv(folder / "e.h5.keys.csv")["id"].tolist()
            rejected = folder / "e.h5.rejected.csv"
            listed = len(pd.read_csv(rejected)) if rejected.is_file() else 0
        assert set(names) <= items.keys()
        return Result(code, len(names), listed)

    return run


def scores(folder: Path, items: dict) -> Result:
    (folder / "w.fasta").write_text(f">w\n{WILD_TYPE}\n")
    lines = [f"{variant},{name}" for name, variant in items.items()]
    (folder / "v.csv").write_text("\n".join(["mutant,name", *lines]) + "\n")
    model = tiny_language_models.write(folder / "run", "causal_lm", model__alphabet="protein")
    words = ["--checkpoint", model, "--wild_type", folder / "w.fasta"]
    words += ["--mutants", folder / "v.csv", "--skip_invalid"]
    code = run_as_door(score, [*words, "--out", folder / "s.csv"])
    table = pd.read_csv(folder / "s.csv")
    assert table["name"].tolist() == list(items)  # no row is lost or moved
    invalid = folder / "s.invalid.csv"
    listed = len(pd.read_csv(invalid)) if invalid.is_file() else 0
    return Result(code, int(table["score"].notna().sum()), listed)


def images(folder: Path, items: dict) -> Result:
    source = folder / "raw" / "HEPG2-01" / "Plate1"
    source.mkdir(parents=True)
    for well, spoil in items.items():
        for channel in range(1, 7):
            seed = [ord(letter) for letter in well] + [channel]
            plane = np.random.default_rng(seed).integers(0, 255, (16, 16), np.uint8)
            data = imagecodecs.png_encode(plane)
            if spoil != "absent" or channel != 2:
                name = source / f"{well}_s1_w{channel}.png"
                name.write_bytes(data[:-30] if spoil == "cut" and channel == 2 else data)
    words = ["--source", folder / "raw", "--out", folder / "b.zarr", "--layout", "rxrx1"]
    code = run_as_door(prepare_images, [*words, "--jobs", "1"])
    bank = open_bank(folder / "b.zarr")
    wells = bank.metadata["well"].to_pylist()
    assert set(wells) <= items.keys() and len(wells) == len(bank)
    listed = pq.read_table(folder / "b.zarr" / "rejected.parquet") if code else None
    return Result(code, len(bank), len(set(listed["well"].to_pylist())) if listed else 0)


def chosen(folder: Path, items: dict) -> Result:
    """A list of wells, of which the bank has those that are not spoilt."""
    wells = [well for well, spoil in items.items() if not spoil]
    pixels = np.zeros((len(wells), 8, 8, 1), np.uint8)
    write_bank(folder / "b.zarr", pixels, pa.table({"well": wells}), ("DNA",), chunk=8)
    pd.DataFrame({"well": list(items)}).to_csv(folder / "l.csv", index=False)
    words = ["--bank", folder / "b.zarr", "--selection", folder / "l.csv"]
    code = run_as_door(prepare_subset, [*words, "--out", folder / "s.parquet"])
    found = pq.read_table(folder / "s.parquet")["well"].to_pylist()
    missed = folder / "s.missed.csv"
    assert set(found) <= items.keys()
    return Result(code, len(found), len(pd.read_csv(missed)) if missed.is_file() else 0)


def joined(folder: Path, items: dict) -> Result:
    """A bank of one image to which the others are appended, merged with one of another."""
    first = next(iter(items))
    result = images(folder, {first: ""})
    assert (result.code or 0, result.out) == (0, 1)
    rest = {well: spoil for well, spoil in items.items() if well != first}
    (folder / "more").mkdir()
    images(folder / "more", rest)  # for its raw files
    words = ["--bank", folder / "b.zarr", "--source", folder / "more" / "raw", "--layout", "rxrx1"]
    code = run_as_door(prepare_append, [*words, "--jobs", "1"])
    other = open_bank(folder / "b.zarr")
    pixels = np.zeros((1, *other.shape[1:]), other.dtype)
    write_bank(folder / "o.zarr", pixels, pa.table({"well": ["Z09"]}), other.channels, chunk=128)
    words = ["--banks", folder / "b.zarr", folder / "o.zarr", "--out", folder / "m.zarr"]
    assert run_as_door(prepare_merge, [*words, "--jobs", "1"]) == 0
    wells = open_bank(folder / "m.zarr").metadata["well"].to_pylist()
    assert wells[-1] == "Z09" and set(wells[:-1]) <= items.keys()
    listed = folder / "b.zarr" / "rejected.parquet"
    bad = set(pq.read_table(listed)["well"].to_pylist()) if listed.is_file() else ()
    return Result(code, len(wells) - 1, len(bad))


def image_vectors(folder: Path, items: dict) -> Result:
    pixels = np.random.default_rng(0).integers(0, 255, (len(items), 32, 32, 3), np.uint8)
    table = pa.table({"plate": ["P1"] * len(items), "well": list(items)})
    write_bank(folder / "b.zarr", pixels, table, ("DNA", "ER", "Actin"), chunk=32)
    for number, spoil in enumerate(items.values()):
        if spoil:
            path = shard_path(folder / "b.zarr", number)
            path.write_bytes(path.read_bytes()[:-20])
    words = ["--checkpoint", write_run(folder / "run"), "--bank", folder / "b.zarr"]
    out = folder / "e.zarr"
    code = run_as_door(embed_images, [*words, "--out", out, "--level", "site"])
    wells = pq.read_table(out / "metadata.parquet")["well"].to_pylist()
    assert set(wells) <= items.keys()
    (array,) = (one for one in zarr.open_group(out, mode="r").arrays())
    assert array[1].shape[0] == len(wells)
    return Result(code, len(wells), rows(out / "rejected.parquet"))


def profiles(folder: Path, items: dict) -> Path:
    features = np.random.default_rng(0).normal(size=(len(items), 3))
    table = pd.DataFrame(features, columns=[f"feature_{i}" for i in range(3)])
    table.insert(0, "well", [well if well.isalnum() else None for well in items])
    table.insert(0, "plate", "P1")
    table.insert(0, "perturbation", list(items.values()))
    table.insert(0, "is_control", [value == "DMSO" for value in items.values()])
    table.to_parquet(folder / "p.parquet")
    return folder / "p.parquet"


def wells(folder: Path, items: dict) -> Result:
    words = ["--profiles", profiles(folder, items), "--to", "well", "--batch", "plate"]
    code = run_as_door(aggregate, [*words, "--out", folder / "w.parquet"])
    table = pd.read_parquet(folder / "w.parquet")
    counts = table["num_profiles"] if "num_profiles" in table else pd.Series(1, table.index)
    nameless = int(counts[table["well"].isna()].sum())
    return Result(code, int(counts.sum()) - nameless, nameless)


def aligned(folder: Path, items: dict) -> Result:
    words = ["--profiles", profiles(folder, items), "--align", "standardize", "--batch", "plate"]
    code = run_as_door(align, [*words, "--out", folder / "a.parquet"])
    table = pd.read_parquet(folder / "a.parquet")
    assert table["perturbation"].tolist() == list(items.values())
    return Result(code, len(table), 0)


VARIANTS = {"x": "K2R", "y": "T3A:Y5F", "z": "WT", "u": "A4G", "v": "I6L", "w": "A7V"}
WELLS = {"A01": "", "A02": "", "B07": ""}
PROFILES = {"A01": "DMSO", "A02": "X", "A03": "Y", "A04": "DMSO"}
CSV_WORDS = ("--alphabet", "protein", "--column", "sequence", "--id", "id")
CASES = [
    Case("fasta", PROTEINS, BAD, tokens(fasta, "fasta")),
    Case("fasta.gz", PROTEINS, BAD, tokens(fasta, "fasta.gz")),
    Case("csv", PROTEINS, BAD, tokens(csv, "csv", *CSV_WORDS)),
    Case("equal", PROTEINS, EQUAL, tokens(fasta, "fasta"), done=0, said="duplicates"),
    Case("embed fasta", PROTEINS, BAD, vectors(fasta, "fasta", "zarr")),
    Case("embed csv", PROTEINS, BAD, vectors(csv, "csv", "zarr")),
    Case("embed jsonl", PROTEINS, {"wrong": "MK1"}, vectors(jsonl, "jsonl", "h5")),
    Case("score", VARIANTS, {"p": "W2A", "q": "foo"}, scores),
    Case("images", WELLS, {"C03": "cut", "D04": "absent"}, images),
    Case("subset", WELLS, {"C03": "gone", "D04": "gone"}, chosen),
    Case("append, merge", WELLS, {"C03": "cut", "D04": "absent"}, joined),
    Case("embed images", WELLS, {"C03": "cut"}, image_vectors),
    Case("wells", PROFILES, {"?": "X"}, wells, done=0, said="have no value in 'well'"),
    Case("align", PROFILES, {}, aligned),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_goes_in_comes_out_or_is_listed(case, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "good").mkdir()
    result = case.run(tmp_path / "good", case.good)
    assert (result.code or 0, result.out, result.listed) == (0, len(case.good), 0)
    if not case.bad:
        return
    caplog.clear()
    (tmp_path / "mixed").mkdir()
    result = case.run(tmp_path / "mixed", {**case.good, **case.bad})
    assert (result.code or 0) == case.done
    assert result.out == len(case.good) and result.listed == len(case.bad)
    assert case.said in caplog.text and (case.done or case.said)

"""`prepare subset`: conditions, lists, shares, and what a run reads of them."""

import logging
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenomjax.config import keys
from phenomjax.data.images import archive
from phenomjax.data.images.bank import write_bank
from phenomjax.data.images.loading.loader import ImageLoader
from phenomjax.data.images.opening import open_bank
from phenomjax.data.selections import Judged, Selection, choose, write
from phenomjax.data.sequences.bank import open_token_bank, write_token_bank
from phenomjax.data.sequences.corpus import Corpus, EpochStream
from phenomjax.data.sequences.lanes import LaneLoader
from phenomjax.prepare import index
from phenomjax.prepare.inspect import images as inspect
from phenomjax.prepare.subsets import command
from phenomjax.prepare.subsets.choosing import Wanted, names_of
from phenomjax.prepare.subsets.choosing import choose as choose_rows
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door

IMAGES = 48  # 4 plates of 12 wells
GENES = ["TP53", "MDM2", None]


def table(count=IMAGES, plates=4):
    return pa.table(
        {
            "experiment": ["E"] * count,
            "plate": [f"P{i * plates // count:02d}" for i in range(count)],
            "well": [f"{'ABC'[i % 3]}{i // 3 % 4 + 1:02d}" for i in range(count)],
            "site": ["1"] * count,
            "gene": [GENES[i % 3] for i in range(count)],
            "concentration": [None if i % 5 == 0 else float(i % 4) for i in range(count)],
            "is_control": [i % 3 == 2 for i in range(count)],
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image bank b.zarr and a token bank t.zarr."""
    path = tmp_path_factory.mktemp("banks")
    pixels = np.random.default_rng(0).integers(0, 255, (IMAGES, 16, 16, 2), np.uint8)
    write_bank(path / "b.zarr", pixels, table(), ("DNA", "ER"), chunk=8)
    letters = np.random.default_rng(1).choice(list("ACDEFGHIKLMNPQRSTVWY"), (60, 30))
    records = [(f"p{i}", "".join(row[: 5 + i % 20])) for i, row in enumerate(letters)]
    write_token_bank(path / "t.zarr", {"train": records[:50], "validation": records[50:]})
    return path


def subset(bank, out, *words):
    """Runs the command; returns the rows that it chose of the first bank."""
    assert run_as_door(command, ["--bank", bank, "--out", out, *words]) == 0
    return Selection(out).rows()[0].tolist()


PLATES = np.array(table()["plate"].to_pylist())
WELLS = np.array(table()["well"].to_pylist())
DOSES = np.array([np.nan if v is None else v for v in table()["concentration"].to_pylist()])
NUMBERS = np.arange(IMAGES)
CONDITIONS = {
    'plate == "P01"': PLATES == "P01",
    "plate in ['P00', 'P03'] and row >= 3": np.isin(PLATES, ["P00", "P03"]) & (NUMBERS >= 3),
    'gene != "TP53"': NUMBERS % 3 != 0,  # a missing gene is none too
    'not gene == "TP53"': NUMBERS % 3 != 0,
    "gene is null or concentration > 2": (NUMBERS % 3 == 2) | (DOSES > 2),
    "gene is not None": NUMBERS % 3 != 2,
    "gene in [null, 'MDM2']": NUMBERS % 3 != 0,
    "not concentration > 1": ~(DOSES > 1),
    "1 < concentration <= 3": (DOSES > 1) & (DOSES <= 3),
    "concentration == 2": DOSES == 2,
    "concentration in [1, 2.0]": np.isin(DOSES, [1, 2]),
    "concentration > -1": DOSES > -1,
    "2 >= concentration": DOSES <= 2,
    "is_control": NUMBERS % 3 == 2,
    "is_control == false": NUMBERS % 3 != 2,
    '"01" in well': np.char.find(WELLS, "01") >= 0,
    'well.startswith("A") and not well.endswith("1")': np.array(
        [w[0] == "A" and w[-1] != "1" for w in WELLS]
    ),
    'well.matches("^[AB]\\d*2$")': np.isin(WELLS, ["A02", "B02"]),
    "(plate == 'P00') & ~(is_control) | (row == 47)": ((PLATES == "P00") & (NUMBERS % 3 != 2))
    | (NUMBERS == 47),
    "experiment != plate and gene == gene": np.ones(IMAGES, bool),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions(folder, condition):
    choice = choose_rows("images", [open_bank(folder / "b.zarr")], Wanted(where=condition))
    assert choice.rows[0].tolist() == np.flatnonzero(CONDITIONS[condition]).tolist()


WRONG = {
    'plat == "P01"': "Did you mean 'plate'",
    "plate == 1": "write '1' in quotes",
    "concentration < '3'": "a number without quotes",
    "concentration == True": "holds numbers",
    "is_control == 1": "write is_control or not is_control",
    "plate == P01": "stands in quotes, 'P01'",
    "plate": "compare it",
    'plate = "P01"': "equal is written ==",
    'plate == "P01" AND is_control': "in small letters",
    'plate == "P1"': "Did you mean 'P01'",
    "concentration > 99": "holds for none of them",
    "1 == 1": "with no column",
    "plate == 'P00' & row == 3": "stands in brackets",
    "plate == None < 3": "compares None",
    "plate < null": "plate is null",
    "plate in 'P01'": 'write plate in ["A", "B"]',
    "concentration == plate": "compares concentration, a number, with plate, a text",
    "row == 99999999999999999999": "too large",
    "plate.matches('(')": "regular expression",
    "plate.lower('x')": "there are startswith",
    "concentration.contains('x')": "asked of texts",
    "__import__('os').system('touch bad')": "where a comparison is wanted",
    "[x for x in (1,)]": "where a comparison is wanted",
    "plate == open('x')": "where a text or a number is wanted",
    "(lambda: plate)()": "where a comparison is wanted",
    "(" * 400: "cannot be read",
    "not " * 5000 + "is_control": "cannot be read",
    "plate == '\0'": "cannot be read",
    "": "Nothing says what to choose",
}


@pytest.mark.parametrize("condition", WRONG, ids=range(len(WRONG)))
def test_conditions_that_are_wrong(folder, tmp_path, monkeypatch, condition):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        words = ["--where", condition] if condition else []
        subset(folder / "b.zarr", tmp_path / "s.parquet", *words)
    assert WRONG[condition] in str(error.value) and len(str(error.value)) < 900
    assert not os.listdir(tmp_path)


def test_a_value_that_is_not_there_is_told(folder, tmp_path, caplog):
    subset(folder / "b.zarr", tmp_path / "s.parquet", "--where", 'gene in ["TP53", "MDM3"]')
    assert "No gene is 'MDM3'. Did you mean 'MDM2'?" in caplog.text


def test_what_is_chosen_is_counted(folder, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    words = ["--where", 'plate == "P01"', "--overwrite"]
    subset(folder / "b.zarr", tmp_path / "s.parquet", *words)
    assert "chose 12 of 48 images, 1 of 4 plates" in caplog.text
    found = pq.read_table(tmp_path / "s.parquet")
    assert found["plate"].unique().to_pylist() == ["P01"]
    assert found["well"].to_pylist() == WELLS[12:24].tolist()
    assert run_as_door(inspect, [tmp_path / "s.parquet"]) == 0
    assert "12 of 48" in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite"):
        subset(folder / "b.zarr", tmp_path / "s.parquet", *words[:2])


@pytest.mark.parametrize(
    ("kind", "bank", "by"),
    [("images", "b", "plate"), ("images", "b", "well"), ("sequences", "t", "")],
)
def test_shares_lie_within_one_another(folder, kind, bank, by):
    opened = (open_bank if kind == "images" else open_token_bank)(folder / f"{bank}.zarr")
    for seed in (0, 1):
        before = set()
        for share in (0.001, 0.1, 0.5, 0.9, 1):
            wanted = Wanted(fraction=share, by=by, seed=seed)
            rows = set(choose_rows(kind, [opened], wanted).rows[0].tolist())
            assert rows >= before and rows
            before = rows
            if by == "plate":
                assert len(rows) % 12 == 0  # whole plates
        assert len(before) == len(opened)
    sizes = {
        len(choose_rows(kind, [opened], Wanted(fraction=0.5, by=by, seed=s)).rows[0])
        for s in range(9)
    }
    assert len(sizes) > 1 or by == "plate"


def test_a_share_is_no_share_of_what_is_held_out(tmp_path):
    """Both are chosen by a hash of the plate's name, which must not be the same one."""
    count = 300
    names = pa.table({"plate": [f"P{i}" for i in range(count)]})
    write_bank(tmp_path / "b.zarr", np.zeros((count, 8, 8, 1), np.uint8), names, ("DNA",), chunk=8)
    bank = open_bank(tmp_path / "b.zarr")
    (rows,) = choose_rows("images", [bank], Wanted(fraction=0.2)).rows
    assert 30 < len(rows) < 90
    wanted = Wanted(fraction=0.2)
    subset(tmp_path / "b.zarr", tmp_path / "s.parquet", "--fraction", wanted.fraction)
    val = loader([bank], tmp_path / "s.parquet", split="val")
    assert 1 <= val.num_images < len(rows) / 2


def loader(banks, selection, **changes):
    options = {"channels": banks[0].channels, "crop_size": 8, "threads": 1, "val_fraction": 0.3}
    return ImageLoader(
        banks, global_batch_size=4, chosen=choose(selection, banks), **options | changes
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_run_reads_what_is_chosen(folder, tmp_path, split):
    """The batches are those of a bank that has nothing else in it."""
    bank = open_bank(folder / "b.zarr")
    rows = subset(folder / "b.zarr", tmp_path / "s.parquet", "--where", 'gene == "TP53"')
    images = [bank.read(row) for row in rows]
    write_bank(tmp_path / "c.zarr", images, bank.metadata.take(rows), bank.channels, chunk=8)
    alone = open_bank(tmp_path / "c.zarr")
    one = loader([bank], tmp_path / "s.parquet", split=split)
    other = loader([alone], "", split=split)
    assert one.num_images == other.num_images > 0
    for step in range(9):
        left, right = one.batch(step), other.batch(step)
        assert np.array_equal(left["pixels"], right["pixels"])
        assert [rows.index(image) for image in left["image"]] == right["image"].tolist()
    assert one.fingerprints != loader([bank], "", split=split).fingerprints


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_run_reads_the_sequences_that_are_chosen(folder, tmp_path, split):
    bank = open_token_bank(folder / "t.zarr")
    words = ["--where", 'length < 14 and row != 3 or id == "p59"']
    rows = subset(folder / "t.zarr", tmp_path / "s.parquet", *words)
    kept = {
        name: [
            (bank.names([row])[0], bank.vocabulary.decode(bank.sequence(row)[:-1]))
            for row in rows
            if bank.splits[name][0] <= row < bank.splits[name][1]
        ]
        for name in ("train", "validation")
    }
    alone = write_token_bank(tmp_path / "c.zarr", kept)
    chosen = choose(tmp_path / "s.parquet", [bank])
    one, other = Corpus([bank], split, chosen), Corpus([alone], split)
    assert one.num_tokens == other.num_tokens and one.num_sequences == len(kept[split])
    for seed in (None, 5):
        left, right = EpochStream(one, seed, 0), EpochStream(other, seed, 0)
        assert left.read(0, len(left)).tolist() == right.read(0, len(right)).tolist()
    places = range(0, len(left), 7)
    assert one.names([left.sequence_at(p) for p in places]) == other.names(
        [right.sequence_at(p) for p in places]
    )
    options = {"split": split, "segment_len": 8, "seed": 0, "global_batch_size": 2}
    for step in range(3):
        left = LaneLoader([bank], chosen=chosen, **options).batch(step)
        assert (
            left["tokens"].tolist() == LaneLoader([alone], **options).batch(step)["tokens"].tolist()
        )


def test_objectives_read_the_selection(folder, tmp_path):
    """Both families of tasks, val included."""
    from phenomjax.tasks.causal_lm import CausalLM
    from phenomjax.tasks.mae import MaskedAutoencoder

    rows = subset(folder / "b.zarr", tmp_path / "i.parquet", "--where", "row < 36")
    config = keys.base("mae")
    config.data.update(banks=(str(folder / "b.zarr"),), selection=str(tmp_path / "i.parquet"))
    config.data.crop_size, config.global_batch_size, config.model.channels = 16, 2, ("DNA", "ER")
    config.model.patch_size = 8
    task = MaskedAutoencoder(config)
    sizes = [task.loader(split, 0, 1).num_images for split in ("train", "val")]
    assert sum(sizes) == len(rows) and sizes[1] % 12 == 0
    subset(folder / "b.zarr", tmp_path / "i.parquet", "--where", "plate == 'P01'", "--overwrite")
    assert task.loader("val", 0, 1) is None
    subset(folder / "t.zarr", tmp_path / "t.parquet", "--where", "split == 'train'")
    config = keys.base("causal_lm")
    config.data.update(banks=(str(folder / "t.zarr"),), selection=str(tmp_path / "t.parquet"))
    config.data.segment_len, config.global_batch_size = 8, 2
    task = CausalLM(config)
    assert task.loader("train", 0, 1).corpus.num_sequences == 50
    assert task.loader("val", 0, 1) is None


def test_several_banks(folder, tmp_path, caplog):
    shutil.copytree(folder / "b.zarr", tmp_path / "c.zarr")
    banks = [folder / "b.zarr", tmp_path / "c.zarr"]
    rows = pd.DataFrame({"bank": [0, 1, 1], "row": [3, 4, 4]})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    words = [
        "--bank",
        *banks,
        "--selection",
        tmp_path / "rows.csv",
        "--out",
        tmp_path / "s.parquet",
    ]
    assert run_as_door(command, words) == 0
    opened = [open_bank(path) for path in banks]
    for order in (opened, opened[::-1]):  # told apart by their names, having the same metadata
        found = {
            b.path.name: c.rows.tolist()
            for b, c in zip(order, choose(words[-1], order), strict=True)
        }
        assert found == {"b.zarr": [3], "c.zarr": [4]}
    assert choose(words[-1], opened[:1])[0].rows.tolist() == [3]
    assert "chooses 1 images of" in caplog.text


def test_banks_of_an_index(folder, tmp_path):
    archive.write_index([open_bank(folder / "b.zarr")], tmp_path / "i.parquet")
    rows = subset(tmp_path / "i.parquet", tmp_path / "s.parquet", "--where", 'plate == "P02"')
    banks = archive.read_index(tmp_path / "i.parquet")
    assert rows == choose(tmp_path / "s.parquet", banks)[0].rows.tolist() == list(range(24, 36))
    assert loader(banks, tmp_path / "s.parquet", split_by="well").num_images > 0


LISTS = {
    "row\n5\n2\n5\n": [2, 5],
    "plate,well\nP01,a1\nP01,C2\n": [12, 17],  # spelt as people do
    "well\nA01\n": [0, 12, 24, 36],
    "plate,well,site,gene\nP02,B4,01,X\n": [34],
}


@pytest.mark.parametrize("text", LISTS)
def test_lists(folder, tmp_path, text):
    (tmp_path / "l.csv").write_text(text)
    assert (
        subset(folder / "b.zarr", tmp_path / "s.parquet", "--selection", tmp_path / "l.csv")
        == LISTS[text]
    )


BAD_LISTS = {
    "row\n48\n": "line 2: '48' is no row of",
    "row\n-1\n": "is no row of",
    "bank,row\n1,1\n": "there is no bank '1'",
    "compound\nX\n": "no column that says which images",
    "plate,well\n": "no row",
    "plate\nP9\n": "None of the 1 entries",
}


@pytest.mark.parametrize("text", BAD_LISTS)
def test_lists_that_are_wrong(folder, tmp_path, text):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UserError, match=BAD_LISTS[text]):
        subset(folder / "b.zarr", tmp_path / "s.parquet", "--selection", tmp_path / "l.csv")


def test_entries_that_are_nowhere_are_listed(folder, tmp_path):
    (tmp_path / "l.csv").write_text("plate,well\nP01,A1\nP07,A1\nP01,H12\n")
    words = ["--bank", folder / "b.zarr", "--selection", tmp_path / "l.csv"]
    assert run_as_door(command, [*words, "--out", tmp_path / "s.parquet"]) == 1
    listed = pd.read_csv(tmp_path / "s.missed.csv")
    assert listed["plate"].tolist() == ["P07", "P01"] and "line 3" in listed["list"][0]
    assert Selection(tmp_path / "s.parquet").rows()[0].tolist() == [12]


def test_a_selection_that_judges(folder, tmp_path):
    bank, path = open_bank(folder / "b.zarr"), tmp_path / "judged.parquet"
    kept = NUMBERS % 5 == 0
    judged = Judged(kept, np.where(kept, 1, NUMBERS % 2 * 2), ("blurred", "good", "inert"))
    names = names_of("images", bank, NUMBERS)
    write(path, "images", [(bank, NUMBERS)], names, {"min_wells": 2}, [judged])
    listed = pq.read_table(path).to_pandas()
    assert listed["kept"].tolist() == kept.tolist()
    assert listed["reason"].tolist() == [judged.reasons[code] for code in judged.reason]
    assert listed["well"].tolist() == WELLS.tolist()
    chosen = choose(path, [bank])[0].rows.tolist()
    assert chosen == np.flatnonzero(kept).tolist()
    assert Selection(path).reasons() == {"blurred": 19, "inert": 19, "good": 10}
    assert "blurred" in Selection(path).describe()
    # another bank of the same images: by their names, those that are kept
    write_bank(
        tmp_path / "c.zarr",
        np.zeros((IMAGES, 16, 16, 2), np.uint8),
        table().append_column("cell_type", pa.array(["U2OS"] * IMAGES)),
        ("DNA", "ER"),
        chunk=8,
    )
    assert subset(tmp_path / "c.zarr", tmp_path / "d.parquet", "--selection", path) == chosen


def test_a_selection_of_another_bank_and_its_mend(folder, tmp_path):
    """Rows of a bank that was made again are not those of the list; names are."""
    bank = open_bank(folder / "b.zarr")
    order = np.arange(IMAGES)[::-1].copy()
    images = [bank.read(row) for row in order]
    write_bank(tmp_path / "d.zarr", images, bank.metadata.take(order), bank.channels, chunk=8)
    rows = subset(folder / "b.zarr", tmp_path / "s.parquet", "--where", 'well == "A02"')
    with pytest.raises(UserError, match="is not one of the bank") as error:
        choose(tmp_path / "s.parquet", [open_bank(tmp_path / "d.zarr")])
    mend = str(error.value).split("`")[1].split()[4:]
    mend[mend.index("NAME.parquet")] = str(tmp_path / "again.parquet")
    assert run_as_door(command, mend) == 0
    again = Selection(tmp_path / "again.parquet").rows()[0]
    assert sorted(order[again].tolist()) == rows


def test_files_that_are_no_selection(folder, tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    pq.write_table(pa.table({"row": [1]}), tmp_path / "y.parquet")
    for name, what in (("x", "cannot be read"), ("y", "and not one of"), ("z", "is not there")):
        with pytest.raises(UserError, match=what):
            Selection(tmp_path / f"{name}.parquet")
    config = keys.base("mae")
    config.data.update(banks=(str(folder / "b.zarr"),), selection=str(tmp_path / "z.parquet"))
    with pytest.raises(UserError, match="prepare subset"):
        keys.finalize(config)
    subset(folder / "t.zarr", tmp_path / "t.parquet", "--where", "row < 3")
    with pytest.raises(UserError, match="not one of the bank"):
        choose(tmp_path / "t.parquet", [open_bank(folder / "b.zarr")])
    with pytest.raises(UserError, match="banks hold images"):
        subset(folder / "b.zarr", tmp_path / "s.parquet", "--selection", tmp_path / "t.parquet")
    with pytest.raises(UserError, match="of one kind"):
        words = ["--bank", folder / "b.zarr", folder / "t.zarr", "--where", "row < 3"]
        run_as_door(command, [*words, "--out", tmp_path / "s.parquet"])


def test_rows_that_are_called_otherwise(tmp_path):
    """A list with rows and names of which one is not of this bank; a bank that is named twice."""
    pixels = np.zeros((3, 8, 8, 1), np.uint8)
    metadata = pa.table({"plate": ["A", "A", "B"], "well": ["A01", "A02", None]})
    bank, listed = tmp_path / "b.zarr", tmp_path / "list.csv"
    write_bank(bank, pixels, metadata, ("a",))
    words = ["--bank", bank, "--selection", listed, "--out", tmp_path / "S.parquet"]
    listed.write_text("row,plate,well\n2,B,\n0,A,a1\n")
    assert run_as_door(command, words) == 0
    listed.write_text("row,plate\n2,B\n1,B\n")
    with pytest.raises(UserError, match=r"line 3: plate is 'B', and row 1 of the bank has 'A'"):
        run_as_door(command, [*words, "--overwrite"])
    (tmp_path / "link.zarr").symlink_to(bank)
    for other in (tmp_path / "link.zarr", tmp_path / "x" / ".." / "b.zarr"):
        (tmp_path / "x").mkdir(exist_ok=True)
        words = ["--bank", bank, other, "--where", "row < 1", "--out", tmp_path / "T.parquet"]
        with pytest.raises(UserError, match=r"--bank names .* twice, also as .*b\.zarr"):
            run_as_door(command, words)
        with pytest.raises(UserError, match="twice"):
            run_as_door(index, [bank, other, "--out", tmp_path / "i.parquet"])

"""`prepare curate`: every gate with planted rows, agreement of replicates, controls, the report."""

import errno
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenomjax.data import zarr_files
from phenomjax.data.images.bank import write_bank
from phenomjax.data.images.opening import open_bank
from phenomjax.data.selections import Selection
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.prepare.curate import command
from phenomjax.prepare.curate.agreement import agreement, blocks_of, standardised
from phenomjax.prepare.curate.metadata import labels_of
from phenomjax.prepare.curate.wells import read_wells
from phenomjax.prepare.curate.witnesses import open_witnesses
from phenomjax.statistics.consistency import consistency
from phenomjax.system import files
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door

EXPERIMENTS, PLATES, WELLS, SITES = 4, 2, 24, 2
ACTIVE = [f"A{number}" for number in range(5)]  # both models see them
ONLY = ["B0", "B1"]  # one model sees them
INERT = [f"I{number}" for number in range(9)]
LAYOUT = ["DMSO"] * 6 + ["POS"] * 2 + ACTIVE + ONLY + INERT  # 24 wells of each plate
DIM = 24


def screen() -> pd.DataFrame:
    """A row an image."""
    rows = [
        {
            "experiment": f"E{experiment}",
            "plate": f"P{experiment}{plate}",
            "well": f"{'AB'[well // 12]}{well % 12 + 1:02d}",
            "site": str(site + 1),
            "perturbation": LAYOUT[well],
            "perturbation_type": "control" if LAYOUT[well] in ("DMSO", "POS") else "compound",
            "is_control": LAYOUT[well] == "DMSO",
        }
        for experiment in range(EXPERIMENTS)
        for plate in range(PLATES)
        for well in range(WELLS)
        for site in range(SITES)
    ]
    return pd.DataFrame(rows)


def phenotypes(table: pd.DataFrame, seen: list[str], seed: int) -> np.ndarray:
    """Embeddings in which these perturbations have a direction of their own."""
    random = np.random.default_rng(seed)
    directions = {name: 2.5 * random.standard_normal(DIM) for name in seen}
    plates = table["plate"].unique()
    shifts = dict(zip(plates, 20 * random.standard_normal((len(plates), DIM)), strict=True))
    values = random.standard_normal((len(table), DIM))
    for row, (name, plate) in enumerate(zip(table["perturbation"], table["plate"], strict=True)):
        values[row] += directions.get(name, 0) + shifts[plate]
    return values.astype(np.float32)


def write_embeddings(path, bank, values, table, image=None, **record):
    """A folder as `phenomjax.embed` writes it."""
    described = {"format": "embeddings", "version": 1, "level": "site", "step": 5}
    described |= {"bank": str(bank.path), "bank_fingerprint": bank.fingerprint}
    zarr_files.write_group(path, described | record)
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    shape = (64, values.shape[1])
    zarr_files.write_array(
        path / "embeddings", values.shape, values.dtype, ("site", "dim"), shape, codecs
    )
    for start in range(0, len(values), 64):
        part = np.zeros(shape, values.dtype)
        part[: len(values[start : start + 64])] = values[start : start + 64]
        (path / "embeddings" / f"c.{start // 64}.0").write_bytes(part.tobytes())
    columns = {name: pa.array(table[name], pa.string()) for name in ("experiment", "plate", "well")}
    columns["image"] = pa.array(image, pa.int64()) if image is not None else pa.nulls(len(table))
    pq.write_table(pa.table(columns), path / "metadata.parquet")
    return path


def bank_of(path, table):
    images = np.zeros((len(table), 8, 8, 1), np.uint8)
    write_bank(path, images, pa.Table.from_pandas(table, preserve_index=False), ("DNA",), chunk=8)
    return open_bank(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bank and the embeddings of two models, mae.zarr and wsl.zarr."""
    path, table = tmp_path_factory.mktemp("curate"), screen()
    bank = bank_of(path / "b.zarr", table)
    rows = np.arange(len(table))
    for name, seen, seed in (("mae", ACTIVE, 1), ("wsl", ACTIVE + ONLY, 2)):
        values = phenotypes(table, seen, seed)
        write_embeddings(path / f"{name}.zarr", bank, values, table, rows)
    return path


def curate(bank, out, *words):
    """Runs the command without pixels; returns the exit code and the selection as a table."""
    code = run_as_door(command, ["--bank", bank, "--out", out, "--no-pixels", *words])
    return code, pq.read_table(out).to_pandas().astype({"reason": str})


def test_what_is_kept_and_why(folder, tmp_path, capsys):
    out, table = tmp_path / "s.parquet", screen()
    models = ("--embeddings", folder / "mae.zarr", folder / "wsl.zarr")
    code, found = curate(folder / "b.zarr", out, *models, "--draws", 999)
    assert code == 0
    assert found["row"].tolist() == list(range(len(table)))
    assert found["well"].tolist() == table["well"].tolist()
    reasons = found.groupby(table["perturbation"])["reason"].unique().map(sorted)
    assert all(reasons[name] == ["consistent_mae+wsl"] for name in ACTIVE)
    assert all(reasons[name] == ["consistent_wsl"] for name in ONLY)
    assert sum(reasons[name] == ["inconsistent"] for name in INERT) >= len(INERT) - 1
    # of 12 wells of negative controls in each experiment .3, of 4 positive ones .1, rounded up
    assert reasons["DMSO"] == ["control_share", "negative_control"]
    kept = found[found["kept"]].drop_duplicates(["experiment", "plate", "well"])
    assert kept.groupby(["experiment", "reason"]).size()[:, "negative_control"].tolist() == [4] * 4
    assert kept.groupby(["experiment", "reason"]).size()[:, "positive_control"].tolist() == [1] * 4
    assert found.groupby(["experiment", "plate", "well"])["kept"].nunique().max() == 1
    assert set(found["reason"][~found["kept"]]) == {"inconsistent", "control_share"}
    # what training reads
    assert Selection(out).rows()[0].tolist() == found["row"][found["kept"]].tolist()
    # the report says the same
    record = json.loads((tmp_path / "s_report/report.json").read_text())
    assert record["images"] == found["reason"].value_counts().to_dict()
    assert set(record["kept_by_one_model_only"]["wsl"]) >= set(ONLY)
    assert record["kept_by_one_model_only"]["mae"] == []
    gates = {gate["gate"]: gate for gate in record["gates"]}
    assert gates["all"]["perturbations"] == 16 and gates["all"]["controls"] == 64
    assert gates["inconsistent"]["dropped"] == int((found["reason"] == "inconsistent").sum())
    assert gates["control_share"]["images"] == int(found["kept"].sum())
    assert f"{gates['inconsistent']['images']:,}" in capsys.readouterr().out
    perturbations = pd.read_parquet(tmp_path / "s_report/perturbations.parquet")
    perturbations = perturbations.set_index("perturbation")
    assert perturbations["wells"].tolist() == [8] * 16
    assert perturbations["experiments_mae"].tolist() == [4] * 16
    assert "100% of the perturbations lie in the same position" in record["told"]["consistency"]
    assert perturbations["reason"].to_dict() == reasons.drop(["DMSO", "POS"]).str[0].to_dict()
    page = (tmp_path / "s_report/report.md").read_text()
    shown = (tmp_path / "s_report/report.html").read_text()
    assert shown.count("<table") == page.count("| --- |") and "images are left" in shown
    assert "only wsl kept B0, B1" in page and "8 wells are asked for" not in page
    assert "3 experiments are asked for" in page and "4 wells are asked for: 20 by def" in page


def test_the_p_of_a_perturbation(folder, tmp_path, caplog):
    """Against a direct computation: wells, plates, the test in each experiment, the combination."""
    table, bank = screen(), open_bank(folder / "b.zarr")
    wells = read_wells([bank])
    labels = labels_of(wells, "apart")
    alive = np.random.default_rng(0).random(len(table)) < 0.8
    values = phenotypes(table, ACTIVE, 1)
    treated = alive & ~table["perturbation"].isin(["DMSO", "POS"]).to_numpy()
    values[np.flatnonzero(treated)[::50]] = np.nan  # these take no part
    damaged = write_embeddings(tmp_path / "mae.zarr", bank, values, table, np.arange(len(table)))
    (witness,) = open_witnesses([damaged], wells, None)
    studied = (wells.images(alive) > 0) & (labels.of_well >= 0)
    found = agreement(witness, labels, blocks_of(wells, studied), alive, draws=200, seed=3)
    keys = ["experiment", "plate", "well", "perturbation"]
    assert f"{-(-treated.sum() // 50)} embeddings of mae are no numbers" in caplog.text
    values = pd.DataFrame(values.astype(float)).join(table[keys])
    values = values[values[0].notna() & treated]
    means = values.groupby(keys).mean().reset_index(keys)
    p: dict[str, list[float]] = {}
    for _, one in means.groupby("experiment"):
        numbers = one.drop(columns=keys)
        numbers = numbers - numbers.groupby(one["plate"]).transform("mean")
        scaled = (numbers / numbers.std(ddof=0)).to_numpy()
        numbered = one["perturbation"].map(labels.perturbations.index).to_numpy()
        said = consistency(scaled, numbered, draws=200, seed=3)
        for name, value in zip(said.names, said.honest_p, strict=True):
            if not np.isnan(value):
                p.setdefault(labels.perturbations[int(name)], []).append(value)
    for number, name in enumerate(labels.perturbations):
        terms = [np.tan((0.5 - min(value, 1 - 1 / 201)) * np.pi) for value in p[name]]
        assert found.p[number] == pytest.approx(0.5 - np.arctan(np.mean(terms)) / np.pi, rel=1e-6)
    assert found.experiments.tolist() == [len(p[name]) for name in labels.perturbations]


def test_nothing_is_kept_of_noise(tmp_path):
    """Of 400 inert perturbations on plates that differ, about one in a hundred."""
    names = np.repeat([f"I{number}" for number in range(100)], 2)
    random = np.random.default_rng(5)
    p = []
    for _ in range(4):
        plates = np.tile([0, 1], 100)
        values = random.standard_normal((200, 16)) + 20 * random.standard_normal((2, 16))[plates]
        p.append(consistency(standardised(values, plates), names, draws=999).honest_p)
    share = (np.concatenate(p) < 0.05).mean()
    assert 0.02 < share < 0.09


def test_what_is_common_to_a_position_is_no_agreement(tmp_path, caplog):
    """Inert perturbations, in two layouts of two plates each, whose wells differ by position."""
    random, names = np.random.default_rng(0), [f"I{number}" for number in range(20)]
    rows = [
        {
            "experiment": f"E{experiment}",
            "plate": f"P{experiment}{plate}",
            "well": f"A{well + 1:02d}",
            "perturbation": name,
            "is_control": False,
        }
        for experiment in range(3)
        for pair in range(2)
        for layout in [random.permutation(names)]
        for plate in (2 * pair, 2 * pair + 1)
        for well, name in enumerate(layout)
    ]
    table = pd.DataFrame(rows)
    positions = 2 * random.standard_normal((20, DIM))
    values = random.standard_normal((len(table), DIM)) + positions[np.arange(len(table)) % 20]
    bank = bank_of(tmp_path / "b.zarr", table)
    image = np.arange(len(table))
    path = write_embeddings(tmp_path / "E.zarr", bank, values.astype(np.float32), table, image)
    _, found = curate(bank.path, tmp_path / "s.parquet", "--embeddings", path)
    assert found["kept"].mean() > 0.6
    curate(bank.path, tmp_path / "t.parquet", "--embeddings", path, "--null", "position")
    assert pq.read_table(tmp_path / "t.parquet")["kept"].to_numpy().mean() < 0.15
    # half of it is told where replicates lie in one position of all plates alone
    assert "same position of all plates" not in caplog.text


def spoilt() -> tuple[pd.DataFrame, dict[str, list[int]]]:
    """The screen with metadata that say too little or too much, and the rows of each."""
    table = screen()
    table["concentration"] = np.where(table["perturbation"].str.startswith("A"), 1.5, np.nan)
    table["gene"] = None
    of_well = lambda well: table.index[(table["plate"] == "P00") & (table["well"] == well)]  # noqa: E731
    rows = {
        "no name": of_well("A09"),
        "no plate": table.index[(table["plate"] == "P31") & (table["well"] == "B01")],
        "no dose": of_well("A10"),
        "of two names": of_well("B02"),
        "no mark": of_well("A01"),
        "two genes": table.index[table["perturbation"] == "I8"],
        "again": of_well("B05")[1:],
    }
    table.loc[rows["no name"], "perturbation"] = "NA"
    table.loc[rows["no plate"], "plate"] = None
    table.loc[rows["no dose"], "concentration"] = np.nan
    table.loc[rows["of two names"][0], "perturbation"] = "A1"
    table.loc[rows["of two names"][0], "concentration"] = 1.5
    table.loc[rows["no mark"], "is_control"] = False
    table.loc[rows["no mark"], "perturbation_type"] = "compound"
    table.loc[rows["two genes"], "perturbation_type"] = "crispr"
    table.loc[rows["two genes"], "gene"] = "TP53"
    table.loc[rows["two genes"][-2:], "gene"] = "MDM2"
    table.loc[rows["again"], "site"] = "1"
    return table, {name: list(one) for name, one in rows.items()}


def test_metadata_that_say_too_little_or_too_much(tmp_path):
    table, rows = spoilt()
    bank = bank_of(tmp_path / "b.zarr", table)
    seen = np.delete(np.arange(len(table)), [-4, -3])  # of one well there are no embeddings
    values = phenotypes(screen(), ACTIVE, 1)[seen]
    write_embeddings(tmp_path / "E.zarr", bank, values, table.iloc[seen], seen)
    code, found = curate(bank.path, tmp_path / "s.parquet", "--embeddings", tmp_path / "E.zarr")
    assert code == 0
    dropped = {reason: list(some.index) for reason, some in found.groupby("reason")}
    missing = rows["no name"] + rows["no plate"] + rows["no dose"]
    assert dropped["missing_metadata"] == sorted(missing)
    ambiguous = rows["of two names"] + rows["no mark"] + rows["two genes"]
    assert dropped["ambiguous_metadata"] == sorted(set(ambiguous) - set(missing))
    assert dropped["duplicate"] == rows["again"]
    assert dropped["no_embedding"] == [len(table) - 4, len(table) - 3]
    told = json.loads((tmp_path / "s_report/report.json").read_text())["told"]
    assert told["missing_metadata"] == (
        "plate: 1 wells (E3/B01); perturbation: 1 wells (E0/P00/A09); concentration: 1 wells"
        " (E0/P00/A10)"
    )


@pytest.mark.parametrize(
    ("words", "reason", "left"),
    [
        (("--min_experiments", 5), "few_experiments", 0),
        (("--min_wells", 9), "few_wells", 0),
        (("--min_wells", 8, "--min_experiments", 4), "inconsistent", 5),
    ],
)
def test_too_much_is_asked_for(folder, tmp_path, caplog, words, reason, left):
    out = tmp_path / "s.parquet"
    code, found = curate(folder / "b.zarr", out, "--embeddings", folder / "mae.zarr", *words)
    kept = found[found["kept"]]
    assert code == (0 if left else 1)
    assert kept["reason"].str.startswith("consistent").sum() >= left * 16
    assert (found["reason"] == reason).any() and (kept["reason"] == "negative_control").any()
    assert ("No perturbation is kept" in caplog.text) == (not left)
    assert bool(left) != (reason in caplog.text)


def test_two_banks_by_wells_and_again(folder, tmp_path):
    """Embeddings of wells, of two banks, in another order than the images are."""
    table = screen()
    halves = [table[: len(table) // 2], table[len(table) // 2 :]]
    banks = [
        bank_of(tmp_path / f"{name}.zarr", half) for name, half in zip("ab", halves, strict=True)
    ]
    values = pd.DataFrame(phenotypes(table, ACTIVE, 1)).join(table)
    for bank, half in zip(banks, halves, strict=True):
        keys = ["experiment", "plate", "well"]
        numbers = values.loc[half.index].groupby(keys)[list(range(DIM))].mean()
        numbers = numbers.sample(frac=1, random_state=0)
        folder_of = tmp_path / "E" / bank.path.name
        folder_of.parent.mkdir(exist_ok=True)
        mixed = numbers.to_numpy(np.float32)
        write_embeddings(folder_of, bank, mixed, numbers.reset_index(), level="well")
    out = tmp_path / "s.parquet"
    words = [
        "--bank",
        *(bank.path for bank in banks),
        "--embeddings",
        tmp_path / "E",
        "--no-pixels",
    ]
    assert run_as_door(command, [*words, "--out", out, "--draws", 500]) == 0
    code, alone = curate(
        folder / "b.zarr",
        tmp_path / "t.parquet",
        "--embeddings",
        folder / "mae.zarr",
        "--draws",
        500,
    )
    found = pq.read_table(out).to_pandas()
    names = [reason.replace("_E", "_mae") for reason in found["reason"]]
    assert code == 0 and names == alone["reason"].tolist()
    assert [len(rows) for rows in Selection(out).rows()] == [
        int(found["kept"][found["bank"] == number].sum()) for number in (0, 1)
    ]


def test_a_bank_of_what_is_kept(folder, tmp_path):
    out = tmp_path / "s.parquet"
    words = ("--subset", tmp_path / "kept.zarr", "--negative_controls", 1, "--positive_controls", 0)
    code, found = curate(folder / "b.zarr", out, "--embeddings", folder / "mae.zarr", *words)
    kept = open_bank(tmp_path / "kept.zarr")
    assert code == 0 and len(kept) == int(found["kept"].sum())
    names = set(kept.column("perturbation").to_pylist())
    assert "POS" not in names and names >= {*ACTIVE, "DMSO"}
    with pytest.raises(UserError, match=r"--subset .*kept\.zarr is there already"):
        curate(folder / "b.zarr", tmp_path / "t.parquet", *words)  # before any work


@pytest.mark.parametrize("what", ["report.md", "s.parquet", "s_report"])
def test_the_disk_is_full(folder, tmp_path, monkeypatch, what):
    """It is told, nothing half is left, and the same command does it once there is room."""
    (tmp_path / "s_report").mkdir()

    def full(path, *arguments, **words):
        if path.name == what:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, *arguments, **words)

    where, name = {
        "report.md": (files, "write_text"),
        "s.parquet": (files, "replacing"),
        "s_report": (type(tmp_path), "mkdir"),
    }[what]
    real = getattr(where, name)
    monkeypatch.setattr(where, name, full)
    with pytest.raises(UserError, match=r"could not be written: No space left .* Make room"):
        curate(folder / "b.zarr", tmp_path / "s.parquet")
    assert not (tmp_path / "s.parquet").exists()
    monkeypatch.undo()
    assert curate(folder / "b.zarr", tmp_path / "s.parquet")[0] == 0


def test_perturbations_of_one_experiment_each(tmp_path, caplog):
    """What the middle perturbation has is enough, and is told; so nothing is lost by default."""
    table = screen()
    treated = ~table["perturbation"].isin(["DMSO", "POS"])
    table.loc[treated, "perturbation"] += "_" + table["experiment"]
    bank = bank_of(tmp_path / "b.zarr", table)
    seen = [f"{name}_E{experiment}" for name in ACTIVE for experiment in range(EXPERIMENTS)]
    write_embeddings(
        tmp_path / "E.zarr", bank, phenotypes(table, seen, 3), table, np.arange(len(table))
    )
    with caplog.at_level("INFO", "phenomjax"):
        code, found = curate(bank.path, tmp_path / "s.parquet", "--embeddings", tmp_path / "E.zarr")
    assert code == 0 and "at least 1 experiments are asked for: 3 by default" in caplog.text
    assert set(table["perturbation"][found["reason"] == "consistent_E"]) >= set(seen)


def test_no_image_is_a_negative_control(tmp_path, caplog):
    table = screen().assign(is_control=False)
    bank_of(tmp_path / "b.zarr", table)
    code, found = curate(tmp_path / "b.zarr", tmp_path / "s.parquet")
    assert code == 0 and "the 64 wells of perturbation_type control count as pos" in caplog.text
    assert set(found["reason"]) == {"not_tested", "positive_control", "control_share"}
    reasons = pq.read_table(tmp_path / "s.parquet")["reason"].chunk(0).dictionary
    assert set(reasons.to_pylist()) == set(found["reason"])


def test_pixels_that_show_nothing_but_noise(tmp_path, caplog):
    """One row an image all the same, and what is offered helps."""
    bank_of(tmp_path / "b.zarr", screen()[:96])
    words = ["--bank", tmp_path / "b.zarr", "--jobs", 1, "--out"]
    assert run_as_door(command, [*words, tmp_path / "s.parquet"]) == 1
    assert "dropped as empty" in caplog.text and "or --no_pixels" in caplog.text
    assert "nothing is dropped for it" not in caplog.text
    assert set(pq.read_table(tmp_path / "s.parquet")["reason"].to_pylist()) == {"empty"}
    assert run_as_door(command, [*words, tmp_path / "t.parquet", "--no_pixels"]) == 0


def test_without_models(folder, tmp_path, caplog):
    code, found = curate(folder / "b.zarr", tmp_path / "s.parquet")
    assert code == 0 and "no perturbation is asked" in caplog.text
    kept = found["reason"][found["kept"]]
    assert set(kept) == {"not_tested", "negative_control", "positive_control"}


def nothing(folder, tmp_path):
    return ["--embeddings", tmp_path / "nothing.zarr"]


def other_bank(folder, tmp_path):
    table = screen()
    bank = bank_of(tmp_path / "other.zarr", table[:48])
    write_embeddings(tmp_path / "E.zarr", bank, phenotypes(table[:48], [], 0), table[:48])
    return ["--embeddings", tmp_path / "E.zarr"]


def cut_off(folder, tmp_path):
    table = screen()
    path = write_embeddings(
        tmp_path / "E.zarr", open_bank(folder / "b.zarr"), phenotypes(table, [], 0), table
    )
    pq.write_table(pq.read_table(path / "metadata.parquet")[:9], path / "metadata.parquet")
    return ["--embeddings", path]


def two_blocks(folder, tmp_path):
    """Of which one must be chosen; chosen, it is read."""
    shutil.copytree(folder / "mae.zarr", path := tmp_path / "two.zarr")
    (path / "embeddings").rename(path / "embeddings_block_3")
    shutil.copytree(path / "embeddings_block_3", path / "embeddings_block_12")
    chosen = ("--embeddings", path, "--block", 12)
    assert curate(folder / "b.zarr", tmp_path / "chosen.parquet", *chosen)[0] == 0
    return chosen[:2]


def diverged(folder, tmp_path):
    table = screen()
    values = np.full((len(table), DIM), np.nan, np.float32)
    bank = open_bank(folder / "b.zarr")
    path = write_embeddings(tmp_path / "E.zarr", bank, values, table, np.arange(len(table)))
    return ["--embeddings", path]


ERRORS = [
    (
        lambda f, t: ["--embeddings", "s3://lab/mae.zarr"],
        "s3://lab/mae.zarr are in a store.* mirror s3://lab/mae.zarr mae.zarr`",
    ),
    (nothing, "--embeddings .*nothing.zarr is not there. Name a folder that"),
    (lambda f, t: ["--embeddings", f / "b.zarr"], "holds no embeddings"),
    (other_bank, "embeddings of another bank than .*b.zarr: of .*other.zarr"),
    (cut_off, "384, 24.*but 9 rows of metadata"),
    (
        lambda f, t: ["--embeddings", f / "mae.zarr", f / "mae.zarr"],
        "--embeddings names a folder tw",
    ),
    (lambda f, t: ["--negative_controls", "30"], "--negative_controls is 30: it is the share"),
    (lambda f, t: ["--max_p", "0"], "--max_p is 0; it must be above 0"),
    (lambda f, t: ["--min_wells", "0"], "--min_wells is 0; it must be 1 or more"),
    (lambda f, t: ["--draws", "3"], "--draws is 3; it must be at least 20"),
    (lambda f, t: ["--draws", "99"], "--draws is 99, so that no p is below 0.01"),
    (lambda f, t: ["--subset", t / "x.parquet"], "its name must end with .zarr"),
    (diverged, "No embedding of .*E.zarr is a number: the training .* diverged"),
    (two_blocks, "holds the blocks 3, 12. Choose one: --block 12"),
]


@pytest.mark.parametrize(("make", "message"), ERRORS)
def test_what_cannot_be(folder, tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        curate(folder / "b.zarr", tmp_path / "s.parquet", *make(folder, tmp_path))
    assert not (tmp_path / "s.parquet").exists()


def test_out_is_there_and_a_bank_without_experiments(folder, tmp_path):
    words = ("--embeddings", folder / "mae.zarr", "--draws", 500)
    curate(folder / "b.zarr", tmp_path / "s.parquet", *words)
    with pytest.raises(UserError, match=r"is there already.*--overwrite"):
        curate(folder / "b.zarr", tmp_path / "s.parquet", *words)
    assert curate(folder / "b.zarr", tmp_path / "s.parquet", *words, "--overwrite")[0] == 0
    with pytest.raises(UserError, match=r"must be a file on a disk that ends with .parquet"):
        curate(folder / "b.zarr", tmp_path / "s.csv", *words)
    bank_of(tmp_path / "c.zarr", screen().drop(columns="experiment"))
    with pytest.raises(
        UserError, match=r"column experiment is empty for all .*--default experiment=NAME"
    ):
        curate(tmp_path / "c.zarr", tmp_path / "t.parquet")


def test_pixels_are_looked_at_through_the_door(tmp_path):
    """Fields out of focus and without cells are dropped by name, and measured once."""
    settings = SimulationConfig(
        num_plates=2,
        wells_per_plate=24,
        field_px=80,
        cell_radius=8.0,
        num_complexes=2,
        genes_per_complex=3,
        num_single_genes=0,
        num_compounds=0,
        control_fraction=0.4,
        out_of_focus_fraction=0.12,
        empty_fraction=0.08,
    )
    write_screen(tmp_path / "b.zarr", settings, jobs=1)
    words = ["--bank", tmp_path / "b.zarr", "--jobs", 1, "--min_area", 12]
    assert run_as_door(command, [*words, "--out", tmp_path / "s.parquet"]) == 0
    found = pq.read_table(tmp_path / "s.parquet").to_pandas().astype({"reason": str})
    truth = pd.read_parquet(tmp_path / "b.zarr/truth/defects.parquet")
    merged = found.merge(truth[["plate", "well", "defect"]], how="left")
    for defect in ("out_of_focus", "empty"):
        planted = merged["defect"] == defect
        assert planted.sum() >= 3
        assert (merged["reason"] == defect)[planted].mean() > 0.6
    good = merged["defect"].isna()
    assert merged["reason"][good].isin(["empty", "out_of_focus", "saturated"]).mean() < 0.05
    assert {"limits.parquet", "gates.png"} <= {
        one.name for one in (tmp_path / "s_report").iterdir()
    }

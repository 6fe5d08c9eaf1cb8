"""The lab-book pages of RxRx1, from the files as they are published to the table: a screen of eight
experiments and a network of two layers in place of the whole.
"""

import json
import re
import shlex

import pyarrow.parquet as pq
import pytest

from phenomjax import config, evaluate, train
from phenomjax.prepare.images import command as prepare
from phenomjax.probes.perturbations import report
from phenomjax.probes.perturbations.options import Options as EvaluateOptions
from phenomjax.sweep import __main__ as sweep
from phenomjax.system import options
from phenomjax.system.errors import UserError
from tests.config.test_configs import module
from tests.lab import rxrx1
from tests.lab.doors import run_as_door
from tests.training.test_train import use_devices

SMALL = {
    "model.block_config": (1, 1),
    "model.growth_rate": 4,
    "model.stem_features": 8,
    "model.neck_dim": 8,
    "model.remat": "none",
    "data.crop_size": 32,
    "global_batch_size": 16,
    "num_steps": 2,
    "log.every_steps": 1,
    "log.tensorboard": False,
    "eval.every_steps": 2,
    "eval.num_batches": 1,
    "checkpoint.every_steps": 2,
    "figures.num_images": 1,
}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    use_devices(monkeypatch, 1)


def commands(name):
    """The command lines of a page, as words."""
    text = module(name).__doc__.replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith("  python -m")]


def prepared(name, folder):
    """The bank that the page's own command makes of the files."""
    rxrx1.write(folder / "raw", wilds=name == "rxrx1_wilds")
    (words,) = [words for words in commands(name) if words[2] == "phenomjax.prepare"]
    places = {
        "--source": folder / "raw" / "images",
        "--metadata": folder / "raw" / "metadata.csv",
        "--out": folder / "bank.zarr",
    }
    for flag, place in places.items():
        words[words.index(flag) + 1] = str(place)
    assert run_as_door(prepare, [*words[4:], "--jobs", "1"]) == 0
    return folder / "bank.zarr"


def trained(name, arg, bank, workdir, **changed):
    c = module(name).get_config(arg)
    c.data.banks = (str(bank),)
    c.update_from_flattened_dict(SMALL | changed)
    assert train.run(c, workdir) == 0
    return str(workdir)


def evaluated(out, *words):
    """What `phenomjax.evaluate perturbations` finds: report.json."""
    words = ["perturbations", "--out", str(out), "--devices", "1", *map(str, words)]
    assert evaluate.main(words) == 0
    return json.loads((out / "report.json").read_text())


def shares(found, **wanted):
    """{(statistics, split): images} of the scores that have these values."""
    return {
        (one["statistics"], one["split"]): one["images"]
        for one in found["scores"]
        if all(one[key] == value for key, value in wanted.items())
    }


@pytest.mark.parametrize("name", ["rxrx1_wilds", "rxrx1_densenet161"])
def test_commands_and_presets_of_the_pages(name):
    """Every command parses, and every preset that a command or the ladder names is a config."""
    text = module(name).__doc__
    presets = re.findall(rf"{name}\.py:(\S+)|^  :(\S+)|`:(\S+)`", text, re.MULTILINE)
    for preset in {one for found in presets for one in found if one}:
        c = module(name).get_config(preset)
        c.data.simulate.plates = 1
        config.finalize(c)
    kinds = {"evaluate": EvaluateOptions, "sweep": sweep.Options, "prepare": prepare.Options}
    parsed = []
    for words in commands(name):
        kind = words[2].removeprefix("phenomjax.")
        if kind in kinds:
            rest = words[3 if kind == "sweep" else 4 :]
            rest = [word for word in rest if not word.startswith("--config.")]
            parsed.append(kind)
            options.parse(kinds[kind], rest, "program", "")
    assert set(parsed) == set(kinds)


def test_wilds(tmp_path, capsys):
    """One model of all cell types, and one of a cell type alone."""
    bank = prepared("rxrx1_wilds", tmp_path)
    runs = [
        trained("rxrx1_wilds", "seed=3", bank, tmp_path / "wilds"),
        trained(
            *("rxrx1_wilds", "cell_type=HUVEC", bank, tmp_path / "huvec"),
            **{"eval.every_steps": 0, "figures.num_images": 0},
        ),
    ]
    words = ["--checkpoint", *runs, "--statistics", "running", "--random_weights", "-1"]
    found = evaluated(tmp_path / "report", *words)
    # 4 experiments of 8 wells: site 1 for training, site 2 the test within the distribution
    assert shares(found, model="wilds", cell_type="") == {
        ("running", "val"): 32,
        ("running", "id_test"): 32,
        ("running", "test"): 32,
    }
    assert shares(found, model="wilds", cell_type="RPE", split="test") == {("running", "test"): 16}
    assert shares(found, model="huvec", split="test") == {("running", "test"): 16}
    assert {(run["model"], run["seed"]) for run in found["runs"]} == {("wilds", 3), ("huvec", 0)}
    assert found["chance"] == {"wilds": 0.25, "huvec": 0.25}
    beside = [(d["split"], d["cell_type"], d["images"]) for d in found["separate_against_joint"]]
    assert beside == [(split, "HUVEC", 16) for split in ("val", "id_test", "test")]
    said = capsys.readouterr().out
    assert "29.9 ± 0.4" in said and "Fewer than 3 seeds: wilds (1), huvec (1)." in said
    assert "; test has 34,432 images, and these banks have 32: what is measured on" in said
    with pytest.raises(UserError, match=r"--bank .* is one that .*wilds was trained on. Leave --b"):
        evaluated(tmp_path / "other", "--checkpoint", runs[0], "--bank", bank)
    with pytest.raises(UserError, match=r"--split tset: Did you mean 'test'\? There are val"):
        evaluated(tmp_path / "other", "--checkpoint", runs[0], "--split", "tset")
    with pytest.raises(UserError, match=r"--split unseen: .*wilds has val, id_test, test"):
        evaluated(tmp_path / "other", "--checkpoint", runs[0], "--split", "unseen")


def test_full(tmp_path, capsys):
    """All kinds of statistics, and the untrained twin."""
    bank = prepared("rxrx1_densenet161", tmp_path)
    quiet = {"eval.every_steps": 0, "figures.num_images": 0}
    run = trained("rxrx1_densenet161", "", bank, tmp_path / "all", **quiet)
    found = evaluated(tmp_path / "report", "--checkpoint", run, "--statistics_least", "2")
    assert not [text for text in found["notes"] if "not judged" in text]
    kinds = {(s["statistics"], s["twin"]) for s in found["scores"]}
    assert kinds == {(kind, False) for kind in report.STATISTICS} | {("experiment", True)}
    whole = shares(found, twin=False, cell_type="")
    assert whole == {
        (kind, split): n
        for kind in report.STATISTICS
        for split, n in {"val": 32, "test": 32, "unseen": 64}.items()
    }
    assert [row["verified"] for row in found["published"]] == [False]
    said = capsys.readouterr().out
    assert "published, not standard, unverified" in said and "87.0" in said
    bank.rename(tmp_path / "moved.zarr")
    with pytest.raises(UserError, match=r"--checkpoint .*all was trained on .*bank.zarr, which is"):
        evaluated(tmp_path / "report", "--checkpoint", run)
    (tmp_path / "elsewhere").mkdir()
    bank = (tmp_path / "moved.zarr").rename(tmp_path / "elsewhere" / "bank.zarr")
    words = ["--statistics", "running", "--random_weights", "-1", "--bank", bank]
    again = evaluated(tmp_path / "report", "--checkpoint", run, *words)
    assert [s["top1"] for s in again["scores"]] == [
        s["top1"] for s in found["scores"] if s["statistics"] == "running"
    ]
    # the same files, prepared as a screen that training never saw
    rows = pq.read_table(bank / "metadata.parquet")
    place = rows.schema.get_field_index("source")
    changed = [f"other/{source}" for source in rows["source"].to_pylist()]
    rows = rows.set_column(place, rows.schema.field(place), [changed])
    pq.write_table(rows, bank / "metadata.parquet")
    other = bank.rename(tmp_path / "other.zarr")
    words[-1] = other
    strange = evaluated(tmp_path / "strange", "--checkpoint", run, *words)
    assert shares(strange, cell_type="") == {("running", "all"): 128}

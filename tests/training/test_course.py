"""Runs that change their course."""

import functools
import json
import logging
import re
import shutil

import numpy as np
import pytest

from phenomjax import config, optim, train
from phenomjax.checkpoints import loading
from phenomjax.system.errors import UserError
from phenomjax.training import branch
from tests.lab import toy_task
from tests.training.test_train import equal, lines, make_config


@pytest.fixture(autouse=True)
def sound(monkeypatch):
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", ())


def follow(c, text):
    """Sets what a text offers as `--config.KEY=VALUE`."""
    for key, value in re.findall(r"--config\.([\w.]+)=([^\s,;]+)", text):
        *parents, leaf = key.split(".")
        place = functools.reduce(getattr, parents, c)
        place[leaf] = type(place[leaf])(value)


def test_another_length_says_what_becomes_of_the_rate(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    how = {
        "optimizer__schedule": "warmup_linear",
        "optimizer__warmup_fraction": 0.125,
        "figures__num_images": 0,
    }
    assert train.run(make_config(num_steps=8, **how), tmp_path) == 0
    caplog.clear()
    before = (tmp_path / "config.json").read_bytes(), lines(tmp_path)
    with pytest.raises(UserError, match=r"at step 8 already: there is nothing to train") as error:
        train.run(make_config(num_steps=4, **how), tmp_path)
    assert f"--config.continue_from={tmp_path}@4 (there are [4])" in str(error.value)
    assert ((tmp_path / "config.json").read_bytes(), lines(tmp_path)) == before
    # 1e-2 over 1 step and down: 1/7 of it at the eighth; at the ninth of sixteen 8/14
    assert train.run(make_config(num_steps=16, **how), tmp_path) == 0
    said = next(r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert "num_steps was 8 and is 16" in said and "goes from 0.00143 to 0.00571" in said
    first, *ways = said.splitlines()
    c = make_config(**how)
    found = []
    for way in ways:
        offered = c.copy_and_resolve_references()
        follow(offered, f"{first} {way}")
        assert offered.continue_from == f"{tmp_path}@8"
        rate = optim.schedule(config.finalize(offered))
        found.append([float(rate(step)) for step in (8, 9, 10)])
    np.testing.assert_allclose(found[0], 1e-2 / 7, rtol=1e-3)
    np.testing.assert_allclose(found[1], [0, 1e-2, 6e-2 / 7], rtol=1e-3)
    np.testing.assert_allclose(found[2], 1e-2, rtol=1e-3)
    caplog.clear()
    assert train.run(make_config(num_steps=16, **how), tmp_path) == 0  # as it is: nothing is said
    assert not [r for r in caplog.records if "num_steps" in r.getMessage()]


def test_a_length_that_does_not_move_the_rate_is_no_warning(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    how = {"optimizer__schedule": "warmup_constant", "optimizer__warmup_steps": 2}
    assert train.run(make_config(num_steps=4, figures__num_images=0, **how), tmp_path) == 0
    assert train.run(make_config(num_steps=6, figures__num_images=0, **how), tmp_path) == 0
    said = [r for r in caplog.records if "num_steps was 4 and is 6" in r.getMessage()]
    assert [r.levelname for r in said] == ["INFO"] and "0.01, as it was" in said[0].getMessage()


def test_a_batch_ramp_is_a_function_of_the_step_also_after_a_stop(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    how = {
        "batch_ramp": ((3, 32), (8, 48)),
        "log__sample_ids": True,
        "figures__num_images": 0,
        "optimizer__accumulate_steps": 2,
    }
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert train.run(make_config(**how), straight) == 0
    assert "from step 8 on 48 rows a step" in caplog.text
    read = [
        json.loads(line) for line in (straight / "logs/samples_000.jsonl").read_text().splitlines()
    ]
    assert [len(line["ids"]) for line in read] == [16] * 3 + [32] * 5 + [48] * 4
    size = json.loads((straight / "size.json").read_text())
    assert size["units_per_step"] == round((3 * 16 + 5 * 32 + 4 * 48) / 12)
    # at the step where the carry still has the rows of before, and off it
    for stop in (3, 5, 8):
        assert train.run(make_config(**how, stop_at_step=stop), broken) == 75
    assert train.run(make_config(**how), broken) == 0
    assert lines(broken) == lines(straight)
    equal(loading.load(broken)[1], loading.load(straight)[1])


@pytest.mark.parametrize(
    "ramp,text",
    [
        (((3, 32), (3, 48)), "it must be pairs of a step and the rows"),
        (((3, 32, 4),), "it must be pairs of a step and the rows"),
        (((3, 0),), "each must be at least 1"),
        (((3, 32.5),), "each must be a whole number, at least 1"),
        ((3, 32), "which is no tuple of tuples"),
        (((3, 31),), "batch_ramp: a batch of 31 is not a multiple of config.optimizer.accumulate"),
    ],
)
def test_a_ramp_that_is_none_is_an_error(ramp, text):
    c = make_config(optimizer__accumulate_steps=2)
    c.batch_ramp = ramp
    with pytest.raises(UserError, match=text):
        config.finalize(c)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "parent"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_task.ToyLoader, "bad_steps", ())
        assert train.run(make_config(**PARENT), workdir) == 0
    return workdir


PARENT = {
    "optimizer__ema_decay": 0.9,
    "optimizer__schedule": "constant",
    "checkpoint__keep_latest": 9,
    "figures__num_images": 0,
    "log__every_steps": 1,
}


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("changes", [{}, {"optimizer__clip_norm": 1e9}], ids=["same", "clipped"])
def test_a_branch_without_a_difference_is_the_run_itself(parent, tmp_path, monkeypatch, changes):
    before = snapshot(parent)
    monkeypatch.chdir(parent.parent)
    # spelled otherwise at each start, and without the step it is the one that it began at
    how = {**PARENT, **changes}  # a clipped state has another structure
    c = make_config(**how, continue_from="parent@8", stop_at_step=10)
    assert train.run(c, tmp_path) == 75
    assert train.run(make_config(**how, continue_from=f"{parent}/"), tmp_path) == 0
    assert lines(tmp_path) == [line for line in lines(parent) if line["step"] > 8]
    equal(loading.load(tmp_path)[1], loading.load(parent)[1])
    assert snapshot(parent) == before
    record = json.loads((tmp_path / "continued_from.json").read_text())
    assert (record["run"], record["step"]) == (str(parent), 8)
    assert list(record["differences"]) == [key.replace("__", ".") for key in changes]
    with pytest.raises(UserError, match=r"continue_from: .*parent@8 there, .*parent@4 now"):
        train.run(make_config(**how, continue_from="parent@4"), tmp_path)


def test_a_branch_takes_state_and_position_with_it_and_changes_the_rest(parent, tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    changes = {
        **PARENT,
        "optimizer__clip_norm": 0.5,
        "optimizer__learning_rate": 2e-3,
        "optimizer__ema_decay": 0.0,
        "global_batch_size": 32,
        "log__sample_ids": True,
        "data__crop_size": 512,
        "mesh__preset": "fsdp",
        "num_steps": 16,
        "continue_from": f"{parent}@8",
    }
    assert train.run(make_config(**changes), tmp_path) == 0
    said = caplog.text
    for text in (
        "goes on at step 8 of",
        "the data go on at position 8, nothing is read twice; learning rate 0.01 -> 0.002",
        "optimizer.clip_norm",
    ):
        assert text in said
    read = [json.loads(x) for x in (tmp_path / "logs/samples_000.jsonl").read_text().splitlines()]
    assert [line["step"] for line in read] == list(range(9, 17))
    assert read[0]["ids"] == list(range(8000, 8032))
    record = json.loads((tmp_path / "continued_from.json").read_text())
    assert record["differences"]["optimizer.learning_rate"] == [0.01, 0.002]
    assert record["learning_rate"] == [0.01, 0.002]
    # larger crops: their tokens lie between the places that were learnt
    made = json.loads((tmp_path / "config.json").read_text())
    assert made["model"]["position_grid"] == 256 / made["model"]["patch_size"]


@pytest.mark.parametrize(
    "changes,text",
    [
        (
            {"continue_from": "{parent}@7"},
            "no whole checkpoint of step 7; there are [4, 8, 12]. Set"
            " --config.continue_from={parent}@8",
        ),
        (
            {"continue_from": "{parent}@8x"},
            "what follows the @ must be a step, as in {parent}@1000",
        ),
        ({"continue_from": "{parent}/none"}, "there is no folder {parent}/none"),
        (
            {"continue_from": "{parent}t@8"},
            "there is no folder {parent}t. Did you mean '{parent.name}'? Give the workdir",
        ),
        (
            {"continue_from": "{parent}"},
            "at step 12 of {parent}, and config.num_steps is 12: there would be no step to do",
        ),
        (
            {"continue_from": "{parent}@8", "optimizer__name": "adamw"},
            "optimizer.name: lion there, adamw here",
        ),
        (
            {"continue_from": "{parent}@8", "init_from": "{parent}"},
            "init_from:  there, {parent} here",
        ),
        (
            {"continue_from": "{parent}@8", "optimizer__schedule_from": 10},
            "Set --config.optimizer.schedule_from=8.",
        ),
        ({"continue_from": "{work}"}, "the --workdir itself"),
        ({"continue_from": "{parent}/checkpoints"}, "at step 12 of {parent}, and config.num_steps"),
        ({"continue_from": "{parent}/config.json"}, "Set --config.continue_from={parent}"),
        ({"continue_from": "{parent.parent}"}, "Runs in it are {parent}"),
        ({"continue_from": "s3://a/run"}, "an address: the state of a run is read from a folder"),
        ({"init_from": "s3://a/run"}, "an address: checkpoints are read from a folder"),
        ({"init_from": "{parent}@7"}, "config.init_from is {parent}@7: {parent}/checkpoints/7 doe"),
    ],
)
def test_what_cannot_go_on_is_told_with_the_way(parent, tmp_path, changes, text):
    places = {"parent": parent, "work": tmp_path}
    filled = {k: v.format(**places) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(UserError) as error:
        train.run(make_config(**PARENT, **filled), tmp_path)
    assert text.format(**places) in str(error.value)
    assert not (tmp_path / "config.json").exists()


def test_a_schedule_is_kept_from_the_rate_that_a_run_had(parent, tmp_path, caplog):
    how = {**PARENT, "optimizer__schedule": "warmup_linear", "continue_from": f"{parent}@8"}
    branch.begin(make_config(**how), tmp_path)
    (rate,) = re.findall(
        r"keep this schedule from the rate that it had: --config.optimizer.learning_rate=(\S+)",
        caplog.text,
    )
    branch.begin(make_config(**how, optimizer__learning_rate=float(rate)), tmp_path)
    record = json.loads((tmp_path / "continued_from.json").read_text())
    assert record["learning_rate"] == pytest.approx([0.01, 0.01], rel=1e-4)


def test_positions_in_the_data_go_on_over_branches_and_roll_backs(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    how = {"figures__num_images": 0, "log__sample_ids": True, "checkpoint__keep_latest": 9}
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", (5,))
    first = {**how, "divergence__action": "rollback", "batch_ramp": ((2, 32),)}
    assert train.run(make_config(**first, num_steps=8), tmp_path / "a") == 0
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", ())

    def branch(name, **changes):
        assert train.run(make_config(**how, **changes), tmp_path / name) == 0
        text = (tmp_path / name / "logs/samples_000.jsonl").read_text()
        read = [
            (one["step"], one["ids"][0] // 1000, len(one["ids"]))
            for one in map(json.loads, text.splitlines())
        ]
        return read, json.loads((tmp_path / name / "config.json").read_text())["batches_before"]

    # step 6 diverged, and after step 4 the data of two steps were left out
    read, before = branch("b", continue_from=f"{tmp_path / 'a'}@8", num_steps=10)
    assert read == [(9, 10, 16), (10, 11, 16)] and before == [[0, 16], [2, 32], [10, 16]]
    again = {"batch_ramp": ((11, 48),), "num_steps": 12, "continue_from": str(tmp_path / "b")}
    read, before = branch("c", **again, global_batch_size=32)
    assert read == [(11, 12, 48), (12, 13, 48)]
    assert before == [[0, 16], [2, 32], [10, 16], [12, 48]]
    record = json.loads((tmp_path / "c" / "continued_from.json").read_text())
    assert record["before"] == [{"run": str(tmp_path / "a"), "step": 8}]
    # another order: nothing of the history counts, and the order is no seed's first
    read, before = branch("d", continue_from=str(tmp_path / "b"), seed=1, num_steps=11)
    assert read == [(11, 12, 16)] and before == [[12, 16]]
    assert "the data begin anew: config.seed is another one" in caplog.text


def test_a_damaged_checkpoint_is_told_and_not_touched(parent, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(parent, other)
    file = max(
        (other / "checkpoints/8/params").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size
    )
    file.write_bytes(b"x" + file.read_bytes()[1:])
    before = snapshot(other)
    with pytest.raises(
        UserError,
        match=r"8 is damaged, and nothing goes on from it.*Set"
        r" --config.continue_from=.*@12 \(others are \[4, 12\]\)",
    ):
        train.run(make_config(**PARENT, continue_from=f"{other}@8"), tmp_path / "new")
    assert snapshot(other) == before
    for damage in ("{", '{"window": null}'):
        (other / "checkpoints/8/meta/metadata").write_text(damage)
        with pytest.raises(UserError, match=r"8 is damaged.*meta/metadata cannot be read"):
            train.run(make_config(**PARENT, continue_from=f"{other}@8"), tmp_path / "new")
    content = json.loads((other / "config.json").read_text()) | {"batches_before": [[3]]}
    (other / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"other/config.json was edited.*batches_before"):
        train.run(make_config(**PARENT, continue_from=f"{other}@8"), tmp_path / "new")


def test_what_stops_a_run_again_and_what_never_comes_are_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "phenomjax")
    c = make_config(num_steps=4, stop_at_step=2, batch_ramp=((9, 32),), figures__num_images=0)
    assert train.run(c, tmp_path) == 75
    assert "again with --config.stop_at_step=0, or a higher one, to continue at" in caplog.text
    assert "config.batch_ramp changes something from step 9 on, and the run ends" in caplog.text


def test_a_checkpoint_that_its_run_deletes_meanwhile_is_told(parent, tmp_path, monkeypatch):
    shutil.copytree(parent, tmp_path / "other")
    monkeypatch.setattr(branch.recovery, "damage", shutil.rmtree)
    with pytest.raises(UserError, match=r"8 was there and is gone: .*@12 .*keep_every_steps"):
        train.run(make_config(**PARENT, continue_from=f"{tmp_path}/other@8"), tmp_path / "new")


def test_what_was_refused_is_mended_in_the_same_folder(parent, tmp_path):
    """Nothing was saved, so the configuration that was refused does not hold the folder."""
    how = {**PARENT, "continue_from": f"{parent}@8", "num_steps": 9}
    refused = r"freeze: \(\) there, \('dense/bias',\) here. Set these keys as they are there; or"
    with pytest.raises(UserError, match=refused):
        train.run(make_config(**how, freeze=("dense/bias",)), tmp_path)
    assert not (tmp_path / "config.json").exists()  # before anything is set up
    assert train.run(make_config(**how), tmp_path) == 0
    with pytest.raises(UserError, match="another configuration: seed: 0 there, 1 now"):
        train.run(make_config(**how, seed=1), tmp_path)


def test_a_run_that_ended_at_no_rate_is_no_rate_to_go_on_with(tmp_path, caplog):
    how = {"optimizer__schedule": "warmup_linear", "figures__num_images": 0}
    assert train.run(make_config(**how, num_steps=4), tmp_path / "a") == 0
    again = {"continue_from": str(tmp_path / "a"), "num_steps": 8}
    assert train.run(make_config(**how, **again), tmp_path / "b") == 0
    # 1e-2 over 1 step and down over 3: a third of it at the fourth
    record = json.loads((tmp_path / "b" / "continued_from.json").read_text())
    np.testing.assert_allclose(record["learning_rate"], [1e-2 / 3, 4e-2 / 7], rtol=1e-3)
    assert "--config.optimizer.learning_rate=0.00333333" in caplog.text

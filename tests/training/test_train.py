"""The loop, with a task that compiles in a second: resume, topology, accumulation, divergence,
metrics, checkpoints.
"""

import json
import shutil

import jax
import numpy as np
import pytest

from phenomjax import config, sharding, train
from phenomjax.checkpoints import loading
from phenomjax.cluster import messages
from phenomjax.system.errors import UserError
from phenomjax.training import divergence
from tests.lab import toy_task

TOY = "tests.lab.toy_task:ToyTask"


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", ())


def make_config(**changes):
    c = config.base()
    c.task, c.num_steps, c.global_batch_size, c.data.simulate.plates = TOY, 12, 16, 1
    c.log.every_steps, c.eval.every_steps, c.eval.num_batches, c.checkpoint.every_steps = 3, 4, 2, 4
    c.optimizer.learning_rate = 1e-2
    c.log.tensorboard = False
    c.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return c


def lines(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in found]


def losses(workdir):
    return np.array([line["train/loss"] for line in lines(workdir) if "train/loss" in line])


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def use_devices(monkeypatch, count):
    """Lets the mesh use only the first devices."""

    def make_mesh(c):
        sizes = {"fsdp_tp": (count // 2, 2), "hsdp": (count // 2, 1, 2)}
        mesh = sizes.get(c.mesh.preset, (count,))
        return sharding.mesh_of(*mesh, devices=jax.devices()[:count])

    monkeypatch.setattr(sharding, "make_mesh", make_mesh)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A straight run on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        assert train.run(make_config(), workdir) == 0
    return workdir


def test_interrupted_run_equals_straight_run(tmp_path, monkeypatch):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    changes = {"optimizer__ema_decay": 0.9, "figures__every_steps": 8}
    assert train.run(make_config(**changes), straight) == 0
    # A signal at step 6, off every checkpoint and log step; at step 8 before its evaluation; and in
    # the middle of that evaluation.
    for stop_at, reached in ((8, 6), (2, 8), (2, 8)):
        calls = iter(range(1, 1000))
        monkeypatch.setattr(
            messages,
            "stop_requested",
            lambda calls=calls, stop_at=stop_at: next(calls) == stop_at,
        )
        code = train.run(make_config(**changes), broken)
        assert (code, loading.load(broken)[2]) == (75, reached)
    monkeypatch.setattr(messages, "stop_requested", lambda: False)
    assert train.run(make_config(**changes), broken) == 0
    assert lines(broken) == lines(straight)
    measured = [line for line in lines(broken) if "val/loss" in line]
    assert all(line["val/loss"] != line["val/loss_raw"] for line in measured)
    pictures = sorted(path.name for path in (broken / "figures").iterdir())
    assert pictures == ["toy_0000008.png", "toy_0000012.png"]
    equal(loading.load(broken)[1], loading.load(straight)[1])


def test_lines_beyond_the_checkpoint_are_written_once(alone, tmp_path, monkeypatch):
    use_devices(monkeypatch, 1)
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    before = lines(tmp_path)
    # as if the process was killed after step 11: lines exist, the last checkpoint does not
    for step in (12,):
        (tmp_path / "checkpoints" / str(step)).rename(tmp_path / "gone")
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 13, "train/lo')  # a torn line
    train.run(make_config(), tmp_path)
    assert lines(tmp_path) == before


def test_a_run_says_what_it_costs_and_reads(alone):
    size = json.loads((alone / "size.json").read_text())
    _, params, _ = loading.load(alone)
    loader = toy_task.ToyTask(make_config()).loader("train", 0, 1)
    assert size["params"] == sum(leaf.size for leaf in jax.tree.leaves(params)) > 0
    assert size["unit"] == loader.unit and size["data"] == loader.fingerprints
    assert size["units_per_step"] == 16 * loader.units_per_row
    assert size["units_per_epoch"] == loader.steps_per_epoch * size["units_per_step"]
    assert size["flops_per_step"] == toy_task.ToyTask(make_config()).flops(None)


@pytest.mark.parametrize("count,preset", [(2, "dp"), (4, "hsdp"), (8, "fsdp_tp")])
def test_every_mesh_gives_the_same_losses(alone, tmp_path, monkeypatch, count, preset):
    use_devices(monkeypatch, count)
    c = make_config(mesh__preset=preset, optimizer__accumulate_steps=2 if preset == "hsdp" else 1)
    train.run(c, tmp_path / "many")
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(alone), rtol=1e-6)


def test_resume_on_another_mesh(alone, tmp_path, monkeypatch):
    for count, preset, stop in ((8, "fsdp_tp", 5), (4, "hsdp", 9), (2, "fsdp", 0)):
        use_devices(monkeypatch, count)
        c = make_config(mesh__preset=preset, stop_at_step=stop)
        assert train.run(c, tmp_path / "moved") == (75 if stop else 0)
    np.testing.assert_allclose(losses(tmp_path / "moved"), losses(alone), rtol=1e-6)


def test_accumulation_equals_one_large_batch(alone, tmp_path):
    train.run(make_config(optimizer__accumulate_steps=2), tmp_path / "parts")
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(alone), rtol=1e-6)


def test_divergence_stops_and_names_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", (6,))
    with pytest.raises(
        UserError,
        match=(
            r"diverged at step 7: loss nan, gradient norm nan, learning rate .*toy image 6000, toy"
            r" image 6001"
        ),
    ) as error:
        train.run(make_config(), tmp_path)
    assert error.value.exit_code == 1
    assert loading.find(tmp_path).name == "4"  # nothing after the bad step was saved


def test_divergence_rolls_back_and_skips_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", (6,))
    assert train.run(make_config(divergence__action="rollback"), tmp_path / "rolled") == 0
    found = lines(tmp_path / "rolled")
    assert [line["step"] for line in found if "train/loss" in line] == [3, 6, 9, 12]
    assert found[-2]["train/rollbacks"] == 1 and np.isfinite(losses(tmp_path / "rolled")).all()
    # It equals a run that is stopped at step 4 and goes on three positions further in the data.
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", ())
    calls = iter(range(1, 100))
    monkeypatch.setattr(messages, "stop_requested", lambda: next(calls) == 4)
    train.run(make_config(), tmp_path / "moved")
    monkeypatch.setattr(messages, "stop_requested", lambda: False)
    monkeypatch.setattr(divergence.RollBacks, "data_step", lambda self, step: step + 3)
    train.run(make_config(), tmp_path / "moved")
    np.testing.assert_array_equal(losses(tmp_path / "moved"), losses(tmp_path / "rolled"))
    equal(loading.load(tmp_path / "moved")[1], loading.load(tmp_path / "rolled")[1])


def test_rollbacks_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_task.ToyLoader, "bad_steps", tuple(range(5, 40)))
    with pytest.raises(
        UserError, match="Stopped after 3 roll-backs; the last good checkpoint is step 4"
    ) as error:
        train.run(make_config(divergence__action="rollback"), tmp_path)
    assert "action=rollback" not in str(error.value)  # which did not help
    assert f"--config.continue_from={tmp_path}@4" in str(error.value)


def test_exploding_gradient_counts_as_diverged(tmp_path):
    with pytest.raises(UserError, match="diverged at step 1") as error:
        train.run(make_config(divergence__max_grad_norm=1e-6, optimizer__clip_norm=0.5), tmp_path)
    text = str(error.value)
    assert "no checkpoint was written before" in text and "None" not in text
    assert "clip_norm=0.25 (now 0.5)" in text  # not what was there
    assert "above config.divergence.max_grad_norm 1e-06, and nothing else was wrong" in text
    assert "In this one: --config.divergence.action=rollback" in text


def test_latest_and_best_checkpoints_and_every_so_many_stay(tmp_path):
    keep = {"checkpoint__every_steps": 2, "checkpoint__keep_every_steps": 9}
    for num_steps, latest in ((20, {18, 20}), (24, {22, 24})):
        changes = {"num_steps": num_steps, "optimizer__learning_rate": 3e-2, **keep}
        train.run(make_config(optimizer__schedule="constant", **changes), tmp_path)
        steps = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
        val = {line["step"]: line["val/loss"] for line in lines(tmp_path) if "val/loss" in line}
        assert steps == latest | {min(val, key=val.get), 9, 18}


def test_what_is_measured_before_the_first_step(alone, tmp_path, monkeypatch):
    use_devices(monkeypatch, 1)
    assert train.run(make_config(eval__at_start=True, checkpoint__keep_latest=9), tmp_path) == 0
    first, *others = lines(tmp_path)
    assert set(first) == {"step", "val/loss"} and first["step"] == 0 and others == lines(alone)
    # the start is a candidate for the best
    assert (tmp_path / "checkpoints" / "0").is_dir()
    # a signal at once, and it is measured after the restart
    again = make_config(eval__at_start=True)
    monkeypatch.setattr(messages, "stop_requested", lambda: True)
    assert train.run(again, tmp_path / "again") == 75 and lines(tmp_path / "again") == []
    monkeypatch.setattr(messages, "stop_requested", lambda: False)
    assert train.run(again, tmp_path / "again") == 0
    assert lines(tmp_path / "again") == lines(tmp_path)


def test_checkpoints_by_the_clock_and_by_steps(tmp_path):
    keep = {"checkpoint__keep_latest": 20, "checkpoint__keep_best": 0, "checkpoint__every_steps": 5}
    train.run(make_config(checkpoint__every_minutes=1e-9, **keep), tmp_path / "clock")
    train.run(make_config(checkpoint__every_minutes=0.0, **keep), tmp_path / "steps")
    steps = {
        name: sorted(int(p.name) for p in (tmp_path / name / "checkpoints").iterdir())
        for name in ("clock", "steps")
    }
    # the clock is read at log steps
    assert steps == {"clock": [3, 5, 6, 9, 10, 12], "steps": [5, 10, 12]}


def test_init_from_loads_parameters_only(tmp_path, caplog):
    train.run(make_config(), tmp_path / "first")
    c = make_config(
        init_from=str(tmp_path / "first"),
        num_steps=1,
        optimizer__learning_rate=0.0,
        optimizer__schedule="constant",
    )
    with caplog.at_level("INFO", "phenomjax"):
        train.run(c, tmp_path / "second")
    equal(loading.load(tmp_path / "second")[1], loading.load(tmp_path / "first")[1])
    assert "0.00 M parameters in 2 arrays loaded from" in caplog.text
    assert lines(tmp_path / "second")[0]["step"] == 1


def test_checkpoint_of_another_model_is_refused(tmp_path, monkeypatch):
    train.run(make_config(), tmp_path / "first")
    monkeypatch.setattr(toy_task, "WIDTH", 4)
    with pytest.raises(
        UserError, match=r"2 arrays differ: dense/bias: float32 \(8,\) there, float32 \(4,\) wanted"
    ):
        train.run(make_config(init_from=str(tmp_path / "first")), tmp_path / "second")


def test_workdir_of_another_config_is_refused(tmp_path):
    train.run(make_config(num_steps=1), tmp_path)
    with pytest.raises(
        UserError, match=r"another configuration: seed: 0 there, 1 now.*another --workdir"
    ):
        train.run(make_config(num_steps=1, seed=1), tmp_path)


def test_checkpoints_without_their_config_are_refused(tmp_path):
    train.run(make_config(num_steps=1), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"There is no .*config.json: .* lost its configuration"):
        train.run(make_config(num_steps=2), tmp_path)


def test_changed_data_are_refused(tmp_path, monkeypatch):
    train.run(make_config(num_steps=4), tmp_path)
    init, prints = toy_task.ToyLoader.__init__, {}

    def changed(self, *args):
        init(self, *args)
        prints.setdefault("its", self.fingerprints["toy"])
        self.fingerprints = {prints["name"]: prints.get("other", prints["its"])}

    monkeypatch.setattr(toy_task.ToyLoader, "__init__", changed)
    prints["name"] = "renamed"  # the same data
    train.run(make_config(num_steps=6), tmp_path)
    for prints["name"] in ("renamed", "another"):
        prints["other"] = "2"
        with pytest.raises(UserError, match=r"data changed since .* step 6: renamed"):
            train.run(make_config(num_steps=8), tmp_path)


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        train.run(make_config(), tmp_path / "file" / "run")


def test_batch_that_does_not_divide(tmp_path):
    with pytest.raises(
        UserError, match=r"12 crops do not divide over the 8 devices.*global_batch_size=16"
    ):
        train.run(make_config(global_batch_size=12), tmp_path)
    with pytest.raises(
        UserError, match=r"batches of 20 rows, .* over the 8 devices.* multiples of"
    ):
        train.run(make_config(batch_ramp=((2, 20),)), tmp_path)

"""Whole runs as processes, through the front door: signals, kills, several processes; all with the real task on a small screen."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT

from phenomjax import checkpoint
from phenomjax.data.simulate import SimulationConfig, write_screen

pytestmark = pytest.mark.slow
STEPS = 1000  # enough that a signal, which takes JAX a second, arrives before the end


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "screen.zarr"
    write_screen(path, SimulationConfig(num_plates=2, wells_per_plate=24, sites_per_well=1, field_px=96), jobs=1)
    return path


@pytest.fixture(scope="module")
def straight(bank, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    assert start(bank, workdir).wait(timeout=300) == 0
    return workdir


def start(bank, workdir, *extra, devices=1):
    """Starts a run of a tiny model; stderr goes to WORKDIR.log."""
    settings = {
        "num_steps": STEPS, "global_batch_size": 8, "data.banks": f"('{bank}',)", "data.crop_size": 32, "data.val_fraction": 0.5,
        "model.embed_dim": 32, "model.depth": 2, "model.num_heads": 2, "model.patch_size": 8, "model.drop_path": 0.1,
        "model.decoder_dim": 32, "model.decoder_depth": 1, "model.decoder_num_heads": 2, "log.every_steps": 50, "log.tensorboard": False,
        "eval.every_steps": 200, "eval.num_batches": 2, "checkpoint.every_steps": 60, "optimizer.learning_rate": 1e-3,
    }  # fmt: skip
    command = [sys.executable, "-m", "phenomjax.main", "--config", "configs/mae.py:S/8", "--workdir", str(workdir)]
    command += [f"--config.{name}={value}" for name, value in settings.items()] + list(extra)
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=open(f"{workdir}.log", "ab"))


def lines(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in found]


def losses(workdir):
    return [line["train/loss"] for line in lines(workdir) if "train/loss" in line]


def assert_same_run(a, b):
    assert lines(a) == lines(b)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load(a)[1], checkpoint.load(b)[1])


def saved(workdir):
    return [0, *(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())]


def wait_for_step(workdir, step, process):
    """Returns when a checkpoint shows that the step was reached, or the process ended."""
    for _ in range(6000):
        if max(saved(workdir)) >= step or process.poll() is not None:
            return
        time.sleep(0.02)
    raise TimeoutError(f"{workdir} did not reach step {step}")


def test_sigterm_saves_and_the_same_command_continues(bank, straight, tmp_path):
    process = start(bank, tmp_path / "run")
    wait_for_step(tmp_path / "run", 60, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    reached = checkpoint.load(tmp_path / "run")[2]
    assert 60 <= reached < STEPS
    assert f"run the same command again to continue at step {reached}" in (tmp_path / "run.log").read_text()
    assert start(bank, tmp_path / "run").wait(timeout=300) == 0
    assert_same_run(tmp_path / "run", straight)


def test_killed_at_random_moments_the_run_is_the_same(bank, straight, tmp_path):
    rng, kills = np.random.default_rng(0), 0
    for _ in range(4):
        process = start(bank, tmp_path / "run")
        wait_for_step(tmp_path / "run", min(max(saved(tmp_path / "run")) + 60, 900), process)
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        kills += process.wait(timeout=60) == -signal.SIGKILL
    assert kills >= 3
    assert start(bank, tmp_path / "run").wait(timeout=300) == 0
    assert_same_run(tmp_path / "run", straight)


# Lion moves by the sign of the momentum, so the last digit of a sum over devices can flip a whole step: other topologies are compared with AdamW.
SMOOTH = ["--config.optimizer.name=adamw", "--config.optimizer.learning_rate=1e-4", "--config.num_steps=400"]


@pytest.fixture(scope="module")
def smooth(bank, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "smooth"
    assert start(bank, workdir, *SMOOTH).wait(timeout=300) == 0
    return workdir


def start_two(bank, workdir, *extra, devices=1):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        flags = ["--coordinator", f"127.0.0.1:{s.getsockname()[1]}", "--num_processes=2", *SMOOTH, *extra]
    return [start(bank, workdir, *flags, f"--process_id={i}", devices=devices) for i in (0, 1)]


def test_two_processes_equal_one(bank, smooth, tmp_path):
    both = start_two(bank, tmp_path / "run", "--config.mesh.preset=fsdp", devices=2)
    assert [process.wait(timeout=400) for process in both] == [0, 0]
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(smooth), rtol=1e-6)


def test_two_processes_stop_together_and_one_goes_on(bank, smooth, tmp_path):
    both = start_two(bank, tmp_path / "run")
    wait_for_step(tmp_path / "run", 60, both[0])
    both[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=200) for process in both] == [75, 75]
    assert start(bank, tmp_path / "run", *SMOOTH).wait(timeout=300) == 0
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(smooth), rtol=1e-6)

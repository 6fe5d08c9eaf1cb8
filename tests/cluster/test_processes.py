"""A real run as a process, through the front door: a signal, and the same command again. Several
processes: test_elastic, test_slurm.
"""

import json
import signal
import sys
import time

import jax
import numpy as np
import pytest

from phenomjax.checkpoints import loading
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from tests.lab import ROOT, warm

pytestmark = pytest.mark.slow
STEPS = 120
# The front door with steps that wait: a signal, which takes JAX a second, comes before the last.
MAIN = """
import runpy, time
from phenomjax.cluster import messages
asked = messages.stop_requested
messages.stop_requested = lambda: time.sleep(0.03) or asked()
runpy.run_module("phenomjax.main", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "screen.zarr"
    write_screen(
        path,
        SimulationConfig(num_plates=2, wells_per_plate=24, sites_per_well=1, field_px=64),
        jobs=1,
    )
    return path


@pytest.fixture(scope="module")
def straight(bank, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    assert start(bank, workdir).wait(timeout=300) == 0
    return workdir


def start(bank, workdir):
    """Starts a run of a tiny model; stderr goes to WORKDIR.log."""
    settings = {
        "num_steps": STEPS,
        "global_batch_size": 8,
        "data.banks": f"('{bank}',)",
        "data.crop_size": 32,
        "data.val_fraction": 0.5,
        "model.embed_dim": 24,
        "model.depth": 1,
        "model.num_heads": 2,
        "model.patch_size": 8,
        "model.drop_path": 0.1,
        "model.decoder_dim": 24,
        "model.decoder_depth": 1,
        "model.decoder_num_heads": 2,
        "log.every_steps": 20,
        "log.tensorboard": False,
        "eval.every_steps": 60,
        "eval.num_batches": 2,
        "checkpoint.every_steps": 20,
        "optimizer.learning_rate": 1e-3,
    }
    command = [
        sys.executable,
        "-c",
        MAIN,
        "--config",
        "configs/mae.py:S/8",
        "--workdir",
        str(workdir),
    ]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    return warm.Popen(command, cwd=ROOT, stderr=open(f"{workdir}.log", "ab"))


def lines(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in found]


def assert_same_run(a, b):
    assert lines(a) == lines(b)
    jax.tree.map(np.testing.assert_array_equal, loading.load(a)[1], loading.load(b)[1])


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
    wait_for_step(tmp_path / "run", 20, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    reached = loading.load(tmp_path / "run")[2]
    assert 20 <= reached < STEPS
    assert (
        f"run the same command again to continue at step {reached}"
        in (tmp_path / "run.log").read_text()
    )
    assert start(bank, tmp_path / "run").wait(timeout=300) == 0
    assert_same_run(tmp_path / "run", straight)

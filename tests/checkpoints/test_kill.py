"""SIGKILL at random moments while a checkpoint is written: the one before is whole and found, and
the run ends as if nothing had happened.
"""

import collections
import json
import os
import signal
import sys
import time

import jax
import numpy as np
import pytest

from phenomjax.checkpoints import loading, seal, workdir
from tests.lab import ROOT, warm

pytestmark = pytest.mark.slow


def start(folder, num_steps, every_steps=2):
    """Starts a run with a state of 18 MB; stderr goes to WORKDIR.log."""
    settings = {
        "num_steps": num_steps,
        "global_batch_size": 8,
        "log.every_steps": 4,
        "log.tensorboard": False,
        "eval.every_steps": 0,
        "checkpoint.every_steps": every_steps,
        "checkpoint.keep_best": 0,
        "checkpoint.keep_latest": 1,
    }
    command = [
        sys.executable,
        "tests/lab/toy_main.py",
        "--config",
        "configs/mae.py:S/8",
        "--workdir",
        str(folder),
    ]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    environment = {**os.environ, "TOY_WIDTH": "1500"}
    with open(f"{folder}.log", "ab") as log:
        return warm.Popen(command, cwd=ROOT, env=environment, stderr=log)


def present(folder):
    """(sealed steps, what else stands there) in WORKDIR/checkpoints."""
    checkpoints = folder / "checkpoints"
    names = {p.name for p in checkpoints.iterdir()} if checkpoints.is_dir() else set()
    sealed = {n for n in names if n.isdigit() and seal.sealed(checkpoints / n)}
    return sorted(map(int, sealed)), names - sealed


def wait_for(condition, process):
    """Returns when the condition holds."""
    for _ in range(60000):
        if condition():
            return
        assert process.poll() is None, f"the run ended with {process.returncode}"
        time.sleep(0.002)
    raise TimeoutError("the run did not come so far")


def writing(folder, committed):
    """Whether a checkpoint is being written, or is committed and not yet sealed."""
    return any(name.isdigit() if committed else "orbax" in name for name in present(folder)[1])


def metrics(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in found]


def test_killed_while_a_checkpoint_is_written(tmp_path, count):
    kills, rng, folder, log = (
        count(3, 100),
        np.random.default_rng(),
        tmp_path / "run",
        tmp_path / "run.log",
    )
    num_steps, counts, window, since = 8 * kills, collections.Counter(), 0.0, time.monotonic()
    for number in range(kills):
        old = present(folder)[1]
        size = log.stat().st_size if number else 0
        process = start(folder, num_steps)
        newest = max(present(folder)[0], default=0)
        wait_for(
            lambda newest=newest: max(present(folder)[0], default=0) > newest, process
        )  # so what was left is cleaned
        said = ", ".join(sorted(f"{name} (not sealed)" if name.isdigit() else name for name in old))
        assert not old or f"what an interrupted start left: {said}" in log.read_text()[size:]
        wait_for(lambda: writing(folder, committed=False), process)
        begun = time.monotonic()
        # the time between commit and seal is short: a third of the kills aims at it
        if number % 3 == 0:
            wait_for(lambda: writing(folder, committed=True), process)
            window = max(window, time.monotonic() - begun)
        else:
            time.sleep(rng.uniform(0, window))
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
        sealed, rest = present(folder)
        unsealed, tmp = any(n.isdigit() for n in rest), any("orbax" in n for n in rest)
        stages = {
            "committed, not sealed": unsealed,
            "being written": tmp,
            "being deleted": rest,
            "between writes": True,
        }
        counts[next(stage for stage, there in stages.items() if there)] += 1
        counts["in a write"] += unsealed or tmp
        assert sealed, "no sealed checkpoint is left"
        assert seal.damage(folder / "checkpoints" / str(sealed[-1])) == []
        assert loading.find(folder).name == str(sealed[-1])
        assert workdir.recorded_step(folder) <= sealed[-1]
    last = max(present(folder)[0])
    assert start(folder, num_steps).wait(timeout=600) == 0
    text = log.read_text()
    assert f"continuing at step {last} from" in text and text.count("continuing at step") == kills
    print(
        f"\n{kills} kills in {time.monotonic() - since:.0f} s: {counts.pop('in a write')} in a"
        f" write {dict(counts)}, window {window:.2f} s"
    )
    assert "damaged" not in text and not (folder / "checkpoints.damaged").exists()
    assert present(folder) == ([num_steps], set())
    straight = tmp_path / "straight"
    assert start(straight, num_steps, every_steps=num_steps).wait(timeout=600) == 0
    assert metrics(folder) == metrics(straight)
    jax.tree.map(np.testing.assert_array_equal, loading.load(folder)[1], loading.load(straight)[1])

"""A sweep as a job array of a real SLURM, which loses a worker."""

import json
import os
import signal

import pytest

from tests.sweep.test_sweep_run import check, finish, running, start, until


@pytest.mark.slow
def test_a_job_array_on_slurm_loses_a_worker(tmp_path, slurm):
    slurm.up()  # all nodes that a test before this one crashed
    folder = tmp_path / "study"
    environment = {"SLURM_CONF": slurm.conf, "PYTHONUNBUFFERED": "1"}
    arguments = (
        "--launcher",
        "slurm",
        "--workers",
        "4",
        "--sbatch=--exclusive",
        "--trials",
        "8",
        "--eta",
        "2",
        "--min_steps",
        "8",
    )
    process = start(folder, *arguments, TOY_STEP_SECONDS="0.1", **environment)
    worker = until(process, lambda: next(iter(running(folder).values()), None), "a worker at work")
    os.kill(worker, signal.SIGKILL)
    process.send_signal(signal.SIGINT)  # the front door only follows
    text = finish(process, folder, code=75)
    assert "no longer following" in text
    text = finish(start(folder, *arguments, **environment), folder)
    # submitted once, followed twice
    assert text.count("workers; their logs") == 1 and "best: trial" in text
    check(folder, 8)
    hosts = {json.loads(p.read_text())["host"] for p in folder.glob("claims/trial_*/[0-9]*")}
    assert len(hosts) == 4 and all(host.startswith("lab") for host in hosts)

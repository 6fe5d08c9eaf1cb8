"""A ladder as a job array of a real SLURM."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.lab import ROOT
from tests.lab.slurm import wait_until
from tests.scaling.test_ladder_run import WORDS, ladder, steps_of  # noqa: F401  a fixture


def test_workers_of_a_slurm_array(ladder, request):  # noqa: F811
    """Left alone by its front door, which comes back to it."""
    if not request.config.getoption("--full"):
        pytest.skip("the launchers are those of sweeps, which are tested there: run with --full")
    slurm = request.getfixturevalue("slurm")  # not started in vain
    words = [*WORDS, "--budgets", "1e9,2e9", "--out", str(ladder.folder)]
    words += ["--launcher", "slurm", "--workers", "2"]
    environment = os.environ | {"SLURM_CONF": slurm.conf, "TOY_STEP_SECONDS": "0.05"}
    command_line = [sys.executable, "-m", "phenomjax.scaling", "ladder", *words]
    process = subprocess.Popen(command_line, cwd=ROOT, env=environment)
    wait_until(lambda: steps_of(ladder.folder), "a trial that saves")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 75
    done = subprocess.run(command_line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "4 of 4 runs complete" in done.stdout, done.stderr
    hosts = [json.loads(p.read_text())["host"] for p in ladder.folder.glob("claims/trial_*/*")]
    assert {host[:3] for host in hosts} == {"lab"}

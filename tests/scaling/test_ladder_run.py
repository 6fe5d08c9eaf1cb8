"""Ladders that are trained: killed and continued, extended, with runs that diverge and runs that
fail.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from phenomjax.scaling.ladder import command, record
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from tests.lab import ROOT, warm
from tests.lab.doors import run_as_door
from tests.lab.slurm import wait_until
from tests.scaling.test_ladder_plan import PLATE, SCREEN

pytest.importorskip("optuna")
from phenomjax.sweep import launchers
from phenomjax.sweep.worker import Worker

TRIAL = f"{sys.executable} {ROOT / 'tests' / 'lab' / 'toy_trial.py'}"
WORDS = ["--config", "configs/mae_demo.py", *SCREEN, *PLATE, "--flops_per_second", "1e9"]
WORDS += ["--sizes", "32x1,64x1", "--min_steps", "4"]


# the command, with its plan in its own process
DOOR = """
import sys
from phenomjax.scaling.ladder import command
from tests.lab.doors import run_as_door
command.run_tasks = lambda _, tasks, *rest: map(command.planned, tasks)
sys.exit(run_as_door(command, sys.argv[1:]))
"""


@pytest.fixture
def ladder(tmp_path, monkeypatch):
    """Runs the command on a folder, with trials of milliseconds: (exit code, what it printed)."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PHENOMJAX_MAIN", TRIAL)
    monkeypatch.setenv("TOY_STEP_SECONDS", "0")
    # plans and workers in this process, which has started JAX already
    monkeypatch.setattr(launchers, "local", lambda study, *_: Worker(study).run())
    monkeypatch.setattr(command, "run_tasks", lambda _, tasks, *rest: map(command.planned, tasks))

    def run(*words):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = run_as_door(command, [*WORDS, "--out", tmp_path / "ladder", *words])
        return code, said.getvalue()

    run.folder = tmp_path / "ladder"
    return run


def starts(folder):
    return {path.parent.name: path.read_text() for path in folder.glob("trials/*/starts")}


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_ladder_is_planned_trained_and_extended(ladder):
    code, plan = ladder("--budgets", "1e9,3e9", "--plan")
    assert code == EXIT_DONE and "4 runs" in plan and "next: the same command" in plan
    assert not (ladder.folder / "ladder.json").exists()
    code, said = ladder("--budgets", "1e9,3e9")
    assert code == EXIT_DONE and "4 of 4 runs complete" in said
    assert f"next: python -m phenomjax.scaling fit {ladder.folder} --out forecast/" in said
    before = starts(ladder.folder)
    assert sorted(before) == ["0000", "0001", "0002", "0003"]
    content = json.loads((ladder.folder / "ladder.json").read_text())
    assert [run["workdir"] for run in content["runs"]] == [f"trials/000{i}" for i in range(4)]
    for run in content["runs"]:
        metrics = (ladder.folder / run["workdir"] / "metrics.jsonl").read_text().splitlines()
        assert json.loads(metrics[-1])["step"] == run["steps"]
    # more budgets, seeds and looks extend it; what is done is not done again
    code, said = ladder("--budgets", "2e9", "--seeds", "0,7", "--evaluations", "20")
    assert code == EXIT_DONE and "8 of 8 runs complete" in said
    assert before.items() <= starts(ladder.folder).items() and len(starts(ladder.folder)) == 8
    with pytest.raises(UserError, match=r"by other rules: exponents was .* give another folder to"):
        ladder("--budgets", "1e9", "--rate_exponent", "0.1")
    with pytest.raises(UserError, match=r"config.model.mask_ratio was 0.6, is now 0.5"):
        ladder("--budgets", "1e9", "--config.model.mask_ratio=0.5")
    (ladder.folder / "ladder.json").write_text("{}")
    with pytest.raises(UserError, match=r"ladder.json is damaged .* fit them as they are"):
        ladder("--budgets", "1e9")


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_what_diverged_stays_and_what_failed_is_tried_again(ladder, monkeypatch):
    """The toy diverges above a learning rate of 0.5, and fails below 1e-5."""
    rates = iter((0.9, 1e-6))
    planned = command.planned

    def spoilt(options):
        found, *rest = planned(options)
        for run in found.runs:
            if run.size == "64x1":
                run.settings["optimizer.learning_rate"] = next(rates, 0.01)
        return found, *rest

    monkeypatch.setattr(command, "planned", spoilt)
    code, said = ladder("--budgets", "1e9,2e9")
    assert code == EXIT_FAILED and "2 of 4 runs complete" in said
    assert "trials/0001 (64x1 at 1e+09 FLOPs) diverged: Training diverged at step 3" in said
    assert "trials/0003 (64x1 at 2e+09 FLOPs) failed: config.optimizer.learning_rate" in said
    assert "mend what failed, and run the same command again" in said
    # mended: the same command runs it anew, in another folder, and leaves the rest alone
    path = ladder.folder / "ladder.json"
    path.write_text(path.read_text().replace("1e-06", "0.02"))
    monkeypatch.setattr(command, "planned", planned_of(ladder.folder))
    code, said = ladder("--budgets", "1e9,2e9")
    assert code == EXIT_FAILED and "3 of 4 runs complete" in said and "failed" not in said
    assert "trials/0001 (64x1 at 1e+09 FLOPs) diverged" in said
    after = starts(ladder.folder)
    assert sorted(after) == ["0000", "0001", "0002", "0004"]
    assert (ladder.folder / ".failed" / "0003" / "trial.log").exists()
    assert record.load(ladder.folder).workdir(3) == "trials/0004"


def planned_of(folder):
    """What is on disk, as it is."""
    return lambda options: (record.load(folder), [], [])


def test_a_killed_ladder_goes_on(ladder, count):
    """Its command is killed, at any time, with all that it started."""
    kills, words = count(1, 20), [*WORDS, "--budgets", "1e9,2e9", "--out", str(ladder.folder)]
    environment, said = os.environ | {"TOY_STEP_SECONDS": "0.02"}, subprocess.DEVNULL
    for number in range(kills):
        process = warm.Popen([sys.executable, "-c", DOOR, *words], ROOT, environment, said, said)
        wait_until(lambda n=number: len(steps_of(ladder.folder)) > n, "a trial that saves")
        time.sleep(0.05 * (number % 5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    code, said = ladder("--budgets", "1e9,2e9")
    assert code == EXIT_DONE and "4 of 4 runs complete" in said
    assert not list(ladder.folder.glob("trials/*/collision"))


def steps_of(folder):
    """{file: text} of the progress of trials, and their starts."""
    paths = [*folder.glob("trials/*/progress"), *folder.glob("trials/*/starts")]
    return [line for path in paths for line in path.read_text().splitlines()]

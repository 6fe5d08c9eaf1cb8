"""Whole sweeps: workers that are killed or told to stop, and a database."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phenomjax.cluster.start import free_port
from tests.lab import ROOT, warm
from tests.lab.slurm import wait_until

pytest.importorskip("optuna")
from phenomjax.sweep import sampling, space, study

TRIAL = f"{sys.executable} {ROOT / 'tests' / 'lab' / 'toy_trial.py'}"
MAIN = f"{sys.executable} {ROOT / 'tests' / 'lab' / 'toy_main.py'}"


def command(folder, *arguments):
    return [
        sys.executable,
        "-m",
        "phenomjax.sweep",
        "--config",
        "tests/lab/toy_sweep.py",
        "--study",
        str(folder),
        *arguments,
    ]


def start(folder, *arguments, program=TRIAL, **variables):
    """Starts a sweep with the toy trial; its output goes to FOLDER.out."""
    environment = os.environ | {"PHENOMJAX_MAIN": program} | variables
    with Path(f"{folder}.out").open("a") as output:
        return warm.Popen(
            command(folder, *arguments),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def until(process, condition, what):
    """Waits for a state of a sweep that runs."""

    def look():
        # asked first: what a sweep did last is there when it has ended
        ended = process.poll() is not None
        value = condition()
        assert value or not ended, f"the sweep ended before {what}"
        return value

    return wait_until(look, what)


def finish(process, folder, code=0):
    assert process.wait(300) == code, Path(f"{folder}.out").read_text() + "".join(
        f.read_text() for f in folder.glob("workers/*/log")
    )
    return Path(f"{folder}.out").read_text()


def trials(folder):
    return study.Study(study.load(folder)).trials()


def running(folder):
    """{thing: pid} of what living workers hold."""
    found = {}
    for thing in folder.glob("claims/trial_*"):
        with contextlib.suppress(OSError, ValueError):
            newest = json.loads(max(thing.glob("[0-9]" * 5)).read_text())
            if not newest["released"]:
                found[thing.name] = newest["pid"]
    return found


def check(folder, count, steps=32):
    """All trials came to an end, never two at once in a folder; whoever went on began where it had
    saved.
    """
    assert not list(folder.glob("trials/*/collision"))
    found = trials(folder)
    assert [t.number for t in found] == list(range(count)) and all(
        t.state.is_finished() for t in found
    )
    complete = [t for t in found if t.state.name == "COMPLETE"]
    assert complete and all(max(t.intermediate_values) == steps for t in complete)
    for t in found:
        lines = [
            json.loads(x)
            for x in (
                (folder / "trials" / f"{t.number:04d}" / "metrics.jsonl").read_text().splitlines()
            )
        ]
        losses = {x["step"]: x["val/loss"] for x in lines if "val/loss" in x}
        assert losses == t.intermediate_values and len(losses) == sum(
            "val/loss" in x for x in lines
        )
        assert losses or t.user_attrs["outcome"].startswith(("diverged", "failed"))
    return found


def test_a_sweep_with_killed_workers_is_done_and_extended(tmp_path, count):
    kills = count(2, 40)
    folder, trials_, killed = tmp_path / "study", 3 * kills, []
    arguments = ("--eta", "2", "--min_steps", "8", "--sampler", "random")
    process = start(
        folder,
        "--trials",
        str(trials_),
        "--workers",
        count("2", "3"),
        *arguments,
        TOY_STEP_SECONDS="0.05",
    )
    while len(killed) < kills:
        thing, pid = until(
            process, lambda: next(iter(running(folder).items()), None), "a worker at work"
        )
        time.sleep(0.3 * random.random())  # while it is at work: a trial may take 0.4 s
        if running(folder).get(thing) == pid:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            until(
                process,
                lambda thing=thing, pid=pid: running(folder).get(thing) != pid,
                f"{thing} to be taken up",
            )
    text = finish(process, folder)
    found = check(folder, trials_)
    print(
        f"killed {len(killed)} workers, {sum(t.user_attrs['starts'] for t in found)} starts of"
        f" {trials_} trials"
    )
    assert text.count("ended with code -9; starting it again") == len(killed)
    claims = [json.loads(p.read_text()) for p in folder.glob("claims/trial_*/[0-9]*")]
    assert {c["pid"] for c in claims if not c["released"]} <= set(killed)
    # The table ranks by rung and loss; its command is the winner's.
    best = min((t for t in found if t.state.name == "COMPLETE"), key=lambda t: t.value)
    assert f"best: trial {best.number:04d}, val/loss {best.value:.4f} at step 32" in text
    assert (
        f"--config.optimizer.learning_rate={best.params['optimizer.learning_rate']}"
        in text.splitlines()[-1]
    )
    assert {p.name for p in (folder / "figures").iterdir()} == {
        "importance.png",
        "parallel_coordinate.png",
        "curves.png",
    }
    assert [t.params for t in found] == [
        _random(folder, i) for i in range(trials_)
    ]  # whoever asked, and in whatever order
    before = {p: p.read_text() for p in folder.glob("trials/*/starts")}
    finish(start(folder, "--trials", str(trials_ + 2), "--workers", "1", *arguments), folder)
    check(folder, trials_ + 2)
    assert {p: p.read_text() for p in before} == before  # what was done is not done again


def _random(folder, number):
    return sampling.propose("random", space.from_json(study.load(folder).space), 0, [None] * number)


def test_bad_trials_are_recorded_and_the_sweep_goes_on(tmp_path):
    config = tmp_path / "config.py"
    source = (ROOT / "tests" / "lab" / "toy_sweep.py").read_text().partition("def search_space")[0]
    values = "1e-6, 0.01, 0.9, 0.02"
    config.write_text(
        f'{source}\n\ndef search_space():\n    return {{"optimizer.learning_rate":'
        f" choice({values})}}\n"
    )
    folder = tmp_path / "study"
    words = ("--sampler", "grid", "--eta", "2", "--workers", "1", "--config", str(config))
    text = finish(start(folder, *words), folder)
    states = {t.params["optimizer.learning_rate"]: t for t in trials(folder)}
    assert (
        states[1e-6].state.name == "FAIL"
        and "that is too low" in states[1e-6].user_attrs["outcome"]
    )
    assert states[0.9].state.name == "PRUNED" and states[0.9].user_attrs["outcome"].startswith(
        "diverged: Training diverged at step 3"
    )
    assert states[0.01].state.name == "COMPLETE" and states[0.02].state.name in (
        "COMPLETE",
        "PRUNED",
    )
    assert (
        "1 diverged, 1 failed" in text
        and states[0.9].user_attrs["starts"] == states[1e-6].user_attrs["starts"] == 1
    )


def test_a_stopped_sweep_goes_on_with_the_same_command(tmp_path):
    folder = tmp_path / "study"
    arguments = ("--trials", "3", "--pruner", "none", "--workers", "2")
    process = start(folder, *arguments, TOY_STEP_SECONDS="0.3")
    wait_until(
        lambda: sum("\n" in p.read_text() for p in folder.glob("trials/*/progress")) == 2,
        "two trials that saved",
    )
    process.terminate()
    text = finish(process, folder, code=75)
    assert "each trial is saved at its next step" in text and not running(folder)
    saved = {p.parent.name: int(p.read_text()) for p in folder.glob("trials/*/progress")}
    assert min(saved.values()) > 0 and max(saved.values()) < 32
    finish(start(folder, *arguments), folder)
    assert all(t.state.name == "COMPLETE" for t in check(folder, 3))
    for name, step in saved.items():
        assert (folder / "trials" / name / "starts").read_text().split()[3] == str(step)


@pytest.mark.slow
def test_a_real_run_is_promoted_and_goes_on_after_its_worker_was_killed(tmp_path):
    folder = tmp_path / "study"
    arguments = ("--trials", "1", "--workers", "1", "--eta", "2", "--min_steps", "16")
    arguments += ("--config.num_steps=24",)
    process = start(folder, *arguments, program=MAIN, TOY_STEP_SECONDS="0.2")
    first = folder / "trials" / "0000"
    until(
        process,
        lambda: (
            first.joinpath("progress").exists() and int(first.joinpath("progress").read_text()) > 0
        ),
        "a saved trial",
    )
    worker = until(process, lambda: running(folder).get("trial_0000"), "its worker")
    os.kill(worker, signal.SIGKILL)
    finish(process, folder)
    assert check(folder, 1, steps=24)[0].user_attrs["starts"] == 3
    log = (first / "trial.log").read_text()
    assert (
        log.count("continuing at step") == 2
        and "continuing at step 16" in log
        and "Traceback" not in log
    )


@pytest.fixture
def postgres(tmp_path):
    """URL of a private PostgreSQL server on loopback, in a temporary folder."""
    folder = shutil.which("postgres")
    binaries = Path(folder).resolve().parent if folder else None
    if binaries is None or not (binaries / "initdb").exists():
        pytest.skip("needs a PostgreSQL server (postgres and initdb on the PATH)")
    pytest.importorskip("psycopg")
    user, data, port = [], tmp_path / "postgres", free_port()
    data.mkdir()
    if os.geteuid() == 0:  # initdb refuses root
        if not shutil.which("setpriv"):
            pytest.skip(
                "PostgreSQL does not run as root, and there is no setpriv to become another user"
            )
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        os.chown(data, 65534, 65534)
        for parent in (tmp_path, *tmp_path.parents):
            if not os.stat(parent).st_mode & 1:
                parent.chmod(parent.stat().st_mode | 0o111)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(data)}
    made = subprocess.run(
        [
            *user,
            binaries / "initdb",
            "-D",
            data / "db",
            "-U",
            "sweep",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
        ],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    server = subprocess.Popen(
        [
            *user,
            binaries / "postgres",
            "-D",
            data / "db",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-k",
            data,
            "-c",
            "fsync=off",
        ],
        env=environment,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    wait_until(lambda: subprocess.run(ready, env=environment).returncode == 0, "PostgreSQL")
    yield f"postgresql://sweep@127.0.0.1:{port}/postgres"
    server.send_signal(signal.SIGINT)  # a fast shutdown
    server.wait(30)


def test_a_study_in_postgresql(tmp_path, postgres):
    folder = tmp_path / "study"
    arguments = ("--storage", postgres, "--trials", "4", "--workers", "1", "--eta", "2")
    arguments += ("--min_steps", "8")
    process = start(folder, *arguments, TOY_STEP_SECONDS="0.05")
    worker = until(process, lambda: next(iter(running(folder).values()), None), "a worker at work")
    os.kill(worker, signal.SIGKILL)
    finish(process, folder)
    check(folder, 4)
    assert not (folder / "journal.log").exists()
    import optuna

    loaded = optuna.load_study(
        study_name="study", storage=postgres.replace("postgresql:", "postgresql+psycopg:")
    )
    assert len(loaded.trials) == 4 and loaded.best_trial.state.name == "COMPLETE"

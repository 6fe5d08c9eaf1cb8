"""A workdir on a disk that is full or read-only: the run says so and leaves within seconds; the
last checkpoint stays good and goes on.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phenomjax import config, train
from phenomjax.checkpoints import loading, seal, workdir
from phenomjax.cluster import messages
from phenomjax.cluster.start import free_port
from phenomjax.system.errors import EXIT_FAILED, UserError
from tests.lab import ROOT, warm

STEPS = 400  # of the first start; the second one ends 40 steps after the checkpoint


def mount(folder, megabytes):
    """A small disk of its own; skips where one may not mount."""
    folder.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root, to mount a small tmpfs")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"may not mount a tmpfs here: {done.stderr.strip()}")
    return folder


@pytest.fixture
def disk(tmp_path):
    folders = []

    def make(name, megabytes):
        folders.append(tmp_path / name)
        return mount(tmp_path / name, megabytes)

    yield make
    for folder in reversed(folders):
        subprocess.run(["umount", "-l", folder], stderr=subprocess.DEVNULL)


def fill(folder):
    """Writes a file until nothing more fits."""
    with (folder / "ballast").open("wb", buffering=0) as f:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    f.write(bytes(size))
            except OSError:
                pass


def start(folder, log, processes=1, num_steps=STEPS):
    """Starts a run that saves 3 MB every 20 steps; stderr of process i goes to LOG.i."""
    settings = {
        "num_steps": num_steps,
        "global_batch_size": 8,
        "log.every_steps": 10,
        "log.tensorboard": False,
        "eval.every_steps": 0,
        "checkpoint.every_steps": 20,
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
    if processes > 1:
        command += [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    environment = {**os.environ, "TOY_WIDTH": "600", "TOY_STEP_SECONDS": "0.02"}
    return [
        warm.Popen(
            [*command, *([f"--process_id={i}"] if processes > 1 else [])],
            cwd=ROOT,
            env=environment,
            stderr=open(f"{log}.{i}", "ab"),
        )
        for i in range(processes)
    ]


def wait_for_seal(folder, processes, step=20):
    """Returns when a checkpoint is sealed."""
    for _ in range(6000):
        if workdir.recorded_step(folder) in range(step, STEPS):
            return
        assert all(p.poll() is None for p in processes), "the run ended before"
        time.sleep(0.02)
    raise TimeoutError(f"{folder} sealed no checkpoint")


def text(log, index=0):
    return Path(f"{log}.{index}").read_text()


def paragraph(log, index=0):
    """The error that a process told last, in one line."""
    return " ".join(text(log, index).rpartition("error: ")[2].split())


@pytest.mark.slow
def test_disk_fills_up_while_training(disk, tmp_path):
    """Of two processes; a disk that one process finds read-only is below."""
    small, count = disk("disk", 16), 2
    run, log = small / "run", tmp_path / "log"
    processes = start(run, log, count)
    wait_for_seal(run, processes)
    fill(small)
    since = time.monotonic()
    assert [p.wait(timeout=120) for p in processes] == [2] * count  # never retried
    print(f"\n{count} process(es) left {time.monotonic() - since:.1f} s after the disk was full")
    told, saved = (
        next(paragraph(log, i) for i in range(count) if "error: " in text(log, i)),
        workdir.recorded_step(run),
    )
    print(told)
    assert re.search(
        r"could not be written: the disk is full \(.* of 16.0 MiB are free, a checkpoint takes"
        r" [0-9.]+ MiB\)\. ",
        told,
    )
    assert (
        f"The last good checkpoint is step {saved} in {run}/checkpoints/{saved}. Make space there,"
        " then run the same command again" in told
    )
    assert seal.damage(run / "checkpoints" / str(saved)) == []
    # each process wrote its share
    assert len(list((run / "checkpoints" / str(saved)).glob("SHA256SUMS.*"))) == count
    (small / "ballast").unlink()
    end = saved + 40
    assert [p.wait(timeout=300) for p in start(run, log, count, end)] == [0] * count
    assert f"continuing at step {saved} from" in text(log) and loading.load(run)[2] == end
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(10, end + 1, 10))
    assert [p.name for p in (run / "checkpoints").iterdir()] == [str(end)] and not (
        run / "checkpoints.damaged"
    ).exists()


@pytest.mark.slow
def test_disk_becomes_read_only(disk, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    run.mkdir()
    small = disk("run/checkpoints", 16)
    processes = start(run, log)
    wait_for_seal(run, processes)
    while subprocess.run(
        ["mount", "-o", "remount,ro", small], stderr=subprocess.DEVNULL
    ).returncode:
        time.sleep(0.01)  # it is busy while a file is being written
    assert processes[0].wait(timeout=120) == 2
    saved = max(workdir.sealed_steps(run))
    assert re.search(
        r"could not be written: the file system is mounted read-only \([0-9.]+ MiB of 16.0 MiB are"
        r" free",
        paragraph(log),
    )
    assert f"The last good checkpoint is step {saved} in" in paragraph(log)
    assert seal.damage(small / str(saved)) == []
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    assert start(run, log, num_steps=saved + 40)[0].wait(timeout=300) == 0
    assert f"continuing at step {saved} from" in text(log) and loading.load(run)[2] == saved + 40


@pytest.fixture
def toy(monkeypatch):
    c = config.base()
    c.task, c.num_steps, c.global_batch_size = "tests.lab.toy_task:ToyTask", 12, 16
    c.data.simulate.plates = 1
    c.log.every_steps, c.eval.every_steps, c.checkpoint.every_steps, c.log.tensorboard = (
        1,
        0,
        4,
        False,
    )
    return c


def test_metrics_on_a_full_disk(disk, toy, monkeypatch):
    small = disk("disk", 8)
    calls = iter(range(1, 100))

    def fill_at_step_6():
        if next(calls) == 6:
            while workdir.recorded_step(small / "run") < 4:
                time.sleep(0.01)
            fill(small)
        return False

    monkeypatch.setattr(messages, "stop_requested", fill_at_step_6)
    with pytest.raises(
        UserError,
        match=(
            r"could not be written: the disk is full \(0.0 B of 8.0 MiB are free.* step 4 .*Make"
            r" space"
        ),
    ) as error:
        train.run(toy, small / "run")
    assert error.value.exit_code == 2 and "checkpoints/8" not in str(error.value)
    (small / "ballast").unlink()
    monkeypatch.setattr(messages, "stop_requested", lambda: False)
    assert train.run(toy, small / "run") == 0
    steps = [
        json.loads(line)["step"]
        for line in (small / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 13))


def test_write_that_takes_too_long(toy, tmp_path, monkeypatch):
    toy.checkpoint.timeout_seconds, toy.num_steps = 1.0, 100000
    monkeypatch.setattr(seal, "write_share", lambda *_: time.sleep(30))
    with pytest.raises(
        UserError,
        match=(
            r"checkpoints/4 was not written within 1 s \(.*No checkpoint was saved"
            r" before.*timeout_seconds"
        ),
    ) as error:
        train.run(toy, tmp_path / "run")
    assert error.value.exit_code == EXIT_FAILED


def test_folder_that_vanishes(toy, tmp_path, monkeypatch):
    """A write that fails for another reason is told as well, and ends the run: nothing waits for
    it.
    """

    def vanish(folder, *_):
        folder.rename(tmp_path / "gone")
        listing(folder)

    listing = seal.listing
    monkeypatch.setattr(seal, "write_share", vanish)
    toy.num_steps = 100000
    with pytest.raises(
        UserError,
        match=(
            r"The checkpoint .* could not be written: .*No such file.*No checkpoint was saved"
            r" before"
        ),
    ) as error:
        train.run(toy, tmp_path / "run")
    assert error.value.exit_code == EXIT_FAILED


def test_errors_that_are_not_of_the_workdir(tmp_path):
    assert workdir.workdir_error(ValueError("bad"), tmp_path) is None
    assert (
        workdir.workdir_error(FileNotFoundError(2, "No such file", str(tmp_path / "x")), tmp_path)
        is None
    )
    assert (
        workdir.workdir_error(OSError(28, "No space left on device", "/elsewhere/x"), tmp_path)
        is None
    )
    # the workdir can be written
    assert workdir.workdir_error(OSError(28, "No space left on device"), tmp_path) is None
    assert workdir.workdir_error(OSError(5, "Input/output error", "/data/bank"), tmp_path) is None


@pytest.mark.parametrize(
    "number,happened,code",
    [
        (28, "the disk is full", 2),
        (122, "quota .* is used up", 2),
        (30, "mounted read-only", 2),
        (5, "input/output error", 1),
    ],
)
def test_errors_of_the_workdir(tmp_path, number, happened, code):
    name = os.strerror(number)
    for error in (
        OSError(number, name, str(tmp_path / "x")),
        ValueError(f"RESOURCE_EXHAUSTED: writing [OS error {number}: {name}]"),
    ):
        told = workdir.workdir_error(
            error, tmp_path, "" if isinstance(error, OSError) else "The checkpoint 4"
        )
        assert re.search(
            rf"could not be written: .*{happened}.*are free.*No checkpoint was saved before.*starts"
            r" anew",
            str(told),
        )
        assert told.exit_code == code

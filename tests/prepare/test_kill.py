"""The command as users run it, in worker processes: killed, stopped by a signal, and run again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.prepare.test_images import contents, prepare, write_jump

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def start(raw, out, log):
    command = [
        sys.executable,
        "-m",
        "phenomjax.prepare",
        "images",
        "--source",
        raw,
        "--out",
        out,
        "--layout",
        "jump",
        "--jobs",
        "2",
    ]
    return subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, stderr=log.open("a"), start_new_session=True
    )


def wait_for_images(process, out, images):
    """Returns once so many images are finished, a unit each, or the process has ended."""
    while process.poll() is None:
        if sum(1 for _ in (out / ".prepare" / "units").glob("images-*")) >= images:
            return
        time.sleep(0.002)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    write_jump(folder / "raw", wells=60)
    assert start(folder / "raw", folder / "b.zarr", folder / "log").wait() == 0
    return folder


def test_killed_and_run_again(straight, tmp_path):
    out, log = tmp_path / "b.zarr", tmp_path / "log"
    killed = []
    for images in (1, 20, 45, 80, 10**9):
        process = start(straight / "raw", out, log)
        wait_for_images(process, out, images)
        if process.poll() is None:
            # the parent alone: its workers must notice by themselves
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)
        process.wait()
    assert process.returncode == 0 and len(killed) >= 2, log.read_text()
    assert contents(out) == contents(straight / "b.zarr")
    assert prepare(straight / "raw", tmp_path / "one.zarr", "jump") == 0  # in one process
    assert contents(tmp_path / "one.zarr") == contents(out)
    text = log.read_text()
    assert "images were finished before" in text and "prepare images: 120/120" in text
    deadline = time.monotonic() + 20
    while _alive(killed) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(killed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(straight, tmp_path, number):
    out, log = tmp_path / "b.zarr", tmp_path / "log"
    process = start(straight / "raw", out, log)
    wait_for_images(process, out, 10)
    os.killpg(process.pid, number)  # the whole group, as a terminal and SLURM do
    assert process.wait() == 75, log.read_text()
    assert "120 images are finished. Run the same command again to continue." in log.read_text()
    assert start(straight / "raw", out, log).wait() == 0
    assert contents(out) == contents(straight / "b.zarr")
    assert start(straight / "raw", out, log).wait() == 0
    assert "is finished already: 120 images, 0 rejected. Nothing to do." in log.read_text()


def _alive(sessions):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) in sessions:
                found.append(process.name)
        except OSError:  # it ended while we looked
            continue
    return found

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
    """Raw images, and what one process makes of them undisturbed."""
    folder = tmp_path_factory.mktemp("straight")
    write_jump(folder / "raw", wells=60)
    assert prepare(folder / "raw", folder / "b.zarr", "jump") == 0
    return folder


def test_killed_and_run_again(straight, count, tmp_path):
    out, log = tmp_path / "b.zarr", tmp_path / "log"
    killed = []
    for images in count((1, 60, 10**9), (1, 20, 45, 80, 10**9)):
        process = start(straight / "raw", out, log)
        wait_for_images(process, out, images)
        if process.poll() is None:
            # the parent alone: its workers must notice by themselves
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)
        process.wait()
    assert process.returncode == 0 and len(killed) >= 2, log.read_text()
    assert contents(out) == contents(straight / "b.zarr")
    text = log.read_text()
    assert "images were finished before" in text and "prepare images: 120/120" in text
    deadline = time.monotonic() + 20
    while _alive(killed) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(killed)


def test_stopped_by_signals(straight, tmp_path, caplog):
    out, log = tmp_path / "b.zarr", tmp_path / "log"
    for number, images in ((signal.SIGTERM, 10), (signal.SIGINT, 60)):
        process = start(straight / "raw", out, log)
        wait_for_images(process, out, images)
        os.killpg(process.pid, number)  # the whole group, as a terminal and SLURM do
        assert process.wait() == 75, log.read_text()
    stopped = "120 images are finished. Run the same command again to continue."
    assert log.read_text().count(stopped) == 2
    assert start(straight / "raw", out, log).wait() == 0
    assert contents(out) == contents(straight / "b.zarr")
    caplog.set_level("INFO", "phenomjax")
    assert prepare(straight / "raw", out, "jump") == 0
    assert "is finished already: 120 images, 0 rejected. Nothing to do." in caplog.text


def _alive(sessions):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) in sessions:
                found.append(process.name)
        except OSError:  # it ended while we looked
            continue
    return found

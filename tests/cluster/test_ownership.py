"""One owner of a run's folder: who is told, who follows, and who leaves."""

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from phenomjax.cluster import ownership
from phenomjax.cluster.ownership import owned
from phenomjax.system import alive
from phenomjax.system.errors import UserError
from phenomjax.system.owners import FILE, owner_of
from tests.lab import ROOT


def content(folder):
    """All that a second run could have touched."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.is_file() and path.read_bytes(),
        )
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture
def sleeper():
    """A process of this machine that is not ours."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def write(folder, **changes):
    """An owner that another process of this machine might have written."""
    mine = dataclasses.replace(ownership.this_process(folder), token="0123456789abcdef")
    owner = dataclasses.replace(mine, **changes)
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(owner.text())
    return owner


def of(process):
    return {"pid": process.pid, "began": alive.began(process.pid)}


def test_a_folder_is_owned_inside_and_free_afterwards(tmp_path):
    with owned(tmp_path / "a" / "run"):
        assert owner_of(tmp_path / "a" / "run").pid == os.getpid()
        with pytest.raises(UserError, match="which is alive"), owned(tmp_path / "a" / "run"):
            pass
    assert list((tmp_path / "a" / "run").iterdir()) == []
    with pytest.raises(ValueError), owned(tmp_path):
        raise ValueError
    assert owner_of(tmp_path) is None


def test_a_second_run_is_told_who_has_it_and_changes_nothing(tmp_path, sleeper):
    write(tmp_path, **of(sleeper), host="gpu07", since="2026-01-02 03:04:05 UTC", processes=8)
    before = content(tmp_path)
    with pytest.raises(UserError) as error, owned(tmp_path):
        pass
    text = str(error.value)
    assert error.value.exit_code == 2 and content(tmp_path) == before
    for part in (str(tmp_path), f"process {sleeper.pid} on gpu07", "since 2026-01-02 03:04:05 UTC"):
        assert part in text
    assert "8 processes" in text and "nothing was changed" in text
    for command in re.findall(r"`(.*?)`", text):  # and what is offered works
        assert subprocess.run(command, shell=True, capture_output=True).returncode == 0
    assert sleeper.wait(10) == -signal.SIGTERM
    with owned(tmp_path):
        assert owner_of(tmp_path).pid == os.getpid()


def test_slurm_and_a_stopped_owner_have_words_of_their_own(tmp_path, sleeper):
    write(tmp_path, **of(sleeper), job="42")
    with (
        pytest.raises(UserError, match="`squeue -j 42`, stop it with `scancel 42`"),
        owned(tmp_path),
    ):
        pass
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    with pytest.raises(UserError, match=f"`kill -CONT {sleeper.pid}`"), owned(tmp_path):
        pass


@pytest.mark.parametrize("who", ["killed", "another of that number", "this process", "zombie"])
def test_on_its_own_machine_a_dead_owner_is_followed_at_once(tmp_path, sleeper, who):
    one = of(sleeper)
    if who == "another of that number":
        one["began"] -= 1
    elif who == "this process":  # an earlier run of a notebook
        one = {}
    else:
        sleeper.kill()
        if who == "killed":
            sleeper.wait()
        else:
            time.sleep(0.1)  # its parent did not ask for its end
    write(tmp_path, **one)
    began = time.monotonic()
    with owned(tmp_path):
        assert owner_of(tmp_path).token != "0123456789abcdef"
        assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"token": "../x"}', '"pid": 0', '"pid": "x"'])
def test_an_owner_that_cannot_be_read_is_watched_as_one_of_another_host(
    tmp_path, monkeypatch, damage
):
    monkeypatch.setattr(ownership, "SILENCE_SECONDS", 0.3)
    if damage.startswith('"pid"'):
        damage = re.sub('"pid": [0-9]+', damage, ownership.this_process(tmp_path).text())
    (tmp_path / FILE).write_text(damage)
    with owned(tmp_path):
        assert owner_of(tmp_path).pid == os.getpid()


def test_from_another_machine_an_owner_is_watched(tmp_path, monkeypatch, caplog):
    """A clock that is wrong by a day changes nothing: only whether the file is touched counts."""
    monkeypatch.setattr(ownership, "SILENCE_SECONDS", 1.0)
    write(tmp_path, machine="another", host="far")
    os.utime(tmp_path / FILE, (time.time() + 86400,) * 2)
    with owned(tmp_path):
        assert "far" in caplog.text and "cannot be seen from here" in caplog.text
    write(tmp_path, machine="another", host="far")
    beat = subprocess.Popen(["sh", "-c", f"sleep 0.4; touch -d '1 day ago' {tmp_path / FILE}"])
    with pytest.raises(UserError, match=r"on far .*which is alive"), owned(tmp_path):
        pass
    beat.wait()
    ended = subprocess.Popen(["sh", "-c", f"sleep 0.4; rm {tmp_path / FILE}"])
    monkeypatch.setattr(ownership, "SILENCE_SECONDS", 60.0)
    with owned(tmp_path):  # it gave the folder back: nothing to wait for
        ended.wait()


def test_an_owner_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.05)
    with owned(tmp_path):
        os.utime(tmp_path / FILE, (1, 1))
        time.sleep(0.3)
        assert (tmp_path / FILE).stat().st_mtime > 1e9
        (tmp_path / FILE).unlink()  # by hand
        time.sleep(0.3)
        assert owner_of(tmp_path).pid == os.getpid()


def test_the_same_launcher_and_a_requeued_job_follow_at_once(tmp_path, monkeypatch, sleeper):
    monkeypatch.setenv(ownership.LAUNCHER, f"far 1 2 {tmp_path}")
    write(tmp_path, machine="another", launcher="far 1 2", since="then")
    with owned(tmp_path):
        assert owner_of(tmp_path).since == "then"
    assert owner_of(tmp_path).launcher == "far 1 2"  # which keeps it for the next start
    monkeypatch.delenv(ownership.LAUNCHER)
    write(tmp_path, machine="another", job="7", cluster="c", restart=0)
    for name, value in {"JOB_ID": "7", "CLUSTER_NAME": "c", "RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with owned(tmp_path):
        pass
    # a second step of a job is no restart of it
    write(tmp_path, **of(sleeper), job="7", cluster="c", restart=1)
    with pytest.raises(UserError, match="SLURM job 7"), owned(tmp_path):
        pass


def test_a_launcher_that_lives_keeps_the_folder_between_two_starts(tmp_path, sleeper):
    one = of(sleeper)
    write(tmp_path, pid=2**22 + 1, launcher=f"here {one['pid']} {one['began']}")
    with pytest.raises(UserError, match=f"`kill {sleeper.pid}`"), owned(tmp_path):
        pass
    write(tmp_path, pid=2**22 + 1, launcher=f"here {one['pid']} {one['began'] + 1}")
    with owned(tmp_path):
        pass


def contend(folder, start, answers):
    """Tries to own a folder when all others do."""
    start.wait()
    try:
        with owned(folder):
            answers.put(os.getpid())
            time.sleep(1.5)
    except UserError:
        answers.put(0)


@pytest.mark.filterwarnings("ignore:os.fork")  # the children touch files alone
@pytest.mark.parametrize("after", ["nobody", "a dead owner", "two that died one after the other"])
def test_of_many_that_begin_at_once_one_wins(tmp_path, sleeper, after):
    if after != "nobody":
        sleeper.kill()
        sleeper.wait()
        write(tmp_path, pid=sleeper.pid, began=1)
    if after.startswith("two"):  # the second one before it had replaced the file
        second = dataclasses.replace(owner_of(tmp_path), token="fedcba9876543210")
        (tmp_path / f".{FILE}.0123456789abcdef").write_text(second.text())
    context, number = multiprocessing.get_context("fork"), 12
    start, answers = context.Barrier(number), context.Queue()
    contenders = [
        context.Process(target=contend, args=(tmp_path, start, answers)) for _ in range(number)
    ]
    for one in contenders:
        one.start()
    said = [answers.get(timeout=60) for _ in contenders]
    for one in contenders:
        one.join()
    assert len([pid for pid in said if pid]) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_owner_that_wakes_up_leaves_without_writing(tmp_path):
    program = f"""
import time
from pathlib import Path
from phenomjax.cluster import ownership
from phenomjax.system import log
ownership.BEAT_SECONDS = 0.1
folder = Path({str(tmp_path)!r})
with ownership.owned(folder):
    log.log_to_stderr()
    log.log_to_file(folder / "logs" / "process_000.log")
    while True:
        ownership.confirm()
        with (folder / "metrics").open("a") as file:
            file.write("x")
        time.sleep(1.1)
"""
    run = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "metrics").exists():
        time.sleep(0.05)
    run.send_signal(signal.SIGSTOP)
    owner = json.loads((tmp_path / FILE).read_text())
    write(tmp_path, host="the other", token="0" * 16)
    before = content(tmp_path)
    run.send_signal(signal.SIGCONT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 2 and "went over to the run of process" in said
    assert "on the other" in said and owner["pid"] == run.pid
    assert content(tmp_path) == before


def test_an_owner_that_is_no_file_is_told(tmp_path):
    (tmp_path / FILE).symlink_to("nowhere")
    with pytest.raises(UserError, match="is there and cannot be read"), owned(tmp_path):
        pass
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(UserError, match=r"cannot be written .Is a directory"), owned(tmp_path):
        pass


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "x")
    for name in ("file", "link"):
        with (
            pytest.raises(UserError, match="a file where a folder is: give"),
            owned(tmp_path / name),
        ):
            pass
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("options", ["ro", "size=4k"])
def test_a_disk_that_takes_no_owner_is_told(tmp_path, options):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "x", disk]).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        if options != "ro":
            (disk / "full").write_bytes(bytes(4096))
        before = content(disk)
        with (
            pytest.raises(UserError, match=r"cannot be written .(Read-only|No space)"),
            owned(disk),
        ):
            pass
        assert content(disk).keys() == before.keys()
    finally:
        subprocess.run(["umount", disk], check=True)

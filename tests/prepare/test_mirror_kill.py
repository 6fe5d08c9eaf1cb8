"""`prepare mirror` killed at random moments and run again: nothing missing, nothing wrong, nothing
copied twice that was whole.
"""

import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from phenomjax.data import store
from phenomjax.prepare.mirror import copying
from tests.lab import ROOT
from tests.lab.servers import Fault
from tests.lab.slurm import processes
from tests.prepare.test_mirror import files_of

pytestmark = pytest.mark.slow
PROGRAM = "tests/lab/toy_mirror.py"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Files of all sizes, among them two that are copied in blocks."""
    folder = tmp_path_factory.mktemp("source") / "bank"
    rng = random.Random(0)
    for number in range(400):
        path = folder / f"{number % 7}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((0, 100, 5000, 60_000))))
    for name in ("large", "6/large"):
        (folder / name).write_bytes(rng.randbytes(50_000_000 + len(name)))
    (folder / "zarr.json").write_bytes(b"{}")
    return folder


def is_whole(source, target, manifest):
    """Whether all of it is there, verified, and nothing else."""
    table = pq.read_table(manifest)
    content = files_of(source)
    assert table["key"].to_pylist() == sorted(content)
    assert set(table["state"].to_pylist()) == {"verified"}
    assert files_of(target) == content


def start(words, log, **variables):
    return subprocess.Popen(
        [sys.executable, PROGRAM, "mirror", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)} | variables,
        stderr=log.open("a"),
    )


def kill_at_random(words, kills, log, check):
    """Rounds of the command until so many kills of it or of one of its workers are spent."""
    rng, spent, number = random.Random(time.time_ns()), 0, 0
    while spent < kills:
        while True:
            process = start(words(number), log)
            if spent < kills:
                time.sleep(rng.uniform(0.5, 3.0))
            if process.poll() is not None or spent >= kills:
                break
            workers = [pid for pid in processes("spawn_main") if _parent(pid) == process.pid]
            victim = rng.choice([process.pid, *workers])
            os.kill(victim, signal.SIGKILL)
            spent += 1
            if victim != process.pid:  # it goes on with another worker
                break
            process.wait()
        assert process.wait() == 0, log.read_text()
        check(number)
        number += 1
    print(f"{spent} kills in {number} rounds")


def _parent(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_killed_between_folders(source, tmp_path, count):
    def words(number):
        return [source, tmp_path / f"{number}", "--jobs", "2", "--rate", "40MB/s"]

    def check(number):
        target = tmp_path / f"{number}"
        is_whole(source, target, f"{target}.manifest.parquet")
        assert not list(tmp_path.glob("*.mirror"))

    kill_at_random(words, count(2, 30), tmp_path / "log", check)


def test_killed_on_the_way_to_a_store(source, tmp_path, monkeypatch, s3, count):
    """Over a line that fails now and then; the objects that are sent twice are those that were on
    their way when the process was killed."""
    server = s3.use(monkeypatch)
    server.proxy.faults = [Fault("503", every=23), Fault("reset", every=31)]
    kills, rounds = count(1, 30), []

    def words(number):
        target = f"{server.bucket}/{tmp_path.name}-{number}"
        return [source, target, "--jobs", "1", "--rate", "40MB/s", "--work", tmp_path / "work"]

    def check(number):
        target = f"{server.bucket}/{tmp_path.name}-{number}"
        faults, server.proxy.faults = server.proxy.faults, []
        content = files_of(source)
        listed = {one.name: one.bytes for one in store.list_files(target)}
        assert listed == {key: len(value) for key, value in content.items()}
        for key, value in content.items():
            assert store.read_bytes(f"{target}/{key}") == value
        with store.open_input(f"{target}.manifest.parquet") as file:
            table = pq.read_table(file)
        assert set(table["state"].to_pylist()) == {"verified"} and len(table) == len(content)
        server.proxy.faults = faults
        rounds.append(number)

    kill_at_random(words, kills, tmp_path / "log", check)
    small = [one for one in server.proxy.asked if one.startswith("PUT") and "/file " in one]
    failed = len(small) // 23 + len(small) // 31 + 2
    assert len(small) <= 400 * len(rounds) + failed + kills * copying.THREADS

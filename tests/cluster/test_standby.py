"""launch/standby.py with a program that trains nothing: what is started where, what happens when a
process, a keeper or the launcher is gone. With real runs: tests/cluster/test_slurm.py.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

from phenomjax.standby import wire, zygote
from tests.lab import ROOT
from tests.lab.slurm import processes, wait_until

# Says that it started, then does what stands in WORKDIR/do.PROCESS, once, or waits for WORKDIR/end.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
flags = dict(a[2:].split("=", 1) for a in sys.argv[1:] if a.startswith("--") and "=" in a)
folder, me = Path(flags["workdir"]), flags["process_id"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
with open(folder / "starts", "a") as f:
    print(me, "of", flags["num_processes"], os.environ["PHENOMJAX_NODE"], os.getpid(), file=f)
while not (folder / "end").exists():
    do = folder / f"do.{me}"
    if do.exists():
        (folder / "progress").write_text("7")
        code = int(do.read_text())
        do.unlink()
        os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
    time.sleep(0.02)
"""


class Run:
    """A started launcher."""

    def __init__(self, folder, *options, python=sys.executable):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        program = folder / "program.py"
        program.write_text(PROGRAM)
        self.out = folder / "out"
        words = [sys.executable, "launch/standby.py", *options, "--", python, str(program)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), zygote.IMPORTS: ""}
        with open(self.out, "w") as out:
            self.process = subprocess.Popen(
                [*words, f"--workdir={folder}"], cwd=ROOT, env=environment, stdout=out, stderr=out
            )

    def starts(self):
        """[(process, node, pid)] so far."""
        file = self.folder / "starts"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(w[0]), w[3], int(w[4])) for w in map(str.split, lines) if len(w) == 5]

    def wait_for(self, count):
        """The last starts, when there are so many."""
        wait_until(lambda: len(self.starts()) >= count, lambda: self.out.read_text(), 30)
        return self.starts()

    def do(self, process, code):
        file = self.folder / "do"
        file.write_text(str(code))
        file.rename(f"{file}.{process}")

    def end(self):
        (self.folder / "end").touch()
        return self.process.wait(30)

    def keepers(self):
        """{node: pid}."""
        found = {}
        for pid in processes(f"phenomjax.standby.keeper {self.folder}"):
            with open(f"/proc/{pid}/environ") as f:
                found[
                    dict(w.split("=", 1) for w in f.read().split("\0") if "=" in w)[wire.NODE]
                ] = pid
        return found


@pytest.fixture
def start(tmp_path):
    runs = []

    def begin(*options, **python):
        runs.append(Run(tmp_path / "run", *options, **python))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()
    # whatever became of a run, nothing of it is left
    wait_until(lambda: not processes(str(tmp_path)), lambda: str(processes(str(tmp_path))), 20)


def test_a_failed_process_starts_again_with_all_others(start):
    run = start("--nodes", "2", "--spares", "0", "--tasks", "2")
    first = run.wait_for(4)
    assert sorted((p, node) for p, node, _ in first) == [
        (0, "node0"), (1, "node0"), (2, "node1"), (3, "node1"),
    ]  # fmt: skip
    keepers = run.keepers()
    run.do(2, -signal.SIGKILL)
    again = run.wait_for(8)[4:]
    assert sorted((p, node) for p, node, _ in again) == sorted((p, node) for p, node, _ in first)
    assert run.keepers() == keepers  # they stayed
    assert run.end() == 0
    said = run.out.read_text()
    assert "process 2 on node1 was ended by SIGKILL" in said
    assert "exit code 137, checkpoint of step none -> 7" in said
    assert "failed after progress; starting again" in said and said.rstrip().endswith("done")


def test_a_spare_takes_the_share_of_a_lost_node_and_another_is_waited_for(start):
    run = start("--nodes", "3", "--spares", "1")
    assert sorted((p, node) for p, node, _ in run.wait_for(2)) == [(0, "node0"), (1, "node1")]
    run.do(0, -signal.SIGKILL)  # so that there is progress
    run.wait_for(4)
    (run.folder / "progress").write_text("9")
    os.kill(run.keepers()["node0"], signal.SIGKILL)
    # each of the others keeps its share, so that it finds its copies on its own node
    assert sorted((p, node) for p, node, _ in run.wait_for(6)[4:]) == [(0, "node2"), (1, "node1")]
    (run.folder / "progress").write_text("11")
    os.kill(run.keepers()["node1"], signal.SIGKILL)  # no spare is left: one comes back
    found = sorted((p, node) for p, node, _ in run.wait_for(8)[6:])
    assert found[0] == (0, "node2") and found[1][1] in ("node0", "node1")
    assert run.end() == 0
    said = run.out.read_text()
    assert "node0 is lost: its keeper is gone" in said and "node2 takes the share of node0" in said


def test_a_stopped_keeper_is_lost_after_a_while_and_ends_when_it_wakes(start):
    run = start("--nodes", "2", "--spares", "1", "--silence", "3")
    (_, node, pid), *_ = run.wait_for(1)
    (run.folder / "progress").write_text("7")
    keeper = run.keepers()[node]
    os.kill(keeper, signal.SIGSTOP)
    assert run.wait_for(2)[1][1] != node
    assert "its keeper says nothing for 3 s" in run.out.read_text()
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # it was ended, and its process with it
            os.kill(pid, 0)
            time.sleep(0.1)
    assert run.end() == 0


@pytest.mark.parametrize(
    ("code", "said"), [(2, "a mistake in the configuration"), (75, "the same command continues")]
)
def test_what_is_not_tried_again(start, code, said):
    run = start("--nodes", "2")
    run.wait_for(2)
    run.do(0, code)
    run.do(1, code)
    assert run.process.wait(30) == code and said in run.out.read_text()
    assert len(run.starts()) == 2


def test_sigterm_reaches_the_processes_and_not_the_keepers(start):
    run = start("--nodes", "2")
    run.wait_for(2)
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(30) == 75
    assert "stopped by a signal, saved" in run.out.read_text()


def test_a_dead_launcher_leaves_nothing(start):
    run = start("--nodes", "2")
    run.wait_for(2)
    run.process.kill()  # the fixture looks


def test_keepers_that_cannot_start_are_named(start, tmp_path):
    broken = tmp_path / "python_without_us"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    run = start("--nodes", "2", python=str(broken))
    assert run.process.wait(30) == 1
    said = run.out.read_text()
    assert "the keeper of node0 ended with 3" in said
    assert "0 nodes are there (none) and 2 are needed" in said
    assert said.rstrip().endswith("3 starts in a row without progress: giving up")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes", "2", "--spares", "2", "--", "python", "x.py"], "less than the number"),
        (["--nodes", "2", "--spares", "-1", "--", "python", "x.py"], "--spares must be at least 0"),
        (["--nodes", "2", "--tasks", "0", "--", "python", "x.py"], "--tasks must be at least 1"),
        (["--nodes", "2"], "after -- comes the program"),
        (["--nodes", "2", "--", "bash", "x.sh"], "after -- comes the program"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_options(options, said):
    command = [sys.executable, "launch/standby.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr

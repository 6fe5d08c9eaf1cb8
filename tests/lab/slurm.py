"""A real SLURM on this machine for tests: nodes lab0, lab1, … with munge, slurmctld and a slurmd
each; and toy runs submitted to it.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.lab import ROOT

TOOLS = ROOT.parent / "shared" / "tools"
# In CI nothing but these waits takes long: they end a test that hangs, and are not what is tested.
PATIENCE = 600
# What every toy run has in common; a checkpoint every 10 steps, so that a kill costs few.
SETTINGS = {
    "num_steps": 200,
    "global_batch_size": 8,
    "log.every_steps": 5,
    "log.tensorboard": False,
    "eval.every_steps": 50,
    "eval.num_batches": 2,
    "checkpoint.every_steps": 10,
    "checkpoint.keep_best": 0,
    "watchdog.min_seconds": 60.0,
    # Not Lion: by the sign of the momentum the last digit of a sum over processes can flip a whole
    # step.
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-3,
}


def toy_arguments(workdir, **settings):
    """Arguments of toy_main: --config, --workdir and settings; a double underscore in a name is a
    dot.
    """
    settings = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
    command = ["--config", "configs/mae.py:S/8", "--workdir", str(workdir)]
    return command + [f"--config.{name}={value}" for name, value in settings.items()]


def toy_environment(**variables):
    """The environment of a toy run: one CPU device a process, toy_main as the program."""
    # several CPU processes disagree about the keys of a compilation cache
    drop = ("SLURM_", "JAX_COMPILATION")
    base = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    main = f"{sys.executable} {ROOT / 'tests' / 'lab' / 'toy_main.py'}"
    return (
        base
        | {"PHENOMJAX_MAIN": main, "TOY_STEP_SECONDS": "0.02"}
        | {k: str(v) for k, v in variables.items()}
    )


def wait_until(condition, what, seconds=PATIENCE):
    """Returns the first true value of condition(); what it waits for stands in the error."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"after {seconds} s: {what() if callable(what) else what}")


def number(path):
    """The integer in a file such as WORKDIR/progress; 0 where there is none."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def processes(text):
    """{pid: command line} of the living processes whose command line holds the text, this one and
    its parents apart.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if text in command and state != "Z" and int(folder.name) != os.getpid():
                found[int(folder.name)] = command
    return found


def ranks(workdir):
    """{rank: pid} of the living training processes of a run: srun's and the launcher's own command
    lines hold the workdir, too.
    """
    found = {}
    for pid, command in processes(f"--workdir {workdir} ").items():
        if not re.match(r"\S*python\S* \S*toy_main\.py ", command):
            continue
        with contextlib.suppress(OSError):
            environment = dict(
                pair.split("=", 1)
                for pair in (
                    Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
                )
                if "=" in pair
            )
            flag = re.search(r"--process_id[= ](\d+)", command)
            found[int(flag[1] if flag else environment.get("SLURM_PROCID", 0))] = pid
    return found


class Lab:
    """A running SLURM.

    Args:
      folder: its state; a short path.
      nodes: how many nodes it has.
    """

    def __init__(self, folder, nodes):
        self.folder, self.nodes = folder, nodes
        self.up()
        self.conf = str(folder / "slurm.conf")

    def up(self):
        """Starts what is not running: all of it, or a node that was crashed."""
        options = ["--nodes", str(self.nodes), "--gpus", "2", "--kill-wait", "5", "--grace", "20"]
        with open(
            Path(tempfile.gettempdir()) / "phenomjax_slurm_lab.lock", "w"
        ) as lock:  # two at once choose the same ports
            fcntl.flock(lock, fcntl.LOCK_EX)
            # a node that another test crashed may be completing for longer than this waits
            for _ in range(3):
                done = subprocess.run(
                    [TOOLS / "slurm_up", self.folder, *options], capture_output=True, text=True
                )
                if not done.returncode:
                    break
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self):
        for node in range(
            self.nodes
        ):  # each takes seconds to stop when it is asked; no job is left that they should end
            with contextlib.suppress(ProcessLookupError):
                if pid := number(self.folder / f"slurmd.lab{node}.pid"):
                    os.kill(pid, signal.SIGKILL)
        subprocess.run([TOOLS / "slurm_down", self.folder, "--purge"], capture_output=True)

    def run(self, *command, **environment):
        """Output of a SLURM command."""
        done = subprocess.run(
            [*map(str, command)],
            cwd=ROOT,
            env=toy_environment(**environment) | {"SLURM_CONF": self.conf},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, *arguments, log, script="launch/train.sbatch", options=(), **environment):
        """Submits a launcher with the program's arguments; returns the job's id."""
        return self.run(
            "sbatch", "--parsable", f"--output={log}", *options, script, *arguments, **environment
        )

    def show(self, job):
        """The fields of `scontrol show job`, of the first task of an array."""
        text = self.run("scontrol", "show", "job", job).split("\n\n")[0]
        return dict(pair.split("=", 1) for pair in text.split() if "=" in pair)

    def state(self, job):
        return self.show(job)["JobState"]

    def restarts(self, job):
        return int(self.show(job)["Restarts"])

    def wait(self, job, state="COMPLETED", seconds=PATIENCE):
        """Waits until the job has left the nodes and its state is this one."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        found = wait_until(
            lambda: (now := self.state(job)) in ends and now,
            lambda: f"job {job} is {self.state(job)}",
            seconds,
        )
        assert found == state, f"job {job} is {found}: {self.show(job)}"

    def told(self, job):
        """What SLURM itself says about a job and about nodes that it does not use, for errors."""
        log = (self.folder / "log" / "slurmctld.log").read_text(errors="replace").splitlines()
        about = re.compile(rf"JobId={job}\b|lab\d.*(respond|service|drain|fail|DOWN)", re.I)
        reasons = self.run("sinfo", "-h", "-R", "-o", "%n %T %E")
        return "\n".join([str(self.show(job)), reasons, *filter(about.search, log)][-60:])

    def broken(self):
        """The nodes that SLURM set aside by itself, since a step on them could not be ended or its
        shell was lost: on an overloaded machine, and never by what a run does. One "lab0 reason" a
        line.
        """
        return self.run("sinfo", "-h", "-R", "-t", "drain,draining,drained", "-o", "%n %E")

    def idle(self, nodes):
        """Whether all of these nodes are up and free."""
        return set(
            self.run("sinfo", "-h", "-N", "-p", "main", "-n", nodes, "-o", "%T").split()
        ) == {"idle"}

    def crash(self, node):
        """Ends a node as power loss would: first its daemons, which would tell of the end of what
        is on it, then that.
        """
        daemons, others = [number(self.folder / f"slurmd.{node}.pid")], []
        own = {f"SLURM_CONF={self.conf}".encode(), f"SLURMD_NODENAME={node}".encode()}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if own <= set((folder / "environ").read_bytes().split(b"\0")):
                    others.append(int(folder.name))
                    # a step's daemon itself has no SLURMD_NODENAME
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                        daemons.append(int(parent))
        pids = [*daemons, *others]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def start_lab(nodes=10):
    """A lab, or a reason why there can be none."""
    if not (TOOLS / "slurm_up").exists():
        return f"needs {TOOLS / 'slurm_up'}, which is not on this machine"
    if os.geteuid():
        return "needs root: slurmd does"
    try:
        return Lab(Path(tempfile.mkdtemp(prefix="lab")), nodes)
    except AssertionError as error:
        if shutil.which("slurmctld"):
            raise
        return f"SLURM is not on this machine and cannot be installed: {str(error)[-300:]}"


@pytest.fixture(scope="session")
def slurm():
    """A started lab of ten nodes."""
    lab = start_lab()
    if isinstance(lab, str):
        pytest.skip(lab)
    yield lab
    lab.down()
    shutil.rmtree(lab.folder, ignore_errors=True)

"""Random kills of a command with `--engine slurm`, in the lab of tests/lab/slurm.py.

    from tests.lab.killing import survive

    @pytest.mark.slow
    def test_killed_on_slurm(slurm, tmp_path, count):
        def command(round):  # must end with 0; the words for the engine are added here
            return ["-m", "phenomjax.prepare", "images", …, "--out", tmp_path / f"{round}.zarr"]

        def check(round):    # what is there now equals what one process made
            assert bytes_of(tmp_path / f"{round}.zarr") == bytes_of(tmp_path / "one.zarr")

        print(survive(slurm, command, check, count(3, 40)))

A round runs the command while SIGKILL hits workers, nannies and whole jobs at random, once its
driver, too (which is started again, the same command). A command that is done before all kills are
spent gets another round, so it must write to places of the round's number. Work of some ten seconds
for one process meets several kills a round; keep it small where kills are few. Whatever ends with
another code than 0 fails the test, with its output. A worker costs 2 CPU seconds until it works.
"""

import collections
import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.lab import ROOT
from tests.lab.slurm import toy_environment

KINDS = ("worker", "worker", "nanny", "job")
TAG = "PHENOMJAX_KILLING"  # in the environment of all that a driver starts
ENGINE = ("nodes=3", "cpus=2", "every=1")
# For few kills: tests/engine/test_slurm.py has the three nodes, and a job more costs 5 CPU seconds.
TWO_NODES = ("nodes=2", "cpus=2", "every=1")
PATIENCE = 300


def survive(
    slurm, command, check, kills, *, engine=ENGINE, driver=True, seed=None, pace=1.5, **environment
):
    """Rounds of a command until all kills are spent; returns what was killed, in words.

    Args:
      slurm: the fixture.
      command: of a round's number, the words behind `python`.
      check: called with the number of each round that is done.
      kills: how many; the driver's comes on top.
      engine: the words behind --engine_option.
      driver: kill the driver, too, once.
      seed: of the random choices; drawn if None.
      pace: at most these seconds between kills; a busy machine wants more, for jobs that all end
        before a worker has joined end the command.
      environment: variables of the command.
    """
    seed = time.time_ns() if seed is None else seed
    rng, spent, rounds = random.Random(seed), collections.Counter(), 0
    while sum(spent.values()) - spent["driver"] < kills or (driver and not spent["driver"]):
        words = [*map(str, command(rounds)), "--engine", "slurm", "--engine_option", *engine]
        _round(slurm, words, rng, spent, kills, driver, pace, environment)
        check(rounds)
        rounds += 1
    return f"{dict(spent)} killed in {rounds} rounds (seed {seed})"


def _round(slurm, words, rng, spent, kills, driver, pace, environment):
    tag = secrets.token_hex(8)
    variables = {**environment, TAG: tag}
    variables = toy_environment(**variables) | {"SLURM_CONF": slurm.conf, "PYTHONPATH": str(ROOT)}
    log = slurm.folder / f"killing-{tag}.log"

    def start():
        with log.open("a") as output:
            return subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    process, deadline = start(), time.monotonic() + PATIENCE
    try:
        while process.poll() is None:
            assert time.monotonic() < deadline, f"{words} does not end\n{_tail(log)}"
            time.sleep(rng.uniform(0.1, pace))
            if not _victims(tag, "worker"):
                continue
            done = sum(spent.values()) - spent["driver"]
            if driver and not spent["driver"] and done >= kills // 2:
                process.kill()
                process.wait()
                spent["driver"] += 1
                process, deadline = start(), time.monotonic() + PATIENCE
            elif done < kills:
                kind = rng.choice(KINDS)
                if _kill(slurm, tag, kind, rng):
                    spent[kind] += 1
                    deadline = time.monotonic() + PATIENCE
        assert process.returncode == 0, f"{words} ended with {process.returncode}\n{_tail(log)}"
    finally:
        if process.poll() is None:
            process.kill()
            for nanny in _victims(tag, "nanny"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(nanny, signal.SIGKILL)


def _kill(slurm, tag, kind, rng):
    """Kills one of a kind; False if there is none."""
    there = _victims(tag, "nanny" if kind == "job" else kind)
    if not there:
        return False
    pid = rng.choice(sorted(there))
    if kind == "job":
        with contextlib.suppress(AssertionError):  # it has ended meanwhile
            slurm.run("scancel", rng.choice(["--signal=KILL", "--full"]), there[pid])
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True


def _victims(tag, kind):
    """{pid: id of its SLURM job} of living nannies whose workers joined, or of the workers."""
    nannies, workers = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if b"dask_worker" not in command and b"multiprocessing.spawn" not in command:
                continue
            pairs = (folder / "environ").read_bytes().split(b"\0")
            variables = dict(pair.split(b"=", 1) for pair in pairs if b"=" in pair)
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if variables.get(TAG.encode()) != tag.encode() or state == "Z":
                continue
            if b"SLURM_JOB_ID" not in variables:  # a process of the driver's
                continue
            job = variables[b"SLURM_JOB_ID"].decode()
            if b"dask_worker" in command:
                # Who has never joined is let live, or a loaded machine would not get to work.
                if b"Registered to" in (folder / "fd" / "1").read_bytes():
                    nannies[int(folder.name)] = job
            else:
                workers[int(folder.name)] = (int(parent), job)
    if kind == "nanny":
        return nannies
    return {pid: job for pid, (parent, job) in workers.items() if parent in nannies}


def _tail(log):
    return log.read_text(errors="replace")[-8000:]

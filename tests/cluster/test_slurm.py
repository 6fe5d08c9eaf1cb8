"""Survival on a real SLURM: kills, signals, preemption, time limits, lost nodes, arrays; toy runs
of two processes, compared bit for bit.

Most of the time of a scenario is waiting, so all of them run at once, each on its own nodes; every
one is a subtest.
"""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from phenomjax.checkpoints import loading
from tests.lab import ROOT
from tests.lab.slurm import number, processes, ranks, toy_arguments, toy_environment, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
# the last two nodes are those of the elastic job, which would start on one of them alone
ELSEWHERE = "--exclude=lab[8-9]"
# of a node with two (fake) GPUs
ONE_TASK = {"PHENOMJAX_TASKS_PER_NODE": "1", "JAX_NUM_CPU_DEVICES": "2"}


def lines(workdir):
    """metrics.jsonl without what is measured by the clock."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in found]


def assert_same_run(workdir, undisturbed):
    assert lines(workdir) == lines(undisturbed)
    jax.tree.map(
        np.testing.assert_array_equal, loading.load(workdir)[1], loading.load(undisturbed)[1]
    )


def run_undisturbed(workdir, settings, **environment):
    """The same run by launch/local.py, never stopped; returns its workdir."""
    command = [
        sys.executable,
        "launch/local.py",
        "-n",
        "2",
        "--devices_per_process",
        "2",
        "--",
        *toy_arguments(workdir, **settings),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=toy_environment(TOY_STEP_SECONDS=0, **environment),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir


class Job:
    """A toy run on two nodes, one process of two devices each; its log is the job's output over all
    starts.
    """

    def __init__(self, slurm, folder, name, settings=None, options=("--nodes=2",), **environment):
        self.slurm, self.workdir, self.log = slurm, folder / name, folder / f"{name}.log"
        arguments = toy_arguments(self.workdir, **(settings or {}))
        options = options if "exclude" in str(options) else (*options, ELSEWHERE)
        self.id = slurm.submit(*arguments, log=self.log, options=options, **ONE_TASK | environment)

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def progress(self):
        return number(self.workdir / "progress")

    def wait_for(self, condition, what):
        """Waits until condition() is true, while the job lives."""

        checked = time.monotonic()

        def found():
            nonlocal checked
            value = condition()
            if value or time.monotonic() - checked < 3:
                return value
            checked = time.monotonic()
            if (
                self.slurm.state(self.id) not in ("PENDING", "RUNNING", "COMPLETING")
                and not condition()
            ):
                raise AssertionError(
                    f"job {self.id} ended before {what}:\n{self.text()[-5000:]}\n"
                    + self.slurm.told(self.id)
                )
            return None

        return wait_until(
            found,
            lambda: f"{what}:\n{self.text()[-5000:]}\n{self.slurm.told(self.id)}",
        )

    def wait_for_step(self, step):
        self.wait_for(lambda: self.progress() >= step, f"checkpoint of step {step}")

    def wait_for_text(self, pattern, after=0):
        """Waits for a regular expression in the log behind a position; returns the position behind
        it.
        """
        return self.wait_for(
            lambda: (m := re.compile(pattern).search(self.text(), after)) and m.end(), repr(pattern)
        )

    def go_on(self, seconds, last):
        """Lets it run for a while, but not beyond the checkpoint of a step."""
        end = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > end or self.progress() >= last, "a moment")

    def wait_for_ranks(self):
        return self.wait_for(
            lambda: len(found := ranks(self.workdir)) == 2 and found, "two processes"
        )

    def finish(self, undisturbed=None):
        try:
            self.slurm.wait(self.id)
        except (AssertionError, TimeoutError) as error:
            text = f"{error}\n{self.text()[-5000:]}\n{self.slurm.told(self.id)}"
            raise AssertionError(text) from None
        if undisturbed:
            assert_same_run(self.workdir, undisturbed)

    def starts(self):
        """[(exit code or None, step where it began, newest checkpoint after it)] of all starts,
        read from the log; the step is None of one that was killed before it began.
        """
        found = []
        for part in re.split(r"(?=^.*phenomjax 0\.)", self.text(), flags=re.M)[1:]:
            continued = re.search(r"continuing at step (\d+)", part)
            fresh = 0 if "first step done" in part else None
            ended = re.search(r"launch: exit code (\d+), checkpoint of step \S+ -> (\S+)", part)
            found.append(
                (
                    ended and int(ended[1]),
                    int(continued[1]) if continued else fresh,
                    ended and ended[2],
                )
            )
        return found

    def assert_nothing_lost(self):
        """Every start began at the newest checkpoint that the one before had left."""
        starts = self.starts()
        for (_, _, after), (_, began, _) in itertools.pairwise(starts):
            assert None in (after, began) or after == "none" or began >= int(after), starts


def failures(slurm, folder, reference, count):
    """A process that raises, one that is stuck, stopped ones, and kills at random times: all in one
    job, which is never submitted again.
    """
    kills = count(2, 50)
    settings = reference["settings"] | {"watchdog__min_seconds": 8.0}
    job = Job(
        slurm,
        folder,
        "failures",
        settings,
        TOY_RAISE="1:25",
        TOY_STUCK="0:45",
        TOY_STEP_SECONDS=0.1,
    )
    wait_until(lambda: (job.workdir / "TOY_RAISE.done").exists(), "a process that raises")
    here = job.wait_for_text("launch: exit code 1, .*step none -> 20")
    before = job.text()[:here]
    assert before.rindex("ValueError: planted at step 25") > before.rindex("Traceback")
    tail = before[before.rindex("ValueError: planted at step 25") :].splitlines()[1:-1]
    # of the program it is the last line
    assert all(line.startswith("srun: ") for line in tail if line), tail

    wait_until(lambda: (job.workdir / "TOY_STUCK.done").exists(), "a process that is stuck")
    here = job.wait_for_text("launch: exit code 76, ", here)
    assert re.search(
        r"The others wait for process 0 on lab\d \(pid \d+\) at step \d+ \(data\)", job.text()
    )

    for rank in count((1,), (1, 0)):
        step = job.progress() + 10
        job.wait_for_step(step)
        pid = job.wait_for_ranks()[rank]
        os.kill(pid, signal.SIGSTOP)
        # 137: SLURM had to kill the stopped one
        here = job.wait_for_text("launch: exit code (76|137), ", here)
        assert rank == 0 or re.search(
            rf"process {rank} on lab\d \(pid {pid}\), which does not answer", job.text()
        )

    rng, killed = random.Random(time.time_ns()), []
    for _ in range(kills):
        pids, step = job.wait_for_ranks(), job.progress()
        seconds = rng.uniform(0, 8)  # also while it imports, connects, compiles
        # a third start without progress would be the last
        if number(job.workdir / "fails") == 2 or rng.random() < 0.5:
            job.wait_for_step(step + 1)
            seconds = rng.uniform(0, 1.5)
        job.go_on(seconds, settings["num_steps"] - 40)
        rank = rng.choice(sorted(pids))
        os.kill(pids[rank], signal.SIGKILL)
        killed.append((rank, job.progress()))
        here = job.wait_for_text("launch: exit code (?!0)", here)
    job.finish(reference["workdir"].result())
    job.assert_nothing_lost()
    codes = [code for code, _, _ in job.starts()]
    return (
        f"{len(killed)} SIGKILLs of (rank, at checkpoint) {killed}, a raise, a hang and SIGSTOPs;"
        f" exit codes of the starts {codes}; {slurm.restarts(job.id)} requeues"
    )


def signals(slurm, folder, pool):
    """SIGTERM with lead time while compiling, evaluating and writing a checkpoint; then requeue by
    hand, then preemption.
    """
    settings = {"num_steps": 240, "eval__every_steps": 60, "eval__num_batches": 4}
    toys = {
        "TOY_WIDTH": 600,
        "TOY_EVAL_SECONDS": 1,
        "TOY_COMPILE_SECONDS": 3,
        "TOY_STEP_SECONDS": 0.1,
    }
    job = Job(slurm, folder, "signals", settings, ("--nodes=2", "--nodelist=lab[2-3]"), **toys)
    undisturbed = pool.submit(
        run_undisturbed, folder / "signals_undisturbed", settings, TOY_WIDTH=600
    )
    here, stops = 0, []

    def stop(what, tell):
        nonlocal here
        tell()
        here = job.wait_for_text(r"to continue at step \d+", here)
        told = re.findall(r"to continue at step (\d+)", job.text()[:here])[-1]
        here = job.wait_for_text(rf"continuing at step {told} ", here)
        stops.append(f"{what}: saved at step {told}")

    def tell():  # what --signal=TERM@120 does before a time limit
        slurm.run("scancel", "--signal=TERM", job.id)

    job.wait_for_text("compiling the step")
    stop("while compiling", tell)

    def evaluates():
        text = job.text()[here:]
        step = (re.findall(r" step (\d+)/\d+  loss", text) or ["1"])[-1]
        return int(step) % 60 == 0 and f" step {step}  val/loss" not in text

    job.wait_for(evaluates, "an evaluation")
    stop("in an evaluation", tell)
    writing = job.workdir / "checkpoints"
    job.wait_for(
        lambda: list(writing.glob("*.orbax-checkpoint-tmp")), "a checkpoint that is being written"
    )
    stop("in a checkpoint write", tell)
    job.wait_for_step(job.progress() + 10)
    stop("requeue", lambda: slurm.run("scontrol", "requeue", job.id))
    job.wait_for_step(job.progress() + 10)
    urgent = (
        "--partition=urgent",
        "--exclusive",
        "--nodelist=lab2",
        "--output=/dev/null",
        "--wrap=sleep 1",
    )
    stop("preemption", lambda: slurm.run("sbatch", *urgent))
    job.finish(undisturbed.result())
    job.assert_nothing_lost()
    assert slurm.restarts(job.id) == 5 and set(code for code, _, _ in job.starts()) <= {75, None, 0}
    return "; ".join(stops)


def time_limit(slurm, folder):
    """SLURM itself signals before the time limit, and the job comes back and continues."""
    settings = {"num_steps": 10000, "eval__every_steps": 0}
    job = Job(
        slurm,
        folder,
        "limit",
        settings,
        ("--nodes=1", "--time=60", "--signal=TERM@10"),
        TOY_STEP_SECONDS=0.1,
    )
    job.wait_for_step(10)
    hours, minutes, seconds = map(int, slurm.show(job.id)["RunTime"].split(":"))
    # SLURM looks every 30 s, and counts limits in minutes: the signal comes within 70 s.
    slurm.run(
        "scontrol",
        "update",
        f"JobId={job.id}",
        f"TimeLimit={60 * hours + minutes + (seconds + 20) // 60 + 1}",
    )
    here = job.wait_for_text(r"to continue at step \d+")
    told = int(re.findall(r"to continue at step (\d+)", job.text())[0])
    here = job.wait_for_text("launch: stopped by a signal, saved; requeue", here)
    wait_until(lambda: slurm.restarts(job.id) == 1, "a requeue")
    slurm.run("scontrol", "update", f"JobId={job.id}", "TimeLimit=60")
    job.wait_for_text(f"continuing at step {told} ", here)
    job.wait_for_step(told + 10)
    slurm.run("scancel", job.id)
    assert job.starts()[0] == (75, 0, str(told))
    return f"saved and continued at step {told}"


def lost_node(slurm, folder, reference, count):
    """An elastic job loses a node, goes on with the other one, and with both when it is back."""
    lost = []
    for node in count((9,), (9, 8)):  # not the one with the batch shell, and that one
        options = ("--nodes=1-2", "--gpus-per-node=2", "--exclude=lab[0-7]")
        # SLURM notices the loss (SlurmdTimeout) and requeues the job itself, before the survivor is
        # given up.
        trouble = {"TOY_STEP_SECONDS": 0.25, "PHENOMJAX_SRUN": "--wait=120"}
        job = Job(slurm, folder, f"lost{node}", reference["settings"], options, **trouble)
        job.wait_for_step(20)
        slurm.crash(f"lab{node}")
        here = job.wait_for_text(r"launch: job \d+, start \d+, 1 nodes")
        job.wait_for_step(job.progress() + 10)
        slurm.up()
        slurm.run("scontrol", "requeuehold", job.id)
        wait_until(lambda: slurm.idle("lab[8-9]"), "both nodes")
        slurm.run("scontrol", "release", job.id)
        job.wait_for_text(r"launch: job \d+, start \d+, 2 nodes", here)
        job.finish()
        undisturbed = reference["workdir"].result()
        assert [line["step"] for line in lines(job.workdir)] == [
            line["step"] for line in lines(undisturbed)
        ]
        losses = [
            [line["train/loss"] for line in lines(w) if "train/loss" in line]
            for w in (job.workdir, undisturbed)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-5)
        codes = [code for code, _, _ in job.starts()]
        assert 0 not in codes[:-1]  # it had not ended before both nodes were back
        lost.append(f"lab{node}: exit codes {codes}")
    return "; ".join(lost)


def spare_node(slurm, folder, reference):
    """A node is lost; a spare takes its share from the copies in memory within seconds, in the same
    job, and not a digit changes.
    """
    options = ("--nodes=3", "--no-kill", ELSEWHERE)
    settings = reference["settings"] | {
        "checkpoint.every_steps": 1000,
        "checkpoint.memory_every_steps": 7,
    }
    job = Job(slurm, folder, "spare", settings, options, PHENOMJAX_SPARES=1, TOY_STEP_SECONDS=0.05)
    job.wait_for_text("copies of step 7 are in memory")
    time.sleep(1)
    lost = slurm.run("scontrol", "show", "hostnames", slurm.show(job.id)["NodeList"]).split()[1]
    slurm.crash(lost)
    behind = job.wait_for_text(r"takes the share of lab\d")
    job.wait_for_text(r"continuing at step \d+ from the copies in memory", behind)
    job.finish(reference["workdir"].result())
    assert slurm.restarts(job.id) == 0
    return f"{lost} lost; exit codes, first and last steps {job.starts()}"


def cancelled(slurm, folder):
    """Two processes on the two GPUs of one node, of which the slower one is named; the same job
    submitted twice is told who has the folder, on another node, too; after scancel they have saved,
    and nothing brings the job back.
    """
    two_tasks = {"PHENOMJAX_TASKS_PER_NODE": "", "JAX_NUM_CPU_DEVICES": "1"}
    slow = {"TOY_DEVICE_SECONDS": 0.1, "TOY_SLOW": "1:compute:0.1:0", "TOY_STEP_SECONDS": 0}
    same = {"num_steps": 5000}, ("--nodes=1",)
    job = Job(slurm, folder, "cancelled", *same, **two_tasks, **slow)
    job.wait_for_text("all processes wait for process 1 on lab.*compute is slow there")
    assert sorted(ranks(job.workdir)) == [0, 1]
    arguments = toy_arguments(job.workdir, num_steps=5000)
    log = folder / "twice.log"
    twice = slurm.submit(*arguments, log=log, options=("--nodes=1", ELSEWHERE), **ONE_TASK)
    slurm.wait(twice, "FAILED")
    text = " ".join(log.read_text().split())
    assert slurm.show(twice)["ExitCode"] == "2:0" and slurm.restarts(twice) == 0
    assert f"SLURM job {job.id}, 2 processes)" in text and f"`scancel {job.id}`" in text
    began = (job.workdir / "logs" / "process_000.log").read_text().count("process 0 of")
    assert began == 1 and sorted(ranks(job.workdir)) == [0, 1]
    slurm.run("scancel", job.id)
    slurm.wait(job.id, "CANCELLED")
    told = re.findall(r"to continue at step (\d+)", job.text())
    assert told == [str(job.progress())]
    time.sleep(8)  # longer than a requeued job waits here
    assert slurm.state(job.id) == "CANCELLED" and slurm.restarts(job.id) == 0
    return f"saved at step {told[0]}"


def not_retried(slurm, folder):
    """A mistake in the configuration ends the job at once; a program that never makes progress
    after three starts.
    """
    job = Job(slurm, folder, "mistake", {"optimizer__name": "lyon"}, ("--nodes=1",))
    slurm.wait(job.id, "FAILED")
    assert slurm.show(job.id)["ExitCode"] == "2:0" and slurm.restarts(job.id) == 0
    assert "Did you mean 'lion'?" in job.text() and "not tried again" in job.text()
    job = Job(slurm, folder, "useless", {}, ("--nodes=1",), PHENOMJAX_MAIN="false")
    slurm.wait(job.id, "FAILED")
    assert slurm.restarts(job.id) == 2 and job.text().count("launch: exit code 1,") == 3
    assert job.text().rstrip().endswith("3 starts in a row without progress: giving up")
    return "1 start, 3 starts"


def array(slurm, folder):
    """Of an array only the task that stopped comes back."""
    program = folder / "task.sh"
    program.write_text(
        'cd "${@: -1}"; echo start >>starts; [ "$SLURM_ARRAY_TASK_ID" = 0 ] && exec sleep 15; ['
        " $(wc -l <starts) = 1 ] && exit 75; exit 0\n"
    )
    job = slurm.submit(
        "--workdir",
        f"{folder}/task{{task}}",
        log=folder / "array_%a.log",
        options=("--nodes=1", "--array=0-1", ELSEWHERE),
        **ONE_TASK | {"PHENOMJAX_MAIN": f"bash {program}"},
    )
    wait_until(lambda: not slurm.run("squeue", "-h", "-j", job), "the end of the array")
    starts = [len((folder / f"task{i}" / "starts").read_text().split()) for i in (0, 1)]
    assert starts == [1, 2]
    return f"starts of the tasks: {starts}"


def on_a_whole_lab(scenario, slurm, folder, *arguments):
    """Runs a scenario; once more if it fails and SLURM set nodes aside by itself meanwhile."""
    try:
        return scenario(slurm, folder, *arguments)
    except (AssertionError, TimeoutError) as error:
        if not (broken := slurm.broken()):
            raise
        print(f"{scenario.__name__}: SLURM set aside {broken}\n{error}", file=sys.stderr)
        slurm.up()
        again = folder / f"{scenario.__name__}_again"
        again.mkdir()
        return f"SLURM set aside {broken}; then {scenario(slurm, again, *arguments)}"


def test_a_run_survives(slurm, tmp_path, count, subtests, capsys):
    settings = {"num_steps": count(200, 2500)}
    with ThreadPoolExecutor(10) as pool:

        def begin(scenario, *arguments):
            return pool.submit(on_a_whole_lab, scenario, slurm, tmp_path, *arguments)

        # What waits longest begins first.
        limit = begin(time_limit)
        workdir = pool.submit(run_undisturbed, tmp_path / "undisturbed", settings)
        reference = {"settings": settings, "workdir": workdir}
        scenarios = {
            "time limit": limit,
            "failures": begin(failures, reference, count),
            "signals": begin(signals, pool),
            "lost node": begin(lost_node, reference, count),
            "spare node": begin(spare_node, reference),
            "array": begin(array),
            "not retried": begin(not_retried),
            "cancelled": begin(cancelled),
        }
        for name, scenario in scenarios.items():
            with subtests.test(name):
                result = scenario.result()
                with capsys.disabled():
                    print(f"\n{name}: {result}", end="")
    with subtests.test("no process is left"):
        wait_until(
            lambda: not processes(f"--workdir {tmp_path}"),
            lambda: str(processes(f"--workdir {tmp_path}")),
            20,
        )

"""What a unit costs beside its work, and whether driver and scheduler stay as they are from a
thousand to a million units.

    python -m bench.engine                    # about 5 minutes

Units that do nothing but commit their note (one file, not flushed to the disk), two workers; more
than 10,000 of them leave no files, for the sake of the disk. The limit is a loop in one process
over the same units. Dask has scheduler, workers and driver in processes of their own; "a unit a
task" is Dask without bundles, which is what a unit of half a minute costs. CPU milliseconds a unit
of each process (workers together), and its largest memory.
"""

import argparse
import contextlib
import functools
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.rounds import header, peak_rss
from phenomjax.engine import choose, cluster
from phenomjax.engine.options import EngineOptions
from phenomjax.engine.units import Notes, Unit
from phenomjax.system import files

METHODS = ("loop", "pool", "dask", "a unit a task")
WITH_NOTES = 10_000  # units
MOST = {"loop": 10_000, "a unit a task": 10_000}
TICK = os.sysconf("SC_CLK_TCK")


def nothing(sparse: bool, work: Path, number: int) -> dict[str, int]:
    """A unit; what is measured is not the disk."""
    files._flush = lambda path: None
    if sparse:
        without_notes()
    return {"number": number}


def without_notes() -> None:
    """Units leave no note in this process, and all are believed."""
    Notes.commit = lambda *_: None
    Notes.read = lambda *_: {}
    Notes.is_committed = lambda *_: False


def drive(method: str, count: int, engine: str) -> int:
    """In a process of its own: does the units, prints what it cost."""
    from bench import engine as module

    if method == "a unit a task":
        cluster.MOST_UNITS = 1
    options = EngineOptions(engine=engine, jobs=1 if method == "loop" else 2)
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        units = (Unit(f"{number:07}", number) for number in range(count))
        start, wall = os.times(), time.perf_counter()
        function = functools.partial(module.nothing, count > WITH_NOTES)
        if count > WITH_NOTES:
            without_notes()
        with choose.executor(options, Path(folder)) as executor:
            done = executor.run(Path(folder), function, units, threading.Event())
            assert sum(1 for _ in done) == count
        end, wall = os.times(), time.perf_counter() - wall
        row = {
            "wall": wall,
            "driver": [end.user + end.system - start.user - start.system, 1000 * peak_rss()],
        }
        if method == "pool":
            seconds = end.children_user + end.children_system
            memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            row["workers"] = [seconds, memory]
        print(json.dumps(row))
    return 0


@contextlib.contextmanager
def dask(folder: Path) -> Iterator[tuple[str, dict[str, list[int]]]]:
    """A scheduler and two workers; yields the scheduler's file, and the pids."""
    file = folder / "scheduler.json"
    start = [sys.executable, "-m", "distributed.cli.dask_"]
    common = ["--host", "127.0.0.1", "--scheduler-file", str(file)]
    environment = os.environ | {
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
        "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False",
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "0",
    }
    programs = {
        "scheduler": [*common, "--port", "0", "--no-dashboard"],
        "worker": [*common, "--nthreads", "1", "--no-nanny", "--memory-limit", "0"],
    }
    running: dict[str, list[subprocess.Popen[bytes]]] = {"scheduler": [], "worker": []}
    try:
        for name in ("scheduler", "worker", "worker"):
            words = [
                *start[:2],
                f"{start[2]}{name}",
                *programs[name],
                *(["--local-directory", str(folder)] if name == "worker" else []),
            ]
            running[name].append(
                subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
            )
            while not file.exists():
                time.sleep(0.1)
        time.sleep(5)
        yield str(file), {name: [one.pid for one in group] for name, group in running.items()}
    finally:
        for process in [*running["worker"], *running["scheduler"]]:
            process.kill()
            process.wait()


def usage(pids: list[int]) -> list[float]:
    """CPU seconds of processes, and the largest memory of one in MiB."""
    seconds, memory = 0.0, 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / TICK
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        memory = max(memory, next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1024)
    return [seconds, memory]


def measure(method: str, count: int) -> dict[str, list[float]]:
    """One run."""

    def run(engine: str) -> dict:
        command = [sys.executable, "-m", "bench.engine", "--drive", method, str(count), engine]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(done.stdout)

    if method in ("loop", "pool"):
        return run("local")
    with tempfile.TemporaryDirectory() as folder, dask(Path(folder)) as (file, pids):
        before = {name: usage(group) for name, group in pids.items()}
        row = run(file)
        for name, group in pids.items():
            seconds, memory = usage(group)
            row["workers" if name == "worker" else name] = [seconds - before[name][0], memory]
    return row


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000, help="units of the largest run")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        return drive(given.drive[0], int(given.drive[1]), given.drive[2])
    print(header("", ("distributed", "numpy")).replace(", one core, one thread", ", 2 workers"))
    names = ("driver", "scheduler", "workers")
    print(
        f"{'':16}{'units':>9}{'wall s':>8}"
        + "".join(f"{name + ' ms':>14}{'MiB':>6}" for name in names)
    )
    for method in METHODS:
        most = min(given.most, MOST.get(method, given.most))
        for count in sorted({min(count, most) for count in (1_000, 10_000, 100_000, 1_000_000)}):
            row = measure(method, count)
            cells = "".join(
                f"{1000 * row[name][0] / count:14.3f}{row[name][1]:6.0f}"
                if name in row
                else " " * 20
                for name in names
            )
            print(f"{method:16}{count:9,}{row['wall']:8.1f}{cells}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

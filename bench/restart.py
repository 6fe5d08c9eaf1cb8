"""How long after a process or a node is lost the run trains again: `python -m bench.restart
[--kills 6] [--nodes 2] [--standby]`, on a real SLURM on this machine.

Toy runs (tests/lab/toy_main.py), so what is measured is our share: noticing, ending the others,
starting again in the same allocation, restoring. A model's own compilation comes on top (its cache
is on disk, on GPUs), and Python's imports from a slow disk.

  python -m bench.restart                   a process of two on a node is killed
  python -m bench.restart --standby         a whole node of four is lost, its daemon first: three
                                            train, the spare takes its share from the copies in
                                            memory; a job for each kill
"""

import argparse
import functools
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from phenomjax.system import versions
from tests.lab.slurm import ranks, start_lab, toy_arguments, wait_until


def text(path):
    """What stands in a log so far."""
    return path.read_text(errors="replace") if path.exists() else ""


def first_steps(workdir):
    """How often the run has done the first step of a start."""
    return text(workdir / "logs" / "process_000.log").count("first step done:")


def continued_at(log):
    """What the last start said about where it goes on."""
    found = [line for line in text(log).splitlines() if "continuing at step" in line]
    return found[-1].split("continuing at ")[1] if found else "the beginning"


def until_next_step(workdir, lose):
    """Seconds from `lose()` to the first step of the next start."""
    before, begin = first_steps(workdir), time.monotonic()
    lose()
    while first_steps(workdir) == before:
        time.sleep(0.01)
    return time.monotonic() - begin


def report(what, took):
    print(
        f"{what}: training again after {took:.1f} s (load average {os.getloadavg()[0]:.1f})",
        flush=True,
    )


def kill_processes(lab, folder, kills, nodes):
    """SIGKILL of a process, again and again in one job."""
    job = lab.submit(
        *toy_arguments(folder / "run", num_steps=100_000, eval__every_steps=0),
        log=folder / "log",
        options=(f"--nodes={nodes}",),
        PHENOMJAX_TASKS_PER_NODE=2 // nodes,
        JAX_NUM_CPU_DEVICES=nodes,
        TOY_STEP_SECONDS=0.05,
    )
    seconds = []
    for i in range(kills):
        wait_until(lambda i=i: first_steps(folder / "run") == i + 1, "the first step")
        # A checkpoint later, so that the start made progress and the next one is in place.
        step = (folder / "run" / "progress").read_text()
        wait_until(
            lambda step=step: (folder / "run" / "progress").read_text() != step, "a checkpoint"
        )
        rank, pid = random.choice(sorted(ranks(folder / "run").items()))
        kill = functools.partial(os.kill, pid, signal.SIGKILL)
        seconds.append(until_next_step(folder / "run", kill))
        report(f"SIGKILL of process {rank}", seconds[-1])
    print(f"job requeued {lab.restarts(job)} times")
    return seconds


def lose_nodes(lab, folder, kills):
    """The loss of a node, once in each job."""
    seconds = []
    for i in range(kills):
        workdir, log, node = folder / f"run{i}", folder / f"log{i}", f"lab{1 + i % 2}"
        job = lab.submit(
            *toy_arguments(
                workdir,
                num_steps=100_000,
                eval__every_steps=0,
                global_batch_size=12,
                checkpoint__every_steps=100_000,
                checkpoint__memory_every_steps=10,
            ),
            log=log,
            options=("--nodes=4", "--no-kill", "--gpus-per-node=2"),
            PHENOMJAX_TASKS_PER_NODE=1,
            PHENOMJAX_SPARES=1,
            JAX_NUM_CPU_DEVICES=2,
            TOY_STEP_SECONDS=0.05,
        )
        wait_until(lambda log=log: "are in memory" in text(log), "the first copies")
        time.sleep(2)
        seconds.append(until_next_step(workdir, functools.partial(lab.crash, node)))
        report(f"loss of {node}, continuing at {continued_at(log)}", seconds[-1])
        lab.run("scancel", job)
        wait_until(lambda job=job: lab.state(job) == "CANCELLED", "the end of the job")
        lab.up()
        wait_until(lambda: lab.idle("lab[0-3]"), "the nodes")
    return seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument(
        "--nodes",
        type=int,
        choices=(1, 2),
        default=1,
        help="processes of one device each on 1 node, or of two on 2",
    )
    parser.add_argument("--standby", action="store_true", help="lose a node of four instead")
    options = parser.parse_args()
    lab = start_lab(4 if options.standby else 2)
    if isinstance(lab, str):
        sys.exit(lab)
    folder = Path(tempfile.mkdtemp(prefix="restart"))
    print(
        f"{'4 nodes, one spare' if options.standby else f'{options.nodes} node(s)'},"
        f" {os.cpu_count()} CPUs, {versions.versions()}"
    )
    try:
        if options.standby:
            seconds = lose_nodes(lab, folder, options.kills)
        else:
            seconds = kill_processes(lab, folder, options.kills, options.nodes)
        print(
            f"median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s of"
            f" {options.kills}"
        )
    finally:
        lab.down()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

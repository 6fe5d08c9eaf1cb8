"""How long after a process of a job was killed the run trains again: `python -m bench.restart
[--kills 6]`, on a real SLURM on this machine.

Toy runs of two processes (tests/lab/toy_main.py), so what is measured is our share: noticing,
ending the others, starting again in the same allocation, restoring. A model's own compilation comes
on top (its cache is on disk), and Python's imports from a slow disk.
"""

import argparse
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


def first_steps(workdir):
    """How often the run has done the first step of a start."""
    log = workdir / "logs" / "process_000.log"
    return log.read_text().count("first step done") if log.exists() else 0


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
    kills, nodes = parser.parse_args().kills, parser.parse_args().nodes
    lab = start_lab(2)
    if isinstance(lab, str):
        sys.exit(lab)
    folder, seconds = Path(tempfile.mkdtemp(prefix="restart")), []
    print(f"{nodes} node(s), {os.cpu_count()} CPUs, {versions.versions()}")
    try:
        job = lab.submit(
            *toy_arguments(folder / "run", num_steps=100_000, eval__every_steps=0),
            log=folder / "log",
            options=(f"--nodes={nodes}",),
            PHENOMJAX_TASKS_PER_NODE=2 // nodes,
            JAX_NUM_CPU_DEVICES=nodes,
            TOY_STEP_SECONDS=0.05,
        )
        for i in range(kills):
            wait_until(lambda i=i: first_steps(folder / "run") == i + 1, "the first step")
            # A checkpoint later, so that the start made progress and the next one is in place.
            step = (folder / "run" / "progress").read_text()
            wait_until(
                lambda step=step: (folder / "run" / "progress").read_text() != step, "a checkpoint"
            )
            rank, pid = random.choice(sorted(ranks(folder / "run").items()))
            begin = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            while first_steps(folder / "run") < i + 2:
                time.sleep(0.01)
            seconds.append(time.monotonic() - begin)
            load = os.getloadavg()[0]
            print(
                f"SIGKILL of process {rank}: training again after {seconds[-1]:.1f} s (load average"
                f" {load:.1f})",
                flush=True,
            )
        print(
            f"median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s of {kills};"
            f" job requeued {lab.restarts(job)} times"
        )
    finally:
        lab.down()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

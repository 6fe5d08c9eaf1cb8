"""What watching for stragglers costs, whether it names anybody in a healthy run, and how soon it
names a process that was slowed: `python -m bench.stragglers [--steps 2000] [--slowed 3]`.

Healthy: the demo's model, made smaller, in two processes on this machine with whatever else runs
there, `--steps` long. The cost is the CPU time of the thread that watches, with its looks at the
devices; the notes that the training thread takes are timed alone.

Slowed: toy runs of two processes whose devices take 0.1 s a step; from step 40 on the device of one
takes a quarter longer, or its input or its host takes 0.14 s. Batches that wait hide a slow input
for some steps.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from bench.rounds import ROOT, header

SMALL = {
    "model.embed_dim": 64,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.decoder_dim": 64,
    "model.decoder_depth": 1,
    "model.decoder_num_heads": 2,
    "eval.every_steps": 0,
    "figures.num_images": 0,
    "log.tensorboard": False,
    "checkpoint.every_steps": 100_000,
}
STRAGGLER = "all processes wait for"


def run(workdir: Path, config: str, settings: dict, **environment: str) -> tuple[str, float]:
    """Runs two processes; returns what was logged, and CPU seconds of both with their children."""
    command = [sys.executable, "launch/local.py", "-n", "2", "--", "--config", config]
    command += ["--workdir", str(workdir)]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    before = os.times()
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    after = os.times()
    return done.stderr, sum(after[2:4]) - sum(before[2:4])


def healthy(folder: Path, steps: int) -> None:
    settings = SMALL | {"num_steps": steps, "log.every_steps": 100}
    said, cpu = run(folder / "healthy", "configs/mae_demo.py", settings)
    named = [line for line in said.splitlines() if STRAGGLER in line]
    rates = [float(rate) for rate in re.findall(r"([\d.e+]+) images/s", said)]
    milliseconds = 1e3 * 16 / statistics.median(rates)
    looks = spent = 0.0
    for process in range(2):
        text = (folder / "healthy" / "logs" / f"process_{process:03d}.log").read_text()
        count, seconds = re.findall(r"looked (\d+) times, ([\d.]+) CPU seconds", text)[-1]
        looks, spent = looks + int(count) / 2, spent + float(seconds)
    each = 1e3 * spent / 2 / steps
    print(
        f"healthy: {steps} steps of {milliseconds:.0f} ms, {len(named)} called slow; looked at the"
        f" devices {looks:.0f} times; watching took {each:.2f} ms a step ="
        f" {100 * each / milliseconds:.2f} % of it, {100 * spent / cpu:.2f} % of all CPU time"
    )
    for line in named:
        print("  " + line)


def notes(steps: int = 20_000) -> None:
    """The training thread's part of a step."""
    import jax

    from phenomjax import config
    from phenomjax.training.stragglers.pace import Pace

    fake = SimpleNamespace(
        config=config.base(),
        goodput=SimpleNamespace(seconds={"data": 0.0, "compilation": 0.0, "profile": 0.0}),
    )
    pace = Pace(fake, SimpleNamespace(waited=0.0), SimpleNamespace(calling=0.0), 0)
    assert jax.process_count() == 1
    pace._thread = object()  # as in a run of several processes
    begin = time.process_time()
    for step in range(steps):
        pace.step(step)
    print(
        f"notes of the training thread: {1e6 * (time.process_time() - begin) / steps:.1f} µs a step"
    )


def slowed(folder: Path, rounds: int) -> None:
    for what, seconds in (("compute", 0.025), ("input", 0.14), ("host", 0.14)):
        after = []
        for index in range(rounds):
            workdir = folder / f"{what}_{index}"
            settings = SMALL | {
                "num_steps": 140,
                "log.every_steps": 5,
                "global_batch_size": 8,
            }
            said, _ = run(
                workdir,
                "configs/mae.py:S/8",
                settings,
                PHENOMJAX_MAIN=f"{sys.executable} {ROOT / 'tests' / 'lab' / 'toy_main.py'}",
                TOY_DEVICE_SECONDS="0.1",
                TOY_SLOW=f"1:{what}:{seconds}:40",
                TOY_WORKDIR=str(workdir),
            )
            before, found, line = said.partition(STRAGGLER)
            step = re.findall(r"step (\d+)/", before)[-1]
            right = "process 1 on" in line and f"{what} is slow" in line
            after.append(f"{int(step) - 40}" if found and right else f"not ({line[:80]})")
        print(f"slowed: {what}, named after {', '.join(after)} steps")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--slowed", type=int, default=3, help="rounds of each kind")
    options = parser.parse_args()
    print(header("", ("jax", "jaxlib"), ""))
    folder = Path(tempfile.mkdtemp(prefix="stragglers"))
    try:
        notes()
        if options.slowed:
            slowed(folder, options.slowed)
        if options.steps:
            healthy(folder, options.steps)
        print("load:", *[round(x, 1) for x in os.getloadavg()])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

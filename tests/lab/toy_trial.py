"""A trial of milliseconds for tests of sweeps: phenomjax.main's flags, files and exit codes without
its imports.

val/loss falls with the step and is lowest at learning rate 0.01. A learning rate above 0.5
diverges, below 1e-5 is a mistake in the configuration. TOY_STEP_SECONDS: how long a step takes. Two
at once in one workdir leave a file `collision`.
"""

import fcntl
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

words = dict(
    w.removeprefix("--config.").split("=", 1) for w in sys.argv if w.startswith("--config.")
)
workdir = Path(sys.argv[sys.argv.index("--workdir") + 1])
rate, num_steps = float(words["optimizer.learning_rate"]), int(words.get("num_steps", 32))
stop_at, every = int(words["stop_at_step"]), 4
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
lock = (workdir / "lock").open("w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    (workdir / "collision").touch()
if rate < 1e-5:
    print(f"\nerror: config.optimizer.learning_rate is {rate}; that is too low.", file=sys.stderr)
    sys.exit(2)
metrics, progress = workdir / "metrics.jsonl", workdir / "progress"
start = int(progress.read_text()) if progress.exists() else 0
lines = (
    [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= start]
    if start
    else []
)
metrics.write_text("".join(line + "\n" for line in lines))
with (workdir / "starts").open("a") as file:
    file.write(f"{os.getpid()} {start}\n")


def save(step):
    part = workdir / "progress.part"
    part.write_text(f"{step}\n")
    os.replace(part, progress)


for step in range(start + 1, num_steps + 1):
    time.sleep(float(os.environ.get("TOY_STEP_SECONDS", 0.01)))
    if rate > 0.5 and step == 3:
        print("\nerror: Training diverged at step 3: loss nan.", file=sys.stderr)
        sys.exit(1)
    if step % every == 0 or step == num_steps:
        with metrics.open("a") as file:
            file.write(
                json.dumps({"step": step, "val/loss": abs(math.log10(rate / 0.01)) + 1 / step})
                + "\n"
            )
        save(step)
    if stopped or step == stop_at:
        save(step)
        sys.exit(75)

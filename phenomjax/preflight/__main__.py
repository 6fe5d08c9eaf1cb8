"""The test of a few minutes that precedes a large run, on the nodes of that run or on two of them:
one table, pass or fail.

python -m phenomjax.preflight --config configs/mae_demo.py --workdir runs/mae_demo

That checks one process of this machine. All of them, under SLURM or by the launcher:

  PHENOMJAX_MAIN="python -m phenomjax.preflight" \\
    sbatch --nodes=2 launch/train.sbatch --config configs/X.py --workdir W [--expect_gbps=200]
  srun --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 \\
    python -m phenomjax.preflight --config configs/X.py --workdir W
  PHENOMJAX_MAIN="python -m phenomjax.preflight" \\
    python launch/local.py -n 2 -- --config configs/X.py --workdir W

Exit code 0: all checks pass; 1: some fail (2: the command line is wrong). The table is printed and
written to WORKDIR/preflight.txt. Everything else is written to a new folder WORKDIR/preflight-…,
which is removed at the end: a run in that workdir is not touched.

Every check runs in a thread with a time limit, on all processes; they tell each other the outcome
through JAX's coordination service, which needs no collective. So a process that fails, hangs or is
gone is named, and the checks that do not depend on it run all the same.
"""

import datetime
import logging
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ml_collections import ConfigDict
from tyro.conf import arg

from phenomjax.cluster import flags as cluster_flags
from phenomjax.cluster import messages, presence
from phenomjax.config.experiment import RunOptions, run_door, split_words
from phenomjax.preflight.checks import CHECKS
from phenomjax.preflight.exchange import Exchange
from phenomjax.preflight.results import table
from phenomjax.preflight.runner import Preflight
from phenomjax.preflight.stand import Bench
from phenomjax.system import ending, errors, files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED
from phenomjax.system.user_files import expanded

log = logging.getLogger("phenomjax")
FILE = "preflight.txt"


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Of `python -m phenomjax.preflight`."""

    expect_gbps: Annotated[float, arg(metavar="GBPS")] = 0.0
    """Gbit/s that the network of a host should give; below half of it the check fails; 0: any"""


def run(
    config: ConfigDict, workdir: str | Path, expect_gbps: float = 0.0, program: str = ""
) -> int:
    """Runs all checks.

    Args:
      config: from an experiment file.
      workdir: of the run that is to come.
      expect_gbps: Gbit/s that the network of a host should give, 0.0 = not known; less than half of
        it fails.
      program: for the head of the table.

    Returns:
      0 when all pass, else 1.
    """
    exchange, workdir = Exchange(), Path(workdir).absolute()
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%S")
    name = exchange.gather("folder", f"preflight-{when}-{os.getpid()}", 60)[0]
    preflight = Preflight(Bench(config, workdir / str(name), exchange, expect_gbps))
    try:
        for check in CHECKS:
            preflight.run(check)
        exchange.gather("finished", True, 60)
    finally:
        shutil.rmtree(workdir / str(name), ignore_errors=True)
    if messages.is_main():
        head = f"{when} UTC, {exchange.count} process(es): {', '.join(exchange.full_names)}"
        head = "\n".join([f"preflight of {program}", *textwrap.wrap(head, 150)])
        text = table(list(preflight.results.values()), head)
        ending.note(
            passed=preflight.passed, checks=[one.as_dict() for one in preflight.results.values()]
        )
        print("\n" + text, flush=True)
        try:
            files.write_text(workdir / FILE, text)
            ending.wrote(workdir / FILE, "this table")
        except OSError as error:
            log.error("%s cannot be written: %s", workdir / FILE, error)
    code = EXIT_DONE if preflight.passed else EXIT_FAILED
    # JAX's exit barrier would wait for them, and the coordinator must be the last
    if exchange.gone or preflight.hung:
        time.sleep(3.0 if messages.is_main() else 0.5)
        if messages.is_main():
            ending.leave(code, "")
        sys.stderr.flush()
        os._exit(code)
    return code


def main(argv: Sequence[str] | None = None) -> int | None:
    """Reads the flags, connects the processes, runs the checks."""
    return run_door(Options, start, "python -m phenomjax.preflight", __doc__ or "", argv)


def start(options: Options, config: ConfigDict) -> int:
    """Connects the processes and runs the checks; returns the exit code."""
    cluster_flags.start_as_told(options)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # there is nothing to save
    places = tuple(f"--{name}" for name in cluster_flags.FLAGS)
    program = " ".join(word for word in sys.argv[1:] if not word.startswith(places))
    with presence.connected():
        code = run(config, expanded(options.workdir), options.expect_gbps, program)
    if code == EXIT_DONE:
        words = [options.config, "--workdir", options.workdir, *split_words(sys.argv[1:])[0]]
        command = "python -m phenomjax.main --config" + " {}" * len(words)
        ending.then("start the run, on the same hosts", command, *words)
    return code


if __name__ == "__main__":
    errors.exit_on_user_error(main)

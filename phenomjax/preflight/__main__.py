"""The test of a few minutes that precedes a large run, on the nodes of that run or on two of them:
one table, pass or fail.

  PHENOMJAX_MAIN="python -m phenomjax.preflight" sbatch --nodes=2 launch/train.sbatch --config
  configs/X.py --workdir W [--expect_gbps=200] srun --nodes=2 --ntasks-per-node=8 --gpus-per-node=8
  python -m phenomjax.preflight --config configs/X.py --workdir W PHENOMJAX_MAIN="python -m
  phenomjax.preflight" python launch/local.py -n 2 -- --config configs/X.py --workdir W

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
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from phenomjax.cluster import flags as cluster_flags
from phenomjax.cluster import messages
from phenomjax.cluster.flags import read_flags
from phenomjax.preflight.checks import CHECKS
from phenomjax.preflight.runner import FAIL, NOT_RUN, SKIPPED, Exchange, Preflight, Result
from phenomjax.preflight.stand import Bench
from phenomjax.system import errors
from phenomjax.system import log as system_log
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED

log = logging.getLogger("phenomjax")
FILE = "preflight.txt"


def table(results: list[Result], head: str, width: int = 150) -> str:
    """The results as text; `head` comes above them."""
    names = max(len(r.check) for r in results)
    lines = [head, "", f"{'check':<{names}}  result   seconds  detail"]
    indent = " " * (names + 20)

    def add(start: str, text: str) -> None:
        more = textwrap.wrap(
            text, width - len(indent), break_long_words=False, break_on_hyphens=False
        ) or [""]
        lines.append((start + more[0]).rstrip())
        lines.extend(indent + line for line in more[1:])

    for r in results:
        took = "" if r.status == NOT_RUN else f"{r.seconds:7.1f}"
        add(f"{r.check:<{names}}  {r.status:<7}  {took:>7}  ", r.detail)
        if r.mend:
            add(f"{'':<{names}}  {'mend:':>16}  ", r.mend)
    by = {s: [r.check for r in results if r.status == s] for s in (FAIL, NOT_RUN, SKIPPED)}
    more = "".join(f"; {s}: {', '.join(by[s])}" for s in (NOT_RUN, SKIPPED) if by[s])
    failed = f"FAIL: {', '.join(by[FAIL])}" if by[FAIL] else "PASS"
    return "\n".join([*lines, "", f"{failed}{more}"]) + "\n"


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
    bench = Bench(config, workdir / name, exchange, expect_gbps)
    preflight = Preflight(exchange, bench)
    try:
        for check in CHECKS:
            preflight.run(check)
        exchange.gather("finished", True, 60)
    finally:
        shutil.rmtree(workdir / name, ignore_errors=True)
    if messages.is_main():
        head = f"{when} UTC, {exchange.count} process(es): {', '.join(exchange.full_names)}"
        head = "\n".join([f"preflight of {program}", *textwrap.wrap(head, 150)])
        text = table(list(preflight.results.values()), head)
        print("\n" + text, flush=True)
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / FILE).write_text(text)
        except OSError as error:
            log.error("%s cannot be written: %s", workdir / FILE, error)
    code = EXIT_DONE if preflight.passed else EXIT_FAILED
    # JAX's exit barrier would wait for them, and the coordinator must be the last
    if exchange.gone or preflight.hung:
        time.sleep(3.0 if messages.is_main() else 0.5)
        sys.stderr.flush()
        os._exit(code)
    return code


def main() -> int:
    """Reads the flags, connects the processes, runs the checks."""
    flags.DEFINE_float(
        "expect_gbps",
        0.0,
        "Gbit/s that the network of a host should give; below half of it the check fails.",
    )
    found = read_flags(__doc__ or "", "phenomjax.preflight")
    if found is None:
        return 0
    system_log.log_to_stderr()
    cluster_flags.start_from_flags()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # there is nothing to save
    program = " ".join(
        a
        for a in sys.argv[1:]
        if not a.startswith(tuple(f"--{name}" for name in cluster_flags.FLAGS))
    )
    with messages.connected():
        return run(*found, expect_gbps=flags.FLAGS.expect_gbps, program=program)


if __name__ == "__main__":
    errors.exit_on_user_error(main)

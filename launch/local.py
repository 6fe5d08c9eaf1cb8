"""Trains in several processes on this machine, as launch/train.sbatch does on many; standard
library only.

  python launch/local.py -n 4 -- --config configs/mae_demo.py --workdir runs/demo
  python launch/local.py -n 2 --devices_per_process 4 -- …

The second one: 2 processes of 4 GPUs, or of 4 simulated CPU devices.

Ctrl-C or SIGTERM saves and ends with exit code 75; the same command continues, with any -n. When
one process fails all are ended, and the run starts again from its last checkpoint as
launch/supervise.py says: exit codes stand there. No process outlives this one.
"""

import argparse
import contextlib
import ctypes
import functools
import glob
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import supervise  # beside this file, wherever that is called from

# after one process failed the others leave by themselves, and are heard; then they get SIGTERM
LEAVE_SECONDS = 5
GRACE_SECONDS = 5  # and then SIGKILL
PR_SET_PDEATHSIG = 1


def gpus(environment):
    """Ids of the GPUs that the processes may use; none when JAX is told to use something else."""
    if environment.get("JAX_PLATFORMS", "cuda") not in ("cuda", "gpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name]
    return [str(i) for i in range(len(glob.glob("/dev/nvidia[0-9]*")))]


def plan(arguments, count, devices, environment):
    """Commands and environments of the processes of one start.

    Args:
      arguments: of the program.
      count: number of processes.
      devices: devices of each; 0 = an equal share of the GPUs, or one CPU device.
      environment: of this process. PHENOMJAX_MAIN is the program's command (default: this Python,
        -m phenomjax.main).

    Returns:
      [(command, environment)] by process.

    Raises:
      ValueError: there are fewer GPUs than asked for.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ids, processes = gpus(environment), []
    each = devices or len(ids) // count or (0 if ids else 1)
    if ids and (not each or each * count > len(ids)):
        raise ValueError(
            f"{count} processes of {devices or 1} GPUs need more than the {len(ids)} that are here:"
            " give a smaller -n, or JAX_PLATFORMS=cpu"
        )
    main = shlex.split(environment.get("PHENOMJAX_MAIN", "")) or [
        sys.executable,
        "-m",
        "phenomjax.main",
    ]
    for i in range(count):
        own = dict(environment)
        if ids:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(ids[i * each : (i + 1) * each])
        else:
            own["XLA_FLAGS"] = (
                own.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={each}"
            )
            own.pop("JAX_NUM_CPU_DEVICES", None)  # it would count more
        where = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}", f"--process_id={i}"]
        processes.append((main + where + [f"--local_devices={each}"] + list(arguments), own))
    return processes


def end_with(parent):
    """Asks Linux to kill this new process when the launcher is gone, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # gone already
            os._exit(1)


class Launcher:
    """Starts the processes, hands signals on to them, and ends them all when one fails."""

    def __init__(self, arguments, count, devices):
        self.arguments, self.count, self.devices = arguments, count, devices
        self.processes, self.signals = [], 0

    def on_signal(self, *_):
        """The first signal is handed on: all save and leave with 75. A second one ends at once."""
        self.signals += 1
        supervise.say(
            "stopping: the run is saved at the next step"
            if self.signals == 1
            else "ending without saving"
        )
        self.send(signal.SIGTERM if self.signals == 1 else signal.SIGKILL)

    def send(self, number):
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def start(self):
        """Runs all processes once; returns the code of the one that failed first, or of all."""
        if self.signals:
            return supervise.STOPPED
        self.processes = []
        try:
            for command, environment in plan(
                self.arguments, self.count, self.devices, dict(os.environ)
            ):
                # A session of its own: Ctrl-C reaches the processes once, through `on_signal`, and
                # the whole group can be ended.
                end = functools.partial(end_with, os.getpid())
                self.processes.append(
                    subprocess.Popen(
                        command, env=environment, preexec_fn=end, start_new_session=True
                    )
                )
            if self.signals:  # while they were being started
                self.send(signal.SIGTERM)
            return self.wait()
        finally:
            self.send(signal.SIGKILL)
            for process in self.processes:
                process.wait()
            if self.signals > 1:
                sys.exit(128 + signal.SIGINT)

    def wait(self):
        """Waits for all; the others leave by themselves when one fails, or are made to."""
        first, ends = None, []
        while True:
            codes = [process.poll() for process in self.processes]
            failed = [code for code in codes if code]
            if first is None and failed:
                first, now = failed[0], time.monotonic()
                ends = [
                    (now + LEAVE_SECONDS, signal.SIGTERM),
                    (now + LEAVE_SECONDS + GRACE_SECONDS, signal.SIGKILL),
                ]
            if None not in codes:
                return supervise.shell_code(first or 0)
            if ends and time.monotonic() > ends[0][0]:
                self.send(ends.pop(0)[1])
            time.sleep(0.05)


def main(words):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, required=True, help="number of processes")
    parser.add_argument(
        "--devices_per_process",
        type=int,
        default=0,
        help="GPUs, or simulated CPU devices, of each (default: a share)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    parser.add_argument(
        "program",
        nargs=argparse.REMAINDER,
        metavar="-- ARGUMENTS",
        help="of python -m phenomjax.main",
    )
    options = parser.parse_args(words)
    arguments = options.program[1:] if options.program[:1] == ["--"] else options.program
    try:
        if options.n < 1:
            raise ValueError("-n must be at least 1")
        processes = plan(arguments, options.n, options.devices_per_process, dict(os.environ))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return supervise.CONFIG
    if options.dry_run:
        for command, _ in processes:
            print(" ".join(map(shlex.quote, command)))
        return 0
    launcher = Launcher(arguments, options.n, options.devices_per_process)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, launcher.on_signal)
    return supervise.run(launcher.start, arguments, None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

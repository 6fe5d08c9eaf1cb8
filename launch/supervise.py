"""Runs a training command until it is done: the restart policy of all launchers. Runs with the
host's own python3 (3.8 or later, no packages).

  python3 launch/supervise.py srun … python -m phenomjax.main --config … --workdir …

What happens after a start depends on its exit code and on whether WORKDIR/progress (newest whole
checkpoint) grew:

  0   done: end
  2   a mistake in the configuration or the input: end, never again
  75  stopped by a signal after saving: requeue (time limit, preemption); end if the run was to
      stop at this step
  any other (a rank failed, 76 = watchdog): with progress start again at once on the same nodes;
      without, requeue, because SLURM then picks other nodes; after three starts without progress
      in a row give up

The run's folder stays this launcher's between two starts (WORKDIR/owner.json, see
phenomjax/cluster/ownership.py).

  PHENOMJAX_LOST_NODE_SECONDS   so long SLURM may take to notice that a node is lost, before a job
                                that failed without progress is queued again (default: 20)

A job that SLURM does not call RUNNING is left alone: after scancel it must stay cancelled, and a
preempted job, or one that lost a node, is requeued by SLURM itself.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

DONE, CONFIG, STOPPED = 0, 2, 75  # phenomjax/system/errors.py
MAX_FAILS = 3
# of the time limit, for a restart in place: later ones might never get the signal before its end
MIN_SECONDS_LEFT = 300


def say(text):
    # with --json stdout is the program's, for a script
    print("launch: " + text, flush=True, file=sys.stderr if "--json" in sys.argv else sys.stdout)


def number(path, default=0):
    """The integer in a one-line file."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return default


def show(step):
    return "none" if step < 0 else step


def count_of(path, job):
    """Starts without progress that an earlier start of this SLURM job counted."""
    try:
        count, whose = path.read_text().split()
        return int(count) if whose == job else 0
    except (OSError, ValueError):
        return 0


def write(path, text):
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(str(partial), str(path))


def flag(command, name):
    """The value of --name VALUE or --name=VALUE, of several the last; None without."""
    found = None
    for i, this in enumerate(command):
        after = command[i + 1] if i + 1 < len(command) else None
        key, equals, value = this.partition("=")
        if key in ("--" + name, "-" + name):
            found = value if equals else after
    return found


def stop_at_step(command, workdir):
    """The step at which the run is meant to end with 75 (`stop_at_step` of its configuration); 0 =
    none.
    """
    value = flag(command, "config.stop_at_step")
    if value is None:
        try:
            value = json.loads((workdir / "config.json").read_text()).get("stop_at_step", 0)
        except (OSError, ValueError, AttributeError):
            value = 0
    try:
        return int(value)
    except (TypeError, ValueError):  # of which the program says what is wrong
        return 0


class Hold:
    """Keeps a folder between two starts of its run: the processes read from PHENOMJAX_LAUNCHER who
    starts them again, and name it in owner.json.
    """

    def __init__(self, workdir):
        self.file, self.ended = workdir / "owner.json", threading.Event()
        try:  # when this process began: its number may be another one's later
            began = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            began = "0"
        self.name = f"{socket.gethostname()} {os.getpid()} {began}"
        os.environ["PHENOMJAX_LAUNCHER"] = f"{self.name} {workdir}"
        threading.Thread(target=self.beat, daemon=True).start()

    def mine(self):
        try:
            return json.loads(self.file.read_text())["launcher"] == self.name
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def beat(self):
        """Shows those who wait on other hosts that the run goes on."""
        while not self.ended.wait(5):
            if self.mine():
                with contextlib.suppress(OSError):
                    os.utime(str(self.file))

    def end(self):
        self.ended.set()
        if self.mine():
            with contextlib.suppress(OSError):
                self.file.unlink()


def decide(code, before, after, fails, stop_at=0):
    """The policy: (what to do, starts without progress so far, why).

    Args:
      code: exit code of the start that just ended.
      before, after: step of the newest checkpoint before and after it, -1 for none.
      fails: starts in a row before this one that made no progress.
      stop_at: step at which the run is meant to stop, or 0.

    Returns:
      ("end" | "restart" | "requeue", new count of starts without progress, reason in words).
    """
    if after > before:
        fails = 0
    elif code not in (DONE, CONFIG, STOPPED):
        fails += 1
    if code == DONE:
        return "end", fails, "done"
    if code == CONFIG:
        return "end", fails, "a mistake in the configuration or the input: not tried again"
    if code == STOPPED:
        if stop_at and after >= stop_at:
            return "end", fails, f"stopped at step {stop_at} as asked"
        return "requeue", fails, "stopped by a signal, saved"
    if fails >= MAX_FAILS:
        return "end", fails, f"{fails} starts in a row without progress: giving up"
    if after > before:
        return "restart", fails, "failed after progress"
    return "requeue", fails, f"failed without progress ({fails} of {MAX_FAILS})"


class Slurm:
    """What the policy needs of a SLURM job."""

    def __init__(self, environment):
        # In an array one task's SLURM_JOB_ID is the id of the whole array: commands with it would
        # address all tasks.
        array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        self.id = array + "_" + task if array else environment["SLURM_JOB_ID"]

    def state(self):
        """(RUNNING, COMPLETING, …, seconds left); "gone" when SLURM knows no such job."""
        words = self._run("squeue", "-h", "-j", self.id, "-o", "%T %L").stdout.split()
        return (words[0], seconds(words[-1])) if words else ("gone", 0)

    def requeue(self):
        """Whether SLURM took the job back into its queue."""
        result = self._run("scontrol", "requeue", self.id)
        if result.returncode:
            say(f"SLURM refuses to requeue ({(result.stdout + result.stderr).strip()})")
        return result.returncode == 0

    @staticmethod
    def _run(*command):
        # SLURM signals the children of the batch shell too: in a group of their own these survive.
        return subprocess.run(command, capture_output=True, text=True, start_new_session=True)


def seconds(left):
    """Seconds of SLURM's [days-][[hours:]minutes:]seconds; endless for UNLIMITED and the like."""
    if not re.match(r"^[\d:-]+$", left):
        return float("inf")
    days, _, clock = left.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = 60 * total + int(part)
    return total + 86400 * int(days or 0)


def run(start, command, scheduler, held=lambda: -1):
    """Starts a command as often as the policy says.

    Args:
      start: runs the command once and returns its exit code.
      command: the words of the command, in which --workdir is found.
      scheduler: a `Slurm`, or None on a machine without: then a requeue is a restart, and 75 is
        handed to the caller.
      held: the newest step of which nodes hold copies in memory: progress, too.

    Returns:
      The exit code of the last start.
    """
    # a test runs once, and leaves the run's folder alone
    if "preflight" in os.environ.get("PHENOMJAX_MAIN", ""):
        return start()
    if flag(command, "workdir") is None:
        say(
            f"the command names no --workdir, so nobody could see its progress: {' '.join(command)}"
        )
        return CONFIG
    workdir = Path(os.path.expanduser(flag(command, "workdir")))
    try:  # nothing is written before it is known that no other run has the folder
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(str(workdir), os.W_OK):
            raise PermissionError("no permission")
    except OSError as error:
        say(
            f"--workdir {workdir} cannot be written ({error}): give a folder that this host and all"
            " nodes can write"
        )
        return CONFIG
    hold = Hold(workdir)
    try:
        return run_until_done(start, command, scheduler, workdir, held)
    finally:
        hold.end()


def run_until_done(start, command, scheduler, workdir, held):
    """`run` in a folder that can be written."""
    job = scheduler.id if scheduler else ""
    fails = count_of(workdir / "fails", job)
    while True:
        before = max(number(workdir / "progress", -1), held())
        code = start()
        after = max(number(workdir / "progress", -1), held())
        say(f"exit code {code}, checkpoint of step {show(before)} -> {show(after)}")
        action, fails, why = decide(code, before, after, fails, stop_at_step(command, workdir))
        if code != CONFIG:  # then the folder may be another run's
            with contextlib.suppress(OSError):  # the program says what is wrong
                write(workdir / "fails", f"{fails} {job}\n")
        if action == "end":
            say(why)
            return code
        if scheduler is None:
            if code == STOPPED:
                say(why + "; the same command continues")
                return code
            say(why + "; starting again")
            continue
        if action == "requeue" and code != STOPPED:
            # A node that is lost looks like this until SLURM notices, and then SLURM requeues the
            # job itself, without that node.
            time.sleep(float(os.environ.get("PHENOMJAX_LOST_NODE_SECONDS", "20")))
        state, left = scheduler.state()
        if state != "RUNNING":
            say(f"{why}; the job is {state}, so it is not ours to start again")
            return code
        if action == "restart" and left > MIN_SECONDS_LEFT:
            say(why + "; starting again on the same nodes")
            continue
        say(why + "; requeue")
        if scheduler.requeue():
            time.sleep(600)  # until SLURM ends us; leaving first would race with it
        return code


def main(command):
    scheduler = Slurm(os.environ) if "SLURM_JOB_ID" in os.environ else None
    # SLURM signals the batch shell, which is this process, when it signals the ranks: they save,
    # and we must still be there afterwards.
    signal.signal(signal.SIGTERM, lambda *_: None)

    def start():
        return shell_code(subprocess.Popen(command).wait())

    return run(start, command, scheduler)


def shell_code(code):
    """Exit code as a shell says it: 128 + signal."""
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Trains on several nodes, and comes back within seconds when one of them is lost. Keepers on all
nodes hold copies of the state in memory (`checkpoint.memory_every_steps`) and have everything
imported; a spare node takes the share of a lost one. Runs with the host's own python3 (3.8 or
later, no packages).

  PHENOMJAX_SPARES=1 sbatch --no-kill --nodes=5 --gpus-per-node=8 launch/train.sbatch …
      trains on 4 nodes; the fifth waits, with its own keeper
  python3 launch/standby.py --nodes 3 --spares 1 -- python -m phenomjax.main --config … --workdir …
      the same on this machine, whose processes play the nodes: to try it, or to test

Whatever fails, all processes are ended, and those of the next start are forked from what the
keepers have imported; launch/supervise.py says whether there is a next start. A node counts as lost
when its keeper is gone, or says nothing for --silence seconds. With too few nodes left the start
fails, and the job is requeued, as without keepers. No spare stands in for the node of the batch
script: when that is lost, the keepers of the others have the job requeued.
"""

import argparse
import contextlib
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import supervise  # beside this file, wherever that is called from

from phenomjax.standby import wire

JOIN_SECONDS = 180  # until a keeper has imported everything
REJOIN_SECONDS = 20  # a node whose keeper is gone may come back so long
# after one process failed the others leave by themselves, and are heard; then they get SIGKILL
LEAVE_SECONDS = 5


class Keeper:
    """What the launcher knows of a node.

    Attributes:
      node: its name.
      process: that started its keeper: srun, or the keeper itself.
      connection: to the keeper; None before it came and after it went.
    """

    def __init__(self, node, process):
        self.node, self.process, self.connection = node, process, None
        self.address, self.port, self.heard = None, 0, time.monotonic()

    def say(self, message):
        with contextlib.suppress(OSError):
            wire.send(self.connection, message)


class Standby:
    """Keepers, and the processes that they run.

    Args:
      nodes: names.
      spares: how many of them wait.
      tasks: processes on each.
      starter: {node: words before the keeper's command}.
      program: words of the training program; the first is Python.
      host: address of this machine for the others.
      silence: seconds without a word of its keeper after which a node counts as lost.
    """

    def __init__(self, nodes, spares, tasks, starter, program, host, silence):
        self.nodes, self.tasks, self.starter, self.program = nodes, tasks, starter, program
        self.seats = [None] * (len(nodes) - spares)  # node of each share
        self.keepers, self.events, self.round, self.step = {}, queue.Queue(), 0, -1
        self.silence, self.signals = silence, 0
        self.workdir = Path(os.path.expanduser(supervise.flag(program, "workdir") or "."))
        self.idle, self.before = 0, -2  # starts in a row without progress; the step before
        os.environ.setdefault(wire.TOKEN, secrets.token_hex(32))
        self.address = ":".join(map(str, wire.serve(host, self.hear)))

    def hear(self, connection):
        """In a thread for each keeper: its words become events."""
        node = None
        try:
            while True:
                message = wire.receive(connection)
                if "node" in message:
                    node, message = message["node"], dict(message, connection=connection)
                if node is not None:
                    self.events.put((node, connection, message))
        finally:
            self.events.put((node, connection, {"lost": "its keeper is gone"}))

    def invite(self, node):
        """Starts the keeper of a node."""
        command = [*self.starter[node], self.program[0], "-m", "phenomjax.standby.keeper"]
        environment = dict(os.environ, **{wire.LAUNCHER: self.address})
        if not self.starter[node]:
            environment[wire.NODE] = node
        process = subprocess.Popen(
            [*command, *self.program[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.keepers[node] = Keeper(node, process)

    def there(self):
        """Nodes whose keepers are ready."""
        return [node for node, keeper in self.keepers.items() if keeper.connection]

    def next_event(self, seconds):
        """(node, message) of what happens next, None when nothing does; what it says of a keeper is
        noted.
        """
        with contextlib.suppress(queue.Empty):
            node, connection, message = self.events.get(timeout=seconds)
            keeper = self.keepers.get(node)
            if keeper is None or keeper.connection not in (None, connection):
                return None  # of a keeper that was given up
            keeper.heard = time.monotonic()
            keeper.port = message.get("port", keeper.port)
            self.step = max(self.step, message.get("whole", -1))
            if "node" in message:
                keeper.connection, keeper.address = connection, message["keeper"]
            if "lost" in message:
                self.give_up(node)
            return node, message
        for node in self.there():
            if time.monotonic() - self.keepers[node].heard > self.silence:
                self.give_up(node)
                return node, {"lost": f"its keeper says nothing for {self.silence:g} s"}
        return None

    def give_up(self, node):
        """Forgets a keeper; what is left of it ends when its connection does."""
        keeper = self.keepers.pop(node)
        if keeper.connection:
            with contextlib.suppress(OSError):
                keeper.connection.close()
        for number in (signal.SIGTERM, signal.SIGKILL):  # srun hands on the first one only
            with contextlib.suppress(ProcessLookupError):
                os.killpg(keeper.process.pid, number)

    def gather(self):
        """Fills the seats; returns whether all are taken."""
        first = not self.round
        missing = [node for node in self.nodes if node not in self.keepers]
        if first or len(self.there()) < len(self.seats):
            for node in missing:
                self.invite(node)
        end = time.monotonic() + (JOIN_SECONDS if first else REJOIN_SECONDS)
        wanted = len(self.nodes) if first else len(self.seats)
        while len(self.there()) < wanted and time.monotonic() < end and not self.signals:
            self.next_event(0.2)
            for node, keeper in list(self.keepers.items()):
                if not keeper.connection and keeper.process.poll() is not None:
                    supervise.say(f"the keeper of {node} ended with {keeper.process.poll()}")
                    self.give_up(node)
                    wanted = min(wanted, max(len(self.keepers), len(self.seats)))
                    if len(self.keepers) < len(self.seats):
                        return False
        free = [node for node in self.there() if node not in self.seats]
        for i, node in enumerate(self.seats):
            if node not in self.there() and free:
                self.seats[i] = free.pop(0)
                if node:
                    supervise.say(f"{self.seats[i]} takes the share of {node}")
        return all(node in self.there() for node in self.seats)

    def start(self):
        """Runs all processes once; returns the exit code of the one that failed first, or 0."""
        if not self.gather():
            supervise.say(
                f"{len(self.there())} nodes are there ({', '.join(self.there()) or 'none'}) and"
                f" {len(self.seats)} are needed"
            )
            return supervise.STOPPED if self.signals else 1
        if self.signals:
            return supervise.STOPPED
        self.round += 1
        # What a start without progress used is not trusted a second time.
        reached = max(self.step, supervise.number(self.workdir / "progress", -1))
        self.idle = self.idle + 1 if reached <= self.before else 0
        self.before = reached
        first = self.keepers[self.seats[0]]
        keepers = {node: self.keepers[node].address for node in self.there()}
        processes = {
            node: list(range(i * self.tasks, (i + 1) * self.tasks))
            for i, node in enumerate(self.seats)
        }
        for node in self.there():
            self.keepers[node].say(
                {
                    "round": self.round,
                    "processes": processes.get(node, []),
                    "count": self.tasks * len(self.seats),
                    "coordinator": f"{first.address[0]}:{first.port}",
                    "keepers": keepers,
                    "forget": self.idle,
                }
            )
        return self.wait({node: set(mine) for node, mine in processes.items()})

    def wait(self, running):
        """Waits for all processes of a start.

        Args:
          running: {node: its processes}.
        """
        failed, end = None, None
        while any(running.values()):
            found = self.next_event(0.2)
            if found is not None:
                node, message = found
                code, text = 0, ""
                if "exit" in message:
                    running[node].discard(message["exit"])
                    code = message["code"]
                    text = f"process {message['exit']} on {node}"
                elif "lost" in message and running.pop(node, None):
                    code, text = -signal.SIGKILL, f"{node} is lost: {message['lost']}"
                if code and failed is None:
                    failed, end = code, time.monotonic() + (LEAVE_SECONDS if code > 0 else 0)
                    if "exit" in message and code < 0:
                        text += f" was ended by {signal.Signals(-code).name}"
                    if code < 0:  # one that ends by itself has said why
                        supervise.say(text)
            if end is not None and time.monotonic() > end:
                self.send(signal.SIGKILL)
                end = time.monotonic() + 1
        return supervise.shell_code(failed or 0)

    def send(self, number):
        """Signals all processes of the run."""
        for node in self.there():
            self.keepers[node].say({"signal": int(number)})

    def on_signal(self, *_):
        """The first signal is handed on: all save and leave with 75. A second one ends at once."""
        self.signals += 1
        self.send(signal.SIGTERM if self.signals == 1 else signal.SIGKILL)
        if self.signals > 1:
            self.close(1)
            os._exit(128 + signal.SIGINT)

    def close(self, code):
        """Ends the keepers."""
        for node in self.there():
            self.keepers[node].say({"end": code})
        end = time.monotonic() + 5
        for keeper in self.keepers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                keeper.process.wait(max(0.0, end - time.monotonic()))
        for node in list(self.keepers):
            self.give_up(node)


def slurm_nodes(options):
    """({node: words that start something on it}, address of this host) in a SLURM job."""
    text = subprocess.run(
        ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    step = ["srun", "--nodes=1", "--ntasks=1", "--kill-on-bad-exit=0", *options]
    host = socket.gethostbyname(os.environ.get("SLURMD_NODENAME") or socket.gethostname())
    return {node: [*step, "--nodelist=" + node] for node in text.split()}, host


def main(words):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=0, help="without SLURM: how many are played")
    parser.add_argument("--spares", type=int, default=0, help="nodes that wait (default 0)")
    parser.add_argument("--tasks", type=int, default=1, help="processes on each node")
    parser.add_argument(
        "--silence",
        type=float,
        default=10,
        help="seconds without a word from a node after which it is lost (default 10)",
    )
    parser.add_argument(
        "--srun", action="append", default=[], help="a word for srun, or before Python on the node"
    )
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="-- PROGRAM", help="command")
    options = parser.parse_args(words)
    program = options.program[1:] if options.program[:1] == ["--"] else options.program
    slurm = "SLURM_JOB_ID" in os.environ and not options.nodes
    if slurm:
        starter, host = slurm_nodes(options.srun)
    else:
        starter, host = {f"node{i}": [] for i in range(options.nodes)}, "127.0.0.1"
    wrong = ""
    if not 0 <= options.spares < len(starter):
        wrong = f"--spares must be at least 0 and less than the number of nodes ({len(starter)})"
    elif not options.silence >= 3:
        wrong = "--silence must be at least 3: keepers say a word a second"
    elif options.tasks < 1:
        wrong = "--tasks must be at least 1"
    elif not program or "python" not in os.path.basename(program[0]) or len(program) < 2:
        wrong = "after -- comes the program: python -m phenomjax.main --config … --workdir …"
    if wrong:
        print("error: " + wrong, file=sys.stderr)
        return supervise.CONFIG
    standby = Standby(
        list(starter), options.spares, options.tasks, starter, program, host, options.silence
    )
    if slurm:  # its signals reach the processes without us
        signal.signal(signal.SIGTERM, lambda *_: None)
    else:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, standby.on_signal)
    scheduler = supervise.Slurm(os.environ) if slurm else None
    code = 1
    try:
        code = supervise.run(standby.start, program, scheduler, lambda: standby.step)
        return code
    finally:
        standby.close(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

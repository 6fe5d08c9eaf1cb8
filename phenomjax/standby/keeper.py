"""Stays on a node as long as the run's launcher: starts and ends training processes as it says, and
holds copies of the state for them and for another node: `python -m phenomjax.standby.keeper
PROGRAM …`, started by launch/standby.py.

It ends, with all that it started, when the launcher is gone. Copies are in its own memory, so
nothing of them is left behind.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from phenomjax.standby import client, wire
from phenomjax.standby.serving import Server

BEAT_SECONDS = 1.0
LOST_LAUNCHER_SECONDS = 20.0


class Keeper:
    """One node's.

    Args:
      program: words of the training program behind `python`.
      launcher: HOST:PORT.
    """

    def __init__(self, program: Sequence[str], launcher: str):
        self._program, self._server = list(program), Server()
        host, _, port = launcher.rpartition(":")
        self._launcher = wire.connect((host, int(port)))
        self._host = wire.own_address(self._launcher)
        self._address = wire.serve(self._host, self._server.serve)
        self._sending, self._leaving = threading.Lock(), False
        mine, theirs = socket.socketpair()
        self._zygote = mine
        command = [sys.executable, "-m", "phenomjax.standby.zygote", str(theirs.fileno()), *program]
        subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()

    def run(self) -> int:
        """Does as the launcher says; returns the exit code that it says at the end."""
        threading.Thread(target=self._from_zygote, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        while True:
            try:
                message = wire.receive(self._launcher)
            except (EOFError, OSError):
                return self._without_launcher()
            if "end" in message:
                return message["end"]
            if "signal" in message:
                self._to_zygote({"signal": message["signal"]})
            if "round" in message:
                self._server.begin(message["round"], message["forget"])
                self._start(message)

    def _without_launcher(self) -> int:
        """Ends this node's processes. A job that goes on without the node of its batch script, by
        --no-kill, would stay for ever and do nothing: it is put back into SLURM's queue.
        """
        self._leaving = True
        with contextlib.suppress(OSError):
            self._zygote.shutdown(socket.SHUT_RDWR)  # it ends its children, and itself
        job = os.environ.get("SLURM_JOB_ID")
        if job is None:
            return 1
        if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
            job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        time.sleep(LOST_LAUNCHER_SECONDS)  # the end of the job ends this process, too
        with contextlib.suppress(OSError):  # in a container without SLURM's commands
            state = subprocess.run(
                ["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True
            )
            if state.stdout.split() == ["RUNNING"]:
                print(f"launch: the node of the batch script is lost; requeue of {job}", flush=True)
                subprocess.run(["scontrol", "requeue", job])
        return 1

    def _start(self, message: dict[str, Any]) -> None:
        """Has the processes of a round started that are this node's."""
        tasks = len(message["processes"])
        for i, process in enumerate(message["processes"]):
            flags = [
                f"--coordinator={message['coordinator']}",
                f"--num_processes={message['count']}",
                f"--process_id={process}",
            ]
            standby = {
                "round": self._server.round,
                "keeper": self._address,
                "keepers": message["keepers"],
            }
            environment = {
                client.STANDBY: json.dumps(standby),
                # As srun would have said: a process takes its share of the node's GPUs by these.
                "SLURM_LOCALID": str(i),
                "SLURM_STEP_TASKS_PER_NODE": str(tasks),
                "SLURM_NODEID": "0",
            }
            words = [*self._program, *flags]
            self._to_zygote({"process": process, "words": words, "environment": environment})

    def _to_zygote(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # `_from_zygote` sees that it is gone
            self._zygote.sendall((json.dumps(message) + "\n").encode())

    def _from_zygote(self) -> None:
        """In a thread: tells the launcher what the zygote says."""
        for line in self._zygote.makefile("r"):
            message = json.loads(line)
            if "ready" in message:
                message = {
                    "node": wire.node(),
                    "keeper": self._address,
                }
            self._tell(message | {"port": wire.free_port(self._host)})
        if not self._leaving:
            os._exit(1)  # it died, and its children with it: this node is lost to the run

    def _tell(self, message: dict[str, Any]) -> None:
        message["whole"] = self._server.pieces.whole
        with self._sending, contextlib.suppress(OSError):
            wire.send(self._launcher, message)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            self._tell({})


def main() -> int:
    """Serves one run."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # SLURM's, for those that train
    try:
        keeper = Keeper(sys.argv[1:], os.environ[wire.LAUNCHER])
    except Exception as error:
        print(
            f"error: the keeper on {wire.node()} cannot reach its launcher at"
            f" {os.environ.get(wire.LAUNCHER)}: {error or type(error).__name__}",
            file=sys.stderr,
        )
        return 1
    code = keeper.run()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())

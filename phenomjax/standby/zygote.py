"""Imports what training imports, once, and forks a training process whenever it is asked to:
`python -m phenomjax.standby.zygote FD PROGRAM …`, started by a keeper. The words of the program are
there for `ps` alone.

It touches no device and starts no thread, so that a fork of it is a whole program. Its children
end with it, and it ends with the keeper.
"""

import contextlib
import ctypes
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

# What a process of another program than `main` imports before it is needed, with commas.
IMPORTS = "PHENOMJAX_STANDBY_IMPORTS"
# What a run imports, the program itself and its model apart. None of it opens a device.
MODULES = (
    "jax",
    "jax.experimental.multihost_utils",
    "jax.experimental.pallas",
    "flax.linen",
    "optax",
    "orbax.checkpoint",
    "ml_collections.config_flags",
    "matplotlib.figure",
    "tensorboardX",
    "phenomjax.train",
    "phenomjax.cluster.start",
    "phenomjax.tasks.mae",
    "phenomjax.tasks.causal_lm",
)
PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Zygote:
    """Forks processes as its keeper says.

    Args:
      control: to the keeper: lines of JSON.
    """

    def __init__(self, control: socket.socket):
        self._control, self._selector = control, selectors.DefaultSelector()
        self._children: dict[int, int] = {}  # process id in the run: pid

    def serve(self) -> list[str]:
        """Serves until the keeper is gone; in a child it returns the words of its program."""
        text = b""
        self._selector.register(self._control, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._control:
                    self._ended(key)
                    continue
                text += (read := self._control.recv(1 << 16))
                if not read:
                    self._signal(signal.SIGKILL)
                    os._exit(0)
                *lines, text = text.split(b"\n")
                for message in map(json.loads, lines):
                    if "signal" in message:
                        self._signal(message["signal"])
                    elif words := self._fork(message):
                        return words

    def _fork(self, message: dict) -> list[str]:
        """Starts a process; in the child it returns its words, in the parent none."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._children[message["process"]] = pid
            watched = os.pidfd_open(pid)
            self._selector.register(watched, selectors.EVENT_READ, (message["process"], pid))
            return []
        # A session of its own, so that all that it starts can be ended with it.
        os.setsid()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        self._control.close()
        os.environ.update(message["environment"])
        return message["words"]

    def _ended(self, key: selectors.SelectorKey) -> None:
        process, pid = key.data
        # What it started and left behind goes too, as long as the number is its own: until it is
        # waited for.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(key.fileobj)
        os.close(key.fd)
        self._children.pop(process, None)
        word = {"exit": process, "code": os.waitstatus_to_exitcode(status)}
        self._control.sendall((json.dumps(word) + "\n").encode())

    def _signal(self, number: int) -> None:
        for pid in self._children.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


def run(words: Sequence[str]) -> None:
    """Runs a program as `python WORDS` would."""
    sys.stdin = open(os.devnull)  # noqa: SIM115  it lasts as long as the process
    if words[0] == "-m":
        sys.argv = ["-m", *words[2:]]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


def main() -> None:
    """Imports, serves; and in a child runs the program."""
    # SLURM signals all processes of a job: those that train save, this one stays.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    wanted = os.environ.get(IMPORTS)
    for name in MODULES if wanted is None else wanted.split(","):
        with contextlib.suppress(ImportError, ValueError):  # an extra, or nothing
            importlib.import_module(name)
    sys.path.pop(0)  # the working folder, by -m: a program says itself what it wants there
    control.sendall(b'{"ready": true}\n')
    run(Zygote(control).serve())


if __name__ == "__main__":
    main()

"""Processes that start in a moment: a server imports, once for a test worker, all that a run of
`phenomjax.main` imports, and forks a child for each.

`Popen(command, …)` stands for subprocess.Popen, and `run(command, …)` for subprocess.run, where the
command is `[python, "FILE.py", …]`, `[python, "-m", "MODULE", …]` or `[python, "-c", "CODE", …]`.
The child has a pid, environment, files and signals of its own, and ends as Python ends; only its
imports were made before.
"""

import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.lab import ROOT

# What Python and libraries read while they are imported: such an environment needs its own server.
READ_AT_IMPORT = ("JAX_", "PYTHON", "MPL", "OPENBLAS_", "OMP_", "NUMBA_")
RUN = ("phenomjax.main", "phenomjax.cluster.start", "phenomjax.train")
# CPU time of the children that ended, which the times of this process do not hold.
ended = {"cpu_seconds": 0.0}


def collect_seldom():
    """JAX's traces make so many objects that the collector took a tenth of all CPU time."""
    gc.set_threshold(50_000, 20, 100)


def share_contexts():
    """JAX lowers every program in an MLIR context of its own, which takes 5 ms to make, of 25 that
    a small program takes in all, and a megabyte that is kept with it. Here a hundred share one.
    """
    from jax._src.interpreters import mlir

    make, programs = mlir.make_ir_context, itertools.count()
    shared = functools.lru_cache(maxsize=1)(lambda hundred: make())
    mlir.make_ir_context = lambda: shared(next(programs) // 100)


class Popen:
    """A child of a warm server; as much of subprocess.Popen as the tests use.

    Args:
      command: as for subprocess.Popen; its first word, the interpreter, must be this one.
      cwd: the folder it runs in; this process's own by default.
      env: its environment; this process's own by default.
      stdout: an open file, subprocess.PIPE or subprocess.DEVNULL; this process's own by default.
      stderr: likewise, or subprocess.STDOUT.
      text: what goes through a pipe is text always.
    """

    def __init__(self, command, cwd=None, env=None, stdout=None, stderr=None, text=True):
        assert command[0] == sys.executable, f"{command[0]} is another program"
        env = dict(os.environ if env is None else env)
        at_import = {name: env[name] for name in sorted(env) if name.startswith(READ_AT_IMPORT)}
        self._server = _server(json.dumps(at_import))
        self._pipes = [None, None]
        self.args, self.returncode = command, None
        with contextlib.ExitStack() as stack:
            out = err = self._file(0, stdout, stack)
            if stderr != subprocess.STDOUT:
                err = self._file(1, stderr, stack)
            words = [str(word) for word in command[1:]]
            request = {"words": words, "cwd": str(cwd or Path.cwd()), "environment": env}
            self.pid = self._server.ask(request, [out, err])["pid"]

    def _file(self, place, given, stack):
        """The descriptor behind what the caller gave; a pipe is a file that is read at the end."""
        if given is None:
            return place + 1
        if given == subprocess.DEVNULL:
            null = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, null)
            return null
        if given == subprocess.PIPE:
            given = self._pipes[place] = tempfile.TemporaryFile()  # noqa: SIM115
        return given.fileno()

    def poll(self):
        if self.returncode is None:
            answer = self._server.ask({"poll": self.pid})
            self.returncode = answer["code"]
            ended["cpu_seconds"] += answer["cpu_seconds"]
        return self.returncode

    def wait(self, timeout=None):
        end = time.monotonic() + (timeout or 1e9)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return self.returncode

    def communicate(self, timeout=None):
        """What it wrote to its pipes, as text; None for a stream that is no pipe."""
        self.wait(timeout)
        for pipe in self._pipes:
            if pipe:
                pipe.seek(0)
        return tuple(pipe and pipe.read().decode() for pipe in self._pipes)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(9)

    def terminate(self):
        self.send_signal(15)


def run(command, cwd=None, env=None, timeout=300):
    """What `command` said, and how it ended; as subprocess.run with capture_output."""
    process = Popen(command, cwd, env, subprocess.PIPE, subprocess.PIPE)
    said = process.communicate(timeout)
    return subprocess.CompletedProcess(command, process.returncode, *said)


class _Server:
    """The test worker's end of a server; it ends when this end is closed."""

    def __init__(self, environment):
        self.socket, its = socket.socketpair()
        with its:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.lab.warm", str(its.fileno())],
                cwd=ROOT,
                env=environment,
                pass_fds=[its.fileno()],
            )

    def ask(self, request, files=()):
        text = json.dumps(request).encode()
        # The descriptors go with the length of the request, and the request follows.
        socket.send_fds(self.socket, [len(text).to_bytes(8, "big")], list(files))
        self.socket.sendall(text)
        answer = b""
        while not answer.endswith(b"\n"):
            part = self.socket.recv(4096)
            assert part, "the warm server is gone"
            answer += part
        return json.loads(answer)


@functools.cache
def _server(at_import):
    rest = {k: v for k, v in os.environ.items() if not k.startswith(READ_AT_IMPORT)}
    own = json.loads(at_import)
    own["PYTHONPATH"] = os.pathsep.join([str(ROOT), own.get("PYTHONPATH", "")])
    own["OPENBLAS_NUM_THREADS"] = "1"  # a pool of threads does not survive a fork
    return _Server(rest | own)


def _import_what_runs_import():
    sys.path.insert(0, str(Path(__file__).parent))
    for name in ("toy_task", *RUN, "jaxlib.mlir.dialects.mhlo"):
        importlib.import_module(name)
    for path in (ROOT / "phenomjax" / "tasks").glob("*.py"):
        if path.stem != "__init__":
            importlib.import_module(f"phenomjax.tasks.{path.stem}")
    sys.path.pop(0)


def _serve(own):
    """Answers the test worker; returns the request in the child that is to run it, None at the
    end.
    """
    while True:
        head, files, _, _ = socket.recv_fds(own, 8, 2)
        if not head:
            return None
        text = b""
        while len(text) < int.from_bytes(head, "big"):
            text += own.recv(1 << 16)
        request = json.loads(text)
        if "poll" in request:
            answer = _poll(request["poll"])
        elif pid := os.fork():
            answer = {"pid": pid}
            for file in files:
                os.close(file)
        else:
            own.close()
            for place, file in enumerate(files, 1):
                os.dup2(file, place)
            for file in set(files):
                os.close(file)
            return request
        own.sendall(json.dumps(answer).encode() + b"\n")


def _poll(pid):
    """Exit code, None while it runs, and the CPU time it took."""
    found, status, usage = os.wait4(pid, os.WNOHANG)
    if not found:
        return {"code": None, "cpu_seconds": 0.0}
    seconds = usage.ru_utime + usage.ru_stime
    return {"code": os.waitstatus_to_exitcode(status), "cpu_seconds": seconds}


def _run(words, cwd, environment):
    """Goes on as `python WORDS…` would in this folder and environment."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path[0] = cwd
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path[0] = str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    collect_seldom()
    _import_what_runs_import()
    share_contexts()
    gc.freeze()
    if asked := _serve(socket.socket(fileno=int(sys.argv[1]))):
        _run(**asked)

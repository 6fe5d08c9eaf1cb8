"""One owner of a run's folder, over all its processes and restarts.

WORKDIR/owner.json says who has it: host, process, SLURM job, launcher, since when. Process 0 makes
the file before anything else is written, touches it every `BEAT_SECONDS`, and removes it when the
run ends. A second run in the folder ends before it writes a byte. An owner that is gone is
followed:

  by the same launcher, or the same SLURM job after a requeue    at once
  on the same machine, which knows its processes                 at once
  from another machine (or another container)                    when the file was not touched for
                                                                 `SILENCE_SECONDS`

No clocks of two machines are compared and no locks of the file system are needed: who waits watches
with its own clock whether the file is touched. An owner that was stopped, and wakes up when another
one has the folder, notices before it writes, and leaves.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from phenomjax.cluster import messages, presence
from phenomjax.system import files
from phenomjax.system.errors import EXIT_CONFIG, UserError
from phenomjax.system.log import leave_files

log = logging.getLogger("phenomjax")
FILE = "owner.json"
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
# of a launcher that starts the run again: its host, pid and start, and the folder (supervise.py)
LAUNCHER = "PHENOMJAX_LAUNCHER"
_held = dict[str, "Hold"]()  # by token: what this process has


@dataclass(frozen=True)
class Owner:
    """Who has a folder.

    Attributes:
      host, pid: of process 0.
      began: when the process began, in the kernel's ticks, to tell it from a later one of that
        number; 0 where nobody says it.
      machine: the boot of the machine and the process namespace in which the pid counts.
      since: UTC.
      processes: of the run.
      job, cluster, restart: of SLURM; "" and 0 without.
      launcher: host, pid and start of what starts the run again; "" without.
      token: of this hold alone.
    """

    host: str = "an unknown host"
    pid: int = 0
    began: int = 0
    machine: str = ""
    since: str = "an unknown time"
    processes: int = 1
    job: str = ""
    cluster: str = ""
    restart: int = 0
    launcher: str = ""
    token: str = ""

    def text(self) -> str:
        """As it stands in the file."""
        return files.json_text(dataclasses.asdict(self))

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        many = f", {self.processes} processes" if self.processes > 1 else ""
        return f"the run of process {self.pid} on {self.host} (since {self.since}{job}{many})"


def this_process(workdir: Path) -> Owner:
    """Who this process is."""
    environment = os.environ
    *launcher, folder = environment.get(LAUNCHER, "").split(" ", 3)
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        began=_began(os.getpid()),
        machine=_machine(),
        since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        processes=jax.process_count(),
        job=environment.get("SLURM_JOB_ID", ""),
        cluster=environment.get("SLURM_CLUSTER_NAME", ""),
        restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
        # of a sweep's worker the launcher has another folder: it knows nothing of this run
        launcher=" ".join(launcher) if launcher and Path(folder).absolute() == workdir else "",
        token=secrets.token_hex(8),
    )


def _machine() -> str:
    """What pids of this process count in; "" where nobody says it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on, behind the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _began(pid: int) -> int:
    try:
        return int(_stat(pid)[19])
    except (OSError, ValueError, IndexError):
        return 0


def _lives(pid: int, began: int) -> bool:
    """Whether a process of this machine is there, and is the one that began then."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    try:
        state, now = _stat(pid)[0], _began(pid)
    except (OSError, IndexError):  # hidden, or no Linux
        return True
    return state not in "ZX" and (not began or now in (began, 0))


def _read(path: Path) -> Owner | None:
    """What a file says; a damaged one is of an unknown owner, with a token of its content."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        known = {field.name for field in dataclasses.fields(Owner)}
        found = json.loads(content)
        owner = Owner(**{name: value for name, value in found.items() if name in known})
        if owner.token.isalnum():
            return owner
    except (ValueError, TypeError, AttributeError):
        pass
    return Owner(token=hashlib.sha256(content).hexdigest()[:16])


def _chain(path: Path) -> list[tuple[Path, Owner]]:
    """The owner, and those that follow it and have not yet replaced the file; the last has it."""
    found = list[tuple[Path, Owner]]()
    file = path
    while owner := _read(file):
        found.append((file, owner))
        file = path.with_name(f".{FILE}.{owner.token}")
    return found


def owner_of(workdir: Path) -> Owner | None:
    """Who has a folder, as it says itself; None if nobody has."""
    chain = _chain(workdir / FILE)
    return chain[-1][1] if chain else None


def alive(owner: Owner) -> bool | None:
    """Whether an owner, or its launcher, is there; None where this machine cannot know."""
    if not owner.machine or owner.machine != _machine():
        return None
    if owner.pid == os.getpid() and owner.began == _began(owner.pid):
        return owner.token in _held
    launcher = owner.launcher.split()
    return _lives(owner.pid, owner.began) or (
        len(launcher) == 3 and _lives(int(launcher[1]), int(launcher[2]))
    )


def _follows(mine: Owner, before: Owner) -> bool:
    """Whether it is the same run that was started again: one start ended before the next began."""
    if mine.launcher and mine.launcher == before.launcher:
        return True
    same_job = mine.job and (mine.job, mine.cluster) == (before.job, before.cluster)
    return bool(same_job and mine.restart > before.restart)


class Hold:
    """What process 0 has of a folder.

    Args:
      path: of owner.json.
      mine: who this is.
    """

    def __init__(self, path: Path, mine: Owner):
        self.path, self.mine = path, mine
        self._ended, self._confirmed = threading.Event(), time.monotonic()
        self._lock = threading.RLock()  # or a beat could bring back what the end removes

    def begin(self) -> None:
        """Begins to beat."""
        _held[self.mine.token] = self
        presence.before_leaving.append(self.release)
        threading.Thread(target=self._beat, daemon=True, name="owner of the workdir").start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self.confirm(0.0)
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def confirm(self, seconds: float = 1.0) -> None:
        """Ends the process, and nothing more is written, if another run has the folder now.

        Args:
          seconds: so young an answer is good enough.
        """
        if time.monotonic() - self._confirmed < seconds:
            return
        with self._lock:
            if self._ended.is_set():
                return
            try:
                now = owner_of(self.path.parent)
                if now is None and self.path.parent.is_dir():  # deleted by hand
                    files.create_text(self.path, self.mine.text())
                    now = owner_of(self.path.parent)
            except OSError:  # whoever writes next says what is wrong
                return
            self._confirmed = time.monotonic()
            if now is None or now.token == self.mine.token:
                return
            self._ended.set()
            leave_files()
            presence.leave(
                EXIT_CONFIG,
                f"error: {self.path.parent} went over to {now}, because this process gave no sign"
                f" of life for {SILENCE_SECONDS:.0f} s: it was stopped, or its machine was. It"
                " leaves without writing anything; the other one goes on from the last"
                " checkpoint.",
                quiet=True,
            )

    def release(self) -> None:
        """Gives the folder back, unless a launcher keeps it for the next start."""
        with self._lock:
            self._ended.set()
            _held.pop(self.mine.token, None)
            with contextlib.suppress(ValueError):
                presence.before_leaving.remove(self.release)
            if not self.mine.launcher:
                with contextlib.suppress(OSError):
                    if (now := _read(self.path)) and now.token == self.mine.token:
                        self.path.unlink()


def confirm() -> None:
    """Ends the process before it writes, if another run has its folder now; cheap enough for
    every line of metrics.
    """
    for hold in list(_held.values()):
        hold.confirm()


@contextlib.contextmanager
def owned(workdir: Path) -> Iterator[None]:
    """The folder of a run, made where there is none, belongs to this run inside. All processes
    enter together; process 0 decides.

    Raises:
      UserError: another run has it; nothing was written. Or the folder cannot be made or written.
    """
    hold = None
    if messages.is_main():
        try:
            hold = _take(workdir)
        except OSError as error:
            raise UserError(
                f"--workdir {workdir} cannot be written ({error.strerror or error}). Give a folder"
                " on a disk with space that you own."
            ) from error
    try:
        messages.barrier("the workdir is ours")
        yield
    finally:
        if hold:
            hold.release()


def _take(workdir: Path) -> Hold:
    """Makes this process the owner, however many try it at once."""
    path, mine = workdir / FILE, this_process(workdir)
    while True:
        chain = _chain(path)
        if not chain:
            if files.create_text(path, mine.text()):
                break
            continue
        _, before = chain[-1]
        if _follows(mine, before):
            mine = dataclasses.replace(mine, since=before.since)
        elif not _is_gone(path, before):
            raise UserError(_busy(workdir, before))
        # One alone can follow an owner: whoever makes this file. If meanwhile another one has
        # followed it, the chain from owner.json no longer leads here.
        claim = path.with_name(f".{FILE}.{before.token}")
        if not files.create_text(claim, mine.text()):
            continue
        chain = _chain(path)
        if chain and chain[-1][1].token == mine.token:
            files.write_text(path, mine.text(), shared=True)
            for file, _ in chain[1:]:
                file.unlink(missing_ok=True)
            log.info("%s was of %s, which is gone: taken over", workdir, before)
            break
        claim.unlink(missing_ok=True)
    hold = Hold(path, mine)
    hold.begin()
    return hold


def _is_gone(path: Path, owner: Owner) -> bool:
    """Whether an owner is no more; of one that cannot be seen from here, after it was watched."""
    if (lives := alive(owner)) is not None:
        return not lives
    log.warning(
        "%s is of %s, which cannot be seen from here: waiting until it gives a sign of life, or for"
        " %.0f s",
        *(path.parent, owner, SILENCE_SECONDS),
    )
    end, before = time.monotonic() + SILENCE_SECONDS, _touched(path)
    while time.monotonic() < end:
        time.sleep(0.25)
        if _touched(path) != before:
            # its end is a change, too
            return owner_of(path.parent) != owner
    return True


def _touched(path: Path) -> tuple[int, int] | None:
    """Changes with every beat. The file is opened: NFS looks at the server for that alone."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            return found.st_ino, found.st_mtime_ns
    except FileNotFoundError:
        return None


def _busy(workdir: Path, owner: Owner) -> str:
    """The error of a second run."""
    if owner.job:
        ways = f"Look at it with `squeue -j {owner.job}`, stop it with `scancel {owner.job}`"
    else:
        launcher = owner.launcher.split()
        pid = launcher[1] if len(launcher) == 3 else owner.pid
        ways = f"Look at it with `ps -fp {pid}` on {owner.host}, stop it with `kill {pid}`"
    ways += " (it saves first)"
    if owner.machine == _machine():
        with contextlib.suppress(OSError, IndexError):
            if _stat(owner.pid)[0] in "Tt":
                ways = (
                    f"It was stopped by a signal: `kill -CONT {owner.pid}` lets it go on, `kill"
                    f" -KILL {owner.pid}` ends it"
                )
    return (
        f"{workdir} belongs to {owner}, which is alive. Two runs in one folder would overwrite each"
        f" other, so this one ends, and nothing was changed. {ways}; or give another --workdir."
    )

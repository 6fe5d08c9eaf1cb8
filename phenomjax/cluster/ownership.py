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
import errno
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from phenomjax.cluster import messages, presence
from phenomjax.system import alive, files, owners
from phenomjax.system.errors import EXIT_CONFIG, UserError
from phenomjax.system.log import leave_files
from phenomjax.system.outputs import UNUSABLE
from phenomjax.system.owners import FILE, Owner

log = logging.getLogger("phenomjax")
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
# of a launcher that starts the run again: its host, pid and start, and the folder (supervise.py)
LAUNCHER = "PHENOMJAX_LAUNCHER"
_holds = list["Hold"]()  # of this process


def this_process(workdir: Path) -> Owner:
    """Who this process is."""
    environment = os.environ
    *launcher, folder = environment.get(LAUNCHER, "").split(" ", 3)
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        began=alive.began(os.getpid()),
        machine=alive.machine(),
        since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        processes=jax.process_count(),
        job=environment.get("SLURM_JOB_ID", ""),
        cluster=environment.get("SLURM_CLUSTER_NAME", ""),
        restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
        # of a sweep's worker the launcher has another folder: it knows nothing of this run
        launcher=" ".join(launcher) if launcher and Path(folder).absolute() == workdir else "",
        token=secrets.token_hex(8),
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
        owners.held.add(self.mine.token)
        _holds.append(self)
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
                now = owners.owner_of(self.path.parent)
                if now is None and self.path.parent.is_dir():  # deleted by hand
                    files.create_text(self.path, self.mine.text())
                    now = owners.owner_of(self.path.parent)
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
            owners.held.discard(self.mine.token)
            with contextlib.suppress(ValueError):
                _holds.remove(self)
                presence.before_leaving.remove(self.release)
            if not self.mine.launcher:
                with contextlib.suppress(OSError):
                    if (now := owners.read(self.path)) and now.token == self.mine.token:
                        self.path.unlink()


def confirm() -> None:
    """Ends the process before it writes, if another run has its folder now; cheap enough for
    every line of metrics.
    """
    for hold in list(_holds):
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
            other = "Give a folder on a disk with space that you own."
            raise UserError(
                f"--workdir {workdir} cannot be written ({error.strerror or error})."
                f" {UNUSABLE.get(error.errno or 0, other)}"
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
    for _ in range(1000):
        chain = owners.chain_of(path)
        if not chain:
            if files.create_text(path, mine.text()):
                break
            continue
        _, before = chain[-1]
        again = _follows(mine, before)
        if again:
            mine = dataclasses.replace(mine, since=before.since)
        elif not _is_gone(path, before):
            raise UserError(_busy(workdir, before))
        # One alone can follow an owner: whoever makes this file. If meanwhile another one has
        # followed it, the chain from owner.json no longer leads here.
        claim = path.with_name(f".{FILE}.{before.token}")
        if not files.create_text(claim, mine.text()):
            continue
        chain = owners.chain_of(path)
        if chain and chain[-1][1].token == mine.token:
            files.write_text(path, mine.text(), shared=True)
            for file, _ in chain[1:]:
                file.unlink(missing_ok=True)
            if not again:
                log.info("%s was of %s, which is gone: taken over", workdir, before)
            break
        claim.unlink(missing_ok=True)
    else:  # such as a link to nowhere
        raise FileExistsError(errno.EEXIST, f"{path} is there and cannot be read")
    hold = Hold(path, mine)
    hold.begin()
    return hold


def _is_gone(path: Path, owner: Owner) -> bool:
    """Whether an owner is no more; of one that cannot be seen from here, after it was watched."""
    if (lives := owners.lives(owner)) is not None:
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
            return owners.owner_of(path.parent) != owner
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
        pid = owner.launcher.split()[1] if owner.launcher else owner.pid
        where = owner.host
        if owner.machine != alive.machine() and where == socket.gethostname():
            where = "the container it runs in"
        ways = f"Look at it with `ps -fp {pid}` on {where}, stop it with `kill {pid}`"
    ways += " (it saves first)"
    if owner.machine == alive.machine():
        with contextlib.suppress(OSError, IndexError):
            if alive.stat(owner.pid)[0] in "Tt":
                ways = (
                    f"It was stopped by a signal: `kill -CONT {owner.pid}` lets it go on, `kill"
                    f" -KILL {owner.pid}` ends it"
                )
    return (
        f"{workdir} belongs to {owner}, which is alive. Two runs in one folder would overwrite each"
        f" other, so this one ends, and nothing was changed. {ways}; or give another --workdir."
    )

"""Whether a process of this machine is there, and is the one that is meant."""

import os
from pathlib import Path


def machine() -> str:
    """What pids of this process count in: one boot of one kernel, and one process namespace in it;
    "" where nobody says it.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on, behind the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def began(pid: int) -> int:
    """When a process began, in ticks since the machine did; 0 where nobody says it."""
    try:
        return int(stat(pid)[19])
    except (OSError, ValueError, IndexError):
        return 0


def lives(pid: int, since: int = 0) -> bool:
    """Whether a process is there, and if `since` is not 0 is the one that began then."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    try:
        state, now = stat(pid)[0], began(pid)
    except (OSError, IndexError):  # hidden, or no Linux
        return True
    return state not in "ZX" and (not since or now in (since, 0))

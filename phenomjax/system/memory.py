"""Memory of this host and process, and errors that say that memory ran out, whoever raised them."""

import re
import resource
import sys
from pathlib import Path

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# As XLA, its allocators, CUDA and NumPy say it. Stores say RESOURCE_EXHAUSTED too, of a full disk.
TOLD = re.compile(r"out of memory|failed to allocate|unable to allocate|bad_alloc", re.IGNORECASE)
EXACT = re.compile(r"\((\d+) ?B\)|(\d+) bytes")
ROUNDED = re.compile(r"([\d.]+) ?([KMGT]?)i?B\b")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, of a device or of the host."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(TOLD.search(str(error)))


def wanted(error: BaseException) -> float | None:
    """Bytes that could not be had, where the error says it."""
    text = str(error)
    told = TOLD.search(text)
    text = text[told.start() if told else 0 :]
    if found := EXACT.search(text):
        return float(found[1] or found[2])
    if found := ROUNDED.search(text):
        return float(found[1]) * UNITS[found[2]]
    return None


def available() -> float:
    """Bytes of memory that this host, the control group of the job, or a limit on this process has
    left; endless where nobody tells.
    """
    found = [float("inf")]
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024.0 * int(line.split()[1]))
        if most != resource.RLIM_INFINITY:  # `ulimit -v`
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(float(most - pages * resource.getpagesize()))
    except OSError:
        pass  # not Linux
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(float(int(limit) - int((group / "memory.current").read_text())))
    except (OSError, ValueError):
        pass  # no control group of its own
    return min(found)


def of_process() -> tuple[float, float]:
    """Bytes of memory that this process holds now, and held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most = float(peak if sys.platform == "darwin" else 1024 * peak)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return most, most  # not Linux
    now = float(pages * resource.getpagesize())
    return now, max(now, most)

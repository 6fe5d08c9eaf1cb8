"""A bound on bytes a second over all workers of a job, on any number of hosts.

Each block of bytes takes its turn in a file of the work folder: the time at which the next may
begin.
"""

import fcntl
import os
import re
import threading
import time
from pathlib import Path

from phenomjax.system.errors import UserError

FILE = "turn"
# a clock that is further ahead than these seconds, and than these bytes take, is wrong
LONGEST_WAIT, MOST_WAITING = 600.0, 1 << 34
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)(B|bit|b)(?:/s|ps)", re.I)


def parse(text: str) -> float:
    """Bytes a second of "500MB/s", "2 GiB/s", "10Gbit/s" or "10Gb/s" (bits where the b is small).

    Raises:
      UserError: it is no rate.
    """
    found = _FORM.fullmatch(text.strip())
    if found and float(found[1]) > 0:
        unit = _UNITS[found[2].upper()]
        if found[3]:
            unit = 2 ** (10 * list(_UNITS).index(found[2].upper()))
        return float(found[1]) * unit / (1 if found[4] == "B" else 8)
    raise UserError(
        f"`rate` is {text!r}. Give bytes a second, such as 500MB/s, or bits, such as 10Gb/s."
    )


class Turns:
    """Waits so that all workers together stay below a rate.

    Args:
      folder: the work folder, seen by all.
      rate: bytes a second; 0: no bound.
    """

    def __init__(self, folder: Path, rate: float):
        self.path, self.rate, self._lock = folder / FILE, rate, threading.Lock()

    def take(self, count: int) -> None:
        """Waits until these many bytes may pass."""
        if not self.rate:
            return
        with self._lock:  # the lock of a file belongs to the process
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX)
                now = time.time()
                turn = float(os.pread(handle, 64, 0) or 0)
                if not now - 1 < turn < now + LONGEST_WAIT + MOST_WAITING / self.rate:
                    turn = now
                os.pwrite(handle, f"{turn + count / self.rate:<32.6f}".encode(), 0)
            finally:
                os.close(handle)
        time.sleep(max(0.0, turn - now))

"""Who works on what: claims as files that all hosts see, so that no two workers do the same thing.

Claim n on a thing is the file CLAIMS/THING/n, and belongs to whoever created it: creating a file
that must not exist is atomic on local disks, NFS, Lustre and GPFS. The newest claim counts. Its
owner rewrites it every few seconds with a higher `beat`, and marks it released in the end. Whoever
finds the newest claim dead takes the next number, which only one can. Dead means: on the same
machine, that the process is gone; on another, that the beat did not change for `lease_seconds` by
the finder's own clock (clocks of hosts need not agree). An owner that was asleep so long finds a
newer claim when it wakes, and must stop its work. Old claims stay: they are the record of who
worked on what.
"""

import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path

from phenomjax.system import alive
from phenomjax.system.files import create_text, write_text

LEASE_SECONDS = 60.0


class Claims:
    """All claims of one process.

    Args:
      folder: the claims of a study.
      lease_seconds: how long another machine's worker may be silent.
    """

    def __init__(self, folder: Path, lease_seconds: float = LEASE_SECONDS):
        self.folder, self.lease_seconds = folder, lease_seconds
        self.mine: dict[str, int] = {}
        self._beats, self._last_beat = 0, 0.0
        self._seen: dict[tuple[str, int], tuple[int | None, float]] = {}

    def take(self, thing: str) -> bool:
        """Claims a thing; False when a living worker has it, or another was quicker."""
        number = self._newest(thing)
        if self._held(thing, number):
            return False
        # Whole or not at all: nobody could tell whether the owner of an empty claim is alive.
        if not create_text(self._path(thing, number + 1), self._text()):
            return False
        self.mine[thing] = number + 1
        return True

    def held(self, thing: str) -> bool:
        """Whether a living worker, this one included, has the thing."""
        return self._held(thing, self._newest(thing))

    def beat(self) -> bool:
        """Says that this process lives, as often as is needed; False when something was taken from
        it meanwhile.
        """
        now = time.monotonic()
        if now - self._last_beat < self.lease_seconds / 6:
            return True
        self._last_beat, self._beats = now, self._beats + 1
        for thing, number in list(self.mine.items()):
            if self._newest(thing) != number:
                del self.mine[thing]
                return False
            self._write(thing, number)
        return True

    def release(self, thing: str) -> None:
        """Gives the thing back."""
        number = self.mine.pop(thing, None)
        if number is not None:
            self._write(thing, number, released=True)

    def _path(self, thing: str, number: int) -> Path:
        return self.folder / thing / f"{number:05d}"

    def _newest(self, thing: str) -> int:
        try:
            return max(
                (int(name) for name in os.listdir(self.folder / thing) if name.isdigit()),
                default=-1,
            )
        except FileNotFoundError:
            return -1

    def _held(self, thing: str, number: int) -> bool:
        if number < 0:
            return False
        if self.mine.get(thing) == number:
            return True
        try:
            claim = json.loads(self._path(thing, number).read_text())
        except (OSError, ValueError):  # its owner is writing the first line, or died before
            claim = {}
        if claim.get("released"):
            return False
        if claim.get("machine") == _machine():
            return alive.lives(claim["pid"], int(claim["started"]))
        beat, since = self._seen.get((thing, number), (None, 0.0))
        if not since or beat != claim.get("beat"):
            self._seen[thing, number] = claim.get("beat"), time.monotonic()
            return True
        return time.monotonic() - since < self.lease_seconds

    def _write(self, thing: str, number: int, released: bool = False) -> None:
        write_text(self._path(thing, number), self._text(released), shared=True)

    def _text(self, released: bool = False) -> str:
        return json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": str(alive.began(os.getpid())),
                "machine": _machine(),
                "beat": self._beats,
                "time": datetime.now().isoformat(timespec="seconds"),
                "released": released,
            }
        )


def _machine() -> str:
    """Where the number of a process means the same process."""
    return alive.machine() or socket.gethostname()

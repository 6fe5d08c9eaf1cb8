"""Who has a run's folder, as WORKDIR/owner.json says, and whether that process is there. See
phenomjax.cluster.ownership, which writes it.
"""

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from phenomjax.system import alive, files

FILE = "owner.json"
held = set[str]()  # tokens of what this process has


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

    def is_sound(self) -> bool:
        """Whether all is of its kind, as this program writes it."""
        values = dataclasses.asdict(self).items()
        return (
            all(type(value) is type(getattr(Owner, name)) for name, value in values)
            and 0 < self.pid < 2**31
            and self.token.isalnum()
            and bool(re.fullmatch(r"|\S+ [1-9]\d{0,8} \d+", self.launcher))
        )

    def text(self) -> str:
        """As it stands in the file."""
        return files.json_text(dataclasses.asdict(self))

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        many = f", {self.processes} processes" if self.processes > 1 else ""
        return f"the run of process {self.pid} on {self.host} (since {self.since}{job}{many})"


def read(path: Path) -> Owner | None:
    """What a file says; a damaged one is of an unknown owner, with a token of its content."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = json.loads(content)
        owner = Owner(**{one.name: found[one.name] for one in dataclasses.fields(Owner)})
        if owner.is_sound():
            return owner
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    return Owner(token=hashlib.sha256(content).hexdigest()[:16])


def chain_of(path: Path) -> list[tuple[Path, Owner]]:
    """The owner, and those that follow it and have not yet replaced the file; the last has it."""
    found = list[tuple[Path, Owner]]()
    file = path
    while len(found) < 100 and (owner := read(file)):  # no end only where files lie
        found.append((file, owner))
        file = path.with_name(f".{FILE}.{owner.token}")
    return found


def owner_of(workdir: Path) -> Owner | None:
    """Who has a folder, as it says itself; None if nobody has."""
    chain = chain_of(workdir / FILE)
    return chain[-1][1] if chain else None


def lives(owner: Owner) -> bool | None:
    """Whether an owner, or its launcher, is there; None where this machine cannot know."""
    if not owner.machine or owner.machine != alive.machine():
        return None
    if owner.pid == os.getpid() and owner.began == alive.began(owner.pid):
        return owner.token in held
    launcher = owner.launcher.split()
    return alive.lives(owner.pid, owner.began) or (
        bool(launcher) and alive.lives(int(launcher[1]), int(launcher[2]))
    )

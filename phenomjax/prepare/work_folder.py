"""OUT/.prepare, where a bank grows: held by one process, for one set of arguments."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

from phenomjax.data import zarr_files
from phenomjax.system.errors import UserError
from phenomjax.system.files import write_text

DONE = ".prepare_done"  # what is left of the work folder while it is deleted


def check_same(out: Path, before: dict, now: dict) -> None:
    """Raises a UserError that names the arguments that differ from those that the bank was begun or
    made with.
    """
    changed = [
        f"--{name.replace('_', '-')} was {before.get(name, 'not given')}, is now"
        f" {now.get(name, 'not given')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"{out} was made with other arguments: {'; '.join(changed)}. Give the same arguments to"
            f" continue, another --out for a second bank, or delete {out} to start again."
        )


@contextlib.contextmanager
def lock(out: Path, arguments: dict) -> Iterator[None]:
    """Takes OUT/.prepare for this process; it disappears with the last step of the job."""
    work = out / zarr_files.UNFINISHED
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is preparing {out} now. Wait for it, or give another --out."
            ) from error
        record = work / "arguments.json"
        if record.is_file():
            check_same(out, json.loads(record.read_text()), arguments)
        else:
            write_text(record, json.dumps(arguments))
        yield

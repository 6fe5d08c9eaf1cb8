"""Locks of folders. A lock belongs to its process and dies with it, also by SIGKILL."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from phenomjax.system.errors import UserError

FILE = "lock"


@contextlib.contextmanager
def hold(folder: Path, busy: str) -> Iterator[None]:
    """Keeps a folder, made where there is none, to this process.

    Args:
      folder: whose file `lock` is taken.
      busy: the error when another process has it.

    Raises:
      UserError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / FILE).acquire(timeout=0)
    except Timeout:
        raise UserError(busy) from None
    with lock:
        yield


@contextlib.contextmanager
def wait_for(
    folder: Path,
    stopped: Callable[[], bool] = lambda: False,
    busy: Callable[[], None] = lambda: None,
    file: str = FILE,
) -> Iterator[bool]:
    """Keeps a folder to this process as soon as no other has it; yields False if `stopped` came
    first.

    Args:
      folder: whose lock is taken.
      stopped: asked while waiting.
      busy: called once when there is something to wait for.
      file: the lock, in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, told = FileLock(folder / file), False
    while not stopped():
        try:
            with lock.acquire(timeout=0):
                yield True
                return
        except Timeout:
            if not told:
                busy()
            told = True
            time.sleep(0.1)
    yield False

"""Copies what a run reads once into a node's local disk or shared memory, checked, for all its
processes.

The first process of a node copies, in parallel threads; the others wait for it. A restart finds the
copy and uses it; a killed one is continued file by file, for each has its name only when it is
whole. Nothing is ever deleted. The name of a copy holds the bank's fingerprint, so a bank that was
prepared anew is copied anew.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from phenomjax.data import store
from phenomjax.system import files, locks
from phenomjax.system.errors import UserError
from phenomjax.system.log import Progress, duration

log = logging.getLogger("phenomjax")
PIECE = 2**24  # bytes copied and hashed at a time
THREADS = 16  # that copy; a parallel file system wants many
WITHOUT = "or read the bank where it is with --config.data.staging=''."


class Item(NamedTuple):
    """A file to copy.

    Attributes:
      name: relative to source and target.
      sha256: of its content; "" where it is not known.
    """

    name: str
    sha256: str = ""


class Damaged(Exception):
    """A file that is not what it should be; says what is wrong."""


def folder_of(setting: str) -> Path:
    """The folder that a `data.staging` names: "disk" is the job's or the machine's folder for
    temporary files, "memory" shared memory, in a folder of this user's own; all else is a folder.

    Raises:
      UserError: there is no shared memory, or the folder is another user's.
    """
    if setting not in ("disk", "memory"):
        return Path(setting)
    disk = os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()
    parent = Path("/dev/shm" if setting == "memory" else disk)
    folder = parent / f"phenomjax-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
    except OSError as error:
        raise UserError(
            f"data.staging={setting}: {parent} cannot be used ({error.strerror or error}). Give a"
            f" folder on a local disk that you own, {WITHOUT}"
        ) from None
    return folder


def copy(
    source: Path,
    target: Path,
    items: Sequence[Item],
    done: str,
    finish: Callable[[], None],
    *,
    damaged: Callable[[str, str], None],
    check: Callable[[Path], None] = lambda file: None,
    less: str = "",
    level: int = logging.INFO,
) -> Path:
    """Copies files of a bank; returns the folder that has them.

    Args:
      source: the bank.
      target: the folder that gets them.
      items: the files.
      done: name of the file in the target that says that all are there.
      finish: writes it.
      damaged: called with the name of a file and what is wrong with it; the file is left out.
      check: raises Damaged for a copied file that is not whole.
      less: what else to do where there is too little room.
      level: of what is logged.

    Raises:
      UserError: no room, no permission; or what `damaged` raises.
    """
    folder = target.parent
    try:
        with locks.wait_for(
            folder / f"{target.stem}.staging",
            busy=lambda: log.info("staging: another process of this node copies %s", source),
        ):
            if (target / done).is_file():
                log.log(level, "staging: %s is already in %s", source, target)
                return target
            start = time.monotonic()
            missing = _missing(target, items)
            with ThreadPoolExecutor(THREADS) as pool:
                sizes = list(pool.map(lambda item: size_of(source / item.name), missing))
                check_room(str(source), folder, sum(sizes), less)
                amount = files.in_units(sum(sizes))
                log.log(level, "staging: %s to copy of %s into %s", amount, source, target)
                progress = Progress(f"stage {source.name}", sum(sizes) >> 20, "MiB")
                faults = pool.map(
                    lambda item: _copy(source / item.name, target / item.name, item, check), missing
                )
                try:
                    for item, size, fault in zip(missing, sizes, faults, strict=True):
                        if fault:
                            damaged(item.name, fault)
                        progress.update(size >> 20)
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            finish()
    except OSError as error:
        raise UserError(
            f"data.staging={folder} cannot take a copy of {source} ({error.strerror or error})."
            f" Give a folder on a local disk that you own, {WITHOUT}"
        ) from None
    seconds = max(time.monotonic() - start, 1e-9)
    log.log(
        level,
        "staging: %d files, %s of %s copied to %s in %s, %.2f GB/s: the first step waited that"
        " long for it",
        len(missing),
        amount,
        source,
        target,
        duration(seconds),
        sum(sizes) / seconds / 1e9,
    )
    return target


def _missing(target: Path, items: Iterable[Item]) -> list[Item]:
    there: dict[str, set[str]] = {}
    missing = []
    for item in items:
        folder, _, name = item.name.rpartition("/")
        if folder not in there:
            there[folder] = set(files.names(target / folder))
        if name not in there[folder]:
            missing.append(item)
    return missing


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where it is not there."""
    try:
        return store.size(path)
    except (FileNotFoundError, store.NotThere):
        return 0


def check_room(source: str, folder: Path, need: int, less: str) -> None:
    """Raises UserError where a folder has no room for so many bytes of a source."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise UserError(
            f"data.staging={folder} has {free / 2**30:.1f} GiB left, and what is to be copied of"
            f" {source} takes {need / 2**30:.1f} GiB. Give a folder with more"
            f" room{less or ','} {WITHOUT}"
        )


def _copy(source: Path, target: Path, item: Item, check: Callable[[Path], None]) -> str:
    """Copies a file; returns what is wrong with it."""
    try:
        with files.replacing(target) as partial:
            if store.is_remote(source):
                with partial.open("wb") as file:
                    store.fetch(source, file)
                found = files.sha256(partial) if item.sha256 else ""
            else:
                found = _copy_local(source, partial, bool(item.sha256))
            if found != item.sha256:
                return "its sha256 is not the one recorded when the bank was made"
            check(partial)
    except (FileNotFoundError, store.NotThere):
        return "it is not there"
    except Damaged as error:
        return str(error)
    return ""


def _copy_local(source: Path, target: Path, hashed: bool) -> str:
    if not hashed:
        shutil.copyfile(source, target)
        return ""
    digest = hashlib.sha256()
    with source.open("rb") as data, target.open("wb") as copy:
        while piece := data.read(PIECE):
            digest.update(piece)
            copy.write(piece)
    return digest.hexdigest()

"""What is looked at before anything is copied: do the two ends fit, is there room."""

import contextlib
import shutil
from pathlib import Path

from phenomjax.data import store
from phenomjax.data.images.bank import APPENDING
from phenomjax.data.zarr_files import UNFINISHED
from phenomjax.engine import work_folder
from phenomjax.prepare.mirror.copying import Ends
from phenomjax.prepare.mirror.ends.local import PARTS
from phenomjax.system import locks
from phenomjax.system.errors import EXIT_FAILED, UserError


def check(ends: Ends, work: Path) -> None:
    """Raises UserError where a copy would be of no use, or endless."""
    source, target = store.url(ends.source), store.url(ends.target)
    store.check_writable(ends.target)
    if _same_or_inside(ends.target, ends.source):
        if _same_or_inside(ends.source, ends.target):
            raise UserError(f"Source and destination are the same: {source}. Give another one.")
        raise UserError(
            f"The destination {target} lies inside the source {source}: the copy would copy itself."
            " Give a destination elsewhere."
        )
    if _same_or_inside(work, ends.source):
        raise UserError(
            f"The work folder {work} lies inside the source {source}. Give another `work`."
        )
    if store.is_remote(work):
        raise UserError(f"`work` must be a folder on a disk, not {store.url(work)}.")
    if not store.is_remote(ends.source):
        _check_idle(ends.source)
    if not store.is_remote(ends.target):
        if ends.target.is_file() and not ends.single:
            raise UserError(
                f"The destination {target} is a file, and the source {source} is a folder. Give the"
                " name of a folder."
            )
        if ends.target.is_dir() and ends.single:
            raise UserError(
                f"The destination {target} is a folder, and the source {source} is a file. Give the"
                f" name of the copy, or {target}/ to put it in there."
            )


def _check_idle(source: Path) -> None:
    """Raises UserError for what another program writes now."""
    for folder in (source / UNFINISHED, source):
        if (folder / work_folder.DESCRIPTION).is_file():
            busy = (
                f"{source} is being made now by another process ({folder}). Wait until it has"
                " ended: a copy would be of half of it."
            )
            _check_free(folder, busy)
    if (source / APPENDING / locks.FILE).is_file():
        busy = f"Images are appended to {source} now. Wait until that has ended."
        _check_free(source / APPENDING, busy)
    if (source / PARTS).is_dir():
        raise UserError(
            f"{source} is the destination of another mirror that has not ended ({PARTS} is in it)."
            " Let that end first; if it never will, delete that folder."
        )


def _check_free(folder: Path, busy: str) -> None:
    """Raises UserError where another process holds a folder, as far as the disk lets it be seen."""
    with contextlib.suppress(OSError), locks.hold(folder, busy):  # others may write nothing there
        pass


def check_room(ends: Ends, wanted: int) -> None:
    """Raises UserError where a disk has less room than is to be copied to it."""
    if store.is_remote(ends.target):
        return
    path = ends.target.absolute()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free < wanted:
        raise UserError(
            f"{ends.target} has {free / 1e9:,.1f} GB of free room, and {wanted / 1e9:,.1f} GB are"
            " to be copied there. Make room, copy a part with `only`, or give another destination;"
            " then run the same command again.",
            EXIT_FAILED,
        )


def _same_or_inside(one: Path, other: Path) -> bool:
    """Whether a location is another one, or lies in it."""
    if store.is_remote(one) or store.is_remote(other):
        if not (store.is_remote(one) and store.is_remote(other)):
            return False
        inner, outer = store.place(one), store.place(other)
        same = inner[:2] == outer[:2]
        return same and f"{inner[2]}/".startswith(f"{outer[2]}/" if outer[2] else "")
    return one.resolve().is_relative_to(other.resolve())

"""Where a command writes: a place that can be written, which is asked before hours of work, and
nothing that is there already, unless `overwrite` says so.
"""

import errno
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from phenomjax.system.errors import UserError

NAMES = ("out", "html", "target", "study")  # settings of all commands that name an output
WRONG_KIND = (
    "A folder stands where a file is wanted, or a file where a folder is: give another name."
)
NOT_YOURS = "Give a place that you own, or ask for the right to use this one."
NO_ROOM = "Make room there, or give a place on another disk, and run the same command again."
UNUSABLE = {  # by what the system says of a path: what mends it
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST), WRONG_KIND),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL), "Give another name."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), NOT_YOURS),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), NO_ROOM),
}


@dataclass(frozen=True, kw_only=True)
class Overwrite:
    """Of every command that makes a result in one go.

    A class says with `RESULT` which setting names it ("": it asks itself), and with `MAKES` which
    files a command puts into a folder: one that has none of them is not refused.
    """

    SHOWN_LAST: ClassVar[bool] = True
    GROUPS: ClassVar[dict[str, str]] = {"overwrite": ""}
    RESULT: ClassVar[str] = "out"
    MAKES: ClassVar[tuple[str, ...]] = ()

    overwrite: bool = field(default=False, metadata={"decides": False})
    """write what is there already anew; of a folder, the files that this command makes"""

    def check_result(self) -> None:
        """Raises UserError for a result that is there already."""
        if out := vars(self).get(self.RESULT):
            refuse(Path(out), self.overwrite, self.MAKES, self.RESULT)


def check(options: Any) -> None:
    """Refuses outputs that cannot be, before any work: those that lie in a store are left to it.

    Args:
      options: of a command.

    Raises:
      UserError: something is there, or the place cannot be written.
    """
    if getattr(options, "dry_run", False):
        return
    for name in NAMES:
        out = getattr(options, name, None)
        if not isinstance(out, str | Path) or not str(out) or re.match(r"\w+:/", str(out)):
            continue
        _check_place(name, Path(out))
    if hasattr(options, "check_result"):
        options.check_result()


def refuse(out: Path, overwrite: bool, makes: Sequence[str] = (), name: str = "out") -> None:
    """Refuses what would be written over.

    Args:
      out: of a command.
      overwrite: what was asked for.
      makes: of `taken`.
      name: of the setting.

    Raises:
      UserError: something is there that is not to be made anew.
    """
    if not overwrite and (there := taken(out, makes)):
        raise UserError(
            f"`{name}` {there} is there already. Give another name, or add `overwrite` to write it"
            " anew."
        )


def taken(out: Path, makes: Sequence[str] = ()) -> Path | None:
    """What is there already of a command's output.

    Args:
      out: a file or a folder; of an empty folder there is nothing.
      makes: files that the command puts into a folder; none: the output is one whole.
    """
    if makes:
        return next((out / one for one in makes if os.path.lexists(out / one)), None)
    empty = out.is_dir() and not os.listdir(out)
    return out if os.path.lexists(out) and not empty else None


def check_kind(out: Path, file: str) -> None:
    """Refuses to delete a folder that does not look like what takes its place.

    Args:
      out: to be overwritten, if it is there.
      file: that each folder of this kind has.

    Raises:
      UserError: it is something else.
    """
    if os.path.lexists(out) and not (out / file).is_file():
        raise UserError(
            f"`out` {out} is there already, and is not of the kind that would take its place (it"
            f" has no {file}), so it is not deleted. Give another name."
        )


def _check_place(name: str, out: Path) -> None:
    """Raises UserError for a path that cannot be made."""
    try:
        if _is_there(out):
            return
        folder = next(one for one in out.absolute().parents if _is_there(one))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        mend = UNUSABLE.get(error.errno or 0, "Give a place on a disk of yours.")
        raise UserError(f"`{name}` {out} cannot be used: {error.strerror}. {mend}") from error


def _is_there(path: Path) -> bool:
    """Whether there is anything; raises OSError for a path that cannot be."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def told(error: OSError) -> UserError | None:
    """What to tell of an error of the system; None of what the user cannot mend.

    Args:
      error: that ended a command.
    """
    place = error.filename2 or error.filename
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if error.errno not in UNUSABLE or not (place or full):
        return None
    what = f"{place} cannot be used" if place else "What this command writes finds no room"
    return UserError(f"{what}: {os.strerror(error.errno)}. {UNUSABLE[error.errno]}")

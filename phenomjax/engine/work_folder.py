"""The folder in which a result grows: what is made there, who works there, and the end.

WORK/job.json          what is made; written by whoever comes first, the same for all who follow
WORK/lock              held by the process that does the job alone (`hold`)
WORK/units/NAME.json   unit NAME is committed, and what is to be known of it; written last
WORK/…                 outputs of units, at places that depend on the unit alone
WORK/result            the result, whole, on its way to its name
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from phenomjax.system import files, locks
from phenomjax.system.errors import UserError
from phenomjax.system.options import differences

DESCRIPTION = "job.json"
DONE = ".prepare_done"  # what is left of a work folder inside its result while it is deleted
Description = dict[str, Any]  # settings by name, as JSON has them


class OtherSettings(UserError):
    """Something was begun or made with other settings."""


@contextlib.contextmanager
def hold(work: Path) -> Iterator[None]:
    """Keeps a work folder to this process; removes it again if it was made for nothing.

    Raises:
      UserError: another process has it.
    """
    fresh = not work.exists()
    busy = f"Another process is at work in {work} now. Wait for it, or give another `out`."
    with locks.hold(work, busy):
        try:
            yield
        finally:
            if fresh and work.is_dir() and not (work / DESCRIPTION).is_file():
                files.remove(work)


def begin(
    work: Path,
    settings: Mapping[str, object],
    others: Mapping[str, object] | None = None,
    words: Mapping[str, str] | None = None,
) -> Description:
    """Makes the work folder, or goes on with the work there.

    Args:
      work: the folder.
      settings: all that decides the result, as `system.options.recorded` gives it.
      others: more to record, in which those who follow may differ: they take what the first one
        wrote.
      words: what a setting is called in the error where its name and values say nothing.

    Returns:
      What the first one wrote.

    Raises:
      OtherSettings: the work was begun with other settings.
    """
    others = others or {}
    text = json.dumps({**settings, **others}, indent=2, default=float) + "\n"
    files.create_text(work / DESCRIPTION, text)
    before = files.read_json(work / DESCRIPTION)
    if before.keys() - settings.keys() - others.keys():  # settings that are called otherwise now
        raise OtherSettings(
            f"{work} was begun by another version of phenomjax, whose work this one cannot"
            f" continue. Delete {work} and run the same command again."
        )
    check_same(
        f"{work} was begun",
        {name: value for name, value in before.items() if name not in others},
        json.loads(json.dumps(settings, default=float)),
        f"Give the same to go on, another `out`, or delete {work} to start again.",
        words,
    )
    return before


def check_same(
    what: str,
    before: Mapping[str, object],
    now: Mapping[str, object],
    mend: str,
    words: Mapping[str, str] | None = None,
) -> None:
    """Compares the settings of what is there with those of today, both as JSON has them.

    Args:
      what: "NAME was begun", "it was made".
      before, now: the settings.
      mend: what can be done.
      words: of `begin`.

    Raises:
      OtherSettings: they differ.
    """
    if differ := differences(before, now, words):
        raise OtherSettings(f"{what} with other settings: {'; '.join(differ)}. {mend}")


def finish(
    work: Path,
    make: Callable[[Path], None],
    out: Path,
    *,
    shared: bool = False,
) -> None:
    """Assembles the result in a place of its own, gives it its name, and removes the work folder.

    It may be killed anywhere and repeated. A work folder inside `out` hands over file by file, and
    its own rename is the end: until then `out` is recognised by it as unfinished.

    Args:
      work: the folder; all units are committed.
      make: writes the result to a path that is not there yet: a file or a folder.
      out: the name of the result.
      shared: others may do the same now; those that come later leave what is there.
    """
    assemble(work, make, out, shared=shared)
    hand_over(work, out, shared=shared)


def assemble(work: Path, make: Callable[[Path], None], out: Path, *, shared: bool = False) -> None:
    """The first half of `finish`: the result in a place of its own."""
    result = result_path(work, out)
    if not result.exists():
        with _unless(shared, result, out), files.replacing(result, shared=shared) as partial:
            make(partial)


def hand_over(
    work: Path, out: Path, *, shared: bool = False, empty: Callable[[Path], None] | None = None
) -> None:
    """The second half of `finish`, for which no worker may be left in the work folder.

    Args:
      work, out, shared: of `finish`.
      empty: deletes what is large of the work folder inside `out`, given where it is then.
    """
    result = result_path(work, out)
    if work.parent != out:
        with _unless(shared, out):
            os.replace(result, out)
        shutil.rmtree(work, ignore_errors=shared)
        return
    for name in files.names(result):
        files.remove(out / name)
        os.replace(result / name, out / name)
    os.replace(work, out / DONE)
    if empty:
        empty(out / DONE)
    tidy(out)


@contextlib.contextmanager
def _unless(shared: bool, *made: Path) -> Iterator[None]:
    """What fails is no harm where others make the same, and theirs is there."""
    try:
        yield
    except OSError:
        if not shared or not any(path.exists() for path in made):
            raise


def result_path(work: Path, out: Path) -> Path:
    """Where the result is assembled; what lies there is whole."""
    return work / f"result{out.suffix}"


def tidy(out: Path) -> None:
    """Deletes what a process that was killed after the end of its work left in the result."""
    files.remove(out / DONE)

"""A bank while it grows in OUT/.prepare, for one set of arguments; and whether it is finished."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from phenomjax.data.zarr_files import NAME, UNFINISHED
from phenomjax.engine import work_folder
from phenomjax.system import files
from phenomjax.system.errors import UserError

_LISTS = {"rejected.parquet"}  # all that is left where nothing could go into a bank
# what decides the content of a bank, by name, as it is recorded in it
Arguments = dict[str, Any]


@contextlib.contextmanager
def at_work(out: Path, arguments: Arguments) -> Iterator[Path]:
    """Keeps OUT/.prepare to this process, begun with these arguments; yields its path.

    Raises:
      UserError: another process has it, or it was begun with other arguments.
    """
    work = out / UNFINISHED
    with work_folder.hold(work):
        if (work / "arguments.json").is_file():
            raise UserError(
                f"{out} was begun by an older phenomjax, whose work this one cannot continue."
                f" Delete {out} and run the same command again."
            )
        work_folder.begin(work, arguments)
        try:
            yield work
        except UserError:
            if not any(
                (work / "units").glob("*")
            ):  # nothing is lost, and other settings may follow
                files.remove(work)
                with contextlib.suppress(OSError):  # more lies there
                    out.rmdir()
            raise


def is_finished(
    out: Path,
    arguments: Arguments,
    kind: str,
    recorded: Callable[[Path], Arguments | None],
) -> bool:
    """Whether the bank was made before, with these arguments.

    Args:
      out: the bank.
      arguments: those of today.
      kind: what the bank is, for the errors.
      recorded: the arguments that a bank was made with; None where another program wrote it.

    Raises:
      UserError: something else is there.
    """
    there = out.exists() and not (out / UNFINISHED).is_dir()
    if not there or (out.is_dir() and not {p.name for p in out.iterdir()} - _LISTS):
        return False
    if not (out / NAME).is_file():
        raise UserError(
            f"`out` {out} is there already and is no {kind}. Give the name of a new folder,"
            " NAME.zarr."
        )
    before = recorded(out)
    if before is None:
        raise UserError(
            f"`out` {out} is a {kind} that another program wrote. Give the name of a new folder."
        )
    same = {name: value for name, value in before.items() if name != "phenomjax"}
    mend = f"Give the same to reuse it, another `out`, or delete {out} to start again."
    work_folder.check_same(f"{out} was made", same, arguments, mend)
    work_folder.tidy(out)
    return True

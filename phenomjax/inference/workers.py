"""What workers of an engine need that hold a model, whatever it reads."""

import threading
from pathlib import Path

from phenomjax.engine.work_folder import DESCRIPTION
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError

# Whatever number of threads a worker was given: they would wait for one device.
ONE_AT_A_TIME = threading.Lock()


def begun(work: Path) -> str:
    """What tells the work in a folder from other work there, before or after it."""
    try:
        return files.sha256(work / DESCRIPTION)
    except FileNotFoundError:  # the result is made
        return ""


def check_begun(work: Path, as_told: str) -> None:
    """Raises UserError where the work is another by now: this process was told by a command that
    has ended, and must not write.
    """
    if begun(work) != as_told:
        raise UserError(f"The work in {work} is done, or was begun anew.", EXIT_FAILED)


def differs(path: Path | str, what: str) -> UserError:
    """What a worker says that finds something else at a path than the driver."""
    return UserError(
        f"A worker finds another `{what}` at {path} than this process: it has changed since, or"
        " their file systems differ. Give a path that means the same everywhere, and run the same"
        " command again.",
        EXIT_FAILED,
    )


def check_precision(mine: str, begun: str, out: Path) -> None:
    """Raises UserError where a worker would compute in another type than others before it."""
    if mine != begun:
        raise UserError(
            f"A worker computes in {mine}, and {out} was begun in {begun}: the workers have other"
            f" devices, or another `compute_dtype` was given. Give `compute_dtype` {begun}, or"
            " another `out`.",
            EXIT_FAILED,
        )

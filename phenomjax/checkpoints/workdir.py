"""What stands in a run's folder besides arrays: which checkpoints are sealed, the file `progress`,
what is set aside, and a full disk.

WORKDIR/checkpoints/STEP            committed by Orbax (renamed from STEP.orbax-checkpoint-tmp),
                                    then sealed by its SHA256SUMS.*
WORKDIR/checkpoints.damaged/STEP    set aside: committed once, but not as it was written
WORKDIR/progress                    the newest sealed step; a checkpoint above it without digests
                                    is merely unfinished, below it damaged
"""

import contextlib
import errno
import logging
import os
import shutil
import socket
import sys
from pathlib import Path

from phenomjax.checkpoints import seal
from phenomjax.config import stored
from phenomjax.system import files
from phenomjax.system.errors import EXIT_CONFIG, EXIT_FAILED, UserError
from phenomjax.system.user_files import at_step

log = logging.getLogger("phenomjax")
CHECKPOINTS = "checkpoints"
DAMAGED = "checkpoints.damaged"
PROGRESS = "progress"
# in names of folders whose writing or deletion was interrupted
LEFTOVERS = (".orbax-checkpoint-tmp", ".deleted")

# errno: (what it is called in TensorStore's messages, what happened, the mend, exit code)
FULL = {
    errno.ENOSPC: ("No space left on device", "the disk is full", "Make space there", EXIT_CONFIG),
    errno.EDQUOT: (
        "Disk quota exceeded",
        "your quota of that disk is used up",
        "Make space, or ask for more",
        EXIT_CONFIG,
    ),
    errno.EROFS: (
        "Read-only file system",
        "the file system is mounted read-only",
        "Have it mounted for writing, or move the folder",
        EXIT_CONFIG,
    ),
    errno.EIO: (
        "Input/output error",
        "the disk, or the network to it, fails (input/output error)",
        "See `dmesg`, or move the folder",
        EXIT_FAILED,
    ),
}


def named(text: str | Path) -> tuple[Path, int | None]:
    """The folder of a run, and the step that is meant or None, of WORKDIR, WORKDIR@STEP,
    WORKDIR/checkpoints or WORKDIR/checkpoints/STEP; whether they are there is not looked at, but
    that an @ in the name of something that is there belongs to that name.
    """
    path, step = Path(text).expanduser().absolute(), None
    if not path.exists():
        workdir, step = at_step(str(path))
        path = Path(workdir)
    if path.parent.name == CHECKPOINTS and path.name.isdecimal():
        return path.parent.parent, int(path.name)
    return path.parent if path.name == CHECKPOINTS else path, step


def steps(workdir: Path) -> list[int]:
    """All committed checkpoints, sealed or not, in order."""
    folder = workdir / CHECKPOINTS
    return (
        sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
    )


def sealed_steps(workdir: Path) -> list[int]:
    """The checkpoints whose digests are complete, in order; their content is not looked at."""
    return [step for step in steps(workdir) if seal.sealed(workdir / CHECKPOINTS / str(step))]


def saved_step(workdir: Path) -> int:
    """The newest sealed step as a run records it, for those who only look on; 0 without any."""
    try:
        return int((workdir / PROGRESS).read_text())
    except (OSError, ValueError):
        return 0


def recorded_step(workdir: Path) -> int:
    """The newest sealed step that was recorded, -1 for none, for those who decide what is damaged.

    A file that is lost or torn counts as more than any step: without it one could not say that a
    checkpoint without digests is merely unfinished.
    """
    try:
        return int((workdir / PROGRESS).read_text())
    except FileNotFoundError:
        return sys.maxsize if steps(workdir) else -1
    except ValueError:
        return sys.maxsize


def record_step(workdir: Path, step: int) -> None:
    """Records the newest sealed step, where launchers look; -1 when a run begins."""
    files.write_text(workdir / PROGRESS, f"{step}\n", flush=True)


def begun(workdir: Path) -> bool:
    """Whether a run has begun in a folder: it saved something, or holds it in memory. What ended
    before leaves nothing that another configuration could harm.
    """
    if any((workdir / CHECKPOINTS).glob("*")) or recorded_step(workdir) >= 0:
        return True
    path = workdir / "config.json"
    return path.exists() and stored.load(path).checkpoint.memory_every_steps > 0


def delete(workdir: Path, step: int) -> None:
    """Deletes a checkpoint; it is renamed first, so that one that is half deleted is not taken for
    a damaged one.
    """
    path = workdir / CHECKPOINTS / str(step)
    gone = path.with_name(f"{step}.deleted")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone)


def clean(workdir: Path) -> None:
    """Removes what an interrupted write or deletion left. A checkpoint that was committed and not
    yet sealed is such a one too: there is at most one of them, the newest, above `progress`.
    """
    folder, left = workdir / CHECKPOINTS, []
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if any(mark in path.name for mark in LEFTOVERS):
            shutil.rmtree(path)
            left.append(path.name)
    if (
        (found := steps(workdir))
        and found[-1] > recorded_step(workdir)
        and not seal.sealed(folder / str(found[-1]))
    ):
        delete(workdir, found[-1])
        left.append(f"{found[-1]} (not sealed)")
    if left:
        log.info(
            "removed from %s what an interrupted start left: %s", folder, ", ".join(sorted(left))
        )


def set_aside(workdir: Path, step: int, reasons: list[str]) -> None:
    """Renames a damaged checkpoint and warns."""
    source, number = workdir / CHECKPOINTS / str(step), 0
    (workdir / DAMAGED).mkdir(exist_ok=True)
    while (target := workdir / DAMAGED / (f"{step}-{number}" if number else str(step))).exists():
        number += 1
    shutil.move(source, target)  # also where `checkpoints` is a link to another disk
    log.warning(
        "the checkpoint of step %d is damaged: %s. It is not used, and was moved to %s.",
        step,
        some(reasons),
        target,
    )


def some(lines: list[str], most: int = 5) -> str:
    """The first lines in one."""
    return "; ".join(lines[:most]) + (
        f"; and {len(lines) - most} more" if len(lines) > most else ""
    )


def workdir_error(error: BaseException, workdir: Path, what: str = "") -> UserError | None:
    """Turns an error of the disk (full, quota, read-only, input/output) into a paragraph.

    Args:
      error: that was raised; the errors behind it are looked at too.
      workdir: of the run.
      what: that could not be written; "" where it is not known whether the workdir is to blame,
        which is then tried.

    Returns:
      The error to raise instead, or None when the workdir's disk is not to blame.
    """
    code = _disk_code(error)
    if code is None:
        return None
    if not what:
        name = getattr(error, "filename", None)
        if name is not None and not Path(os.path.abspath(str(name))).is_relative_to(workdir):
            return None
        if name is None and _probe(workdir) is None:
            return None  # another disk, such as that of TMPDIR
        what = str(name or workdir)
    _, happened, mend, exit_code = FULL[code]
    return UserError(
        f"{what} could not be written: {happened} ({space(workdir)}). {advice(workdir, mend)}",
        exit_code,
    )


def _disk_code(error: BaseException | None) -> int | None:
    """The errno of a failing disk in an error or in those behind it; TensorStore's have it in their
    text only.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in FULL:
            return error.errno
        for code, (text, *_) in FULL.items():
            if text.lower() in str(error).lower():
                return code
        error = error.__cause__ or error.__context__
    return None


def _probe(folder: Path) -> OSError | None:
    """Writes a page to the disk and removes it; returns what went wrong."""
    probe = folder / f".probe-{socket.gethostname()}-{os.getpid()}"
    try:
        with probe.open("wb") as f:
            f.write(bytes(1 << 16))
            f.flush()
            os.fsync(f.fileno())
        return None
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def space(workdir: Path) -> str:
    """ "12.3 MiB of 1.0 GiB are free, a checkpoint takes 30.1 MiB"."""
    try:
        checkpoints = workdir / CHECKPOINTS  # often a disk of its own
        usage = shutil.disk_usage(checkpoints if checkpoints.is_dir() else workdir)
        text = f"{files.in_units(usage.free)} of {files.in_units(usage.total)} are free"
        if saved := sealed_steps(workdir):
            folder = checkpoints / str(saved[-1])
            taken = sum((folder / name).stat().st_size for name in seal.listing(folder))
            text += f", a checkpoint takes {files.in_units(taken)}"
        return text
    except OSError as error:
        return f"how much is free cannot be said: {error.strerror or error}"


def advice(workdir: Path, mend: str) -> str:
    """Where the run stands, and how it goes on after `mend`."""
    try:
        saved = sealed_steps(workdir)
    except OSError:
        saved = []
    if not saved:
        return (
            f"No checkpoint was saved before. {mend}, then run the same command again: it starts"
            " anew."
        )
    return (
        f"The last good checkpoint is step {saved[-1]} in {workdir / CHECKPOINTS / str(saved[-1])}."
        f" {mend}, then run the same command again: it continues at step {saved[-1]}."
    )


def open_workdir(workdir: str | Path) -> Path:
    """Makes the folder of the run and writes a probe into it: a save that fails later would cost
    the run.

    Raises:
      UserError: it cannot be made or written.
    """
    path = Path(workdir).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        wrong = _probe(path)
    except OSError as error:
        wrong = error
    if wrong:
        raise UserError(
            f"--workdir {path} cannot be written ({wrong.strerror or wrong}). Give a folder on a"
            " disk with space that you own."
        )
    return path

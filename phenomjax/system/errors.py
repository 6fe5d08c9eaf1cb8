"""Errors that talk to the user: one paragraph (what, where, likely cause, the command that mends
it), then a non-zero exit.
"""

import contextlib
import difflib
import errno
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from phenomjax.system import memory

EXIT_DONE = 0  # done, all of it
EXIT_FAILED = 1  # finished, but some input was rejected; or training diverged
EXIT_CONFIG = 2  # configuration or input error: retrying changes nothing
# EX_TEMPFAIL: stopped by a signal after saving; run the same command again to continue
EXIT_STOPPED = 75
EXIT_STUCK = 76  # the watchdog ended a process that made no progress; run the same command again
also_told: list[Callable[[int, str], None]] = []  # exit code and text of a failure, to scripts


class UserError(Exception):
    """Something that the user can mend. The message is one paragraph that a stranger understands.

    Attributes:
      exit_code: what the process exits with when the error reaches `exit_on_user_error`.
    """

    def __init__(self, message: str, exit_code: int = EXIT_CONFIG):
        super().__init__(message)
        self.exit_code = exit_code


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the closest known name, in any capitals, or nothing."""
    spelt = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), spelt, n=1, cutoff=0.5)
    return f" Did you mean '{spelt[close[0]]}'?" if close else ""


def first_of(names: Iterable[object], most: int = 6) -> str:
    """The first of some names, and how many more there are."""
    words = [str(name) for name in names]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def check_folder_of(out: Path) -> None:
    """Raises UserError if the folder that an output lies in is not there, before hours of work."""
    if not out.absolute().parent.is_dir():
        raise UserError(
            f"The folder {out.absolute().parent} of `out` does not exist. Make it, or correct the"
            " path."
        )


@contextlib.contextmanager
def less_at_once(setting: str) -> Iterator[None]:
    """What runs inside, or in a function that is decorated with it, takes as much memory as a
    setting says.

    Raises:
      UserError: there is not so much.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory.ran_out(error):
            raise
        raise UserError(f"{_wanted(error)} Give a smaller `{setting}`.") from error


def _wanted(error: BaseException) -> str:
    much = memory.wanted(error)
    return (
        f"Memory ran out: {f'{much / 2**30:.3g} GiB' if much else 'more'} was wanted, and this host"
        f" has {memory.available() / 2**30:.3g} GiB left (a GPU has its own)."
    )


def exit_on_user_error(run: Callable[[], int | None]) -> NoReturn:
    """Runs a front door and ends the process: with its return code, or with a UserError's paragraph
    and code.
    """
    for name in ("stdout", "stderr"):  # closed by the shell (`>&-`)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        code = _code_of(run)
        sys.stdout.flush()
    except OSError as error:  # `| head` has seen enough, or the disk is full
        if error.filename or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise
        code = EXIT_FAILED
        with contextlib.suppress(OSError):
            if error.errno != errno.EPIPE:
                told = f"What this command writes finds no room: {error.strerror}. Make room."
                print(f"\nerror: {told}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):  # or Python would try it again at its end
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _code_of(run: Callable[[], int | None]) -> int:
    """The code of a front door; its mistakes are told."""
    try:
        return run() or EXIT_DONE
    except UserError as error:
        code, told = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, told = 128 + signal.SIGINT, "ended at once. What is finished is kept."
    except (RuntimeError, MemoryError) as error:
        if not memory.ran_out(error):
            raise
        code = EXIT_FAILED
        told = (
            f"{_wanted(error)} Do less at once: of the flags that --help lists, a smaller batch,"
            " fewer workers, or fewer threads; or end what else uses this memory."
        )
    shown = told if code == 128 + signal.SIGINT else f"error: {told}"
    fill = textwrap.TextWrapper(110, break_long_words=False, break_on_hyphens=False).fill
    for tell in also_told:
        tell(code, told)
    print("", *map(fill, shown.splitlines()), sep="\n", file=sys.stderr)
    return code

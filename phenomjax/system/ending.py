"""What a command ends with: what it wrote and what can be done next, as its last lines; with --json
as one object on stdout, for scripts, while everything else that it says goes to stderr.
"""

import contextlib
import dataclasses
import json
import logging
import math
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from phenomjax.system.errors import EXIT_DONE, UserError, also_told

log = logging.getLogger("phenomjax")


@dataclasses.dataclass
class Ending:
    """What is told of a command at its end.

    Attributes:
      exit_code: that the process leaves with; the caller sets it.
      written: files and folders.
      next: commands.
      facts: {name: number, text, list or mapping}.
      inner: a command that another one runs; what can be done next is for the outer one to say.
      command: its name in the object.
      out: where that is printed; None: nowhere.
    """

    exit_code: int = EXIT_DONE
    written: list[str] = dataclasses.field(default_factory=list)
    next: list[str] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    inner: bool = False
    command: str = ""
    out: TextIO | None = None

    def tell(self, error: str) -> None:
        """Prints the object, with an error if there was one."""
        if self.out is None or _silent.is_set():
            return
        record = {name: getattr(self, name) for name in ("command", "exit_code", "written", "next")}
        record |= self.facts | ({"error": error} if error else {})
        print(json.dumps(_plain(record), indent=2, allow_nan=False), file=self.out, flush=True)
        _printed.set()


_silent, _printed = threading.Event(), threading.Event()
_now: ContextVar[Ending | None] = ContextVar("ending", default=None)


def wrote(path: str | Path, what: str = "") -> None:
    """Tells of a file or folder that the command leaves: "wrote PATH: WHAT"."""
    log.info("wrote %s%s", path, f": {what}" if what else "")
    note_written(path)


def note_written(path: str | Path) -> None:
    """Keeps a file or folder for scripts that was shown in another line."""
    if ending := _now.get():
        ending.written.append(str(path))


def then(what: str, command: str, *words: object) -> None:
    """Tells what can be done next: "next, WHAT: COMMAND".

    Args:
      what: in a few words.
      command: to be pasted, with {} for each of the words.
      words: quoted for the shell.
    """
    line, ending = command.format(*(shlex.quote(str(word)) for word in words)), _now.get()
    if ending and ending.inner:
        return
    log.info("next, %s: %s", what, line)
    if ending:
        ending.next.append(line)


def note(**facts: Any) -> None:
    """Keeps what only scripts want to read: numbers by name. Nothing is shown."""
    if ending := _now.get():
        ending.facts.update(facts)


def silence() -> None:
    """Ends without a word: of the processes of a run only the first speaks."""
    _silent.set()


@contextlib.contextmanager
def told(command: str, as_json: bool) -> Iterator[Ending]:
    """Collects what a command tells, and prints it where JSON is wanted.

    Args:
      command: its name in the object.
      as_json: print one object on stdout at the end, an error's too; other lines of stdout go to
        stderr meanwhile.
    """
    ending, error = Ending(inner=_now.get() is not None, command=command), ""
    ending.out = sys.stdout if as_json else None
    token = _now.set(ending)
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            yield ending
    except UserError as raised:
        ending.exit_code, error = raised.exit_code, str(raised)
        raise
    except SystemExit as raised:  # of a parser, which has told it
        ending.exit_code = raised.code if isinstance(raised.code, int) else int(bool(raised.code))
        error = "There is a mistake in the command line; stderr says which." * (raised.code == 2)
        raise
    finally:
        _now.reset(token)
        if _ended(error):
            ending.tell(error)


def tell_failure(exit_code: int, error: str) -> None:
    """Prints the object of a command that ended before it could, or in another way: by a name that
    no command has, by Ctrl-C. Nothing where no JSON is wanted, or an object was printed.
    """
    if "--json" in sys.argv[1:] and not _printed.is_set():
        Ending(exit_code, command="phenomjax", out=sys.stdout).tell(error)


also_told.append(tell_failure)


def leave(exit_code: int, error: str) -> None:
    """Tells the end of a process that leaves at once (`os._exit`); of several it speaks for all,
    whichever it is.
    """
    _silent.clear()
    if ending := _now.get():
        ending.exit_code = exit_code
        ending.tell(error)


def _ended(error: str) -> bool:
    """Whether the command came to an end of its own: a traceback is no result."""
    raised = sys.exc_info()[1]
    return raised is None or bool(error) or isinstance(raised, SystemExit)


def _plain(value: Any) -> Any:
    """A value as JSON has it; there is no NaN in it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # of NumPy
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)

"""Results that belong into a store: made in a folder here, then mirrored there and verified.

Nothing can grow in a store: its objects are whole or not there. So a command whose `out` is
s3://… or gs://… makes its result in NAME-DIGEST.made in the present folder, which all workers must
see, and goes on there when it is run again.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from phenomjax.data import store
from phenomjax.engine import choose
from phenomjax.engine.options import EngineOptions
from phenomjax.prepare.mirror import command, job
from phenomjax.prepare.mirror.copying import Ends
from phenomjax.system import files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.processes import stop_on_signals

log = logging.getLogger("phenomjax")


def made_here(out: Path) -> Path:
    """Where the result for a place in a store is made."""
    return Path(f"{out.stem}-{files.sha256_json(store.url(out))[:8]}.made").absolute() / out.name


def publish(options: EngineOptions, out: Path, run: Callable[[Path], int]) -> int:
    """Runs a command whose `out` is in a store on a folder here, and mirrors what it made; returns
    the exit code: that of the command, or 1 where an object is not there and verified.

    Args:
      options: of the command, that say who copies.
      out: its `out`, in a store.
      run: the command for another `out`, on a disk.

    Raises:
      UserError: of the command; the store cannot be reached; or something is there already.
    """
    store.check_writable(out)
    here = made_here(out)
    if not here.exists() and (store.is_file(out) or store.is_dir(out)):  # before hours of work
        raise UserError(
            f"{store.url(out)} is there already, and the folder in which this command would have"
            f" made it, {here}, is not. Give another `out`."
        )
    here.parent.mkdir(exist_ok=True)
    code = run(here)
    is_whole = here.exists() and not list(here.glob("*.partial"))  # else others do their shares
    if code not in (EXIT_DONE, EXIT_FAILED) or not is_whole:
        return code
    ends = Ends(here, out, "" if here.is_dir() else out.name)
    work = here.with_name(f"{out.name}.mirror")
    with stop_on_signals() as stop, choose.executor(options, work) as executor:
        done = job.mirror(ends, executor, stop, work=work)
    if not done.manifest:
        return EXIT_STOPPED
    copied = command.report(ends, done)
    if copied == EXIT_DONE:
        shown = store.url(out)
        log.info("%s is whole; %s, where it was made, can be deleted", shown, here.parent)
    return max(code, copied)

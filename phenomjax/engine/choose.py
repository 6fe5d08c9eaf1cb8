"""The executor that the options of a command name."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from phenomjax.engine.local import Pool
from phenomjax.engine.options import EngineOptions
from phenomjax.engine.units import Executor
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.processes import core_count

ENGINES = ("local", "slurm")


@contextlib.contextmanager
def executor(options: EngineOptions, folder: Path) -> Iterator[Executor]:
    """What does the units of a command, while it is open.

    Args:
      options: of the command.
      folder: of the job, seen by all who do units; logs of workers go there.

    Raises:
      UserError: an unknown engine or option.
    """
    if options.jobs < 0:
        raise UserError(
            f"`jobs` must be 1 or more, or 0 for the number of cores, not {options.jobs}."
        )
    if options.engine == "local":
        yield Pool(options.jobs or core_count())
        return
    raise UserError(
        f"Unknown `engine` {options.engine!r}.{did_you_mean(options.engine, ENGINES)} There are:"
        " local, slurm, tcp://HOST:PORT or the file of a running Dask scheduler."
    )

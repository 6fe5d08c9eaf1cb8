"""The executor that the options of a command name."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from phenomjax.engine import connecting, settings, slurm
from phenomjax.engine.cluster import Cluster
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
    engine, words = options.engine, options.engine_option
    if engine == "local":
        yield Pool(options.jobs or core_count(), settings.parse(settings.Local, words).deaths)
    elif engine == "slurm":
        jobs = settings.parse(settings.Slurm, words)
        with contextlib.closing(
            Cluster(functools.partial(slurm.start, jobs), folder, jobs.deaths)
        ) as cluster:
            yield cluster
    elif "://" in engine or Path(engine).exists() or Path(engine).suffix == ".json":
        running = settings.parse(settings.Running, words)
        connect = functools.partial(connecting.connect, engine, running)
        with contextlib.closing(
            Cluster(connect, folder, running.deaths, running.resource)
        ) as cluster:
            yield cluster
    else:
        raise UserError(
            f"Unknown `engine` {engine!r}.{did_you_mean(engine, ENGINES)} There are: local, slurm,"
            " tcp://HOST:PORT or the file of a running Dask scheduler."
        )

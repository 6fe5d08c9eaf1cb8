"""Units of work in processes of this machine."""

import functools
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from phenomjax.engine.units import Argument, Aside, Function, Note, Notes, Unit, do
from phenomjax.system.processes import run_tasks


class Pool:
    """An executor (`engine.units.Executor`) of processes that are started for each job.

    Args:
      jobs: number of processes; 1 works in this one.
    """

    def __init__(self, jobs: int):
        self.jobs = jobs

    def run(
        self,
        work: Path,
        function: Function[Argument],
        units: Iterable[Unit[Argument]],
        stop: threading.Event,
        *,
        aside: Aside[Argument] | None = None,
        at_most: int | None = None,
    ) -> Iterator[tuple[str, Note]]:
        """Does what is not committed; see `Executor.run`.

        Raises:
          UserError: a worker was killed; what is committed is kept.
        """
        notes = Notes(work)
        left = (unit for unit in units if not notes.is_committed(unit.name))
        jobs = min(self.jobs, at_most or self.jobs)
        for done in run_tasks(functools.partial(do, work, function), left, jobs, stop):
            if done is not None:
                yield done

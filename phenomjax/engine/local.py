"""Units of work in processes of this machine."""

import functools
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from phenomjax.engine.units import (
    OFTENER,
    Argument,
    Aside,
    Function,
    Note,
    Notes,
    Unit,
    commit_aside,
    do,
)
from phenomjax.system.processes import DEATHS, run_tasks


class Pool:
    """An executor (`engine.units.Executor`) of processes that are started for each job.

    Args:
      jobs: number of processes; 1 works in this one.
      deaths: how often a unit is tried that ends its process.
    """

    def __init__(self, jobs: int, deaths: int = DEATHS):
        self.jobs, self.deaths = jobs, deaths

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
        """Does what is not committed; see `Executor.run`."""
        notes = Notes(work)
        left = (unit for unit in units if not notes.is_committed(unit.name))
        commit = functools.partial(commit_aside, notes, aside) if aside else None
        jobs = min(self.jobs, at_most or self.jobs)
        work_one = functools.partial(do, work, function)
        for done in run_tasks(
            work_one, left, jobs, stop, aside=commit, deaths=self.deaths, oftener=OFTENER
        ):
            if done is not None:
                yield done

"""What a worker of a cluster does: units of a bundle in their order, each committed by its note.

It returns nothing: what is done is on the disk.
"""

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import phenomjax
from phenomjax.engine.units import Argument, Function, Notes, Unit
from phenomjax.system.errors import EXIT_FAILED, UserError

TOKEN = "token"
SEEN_SECONDS = 60.0  # in which a shared file system shows what another host wrote
DECISIVE = ("distributed", "jax", "numpy", "tensorstore", "pyarrow")  # packages, beside ours


class Stopped(Exception):
    """A unit was stopped before it was whole."""


class Terms(NamedTuple):
    """What a worker must share with the driver.

    Attributes:
      folder: of the engine, in the work folder.
      token: content of its file TOKEN.
      versions: by name.
      resource: what the tasks ask for of the cluster; without one a worker must have one thread.
      here: where the driver was started, to which paths in arguments are relative.
    """

    folder: Path
    token: str
    versions: dict[str, str]
    resource: str
    here: Path

    @property
    def stop(self) -> Path:
        """When this file is there, workers begin no more units."""
        return self.folder / f"stop-{self.token[:8]}"


def versions() -> dict[str, str]:
    """Versions that driver and workers must have in common."""
    python = ".".join(platform.python_version_tuple()[:2])
    packages = {name: importlib.metadata.version(name) for name in DECISIVE}
    return {"phenomjax": phenomjax.__version__, "Python": python, **packages}


def different(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Where versions of others differ from ours, in words."""
    names = [name for name in theirs if theirs[name] != ours.get(name)]
    return ", ".join(f"{name} {theirs[name]} instead of {ours.get(name)}" for name in names)


def do_bundle(
    work: Path,
    function: Function[Argument],
    units: Sequence[Unit[Argument]],
    terms: Terms,
    seconds: float,
) -> None:
    """Does units that are not committed, one at least, until the time is over.

    Raises:
      Stopped: one was.
      UserError: this worker is not of the driver's kind; or of the function.
    """
    _agree(terms)
    # Where workers do not see the driver's folder, what is relative must not mean something else.
    with contextlib.chdir(terms.here if terms.here.is_dir() else terms.folder):
        _do(work, function, units, terms, seconds)


def _do(
    work: Path,
    function: Function[Argument],
    units: Sequence[Unit[Argument]],
    terms: Terms,
    seconds: float,
) -> None:
    notes, begun = Notes(work), time.monotonic()
    for unit in units:
        # Its driver stops; or is dead, and another has begun here, perhaps with other settings.
        if terms.stop.exists() or not _sees(terms):
            return
        if not notes.is_committed(unit.name):
            note = function(work, unit.argument)
            if note is None:
                raise Stopped
            if not _sees(terms):
                return
            notes.commit(unit.name, note)
        if time.monotonic() - begun > seconds:
            return


_agreed = set[str]()


def _agree(terms: Terms) -> None:
    """Looks once whether this worker is one that may do the units."""
    if terms.token in _agreed:
        return
    from distributed import get_worker

    worker = get_worker()
    where = f"The worker {worker.address} on {platform.node()}"
    if differ := different(versions(), terms.versions):
        raise UserError(
            f"{where} has {differ}: its results could differ. Start the workers from the"
            " environment of this command, and run it again."
        )
    if worker.state.nthreads > 1 and not terms.resource:
        raise UserError(
            f"{where} has {worker.state.nthreads} threads, and units are for one in a process."
            " Start the workers as `dask worker ADDRESS --nthreads 1 --nworkers CORES`; or as `dask"
            " worker ADDRESS --resources UNIT=1`, and give `engine_option` resource=UNIT."
        )
    deadline = time.monotonic() + SEEN_SECONDS
    while not _sees(terms):
        if time.monotonic() > deadline:
            raise UserError(
                f"{where} does not see {terms.folder / TOKEN}, which this command wrote: the result"
                " must be made on a file system that all workers share, at the same path, and they"
                " must be allowed to write there.",
                EXIT_FAILED,
            )
        time.sleep(1)
    _agreed.add(terms.token)


def _sees(terms: Terms) -> bool:
    try:
        return (terms.folder / TOKEN).read_text() == terms.token
    except OSError:
        return False

"""Files that are made once and used by many processes: exported graphs, quantised models, engines,
named after their content.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from phenomjax.system import files, locks
from phenomjax.system.errors import UserError


def folder(given: str | Path = "") -> Path:
    """The cache folder: the one given, $PHENOMJAX_CACHE, or phenomjax/ in the user's cache folder
    ($XDG_CACHE_HOME, ~/.cache).
    """
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phenomjax"
    path = Path(given or os.environ.get("PHENOMJAX_CACHE") or user)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The cache folder {path} cannot be made ({error.strerror}). Set PHENOMJAX_CACHE to a"
            " folder that you may write to."
        ) from error
    return path


def key(content: Mapping[str, object]) -> str:
    """A short name for what a description says: sha256 of its JSON, shortened."""
    return files.sha256_json(content)[:24]


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """The file or folder `path`, made by `make(temporary path)` if it is not there; other processes
    on this file system wait meanwhile.

    A process that is killed while it makes the file leaves nothing that another one would take for
    it.
    """
    if path.exists():
        return path
    # a folder for each, so that different files are made side by side
    with locks.wait_for(path.parent / "locks" / path.name, stopped=lambda: False):
        if not path.exists():
            with files.replacing(path) as partial:  # the libraries go by the extension
                make(partial)
    return path

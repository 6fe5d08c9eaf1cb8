"""Files that are made once and used by many processes: exported graphs, quantised models, engines,
named after their content.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def key(content: dict[str, Any]) -> str:
    """A short name for what a description says: sha256 of its JSON, shortened."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def once(path: Path, make: Callable[[Path], Any]) -> Path:
    """The file or folder `path`, made by `make(temporary path)` if it is not there; other processes
    on this file system wait meanwhile.

    A process that is killed while it makes the file leaves nothing that another one would take for
    it.
    """
    if path.exists():
        return path
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
        if not path.exists():
            # the libraries go by the extension
            temporary = path.with_name(f"partial-{os.getpid()}-{path.name}")
            try:
                make(temporary)
                os.replace(temporary, path)
            finally:
                (
                    temporary.unlink(missing_ok=True)
                    if temporary.is_file()
                    else shutil.rmtree(temporary, ignore_errors=True)
                )
    return path

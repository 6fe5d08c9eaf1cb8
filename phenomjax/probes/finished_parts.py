"""What one method gave on one task, kept on disk as soon as it is there: a report that was
interrupted goes on from its parts.
"""

import json
import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from phenomjax.system import files

log = logging.getLogger("phenomjax")
VERSION = 2  # of what a part means: a change in the protocol makes all parts anew


@dataclass(frozen=True)
class FinishedPart:
    """Rows of results, and the arrays that figures need, by name: "confusion/LABEL/SPLIT",
    "probability/…", "right/…", "map/measured", …
    """

    rows: list[Any]  # results.Row, or leakage.Overlap
    arrays: dict[str, Shaped[np.ndarray, "..."]] = field(default_factory=dict)


class FinishedParts:
    """Finished parts in a folder, one .npz each, named after what they were made of.

    Args:
      folder: made when the first part is written.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def get(self, key: object, make: Callable[[], FinishedPart]) -> FinishedPart:
        """The part of a key (anything that JSON can write), made and kept if it is not there or
        cannot be read.
        """
        path = self._folder / f"{files.sha256_json([VERSION, key])[:24]}.npz"
        if path.is_file():
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                log.warning("%s is damaged (%s) and is made anew", path, error)
        part = make()
        rows = np.frombuffer(json.dumps(part.rows, default=float).encode(), np.uint8)
        with files.replacing(path) as partial:
            np.savez_compressed(partial, **{"rows": rows, **part.arrays})  # type: ignore[arg-type]
        return part


def _read(path: Path) -> FinishedPart:
    with np.load(path, allow_pickle=False) as stored:
        rows = json.loads(stored["rows"].tobytes())
        return FinishedPart(rows, {name: stored[name] for name in stored.files if name != "rows"})

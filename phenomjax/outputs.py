"""Results on disk, whole or not at all: a reader sees the old file or the new one, never a part."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phenomjax.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end; the suffix stays, for it tells writers the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps a folder, made where there is none, to this process.

    Raises:
      UserError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another process is writing {folder} now. Wait for it, or give another --out.") from None
        yield


def save_figure(figure: "Figure", path: Path, dpi: int = 150) -> Path:
    """Writes a figure; returns its path."""
    with replacing(path) as partial:
        figure.savefig(partial, dpi=dpi)
    return path


def write_json(path: Path, result: dict[str, Any]) -> Path:
    """Writes JSON with one value a line; returns the path."""
    return write_text(path, json.dumps(result, indent=1, default=float, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Writes text as UTF-8; returns the path."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def write_table(path: Path, table: "pd.DataFrame") -> Path:
    """Writes a table as Parquet; returns the path."""
    with replacing(path) as partial:
        table.to_parquet(partial, index=False)
    return path

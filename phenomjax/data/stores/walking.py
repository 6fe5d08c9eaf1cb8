"""The files below a folder of a disk, in the order in which stores list theirs."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Listed(NamedTuple):
    """A file below a folder: its name relative to it, its size, and the store's mark of its
    content ("" on disks).
    """

    name: str
    bytes: int
    etag: str


def walk(folder: Path, start: str, after: str) -> Iterator[Listed]:
    """Files below a folder in the order of their whole names, as stores have it: the names of one
    folder are in memory at a time.
    """
    try:
        with os.scandir(folder) as entries:
            there = sorted((e.name + ("/" if e.is_dir() else ""), e.path) for e in entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, path in there:
        whole = start + name
        if name.endswith("/"):
            if not after or after < whole or after.startswith(whole):
                yield from walk(Path(path), whole, after)
        elif whole > after:
            with contextlib.suppress(FileNotFoundError):  # deleted since
                yield Listed(whole, os.stat(path).st_size, "")

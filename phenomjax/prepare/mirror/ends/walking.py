"""What is in a folder on a disk, in the order in which object stores list."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from phenomjax.prepare.mirror.ends.in_order import sorted_runs
from phenomjax.prepare.mirror.ends.places import Entry


def walk(
    folder: str, start: str, above: tuple[str, ...], scratch: Path, skip: str = ""
) -> Iterator[Entry]:
    """Entries below a folder. `above` are the real places of the folders that links led from."""
    try:
        with os.scandir(folder) as found:
            # a folder's name sorts with its "/", or "a-b" would come behind "a/c"
            there = sorted_runs(
                (_entry(one, start) for one in found if one.name != skip),
                lambda entry: entry.key,
                scratch,
            )
            empty = True
            for entry in there:
                empty = False
                if not entry.key.endswith("/"):
                    yield entry
                    continue
                path, known = os.path.join(folder, entry.key[len(start) : -1]), above
                if entry.stamp == "link":
                    real = os.path.realpath(path)
                    known = (*above, os.path.realpath(folder))
                    if any(f"{one}/".startswith(f"{real}/") for one in known):
                        detail = "is a link to a folder that it lies in"
                        yield Entry(entry.key[:-1], 0, "", "unreadable", detail)
                        continue
                yield from walk(path, entry.key, known, scratch)
    except FileNotFoundError:
        return  # deleted since
    except OSError as error:
        detail = f"is a folder that cannot be read: {error.strerror}"
        yield Entry(start, 0, "", "unreadable", detail)
        return
    if empty and start:
        yield Entry(start, 0, "folder")


def _entry(one: os.DirEntry, start: str) -> Entry:
    key = start + one.name
    try:
        key.encode()
    except UnicodeEncodeError:
        shown = key.encode(errors="backslashreplace").decode()
        return Entry(shown, 0, "", "unreadable", "has a name that is no UTF-8: rename it")
    try:
        if one.is_dir():
            return Entry(f"{key}/", 0, "link" if one.is_symlink() else "folder")
        found = one.stat()
    except FileNotFoundError:
        if one.is_symlink():
            return Entry(key, 0, "", "unreadable", "is a link to something that is not there")
        return Entry(key, 0, "", "vanished", "was deleted while the folder was listed")
    except OSError as error:
        return Entry(key, 0, "", "unreadable", f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(found.st_mode):
        return Entry(key, 0, "", "unreadable", "is no file (a pipe, a socket or a device)")
    return Entry(key, found.st_size, str(found.st_mtime_ns))

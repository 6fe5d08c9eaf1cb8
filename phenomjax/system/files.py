"""Files and folders on disk, whole or not at all: a reader, or a start after a crash, sees the old
content or the new, never a part.

Everything that is written goes through `replacing`: to a hidden name beside the target, then a
rename.
"""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phenomjax.system import alive
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# how names of what is being written begin; the suffix stays, for it tells writers the format
PARTIAL = ".part-"


@contextlib.contextmanager
def replacing(path: Path, *, shared: bool = False, flush: bool = False) -> Iterator[Path]:
    """A path to write a file or a folder to, which takes the place of `path` at the end; its folder
    is made.

    Args:
      path: of the result.
      shared: other processes may write the same path now, each under a name of its own; the last
        one stays.
      flush: bring the file to the disk before the rename, and the rename after: what was not
        flushed is lost when the power is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}-" if shared else ""
    partial = path.with_name(f"{PARTIAL}{mine}{path.name}")
    remove(partial)  # of a process that was killed
    try:
        yield partial
        if flush and partial.is_file():
            flush_path(partial)
        os.replace(partial, path)
        if flush:
            flush_path(path.parent)
    finally:
        remove(partial)


def remove_of_killed(path: Path) -> None:
    """Deletes what processes of this machine that are no more began to write as `path` in
    `replacing`, `shared`.
    """
    mine = f"{PARTIAL}{socket.gethostname()}-"
    for partial in path.parent.glob(f"{glob.escape(mine)}*-{glob.escape(path.name)}"):
        pid = partial.name.removeprefix(mine).split("-")[0]
        if pid.isdecimal() and not alive.lives(int(pid)):
            remove(partial)


def flush_path(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Deletes a file, or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):  # or a disk that is only read refuses to delete nothing
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, shared: bool = False, flush: bool = False) -> Path:
    """Writes a file; returns its path."""
    with replacing(path, shared=shared, flush=flush) as partial:
        partial.write_bytes(content)
    return path


def write_text(path: Path, text: str, *, shared: bool = False, flush: bool = False) -> Path:
    """Writes text as UTF-8; returns the path."""
    return write_bytes(path, text.encode(), shared=shared, flush=flush)


def write_json(
    path: Path, content: Mapping[str, Any], *, shared: bool = False, flush: bool = False
) -> Path:
    """Writes `json_text`; returns the path."""
    return write_text(path, json_text(content), shared=shared, flush=flush)


def json_text(content: Mapping[str, Any]) -> str:
    """JSON, indented, numbers of NumPy as numbers."""
    return json.dumps(content, indent=2, default=float) + "\n"


def create_text(path: Path, text: str) -> bool:
    """Writes text to a file that must not be there yet, as `create_bytes`."""
    return create_bytes(path, text.encode())


def create_bytes(path: Path, content: bytes) -> bool:
    """Writes a file that must not be there yet, whole or not at all, its folder too; False if it is
    there. Only one of several processes succeeds, on local disks, NFS, Lustre and GPFS.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{socket.gethostname()}-{os.getpid()}-{path.name}")
    try:
        partial.write_bytes(content)
        return _first(partial, path)
    finally:
        with contextlib.suppress(OSError):  # a disk that takes nothing has nothing to delete
            partial.unlink(missing_ok=True)


def _first(partial: Path, path: Path) -> bool:
    """Gives a written file its name, if no other has it."""
    try:
        os.link(partial, path)  # unlike a rename, it fails where there is one already
        return True
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        pass
    try:
        with path.open("xb") as file:
            file.write(partial.read_bytes())
    except FileExistsError:
        return False
    except OSError:
        path.unlink()
        raise
    return True


def link(source: Path, target: Path) -> None:
    """Gives a file a second name, which may have it already; where the file system has no hard
    links, a copy.
    """
    try:
        os.link(source, target)
    except FileExistsError:  # another process was quicker
        return
    except OSError:
        with replacing(target, shared=True) as partial:
            shutil.copyfile(source, partial)


def write_table(path: Path, table: "pd.DataFrame") -> Path:
    """Writes a table as Parquet; returns the path."""
    with replacing(path) as partial:
        table.to_parquet(partial, index=False)
    return path


def save_figure(figure: "Figure", path: Path, dpi: int = 150) -> Path:
    """Writes a figure in the format of the path's suffix; returns the path."""
    with replacing(path) as partial:
        figure.savefig(partial, dpi=dpi)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds an object of JSON, or raises a UserError that names it."""
    return json_object(path, path.read_bytes())


def json_object(path: Path | str, text: bytes) -> dict[str, Any]:
    """The object of JSON that is the content of `path`, or a UserError that names it."""
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}): it is damaged. Copy the bank again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds no object of JSON but a {type(content).__name__}: it is damaged. Copy"
            " the bank again."
        )
    return content


def sha256(path: Path, *, flush: bool = False) -> str:
    """Digest of a file, which is brought to the disk first if `flush`."""
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(content: Any) -> str:
    """Digest of anything that JSON can write, the same whatever the order of keys; other things
    count as their text.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def in_units(count: float) -> str:
    """Bytes for a reader, "12.3 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def names(folder: Path) -> list[str]:
    """Sorted names in a folder; none where it is not there."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def listing(folder: Path) -> str:
    """The first names in a folder, for error messages."""
    all_names = names(folder)
    more = f" and {len(all_names) - 6} more" if len(all_names) > 6 else ""
    return (", ".join(all_names[:6]) + more) or "nothing"

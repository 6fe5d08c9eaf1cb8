"""Objects of a store as files of this machine: each is fetched once for all processes of the node,
checked, and kept in a folder that never holds more than its bound; the longest unused leave first.

    FOLDER/objects/KEY      a whole object
    FOLDER/objects/KEY.part one that is being fetched; its size is taken from the start
    FOLDER/lock.XX          held by who fetches a KEY that begins with XX
    FOLDER/room, lock.room  bytes of all objects, so that nobody counts 100,000 files at each fetch

Who has a file open reads on when it leaves. Only files of this shape are ever deleted. Locks are
flock's: they end with their process, whatever ends it, and need a local disk.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from phenomjax.data import manifest, store
from phenomjax.data.stores.sinks import Hashing
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.files import in_units

log = logging.getLogger("phenomjax")
# Folder on a local disk where the processes of a node keep what they fetched from stores; and
# graphs of `embed --runtime onnx` and others. By default in the folder for temporary files, and
# these in the user's cache folder. Workers inherit it.
FOLDER = "PHENOMJAX_CACHE"
# At most so much of what was fetched, in GB; by default 64, or half of what is free.
GIGABYTES = "PHENOMJAX_CACHE_GB"
OURS = re.compile(r"[0-9a-f]{32}(\.part)?")
DEFAULT = 64 * 10**9  # bytes, or half of what is free
LEFT = 0.9  # of the bound, once it was reached: so that not each fetch has to look for room
YOUNG = 30.0  # seconds: who drops files as young as this has too little room
TRIES = 3
NETWORKS = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "ceph", "9p", "afs", "fuse.")
Opener = Callable[[str | Path], int]


def use(folder: str, gigabytes: float) -> None:
    """Sets the cache of this process and of those that it starts; "" and 0 leave it as it is."""
    if folder:
        os.environ[FOLDER] = folder
    if gigabytes:
        os.environ[GIGABYTES] = str(gigabytes)


def shared() -> "NodeCache":
    """The cache of this machine, as the environment says."""
    user = f"{getattr(os, 'getuid', lambda: 0)()}"
    default = os.path.join(tempfile.gettempdir(), f"phenomjax-cache-{user}")
    return _cache(os.environ.get(FOLDER) or default, os.environ.get(GIGABYTES) or "")


@functools.lru_cache(maxsize=8)
def _cache(folder: str, gigabytes: str) -> "NodeCache":
    try:
        limit = int(float(gigabytes) * 1e9) if gigabytes else 0
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise UserError(f"{GIGABYTES} is '{gigabytes}'; it must be a number of gigabytes above 0.")
    return NodeCache(Path(folder), limit)


@contextlib.contextmanager
def afresh() -> Iterator[None]:
    """A cache of its own that goes afterwards, for whoever checks what a store has now."""
    before = os.environ.get(FOLDER)
    with tempfile.TemporaryDirectory(prefix="inspect-", dir=shared().folder) as folder:
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            os.environ.pop(FOLDER)
            if before is not None:
                os.environ[FOLDER] = before


def open_file(path: str | Path) -> int:
    """A descriptor of a file to read, or of an object that is fetched into the cache."""
    return shared().open(path) if store.is_remote(path) else os.open(path, os.O_RDONLY)


def open_table(path: Path, sha256: str, size: int) -> Path | IO[bytes]:
    """A table to read: the file of a disk; of a store the object in the cache, checked, or where it
    is too large for that or its sha256 is not known, its ranges.
    """
    if not store.is_remote(path):
        return path
    if sha256 and size <= shared().limit // 8:
        return os.fdopen(shared().open(path, sha256=sha256), "rb")
    return store.open_input(path)


class Files:
    """Opens files below a folder to read, and returns descriptors: the system's own for a folder on
    a disk, else of objects that are fetched into the cache.

    Args:
      folder: of a bank.
      version: changes when the content of the folder does.
      checksums: sha256 by name, where the bank knows them; else those of the manifest beside it.
    """

    def __init__(self, folder: Path, version: str, checksums: Mapping[str, str] | None = None):
        self._cache = shared() if store.is_remote(folder) else None
        self._version, self._start = version, len(str(folder)) + 1
        self._known: Callable[[str], str | None] = (checksums or {}).get
        if self._cache and checksums is None and store.is_file(found := manifest.beside(folder)):
            self._known = manifest.Manifest(found).sha256

    def __call__(self, path: str | Path) -> int:
        if self._cache is None or not store.is_remote(path):  # also a copy that the node has staged
            return os.open(path, os.O_RDONLY)
        return self._cache.open(path, *self._name(path))

    def forget(self, path: str | Path) -> bool:
        """Deletes what the cache has of a damaged file; False if it is none of the cache."""
        if self._cache is None or not store.is_remote(path):
            return False
        self._cache.forget(path, *self._name(path))
        return True

    def _name(self, path: str | Path) -> tuple[str, str]:
        return self._version, self._known(str(path)[self._start :]) or ""


class NodeCache:
    """A folder of objects, shared by threads and processes.

    Args:
      folder: on a local disk; made.
      limit: bytes at most; 0: 64 GB, or half of what is free.

    Raises:
      UserError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limit: int = 0):
        self.folder, self._objects = folder, folder / "objects"
        _check_local(folder)
        try:
            with self._lock("room"):
                total = self._count()
        except OSError as error:
            raise UserError(
                f"The cache of objects {folder} cannot be used ({error.strerror or error}). Name a"
                f" folder on a local disk that you own with --config.data.cache, or {FOLDER}."
            ) from None
        self.limit = limit or min(DEFAULT, (shutil.disk_usage(folder).free + total) // 2)
        self._told = False

    def open(self, path: str | Path, version: str = "", sha256: str = "") -> int:
        """A descriptor, at its start, of an object's file, which is fetched where it is not there.

        Args:
          path: where the object is.
          version: of its content, part of its name in the cache.
          sha256: what it must have, if that is known; else the store's mark is compared.

        Raises:
          NotThere, StoreError: the store does not give it, or gives other bytes.
          UserError: the cache is too small for it, or its disk is full.
        """
        key = hashlib.sha256(f"{path}\n{version}\n{sha256}".encode()).hexdigest()[:32]
        file = self._objects / key
        with contextlib.suppress(FileNotFoundError):
            return _used(file)
        with self._lock(key[:2]):
            with contextlib.suppress(FileNotFoundError):
                return _used(file)
            return self._fetch(path, file, sha256)

    def forget(self, path: str | Path, version: str = "", sha256: str = "") -> None:
        """Deletes an object that turned out to be damaged here; who opens it fetches it again."""
        key = hashlib.sha256(f"{path}\n{version}\n{sha256}".encode()).hexdigest()[:32]
        (self._objects / key).unlink(missing_ok=True)

    def _fetch(self, path: str | Path, file: Path, sha256: str) -> int:
        size, partial = store.size(path), file.with_name(file.name + ".part")
        self._make_room(path, size, partial)
        try:
            for _ in range(TRIES):
                with partial.open("r+b") as part:
                    digest = Hashing(part)
                    got = store.fetch(path, digest, check=not sha256)
                    part.truncate(got)
                    os.fsync(part.fileno())  # or a power cut leaves a file of this name and size
                if sha256 in ("", digest.sha256.hexdigest()):
                    handle = os.open(partial, os.O_RDONLY)
                    os.replace(partial, file)
                    return handle
            raise store.StoreError(
                f"{store.url(path)} came {TRIES} times with other bytes than the manifest says"
                f" (sha256 {digest.sha256.hexdigest()[:12]}… and not {sha256[:12]}…): the object is"
                " damaged, or was replaced. Copy it again with `python -m phenomjax.prepare"
                " mirror`.",
                "answer",
                EXIT_FAILED,
            )
        except OSError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"The cache {self.folder} cannot take {store.url(path)}, {in_units(size)}:"
                f" {error.strerror or error}. Give it less of the disk (data.cache_gb,"
                f" {GIGABYTES}), or another folder (data.cache, {FOLDER}).",
                EXIT_FAILED,
            ) from None
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, path: str | Path, size: int, partial: Path) -> None:
        """Takes `size` bytes for an object that comes now; drops others if they are too many."""
        if size > self.limit:
            raise UserError(
                f"The cache {self.folder} holds {in_units(self.limit)} at most, and"
                f" {store.url(path)} alone has {in_units(size)}: give it more with"
                f" --config.data.cache_gb or {GIGABYTES}, several times that of the largest object."
            )
        with self._lock("room"):
            try:
                total = int((self.folder / "room").read_text())
            except (OSError, ValueError):
                total = self._count()
            if total + size > self.limit:
                total = self._evict(size)
            # a sparse file of that size: whoever counts meanwhile counts it
            with partial.open("wb") as part:
                part.truncate(size)
            self._write_total(total + size)

    def _evict(self, size: int) -> int:
        files, total = [], 0
        for entry in self._entries():
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                total += status.st_size
                if not entry.name.endswith(".part"):
                    files.append((status.st_atime, status.st_size, entry.path))
                elif self._is_dead(entry.name):
                    os.unlink(entry.path)
                    total -= status.st_size
        wanted = min(self.limit - size, int(self.limit * LEFT))
        newest = 0.0
        for when, bytes_, place in sorted(files):
            if total <= wanted:
                break
            os.unlink(place)
            total, newest = total - bytes_, when
        if total + size > self.limit:
            raise UserError(
                f"The cache {self.folder} is too small: all of its {in_units(self.limit)} is of"
                " objects that are being fetched at this moment. Give it more with"
                f" --config.data.cache_gb or {GIGABYTES}."
            )
        if time.time() - newest < YOUNG and not self._told:
            self._told = True
            log.warning(
                "The cache %s drops objects that were used %.0f s ago, so they are fetched again"
                " and again: its %s are too few for what is read. Give it more with"
                " --config.data.cache_gb or %s.",
                self.folder,
                time.time() - newest,
                in_units(self.limit),
                GIGABYTES,
            )
        return total

    def _count(self) -> int:
        """Bytes of all objects, counted; what killed processes left goes."""
        total = 0
        for entry in self._entries():
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith(".part") and self._is_dead(entry.name):
                    os.unlink(entry.path)
                else:
                    total += entry.stat().st_size
        self._write_total(total)
        return total

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self._objects) as entries:
            yield from (entry for entry in entries if OURS.fullmatch(entry.name))

    def _is_dead(self, name: str) -> bool:
        """Whether nobody fetches a part now."""
        with (self.folder / f"lock.{name[:2]}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
        return True

    def _write_total(self, total: int) -> None:
        (self.folder / "room").write_text(str(total))

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        # who tidies a folder of temporary files may take all of it away
        self._objects.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"lock.{name}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _used(file: Path) -> int:
    handle = os.open(file, os.O_RDONLY)
    # not the date of its content, by which readers know what they have seen of it
    os.utime(handle, ns=(time.time_ns(), os.fstat(handle).st_mtime_ns))
    return handle


def _check_local(folder: Path) -> None:
    """Raises UserError where locks may not hold: on file systems of several machines."""
    place = os.path.realpath(folder)
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:  # no Linux
        return
    inside = [
        (len(at), kind) for at, kind in mounts if f"{place}/".startswith(f"{at.rstrip('/')}/")
    ]
    kind = max(inside, default=(0, ""))[1]
    if kind.startswith(NETWORKS):
        raise UserError(
            f"The cache of objects {folder} is on a file system of several machines ({kind}), where"
            " its locks may not hold. Name a folder on a local disk of the node with"
            f" --config.data.cache, or {FOLDER}."
        )

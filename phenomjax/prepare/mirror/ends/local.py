"""Folders and files on disks as ends of a mirror (`places.Place`)."""

import errno
import itertools
import os
import socket
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from phenomjax.prepare.mirror.ends.digests import Digests
from phenomjax.prepare.mirror.ends.places import (
    PIECE,
    WHOLE,
    Blocks,
    Buffer,
    Content,
    Entry,
    Steps,
    Taken,
    Trouble,
)
from phenomjax.prepare.mirror.ends.walking import walk
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, UserError

PARTS = f"{files.PARTIAL}mirror"  # a folder for what is being written, on the disk of its target
FLUSHED = 4  # blocks of a large file that come to the disk together
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class LocalPlace:
    """A folder or a file on a disk. Links are followed: stores have none."""

    sure = has_folders = lists = True
    together = 16  # their fsyncs share a commit of the disk's journal

    def __init__(self, path: Path, single: str = ""):
        self.path, self.single, self.name = path, single, str(path)
        base = path.parent if single else path
        self.partials = base / (f"{PARTS}-{path.name}" if single else PARTS)
        self._mine = str(self.partials / f"{socket.gethostname()}-{os.getpid()}")
        self._numbers, self._made = itertools.count(), set[str]()
        self._touched = set[str]()

    def _path(self, key: str) -> str:
        return str(self.path) if self.single else os.path.join(self.path, key)

    def entries(self, scratch: Path) -> Iterator[Entry]:
        if self.single:
            found = self.entry(self.single)
            yield from [found] if found else []
        elif self.path.is_dir():
            yield from walk(str(self.path), "", (), scratch, skip=PARTS)

    def entry(self, key: str) -> Entry | None:
        try:
            found = os.stat(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(found.st_mode):
            return Entry(key, 0, "folder")
        return Entry(key, found.st_size, str(found.st_mtime_ns))

    def _open(self, entry: Entry) -> int:
        try:
            return os.open(self._path(entry.key), os.O_RDONLY)
        except FileNotFoundError:
            if not self.single and not self.path.is_dir():
                raise UserError(
                    f"{self.path} is gone: it was deleted, or its disk was taken away. What is"
                    " copied is kept; run the same command again when it is back.",
                    EXIT_FAILED,
                ) from None
            raise Trouble("vanished", "was deleted since it was listed") from None
        except OSError as error:
            raise Trouble("unreadable", f"cannot be read: {error.strerror}") from None

    def _same(self, handle: int, entry: Entry) -> None:
        now = os.fstat(handle)
        if (now.st_size, str(now.st_mtime_ns)) != (entry.bytes, entry.stamp):
            raise Trouble("changed", "was written to since it was listed")

    def read(self, entry: Entry) -> bytes:
        handle = self._open(entry)
        try:
            data = os.read(handle, entry.bytes)
            while len(data) < entry.bytes and (more := os.read(handle, entry.bytes - len(data))):
                data += more
            self._same(handle, entry)
            return data
        except OSError as error:
            raise Trouble("unreadable", f"cannot be read: {error.strerror}") from None
        finally:
            os.close(handle)

    def blocks(self, entry: Entry, start: int = 0) -> Iterator[Buffer]:
        handle = self._open(entry)
        try:
            while start < entry.bytes:
                piece = os.pread(handle, min(PIECE, entry.bytes - start), start)
                if not piece:
                    raise Trouble("changed", "has become shorter since it was listed")
                yield piece
                start += len(piece)
            self._same(handle, entry)
        except OSError as error:
            raise Trouble("unreadable", f"cannot be read: {error.strerror}") from None
        finally:
            os.close(handle)

    def parts(self, size: int) -> list[int]:
        return []

    def write(self, key: str, data: Content, digests: Digests, replace: bool) -> Steps[str]:
        if key.endswith("/"):
            with self._writing(key):
                os.makedirs(self._path(key), exist_ok=True)
            return "folder"
        partial = f"{self._mine}-{next(self._numbers)}"
        with self._writing(key):
            self._make(str(self.partials))
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                _write_at(handle, memoryview(data), 0)
                _out_of_memory(handle)  # begins to write
                yield
                _to_disk(handle)
                yield
                if os.pread(handle, len(data) + 1, 0) != data:
                    raise Trouble("failed", "was read back with other bytes: the disk is damaged")
                stamp = str(os.fstat(handle).st_mtime_ns)
            finally:
                os.close(handle)
            self._rename(partial, key, replace)
        return stamp

    def write_large(
        self, entry: Entry, blocks: Blocks, etags: list[str], replace: bool
    ) -> tuple[str, Digests]:
        """Block by block into a file that outlives a kill, beside a list of the blocks that are on
        the disk; so it goes on there. In the end all of it is read back.
        """
        name = files.sha256_json([entry.key, entry.bytes, entry.stamp])[:32]
        partial, journal = str(self.partials / name), self.partials / f"{name}.blocks"
        with self._writing(entry.key):
            self._make(str(self.partials))
            for _ in range(3):
                handle = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    sums = _journal(journal)
                    self._fill(handle, journal, sums, entry, blocks)
                    digests = self._read_back(handle, sums, entry, etags)
                    stamp = str(os.fstat(handle).st_mtime_ns)
                finally:
                    os.close(handle)
                if digests is not None:
                    break
                journal.unlink(missing_ok=True)  # of a disk that lost power: from the start
            else:
                raise Trouble("failed", "was read back with other bytes: the disk is damaged")
            self._rename(partial, entry.key, replace)
            journal.unlink(missing_ok=True)
        return stamp, digests

    def _fill(
        self, handle: int, journal: Path, sums: dict[int, int], entry: Entry, blocks: Blocks
    ) -> None:
        """Writes the blocks that are not on the disk yet."""
        os.truncate(handle, entry.bytes)
        there = 0
        while there in sums:
            there += 1
        at, crc, waiting = there * WHOLE, 0, ""
        if at >= entry.bytes:
            return
        with journal.open("a") as lines:
            for piece in blocks(at):
                rest = memoryview(piece)
                while rest:
                    part = rest[: WHOLE - at % WHOLE]
                    _write_at(handle, part, at)
                    at, crc, rest = at + len(part), zlib.crc32(part, crc), rest[len(part) :]
                    if at % WHOLE and at < entry.bytes:
                        continue
                    number = (at - 1) // WHOLE
                    sums[number], waiting, crc = crc, f"{waiting}{number} {crc}\n", 0
                    if (number + 1) % FLUSHED == 0 or at >= entry.bytes:
                        os.fsync(handle)
                        lines.write(waiting)
                        lines.flush()
                        waiting = ""

    def _read_back(
        self, handle: int, sums: dict[int, int], entry: Entry, etags: list[str]
    ) -> Digests | None:
        """Digests of what is on the disk; None if it is not what was written."""
        _to_disk(handle)
        digests, crc = Digests.proving(etags, entry.bytes), 0
        step, buffer = min(PIECE, WHOLE), bytearray(PIECE)
        for at in range(0, entry.bytes, step):
            piece = memoryview(buffer)[: min(step, entry.bytes - at)]
            if os.preadv(handle, [piece], at) != len(piece):
                return None
            crc = zlib.crc32(piece, crc)
            digests.update(piece)
            if (end := at + len(piece)) % WHOLE == 0 or end == entry.bytes:
                if crc != sums.get(at // WHOLE):
                    return None
                crc = 0
        return digests

    def _rename(self, partial: str, key: str, replace: bool) -> None:
        path = self._path(key)
        folder = os.path.dirname(path)
        self._make(folder)
        if not replace and os.path.lexists(path):
            os.unlink(partial)
            raise Taken
        os.replace(partial, path)
        self._touched.add(folder)

    def _make(self, folder: str) -> None:
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)
            self._made.add(folder)

    def flush(self) -> None:
        """Brings the names of what was written to the disk."""
        while self._touched:
            handle = os.open(self._touched.pop(), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def tidy(self) -> None:
        files.remove(self.partials)

    def _writing(self, key: str) -> "_Writing":
        return _Writing(self.path, key)


class _Writing:
    """Sorts errors of a disk: those of all that comes, and those of one name."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in FULL:
            raise UserError(
                f"The disk of {self.path} is full ({error.strerror}). What is copied is kept: make"
                " room there, and run the same command again.",
                EXIT_FAILED,
            ) from error
        if error.errno in REFUSED:
            raise UserError(
                f"{self.path} cannot be written to ({error.strerror}:"
                f" {error.filename or self.key}). Give another destination, or ask its owner for"
                " the right to write there; then run the same command again.",
                EXIT_FAILED,
            ) from error
        if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
            raise Trouble(
                "failed",
                "is a file here and a folder there, or lies in what is a file there: a disk has"
                " no room for both",
            ) from error
        raise Trouble("failed", f"cannot be written: {error.strerror}") from error


def _write_at(handle: int, data: Buffer, start: int) -> None:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(handle, rest, start)
        rest, start = rest[done:], start + done


def _to_disk(handle: int) -> None:
    """Brings a file to the disk, and out of memory, so that it is read back from there."""
    os.fsync(handle)
    _out_of_memory(handle)


def _out_of_memory(handle: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def _journal(path: Path) -> dict[int, int]:
    """{block: CRC-32} of the blocks that are on the disk; lines that were cut off do not count."""
    sums = dict[int, int]()
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines(keepends=True):
            number, _, crc = line.partition(" ")
            if line.endswith("\n") and number.isdecimal() and crc.strip().isdecimal():
                sums[int(number)] = int(crc)
    return sums

"""Compressed files as streams of bytes, told by their first bytes and never by their names: gzip
(BGZF and several members too), Zstandard, bzip2, xz. On disks and in object stores.
"""

import bz2
import lzma
import zlib
from pathlib import Path
from typing import Any

import zstandard

from phenomjax.data import store

# bzip2's level is any digit; a Zstandard file may begin with a frame that readers skip (pzstd)
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x50\x2a\x4d\x18": "zstd",
    b"\xfd7zXZ\x00": "xz",
}
SUFFIXES = (".gz", ".gzip", ".bgz", ".zst", ".zstd", ".bz2", ".xz")
PACKED_BYTES = 2**16  # read at a time from a compressed file
UNPACKED_BYTES = 2**24  # at most that many come out at a time of formats that pack a million to one
_BZ2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # a first block, the end of an empty file


def compression_of(head: bytes) -> str:
    """'gzip', 'zstd', 'bz2', 'xz' or '' of the first 10 bytes of a file."""
    if head.startswith(b"BZh") and head[4:10] in _BZ2_BLOCKS:
        return "bz2"
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def compression(path: Path) -> str:
    """'gzip', 'zstd', 'bz2', 'xz' or '' of a file."""
    return compression_of(store.read_bytes(path, 0, 10))


class Damaged(Exception):
    """A file that cannot be read any further; the message says why and where.

    Args:
      message: what is wrong.
      offset: in the decompressed text, of the first byte that is lost.
    """

    def __init__(self, message: str, offset: int = 0):
        super().__init__(message)
        self.offset = offset


class Stream:
    """The bytes of a file, decompressed. `readinto` gives 0 at the end.

    Args:
      path: of the file.
      offset: where in its text to begin.
      packed, text: of a compressed file, a place in the file where a part of it begins, and where
        that is in its text: not behind `offset`.

    Attributes:
      raw: bytes of the file itself that were read.
    """

    def __init__(self, path: Path, offset: int = 0, *, packed: int = 0, text: int = 0):
        self.raw, self._kind = 0, compression(path)
        self._file: Any = store.open_input(path)
        self._packed, self._ready = b"", memoryview(b"")
        self._file.seek(packed if self._kind else offset)
        self._left_out = offset - text  # what is still to be passed of a compressed file
        if self._kind:
            self._start()

    def _start(self) -> None:
        """A decompressor for the next part of the file: gzip members, Zstandard frames and the like
        stand one after the other.
        """
        self._begun = False
        self._part: Any
        if self._kind == "zstd":
            self._part = zstandard.ZstdDecompressor().decompressobj()
        elif self._kind == "bz2":
            self._part = bz2.BZ2Decompressor()
        elif self._kind == "xz":
            self._part = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        else:
            self._part = zlib.decompressobj(wbits=31)

    def readinto(self, buffer: memoryview) -> int:
        """Fills the beginning of a buffer; returns how many bytes.

        Raises:
          Damaged: nothing more can be read, though the file should go on; all that could be read
            was given before.
        """
        if not self._kind:
            count = self._file.readinto(buffer)
            self.raw += count
            return count
        while not self._ready:
            if self._part.eof or getattr(self._part, "needs_input", True):
                self._packed = self._packed or self._file.read(PACKED_BYTES)
                self.raw = self._file.tell()
                if not self._packed and (self._part.eof or not self._begun):
                    return 0
                if not self._packed:
                    raise Damaged(
                        f"its {self._kind} data end after byte {self.raw}: it was not copied or"
                        " downloaded whole"
                    )
                if self._part.eof:
                    self._packed = self._packed.lstrip(b"\0")  # some archives are padded with zeros
                    self._start()
                    continue
            self._begun = True
            try:
                self._ready = memoryview(self._unpack(self._packed))
            except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError) as error:
                raise Damaged(
                    f"its {self._kind} data are broken before byte {self.raw} ({error})"
                ) from None
            self._packed = self._part.unused_data
            passed = min(self._left_out, len(self._ready))
            self._ready, self._left_out = self._ready[passed:], self._left_out - passed
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _unpack(self, packed: bytes) -> bytes:
        if self._kind in ("bz2", "xz"):
            return self._part.decompress(packed, UNPACKED_BYTES)
        return self._part.decompress(packed)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_) -> None:
        self.close()

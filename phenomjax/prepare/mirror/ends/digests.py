"""Digests of a content, computed once as it passes: sha256, and the ETag that S3 would give it,
which proves that the other side has the same bytes.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MIB = 1 << 20
PART = 16 * MIB  # of our own uploads in parts
MOST_PARTS = 10_000
# what other programs upload in: boto and aws, rclone and obstore, s5cmd, and round numbers
USUAL_PARTS = tuple(size * MIB for size in (8, 5, 16, 50, 10, 32, 64, 100, 128, 256, 512, 1024))


def part_size(size: int) -> int:
    """Bytes of a part of an object that we upload: S3 takes 10,000 parts."""
    return PART * max(1, -(-size // (PART * MOST_PARTS)))


class Digests:
    """sha256 and ETags of what `update` gets.

    Args:
      parts: sizes of parts whose ETag may be asked for; 0 for an object in one piece.
    """

    def __init__(self, parts: Iterable[int] = ()):
        self.sha256, self._parts = hashlib.sha256(), {size: _Parts(size) for size in parts}

    @classmethod
    def proving(cls, etags: Iterable[str], size: int, parts: Iterable[int] = ()) -> "Digests":
        """Those that can prove ETags of an object of this size, and of these parts."""
        return cls({part for etag in etags for part in _parts_of(etag, size)} | {*parts})

    def update(self, data: "ReadableBuffer") -> None:
        """Takes the next bytes."""
        self.sha256.update(data)
        for parts in self._parts.values():
            parts.update(data)

    def prove(self, etag: str) -> bool:
        """Whether an ETag is that of S3 for these bytes. If not, the bytes may be the same: keys
        of an owner or other stores make others.
        """
        return any(parts.etag() == etag.strip('"') for parts in self._parts.values())


def _parts_of(etag: str, size: int) -> list[int]:
    """Sizes of parts that an ETag of an object can come from."""
    found = re.fullmatch(r'"?[0-9a-f]{32}(?:-(\d+))?"?', etag)
    if not found:
        return []
    if not found[1]:
        return [0]
    return [part for part in USUAL_PARTS if -(-size // part) == int(found[1])][:2]


class _Parts:
    def __init__(self, size: int):
        self.size, self._part, self._in_part, self._done = size, _md5(), 0, list[bytes]()

    def update(self, data: "ReadableBuffer") -> None:
        if not self.size:
            self._part.update(data)
            return
        rest = memoryview(data)
        while rest:
            taken = rest[: self.size - self._in_part]
            self._part.update(taken)
            self._in_part += len(taken)
            rest = rest[len(taken) :]
            if self._in_part == self.size:
                self._end()

    def _end(self) -> None:
        self._done.append(self._part.digest())
        self._part, self._in_part = _md5(), 0

    def etag(self) -> str:
        if not self.size:
            return self._part.hexdigest()
        done = [*self._done, self._part.digest()] if self._in_part else self._done
        return f"{_md5(b''.join(done)).hexdigest()}-{len(done)}"


def _md5(data: bytes = b"") -> "hashlib._Hash":
    return hashlib.md5(data, usedforsecurity=False)

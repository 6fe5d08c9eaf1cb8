"""An object as a file, read by ranges."""

import io
from collections.abc import Callable
from typing import Any


class Ranges(io.RawIOBase):
    """A file to read and to seek in.

    Args:
      read: gives the bytes from a start to before a stop.
      size: of the object.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int):
        self._read, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max((0, self._at, self._size)[whence] + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        content = self._read(self._at, stop)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

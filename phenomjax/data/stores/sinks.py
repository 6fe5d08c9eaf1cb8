"""What an object can be written to while it is fetched."""

import hashlib
from typing import IO, Protocol


class Sink(Protocol):
    """A file that is written from its start, and may be once more."""

    def write(self, piece: bytes, /) -> int: ...

    def seek(self, place: int, /) -> object: ...


class Hashing:
    """Hashes what is written, and writes it on where there is a file."""

    def __init__(self, file: IO[bytes] | None = None):
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, piece: bytes) -> int:
        self.sha256.update(piece)
        return self._file.write(piece) if self._file else len(piece)

    def seek(self, place: int) -> None:
        """Begins again."""
        if self._file:
            self._file.seek(place)
        self.sha256 = hashlib.sha256()

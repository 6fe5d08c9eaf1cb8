"""Files of sequences as streams of bytes, decompressed: their lines, and FASTA in whole records."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from phenomjax.data.compressed import Damaged, Stream, compression

__all__ = ["Damaged", "Fasta", "Recoded", "Stream", "Trouble", "compression", "lines"]
COMMENTS = b";#!"  # what lines begin with that are comments of a FASTA file
LONGEST_RECORD = 2**26  # bytes; the longest known protein has 45,000 residues


class Recoded:
    """A text in another encoding, or with the line ends of an old Mac, as a Stream of UTF-8 lines.

    Attributes:
      raw: bytes of the file itself that were read.
    """

    def __init__(self, path: Path, encoding: str, mark: int):
        self._stream, self._ready = Stream(path), memoryview(b"")
        while mark:
            mark -= self._stream.readinto(memoryview(bytearray(mark)))
        errors = "surrogateescape" if encoding == "utf-8" else "replace"
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._block, self._ended = memoryview(bytearray(2**18)), False

    @property
    def raw(self) -> int:
        """Bytes of the file itself that were read."""
        return self._stream.raw

    def readinto(self, buffer: memoryview) -> int:
        """Fills the beginning of a buffer; returns how many bytes, 0 at the end.

        Raises:
          Damaged: see `Stream.readinto`.
        """
        while not self._ready and not self._ended:
            count = self._stream.readinto(self._block)
            self._ended = not count
            text = self._decoder.decode(bytes(self._block[:count]), final=self._ended)
            self._ready = memoryview(text.encode("utf-8", "surrogateescape"))
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def __enter__(self) -> "Recoded":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def lines(stream: Stream | Recoded, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line without its end) of every line.

    A line that a damaged file cuts is not given; Damaged is raised after the rest.
    """
    buffer, tail, base = memoryview(bytearray(block_bytes)), b"", 0
    while True:
        try:
            count = stream.readinto(buffer)
        except Damaged as error:
            raise Damaged(str(error), base) from None
        data = tail + bytes(buffer[:count])
        found = data.split(b"\n")
        tail = found.pop() if count else b""
        for line in found if count or data else []:
            yield base, line.removesuffix(b"\r")
            base += len(line) + 1
        if not count:
            return
        if len(tail) > LONGEST_RECORD:
            raise Damaged(
                f"the line that begins at byte {base} of the text has no end within"
                f" {LONGEST_RECORD} bytes",
                base,
            )


class Trouble(NamedTuple):
    """A part of a FASTA file that is no record."""

    offset: int
    reason: str
    detail: str
    name: str = ""


class Fasta:
    """A FASTA stream cut into blocks of whole records, at the memory of one block (or of one
    record, where that is longer).

    Args:
      stream: where the bytes come from.
      offset: of the stream's first byte in the file. If it is not 0, the first record is the first
        that begins after it.
      block_bytes: size of a block.
      longest: bytes of the longest record that is read; a longer one is trouble, and skipped.

    Attributes:
      data: uint8, the buffer that the ranges of `blocks` point into.
      base: offset of data[0] in the file.
      troubles: what was found between the records; taken away by the caller.
    """

    def __init__(
        self, stream: Stream | Recoded, offset: int, block_bytes: int, longest: int = LONGEST_RECORD
    ):
        self._stream, self.base, self._longest = stream, offset, longest
        self._buffer = bytearray(block_bytes)
        self.data = np.frombuffer(self._buffer, np.uint8)
        self._at = self._filled = 0
        self._ended, self._damage = False, ""
        self.troubles: list[Trouble] = []
        self._started = False

    def blocks(self, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Ranges of `data` that hold whole records, of those that begin before `stop` (an offset in
        the file).
        """
        if not self._started:
            self._started = True
            self._begin()
        while True:
            at = self._at
            if at == self._filled and self._ended:
                return
            if stop is not None and self.base + at >= stop:
                return
            cut = self._cut(at, stop)
            if cut > at:
                self._at = cut
                yield at, cut
            elif self._ended:  # the file is damaged, and cuts the last record
                head = bytes(self.data[at + 1 : min(at + 200, self._filled)])
                name = head.split(b"\n")[0].split()[:1]
                self.troubles.append(
                    Trouble(
                        self.base + at,
                        "truncated",
                        self._damage,
                        (name or [b""])[0].decode("utf-8", "replace"),
                    )
                )
                self._at = self._filled
                return
            elif self._filled - at >= self._longest:
                detail = (
                    f"a record of more than {self._longest} bytes: it is probably no protein, or"
                    " line ends are missing"
                )
                self.troubles.append(Trouble(self.base + at, "too_large", detail))
                self._skip()
            else:
                self._fill()

    @property
    def finished(self) -> bool:
        """Whether all records were given."""
        return self._ended and self._at == self._filled

    def _cut(self, at: int, stop: int | None) -> int:
        """Where the records that begin before `stop` end, as far as they are in the buffer."""
        if stop is not None:
            first = self._buffer.find(b"\n>", max(at, stop - 1 - self.base), self._filled)
            if first >= 0:
                return first + 1
        if self._ended and not self._damage:
            return self._filled
        return self._buffer.rfind(b"\n>", at, self._filled) + 1

    def _begin(self) -> None:
        self._fill()
        if self.base:
            self._skip()
            if self._damage and self._at == self._filled:  # before any record
                self.troubles.append(Trouble(self.base + self._at, "truncated", self._damage))
            return
        self._at = 3 if self._buffer.startswith(b"\xef\xbb\xbf") else 0
        start = self._pass_comments()
        if start == self._filled and self._ended:
            self.troubles.append(
                Trouble(0, "empty_file", self._damage or "there is nothing in the file")
            )
        if start < self._filled and self._buffer[start] != ord(">"):
            text = (
                bytes(self._buffer[start : min(start + 30, self._filled)])
                .split(b"\n")[0]
                .decode("utf-8", "backslashreplace")
            )
            self.troubles.append(
                Trouble(start, "no_header", f"text before the first '>': {text!r}")
            )
            self._skip()

    def _pass_comments(self) -> int:
        """Goes behind blanks, and lines that begin with one of COMMENTS; returns the place."""
        inside = False
        while True:
            while self._at < self._filled and (inside or self._buffer[self._at] <= 32):
                inside = inside and self._buffer[self._at] != ord("\n")
                self._at += 1
            if self._at < self._filled and self._buffer[self._at] in COMMENTS:
                inside = True
            elif self._at < self._filled or self._ended:
                return self._at
            else:
                self._fill()

    def _skip(self) -> None:
        """Goes to the next beginning of a record, at whatever distance."""
        while True:
            found = self._buffer.find(b"\n>", self._at, self._filled)
            if found >= 0:
                self._at = found + 1
                return
            if self._ended:
                self._at = self._filled
                return
            self._at = max(self._at, self._filled - 1)  # the last byte may be the line end
            self._fill()

    def _fill(self) -> None:
        """Moves what is left to the front and reads until the buffer is full; doubles it when it is
        full of one record.
        """
        left = self._filled - self._at
        if left >= len(self._buffer) // 2 and self._at == 0:
            self._buffer = self._buffer + bytearray(len(self._buffer))
            self.data = np.frombuffer(self._buffer, np.uint8)
        elif self._at:
            self.data[:left] = self.data[self._at : self._filled].copy()
            self.base += self._at
            self._at, self._filled = 0, left
        view = memoryview(self._buffer)
        while self._filled < len(self._buffer) and not self._ended:
            try:
                count = self._stream.readinto(view[self._filled :])
            except Damaged as error:
                self._ended, self._damage = True, f"{error}; what was readable before is kept"
                return
            self._filled += count
            self._ended = not count

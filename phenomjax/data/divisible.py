"""Compressed files that can be read from the middle: BGZF, the gzip of many small blocks that bgzip
writes, and Zstandard with a table of its frames at the end (the seekable format).

Both are told by what is in them. A place to begin at is a `Start`: where in the file, and where in
the text.
"""

import os
import struct
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from phenomjax.data import store
from phenomjax.data.compressed import Damaged

BLOCK_BYTES = 2**16  # of a BGZF block, at the most, packed or not
_HEADER = 64  # bytes in which the extra fields of a block are looked for
_SEEK_TABLE, _SEEK_END = 0x184D2A5E, 0x8F92EAB1


class Start(NamedTuple):
    """A place where reading can begin.

    Attributes:
      packed: in the file.
      text: in the decompressed text.
    """

    packed: int = 0
    text: int = 0


BEGINNING = Start()


class Blocks(NamedTuple):
    """The blocks that begin in a range of a BGZF file.

    Attributes:
      first: where the first one begins; -1: there is none.
      text: bytes of all, decompressed.
    """

    first: int
    text: int


def block_size(header: bytes) -> int:
    """Bytes of the BGZF block that begins so; 0 if none does."""
    if len(header) < 18 or header[:4] != b"\x1f\x8b\x08\x04":
        return 0
    at, end = 12, 12 + int.from_bytes(header[10:12], "little")
    while at + 6 <= min(end, len(header)):
        size = int.from_bytes(header[at + 2 : at + 4], "little")
        if header[at : at + 2] == b"BC" and size == 2:
            return int.from_bytes(header[at + 4 : at + 6], "little") + 1
        at += 4 + size
    return 0


def _read(file: IO[bytes], count: int, at: int) -> bytes:
    file.seek(at)
    return file.read(count)


def divisible(path: Path) -> str:
    """'bgzf', 'zstd', or '' of a file that must be read from its beginning."""
    with store.open_input(path) as file:
        if block_size(file.read(_HEADER)):
            return "bgzf"
        return "zstd" if _frames(file) is not None else ""


def blocks_between(path: Path, start: int, stop: int) -> Blocks:
    """The blocks of a BGZF file that begin in [start:stop]; only their heads and ends are read.

    Raises:
      Damaged: there is something else between them, or the last one is cut.
    """
    with store.open_input(path) as file:
        at = first = _first_block(file, start)
        text, header = 0, _read(file, _HEADER, max(first, 0))
        while 0 <= at < stop and header:
            size = block_size(header)
            # the end of this block, and the head of the next
            read = _read(file, 4 + _HEADER, at + size - 4) if size else b""
            if len(read) < 4:
                raise Damaged(f"there is no whole BGZF block at byte {at}")
            text += int.from_bytes(read[:4], "little")
            at, header = at + size, read[4:]
    return Blocks(first if 0 <= first < stop else -1, text)


def _first_block(file: IO[bytes], start: int) -> int:
    """Where the first block from `start` on begins, told by the one behind it; -1: none does."""
    data = _read(file, 2 * BLOCK_BYTES + _HEADER, start)
    size, at = file.seek(0, os.SEEK_END), data.find(b"\x1f\x8b\x08\x04")
    while at >= 0:
        length = block_size(data[at : at + _HEADER])
        after = data[at + length : at + length + _HEADER]
        if length and (block_size(after) or start + at + length == size):
            return start + at
        at = data.find(b"\x1f\x8b\x08\x04", at + 1)
    return -1


def pass_blocks(path: Path, start: Start, offset: int) -> Start:
    """The beginning of the BGZF block that holds a byte of the text, told from an earlier one."""
    packed, text = start
    with store.open_input(path) as file:
        while length := block_size(_read(file, _HEADER, packed)):
            end = int.from_bytes(_read(file, 4, packed + length - 4), "little")
            if text + end > offset:
                break
            packed, text = packed + length, text + end
    return Start(packed, text)


def zstd_frames(path: Path) -> np.ndarray | None:
    """int64 [frames + 1, 2]: where each frame begins in the file and in the text, last the ends;
    None without a table of them.
    """
    with store.open_input(path) as file:
        return _frames(file)


def _frames(file: IO[bytes]) -> np.ndarray | None:
    size = file.seek(0, os.SEEK_END)
    if size < 17:
        return None
    count, flags, magic = struct.unpack("<IBI", _read(file, 9, size - 9))
    entry = 12 if flags & 0x80 else 8
    begin = size - 9 - entry * count - 8
    if magic != _SEEK_END or begin < 0:
        return None
    head = struct.unpack("<II", _read(file, 8, begin))
    table = np.frombuffer(_read(file, entry * count, begin + 8), "<u4")
    sizes = table.reshape(count, entry // 4)[:, :2]
    ends = np.vstack([np.zeros((1, 2), np.int64), sizes.cumsum(axis=0, dtype=np.int64)])
    whole = head == (_SEEK_TABLE, entry * count + 9) and ends[-1, 0] == begin
    return ends if whole else None

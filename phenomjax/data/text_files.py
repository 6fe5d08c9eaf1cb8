"""What a file is, by its first bytes and never by its name: compressed or not, text in which
encoding, or something that is no text at all; and its lines as text.

`look` tells it from a bounded head (or from the whole file, where it is small enough to be read
twice), `lines` reads it, `no_text` says in one sentence what to do with what is not text.
"""

import codecs
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from phenomjax.data import signatures, store
from phenomjax.data.compressed import Damaged, Stream, compression
from phenomjax.data.signatures import CONTROL
from phenomjax.system import files
from phenomjax.system.errors import UserError

HEAD_BYTES = 2**20  # decompressed; what is looked at before a file is read
BLOCK_BYTES = 2**20
ENCODINGS = {
    "utf-8": "UTF-8",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16 (big endian)",
    "utf-32-le": "UTF-32",
    "utf-32-be": "UTF-32 (big endian)",
    "cp1252": "Windows-1252",
}
_ODD = re.compile(r"[^\s,;|\"]{0,20}[^\x00-\x7f\ufffd][^\n\r\t,;|\"]{0,20}")
_MARKS = (  # UTF-32's little endian mark begins like UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Contents:
    """What a file is.

    Attributes:
      path: the file.
      compression: 'gzip', 'zstd', 'bz2', 'xz' or ''.
      kind: 'text', 'parquet', 'xlsx', 'zip', 'tar', 'image', ... (of `signatures`).
      described: of what is no text, what it is, "a zip archive".
      mend: of what is no text, what to do.
      encoding: of text, a codec's name of ENCODINGS; '' of what is no text.
      head: of text, its beginning, decoded; line ends as they are.
      whole: whether `head` is all of it.
      mark: bytes of the byte order mark before the text.
    """

    path: Path
    compression: str
    kind: str
    described: str = ""
    mend: str = ""
    encoding: str = ""
    head: str = ""
    whole: bool = False
    mark: int = 0

    @property
    def said(self) -> str:
        """How it was read where that is not plain UTF-8: "gzip, Windows-1252"; else ''."""
        encoding = ENCODINGS[self.encoding] if self.encoding not in ("", "utf-8") else ""
        if self.encoding == "cp1252" and (odd := _ODD.search(self.head)):  # it may be another's
            encoding += f" (as in {odd[0].strip()!r})"
        return ", ".join(part for part in (self.compression, encoding) if part)


def check_file(path: Path, what: str = "file") -> None:
    """Whether a path is a file that can be opened.

    Raises:
      UserError: it is not; the message names what lies beside it.
    """
    if store.is_remote(path):
        if not store.is_file(path):
            raise UserError(f"There is no {what} at {store.url(path)}.")
        return
    try:
        if path.is_dir():
            raise UserError(
                f"{path} is a folder, no {what}. Name a file in it: {files.listing(path)}."
            )
        if not path.is_file():
            if path.is_symlink():
                raise UserError(f"{path} is a link to {path.readlink()}, which is not there.")
            if path.exists():
                raise UserError(
                    f"{path} is no file on disk (a pipe or a device), and the {what} is read more"
                    " than once. Write it to a file first, and name that."
                )
            raise UserError(f"There is no {what} at {path}.{store.beside(path)}")
        path.open("rb").close()
    except (OSError, ValueError) as error:  # no permission, a name with a NUL or too long
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} cannot be opened as a {what}: {reason}.") from None


def look(path: Path, *, whole: bool = False) -> Contents:
    """Tells what a file is.

    Args:
      path: the file.
      whole: the encoding is told by all of its bytes, not only by the first HEAD_BYTES; the file is
        read once for that, at constant memory.

    Raises:
      UserError: no such file, or it is damaged within its head.
    """
    check_file(path)
    packed = compression(path)
    try:
        with Stream(path) as stream:
            head, ended = _read(stream, HEAD_BYTES)
            found = of_head(path, packed, head, ended)
            if found.kind == "text" and whole and not ended and found.encoding == "utf-8":
                found = _settle(found, head, stream)
    except Damaged as error:
        raise UserError(f"{path} is damaged: {error}. Copy or download it again.") from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror or error}. Allow it to be read, or copy it"
            " again."
        ) from None
    return found


def no_text(contents: Contents, wanted: str) -> UserError:
    """What to say of a file that is no text.

    Args:
      contents: of the file.
      wanted: what it should be, "a table (CSV, TSV, Parquet or .xlsx)".
    """
    return UserError(
        f"{contents.path} is {contents.described}, not {wanted}: {contents.mend}, then run the same"
        " command again."
    )


def open_text(contents: Contents, errors: str = "strict") -> io.TextIOWrapper:
    """A text as Python's own files, for libraries that read one; `lines` for everything else.

    Args:
      contents: of `look`.
      errors: what becomes of bytes that cannot be decoded, as of `open`.
    """
    raw = io.BufferedReader(_Raw(Stream(contents.path), contents.mark), BLOCK_BYTES)
    return io.TextIOWrapper(raw, encoding=contents.encoding, errors=errors, newline=None)


def lines(contents: Contents, *, tolerant: bool = False) -> Iterator[str]:
    """The lines of a text, each with its end as "\\n" (old Mac's and Windows' too).

    The file is closed when the iterator ends or is closed.

    Args:
      contents: of `look`.
      tolerant: a line that cannot be decoded is given with signs that `fault` finds.

    Raises:
      UserError: a line that cannot be decoded, or a damaged file; names the line.
    """
    number = 0
    errors = "surrogateescape" if contents.encoding in ("utf-8", "cp1252") else "replace"
    with open_text(contents, errors) as text:
        try:
            for number, line in enumerate(text, 1):
                if not tolerant and (wrong := fault(line, contents.encoding)):
                    raise UserError(f"{contents.path}, line {number}: {wrong}")
                yield line
        except Damaged as error:
            raise UserError(
                f"{contents.path} is damaged after line {number}: {error}. Copy or download it"
                " again."
            ) from None
        except OSError as error:
            raise UserError(
                f"{contents.path} cannot be read after line {number}: {error.strerror or error}."
                " Copy it again, or to another disk."
            ) from None


def fault(line: str, encoding: str) -> str:
    """What is wrong with a line that `lines` gave tolerantly: a sentence, or '' of a good line."""
    if line.isascii():
        if "\0" in line:
            return (
                f"character {line.index(chr(0)) + 1} is a NUL, so this is no text, or the file was"
                " not written whole. Write it again."
            )
        return ""
    if encoding not in ("utf-8", "cp1252"):
        if "\N{REPLACEMENT CHARACTER}" in line:
            at = line.index("\N{REPLACEMENT CHARACTER}")
            return (
                f"character {at + 1} cannot be read as {ENCODINGS[encoding]}. Save the file again"
                " as UTF-8."
            )
        return ""
    found = re.search("[\udc80-\udcff]", line)
    if found is None:
        return fault(line.encode("ascii", "ignore").decode(), encoding) if "\0" in line else ""
    byte = ord(found[0]) - 0xDC00
    return (
        f"byte 0x{byte:02x} at character {found.start() + 1} cannot be read as"
        f" {ENCODINGS[encoding]}, as the lines before can. Save the file again as UTF-8 (Excel"
        " calls it CSV UTF-8)."
    )


class _Raw(io.RawIOBase):
    """A Stream as Python's own files, after its first bytes."""

    def __init__(self, stream: Stream, skipped: int):
        self._stream = stream
        while skipped:
            skipped -= stream.readinto(memoryview(bytearray(skipped)))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self._stream.readinto(memoryview(buffer).cast("B"))

    def close(self) -> None:
        self._stream.close()
        super().close()


def _read(stream: Stream, count: int) -> tuple[bytes, bool]:
    """The next `count` bytes, and whether the file ends before."""
    parts: list[bytes] = []
    wanted = count
    while wanted:
        buffer = bytearray(wanted)
        got = stream.readinto(memoryview(buffer))
        if not got:
            return b"".join(parts), True
        parts.append(bytes(buffer[:got]))
        wanted -= got
    return b"".join(parts), False


def of_head(path: Path, packed: str, head: bytes, ended: bool) -> Contents:
    mark, encoding = next(((m, e) for m, e in _MARKS if head.startswith(m)), (b"", ""))
    if not mark:
        if binary := signatures.of_bytes(path, packed, head):
            return Contents(path, packed, *binary)
        encoding = _unmarked(head, ended)
    if not encoding:
        described = f"no text (its first bytes are {head[:12]!r})"
        mend = "name a file of text, or save it as CSV UTF-8"
        return Contents(path, packed, "binary", described, mend)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head[len(mark) :], final=ended)
    if stand_in := signatures.of_text(text):
        return Contents(path, packed, *stand_in)
    return Contents(path, packed, "text", "", "", encoding, text, ended, len(mark))


def _unmarked(text: bytes, ended: bool) -> str:
    """The encoding of bytes without a mark; '' where they are no text."""
    if b"\0" in text:
        sample = text[: len(text) // 4 * 4][:4096]
        zeros = [sample[place::4].count(0) / max(1, len(sample) // 4) for place in range(4)]
        if zeros[0] < 0.1 and min(zeros[1:]) > 0.9:
            return "utf-32-le"
        if zeros[3] < 0.1 and min(zeros[:3]) > 0.9:
            return "utf-32-be"
        even, odd = (zeros[0] + zeros[2]) / 2, (zeros[1] + zeros[3]) / 2
        if odd > 0.5 and even < 0.1:
            return "utf-16-le"
        if even > 0.5 and odd < 0.1:
            return "utf-16-be"
    control = sum(text[:8192].count(bytes([byte])) for byte in CONTROL)
    if control > len(text[:8192]) // 100:
        return ""
    return _utf8_or_windows(text, ended)


def _utf8_or_windows(text: bytes, ended: bool) -> str:
    """UTF-8, unless bytes above 127 are there and never make a character of it.

    A file that has both is UTF-8 with a fault: its line is named when it is read.
    """
    decoded = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(text, ended)
    if decoded.isascii() or not re.search("[\udc80-\udcff]", decoded):
        return "utf-8"
    return "utf-8" if re.search("[^\0-\x7f\udc80-\udcff]", decoded) else "cp1252"


def _settle(found: Contents, head: bytes, stream: Stream) -> Contents:
    """The encoding of a file whose head is UTF-8, by the rest of it."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    characters = faults = False
    for block in itertools.chain([head], iter(lambda: _read(stream, BLOCK_BYTES)[0], b"")):
        text = decoder.decode(block)
        if not text.isascii():
            characters = characters or bool(re.search("[^\0-\x7f\udc80-\udcff]", text))
            faults = faults or bool(re.search("[\udc80-\udcff]", text))
    if not faults or characters or found.mark:
        return found
    return replace(found, encoding="cp1252")

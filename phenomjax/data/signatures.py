"""What a file that is no text is, by its first bytes: archives, Office files, images, arrays,
programs; and what stands in the place of a file that was not downloaded.
"""

import re
import zipfile
from pathlib import Path
from typing import NamedTuple

from phenomjax.data.compressed import compression_of

# first bytes of what is no text: kind, what it is, what to do
_BINARY: tuple[tuple[bytes, str, str, str], ...] = (
    (b"PAR1", "parquet", "a Parquet table", "give a file of text"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "a 7z archive", "unpack it, and name the file that was in it"),
    (b"Rar!\x1a\x07", "rar", "a RAR archive", "unpack it, and name the file that was in it"),
    (b"\x04\x22\x4d\x18", "lz4", "compressed with LZ4", "unpack it (lz4 -d)"),
    (b"\x1f\x9d", "compress", "compressed with compress (.Z)", "unpack it (gunzip)"),
    (b"LZIP\x01", "lzip", "compressed with lzip", "unpack it (lzip -d)"),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "ole",
        "an old or protected Office file (.xls, .doc)",
        "open it, and save it as .xlsx without a password, or as CSV UTF-8",
    ),
    (b"\x89HDF\r\n\x1a\n", "hdf5", "an HDF5 file (.h5, .h5ad, .hdf5)", "export it as CSV"),
    (b"ARROW1\0\0", "feather", "an Arrow or Feather file", "save it as Parquet or CSV"),
    (b"ORC", "orc", "an ORC table", "save it as Parquet or CSV"),
    (b"Obj\x01", "avro", "an Avro file", "save it as Parquet or CSV"),
    (b"SQLite format 3\0", "sqlite", "an SQLite database", "export the table as CSV"),
    (b"\x93NUMPY", "npy", "a NumPy array (.npy)", "save it as CSV"),
    (b"MATLAB 5.0 MAT-file", "mat", "a MATLAB file", "export it as CSV"),
    (b"RDX", "rdata", "an R workspace (.RData)", "save it in R with write.csv"),
    (b"RDA", "rdata", "an R workspace (.RData)", "save it in R with write.csv"),
    (b"X\n\0\0\0", "rds", "an R object (.rds)", "save it in R with write.csv"),
    (b"\x89PNG\r\n", "image", "an image (PNG)", "name a file of text"),
    (b"\xff\xd8\xff", "image", "an image (JPEG)", "name a file of text"),
    (b"GIF8", "image", "an image (GIF)", "name a file of text"),
    (b"II*\0", "image", "an image (TIFF)", "name a file of text"),
    (b"MM\0*", "image", "an image (TIFF)", "name a file of text"),
    (b"II+\0", "image", "an image (BigTIFF)", "name a file of text"),
    (b"MM\0+", "image", "an image (BigTIFF)", "name a file of text"),
    (b"\0\0\0\x0cjP", "image", "an image (JPEG 2000)", "name a file of text"),
    (b"%PDF-", "pdf", "a PDF", "ask for the table itself, or copy it into a file of text"),
    (b"{\\rtf", "rtf", "a document (RTF)", "save it as plain text"),
    (b"\x7fELF", "program", "a program", "name a file of text"),
)
_UNPACK = "unpack it, and name the file (or files) that were in it"
_MAY_BE_TEXT = frozenset({"orc", "rdata", "image"})  # when nothing binary follows
CONTROL = frozenset(range(32)) - frozenset(b"\t\n\v\f\r\x1a\x1b")


class Signature(NamedTuple):
    """What is no text.

    Attributes:
      kind: 'parquet', 'xlsx', 'zip', 'tar', 'image', ...
      described: "a zip archive".
      mend: what to do with it.
    """

    kind: str
    described: str
    mend: str


def of_bytes(path: Path, packed: str, head: bytes) -> Signature | None:
    """What the first bytes of a file say that it is; None where they may be text.

    Args:
      path: the file.
      packed: how it is compressed; '' if it is not.
      head: its first bytes, decompressed, 512 of them where there are as many.
    """
    if inner := compression_of(head):
        return Signature(inner, f"compressed twice ({packed}, in it {inner})", "unpack it once")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _of_zip(path, packed)
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return Signature("tar", "a tar archive", _UNPACK)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        described = "a Python pickle (also of old PyTorch)"
        return Signature("pickle", described, "save it as CSV or Parquet")
    control = any(byte in CONTROL for byte in head[:512])
    for magic, kind, described, mend in _BINARY:
        if head.startswith(magic) and (control or kind not in _MAY_BE_TEXT):
            return Signature(kind, described, mend)
    return None


def of_text(head: str) -> Signature | None:
    """What a text is that stands in the place of a file; None of any other."""
    begin = head[:2048].lstrip().lower()
    if begin.startswith("version https://git-lfs.github.com/spec"):
        described = "a pointer of Git LFS, not the file itself"
        return Signature("lfs", described, "get the file with 'git lfs pull'")
    if "excel.sheet" in begin or begin.startswith("<html xmlns:"):
        mend = "open it in Excel or LibreOffice, and save it as .xlsx or as CSV UTF-8"
        return Signature("spreadsheet", "a spreadsheet in XML or HTML (.xls)", mend)
    if begin.startswith(("<!doctype html", "<html")) or re.match(r"<\?xml[^>]*>\s*<html", begin):
        mend = "download the file itself (the link led to a page about it)"
        return Signature("html", "a web page", mend)
    if re.match(r"(<\?xml[^>]*>\s*)?<error>\s*<code>", begin):
        return Signature("html", "the error of a server", "download the file again")
    return None


def _of_zip(path: Path, packed: str) -> Signature:
    """Office files are zip archives too, and so are NumPy's and PyTorch's."""
    names: list[str] = []
    if not packed:
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
            names = []
    if "xl/workbook.xml" in names or (not names and ".xlsx" in path.name.lower()):
        return Signature("xlsx", "an Excel workbook", "save it as CSV")
    if "xl/workbook.bin" in names:
        mend = "open it, and save it as .xlsx or as CSV UTF-8"
        return Signature("xlsb", "a binary Excel workbook", mend)
    if "word/document.xml" in names:
        return Signature("docx", "a Word document", "save the table in it as CSV UTF-8")
    if "content.xml" in names:
        mend = "open it, and save it as .xlsx or as CSV"
        return Signature("ods", "an OpenDocument file (.ods)", mend)
    if any(name.endswith(".npy") for name in names):
        return Signature("npz", "NumPy arrays (.npz)", "save them as CSV")
    if any(name.endswith("/data.pkl") for name in names):
        return Signature("torch", "a PyTorch checkpoint", "name another file")
    inside = f" of {len(names)} file{'s' * (len(names) > 1)}, {names[0]}" if names else ""
    return Signature("zip", f"a zip archive{inside}", _UNPACK)


def _is_old_tar(head: bytes) -> bool:
    """A tar archive from before 1988 has no magic, but a checksum of its header."""
    field = head[148:156].strip(b" \0")
    if len(head) < 512 or not field or not all(48 <= byte < 56 for byte in field):
        return False
    return sum(head[:148]) + sum(head[156:512]) + 8 * 32 == int(field, 8)

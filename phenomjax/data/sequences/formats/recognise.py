"""Which format a file of sequences has: by what is in it, and by its name only where that does not
say.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phenomjax.data import text_files
from phenomjax.data.compressed import SUFFIXES, Damaged, Stream, compression
from phenomjax.data.sequences.formats.guess import guess, looks_like
from phenomjax.data.sequences.formats.refused import find_refused
from phenomjax.data.sequences.records import EXTENSIONS, PIR_HEADER, SMILES_TITLE, is_title
from phenomjax.data.sequences.streams import COMMENTS
from phenomjax.data.text_files import Contents
from phenomjax.system.errors import UserError

# what --format takes, and the usual alphabet; the readers know more kinds, which the files tell
FORMATS = {
    "fasta": "protein",
    "text": "protein",
    "named": "protein",
    "smi": "smiles",
    "csv": "smiles",
    "jsonl": "bytes",
}
WANTED = "a file of sequences (FASTA, text, SMILES, CSV, JSON lines)"
_UNPACK = {"tar": "unpack it: tar xf {path}", "zip": "unpack it: unzip {path}"}


class Unclear(UserError):
    """A file that must be read otherwise, or of which more must be said.

    Attributes:
      flags: what says it, where a command has such flags; "" where nothing does.
      after: what the file is converted into first; "" where that is not needed.
    """

    def __init__(self, message: str, flags: str = "", after: str = ""):
        super().__init__(message)
        self.flags, self.after = flags, after


def _unclear(message: str, filled: Sequence[str]) -> Unclear:
    found = guess(filled)
    if found is None:
        return Unclear(message, f"--format {', '.join(FORMATS)}")
    return Unclear(f"{message} {found.text}.", found.flags)


@dataclass(frozen=True)
class Format:
    """What a file is.

    Attributes:
      kind: fasta, pir, pearson, text, named, smi, csv, table (Parquet, .xlsx) or jsonl.
      contents: its compression, encoding and beginning.
      recode: its encoding, where its bytes cannot be read as they are; else "".
    """

    kind: str
    contents: Contents
    recode: str = ""


def look(path: Path) -> Contents:
    """Compression, encoding and beginning of a file; of a damaged one as far as it can be read.

    Raises:
      UserError: there is none, or it cannot be opened.
    """
    text_files.check_file(path)
    packed, head, ended = compression(path), bytearray(), False
    with Stream(path) as stream:
        try:
            while len(head) < text_files.HEAD_BYTES and not ended:
                buffer = bytearray(text_files.HEAD_BYTES - len(head))
                count = stream.readinto(memoryview(buffer))
                head += buffer[:count]
                ended = not count
        except Damaged:
            ended = True  # whoever reads it names the place
    return text_files.of_head(path, packed, bytes(head), ended)


def find_format(path: Path, forced: str | None = None) -> Format:
    """The format of a file.

    Args:
      path: the file.
      forced: the one that the user says it has, a name in FORMATS; that it is text at all is looked
        at nevertheless.

    Raises:
      UserError: it is something else, or neither its beginning nor its name says what it is.
    """
    contents = look(path)
    if contents.kind in ("parquet", "xlsx") and forced in (None, "csv"):
        return Format("table", contents)
    if contents.kind not in ("text", "binary") or (contents.kind == "binary" and forced is None):
        mend = _UNPACK.get(contents.kind, contents.mend).format(path=path)
        raise UserError(
            f"{path} is {contents.described}, not {WANTED}: {mend}, then name what was in it."
            if contents.kind in _UNPACK
            else f"{path} is {contents.described}, not {WANTED}: {mend}."
        )
    kind = _force(forced, contents) if forced else _tell(path, contents)
    mac = "\r" in contents.head and "\n" not in contents.head
    encoding = contents.encoding or "utf-8"
    wide = encoding not in ("utf-8", "cp1252") or (encoding == "cp1252" and kind != "fasta")
    return Format(kind, contents, encoding if wide or mac else "")


def head_lines(contents: Contents) -> list[str]:
    """The first lines of a text, the last one only if it is whole."""
    lines = contents.head.splitlines()
    return lines if contents.whole or len(lines) < 2 else lines[:-1]


def _force(forced: str, contents: Contents) -> str:
    if forced == "fasta" and contents.kind == "text":
        return _fasta_kind(head_lines(contents)) or "fasta"
    return forced


def _fasta_kind(lines: Sequence[str]) -> str:
    """fasta, pir or pearson; "" where nothing looks like a header."""
    headers = [line for line in lines if line.startswith(">")]
    if headers and PIR_HEADER.match(headers[0]):
        return "pir"
    filled = [line for line in lines if line.strip()]
    if headers:
        return "fasta"
    return "pearson" if filled and filled[0].startswith(";") and len(filled) > 1 else ""


def plain_suffix(path: Path) -> str:
    """The last suffix in lower case, that of compression aside."""
    suffixes = [one.lower() for one in path.suffixes if one.lower() not in SUFFIXES]
    return suffixes[-1] if suffixes else ""


def _tell(path: Path, contents: Contents) -> str:
    lines = head_lines(contents)
    if refused := find_refused(path, lines):
        other = "" if refused.what.startswith("FASTA") else f", not {WANTED}"
        text = f"{path} is {refused.what}{other}: {refused.mend}."
        if refused.aligned:
            raise Unclear(text, "--gaps strip", f"{path.name.split('.')[0]}.fasta")
        raise UserError(text)
    suffix = plain_suffix(path)
    named = next((kind for kind, known in EXTENSIONS.items() if suffix in known), "")
    marks = tuple(chr(mark) for mark in COMMENTS)
    filled = [line for line in lines if line.strip()]
    first = next((line for line in filled if not line.startswith(marks)), "")
    if first.startswith(">") or (filled and filled[0].startswith(";") and named != "csv"):
        return _fasta_kind(lines) or "fasta"
    if named == "fasta":
        if filled and not any(line.startswith(">") for line in lines):
            raise _unclear(
                f"{path} is named like FASTA, and none of its first lines begins with '>'.", filled
            )
        return named
    if named == "smi":
        _check_order(path, filled)
    if named and named != "text":
        return named
    if filled and _is_json(filled[0]):
        return "jsonl"
    if named == "text":
        return _text_kind(filled)
    raise _unclear(
        f"{path}: neither its name nor its beginning ({contents.head[:20]!r}) tells what format it"
        " has.",
        filled,
    )


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return line.lstrip().startswith("{")


def _text_kind(filled: Sequence[str]) -> str:
    """Of .txt and .seq: one sequence a line; a table of SMILES is told by its header."""
    words = filled[0].split() if filled else []
    if len(words) == 1 and is_title(words[0]):
        return "csv"
    if len(words) > 1 and any(SMILES_TITLE.fullmatch(word) for word in words):
        return "smi" if SMILES_TITLE.fullmatch(words[0]) and len(words) == 2 else "csv"
    return "text"


def check_words(path: Path, filled: Sequence[str]) -> None:
    """Looks whether lines are one word each, so that each can be a sequence.

    Raises:
      UserError: most are not.
    """
    if filled and is_title(filled[0]):
        raise Unclear(f"{path}: its first line is the name of a column.", "--format csv")
    if sum(len(line.split()) > 1 for line in filled) * 2 > len(filled):
        raise _unclear(
            f"{path}: its lines have several words ({filled[0][:60]!r}), of which one sequence must"
            " not be made.",
            filled,
        )


def _check_order(path: Path, filled: Sequence[str]) -> None:
    """Looks whether a .smi file has the SMILES first."""
    pairs = [words for line in filled[:200] if len(words := line.split()) > 1]
    first, second = ([words[place] for words in pairs] for place in (0, 1))
    if not pairs or looks_like(first, 0.5) == "smiles" or looks_like(second) != "smiles":
        return
    if any(SMILES_TITLE.fullmatch(word) for word in pairs[0]):
        return
    raise _unclear(
        f"{path} has names first ({filled[0][:40]!r}), and a .smi file has the SMILES first.",
        filled,
    )

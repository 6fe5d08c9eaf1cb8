"""Files of sequences: what is given on the command line, found and measured."""

import re
from dataclasses import dataclass
from pathlib import Path

from phenomjax.data.sequences import records
from phenomjax.data.sequences.streams import Damaged, Fasta, Stream, compression
from phenomjax.system import files
from phenomjax.system.errors import UserError


@dataclass(frozen=True)
class SequenceFile:
    """A file to read.

    Attributes:
      number: its place among the sources.
      path, name: where it is, and how the bank calls it.
      kind: its format.
      size: bytes.
      compressed: then it is read from its beginning by one process.
    """

    number: int
    path: Path
    name: str
    kind: str
    size: int
    compressed: bool

    @property
    def divided(self) -> bool:
        """Whether its pieces can be read in any order."""
        return self.kind == "fasta" and not self.compressed


def find_sources(paths: list[Path], kind: str | None) -> list[SequenceFile]:
    """Looks at the source files.

    Args:
      paths: of the files, in the order of the bank.
      kind: a format that is forced upon all; None: told file by file.

    Raises:
      UserError: a file is missing, named twice, a folder, or of unknown format.
    """
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path} is a folder. Name its files, for instance {path}/*.fasta.gz.")
        if not path.is_file():
            raise UserError(
                f"There is no file {path}. In {path.parent}: {files.listing(path.parent)}."
            )
        if path.resolve() in seen:
            raise UserError(
                f"{path} is named twice (the other is {seen[path.resolve()]}). Name each file once."
            )
        seen[path.resolve()] = path
    names = [path.name for path in paths]
    return [
        SequenceFile(
            number,
            path,
            path.name if names.count(path.name) == 1 else str(path),
            kind or records.find_format(path),
            path.stat().st_size,
            bool(compression(path)),
        )
        for number, path in enumerate(paths)
    ]


def first_ids(source: SequenceFile, count: int = 10_000) -> list[str]:
    """The first ids of a FASTA file; none of other formats, whose ids are options' affair."""
    if source.kind != "fasta":
        return []
    found: list[str] = []
    with Stream(source.path) as stream:
        fasta = Fasta(stream, 0, 2**20)
        try:
            for start, stop in fasta.blocks():
                text = bytes(fasta.data[start:stop]).decode("utf-8", "replace")
                headers = re.findall(r"(?:^|\n)>[ \t]*(\S+)", text)
                found += headers[: count - len(found)]
                if len(found) >= count:
                    break
        except Damaged:
            pass  # the work itself says so
    return found

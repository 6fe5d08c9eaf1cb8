"""Files of sequences: what is given on the command line, found and measured."""

import collections
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from phenomjax.data import store, zarr_files
from phenomjax.data.compressed import SUFFIXES
from phenomjax.data.divisible import BEGINNING, Start, divisible, pass_blocks
from phenomjax.data.separators import Form
from phenomjax.data.sequences.formats.letters import SAMPLE, fasta_texts
from phenomjax.data.sequences.formats.recognise import find_format, head_lines, look
from phenomjax.data.sequences.records import Record, read_records
from phenomjax.data.sequences.streams import Damaged, Recoded, Stream, compression
from phenomjax.system import files
from phenomjax.system.errors import UserError


@dataclass(frozen=True)
class SequenceFile:
    """A file to read.

    Attributes:
      number: its place among the sources.
      path, name: where it is, and how the bank calls it.
      kind: its format, see `formats.recognise.Format`.
      size: bytes.
      compressed: then it is read from its beginning by one process, unless it is `divided`.
      recode: its encoding, where it is not read byte for byte; else "".
      mark: bytes of the byte order mark, with `recode`.
      form: of CSV, how it is a table, where that was looked at.
      header: of tables, whether the first line names the columns.
      blocks: how it is compressed, if it can be read from the middle, see `divisible`.
      text: bytes of its text, where it is compressed and all its blocks are known; else 0.
      start: the last known beginning of a block before what is to be read.
    """

    number: int
    path: Path
    name: str
    kind: str
    size: int
    compressed: bool
    recode: str = ""
    mark: int = 0
    form: Form | None = None
    header: bool = True
    blocks: str = ""
    text: int = 0
    start: Start = BEGINNING

    @property
    def divided(self) -> bool:
        """Whether its pieces can be read in any order."""
        return self.kind == "fasta" and not self.recode and (not self.compressed or self.text > 0)

    @property
    def length(self) -> int:
        """Bytes of the text of a file that is divided."""
        return self.text if self.compressed else self.size

    def open(self, offset: int = 0) -> Stream | Recoded:
        """Its bytes, decompressed, as UTF-8."""
        if self.recode:
            return Recoded(self.path, self.recode, self.mark)
        if not self.compressed:
            return Stream(self.path, offset)
        start = self.start
        if self.blocks == "bgzf" and offset:
            start = pass_blocks(self.path, start, offset)
        return Stream(self.path, offset, packed=start.packed, text=start.text)

    def records(
        self,
        stream: Stream | Recoded,
        column: Sequence[str] = (),
        name: str | None = None,
        words: bool = False,
    ) -> Iterator[Record]:
        """Its records, where it is no FASTA; see `read_records`."""
        return read_records(
            self.path,
            self.kind,
            list(column),
            name,
            stream,
            form=self.form,
            header=self.header,
            words=words,
        )


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
        if store.is_remote(path):
            if not store.is_file(path):
                raise UserError(f"There is no file {store.url(path)}.{store.beside(path)}")
            whole = path
        else:
            if path.is_dir():
                raise _no_folder(path)
            if not path.is_file():
                raise UserError(f"There is no file {path}.{store.beside(path)}")
            whole = path.resolve()
        if whole in seen:
            raise UserError(
                f"{path} is named twice (the other is {seen[whole]}). Name each file once."
            )
        seen[whole] = path
    names = collections.Counter(path.name for path in paths)
    found, packings = [find_format(path, kind) for path in paths], map(compression, paths)
    for path, one in zip(paths, found, strict=True):
        if one.kind == "table" and store.is_remote(path):
            raise UserError(
                f"{store.url(path)} is a table (Parquet, .xlsx), which is read from a disk. Copy it"
                f" first: python -m phenomjax.prepare mirror {store.url(path)} {path.name}."
            )
    return [
        SequenceFile(
            number,
            path,
            path.name if names[path.name] == 1 else str(path),
            one.kind,
            store.size(path),
            bool(packed),
            one.recode,
            one.contents.mark if one.recode else 0,
            blocks=divisible(path) if packed and one.kind == "fasta" and not one.recode else "",
        )
        for number, (path, one, packed) in enumerate(zip(paths, found, packings, strict=True))
    ]


def _no_folder(path: Path) -> UserError:
    """The error of a folder that is named as a file: what is in it, or that it is a bank."""
    if kind := str(zarr_files.read_entry(path).get("format", "")).replace("_", " "):
        return UserError(
            f"{path} is no file of sequences but a result of phenomjax ({kind}). Name the files of"
            " sequences that it was made of."
        )
    there = [one for one in path.iterdir() if one.is_file() and not one.name.startswith(".")]
    packed = {one: one.stem if one.suffix.lower() in SUFFIXES else one.name for one in there}
    ends = collections.Counter(
        one.name.removeprefix(Path(name).stem) for one, name in packed.items() if one.suffix
    )
    if not ends:
        return UserError(f"{path} is a folder. Name its files. In it: {files.listing(path)}.")
    usual = ", ".join(f"{path}/*{end}" for end, _ in ends.most_common(3))
    return UserError(f"{path} is a folder. Name its files, for instance {usual}.")


def first_texts(source: SequenceFile, column: Sequence[str] = ()) -> Iterator[str]:
    """A file's first sequences as they stand there.

    Args:
      source: the file.
      column: of a table, or the fields of JSON lines.
    """
    if source.kind == "fasta":
        yield from fasta_texts(head_lines(look(source.path)))
        return
    with source.open() as stream:
        try:
            for record in itertools.islice(source.records(stream, column), SAMPLE):
                if not record.reason:
                    yield record.data.decode("latin-1")
        except Damaged:
            return  # the work itself says so


def first_ids(source: SequenceFile, count: int = 10_000) -> list[str]:
    """The first ids of a FASTA file; none of other formats, whose ids are options' affair."""
    if source.kind != "fasta":
        return []
    found: list[str] = []
    with source.open() as stream:
        buffer = memoryview(bytearray(2**20))
        try:
            while len(found) < count and (size := stream.readinto(buffer)):
                text = bytes(buffer[:size]).decode("utf-8", "replace")
                found += re.findall(r"(?:^|\n)>[ \t]*(\S+)\s", text)
        except Damaged:
            pass  # the work itself says so
    return found[:count]

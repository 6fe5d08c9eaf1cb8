"""Files that say which sequences belong together, as pairs of representative and member: MMseqs2's
table, CD-HIT's .clstr, UCLUST's .uc.
"""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from phenomjax.data.sequences.streams import Damaged, Stream, lines
from phenomjax.system.errors import UserError

ROWS, LINE_BYTES = 2**16, 2**20
COLUMNS = ("representative", "member")
# What a header calls the two columns; a file without one of these has no header.
REPRESENTATIVES = re.compile(
    r"(rep|representative|cluster|clusterrep|centroid|cent(re|er)|clu|family)(id)?"
)
MEMBERS = re.compile(r"(mem|member|seq|sequence|protein|query|target)?(id|name)?|accession|entry")
_UC = re.compile(r"[SHCNLDRX]\t\d+\t")
_CLSTR = re.compile(r"\d+\t\d+(?:aa|nt), >(.+?)\.\.\. (\*|at )")


def read_clusters(path: Path) -> Iterator[pa.RecordBatch]:
    """Batches of two columns, representative and member.

    Raises:
      UserError: no such file, or it is no cluster file.
    """
    if not path.is_file():
        raise UserError(
            f"There is no cluster file {path}. Name the ..._cluster.tsv that MMseqs2 wrote."
        )
    first = next((line for _, line in _lines(path) if line.strip()), "")
    if "\0" in first:
        raise UserError(
            f"{path} is UTF-16, or no text. If it is UTF-16, write it anew: iconv -f UTF-16"
            f" -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(f'{path.stem}_utf8{path.suffix}')}."
        )
    if first.startswith(">Cluster"):
        yield from _batches(_clstr(path))
    elif _UC.match(first):
        yield from _batches(_uc(path))
    elif first.startswith(">"):
        raise UserError(
            f"{path} is FASTA, no table of clusters. MMseqs2 writes one beside it: name the"
            " ..._cluster.tsv."
        )
    else:
        yield from _table(path, first)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line."""
    with Stream(path) as stream:
        try:
            for number, (_, line) in enumerate(lines(stream, LINE_BYTES), 1):
                yield number, line.decode("utf-8", "replace").removeprefix("\ufeff")
        except Damaged as error:
            raise UserError(f"{path} cannot be read to its end: {error}. Copy it again.") from None


def _batches(pairs: Iterator[tuple[str, str]]) -> Iterator[pa.RecordBatch]:
    for part in iter(lambda: list(itertools.islice(pairs, ROWS)), []):
        columns = [pa.array(column, pa.string()) for column in zip(*part, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, list(COLUMNS))


def _clstr(path: Path) -> Iterator[tuple[str, str]]:
    """CD-HIT: `>Cluster 0`, then a line a member; that of the representative ends with a star."""
    cluster, members, representative = "", list[str](), ""
    for number, line in itertools.chain(_lines(path), [(0, ">Cluster")]):
        if line.startswith(">Cluster"):
            if members and not representative:
                raise UserError(
                    f"{path}: {cluster[1:]} has no representative, a line that ends with '*': the"
                    " file was cut or edited. Run cd-hit again."
                )
            yield from ((representative, member) for member in members)
            cluster, members, representative = line, [], ""
        elif line.strip():
            found = _CLSTR.match(line)
            if found is None:
                raise UserError(
                    f"{path}, line {number}: {line[:60]!r} is no line of a .clstr file of CD-HIT."
                    " Run cd-hit again, with -d 0, which leaves the ids whole."
                )
            members.append(found[1])
            representative = found[1] if found[2] == "*" else representative


def _uc(path: Path) -> Iterator[tuple[str, str]]:
    """UCLUST, VSEARCH: ten columns; S is a representative, H a member of the last column's."""
    for number, line in _lines(path):
        cells = line.split("\t")
        if len(cells) != 10 and line.strip():
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns, a .uc file has 10. Write it again"
                " with `vsearch --cluster_fast in.fasta --id 0.5 --uc NAME.uc`."
            )
        if cells[0] in ("S", "H"):
            member, representative = ([*cell.split(), ""][0] for cell in cells[8:10])
            yield (member if cells[0] == "S" else representative), member


def _table(path: Path, first: str) -> Iterator[pa.RecordBatch]:
    separator = next((mark for mark in "\t,;" if mark in first), "\t")
    cells = [re.sub(r"[\W_]", "", cell).lower() for cell in first.split(separator)]
    names = list(COLUMNS)
    kinds = [REPRESENTATIVES.fullmatch, MEMBERS.fullmatch]
    header, swapped = (
        len(cells) == 2 and all(cells) and all(f(c) for f, c in zip(kinds, order, strict=True))
        for order in (cells, cells[::-1])
    )
    if swapped:
        names.reverse()
    parse = pa.csv.ParseOptions(delimiter=separator, quote_char='"' if separator != "\t" else False)
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(COLUMNS, pa.string()),
        strings_can_be_null=False,
        include_columns=COLUMNS,
    )
    read = pa.csv.ReadOptions(
        column_names=names, skip_rows=int(header or swapped), block_size=2**22
    )
    try:
        with pa.PythonFile(_Readable(path), mode="r") as file:
            yield from pa.csv.open_csv(file, read, parse, convert)
    except (pa.ArrowInvalid, Damaged) as error:
        raise UserError(
            f"{path} is not a cluster file of MMseqs2: every line must be a representative, a tab,"
            f" and a member ({error}). `mmseqs easy-linclust in.fasta NAME tmp` writes one,"
            " NAME_cluster.tsv."
        ) from None


class _Readable:
    """A stream as Arrow wants it: with `read`."""

    def __init__(self, path: Path):
        self._stream, self.closed = Stream(path), False

    def read(self, size: int) -> bytes:
        buffer = memoryview(bytearray(size))
        return bytes(buffer[: self._stream.readinto(buffer)])

    def close(self) -> None:
        self._stream.close()
        self.closed = True

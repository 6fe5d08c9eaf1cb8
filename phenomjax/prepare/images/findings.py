"""Tables of what is to be known of single files and images: rejected.parquet, remarks.parquet."""

import collections
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phenomjax.data import store
from phenomjax.prepare.images.records import Finding, ImageKey
from phenomjax.system import files

REJECTED, REMARKS = "rejected.parquet", "remarks.parquet"
# A channel, or the bank, without any picture in it: the command fails though the bank is there.
CONSTANT_CHANNEL = "constant_channel"
ROWS = 1 << 16  # of a row group


class Found(Collection[Finding]):
    """Findings in the order in which they are told, however many: files of them, and lists.

    Args:
      parts: tables that `write` wrote, and findings in memory.
    """

    def __init__(self, *parts: Path | Sequence[Finding]):
        self.parts = parts
        self.reasons: collections.Counter[str] = collections.Counter()
        for part in parts:
            self.reasons.update(
                reasons(part) if isinstance(part, Path) else (one.reason for one in part)
            )

    def __len__(self) -> int:
        return self.reasons.total()

    def __iter__(self) -> Iterator[Finding]:
        for part in self.parts:
            yield from _read(part) if isinstance(part, Path) else part

    def __contains__(self, one: object) -> bool:
        return any(one == other for other in self)

    def first(self, count: int = 1) -> list[Finding]:
        """The first few."""
        return list(itertools.islice(self, count))

    def first_of(self, *reasons: str) -> Finding | None:
        """The first of one of these reasons."""
        if not any(self.reasons[reason] for reason in reasons):
            return None
        return next(one for one in self if one.reason in reasons)

    def plus(self, *parts: Path | Sequence[Finding]) -> "Found":
        """These, and others after them."""
        return Found(*self.parts, *parts)

    def without(self, keys: Collection[ImageKey]) -> "Found":
        """These without those of some images."""
        return Found([one for one in self if one.key not in keys])


def write(path: Path, findings: Collection[Finding]) -> Path:
    """Writes experiment, plate, well, site (and time, where one has it), file, reason, detail of
    each finding.
    """
    names = [*ImageKey._fields, "file", "reason", "detail"]
    if not any(len(found.key) > 4 and found.key[4] for found in findings):
        names.remove("time")
    schema = pa.schema([(name, pa.string()) for name in names])
    waiting = iter(findings)
    with files.replacing(path, shared=True) as partial, pq.ParquetWriter(partial, schema) as writer:
        for rows in iter(lambda: list(itertools.islice(waiting, ROWS)), []):
            columns = {
                name: [found.key[i] if i < len(found.key) else None for found in rows]
                for i, name in enumerate(ImageKey._fields)
                if name in names
            }
            columns |= {name: [getattr(found, name) for found in rows] for name in names[-3:]}
            writer.write_table(pa.table(columns, schema=schema))
    return path


def write_some(path: Path, findings: Collection[Finding]) -> list[Path]:
    """The path of what was written; nothing where there are none."""
    return [write(path, findings)] if findings else []


def _read(path: Path) -> Iterator[Finding]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                key = tuple(row.get(name) for name in ImageKey._fields)
                yield Finding(row["reason"], row["detail"], row["file"], key if any(key) else ())


def counted(reasons: Iterable[str]) -> str:
    """'3 constant, 1 thumbnail' of three and one of these."""
    return ", ".join(
        f"{count} {reason}" for reason, count in collections.Counter(reasons).most_common()
    )


def reasons(path: Path) -> collections.Counter[str]:
    """How often there is which reason in such a table; none where there is no table."""
    found: collections.Counter[str] = collections.Counter()
    if store.is_file(path):
        with store.open_input(path) as opened, pq.ParquetFile(opened) as file:
            for batch in file.iter_batches(columns=["reason"]):
                for one in pc.value_counts(batch["reason"]).to_pylist():
                    found[one["values"]] += one["counts"]
    return found


def keys(path: Path) -> list[tuple[str | None, ...]]:
    """The keys of the images in such a table, [] when there is none."""
    if not path.is_file():
        return []
    rows = pq.read_table(path).to_pylist()
    return [tuple(row.get(name) for name in ImageKey._fields) for row in rows]

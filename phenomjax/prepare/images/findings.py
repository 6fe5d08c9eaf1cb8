"""Tables of what is to be known of single files and images: rejected.parquet, remarks.parquet."""

import collections
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.prepare.images.records import Finding, ImageKey
from phenomjax.system import files

REJECTED, REMARKS = "rejected.parquet", "remarks.parquet"
# A channel, or the bank, without any picture in it: the command fails though the bank is there.
CONSTANT_CHANNEL = "constant_channel"


def write(path: Path, findings: Sequence[Finding]) -> Path:
    """Writes experiment, plate, well, site (and time, where one has it), file, reason, detail of
    each finding.
    """
    keys = [
        (*found.key, *[None] * len(ImageKey._fields))[: len(ImageKey._fields)] for found in findings
    ]
    columns = {name: [key[i] for key in keys] for i, name in enumerate(ImageKey._fields)}
    if not any(columns["time"]):
        del columns["time"]
    columns |= {
        name: [getattr(found, name) for found in findings] for name in ("file", "reason", "detail")
    }
    schema = pa.schema([(name, pa.string()) for name in columns])
    with files.replacing(path) as partial:
        pq.write_table(pa.table(columns, schema=schema), partial)
    return path


def counted(reasons: Sequence[str]) -> str:
    """'3 constant, 1 thumbnail' of three and one of these."""
    return ", ".join(
        f"{count} {reason}" for reason, count in collections.Counter(reasons).most_common()
    )


def reasons(path: Path) -> list[str]:
    """The reasons in such a table, [] when there is none."""
    if not path.is_file():
        return []
    return pq.read_table(path, columns=["reason"])["reason"].to_pylist()


def keys(path: Path) -> list[tuple[str | None, ...]]:
    """The keys of the images in such a table, [] when there is none."""
    if not path.is_file():
        return []
    rows = pq.read_table(path).to_pylist()
    return [tuple(row.get(name) for name in ImageKey._fields) for row in rows]

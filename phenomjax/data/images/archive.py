"""An index of many banks: one Parquet file that says of each what opening it would, so that a run
opens thousands by reading one file, and each bank itself when an image of it is first read.

A row a bank: where it is (relative to the index where it lies below it), its images, channels,
fingerprint and tables, `array` (its images/zarr.json), `entry` (what its zarr.json says), and which
rows each plate has.
"""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data import store
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.metadata import Metadata, Runs, Table
from phenomjax.system import files
from phenomjax.system.errors import UserError

FORMAT, VERSION = "image_bank_index", 1
GROUPS = ("experiment", "plate")  # whose rows the index knows
MOST_RUNS = 2**16  # of plates in a bank; where they alternate, its own metadata is read
_TABLE = pa.struct(
    [("file", pa.string()), ("rows", pa.int64()), ("sha256", pa.string()), ("bytes", pa.int64())]
)
_RUN = pa.struct([*((name, pa.string()) for name in GROUPS), ("start", pa.int64())])
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("images", pa.int64()),
        ("channels", pa.list_(pa.string())),
        ("fingerprint", pa.string()),
        ("tables", pa.list_(_TABLE)),
        ("runs", pa.list_(_RUN)),
        ("array", pa.string()),
        ("entry", pa.string()),
    ],
    {"phenomjax": json.dumps({"format": FORMAT, "version": VERSION})},
)


class IndexedBank(ImageBank):
    """A bank of an index. Its own files are opened when an image or a column is first read; one
    that is not what the index says is an error then.

    Args:
      index: the file.
      row: of it.
    """

    def __init__(self, index: Path, row: dict):
        self._index, self._row = index, row
        remote = store.is_remote(row["path"])
        self.path = Path(os.path.normpath(row["path"] if remote else index.parent / row["path"]))
        self.array_path = self.path / "images"
        self._describe(_json(row["array"]), row["channels"])
        self.shape = (row["images"], *self.shape[1:])
        self.fingerprint = row["fingerprint"]
        self.tables = [Table(**one) for one in row["tables"]]

    @functools.cached_property
    def attributes(self) -> dict:  # type: ignore[override]
        """What the bank's zarr.json said when the index was made."""
        return json.loads(self._row["entry"])

    @functools.cached_property
    def opened(self) -> ImageBank:
        """The bank itself.

        Raises:
          UserError: it is another one than when the index was made.
        """
        bank = ImageBank(self.path)
        longer = (one["before"] for one in bank.attributes.get("appended", []))
        if self.fingerprint not in (bank.fingerprint, *longer):
            raise UserError(
                f"The bank {self.path} is not the one that the index {self._index} describes: it"
                f" had {len(self):,} images and has {len(bank):,}, and was prepared anew. Write the"
                " index again: `python -m phenomjax.prepare index BANKS --out"
                f" {self._index} --overwrite`."
            )
        return bank

    def check(self) -> None:
        """Opens it."""
        self.opened  # noqa: B018

    @property
    def array(self):
        return self.opened.array

    @functools.cached_property
    def described(self) -> Metadata:
        self.check()
        return Metadata(self.path, self.tables)  # without what was appended since

    def runs(self, columns: Sequence[str]) -> Runs:
        """Columns of the metadata as runs; those of plates are in the index."""
        runs = self._row["runs"]
        if runs is None or tuple(columns) != GROUPS[: len(columns)]:
            return super().runs(columns)
        values = [tuple(run[name] for name in columns) for run in runs]
        places = {value: place for place, value in enumerate(dict.fromkeys(values))}
        return Runs(
            np.array([run["start"] for run in runs], np.int64),
            np.array([places[value] for value in values], np.int64),
            np.arange(len(places), dtype=np.int32)[None].repeat(len(columns), axis=0),
            list(zip(*places, strict=True)) or [()] * len(columns),
        )

    def __reduce__(self):
        return type(self), (self._index, self._row)


def write_index(banks: Sequence[ImageBank], out: Path) -> None:
    """Writes an index of banks.

    Raises:
      UserError: one of them is no bank of phenomjax.
    """
    rows = []
    for bank in banks:
        if not bank.attributes:
            raise UserError(
                f"{bank.path} is read in place, and an index lists banks: make one of it with"
                " `python -m phenomjax.prepare images --layout ome-zarr`."
            )
        path, folder = (os.path.normpath(store.absolute(one)) for one in (bank.path, out.parent))
        runs = bank.runs(GROUPS)
        values = list(runs.values())
        starts = zip(runs.starts.tolist(), runs.groups.tolist(), strict=True)
        rows.append(
            {
                "path": os.path.relpath(path, folder) if path.startswith(folder + "/") else path,
                "images": len(bank),
                "channels": bank.channels,
                "fingerprint": bank.fingerprint,
                "tables": [table._asdict() for table in bank.tables],
                "runs": [
                    dict(zip(GROUPS, values[group], strict=True)) | {"start": start}
                    for start, group in starts
                ]
                if len(runs.starts) <= MOST_RUNS
                else None,
                "array": json.dumps(bank.stored),
                "entry": json.dumps(bank.attributes),
            }
        )
    with files.replacing(out) as partial:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial, compression="zstd")


def is_index(path: Path) -> bool:
    """Whether this may be an index: a Parquet file."""
    return path.suffix == ".parquet" and store.is_file(path)


def describes_banks(path: Path) -> bool:
    """Whether a Parquet file says that it is an index."""
    try:
        with store.open_input(path) as file:
            described = (pq.read_schema(file).metadata or {}).get(b"phenomjax", b"{}")
        return json.loads(described).get("format") == FORMAT
    except (pa.ArrowException, ValueError, AttributeError):
        return False


def describe(banks: Sequence[ImageBank]) -> str:
    """The banks of an index, as lines."""
    lines = [f"index of {len(banks)} banks, {sum(map(len, banks)):,} images:"]
    return "\n".join([*lines, *(f"{len(bank):9,} {store.url(bank.path)}" for bank in banks)])


def read_index(path: Path) -> list[ImageBank]:
    """The banks of an index, in its order.

    Raises:
      UserError: it is no index, damaged, or of a newer version.
    """
    try:
        with store.open_input(path) as file:
            table = pq.ParquetFile(file).read()
        described = json.loads((table.schema.metadata or {}).get(b"phenomjax", b"{}"))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no Parquet file ({error}). Write the index again.") from error
    mend = "`python -m phenomjax.prepare index BANKS --out INDEX.parquet` makes one."
    if described.get("format") != FORMAT:
        raise UserError(f"{path} is a table, but no index of banks. {mend}")
    if described.get("version") != VERSION:
        raise UserError(
            f"The index {path} has format version {described.get('version')}, this phenomjax reads"
            f" version {VERSION}. Write it again; {mend}"
        )
    return [IndexedBank(path, row) for row in table.to_pylist()]


@functools.lru_cache(maxsize=64)
def _json(text: str) -> dict:
    return json.loads(text)

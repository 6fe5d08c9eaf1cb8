"""Where features are kept while they are computed, in place and in any order, and the files that
become of them.

NAME.zarr/zarr.json           group; attributes["phenomjax"] = format, version, checkpoint, step,
                              task, pooling, dtype, …
NAME.zarr/embeddings/c.K.0    [rows, dim], uncompressed chunks of CHUNK_BYTES
NAME.zarr/offsets/c.K         per residue only: int64, protein i is
                              embeddings[offsets[i]:offsets[i + 1]]
NAME.zarr/metadata.parquet    id, length, description, source; row i describes protein i

NAME.h5, NAME.npz             one array a record under a key made of its id (`keys.of_names`)
NAME.h5.keys.csv              key, id, row, length, source of each
NAME.h5.rejected.csv          records that were rejected (of a Zarr: rejected.parquet in it)
"""

import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data import zarr_files
from phenomjax.data.sequences.flat_array import FlatWriter
from phenomjax.engine import work_folder
from phenomjax.engine.units import Notes, Unit
from phenomjax.engine.work_folder import Description
from phenomjax.inference.rows import FORMAT, VERSION, Rows
from phenomjax.inference.sequences import keys, parts
from phenomjax.inference.sequences.batches import SequenceBatch
from phenomjax.inference.sequences.queries import Queries
from phenomjax.system import files
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
FORMATS = {".zarr": "zarr", ".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz"}
REJECTED = "rejected.parquet"
SAVED = "saved"  # the note of how many batches are on the disk, beside those of units
PARTS = "parts"  # features that workers computed, until they are in their place


class FeatureStore:
    """The features of one job, in its work folder.

    Args:
      work: the folder; what is there is continued.
      queries: the sequences.
      dim, dtype: of the features.
      per_residue: one vector a residue, not one a protein.

    Attributes:
      saved: so many of the first batches are done, by units or by this program before.
    """

    def __init__(self, work: Path, queries: Queries, dim: int, dtype: str, per_residue: bool):
        self._work, self._queries, self._per_residue = work, queries, per_residue
        self.offsets = (
            np.concatenate([[0], np.cumsum(queries.lengths)])
            if per_residue
            else np.arange(len(queries) + 1)
        )
        self._notes = Notes(work)
        self.saved = self._next = (
            self._notes.read(SAVED)["batches"] if self._notes.is_committed(SAVED) else 0
        )
        self._taken = list[Path]()
        lengths = queries.lengths[queries.order]
        rows = lengths if per_residue else np.ones(len(lengths), np.int64)
        self._starts = np.concatenate([[0], np.cumsum(rows)])
        self._rows = Rows(work / "embeddings", int(self.offsets[-1]), dim, dtype)
        self._rows.create("residue" if per_residue else "protein")
        # The members of each group of equal sequences, one group after the other.
        self._members = np.argsort(queries.groups, kind="stable")
        self._bounds = np.searchsorted(
            queries.groups[self._members], np.arange(len(queries.order) + 1)
        )

    def units(self, plan: Sequence[SequenceBatch]) -> list[Unit[range]]:
        """The units of work of a plan that are not done, and their batches."""
        committed = set(self._notes.names())
        return [
            unit
            for unit in parts.named_units(plan, self._starts, self._rows.row_bytes)
            if unit.name not in committed and unit.argument.stop > self.saved
        ]

    def take(self, path: Path, plan: Sequence[SequenceBatch]) -> None:
        """Brings what a worker computed to its place; it is kept until `save`."""
        for group, features in parts.read_unit(path, plan, self._starts, self._rows.dtype):
            self.write(group, slice(None), 0, features)
        self._taken.append(path)

    def take_all(self, plan: Sequence[SequenceBatch]) -> None:
        """`take` of all that is not in its place."""
        for name in files.names(self._work / PARTS):
            if not name.startswith(files.PARTIAL):
                self.take(self._work / PARTS / name, plan)

    def write(self, group: int, columns: slice, start: int, values: np.ndarray) -> None:
        """Sets features of all proteins with the sequence number `group` in the order of work, from
        residue `start` on.
        """
        for member in self._members[self._bounds[group] : self._bounds[group + 1]]:
            self._rows.write(int(self.offsets[member]) + start, columns, values)

    def wrote(self, batch: int) -> None:
        """A batch is written, and all before it are or belong to units that are done."""
        self._next = batch + 1

    def save(self) -> None:
        """Makes sure that what was written or taken will not be lost."""
        self._rows.flush()
        if self._next > self.saved:
            self._notes.commit(SAVED, {"batches": self._next})
            self.saved = self._next
        for path in self._taken:
            files.remove(path)
        self._taken.clear()

    def finish(self, out: Path, kind: str, attributes: Description) -> None:
        """Writes the result, of a kind in FORMATS, under its name when it is whole, and removes the
        work folder.
        """
        self._rows.flush()
        self._write_lists(out, kind)
        write = {"zarr": self._write_zarr, "hdf5": self._write_hdf5, "npz": self._write_npz}[kind]
        work_folder.finish(self._work, lambda path: write(path, attributes), out)

    def _write_zarr(self, folder: Path, attributes: Description) -> None:
        """The rows' files themselves, and what they are of: nothing big is written twice."""
        q, rows = self._queries, self._rows.path
        (folder / rows.name).mkdir(parents=True)
        for name in files.names(rows):
            files.link(rows / name, folder / rows.name / name)
        if self._per_residue:
            writer = FlatWriter(folder / "offsets", "int64")
            writer.write(self.offsets)
            writer.finish("boundary")
        table = pa.table(
            {
                "id": q.names,
                "length": pa.array(q.lengths, pa.int32()),
                "description": q.descriptions,
                "source": q.sources,
            }
        )
        pq.write_table(table, folder / "metadata.parquet", compression="zstd")
        if q.rejected:
            pq.write_table(pa.Table.from_pylist(q.rejected), folder / REJECTED)
        zarr_files.write_group(folder, {"format": FORMAT, "version": VERSION, **attributes})

    def _write_hdf5(self, path: Path, attributes: Description) -> None:
        write_hdf5(path, self._by_key("hdf5"), attributes)

    def _write_npz(self, path: Path, attributes: Description) -> None:
        write_npz(path, ((key, array) for key, _, array in self._by_key("npz")))

    def _by_key(self, kind: str) -> Iterator[tuple[str, str, np.ndarray]]:
        """(key, id, [dim] or [residues, dim]) of each record."""
        names = self._queries.names.to_pylist()
        for number, (key, name) in enumerate(zip(keys.of_names(names, kind), names, strict=True)):
            values = self._rows.read(int(self.offsets[number]), int(self.offsets[number + 1]))
            yield key, name, values if self._per_residue else values[0]

    def _write_lists(self, out: Path, kind: str) -> None:
        """The keys and the rejected records beside a file that has no room for them."""
        q, listed, rejected = (
            self._queries,
            *(out.with_name(f"{out.name}.{what}.csv") for what in ("keys", "rejected")),
        )
        for path in (listed, rejected):  # of an earlier run
            files.remove(path)
        if kind == "zarr":
            return
        names = q.names.to_pylist()
        rows = zip(keys.of_names(names, kind), names, q.lengths, q.sources.to_pylist(), strict=True)
        table = [
            [key, name, i, length, source] for i, (key, name, length, source) in enumerate(rows)
        ]
        keys.write_table(listed, ["key", "id", "row", "length", "source"], table)
        if q.rejected:
            keys.write_table(rejected, list(q.rejected[0]), [list(r.values()) for r in q.rejected])


def output_format(out: Path) -> str:
    """The format of an output, by its extension.

    Raises:
      UserError: an unknown extension.
    """
    if out.suffix.lower() not in FORMATS:
        raise UserError(
            f"`out` {out} has the extension '{out.suffix}', which names no format. Use .zarr (any"
            " size), .h5 (HDF5, one dataset an id, as bio_embeddings reads) or .npz (one array an"
            " id)."
        )
    return FORMATS[out.suffix.lower()]


def rejected_of(out: Path, kind: str) -> Path:
    """The list of records that were rejected."""
    return out / REJECTED if kind == "zarr" else out.with_name(f"{out.name}.rejected.csv")


def check_ids(queries: Queries, kind: str) -> None:
    """Says how many records have the id of another.

    Raises:
      UserError: different sequences have one id, and the format finds them by it.
    """
    seen: dict[str, int] = {}
    for number, name in enumerate(queries.names.to_pylist()):
        same = seen.setdefault(name, int(queries.groups[number])) == queries.groups[number]
        if not same and kind != "zarr":
            raise UserError(
                f"Two different sequences have the id '{name}' (the second is record {number + 1}"
                f" of the sources), and readers of {kind.upper()} find an array by its id. Rename"
                " one, or write `out` NAME.zarr, which keeps all rows in the order of the files."
            )
    if repeated := len(queries) - len(seen):
        where = "a row" if kind == "zarr" else "a key"
        log.warning("%d records have the id of another; each has %s of its own", repeated, where)


def write_hdf5(
    path: Path, arrays: Iterator[tuple[str, str, np.ndarray]], attributes: Description
) -> None:
    """One dataset a record, in the layout of bio_embeddings: its attribute original_id is the id.

    Args:
      path: of the file.
      arrays: (key, id, values) of each.
      attributes: of the file.
    """
    import h5py  # here, because only this format needs it

    with h5py.File(path, "w") as file:
        for name, value in attributes.items():
            file.attrs[name] = value if isinstance(value, str | int) else json.dumps(value)
        for key, name, array in arrays:
            file.create_dataset(key, data=array).attrs["original_id"] = name.replace("\0", "_")


def write_npz(path: Path, arrays: Iterator[tuple[str, np.ndarray]]) -> None:
    """One array a key, as `np.load` reads them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)

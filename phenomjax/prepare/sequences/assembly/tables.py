"""The tables of a bank: its metadata, and the lists of what is not in it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data.sequences.bank import METADATA_SCHEMA
from phenomjax.prepare.sequences.assembly.layout import BankLayout
from phenomjax.prepare.sequences.clusters import hash_strings
from phenomjax.prepare.sequences.pieces import (
    LEFT_OUT_SCHEMA,
    REJECTED_SCHEMA,
    STRANGERS_SCHEMA,
)
from phenomjax.prepare.sequences.plan import DROPPED, PieceList, read_records, read_wanted

# Lists of records, of which those that have rows go into the bank: what the pieces call them, and
# what they are.
LISTS = {
    "rejected": ("rejected.arrow", REJECTED_SCHEMA),
    "in_no_cluster": ("strangers.arrow", STRANGERS_SCHEMA),
    "left_out": ("wanted", LEFT_OUT_SCHEMA),
}
ROW_GROUP = 2**17
MOST_IDS = 2**25  # among which equal ones are counted: the memory that a piece takes too


def _metadata(plan: PieceList, layout: BankLayout, start: int, stop: int) -> Iterator[pa.Table]:
    """The rows [start:stop] of the bank."""
    for place, first, last in layout.places(start, stop):
        split, index = divmod(place, len(plan))
        piece = plan.folder(index)
        table = read_records(piece).filter(pa.array(read_wanted(piece) == split))
        table = table.slice(first, last - first)
        source = pa.repeat(plan.names[plan.owner(index)], table.num_rows)
        yield table.select(["id", "length", "description"]).append_column("source", source)


def write_metadata(plan: PieceList, layout: BankLayout, target: Path, number: int) -> int:
    """Writes one table of the records; returns how many have an id that another one has too, among
    the first of the bank.
    """
    # Ids and descriptions are all different: a dictionary or the smallest and largest of them cost
    # time and say nothing.
    options = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": ["source"],
        "write_statistics": False,
    }
    hashes: list[np.ndarray] = []
    with pq.ParquetWriter(target, METADATA_SCHEMA, **options) as writer:
        held: list[pa.Table] = []
        rows = plan.settings.table_rows
        start, stop = number * rows, min((number + 1) * rows, int(layout.records[-1]))
        for table in _metadata(plan, layout, start, stop):
            if number == 0 and sum(map(len, hashes)) < MOST_IDS:
                hashes.append(hash_strings(table["id"].combine_chunks())[:, 0])
            held.append(table)
            if sum(part.num_rows for part in held) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(held), ROW_GROUP)
                held = []
        if held:
            writer.write_table(pa.concat_tables(held), ROW_GROUP)
    ids = np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes]))
    same = ids[1:] == ids[:-1]
    return int((np.append(same, False) | np.append(False, same)).sum()) if len(ids) else 0


def write_list(plan: PieceList, kind: str, target: Path) -> None:
    """Writes a list of LISTS that the pieces have ready."""
    name, schema = LISTS[kind]
    with pq.ParquetWriter(target, schema) as writer:
        for piece in plan.folders():
            if (piece / name).is_file():
                writer.write_table(pa.ipc.open_file(pa.memory_map(str(piece / name))).read_all())


def write_left_out(plan: PieceList, target: Path) -> None:
    """Records that stand in the bank already, or for which another of their cluster does."""
    with pq.ParquetWriter(target, LEFT_OUT_SCHEMA) as writer:
        for index, piece in enumerate(plan.folders()):
            out = read_wanted(piece) == DROPPED
            if not out.any():
                continue
            clustered = np.fromfile(piece / "wanted", np.uint8)[out] != DROPPED
            reasons = np.where(clustered, "in_other_cluster", "duplicate")
            source = pa.repeat(plan.names[plan.owner(index)], len(reasons))
            ids = read_records(piece).filter(pa.array(out))["id"]
            columns = [source, ids, pa.array(reasons, pa.string())]
            writer.write_table(pa.table(columns, schema=LEFT_OUT_SCHEMA))

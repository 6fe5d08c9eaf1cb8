"""Web servers as the source of a mirror. They list nothing: what there is, is said by a manifest
beside the folder (`planning`), or by the descriptions of a Zarr, here.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from phenomjax.data import store
from phenomjax.data.zarr_files import NAME
from phenomjax.prepare.mirror.ends.in_order import sorted_runs
from phenomjax.prepare.mirror.ends.places import Entry
from phenomjax.prepare.mirror.ends.stores import StorePlace
from phenomjax.system.errors import UserError

ASKED = 32  # requests for sizes at a time
ARRAYS = {"image_bank": ("images",), "token_bank": ("tokens", "offsets")}
# what a bank may have beside its arrays
LISTS = ("rejected.parquet", "remarks.parquet", "left_out.parquet", "in_no_cluster.parquet")
MORE = (*LISTS, "sources.json", "metadata.parquet")


class WebPlace(StorePlace):
    """A folder on a web server."""

    def entries(self, scratch: Path) -> Iterator[Entry]:
        if self.single:
            yield from super().entries(scratch)
            return
        keys, holes = self._keys()
        keys = sorted_runs(keys, str, scratch)
        with ThreadPoolExecutor(ASKED) as pool:
            while some := list(itertools.islice(keys, 20 * ASKED)):
                for key, found in zip(some, pool.map(self.entry, some), strict=True):
                    if found is not None:
                        yield found
                    elif not holes and key not in MORE:
                        yield Entry(key, 0, "", "vanished", "is not there, and the bank has it")

    def _keys(self) -> tuple[Iterator[str], bool]:
        """All that the descriptions say there is, and whether chunks may be missing."""
        top: dict[str, Any] = {}
        if store.is_file(self.path / NAME):
            top = store.read_json(self.path / NAME)
        if top.get("node_type") == "array":
            return itertools.chain([NAME], _chunks(top)), True
        entry = top.get("attributes", {}).get("phenomjax", {})
        known = top.get("consolidated_metadata") or {}
        if entry.get("format") in ARRAYS:
            arrays = {
                name: store.read_json(self.path / name / NAME) for name in ARRAYS[entry["format"]]
            }
            tables = [str(table["file"]) for table in entry.get("tables", ())]
            first = {NAME, *MORE, *tables}
        elif known:
            arrays = {n: d for n, d in known["metadata"].items() if d["node_type"] == "array"}
            first = {NAME, *(f"{name}/{NAME}" for name in known["metadata"])} - {
                f"{name}/{NAME}" for name in arrays
            }
        else:
            raise UserError(
                f"{self.name} has no list of what there is: web servers give none. Mirror it from"
                " its s3:// or gs:// address, or have its owner mirror it to where it is served,"
                f" which leaves {self.name}.manifest.parquet. Banks of phenomjax, Zarr v3 arrays,"
                " groups with consolidated metadata and single files need none."
            )
        parts = (
            itertools.chain([f"{name}/{NAME}"], (f"{name}/{key}" for key in _chunks(stored)))
            for name, stored in arrays.items()
        )
        return itertools.chain(first, *parts), not entry


def _chunks(stored: dict[str, Any]) -> Iterator[str]:
    """Names of the chunk files of a Zarr v3 array."""
    chunk = stored["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [-(-size // one) for size, one in zip(stored["shape"], chunk, strict=True)]
    encoding = stored["chunk_key_encoding"]
    old = encoding["name"] == "v2"
    separator = encoding.get("configuration", {}).get("separator", "." if old else "/")
    for index in itertools.product(*map(range, counts)):
        name = separator.join(map(str, index))
        yield (name or "0") if old else separator.join(["c", *map(str, index)])

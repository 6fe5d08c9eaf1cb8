"""Profiles in Parquet, ours and foreign ones."""

import json
from pathlib import Path

import numpy as np

from phenomjax.maps.tables.features import feature_columns
from phenomjax.maps.tables.sources import Blocks, Source, Wanted, rows_of_a_block


def open_parquet(path: Path, wanted: Wanted) -> Source:
    """Opens a Parquet file; its features are read by row groups."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    own = json.loads((schema.metadata or {}).get(b"phenomjax", b"{}"))
    frame = schema.empty_table().to_pandas()
    names = feature_columns(frame, path, wanted.features, own.get("features"))
    kept = set(names)
    others = [str(name) for name in frame.columns if name not in kept]
    metadata = pq.read_table(path, columns=others).to_pandas().reset_index(drop=True)

    def read(chosen: tuple[str, ...]) -> Blocks:
        with pq.ParquetFile(path) as file:
            size = rows_of_a_block(len(chosen))
            for batch in file.iter_batches(size, columns=list(chosen)):
                block = np.empty((batch.num_rows, len(chosen)), np.float32)
                for k, name in enumerate(chosen):
                    block[:, k] = batch.column(name).to_numpy(zero_copy_only=False)
                yield block

    return Source(path, metadata, tuple(names), own.get("provenance", {}), read)

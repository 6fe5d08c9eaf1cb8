"""Profiles in CSV and TSV, compressed or not."""

import json
from pathlib import Path

from phenomjax.maps.tables.features import feature_columns
from phenomjax.maps.tables.frames import read_frame
from phenomjax.maps.tables.sources import Blocks, Source, Wanted, rows_of_a_block
from phenomjax.maps.tables.writing import provenance_beside


def open_text(path: Path, wanted: Wanted) -> Source:
    """Reads a table of text."""
    frame = read_frame(path)
    beside = provenance_beside(path)
    own = json.loads(beside.read_text()) if beside.exists() else {}
    names = feature_columns(frame, path, wanted.features, own.get("features"))
    metadata = frame.drop(columns=names).reset_index(drop=True)
    frame = frame[names]

    def read(chosen: tuple[str, ...]) -> Blocks:
        step = rows_of_a_block(len(chosen))
        for start in range(0, len(frame), step):
            yield frame.iloc[start : start + step][list(chosen)].to_numpy("float32")

    return Source(path, metadata, tuple(map(str, names)), own.get("provenance", {}), read)

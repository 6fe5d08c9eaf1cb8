"""Embeddings folders of `phenomjax.embed` (E.zarr)."""

from pathlib import Path

from phenomjax.data.embeddings import embeddings_record, open_array, stored_blocks
from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.profiles import Record, feature_names
from phenomjax.maps.tables.sources import Blocks, Source, columns_of
from phenomjax.system.errors import UserError

WIDEST = 2**20  # numbers of a profile


def open_embeddings(path: Path, block: int | None) -> Source:
    """E.zarr of `phenomjax.embed`: `embeddings`, or `embeddings_block_K` for several blocks."""
    import pandas as pd

    record = embeddings_record(path)
    there = stored_blocks(path)
    if block is None and None not in there and len(there) == 1:
        block = there[0]
    name = f"embeddings_block_{block}" if block in there and block is not None else "embeddings"
    if None not in there and block not in there:
        raise UserError(
            f"{path} holds the blocks {', '.join(map(str, there))}. Choose one: `block`"
            f" {there[-1]}."
        )
    if None in there and block is not None and list(record.get("blocks", [block])) != [block]:
        raise UserError(
            f"{path} holds the embeddings of block {record.get('blocks')}, not of {block}. Leave"
            " `block` out, or embed again."
        )
    array, metadata = open_array(path / name), pd.read_parquet(path / "metadata.parquet")
    if array.ndim != 2 or array.shape[1] > WIDEST or array.shape[0] != len(metadata):
        raise UserError(
            f"{path}: embeddings of shape {tuple(array.shape)}, but {len(metadata)} rows of"
            " metadata. It is incomplete or damaged: run its phenomjax.embed again."
        )
    keys = (
        "checkpoint",
        "checkpoint_fingerprint",
        "step",
        "random_weights",
        "statistics",
        "statistics_by",
        "control_weight",
        "bank",
        "bank_fingerprint",
        "level",
        "runtime",
        "precision",
    )
    source = {
        "path": path.name,
        "block": block,
        **{key: record[key] for key in keys if key in record},
    }
    names = feature_names(array.shape[1])

    def read(chosen: tuple[str, ...]) -> Blocks:
        blocks = (array[some].read().result() for some in scratch.blocks(*array.shape))
        return columns_of(blocks, names, chosen)

    provenance: Record = {"sources": [source], "steps": []}
    return Source(path, metadata.reset_index(drop=True), names, provenance, read)

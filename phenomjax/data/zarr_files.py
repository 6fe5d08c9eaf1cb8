"""The zarr.json of our groups and arrays (Zarr v3), written in one place so that banks keep their
bytes: TensorStore's own would order keys otherwise and leave out names of dimensions.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phenomjax.system import files

NAME = "zarr.json"
UNFINISHED = ".prepare"  # a folder in a bank that `phenomjax.prepare` has not finished
Codec = dict[str, Any]
Attributes = dict[str, Any]  # what our groups say of themselves, as JSON has it


def bytes_codec(dtype: np.dtype) -> Codec:
    """Numbers as they are, little-endian."""
    if dtype.itemsize == 1:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "little"}}


def write_array(
    folder: Path,
    shape: Sequence[int],
    dtype: np.dtype,
    dimensions: Sequence[str],
    chunk: Sequence[int],
    codecs: Sequence[Codec] | None = None,
) -> Path:
    """Describes an array whose chunks are files c.I.J… in its folder; returns the zarr.json.

    Args:
      folder: of the array; made.
      shape, dtype: of it.
      dimensions: a name each.
      chunk: shape of a chunk file.
      codecs: of a chunk; None: `bytes_codec` alone.
    """
    description = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [int(size) for size in shape],
        "data_type": dtype.name,
        "dimension_names": list(dimensions),
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [int(size) for size in chunk]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": list(codecs or [bytes_codec(dtype)]),
        "attributes": {},
    }
    return files.write_json(folder / NAME, description)


def write_group(folder: Path, entry: Mapping[str, object]) -> Path:
    """Describes a group; `entry` becomes its attributes["phenomjax"]."""
    description = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"phenomjax": dict(entry)},
    }
    return files.write_json(folder / NAME, description)


def read_entry(folder: Path) -> Attributes:
    """The attributes["phenomjax"] of a group; {} where there is none.

    Raises:
      UserError: the zarr.json is damaged.
    """
    path = folder / NAME
    group = files.read_json(path) if path.is_file() else {}
    return (group.get("attributes") or {}).get("phenomjax") or {}


def fingerprint(paths: Sequence[Path]) -> str:
    """sha256 of the contents of files, in order."""
    return hashlib.sha256(
        b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)
    ).hexdigest()

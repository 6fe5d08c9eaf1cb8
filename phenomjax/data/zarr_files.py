"""The zarr.json of our groups and arrays (Zarr v3), written in one place so that banks keep their
bytes: TensorStore's own would order keys otherwise and leave out names of dimensions.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phenomjax.data import store
from phenomjax.system import files
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import tensorstore as ts

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
    group = store.read_json(path) if store.is_file(path) else {}
    entry = group
    for key in ("attributes", "phenomjax"):
        entry = entry.get(key) or {}
        if not isinstance(entry, dict):
            raise UserError(
                f"{path} has {key!r} that is no object but a {type(entry).__name__}: it is damaged."
                " Copy the folder again."
            )
    return entry


def expect(entry: Attributes, **kinds: type | tuple[type, ...]) -> None:
    """Raises ValueError for attributes of another kind than this; null and absent are allowed."""
    for key, kind in kinds.items():
        value = entry.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{key} is {value!r:.60}")


@contextlib.contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Makes a UserError of what a bank with a damaged description raises."""
    try:
        yield
    except UserError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"The bank {folder} cannot be opened: a file that describes it is missing or damaged"
            f" ({type(error).__name__}: {first[:300]}). Copy the bank again, or run the command"
            " that made it again."
        ) from error


def fingerprint(paths: Sequence[Path]) -> str:
    """sha256 of the contents of files, in order."""
    return hashlib.sha256(
        b"".join(hashlib.sha256(store.read_bytes(path)).digest() for path in paths)
    ).hexdigest()


def open_array(path: str | Path, stored: dict, **options) -> "ts.TensorStore":
    """Opens a Zarr v2 or v3 array lazily; `stored` is its metadata, `options` go into TensorStore's
    spec.
    """
    import tensorstore as ts

    driver = "zarr" if stored.get("zarr_format") == 2 else "zarr3"
    spec = {
        "driver": driver,
        "kvstore": store.kvstore(path),
        "recheck_cached_data": "open",
    }
    return ts.open(spec | options, open=True).result()

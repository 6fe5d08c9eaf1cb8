"""What an embeddings folder of `phenomjax.embed` (E.zarr) holds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import tensorstore


def embeddings_record(path: Path) -> dict[str, Any]:
    """What an embeddings folder says of itself.

    Raises:
      UserError: the folder holds no embeddings.
    """
    try:
        record = json.loads((path / "zarr.json").read_text())["attributes"]["phenomjax"]
        assert record["format"] == "embeddings"
        return record
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise UserError(
            f"{path} is a folder, but holds no embeddings (no zarr.json with the format"
            " 'embeddings'). Profiles come from 'python -m phenomjax.embed --checkpoint DIR --bank"
            f" B.zarr --out {path.stem or 'E'}.zarr', or from a .parquet, .csv or .h5ad file."
        ) from None


def stored_blocks(path: Path) -> list[int | None]:
    """The encoder blocks whose embeddings a folder holds, ascending; [None] where it is one unnamed
    array.
    """
    found = sorted(
        int(p.name.rsplit("_", 1)[1])
        for p in path.glob("embeddings_block_*")
        if p.name.rsplit("_", 1)[1].isdigit()
    )
    return [*found] if found else [None]


def open_array(path: Path) -> "tensorstore.TensorStore":
    """One Zarr v3 array, lazily (tensorstore)."""
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path.resolve()}/"}}
    try:
        return tensorstore.open(spec, open=True, read=True).result()
    except ValueError as error:
        raise UserError(
            f"{path} cannot be opened as an array ({str(error)[:150]}). Run the phenomjax.embed"
            " that wrote it again."
        ) from None

"""Profiles from the field's formats: an embeddings folder of `phenomjax.embed` (E.zarr), Parquet,
CSV (.csv, .csv.gz: CellProfiler, pycytominer) and AnnData (.h5ad).

Which columns of a foreign table are features: those matching --features REGEX; else those named as
ours (feature_0000); else, in a table with Metadata_ columns, all other numeric columns.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from phenomjax.data.tables import plain_name
from phenomjax.maps.tables.frames import read_frame
from phenomjax.maps.tables.profiles import Profiles, Record, feature_names
from phenomjax.maps.tables.writing import provenance_beside
from phenomjax.system.errors import UserError
from phenomjax.system.files import sha256

if TYPE_CHECKING:
    import pandas as pd
    import tensorstore

# What libraries raise that meet a damaged file.
DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    *(ArithmeticError, AssertionError),
)
WIDEST = 2**20  # numbers of a profile
OURS = re.compile(r"feature_\d+")


def read(
    paths: str | Path | Sequence[str | Path],
    *,
    block: int | None = None,
    features_regex: str | None = None,
) -> Profiles:
    """Reads profiles; several files are concatenated, row after row.

    Args:
      paths: E.zarr, .parquet, .csv[.gz] or .h5ad.
      block: which encoder block's embeddings, where E.zarr holds several.
      features_regex: the feature columns of a table, a regular expression for the whole name.

    Raises:
      UserError: a file that cannot be read, or files whose features are not the same.
    """
    import pandas as pd

    files = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    parts = [_read_one(path, block, features_regex) for path in files]
    first = parts[0]
    for path, part in zip(files[1:], parts[1:], strict=True):
        _require_same_features(files[0], first, path, part)
    if len(parts) == 1:
        return first
    features = np.concatenate([_in_order(part, first.names) for part in parts])
    metadata = pd.concat([part.metadata for part in parts], ignore_index=True)
    provenance = {
        "sources": [source for part in parts for source in part.provenance.get("sources", [])],
        "steps": [],
    }
    if any(part.provenance.get("steps") for part in parts):
        provenance["steps"] = [
            {"command": "concatenate", "of": [part.provenance.get("steps", []) for part in parts]}
        ]
    return Profiles(features, metadata, first.names, provenance)


def _in_order(part: Profiles, names: tuple[str, ...]) -> Float32[np.ndarray, "rows dim"]:
    if part.names == names:
        return part.features
    place = {name: k for k, name in enumerate(part.names)}
    return part.features[:, [place[name] for name in names]]


def _require_same_features(path: Path, first: Profiles, other_path: Path, other: Profiles) -> None:
    if set(first.names) == set(other.names):
        return
    missing, more = (
        sorted(set(first.names) - set(other.names)),
        sorted(set(other.names) - set(first.names)),
    )
    raise UserError(
        f"{path} has {len(first.names)} features and {other_path} has {len(other.names)};"
        f" {len(missing)} are only in the first"
        f" ({', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}) and {len(more)} only in the"
        f" second ({', '.join(more[:3])}{' …' if len(more) > 3 else ''}). Profiles of one map come"
        " from the same model and block, or from one feature selection: embed all plates with the"
        " same checkpoint and block, or choose common columns with `features` REGEX."
    )


def _read_one(path: Path, block: int | None, features_regex: str | None) -> Profiles:
    if not path.exists():
        raise UserError(
            f"There are no profiles at {path}. Give an embeddings folder (E.zarr), or a .parquet,"
            " .csv or .h5ad file."
        )
    name = path.name.lower()
    try:
        if path.is_dir():
            return _read_embeddings(path, block)
        if name.endswith(".h5ad"):
            profiles = _read_anndata(path, features_regex)
        elif name.endswith(".parquet") or plain_name(path).endswith((".csv", ".tsv", ".txt")):
            profiles = _read_table(path, features_regex)
        else:
            raise UserError(
                f"{path} has no known format. Profiles are read from E.zarr, .parquet, .csv, .tsv,"
                " .txt (compressed, too) or .h5ad."
            )
    except DAMAGE as error:
        raise UserError(
            f"{path} cannot be read as profiles ({type(error).__name__}: {str(error)[:200]}). It"
            " may be cut off or of another format; copy it again, and look at its first lines."
        ) from None
    if not len(profiles):
        raise UserError(f"{path} holds no rows. Write it again.")
    if profiles.provenance.get("sources"):
        return profiles
    return replace(
        profiles,
        provenance={
            **profiles.provenance,
            "sources": [{"path": path.name, "sha256": sha256(path)}],
        },
    )


def _read_embeddings(path: Path, block: int | None) -> Profiles:
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
    features = array.read().result()
    keys = (
        "checkpoint",
        "checkpoint_fingerprint",
        "step",
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
    features = np.asarray(features, np.float32)
    return Profiles(
        features,
        metadata.reset_index(drop=True),
        feature_names(features.shape[1]),
        {"sources": [source], "steps": []},
    )


def embeddings_record(path: Path) -> Record:
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


def _read_table(path: Path, features_regex: str | None) -> Profiles:

    provenance: Record = {}
    recorded: list[str] | None = None
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        own = json.loads((table.schema.metadata or {}).get(b"phenomjax", b"{}"))
        provenance, recorded = own.get("provenance", {}), own.get("features")
        frame = table.to_pandas()
    else:
        frame = read_frame(path)
        beside = provenance_beside(path)
        if beside.exists():
            own = json.loads(beside.read_text())
            provenance, recorded = own.get("provenance", {}), own.get("features")
    names = feature_columns(frame, path, features_regex, recorded)
    features = np.ascontiguousarray(frame[names].to_numpy(np.float32))
    return Profiles(
        features,
        frame.drop(columns=names).reset_index(drop=True),
        tuple(map(str, names)),
        provenance,
    )


def feature_columns(
    frame: "pd.DataFrame", path: Path, features_regex: str | None, recorded: list[str] | None = None
) -> list[str]:
    """Which columns of a table are features (see the first lines of this file).

    Raises:
      UserError: none are, or --features names a column that holds no numbers.
    """
    columns = [str(name) for name in frame.columns]
    numeric = set(frame.select_dtypes("number").columns)
    if features_regex is not None:
        try:
            chosen = [name for name in columns if re.fullmatch(features_regex, name)]
        except re.error as error:
            raise UserError(
                f"`features` {features_regex!r} is no regular expression ({error}). Example:"
                " `features` 'Cells_.*|Nuclei_.*'."
            ) from None
        text = [name for name in chosen if name not in numeric]
        if text:
            raise UserError(
                f"`features` {features_regex!r} matches '{text[0]}' of {path}, which holds no"
                " numbers. Write a narrower expression."
            )
    elif recorded and set(recorded) <= set(columns):
        chosen = recorded
    elif any(OURS.fullmatch(name) for name in columns):
        chosen = [name for name in columns if OURS.fullmatch(name)]
    elif any(name.startswith("Metadata_") for name in columns):
        chosen = [name for name in columns if not name.startswith("Metadata_") and name in numeric]
    else:
        chosen = []
    if not chosen:
        raise UserError(
            f"No column of {path} is known to be a feature: they are named neither feature_0000 …"
            " nor, beside Metadata_ columns, as of CellProfiler; there are:"
            f" {', '.join(columns[:12])}{' …' if len(columns) > 12 else ''}. Name them with"
            " `features` REGEX."
        )
    return chosen


def _read_anndata(path: Path, features_regex: str | None) -> Profiles:
    import anndata

    try:
        data = anndata.read_h5ad(path)
    except Exception as error:  # its own errors are of no common kind
        raise ValueError(str(error)) from error
    own = json.loads(data.uns["phenomjax"]) if isinstance(data.uns.get("phenomjax"), str) else {}
    values = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    names = [str(name) for name in data.var_names]
    if features_regex is not None:
        kept = [k for k, name in enumerate(names) if re.fullmatch(features_regex, name)]
        names, values = [names[k] for k in kept], values[:, kept]
    metadata = data.obs.reset_index(drop=True)
    for name in metadata.columns[metadata.dtypes == "category"]:
        metadata[name] = metadata[name].astype(object)
    return Profiles(
        np.ascontiguousarray(values, np.float32), metadata, tuple(names), own.get("provenance", {})
    )

"""Profiles from the field's formats: an embeddings folder of `phenomjax.embed` (E.zarr), Parquet,
CSV (.csv, .csv.gz: CellProfiler, pycytominer) and AnnData (.h5ad).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from phenomjax.data.tables import plain_name
from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.formats.annotated import open_anndata
from phenomjax.maps.tables.formats.embeddings import open_embeddings
from phenomjax.maps.tables.formats.parquet import open_parquet
from phenomjax.maps.tables.formats.texts import open_text
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.sources import DAMAGE, EVERYTHING, Source, Wanted, damaged
from phenomjax.system.errors import UserError
from phenomjax.system.files import sha256
from phenomjax.system.log import Progress


def read(
    paths: str | Path | Sequence[str | Path],
    wanted: Wanted = EVERYTHING,
    folder: Path | None = None,
) -> Profiles:
    """Reads profiles; several files are concatenated, row after row.

    Args:
      paths: E.zarr, .parquet, .csv[.gz] or .h5ad.
      wanted: what of them.
      folder: for features that are larger than memory should hold, while they are used; always in
        memory where None.

    Raises:
      UserError: a file that cannot be read, or files whose features are not the same.
    """
    import pandas as pd

    files = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    sources = [open_source(path, wanted) for path in files]
    first = sources[0]
    for source in sources[1:]:
        _require_same_features(first, source)
    features = _collect(sources, first.names, folder)
    if len(sources) == 1:
        return Profiles(features, first.metadata, first.names, first.provenance)
    metadata = pd.concat([source.metadata for source in sources], ignore_index=True)
    provenance = {
        "sources": [one for source in sources for one in source.provenance.get("sources", [])],
        "steps": [],
    }
    if any(source.provenance.get("steps") for source in sources):
        steps = [source.provenance.get("steps", []) for source in sources]
        provenance["steps"] = [{"command": "concatenate", "of": steps}]
    return Profiles(features, metadata, first.names, provenance)


def _collect(
    sources: Sequence[Source], names: tuple[str, ...], folder: Path | None
) -> Float32[np.ndarray, "rows dim"]:
    """The features of all sources, one after the other, float32 [rows, dim]."""
    rows = sum(len(source.metadata) for source in sources)
    features, start = scratch.empty(rows, len(names), folder), 0
    bar = Progress("read", rows, "rows")
    for source in sources:
        for block in source.blocks(names):
            features[start : start + len(block)] = block
            start += len(block)
            if scratch.is_mapped(features):
                scratch.release(features)
                bar.update(len(block))
    return features


def _require_same_features(first: Source, other: Source) -> None:
    if set(first.names) == set(other.names):
        return
    missing, more = (
        sorted(set(first.names) - set(other.names)),
        sorted(set(other.names) - set(first.names)),
    )
    raise UserError(
        f"{first.path} has {len(first.names)} features and {other.path} has {len(other.names)};"
        f" {len(missing)} are only in the first"
        f" ({', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}) and {len(more)} only in the"
        f" second ({', '.join(more[:3])}{' …' if len(more) > 3 else ''}). Profiles of one map come"
        " from the same model and block, or from one feature selection: embed all plates with the"
        " same checkpoint and block, or choose common columns with `features` REGEX."
    )


def open_source(path: Path, wanted: Wanted) -> Source:
    """Opens one file of profiles; its features are read later.

    Raises:
      UserError: no such file, no known format, no features, no rows, or it is damaged.
    """
    if not path.exists():
        raise UserError(
            f"There are no profiles at {path}. Give an embeddings folder (E.zarr), or a .parquet,"
            " .csv or .h5ad file."
        )
    name = path.name.lower()
    try:
        if path.is_dir():
            source = open_embeddings(path, wanted.block)
        elif name.endswith(".h5ad"):
            source = open_anndata(path, wanted)
        elif name.endswith(".parquet"):
            source = open_parquet(path, wanted)
        elif plain_name(path).endswith((".csv", ".tsv", ".txt")):
            source = open_text(path, wanted)
        else:
            raise UserError(
                f"{path} has no known format. Profiles are read from E.zarr, .parquet, .csv, .tsv,"
                " .txt (compressed, too) or .h5ad."
            )
    except DAMAGE as error:
        raise damaged(path, error) from None
    if not len(source.metadata):
        raise UserError(f"{path} holds no rows. Write it again.")
    if source.provenance.get("sources"):
        return source
    sources = [{"path": path.name, "sha256": sha256(path)}]
    return replace(source, provenance={**source.provenance, "sources": sources})

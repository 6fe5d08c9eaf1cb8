"""AnnData (.h5ad)."""

import json
import re
from pathlib import Path

import numpy as np

from phenomjax.maps.tables.sources import Blocks, Source, Wanted, slices


def open_anndata(path: Path, wanted: Wanted) -> Source:
    """Reads an .h5ad whole; its X are the features."""
    import anndata

    try:
        data = anndata.read_h5ad(path)
    except Exception as error:  # its own errors are of no common kind
        raise ValueError(str(error)) from error
    own = json.loads(data.uns["phenomjax"]) if isinstance(data.uns.get("phenomjax"), str) else {}
    values = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    values = np.ascontiguousarray(values, np.float32)
    there = [str(name) for name in data.var_names]
    place = {name: k for k, name in enumerate(there)}
    names = there
    if wanted.features is not None:
        names = [name for name in there if re.fullmatch(wanted.features, name)]
    metadata = data.obs.reset_index(drop=True)
    for name in metadata.columns[metadata.dtypes == "category"]:
        metadata[name] = metadata[name].astype(object)

    def read(chosen: tuple[str, ...]) -> Blocks:
        return slices(values, [place[name] for name in chosen])

    return Source(path, metadata, tuple(names), own.get("provenance", {}), read)

"""Profiles to the field's formats: Parquet, CSV and AnnData, with the provenance inside (Parquet:
schema metadata; AnnData: uns["phenomjax"]) or, for CSV, in NAME.provenance.json.
"""

import json
from pathlib import Path

from phenomjax.maps.tables.profiles import Profiles
from phenomjax.system.errors import UserError
from phenomjax.system.files import replacing, write_text

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".h5ad")


def provenance_beside(path: Path) -> Path:
    """Where the provenance of a CSV is."""
    name = path.name
    for suffix in SUFFIXES[::-1]:
        name = name.removesuffix(suffix)
    return path.with_name(f"{name}.provenance.json")


def check_out(path: str | Path) -> Path:
    """The path of an output, whose format must be known before hours of work.

    Raises:
      UserError: the suffix names no format.
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise UserError(
            f"`out` {path} has a suffix that names no format. Profiles are written as"
            f" {', '.join(SUFFIXES)}."
        )
    return path


def write(profiles: Profiles, path: str | Path) -> None:
    """Writes profiles as .parquet, .csv[.gz] or .h5ad: a reader sees the old file or the new one,
    never a part.
    """
    import pandas as pd

    path = check_out(path)
    own = json.dumps(
        {"features": list(profiles.names), "provenance": profiles.provenance},
        ensure_ascii=False,
        default=str,
    )
    with replacing(path, shared=True) as part:
        if path.name.endswith(".h5ad"):
            _write_anndata(profiles, own, part)
            return
        features = pd.DataFrame(profiles.features, columns=list(profiles.names))
        frame = pd.concat([profiles.metadata.reset_index(drop=True), features], axis=1)
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pa.Table.from_pandas(frame, preserve_index=False)
            kept = {**(table.schema.metadata or {}), b"phenomjax": own.encode()}
            pq.write_table(table.replace_schema_metadata(kept), part, compression="zstd")
        else:
            frame.to_csv(part, index=False)
            write_text(provenance_beside(path), own)


def _write_anndata(profiles: Profiles, own: str, path: Path) -> None:
    import anndata
    import pandas as pd

    obs = profiles.metadata.copy()
    for name in obs.columns[
        [pd.api.types.is_object_dtype(dtype) for dtype in obs.dtypes]
    ]:  # HDF5 stores no mixed objects
        obs[name] = (
            obs[name].map(lambda value: None if pd.isna(value) else str(value)).astype("category")
        )
    obs.index = obs.index.astype(str)
    data = anndata.AnnData(
        X=profiles.features,
        obs=obs,
        var=pd.DataFrame(index=list(profiles.names)),
        uns={"phenomjax": own},
    )
    data.write_h5ad(path)

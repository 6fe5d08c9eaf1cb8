"""Profiles to the field's formats: Parquet, CSV and AnnData, with the provenance inside (Parquet:
schema metadata; AnnData: uns["phenomjax"]) or, for CSV, in NAME.provenance.json.
"""

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.system.errors import UserError
from phenomjax.system.files import remove_of_killed, replacing, write_text

if TYPE_CHECKING:
    import pandas as pd

ROW_GROUP_VALUES = 2**22  # numbers of a row group of Parquet: 16 MiB
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".h5ad")


def provenance_beside(path: Path) -> Path:
    """Where the provenance of a CSV is."""
    name = path.name
    for suffix in SUFFIXES[::-1]:
        name = name.removesuffix(suffix)
    return path.with_name(f"{name}.provenance.json")


def check_out(path: str | Path, others: tuple[str, ...] = ()) -> Path:
    """The path of an output, whose format must be known before hours of work.

    Args:
      path: of a user.
      others: suffixes that the command writes itself.

    Raises:
      UserError: the suffix names no format.
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES + others):
        raise UserError(
            f"`out` {path} has a suffix that names no format. Profiles are written as"
            f" {', '.join(SUFFIXES + others)}."
        )
    return path


def write(profiles: Profiles, path: str | Path) -> None:
    """Writes profiles as .parquet, .csv[.gz] or .h5ad, block by block: a reader sees the old file
    or the new one, never a part.
    """
    path = check_out(path)
    own = provenance_of(profiles)
    remove_of_killed(path)
    with replacing(path, shared=True) as part:
        if path.name.endswith(".h5ad"):
            _write_anndata(profiles, own, part)
        elif path.suffix == ".parquet":
            _write_parquet(profiles, own, part)
        else:
            _write_text(profiles, part)
            write_text(provenance_beside(path), own)


def provenance_of(profiles: Profiles) -> str:
    """What is written beside profiles: the names of their features, and what was done, as JSON."""
    return json.dumps(
        {"features": list(profiles.names), "provenance": profiles.provenance},
        ensure_ascii=False,
        default=str,
    )


def observations(metadata: "pd.DataFrame") -> "pd.DataFrame":
    """What is known of the rows as an AnnData's obs: it stores neither mixed objects nor dates."""
    import pandas as pd

    obs = metadata.copy()
    for name, dtype in obs.dtypes.items():
        if not (pd.api.types.is_numeric_dtype(dtype) or isinstance(dtype, pd.CategoricalDtype)):
            obs[name] = obs[name].map(str, na_action="ignore").astype("category")
    obs.index = obs.index.astype(str)
    return obs


def _write_parquet(profiles: Profiles, own: str, path: Path) -> None:
    """In row groups of a bounded size, so that readers need not hold the table either."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = pa.Table.from_pandas(_of_one_kind(profiles.metadata), preserve_index=False)
    schema = metadata.schema
    for name in profiles.names:
        schema = schema.append(pa.field(name, pa.float32()))
    schema = schema.with_metadata({**(schema.metadata or {}), b"phenomjax": own.encode()})
    # words repeat and are told by numbers; features do not repeat
    options = {"compression": "zstd", "use_dictionary": metadata.column_names}
    size = max(1, ROW_GROUP_VALUES // max(1, len(profiles.names)))
    with pq.ParquetWriter(path, schema, **options) as writer:
        for start in range(0, len(profiles), size):
            values = np.ascontiguousarray(profiles.features[start : start + size].T)
            scratch.release(profiles.features)
            features = [pa.array(column) for column in values]
            known = metadata.slice(start, size).combine_chunks().columns
            columns = [*known, *features]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=size)


def _of_one_kind(metadata: "pd.DataFrame") -> "pd.DataFrame":
    """Columns of several kinds (plates named 7 in one file and P8 in another) as text."""
    import pandas as pd

    metadata = metadata.reset_index(drop=True)
    for name in metadata.select_dtypes(object).columns:
        if pd.api.types.infer_dtype(metadata[name], skipna=True).startswith("mixed"):
            metadata[name] = metadata[name].map(str, na_action="ignore")
    return metadata


def _write_text(profiles: Profiles, path: Path) -> None:
    import pandas as pd

    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8", newline="") as text:
        for rows in scratch.blocks(*profiles.features.shape):
            features = pd.DataFrame(profiles.features[rows], columns=list(profiles.names))
            known = profiles.metadata.iloc[rows].reset_index(drop=True)
            pd.concat([known, features], axis=1).to_csv(text, index=False, header=rows.start == 0)
            scratch.release(profiles.features)


def _write_anndata(profiles: Profiles, own: str, path: Path) -> None:
    import anndata
    import h5py
    import pandas as pd

    data = anndata.AnnData(
        obs=observations(profiles.metadata),
        var=pd.DataFrame(index=list(profiles.names)),
        uns={"phenomjax": own},
    )
    data.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file.pop("X", None)  # as it marks that there is none
        values = file.create_dataset("X", profiles.features.shape, np.float32)
        values.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for rows in scratch.blocks(*profiles.features.shape):
            values[rows] = profiles.features[rows]
            scratch.release(profiles.features)

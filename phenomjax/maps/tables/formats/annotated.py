"""AnnData (.h5ad, or in Zarr, also as a table of a SpatialData): X, a layer or an array of obsm,
read by slices from the file.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phenomjax.data.images.ngff.metadata_files import attributes
from phenomjax.maps.tables.formats.features import by_name
from phenomjax.maps.tables.sources import Blocks, Source, Wanted, apart, columns_of, noted, slices
from phenomjax.system.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

Group = Any  # a file of HDF5 or a group of zarr-python, which are asked alike
PICTURE = 3  # an array of obsm of so few columns is a UMAP or the like, or a place on the slide


def in_zarr(path: Path) -> Path | None:
    """The AnnData that a folder is; of a SpatialData its table, or the one called profiles; None
    for other folders.

    Raises:
      UserError: a SpatialData of several tables, or of none.
    """
    said = attributes(path)
    if said.get("encoding-type") == "anndata":
        return path
    if "spatialdata_attrs" not in said:
        return None
    tables = sorted(table.parent for table in path.glob("tables/*/obs"))
    if [table.name for table in tables].count("profiles"):
        return path / "tables" / "profiles"
    if len(tables) == 1:
        return tables[0]
    offered = " or ".join(f"`profiles` {table}" for table in tables)
    raise UserError(
        f"{path} is a SpatialData of {len(tables)} tables. Name the one that holds the profiles"
        f"{f': {offered}' if tables else ', of another folder'}."
    )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Group]:
    if path.is_dir():
        import zarr

        yield zarr.open_group(path, mode="r")
    else:
        import h5py

        with h5py.File(path) as file:
            yield file


def open_anndata(path: Path, wanted: Wanted) -> Source:
    """Opens an .h5ad; the features are its X, or what `layer` or `obsm` names. Where X is empty and
    there is one other array, that one.

    Raises:
      UserError: no such layer or array, or several of which one is to be chosen.
      ValueError: the file is damaged.
    """
    try:
        return _opened(path, wanted)
    except UserError:
        raise
    except Exception as error:  # its own errors are of no common kind
        raise ValueError(str(error)) from error


def _opened(path: Path, wanted: Wanted) -> Source:
    from anndata.io import read_elem

    with _open(path) as file:
        obs = _metadata(read_elem(file["obs"]))
        key, said = _choose(file, path, wanted)
        raw = _names(file, key)
        columns = apart(raw)
        text = read_elem(file["uns/phenomjax"]) if "uns/phenomjax" in file else "{}"
        own = json.loads(text) if isinstance(text, str) else {}
        named = by_name(columns, path, wanted, own.get("features"), features=True)
        doubles = {new: old for new, old in zip(columns, raw, strict=True) if new != old}
        values = _element(file, key)
        kept = set(named.candidates)
        same, left = list[str](), [name for name in named.left_out if name not in obs]
        if doubles or left:
            read_now = (*left, *doubles, *doubles.values())
            found = np.concatenate(list(columns_of(slices(values), columns, read_now)))
            column = dict(zip(read_now, found.T, strict=True))
            for new, old in doubles.items():
                if np.array_equal(column[new], column[old], equal_nan=True):
                    same.append(new)
            for name in left:
                obs[name] = column[name]
    other = [name for name in doubles if name not in same]
    notes = (*noted("element", example=said), *noted("twice", same), *noted("renamed", other))

    def read(chosen: tuple[str, ...]) -> Blocks:
        with _open(path) as file:
            yield from columns_of(slices(_element(file, key)), columns, chosen)

    names = tuple(name for name in columns if name in kept and name not in same)
    return Source(path, obs, names, own.get("provenance", {}), read, named.notes + notes)


def _metadata(obs: "pd.DataFrame") -> "pd.DataFrame":
    """obs; the names of its rows are a column where they say something."""
    name = obs.index.name if obs.index.name not in (None, "index", "_index") else "obs_name"
    labels = obs.index.astype(str)
    if not labels.str.fullmatch(r"\d+(?:-\d+)*").all() and name not in obs:
        obs.insert(0, name, labels)
    return obs.reset_index(drop=True)


def _choose(file: Group, path: Path, wanted: Wanted) -> tuple[str, str]:
    """The array that holds the features, and how to say so where nobody named it."""
    layers, arrays = _keys(file, "layers"), _keys(file, "obsm")
    if wanted.layer is not None and wanted.obsm is not None:
        raise UserError(
            "`layer` and `obsm` are two arrays, of which one is the features. Name one."
        )
    for flag, group, name, there in (
        ("layer", "layers", wanted.layer, layers),
        ("obsm", "obsm", wanted.obsm, arrays),
    ):
        if name is not None and name not in there:
            raise UserError(
                f"{path} has no {flag} '{name}'.{did_you_mean(name, there)} It has:"
                f" {', '.join(there) or 'none'}."
            )
        if name is not None:
            return f"{group}/{name}", ""
    if "X" in file and _element(file, "X").shape[1]:
        return "X", ""
    large = [name for name in arrays if _element(file, f"obsm/{name}").shape[1] > PICTURE]
    usable = [("obsm", name) for name in large]
    usable += [("layer", name) for name in layers if _element(file, f"layers/{name}").shape[1]]
    if len(usable) == 1:
        flag, name = usable[0]
        return f"{'layers' if flag == 'layer' else flag}/{name}", f"{flag} {name}"
    if not usable:
        raise UserError(
            f"X of {path} is empty, and no layer and no array of obsm has more than {PICTURE}"
            f" columns (obsm: {', '.join(arrays) or 'none'}; layers: {', '.join(layers) or 'none'})"
            ", so that there are no features. Write it again with its features."
        )
    offered = ", ".join(f"`{flag}` {name}" for flag, name in usable)
    raise UserError(f"X of {path} is empty. Choose what the features are: {offered}.")


def _keys(file: Group, group: str) -> list[str]:
    return list(file[group].keys()) if group in file else []


def _names(file: Group, key: str) -> list[str]:
    """Of the columns of an array."""
    from anndata.io import read_elem

    if not key.startswith("obsm/"):
        return [str(name) for name in read_elem(file["var"]).index]
    element = _element(file, key)
    if hasattr(element, "columns"):
        return [str(name) for name in element.columns]
    name = key.removeprefix("obsm/").removeprefix("X_")
    return [f"{name}_{k}" for k in range(element.shape[1])]


def _element(file: Group, key: str) -> Any:
    """An array of an .h5ad that is sliced by rows: of HDF5, of SciPy, or a frame."""
    from anndata.io import read_elem, sparse_dataset

    element = file[key]
    kind = element.attrs.get("encoding-type", "")
    if kind == "csr_matrix":
        return sparse_dataset(element)
    if kind in ("", "array") and hasattr(element, "dtype"):
        return element
    element = read_elem(element)
    return element.tocsr() if hasattr(element, "tocsr") else element

"""DeepProfiler's features, a folder of one .npz a site: PLATE/WELL/SITE.npz, or PLATE/WELL_SITE.npz
as earlier versions wrote them. Each holds the features of its cells.

Plates, wells and sites are told by the paths. What else DeepProfiler knows of them is a pickle,
which may run any program when it is opened, and is left alone: give its index with --metadata.
"""

import re
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Num

from phenomjax.maps.tables.formats.objects import averaged
from phenomjax.maps.tables.sources import Blocks, Note, Source, Wanted, columns_of, damaged
from phenomjax.system.errors import UserError

WELL = re.compile(r"[A-Za-z]{1,2}\d{1,3}")
FLAT = re.compile(rf"({WELL.pattern})[_-](.+)")
ARRAY = "features"


def open_deep_profiler(path: Path, wanted: Wanted) -> Source:
    """Opens a folder of features; the cells of a well become one row, unless told to stay apart.

    Raises:
      UserError: a file that holds no features, or of another model than the first.
    """
    import pandas as pd

    files = sorted(path.rglob("*.npz"))
    shapes = {file: _shape(file) for file in files}
    full = [file for file in files if shapes[file][0]]
    if not full:
        raise UserError(f"{path}: its {len(files)} .npz files hold no cell. Profile them again.")
    dim = shapes[full[0]][1]
    if other := [file for file in full if shapes[file][1] != dim]:
        raise UserError(
            f"{full[0]} has {dim} features a cell and {other[0]} has {shapes[other[0]][1]}: they"
            " are of two models. Give the folder of one."
        )
    where = pd.DataFrame(
        [_place(file) for file in full],
        columns=["Metadata_Plate", "Metadata_Well", "Metadata_Site"],
    )
    cells = np.repeat(np.arange(len(full)), [shapes[file][0] for file in full])
    names = tuple(f"DP_{k}" for k in range(dim))  # as pycytominer calls them

    def cells_of(file: Path) -> Num[np.ndarray, "cells dim"]:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays[ARRAY].reshape(shapes[file])

    def read(chosen: tuple[str, ...]) -> Blocks:
        return columns_of(map(cells_of, full), names, chosen)

    # of each cell a number, not a text
    metadata = where.astype("category").iloc[cells].reset_index(drop=True)
    notes = (Note("sites", count=len(full)),)
    provenance = {"sources": [{"path": path.name, "files": len(full)}], "steps": []}
    source = Source(path, metadata, names, provenance, read, notes)
    if wanted.objects == "apart":
        return source
    return averaged(source, ["Metadata_Plate", "Metadata_Well"], wanted.objects)


def _shape(file: Path) -> tuple[int, int]:
    """Cells and features of a file, from the head of its array."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{ARRAY}.npy") as array:
            version = np.lib.format.read_magic(array)
            head = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
            shape, _, kind = (head or np.lib.format.read_array_header_2_0)(array)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise damaged(file, error) from None
    if kind.hasobject or not shape:
        raise UserError(
            f"{file} holds no array of numbers called '{ARRAY}', as DeepProfiler writes them."
        )
    return int(shape[0]), int(np.prod(shape[1:]))


def _place(file: Path) -> tuple[str, str, str]:
    """Plate, well and site that a path names."""
    plate, folder, site = file.absolute().with_suffix("").parts[-3:]
    match = FLAT.fullmatch(site)
    if match is not None and match[1] != folder:
        return folder, match[1], match[2]
    if WELL.fullmatch(folder):
        return plate, folder, site
    raise UserError(
        f"{file} does not say its plate, well and site: DeepProfiler calls it PLATE/WELL/SITE.npz"
        " or PLATE/WELL_SITE.npz, with wells as A01. Give such a folder."
    )
